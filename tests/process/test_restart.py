"""The signalling process dies in the middle of calls and is started again: nobody on the phone notices."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from warden.call.cdr import Party, Result
from warden.core.address import Address
from warden.ops.softphone import Line, Softphone
from warden.ops.sound import Sound

from pbx import Pbx, password_of

CALLERS = [f"1{i:03}" for i in range(60)]
CALLEES = [f"2{i:03}" for i in range(60)]
pytestmark = pytest.mark.timeout(240)


class Office:
    """Phones at one node."""

    def __init__(self, pbx: Pbx, stack: AsyncExitStack) -> None:
        self.pbx = pbx
        self.sound = Sound()
        self.phones: dict[str, Softphone] = {}
        self._stack = stack

    async def phone(self, number: str, **options: float) -> Softphone:
        """A registered phone."""
        phone = Softphone(
            number,
            password_of(number),
            Address("127.0.0.1", self.pbx.sip_port),
            sound=self.sound,
            tone_hz=int(options.get("tone_hz", 440)),
            answers_after_s=options.get("answers_after_s"),
        )
        await self._stack.enter_async_context(phone)
        await phone.register()
        self.phones[number] = phone
        return phone

    def violations(self) -> list[str]:
        """What the node did wrong in any phone's eyes."""
        return [v for phone in self.phones.values() for v in phone.violations]


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    pbx = Pbx(tmp_path)
    await asyncio.to_thread(pbx.add_extensions, *CALLERS, *CALLEES)
    try:
        await asyncio.to_thread(pbx.start)
        async with AsyncExitStack() as stack:
            office = Office(pbx, stack)
            stack.callback(office.sound.close)
            yield office
    finally:
        await asyncio.to_thread(pbx.close)


async def talk(office: Office, caller: str, callee: str) -> tuple[Line, Line]:
    """Both ends of an answered call."""
    outgoing = office.phones[caller].call(callee)
    incoming = await office.phones[callee].next_call()
    await outgoing.answered()
    await incoming.answered()
    assert await outgoing.hears(880)
    assert await incoming.hears(440)
    return outgoing, incoming


async def until_packets(lines: list[Line], more: int) -> None:
    """Wait until each line has heard so many packets more."""
    wanted = {line: line.listener.packets + more for line in lines}
    while any(line.listener.packets < count for line, count in wanted.items()):
        await asyncio.sleep(0.02)  # Packets come by the clock, and nothing tells of each.


@pytest.mark.alone
async def test_kill_9_and_restart_loses_no_call_no_packet_and_no_cdr(office: Office) -> None:
    for number in CALLERS[:50]:
        await office.phone(number, tone_hz=440)
    for number in CALLEES[:50]:
        await office.phone(number, tone_hz=880, answers_after_s=0.1)
    calls = [await talk(office, a, b) for a, b in zip(CALLERS[:50], CALLEES[:50], strict=True)]
    held = calls[:10]
    for outgoing, _ in held:
        await outgoing.hold()
    speaking = [line for pair in calls[10:] for line in pair]
    await until_packets(speaking, 10)
    lost_before = {line: line.listener.lost for line in speaking}

    assert office.pbx.kill(signal.SIGKILL) == -signal.SIGKILL
    await until_packets(speaking, 100)  # Two seconds without any signalling process.
    await asyncio.to_thread(office.pbx.start)
    await until_packets(speaking, 50)

    assert {line.listener.lost - lost_before[line] for line in speaking} == {0}
    for outgoing, incoming in held:
        await outgoing.resume()
        assert await incoming.hears(440)
    for i, (outgoing, incoming) in enumerate(calls[10:30]):
        await (outgoing if i % 2 else incoming).reinvite()
    for i, (outgoing, incoming) in enumerate(calls):
        first, second = (outgoing, incoming) if i % 2 else (incoming, outgoing)
        ended = await first.hang_up()
        assert ended.status in (0, 200), ended
        await second.ended()

    cdrs = await asyncio.to_thread(office.pbx.cdrs, 50)
    assert sorted((c.caller, c.callee) for c in cdrs) == sorted(zip(CALLERS[:50], CALLEES[:50], strict=True))
    assert {(c.result, c.status) for c in cdrs} == {(Result.ANSWERED, 200)}
    assert Counter(c.ended_by for c in cdrs) == {Party.CALLER: 25, Party.CALLEE: 25}
    assert office.violations() == []


