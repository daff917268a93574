"""Starting, stopping and refusing to start, as an operator sees it."""

import asyncio
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from warden.core.address import Address
from warden.ops.softphone import Refused, Softphone
from warden.phone.events import By

from pbx import Pbx, password_of

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def pbx(tmp_path: Path) -> Iterator[Pbx]:
    made = Pbx(tmp_path)
    try:
        yield made
    finally:
        made.close()


def refusal(pbx: Pbx) -> str:
    """What a node says that does not start."""
    done = pbx.run("serve")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr.strip()


def test_a_second_node_on_the_same_folder_is_refused_and_told_who_has_it(pbx: Pbx) -> None:
    pbx.start()
    assert pbx.process is not None
    said = refusal(pbx)
    assert str(pbx.data) in said
    assert str(pbx.process.pid) in said
    assert pbx.process.poll() is None


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_taken_sip_port_is_named_with_the_process_that_has_it(pbx: Pbx, kind: socket.SocketKind) -> None:
    with closing(socket.socket(socket.AF_INET, kind)) as taken:
        taken.bind(("127.0.0.1", pbx.sip_port))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        said = refusal(pbx)
    assert f"127.0.0.1:{pbx.sip_port}" in said
    assert str(os.getpid()) in said
    assert pbx.media_pid is None


def test_a_taken_http_port_is_named_too(pbx: Pbx) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", pbx.http_port))
        taken.listen()
        assert f"127.0.0.1:{pbx.http_port}" in refusal(pbx)


def test_a_data_folder_that_cannot_be_made_is_named(pbx: Pbx) -> None:
    pbx.data.write_text("a file is in the way")
    assert str(pbx.data) in refusal(pbx)
    pbx.data.unlink()


def test_a_damaged_state_file_is_named(pbx: Pbx) -> None:
    pbx.data.mkdir()
    (pbx.data / "state.sqlite").write_bytes(b"no database at all" * 100)
    assert "state.sqlite" in refusal(pbx)


def test_a_state_file_of_a_newer_version_is_named(pbx: Pbx) -> None:
    pbx.data.mkdir(mode=0o700)
    with closing(sqlite3.connect(pbx.data / "state.sqlite")) as newer:
        newer.execute("PRAGMA user_version = 1000")
    said = refusal(pbx)
    assert "state.sqlite: its schema 1000 is newer" in said
    assert said.count("\n") == 0


def test_all_files_of_a_node_are_for_its_owner_only(pbx: Pbx) -> None:
    loose = os.umask(0o022)
    try:
        pbx.start()
    finally:
        os.umask(loose)
    made = {path.name: path.stat().st_mode & 0o777 for path in pbx.data.iterdir()}
    assert {"warden.sqlite", "state.sqlite", "state.sqlite-wal", "state.sqlite-shm"} <= made.keys()
    assert {name: mode for name, mode in made.items() if mode & 0o077} == {}


def test_a_log_for_programs_is_json_in_every_line_and_nonsense_on_the_http_port_is_not_in_it(tmp_path: Path) -> None:
    pbx = Pbx(tmp_path, config="log: {format: json}\n")
    pbx.data.mkdir(mode=0o755)
    pbx.data.chmod(0o755)
    try:
        pbx.start()
        for _ in range(5):
            with closing(socket.create_connection(("127.0.0.1", pbx.http_port), timeout=10)) as stranger:
                stranger.sendall(b"\x16\x03\x01 no http at all\r\n\r\n")
                while stranger.recv(4096):
                    pass
    finally:
        pbx.close()
    lines = [json.loads(line) for line in pbx.stderr.read_text().splitlines()]
    assert any(line["event"] == "data folder may be read by others" for line in lines)
    assert not any("Invalid HTTP request" in line["event"] for line in lines)


def test_every_mistake_in_the_settings_is_told_at_once(pbx: Pbx) -> None:
    pbx.file.write_text("sip: {bind_prot: 5060}\nrtp: {port_range: [9, 8]}\n")
    done = pbx.run("serve")
    assert done.returncode == 2
    assert "bind_port" in done.stderr
    assert "rtp.port_range" in done.stderr


