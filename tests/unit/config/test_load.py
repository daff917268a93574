"""From a file and the environment to the frozen tree, or to every problem at once."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warden.config import load as load_module
from warden.config.load import DEPTH_MAX, PROBLEMS_MAX, SIZE_MAX, VALUES_MAX, Document, load, no_effect_yet, parse, read
from warden.config.tree import Config, Database, Redis
from warden.core.errors import ConfigError

HERE = Path(__file__).parent
GUIDE_ENVIRONMENT = {"DB_PASSWORD": "0123", "NODE_ID": "node2", "PUBLIC_IP": "192.168.1.11"}


NO_IP = "must be an IP address, for example 192.0.2.10 or 2001:db8::10"
UNREACHABLE = "must be an address that phones can reach; 0.0.0.0 means every address of this machine"


def said(text: str | bytes, **environ: str) -> Document[Config]:
    return parse(text.encode() if isinstance(text, str) else text, environ, Config, name="config.yml")


def problems(text: str | bytes, **environ: str) -> list[str]:
    return [problem.removeprefix("config.yml:") for problem in said(text, **environ).problems]


def test_without_a_file_or_with_an_empty_one_all_defaults_hold(tmp_path: Path) -> None:
    empty = tmp_path / "config.yml"
    for content in ("", "\n", "---\n", "# only a remark\n", "\ufeff# after a byte order mark\n"):
        empty.write_text(content, encoding="utf-8")
        assert load(empty, {}) == Config() == load(None, {})


def test_the_guides_node_configuration_loads_to_the_key() -> None:
    config = load(HERE / "guide-node.yml", GUIDE_ENVIRONMENT)
    assert config.database.host == "192.168.1.100"
    assert config.database.password is not None
    assert config.database.password.get_secret_value() == "0123"
    assert (config.database.pool_size, config.database.max_overflow) == (50, 100)
    assert config.redis.enabled
    assert config.redis.cluster
    assert [(node.host, node.port) for node in config.redis.nodes] == [
        ("192.168.1.10", 6379),
        ("192.168.1.11", 6379),
        ("192.168.1.12", 6379),
    ]
    assert config.high_availability.node_id == "node2"
    assert config.sip.advertise_address == config.rtp.advertise_address == "192.168.1.11"
    assert config.rtp.port_range == (10000, 20000)


def test_the_guides_cluster_and_pool_settings_load_to_the_key() -> None:
    cluster = load(HERE / "guide-cluster.yml", {}).high_availability
    assert (cluster.enabled, cluster.node_id, cluster.cluster_name) == (True, "node1", "pbx-production")
    assert (cluster.health_check_interval, cluster.health_check_timeout) == (10, 5)
    assert (cluster.failover_enabled, cluster.failover_timeout, cluster.auto_recovery) == (True, 30, True)
    assert cluster.state_sync.redis_cluster
    assert cluster.call_preservation.grace_period == 30
    assert cluster.registration_sync.sync_method == "redis"
    database = load(HERE / "guide-pool.yml", {}).database
    assert database.host is None
    assert (database.pool_pre_ping, database.pool_recycle) == (True, 3600)
    assert (database.connect_retry.max_attempts, database.connect_retry.retry_delay) == (5, 2)


def test_an_example_to_start_from_loads_and_names_every_section() -> None:
    document = read(HERE.parents[2] / "config.example.yml", {"DB_PASSWORD": "x", "PUBLIC_IP": "192.0.2.1"}, Config)
    assert document.problems == ()
    assert {key[0] for key in document.lines} | {"secret"} == set(Config.model_fields)


def test_a_variable_may_stand_anywhere_in_a_value_and_is_typed_after_substitution() -> None:
    config = said(
        'sip: {realm: "${SITE}.${DOMAIN:-example.org}"}\nhttp:\n  port: ${PORT}\n  bind_address: "${A}.${B}"\n',
        SITE="berlin",
        PORT="9100",
        A="127.0",
        B="0.2",
    ).config
    assert config.sip.realm == "berlin.example.org"
    assert config.http.port == 9100
    assert config.http.bind_address == "127.0.0.2"


def test_a_default_serves_for_a_variable_that_is_unset_or_empty_as_in_a_shell() -> None:
    text = "http:\n  port: ${PORT:-9001}\n"
    assert said(text).config.http.port == said(text, PORT="").config.http.port == 9001
    assert said(text, PORT="9002").config.http.port == 9002


def test_a_variable_without_value_is_an_error_and_never_an_empty_setting() -> None:
    text = "database:\n  host: db\n  password: ${DB_PASSWORD}\n"
    assert problems(text) == [
        "3: database.password: variable DB_PASSWORD is not set, and ${DB_PASSWORD} gives no default"
    ]
    assert problems(text, DB_PASSWORD="") == ["3: database.password: has no value (variable DB_PASSWORD is empty)"]


def test_dollar_dollar_brace_writes_a_plain_dollar_brace() -> None:
    password = said('database: {password: "a$${b}$c$"}').config.database.password
    assert password is not None
    assert password.get_secret_value() == "a${b}$c$"


def test_a_value_of_a_variable_is_not_looked_through_for_variables_again() -> None:
    password = said('database: {password: "${A}"}', A="${B}", B="wrong").config.database.password
    assert password is not None
    assert password.get_secret_value() == "${B}"


@pytest.mark.parametrize("reference", ["${", "${}", "${1A}", "${A-x}", "${A:-${B}}", "${A", "${A:x}"])
def test_a_variable_that_is_spelled_wrongly_is_an_error_and_not_a_text(reference: str) -> None:
    (problem,) = problems(f"sip:\n  realm: '{reference}'\n", A="a", B="b")
    assert problem.startswith("2: sip.realm: `${` starts no variable")


def test_a_variable_in_a_yaml_list_gets_the_hint_that_it_needs_quotes() -> None:
    (problem,) = problems("rtp:\n  port_range: [${LOW}, ${HIGH}]\n", LOW="1", HIGH="2")
    assert problem.startswith("2: is not YAML")
    assert "needs quotes" in problem
    config = said('rtp: {port_range: ["${LOW}", "${HIGH}"]}', LOW="12000", HIGH="12999").config
    assert config.rtp.port_range == (12000, 12999)


def test_a_problem_that_comes_from_a_variable_names_it_and_not_its_value() -> None:
    (problem,) = problems("http:\n  port: ${SECRET}\n", SECRET="hunter2")
    assert problem == "2: http.port: must be a whole number (it comes from variable SECRET)"


def test_yaml_does_not_guess_types() -> None:
    config = said("database: {name: 010, user: no, password: 1_000}\nhigh_availability: {node_id: 1e3}\n").config
    assert (config.database.name, config.database.user, config.high_availability.node_id) == ("010", "no", "1e3")
    assert config.database.password is not None
    assert config.database.password.get_secret_value() == "1_000"


def test_all_problems_are_told_at_once_each_with_its_line_and_key() -> None:
    text = """\
