"""The self test: two test phones register at the running node, one calls the other, and each hears the other's tone.

It works from outside: through the node's SIP port and its durable store, with two extensions that it makes and
removes again. What is wrong is said in words that name what to look at.
"""

import asyncio
import ipaddress
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from msgspec import Struct

from warden.call.cdr import Cdr, Result
from warden.config.tree import Config
from warden.core.address import Address
from warden.core.errors import WardenError
from warden.ops.knock import NobodyThere, Silent, knock
from warden.ops.softphone import Line, Refused, Softphone
from warden.ops.sound import Sound
from warden.store.ports import Durable
from warden.switch.directory import new_extension

PREFIX: Final = "selftest-"
TONES_HZ: Final = (440, 620)
TALK_S: Final = 3.0
DIRECTORY_S: Final = 10.0
"""How long the node may take to know a new extension; it looks once a second."""
CDR_S: Final = 5.0
ABANDONED_S: Final = 600.0
"""Extensions of a self test that was killed are removed by the next one after this time."""
GAP_MS_MAX: Final = 100.0
"""A longer silence is heard as a click or a missing syllable."""


class Hearing(Struct, frozen=True):
    """One direction of the audio. `heard`: the speaker's tone was there when the listener stopped listening."""

    speaker: str
    listener: str
    tone_hz: int
    heard: bool
    sent: int
    received: int
    lost: int
    duplicates: int
    late: int
    gap_ms_max: float
    jitter_ms: float
    own_tone: bool = False
    """The listener heard itself."""


class Report(Struct, frozen=True):
    """What was measured, None where it did not come to that, and what is wrong in words; nothing wrong is ok."""

    server: str
    problems: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    registered_ms: float | None = None
    ringing_ms: float | None = None
    answered_ms: float | None = None
    hearing: tuple[Hearing, ...] = ()
    cdr: Cdr | None = None

    @property
    def ok(self) -> bool:
        """True when nothing is wrong."""
        return not self.problems


