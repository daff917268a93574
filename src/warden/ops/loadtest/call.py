"""One call of a load test, from INVITE to BYE, and what is to be thought of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from warden.ops.loadtest.phones import Pair, in_words
from warden.ops.loadtest.tally import CallResult, Outcome, Way
from warden.ops.softphone import ANSWER_S, Line, Refused, Softphone
from warden.phone.events import By

REACHES_S: Final = 5.0
"""How long after the answer the called phone may take to have its ACK, and after a BYE to be told."""
ARRIVES_S: Final = 0.5
"""How long the last packets may be on their way."""
ARRIVED_LOOKS: Final = 20
AUDIO_S: Final = 1.0
"""A call of this length has sent audio, or has none."""
TONE_PACKETS: Final = 25
"""Half a second: enough to know a tone."""

Judged: TypeAlias = tuple[Outcome, str, tuple[Way, ...]]


async def make_call(
    pair: Pair, talk: Callable[[], Awaitable[None]], refused_byes: dict[str, int], *, callee_ends: bool
) -> CallResult:
    """Call, be answered, talk as long as `talk` takes, and hang up at one side. Raises `WardenError` where there is no
    port for the audio.
    """
    callee = pair.callee
    while not callee.incoming.empty():
        # What is left of a call that failed.
        callee.incoming.get_nowait()
    line = pair.line = pair.caller.call(callee.number)
    try:
        outcome, why, ways = await _carry(line, callee, talk, refused_byes, callee_ends=callee_ends)
    except asyncio.CancelledError:
        line.release()
        raise
    return result_of(line, outcome, why, ways)


def result_of(line: Line, outcome: Outcome, why: str, ways: tuple[Way, ...] = ()) -> CallResult:
    """The result of a call that its caller knows as `line`."""
    ringing_s = None if line.ringing_at is None else line.ringing_at - line.started_at
    return CallResult(outcome, why, ringing_s, line.setup_s, ways)


async def _carry(
    line: Line,
    callee: Softphone,
    talk: Callable[[], Awaitable[None]],
    refused_byes: dict[str, int],
    *,
    callee_ends: bool,
) -> Judged:
    try:
        await line.answered()
    except Refused:
        return Outcome.FAILED, _refusal(line), ()
    except TimeoutError:
        await _leave(line)
        return Outcome.FAILED, f"not answered within {ANSWER_S:g} s", ()
    theirs = await _other_end(callee)
    if theirs is None:
        await _leave(line)
        return Outcome.FAILED, "answered, but not by the phone that was called", ()
    try:
        await theirs.answered(REACHES_S)
    except (Refused, TimeoutError):
        await _leave(line)
        await _leave(theirs)
        return Outcome.FAILED, "the ACK did not reach the called phone", ()
    await talk()
    lines = line, theirs
    dropped = next((one for one in lines if one.end is not None), None)
    if dropped is not None:
        for one in lines:
            await _leave(one)
        return Outcome.FAILED, _dropped(dropped), ()
    ways = await _hush(line, theirs)
    deaf = _deaf(line, theirs, ways)
    first, second = (theirs, line) if callee_ends else (line, theirs)
    outcome, why = await _hang_up(first, second, refused_byes)
    return (Outcome.FAILED, deaf, ways) if deaf else (outcome, why, ways)


async def _other_end(callee: Softphone) -> Line | None:
    try:
        async with asyncio.timeout(REACHES_S):
            while (theirs := await callee.incoming.get()).end is not None:
                pass
    except TimeoutError:
        return None
    return theirs


async def _hush(caller: Line, callee: Line) -> tuple[Way, ...]:
    """Speak no more, and count when everything has arrived."""
    ways, hushed_at = ((callee, caller), (caller, callee)), time.time()
    for line in (caller, callee):
        line.port.hush()
    for _ in range(ARRIVED_LOOKS):
        if all(hearer.listener.packets >= _sent(speaker) for speaker, hearer in ways):
            break
        await asyncio.sleep(ARRIVES_S / ARRIVED_LOOKS)
    return tuple(
        Way(
            _sent(speaker),
            hearer.listener.packets,
            hearer.listener.lost,
            hearer.listener.duplicates,
            # What is not heard any more is a gap too, though no packet ends it.
            max(hearer.listener.gap_ms_max, hearer.listener.silence_ms(hushed_at)),
            hearer.listener.jitter_ms,
            speaker.port.every == 1 and hearer.listener.packets > 1,
        )
        for speaker, hearer in ways
    )


def _sent(line: Line) -> int:
    return line.talker.sent - line.port.unsent


def _deaf(caller: Line, callee: Line, ways: tuple[Way, ...]) -> str:
    """What is wrong with the audio, "" for nothing. A call that is too short to tell is not blamed."""
    talked_s = time.time() - (caller.answered_at or time.time())
    to_caller, to_callee = ways
    if talked_s >= AUDIO_S and not (to_caller.sent and to_callee.sent):
        return "no audio was agreed"
    silent = [
        who for who, way in (("caller", to_caller), ("called phone", to_callee)) if way.sent > 1 and not way.received
    ]
    if silent:
        return "no audio either way" if len(silent) == 2 else f"no audio to the {silent[0]}"
    for who, way, hearer, speaker in (
        ("caller", to_caller, caller, callee),
        ("called phone", to_callee, callee, caller),
    ):
        if way.measured and way.received >= TONE_PACKETS and not hearer.listener.hears(speaker.port.tone_hz):
            return f"the audio to the {who} is not what the other one said"
    return ""


async def _hang_up(first: Line, second: Line, refused_byes: dict[str, int]) -> tuple[Outcome, str]:
    try:
        await first.hang_up()
    except TimeoutError:
        return Outcome.UNKNOWN, "no answer to BYE"
    status = refused_byes.pop(first.tag, 200)
    if status == 408:
        return Outcome.UNKNOWN, "no answer to BYE"
    if status >= 300:
        return Outcome.FAILED, f"BYE: {in_words(status)}"
    try:
        await second.ended(REACHES_S)
    except TimeoutError:
        await _leave(second)
        return Outcome.FAILED, "the other phone was not told that the call is over"
    return Outcome.OK, ""


async def _leave(line: Line) -> None:
    """End what is left of a call; what becomes of that is of no more interest."""
    if line.end is None:
        line.release()
        try:
            await line.ended(REACHES_S)
        except TimeoutError:
            return


def _refusal(line: Line) -> str:
    end = line.end
    assert end is not None, "a call that is refused is over"
    if end.by is By.NETWORK:
        return "no answer to INVITE" if end.status == 408 else f"no way to send INVITE: {end.reason}"
    return in_words(end.status)


def _dropped(line: Line) -> str:
    end = line.end
    assert end is not None, "a call that was dropped is over"
    return f"dropped by the {end.by}" + (f": {end.reason[:60]}" if end.reason else "")
