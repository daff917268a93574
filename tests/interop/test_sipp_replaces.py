"""A SIPp phone that accepts no re-INVITE from the region that takes over, and takes its INVITE with Replaces."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from warden.call.cdr import Party, Result
from warden.core.address import Address
from warden.ops.softphone import Softphone
from warden.sip.message import Request
from warden.sip.parser import parse_message

from pbx import free_ports, password_of
from region_lab import TwoRegions
from sipp_process import Sipp
from sipp_scenario import Script, sdp

pytestmark = pytest.mark.timeout(240)


def refuses_re_invites(west: Address, other: Script) -> Script:
    """A callee's script until it has refused one; `other` is what it does in the call that is to take its place."""
    return (
        Script("stubborn", "1002")
        .expects_request("INVITE")
        .or_else("Replaces", other)
        .replies(180)
        .replies(200, sdp())
        .expects_request("ACK")
        .expects_request("INVITE")
        .turns_to(*west)
        .replies(488)
        .expects_request("ACK")
    )


def takes_another_call_instead(west: Address) -> Script:
    """The other call ends the first, and is held and ended by the other side."""
    other = (
        Script("other", "1002")
        .replies(200, sdp())
        .expects_request("ACK")
        .expects_request("INVITE", says="a=sendonly")
        .replies(200, sdp("recvonly", version=2))
        .expects_request("ACK")
        .expects_request("BYE")
        .replies(200, to="BYE")
    )
    return refuses_re_invites(west, other).pauses(500).requests("BYE").expects(200)


def takes_none(west: Address) -> Script:
    other = Script("other", "1002").replies(420).expects_request("ACK")
    return refuses_re_invites(west, other).expects_request("BYE").replies(200, to="BYE")


@pytest.fixture
async def regions(tmp_path: Path) -> AsyncIterator[TwoRegions]:
    regions = await asyncio.to_thread(TwoRegions, tmp_path)
    try:
        await asyncio.to_thread(regions.nodes["east1"].add_extensions, "1001", "1002")
        await asyncio.to_thread(regions.start)
        await asyncio.to_thread(regions.nodes["west1"].wait_for_log, "seat main of the other region is followed")
        yield regions
        assert "Traceback" not in regions.logs()
    finally:
        await asyncio.to_thread(regions.close)


async def stubborn_phone(regions: TwoRegions, folder: Path, script: Script) -> Sipp:
    """Registered in the east; it says to whoever speaks what it hears."""
    port, rtp = free_ports(2)
    phone = await asyncio.to_thread(Sipp.start, folder / "phone", script, port, "-mp", str(rtp), "-rtp_echo", calls=2)
    east = regions.seat("east")
    registers = Script("register", "1002").registers(str(port)).expects(200)
    registration = await asyncio.to_thread(
        Sipp.start, folder / "register", registers, free_ports(1)[0], to_host=east.host, to_port=east.port
    )
    seen = await asyncio.to_thread(registration.seen)
    assert seen.is_flawless, seen.report
    return phone


def invites_to(phone: Sipp) -> list[Request]:
    """What SIPp has received, each once, from its own log."""
    texts = re.findall(r"UDP message received \[\d+\] bytes :\n\n(INVITE .*?\n)-{20,}", phone.messages(), re.DOTALL)
    messages = [parse_message(text.replace("\r\n", "\n").replace("\n", "\r\n").encode()) for text in texts]
    return list({(m.call_id, m.cseq): m for m in messages if isinstance(m, Request)}.values())


async def test_a_phone_that_refuses_a_re_invite_goes_on_in_another_call(regions: TwoRegions, tmp_path: Path) -> None:
    phone = await stubborn_phone(regions, tmp_path, takes_another_call_instead(regions.seat("west")))
    try:
        async with Softphone("1001", password_of("1001"), regions.seat("east")) as caller:
            await caller.register()
            line = caller.call("1002")
            await line.answered()
            assert await line.hears(440)
            west = regions.nodes["west1"]
            done = await asyncio.to_thread(west.run, "dr", "promote", "--lost")
            assert done.returncode == 0, done.stderr
            await asyncio.to_thread(west.wait_for_log, "adopted 1 calls and 2 registered numbers")
            async with asyncio.timeout(20):
                while len(invites_to(phone)) < 3:
                    await asyncio.sleep(0.05)  # SIPp tells nobody what it hears.
            packets = line.listener.packets
            async with asyncio.timeout(20):
                while line.listener.packets < packets + 50:
                    await asyncio.sleep(0.02)  # Packets come by the clock, and nothing tells of each.
            assert await line.hears(440)
            assert line.talking is not None
            assert line.talking.remote is not None
            assert line.talking.remote.host == regions.addresses["west"]
            await line.hold()
            await line.hang_up()
            assert not caller.violations
        seen = await asyncio.to_thread(phone.seen)
        assert seen.is_flawless, f"{seen.report}\n{phone.messages()}"
        assert seen.successful == 2
        first, again, instead, *_ = invites_to(phone)
        assert again.call_id == first.call_id != instead.call_id
        replaced, to_tag, from_tag = (instead.get("Replaces") or "").split(";")
        assert replaced == first.call_id
        assert f"to-tag={again.to.tag}" == to_tag
        assert f"from-tag={first.from_.tag}" == from_tag
        assert instead.values("Require") == ["replaces"]
        assert [str(contact.uri.host) for contact in instead.contacts] == [regions.addresses["west"]]
    finally:
        await asyncio.to_thread(phone.close)
    [cdr] = await asyncio.to_thread(regions.cdrs, 1)
    assert (cdr.result, cdr.answered_by, cdr.ended_by) == (Result.ANSWERED, "1002", Party.CALLER)


async def test_a_phone_that_takes_neither_keeps_its_call_and_the_log_says_so(
    regions: TwoRegions, tmp_path: Path
) -> None:
    phone = await stubborn_phone(regions, tmp_path, takes_none(regions.seat("west")))
    try:
        async with Softphone("1001", password_of("1001"), regions.seat("east")) as caller:
            await caller.register()
            line = caller.call("1002")
            await line.answered()
            west = regions.nodes["west1"]
            done = await asyncio.to_thread(west.run, "dr", "promote", "--lost")
            assert done.returncode == 0, done.stderr
            await asyncio.to_thread(west.wait_for_log, "phone accepts no other address of ours")
            await line.hang_up()
        seen = await asyncio.to_thread(phone.seen)
        assert seen.is_flawless, f"{seen.report}\n{phone.messages()}"
    finally:
        await asyncio.to_thread(phone.close)
    [cdr] = await asyncio.to_thread(regions.cdrs, 1)
    assert (cdr.result, cdr.ended_by) == (Result.ANSWERED, Party.CALLER)
