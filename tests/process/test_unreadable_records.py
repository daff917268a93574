"""A record that no node can read: the others live on, and its operator is told until somebody has looked at it."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from warden.ops.softphone import Softphone
from warden.store.local import LocalStore
from warden.store.ports import Kind, Write

from pbx import Pbx, password_of


@pytest.fixture
def pbx(tmp_path: Path) -> Iterator[Pbx]:
    pbx = Pbx(tmp_path)
    try:
        yield pbx
    finally:
        pbx.close()


async def test_a_record_that_cannot_be_read_costs_itself_only_and_is_shown(pbx: Pbx) -> None:
    await asyncio.to_thread(pbx.add_extensions, "1001", "1002")
    await asyncio.to_thread(pbx.start)
    async with (
        Softphone("1001", password_of("1001"), pbx.sip_address) as ann,
        Softphone("1002", password_of("1002"), pbx.sip_address, tone_hz=880, answers_after_s=0) as bob,
    ):
        await ann.register()
        await bob.register()
        line = ann.call("1002")
        await line.answered()
        status = await asyncio.to_thread(pbx.status)
        seat = str(status["seat"])
        await asyncio.to_thread(pbx.kill)
        store = LocalStore(pbx.data / "state.sqlite")
        kinds = (Kind.CALL, Kind.BINDING, Kind.OUTBOX)
        epoch = await store.claim(seat, "a test")
        await store.write(seat, epoch, [Write(kind, "1009", b"\xc1 nonsense") for kind in kinds])
        await store.close()

        await asyncio.to_thread(pbx.start)
        await asyncio.to_thread(pbx.wait_for_log, "adopted 1 calls and 2 registered numbers")
        assert "2 records could not be read" in pbx.stderr.read_text()
        await asyncio.to_thread(pbx.wait_for_log, "kind=outbox")
        told = f"seat {seat}: 3 records could not be read and are kept aside (warden records)"
        assert told in str((await asyncio.to_thread(pbx.status))["warnings"])
        done = await asyncio.to_thread(pbx.run, "records", "--json")
        assert done.returncode == 0, done.stderr
        rows = msgspec.json.decode(done.stdout)
        assert sorted((row["seat"], row["kind"], row["key"]) for row in rows) == sorted(
            (seat, kind.value, "1009") for kind in kinds
        )
        assert "1009" in (await asyncio.to_thread(pbx.run, "records")).stdout
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"http://127.0.0.1:{pbx.http_port}/metrics")).text
        assert "pbx_records_unreadable_total 3.0" in metrics
        assert await line.hears(880)
        await line.hang_up()

        # The next process meets them no more.
        began = len(pbx.stderr.read_text())
        await asyncio.to_thread(pbx.kill, signal.SIGTERM)
        await asyncio.to_thread(pbx.start)
        assert "could not be read" not in pbx.stderr.read_text()[began:]
        assert told in str((await asyncio.to_thread(pbx.status))["warnings"])
    assert len(await asyncio.to_thread(pbx.cdrs, 1)) == 1