def test_the_first_start_of_make_run_makes_two_phones_and_later_ones_do_not(pbx: Pbx) -> None:
    pbx.process = subprocess.Popen(
        pbx.command("serve", "--starter"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert pbx.process.stdout is not None
    said = []
    for line in pbx.process.stdout:
        said.append(line)
        if line == "warden: ready\n":
            break
    text = "".join(said)
    passwords = [line.split()[-1] for line in said if "password" in line and "user" in line]
    assert "user 1001" in text
    assert "user 1002" in text
    assert len(set(passwords)) == 2

    async def register() -> None:
        async with Softphone("1001", passwords[0], Address("127.0.0.1", pbx.sip_port)) as phone:
            await phone.register()

    asyncio.run(register())
    assert passwords[0] not in "".join(
        path.read_bytes().decode("latin-1") for path in pbx.data.iterdir() if path.is_file()
    )
    pbx.kill(signal.SIGTERM)
    pbx.start()
    listed = pbx.run("extension", "list", "--json")
    assert [x["number"] for x in json.loads(listed.stdout)] == ["1001", "1002"]


def test_extensions_are_made_changed_and_removed_while_the_node_runs(pbx: Pbx) -> None:
    pbx.start()
    done = pbx.run("extension", "add", "2001", "--name", "Ada", "--password-stdin", input="first-secret\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert pbx.run("extension", "add", "2001", "--password-stdin", input="first-secret\n").returncode == 1
    assert pbx.run("extension", "add", "2002", "--password-stdin", input="short\n").returncode == 1

    async def can_register(password: str) -> bool:
        async with Softphone("2001", password, Address("127.0.0.1", pbx.sip_port)) as phone:
            try:
                await phone.register()
            except Exception:
                return False
            return True

    async def until(password: str, wanted: bool) -> None:
        async with asyncio.timeout(20):
            while await can_register(password) is not wanted:
                await asyncio.sleep(0.1)  # The node looks at the directory twice a second.

    asyncio.run(until("first-secret", True))
    assert pbx.run("extension", "passwd", "2001", "--password-stdin", input="second-secret\n").returncode == 0
    asyncio.run(until("second-secret", True))
    asyncio.run(until("first-secret", False))
    assert pbx.run("extension", "remove", "2001").returncode == 0
    asyncio.run(until("second-secret", False))
    assert pbx.run("extension", "remove", "2001").returncode == 1


async def test_phones_that_know_better_than_md5_are_asked_for_it_where_the_operator_wants(tmp_path: Path) -> None:
    pbx = Pbx(tmp_path, sip="  digest_algorithms: [SHA-512-256, SHA-256, MD5]\n")
    try:
        await asyncio.to_thread(pbx.add_extensions, "1001")
        await asyncio.to_thread(pbx.start)
        async with Softphone("1001", password_of("1001"), Address("127.0.0.1", pbx.sip_port)) as phone:
            await phone.register()
            echo = phone.call("*43")
            await echo.answered()
            assert await echo.hears(440)
            await echo.hang_up()
    finally:
        await asyncio.to_thread(pbx.close)


async def test_calls_go_on_while_nothing_can_be_written_and_health_says_what_is_not_stored(pbx: Pbx) -> None:
    await asyncio.to_thread(pbx.add_extensions, "1001", "1002")
    await asyncio.to_thread(pbx.start)
    assert pbx.process is not None
    server = Address("127.0.0.1", pbx.sip_port)
    health = f"http://127.0.0.1:{pbx.http_port}/health"
    async with (
        httpx.AsyncClient() as http,
        Softphone("1001", password_of("1001"), server) as caller,
        Softphone("1002", password_of("1002"), server, tone_hz=880, answers_after_s=0.0) as callee,
    ):
        await caller.register()
        await callee.register()
        before = caller.call("1002")
        await before.answered()

        # No file of the node can grow any more: what a full disk is, without filling one.
        pid = pbx.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        during = callee.call("1001")
        incoming = await caller.next_call()
        await incoming.answer()
        await during.answered()
        assert await during.hears(440)
        async with asyncio.timeout(20):
            while not (said := (await http.get(health)).json()["not_stored"]):
                await asyncio.sleep(0.05)  # The page is asked, it does not call.
        assert any("call state" in line for line in said)
        assert (await http.get(health)).status_code == 200
        await before.hang_up()

        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        async with asyncio.timeout(30):
            while (await http.get(health)).json()["not_stored"]:
                await asyncio.sleep(0.05)
        await during.hang_up()
    assert len(await asyncio.to_thread(pbx.cdrs, 2)) == 2
    assert "Traceback" not in pbx.stderr.read_text()


def test_strangers_who_sit_on_the_http_port_do_not_make_the_node_unhealthy(pbx: Pbx) -> None:
    pbx.start()
    sitting = [socket.create_connection(("127.0.0.1", pbx.http_port), timeout=20) for _ in range(300)]
    try:
        # Another address, as a load balancer has: the strangers' own share is used up.
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=transport, timeout=20) as balancer:
            assert balancer.get(f"http://127.0.0.1:{pbx.http_port}/health").status_code == 200
        # Nobody may sit there in silence: the server ends each of them.
        for connection in sitting:
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    finally:
        for connection in sitting:
            connection.close()


async def test_a_media_process_that_hangs_is_replaced_and_nobody_is_answered_into_silence(pbx: Pbx) -> None:
    await asyncio.to_thread(pbx.add_extensions, "1001")
    await asyncio.to_thread(pbx.start)
    health = f"http://127.0.0.1:{pbx.http_port}/health"
    hung = pbx.media_pid
    assert hung is not None
    async with httpx.AsyncClient() as http, Softphone("1001", password_of("1001"), pbx.sip_address) as phone:
        await phone.register()
        before = phone.call("*43")
        await before.answered()
        assert await before.hears(440)
        os.kill(hung, signal.SIGSTOP)
        async with asyncio.timeout(60):
            while (await http.get(health)).status_code == 200:
                await asyncio.sleep(0.05)  # The page is asked, it does not call.
        with pytest.raises(Refused) as refused:
            await phone.call("*43").answered()
        assert refused.value.status == 503
        async with asyncio.timeout(60):
            while (await http.get(health)).status_code != 200:
                await asyncio.sleep(0.05)
        assert pbx.media_pid not in (None, hung)
        # The call that was up has its voice back.
        before.listener.forget()
        assert await before.hears(440, timeout_s=20)
        await before.hang_up()


async def test_a_prompt_that_ended_while_nobody_listened_still_ends_its_call(pbx: Pbx) -> None:
    await asyncio.to_thread(pbx.add_extensions, "1001")
    await asyncio.to_thread(pbx.start)
    async with Softphone("1001", password_of("1001"), pbx.sip_address) as phone:
        await phone.register()
        clock = phone.call("*60")
        await clock.answered()
        async with asyncio.timeout(30):
            while clock.listener.packets < 10:
                await asyncio.sleep(0.02)  # Packets come by the clock.
        await asyncio.to_thread(pbx.kill)
        async with asyncio.timeout(60):
            while clock.listener.silence_ms(time.time()) < 1000:
                await asyncio.sleep(0.1)  # The prompt ends by the clock.
        await asyncio.to_thread(pbx.start)
        assert (await clock.ended()).by is By.PEER


def test_a_node_starts_with_the_directory_it_knew_while_the_database_is_away(pbx: Pbx) -> None:
    pbx.add_extensions("1001")
    pbx.start()
    pbx.kill(signal.SIGTERM)
    (pbx.data / "warden.sqlite").rename(pbx.data / "away")
    (pbx.data / "warden.sqlite").mkdir()
    pbx.start()

    async def register() -> None:
        async with Softphone("1001", password_of("1001"), pbx.sip_address) as phone:
            await phone.register()

    asyncio.run(register())
    health = httpx.get(f"http://127.0.0.1:{pbx.http_port}/health", timeout=20)
    assert health.status_code == 200
    assert any("directory" in line for line in health.json()["not_stored"])