async def test_a_call_that_was_ringing_is_answered_cancelled_or_refused_after_the_restart(office: Office) -> None:
    for number in (*CALLERS[:4], *CALLEES[:4]):
        await office.phone(number, tone_hz=440 if number in CALLERS else 880)
    ringing = []
    for a, b in zip(CALLERS[:4], CALLEES[:4], strict=True):
        outgoing = office.phones[a].call(b)
        incoming = await office.phones[b].next_call()
        incoming.ring()
        await outgoing.ringing()
        ringing.append((outgoing, incoming))

    office.pbx.kill(signal.SIGKILL)
    await asyncio.to_thread(office.pbx.start)

    answered, cancelled, refused, both = ringing
    for outgoing, incoming in (answered, both):
        await incoming.answer()
        await outgoing.answered()
        assert await outgoing.hears(880)
        assert await incoming.hears(440)
    assert (await cancelled[0].hang_up()).status == 487
    await cancelled[1].ended()
    refused[1].refuse(486)
    assert (await refused[0].ended()).status == 486
    for outgoing, incoming in (answered, both):
        await outgoing.hang_up()
        await incoming.ended()

    cdrs = await asyncio.to_thread(office.pbx.cdrs, 4)
    assert Counter(c.result for c in cdrs) == {Result.ANSWERED: 2, Result.CANCELLED: 1, Result.BUSY: 1}
    assert office.violations() == []


async def test_registrations_survive_the_restart(office: Office) -> None:
    await office.phone(CALLERS[0])
    await office.phone(CALLEES[0], tone_hz=880, answers_after_s=0.0)
    office.pbx.kill(signal.SIGKILL)
    await asyncio.to_thread(office.pbx.start)
    outgoing, incoming = await talk(office, CALLERS[0], CALLEES[0])
    await outgoing.hang_up()
    await incoming.ended()


async def test_sigterm_leaves_calls_to_the_next_process_and_ctrl_c_ends_them(office: Office) -> None:
    await office.phone(CALLERS[0])
    await office.phone(CALLEES[0], tone_hz=880, answers_after_s=0.0)
    outgoing, incoming = await talk(office, CALLERS[0], CALLEES[0])

    assert await asyncio.to_thread(office.pbx.kill, signal.SIGTERM) == 0
    await until_packets([outgoing, incoming], 25)
    await asyncio.to_thread(office.pbx.start)
    await outgoing.reinvite()

    assert await asyncio.to_thread(office.pbx.kill, signal.SIGINT) == 0
    await outgoing.ended()
    await incoming.ended()
    (cdr,) = await asyncio.to_thread(office.pbx.cdrs, 1)
    assert (cdr.result, cdr.ended_by) == (Result.ANSWERED, Party.SYSTEM)
    assert office.pbx.media_pid is None


async def test_a_media_process_that_is_killed_is_started_again_and_the_calls_go_on(office: Office) -> None:
    await office.phone(CALLERS[0])
    await office.phone(CALLEES[0], tone_hz=880, answers_after_s=0.0)
    outgoing, incoming = await talk(office, CALLERS[0], CALLEES[0])
    pid = office.pbx.media_pid
    assert pid is not None
    office.pbx.kill_media()
    await until_packets([outgoing, incoming], 25)
    assert office.pbx.media_pid not in (None, pid)
    await outgoing.hang_up()
    await incoming.ended()