class _Failed(Exception):
    """The test cannot go on: what is wrong, and what to look at."""

    def __init__(self, problem: str, *hints: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hints = hints


class _Findings:
    """The report while it is written."""

    def __init__(self, server: Address) -> None:
        self.server = server
        self.problems: list[str] = []
        self.hints: list[str] = []
        self.registered_ms: float | None = None
        self.ringing_ms: float | None = None
        self.answered_ms: float | None = None
        self.hearing: tuple[Hearing, ...] = ()
        self.cdr: Cdr | None = None

    def wrong(self, problem: str, *hints: str) -> None:
        self.problems.append(problem)
        self.hints += [hint for hint in hints if hint not in self.hints]

    def report(self) -> Report:
        return Report(
            str(self.server),
            tuple(self.problems),
            tuple(self.hints),
            self.registered_ms,
            self.ringing_ms,
            self.answered_ms,
            self.hearing,
            self.cdr,
        )


def server_of(config: Config) -> Address:
    """Where the node answers on this machine."""
    host = config.sip.bind_address
    bound = ipaddress.ip_address(host)
    if bound.is_unspecified:
        host = "127.0.0.1" if bound.version == 4 else "::1"
    return Address(host, config.sip.bind_port)


async def run(
    config: Config,
    durable: Durable,
    *,
    talk_s: float = TALK_S,
    directory_s: float = DIRECTORY_S,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Carry it out; takes about `talk_s` and 2 s more. `directory_s` is how long the node may take to know the new
    extensions. `progress` gets a sentence per step. Raises `Unavailable` where the durable store is not there.
    """
    server = server_of(config)
    findings = _Findings(server)
    local = "::1" if server.host == "::1" else "127.0.0.1" if server.host.startswith("127.") else server.host
    try:
        _require_udp(config)
        progress(f"asking {server} who is there")
        await _knock(server, local)
        async with _extensions(config, durable) as passwords, _phones(server, local, passwords) as (caller, callee):
            progress("registering two phones")
            await _register(findings, (caller, callee), config, directory_s)
            progress(f"{caller.number} calls {callee.number}")
            await _call(findings, caller, callee, talk_s, config)
            progress("waiting for the call detail record")
            await _find_cdr(findings, durable, caller.number, callee.number)
            for phone in (caller, callee):
                for violation in phone.violations:
                    findings.wrong(f"the node broke a rule of SIP towards {phone.number}: {violation}")
    except _Failed as failed:
        findings.wrong(failed.problem, *failed.hints)
    return findings.report()


def _require_udp(config: Config) -> None:
    if "udp" not in config.sip.transports:
        raise _Failed("the node does not speak SIP over UDP", "the self test's phones do: see `sip.transports`")


async def _knock(server: Address, local: str) -> None:
    running = "start it with `warden serve` (or `make run`) with the same settings as this test"
    try:
        await knock(server, local)
    except NobodyThere as error:
        raise _Failed(f"{error}: the node does not run there", running) from error
    except Silent as error:
        another = "if it runs, another program may hold the port, or a firewall on this machine drops the packets"
        raise _Failed(str(error), running, another) from error
    except WardenError as error:
        raise _Failed(str(error)) from error


@asynccontextmanager
async def _extensions(config: Config, durable: Durable) -> AsyncIterator[dict[str, str]]:
    """Two extensions with random passwords, removed at the end whatever happens."""
    now = time.time()
    for extension in await durable.extensions():
        if extension.number.startswith(PREFIX) and now - extension.created_at_utc > ABANDONED_S:
            await durable.remove_extension(extension.number)
    run_id = secrets.token_hex(2)
    passwords = {f"{PREFIX}{run_id}{which}": secrets.token_urlsafe(18) for which in "ab"}
    try:
        for number, password in passwords.items():
            extension = new_extension(number, password, realm=config.sip.realm, now=now, name="self test")
            await durable.add_extension(extension)
        yield passwords
    finally:
        for number in passwords:
            await durable.remove_extension(number)


@asynccontextmanager
async def _phones(server: Address, local: str, passwords: dict[str, str]) -> AsyncIterator[tuple[Softphone, Softphone]]:
    async with AsyncExitStack() as stack:
        sound = Sound()
        stack.callback(sound.close)
        phones = []
        for (number, password), tone_hz, after_s in zip(passwords.items(), TONES_HZ, (None, 0.2), strict=True):
            phone = Softphone(
                number, password, server, local_host=local, tone_hz=tone_hz, answers_after_s=after_s, sound=sound
            )
            phones.append(await stack.enter_async_context(phone))
        yield phones[0], phones[1]


async def _register(
    findings: _Findings, phones: tuple[Softphone, Softphone], config: Config, directory_s: float
) -> None:
    until = time.monotonic() + directory_s
    # A look at the directory takes the node up to a second; failed log-ins meanwhile would look like an attack.
    await asyncio.sleep(1.1)
    for phone in phones:
        while True:
            started_at = time.monotonic()
            try:
                await phone.register(max(60, config.sip.registration.min_expires))
                findings.registered_ms = (time.monotonic() - started_at) * 1000
                break
            except Refused as refused:
                if refused.status not in (401, 403, 404) or time.monotonic() > until:
                    raise _registration_failed(refused.status, phone.number, config) from None
            await asyncio.sleep(1.0)


def _registration_failed(status: int, number: str, config: Config) -> _Failed:
    database = config.database.host or str(config.data_dir.absolute())
    match status:
        case 401 | 403 | 404:
            return _Failed(
                f"{number} is refused ({status}), though it was made seconds ago",
                f"the node may work on another database than this test ({database}): give both the same settings",
                f"the realm must be the same too (here `sip.realm: {config.sip.realm}`), and the node's log may say "
                "that the database is not available",
            )
        case 408:
            return _Failed(
                "REGISTER is not answered, though the node answers OPTIONS",
                "the node may wait for a store: see its log and the health page",
            )
        case 503:
            return _Failed("the node refuses registrations (503): it is draining, overloaded or without its store")
        case _:
            return _Failed(f"REGISTER of {number} is refused with {status}")


async def _call(findings: _Findings, caller: Softphone, callee: Softphone, talk_s: float, config: Config) -> None:
    line = caller.call(callee.number)
    try:
        await line.answered()
        theirs = await callee.next_call(5.0)
        await theirs.answered(5.0)
    except Refused as refused:
        raise _call_failed(refused, callee, config) from None
    except TimeoutError:
        raise _Failed(
            "the caller's call was answered, but the callee's was not: its 200 has no ACK", *_where(config)
        ) from None
    started = line.started_at
    findings.ringing_ms = None if line.ringing_at is None else (line.ringing_at - started) * 1000
    findings.answered_ms = None if line.answered_at is None else (line.answered_at - started) * 1000
    await asyncio.sleep(talk_s)
    lines = (line, theirs)
    heard = [one.listener.hears(other.port.tone_hz) for one, other in (lines, lines[::-1])]
    own = [one.listener.hears(one.port.tone_hz) for one in lines]
    for one in lines:
        one.port.hush()
    # What is on its way arrives, so that loss can be told from being late.
    await asyncio.sleep(0.2)
    findings.hearing = (
        _hearing(caller, line, callee, theirs, heard[1], own[1]),
        _hearing(callee, theirs, caller, line, heard[0], own[0]),
    )
    _judge_audio(findings, config)
    ended_early = [one for one in lines if one.end is not None]
    if ended_early:
        end = ended_early[0].end
        raise _Failed(f"the call ended by itself while the phones talked ({end.status if end else ''})")
    try:
        await line.hang_up()
        await theirs.ended(5.0)
    except TimeoutError:
        findings.wrong("the caller hung up, but the callee was not told", "see the node's log for this call")


def _call_failed(refused: Refused, callee: Softphone, config: Config) -> _Failed:
    match refused.status:
        case 401 | 407:
            return _Failed(
                f"the INVITE is challenged again and again ({refused.status}), though REGISTER was accepted",
                "two nodes with different secrets may answer in turn: set the same `secret` on all",
            )
        case 404 | 480:
            return _Failed(f"{callee.number} is registered, but the node does not find it ({refused.status})")
        case 408 if refused.reason == "No Answer":
            return _Failed("the INVITE is not answered at all", *_where(config))
        case 488:
            return _Failed("the node refuses the phones' audio (488)", "see `rtp.port_range` and the node's log")
        case 503:
            return _Failed(
                "the node has no place for the call (503)",
                "it is draining, its media process is not there, or all of `rtp.port_range` is in use",
            )
        case status:
            return _Failed(f"the call fails with {status} {refused.reason}".rstrip())


def _hearing(
    speaker: Softphone, speaking: Line, listener: Softphone, listening: Line, heard: bool, own_tone: bool
) -> Hearing:
    stats = listening.listener
    return Hearing(
        speaker.number,
        listener.number,
        speaking.port.tone_hz,
        heard,
        speaking.talker.sent,
        stats.packets,
        speaking.talker.sent - stats.packets,
        stats.duplicates,
        stats.late,
        round(stats.gap_ms_max, 1),
        round(stats.jitter_ms, 2),
        own_tone,
    )


def _judge_audio(findings: _Findings, config: Config) -> None:
    deaf = [one for one in findings.hearing if one.received == 0]
    if len(deaf) == 2:
        findings.wrong("no audio either way", *_where_audio(config))
    for one in findings.hearing:
        way = f"from {one.speaker} to {one.listener}"
        if one.received == 0:
            if len(deaf) == 1:
                findings.wrong(
                    f"one-way audio: nothing arrives {way}, though {one.sent} packets were sent", *_where_audio(config)
                )
            continue
        if not one.heard:
            findings.wrong(f"packets arrive {way}, but the tone of {one.tone_hz} Hz is not in them")
        if one.own_tone:
            findings.wrong(f"{one.listener} hears itself")
        if one.lost > 0:
            findings.wrong(f"{one.lost} of {one.sent} packets {way} are lost", "the machine may be overloaded")
        if one.duplicates:
            findings.wrong(f"{one.duplicates} packets {way} arrive twice")
        if one.gap_ms_max > GAP_MS_MAX:
            findings.wrong(f"a gap of {one.gap_ms_max:.0f} ms {way}", "the machine may be overloaded")


def _where(config: Config) -> tuple[str, ...]:
    """What to look at when SIP comes in but what follows does not."""
    return _not_ours("sip.advertise_address", config.sip.advertise_address) or (
        "phones are told to send to the node's advertised address: see `sip.advertise_address` and the firewall",
    )


def _where_audio(config: Config) -> tuple[str, ...]:
    key, address = "rtp.advertise_address", config.rtp.advertise_address
    if address is None:
        key, address = "sip.advertise_address", config.sip.advertise_address
    first, last = config.rtp.port_range
    told = (
        f"phones are told to send audio to the node's advertised address (`{key}: {address or 'not set'}`), "
        f"UDP ports {first} to {last}: is the address right, and does the firewall let them through?"
    )
    return (*_not_ours(key, address), told, "`warden-media` carries the audio: does it run?")


def _not_ours(key: str, address: str | None) -> tuple[str, ...]:
    if address is None:
        return ()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            told = (
                f"`{key}` is {address}, which is not an address of this machine: right for phones outside a NAT, but "
                "then this test cannot follow it from inside"
            )
            return (told,)
    return ()


async def _find_cdr(findings: _Findings, durable: Durable, caller: str, callee: str) -> None:
    until = time.monotonic() + CDR_S
    while True:
        found = [cdr for cdr in await durable.cdrs(number=caller, limit=10) if cdr.caller == caller]
        if found or time.monotonic() > until:
            break
        await asyncio.sleep(0.1)
    if not found:
        findings.wrong(
            f"no call detail record within {CDR_S:g} s of the end of the call",
            "the node may not reach its database: see its log; records wait in its outbox until it does",
        )
        return
    findings.cdr = found[0]
    if len(found) > 1:
        findings.wrong(f"the call has {len(found)} call detail records")
    if found[0].callee != callee or found[0].result is not Result.ANSWERED:
        findings.wrong(f"the call detail record says {found[0].result} to {found[0].callee}, not answered to {callee}")