sip:
  bind_prot: 5060
  bind_port: five
  bind_port: 5061
  tls: {enabled: true}
redis:
  nodes:
    - host: redis1
    - port: 6379
http: {port: 70000}
rtp:
  port_range: [20000, 10000]
  orphan_timeout:
secret: ${NOPE}
log:
  level: loud
Log: {}
"""
    assert problems(text) == [
        "2: sip.bind_prot: unknown key; did you mean bind_port?",
        "3: sip.bind_port: must be a whole number",
        "4: sip.bind_port: given twice, first in line 3",
        "5: sip.tls.certificates: must name at least one certificate while sip.tls is enabled",
        "9: redis.nodes[1].host: is missing",
        "10: http.port: must be at most 65535",
        "12: rtp.port_range: must be [first, last] with first below last, not [20000, 10000]",
        "13: rtp.orphan_timeout: has no value; remove the key or give it one",
        "14: secret: variable NOPE is not set, and ${NOPE} gives no default",
        "16: log.level: must be debug, info, warning or error",
        "17: Log: unknown key; did you mean log?",
    ]
    with pytest.raises(ConfigError) as caught:
        load(HERE / "guide-node.yml", {})
    assert len(caught.value.problems) == 4
    assert all(str(HERE / "guide-node.yml") in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("transports: [udp]", "1: transports: unknown key; did you mean sip.transports?"),
        ("sip: {max_duration: 3}", "1: sip.max_duration: unknown key; did you mean sip.call.max_duration?"),
        ("sip: {xyzzy: 3}", "1: sip.xyzzy: unknown key"),
        ("sip: [udp]", "1: sip: must be a section of keys"),
        ("sip: udp", "1: sip: must be a section of keys"),
        ("sip: null", "1: sip: has no value"),
        ("sip: {realm: {a: b}}", "1: sip.realm: must be a text, not a list or section"),
        ("sip: {realm: ''}", "1: sip.realm: must be 1 to 127 letters, digits, spaces or any of . _ @ -"),
        ("sip: {realm: 'a\"b'}", "1: sip.realm: must be 1 to 127 letters, digits, spaces or any of . _ @ -"),
        ("sip: {transports: [udp, sctp]}", "1: sip.transports[1]: must be udp or tcp"),
        ("sip: {transports: udp}", "1: sip.transports: must be a list"),
        ("sip: {bind_port: 5060.5}", "1: sip.bind_port: must be a whole number"),
        ("sip: {bind_address: eth0}", f"1: sip.bind_address: {NO_IP}"),
        ("sip: {bind_address: 300.1.1.1}", f"1: sip.bind_address: {NO_IP}"),
        ("rtp: {advertise_address: 0.0.0.0}", f"1: rtp.advertise_address: {UNREACHABLE}"),
        ("rtp: {port_range: [10000]}", "1: rtp.port_range[1]: is missing"),
        ("rtp: {port_range: [10000, 10100, 10200]}", "1: rtp.port_range: must have at most 2 items"),
        ("http: {port: 0}", "1: http.port: must be at least 1"),
        (
            "high_availability: {seats: [{name: a, address: 192.0.2.1, successors: []}]}",
            "1: high_availability.seats[0].successors: is empty; it must name at least 1",
        ),
        (
            "high_availability: {seats: [{name: a, address: 192.0.2.1}]}",
            "1: high_availability.seats[0].successors: is missing",
        ),
        ("redis: {enabled: maybe}", "1: redis.enabled: must be true or false"),
        ("high_availability: {failover_timeout: .inf}", "1: high_availability.failover_timeout: must be a number"),
        ("high_availability: {failover_timeout: 1e9}", "1: high_availability.failover_timeout: must be at most 86400"),
        (
            "high_availability: {failover_timeout: nan}",
            "1: high_availability.failover_timeout: must be a finite number",
        ),
        ("secret: short", "1: secret: must be 16 to 255 characters long"),
        ('data_dir: "\\ud800"', "1: data_dir: must be text, without NUL characters and halves of characters"),
        ('data_dir: "\\0"', "1: data_dir: must be text, without NUL characters and halves of characters"),
    ],
)
def test_a_wrong_value_is_explained(text: str, problem: str) -> None:
    assert problems(text) == [problem]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- sip\n", "1: must be sections of keys, for example `sip:`"),
        ("just a text\n", "1: must be sections of keys, for example `sip:`"),
        ("sip: {}\n---\nrtp: {}\n", "2: a second document starts here; one file holds one"),
        ("sip: &a {}\nrtp: *a\n", "2: an alias (*) is not used here; write the value out"),
        (
            "sip: !!python/object:os.system {}\n",
            "1: a tag (tag:yaml.org,2002:python/object:os.system) is not used here",
        ),
        ("? [a, b]\n: c\n", "1: a key must be a plain word"),
        (b"sip: {}\n# caf\xe9\n", "2: is not UTF-8 text"),
        ("sip: {}\nrtp: \x01\n", "2: holds a character that YAML does not allow (code 1)"),
    ],
)
def test_what_is_no_configuration_at_all_is_refused_with_its_line(text: str | bytes, problem: str) -> None:
    assert problems(text) == [problem]


def test_yaml_errors_are_told_in_one_line() -> None:
    (problem,) = problems("sip:\n  realm: 'open\n")
    assert problem.startswith("3: is not YAML: while scanning a quoted scalar")
    assert "\n" not in problem
    assert said('sip: {realm: "\\UFFFFFFFF"}').problems == (
        "config.yml: is not YAML: holds a number or an escape out of range",
    )


def test_the_work_that_a_wrong_file_can_cost_is_bounded() -> None:
    assert said(b"#" * (SIZE_MAX + 1)).problems == (f"config.yml: is larger than {SIZE_MAX} bytes",)
    assert problems("a: " + "[" * 100_000) == [f"1: is nested deeper than {DEPTH_MAX} levels"]
    many = said("".join(f"k{i}: 1\n" for i in range(VALUES_MAX + 1))).problems
    assert many == (f"config.yml:{VALUES_MAX}: holds more than {VALUES_MAX} values",)
    some = said("".join(f"k{i}: 1\n" for i in range(PROBLEMS_MAX + 5))).problems
    assert some[-1] == "config.yml: and 5 more problems"
    assert len(some) == PROBLEMS_MAX + 1


def test_a_file_that_cannot_be_read_is_a_problem_like_any_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yml: cannot be read: no such file or directory"):
        load(tmp_path / "missing.yml", {})
    with pytest.raises(ConfigError, match="cannot be read: is a directory"):
        load(tmp_path, {})
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        load(Path("a\0b"), {})
    endless = tmp_path / "endless.yml"
    endless.symlink_to("/dev/zero")
    assert stat.S_ISCHR(os.stat(endless).st_mode)  # noqa: PTH116
    with pytest.raises(ConfigError, match="is larger than"):
        load(endless, {})


@given(st.binary(max_size=200) | st.text(alphabet="sip:rt{}[]$-#&*!|>'\"\n x1,?%@`", max_size=200).map(str.encode))
def test_no_file_whatever_makes_the_reader_raise(data: bytes) -> None:
    document = parse(data, {"x": "1"}, Config, name="config.yml")
    assert all(problem.startswith("config.yml") for problem in document.problems)


def test_keys_whose_feature_comes_later_are_told_where_the_file_sets_them() -> None:
    document = read(HERE / "guide-node.yml", GUIDE_ENVIRONMENT, Config)
    name = HERE / "guide-node.yml"
    lease = "high_availability.lease_ttl (or keepalived) decides how soon a node that is gone is replaced"
    instead = f"accepted, but has no effect: {lease}"
    assert no_effect_yet(document) == [
        f"{name}:28: high_availability.health_check_interval: {instead}",
        f"{name}:29: high_availability.failover_timeout: {instead}",
    ]
    has_effect = "{enabled: true, lease_ttl: 2, coordinator: redis, call_preservation: {grace_period: 5}}"
    assert no_effect_yet(said(f"high_availability: {has_effect}")) == []
    assert no_effect_yet(said("high_availability: {registration_sync: {sync_method: redis}}")) == [
        "config.yml:1: high_availability.registration_sync.sync_method: accepted, but has no effect yet"
    ]
    assert no_effect_yet(said("sip: {realm: x}")) == []


def test_every_key_that_comes_later_is_a_key_of_the_tree() -> None:
    for path in (*load_module.LATER, *load_module.INSTEAD):
        value: object = Config()
        for part in path.split("."):
            value = getattr(value, part)


def test_secrets_are_never_printed() -> None:
    config = said('secret: "0123456789abcdef"\ndatabase: {password: hunter2}').config
    for text in (repr(config), str(config), repr(config.database), str(config.database.password), str(config.secret)):
        assert "hunter2" not in text
        assert "0123456789abcdef" not in text
    assert str(config.secret) == "***"
    assert not any("hunter" in problem for problem in problems("database: {password: [hunter2], port: hunter3}"))


def test_nothing_in_the_tree_can_be_changed() -> None:
    config = Config()
    with pytest.raises(ValueError, match="frozen"):
        config.database.port = 1
    assert hash(config) == hash(Config(database=Database(), redis=Redis()))
