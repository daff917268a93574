"""The files of every host: as they were, the same each time, and nothing lost on the way to the disk."""

import json
import stat
from pathlib import Path

import pytest

from warden.core.errors import ConfigError
from warden.ops.ha.folder import differences, write
from warden.ops.ha.inventory import Option, regions_of
from warden.ops.ha.render import redis_order, render
from warden.ops.ha.secret_values import Secrets, secrets_of
from warden.ops.ha.starter import starter
from warden.store.redis_servers import SLOTS, key_slot

from ha_clusters import GOLDEN, OPTIONS, SECRETS, as_text, cluster_of, rendered


@pytest.mark.parametrize("option", OPTIONS)
def test_every_file_is_as_it_was(option: Option) -> None:
    # `make golden` writes them anew: look at the difference before it is committed.
    assert as_text(rendered(option)) == (GOLDEN / f"{option}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("option", OPTIONS)
def test_passwords_are_in_no_file_that_others_may_read(option: Option) -> None:
    for folder, files in rendered(option).items():
        for path, file in files.items():
            if SECRETS.hide(file.text) != file.text:
                assert file.mode & 0o007 == 0, f"{folder}/{path}"


def test_five_nodes_have_five_seats_and_three_of_them_the_data() -> None:
    made = render(cluster_of(starter("active-active", 1000)), SECRETS)
    assert [name for name, files in made.items() if "etc/patroni/config.yml" in files] == ["pbx1", "pbx2", "pbx3"]
    priorities = {
        host: [
            line.split()[1]
            for line in files["etc/keepalived/keepalived.conf"].text.splitlines()
            if line.strip().startswith("priority")
        ]
        for host, files in made.items()
        if host != "dns"
    }
    # Five seats, and the balancer's address: no two hosts have the same priority for any.
    assert all(len(set(column)) == 5 for column in zip(*priorities.values(), strict=True))


def test_what_is_done_once_is_done_where_etcd_is_also_behind_a_host_that_only_watches() -> None:
    watch = "hosts:\n  - {name: watch, address: 192.168.1.20, roles: [monitor]}\n"
    made = render(cluster_of(starter("active-active").replace("hosts:\n", watch)), SECRETS)
    assert [name for name, files in made.items() if "usr/local/sbin/pbx-bootstrap" in files] == ["pbx1"]


def test_what_is_written_twice_is_the_same_and_a_difference_is_shown_without_passwords(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = rendered("active-active")
    assert len(write(made, out)) == sum(len(files) for files in made.values())
    assert write(made, out) == []
    assert list(differences(made, out, SECRETS)) == []
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert stat.S_IMODE((out / "pbx1/etc/warden/environment").stat().st_mode) == 0o600

    changed = Secrets(*(f"{name}-another-secret" for name in Secrets.__struct_fields__))
    text = starter("active-active").replace("sip_port", "").replace("example.com", "example.org")
    lines = list(differences(render(cluster_of(text), changed), out, changed))
    assert "-  realm: example.com" in lines
    assert "+  realm: example.org" in lines
    assert not any("another-secret" in line for line in lines)


def test_files_that_are_made_no_more_are_removed_and_those_of_others_stay(tmp_path: Path) -> None:
    made = rendered("active-active")
    write(made, tmp_path)
    (tmp_path / "pbx1/etc/old.conf").write_text("of a former version")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("the operator's own")
    assert write(made, tmp_path) == ["pbx1/etc/old.conf"]
    assert (tmp_path / "notes/mine.txt").exists()


def test_secrets_are_made_once_and_kept_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "cluster.secrets.json"
    first = secrets_of(path)
    assert secrets_of(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len({getattr(first, name) for name in Secrets.__struct_fields__}) == len(Secrets.__struct_fields__)
    assert all(len(getattr(first, name)) >= 32 for name in Secrets.__struct_fields__)
    assert first.warden not in repr(first)

    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read the cluster's passwords; run: chmod 600"):
        secrets_of(path)
    path.chmod(0o600)
    path.write_text('{"warden": "x"}')
    with pytest.raises(ConfigError, match="missing required field"):
        secrets_of(path)


def test_secrets_of_an_earlier_version_get_what_they_lack_and_keep_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "cluster.secrets.json"
    first = secrets_of(path)
    later = {"arbiter_root", "arbiter_warden"}
    old = {name: value for name, value in json.loads(path.read_text()).items() if name not in later}
    path.write_text(json.dumps(old))
    second = secrets_of(path)
    assert {name: getattr(second, name) for name in old} == old
    assert {len(getattr(second, name)) for name in later} == {len(first.arbiter_root)}
    assert {getattr(first, name) for name in later}.isdisjoint({getattr(second, name) for name in later})
    assert secrets_of(path) == second
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match=r"file.*cannot be written: (file exists|not a directory)"):
        write(rendered("active-passive"), tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("option", OPTIONS)
def test_a_seats_calls_are_kept_at_first_on_another_host_than_the_one_that_carries_them(option: Option) -> None:
    for cluster in regions_of(cluster_of(starter(option))):
        order = redis_order(cluster)
        assert sorted(host.name for host in order) == [host.name for host in cluster.hosts_with("redis")]
        for seat in cluster.seats:
            share = key_slot(seat.name) * len(order) // SLOTS if cluster.has_cluster_redis else 0
            assert order[share].name != seat.successors[0]


@pytest.mark.parametrize("option", OPTIONS)
def test_without_a_certificate_there_is_no_word_of_tls_and_none_of_websocket_without_a_port(option: Option) -> None:
    lines = starter(option).splitlines()
    text = "\n".join(line for line in lines if not line.startswith(("sip_tls:", "websocket:")))
    made = as_text(render(cluster_of(text), SECRETS))
    assert "dport 5061" in as_text(rendered(option))
    assert not any(word in made for word in ("dport 5061", ":5061", "SIPS", "_sips", "sip.pem", "5066", "7443"))


@pytest.mark.parametrize(
    ("users", "all_in_all", "browsers"), [(1, 4000, 502), (500, 4000, 1500), (10_000, 42_000, 20_500)]
)
def test_haproxy_has_room_for_the_phones_of_all_users(users: int, all_in_all: int, browsers: int) -> None:
    file = render(cluster_of(starter("active-active", users)), SECRETS)["pbx1"]["etc/haproxy/haproxy.cfg"].text
    rooms = [line.split()[1] for line in file.splitlines() if line.split()[:1] == ["maxconn"]]
    assert rooms == [str(all_in_all), str(browsers)]


@pytest.mark.parametrize("option", OPTIONS)
def test_audio_is_tracked_in_neither_direction_where_calls_are(option: Option) -> None:
    cluster = cluster_of(starter(option))
    with_calls = {host.name for host in cluster.hosts_with("pbx")}
    made = {name: files["etc/nftables.conf"].text for name, files in rendered(option).items() if name != "dns"}
    for ends in ("udp dport 10000-20000 notrack", "udp sport 10000-20000 notrack"):
        assert {name for name, text in made.items() if ends in text} == with_calls


def test_redis_has_a_limit_that_an_alert_can_be_told_of() -> None:
    for more, limit in (("", "maxmemory 512mb\n"), ("redis_memory_mb: 100\n", "maxmemory 100mb\n")):
        files = render(cluster_of(starter("active-active") + more), SECRETS)["pbx1"]
        assert all(limit in files[f"etc/redis/redis-{port}.conf"].text for port in (6379, 6380))


@pytest.mark.parametrize("option", OPTIONS)
def test_keepalived_and_warden_find_their_folder_as_wardens_unit_would_make_it(option: Option) -> None:
    for name, files in rendered(option).items():
        if "etc/keepalived/keepalived.conf" not in files or "etc/warden/config.yml" not in files:
            assert "etc/tmpfiles.d/pbx.conf" not in files, name
            continue
        lines = files["etc/tmpfiles.d/pbx.conf"].text.splitlines()
        unit = files["etc/systemd/system/pbx.service"].text
        assert "\nUser=warden\nGroup=warden\n" in unit
        assert "\nRuntimeDirectory=warden\n" in unit
        assert "RuntimeDirectoryMode" not in unit, "which is 0755 then"
        assert "d /run/warden 0755 warden warden -" in lines
        assert "vrrp_notify_fifo /run/warden/vrrp.fifo\n" in files["etc/keepalived/keepalived.conf"].text
        assert "p /run/warden/vrrp.fifo 0600 warden warden -" in lines
