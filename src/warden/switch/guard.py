"""Who tries passwords, looks for extensions or sends rubbish is first answered seldom, then not read any more.

A machine of one seat: it counts what each address does wrong, makes the seat's bans and keeps their records. Nothing
here answers anybody, and whoever does right costs nothing here.
"""

from collections.abc import Mapping
from enum import StrEnum
from math import inf
from typing import Final

from warden.core.deadlines import Deadlines
from warden.core.versions import Unreadable
from warden.net.limits import RateLimit, limit_key
from warden.sip.digest import read_credentials
from warden.sip.message import Request
from warden.sip.outputs import Arrived
from warden.store.ports import Kind, Write
from warden.switch.admission import CHALLENGED, FAILED, Refusal
from warden.switch.bans import BANS, SCHEMA, Ban, Bans, key_of, read_ban
from warden.switch.directory import Directory
from warden.switch.settings import BanRules

SCANNERS: Final = (
    # SIPVicious (svmap, svwar, svcrack), what was made of it, and the names under which it hides.
    "friendly-scanner", "friendly-request", "sipvicious", "sundayddr", "sip-scan", "pplsip",
    # Programs that are seen dialling toll numbers at whoever answers.
    "sipcli", "vaxsipuseragent", "vaxipuseragent",
    # Scanners of networks, and breakers of passwords.
    "smap", "iwar", "siparmyknife", "sivus", "sip-bruteforce",
)  # fmt: skip
"""How the User-Agents begin (in lower case) of programs that only call on servers they have no business with. Whoever
proves to be an extension may call itself what it likes."""
BANS_MAX: Final = 2_000
"""Bans of a seat: 300 KB of records. Whoever has more addresses than that is not held by bans of addresses."""
OFFENDERS_MAX: Final = 65_536
"""Addresses, and names at them, that are counted at a time: about 8 MiB."""
REMEMBERED_S: Final = 86_400.0
"""How long after its end a ban makes the next one longer."""
ANSWERS_PER_S: Final = 1.0
"""How often an address is answered that has half of what it takes to be banned: a guess a second leads nowhere."""
WHY_CHARS_MAX: Final = 120


class Offence(StrEnum):
    """What an address can do wrong."""

    FAILED_AUTHENTICATION = "failed authentication"
    UNKNOWN_EXTENSION = "unknown extension"
    SCANNER = "scanner"
    MALFORMED = "malformed messages"


_SHARE: Final = {
    Offence.FAILED_AUTHENTICATION: 1.0,
    Offence.UNKNOWN_EXTENSION: 1.0,
    # A phone with a bug says much that cannot be read, and is to be mended, not shut out at once.
    Offence.MALFORMED: 0.2,
}
"""What each counts; a scanner is known by its first message."""
MALFORMED: Final = 400
_ALMOST: Final = 1 - 1e-6
"""Bears the rounding of many small sums."""


def is_scanner(request: Request) -> bool:
    """True where the request comes from a program that only scans."""
    return (request.get("User-Agent") or "").lower().startswith(SCANNERS)


IGNORED: Final = Refusal(0)
"""Of one that gets no answer at all."""


class Guard:
    """What is to be stored is left in `writes`, and what is to be told to people in `news`, for the owner to take.
    `bans` is the node's view; what is made here is in it at once.
    """

    def __init__(self, rules: BanRules, bans: Bans, seat: str, node: str) -> None:
        self.writes: list[Write] = []
        self.news: list[Ban] = []
        self._rules = rules
        self._bans = bans
        self._seat = seat
        self._node = node
        self._own: dict[str, Ban] = {}
        self._forget: Deadlines[str] = Deadlines()
        self._clean_at: dict[str, float] = {}
        self._answers = RateLimit(ANSWERS_PER_S, 1)
        self.silenced = 0

    def __len__(self) -> int:
        """The bans that the seat keeps."""
        return len(self._own)

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        forgets, ends = self._forget.earliest, self._bans.deadline
        return forgets if ends is None else ends if forgets is None else min(forgets, ends)

    # What others do

    def bars(self, host: str, request: Request) -> bool:
        """True where nothing is taken from this host in the name that the request gives. Raises `MalformedMessage`."""
        names = self._bans.barred_numbers(limit_key(host))
        return bool(names) and (
            request.from_.uri.username in names or any(c.username in names for c in read_credentials(request))
        )

    def ignores(self, now: float, arrived: Arrived, refusal: Refusal, directory: Directory) -> bool:
        """Whether a request, whose sender is not known, gets no answer, where others would get this refusal."""
        if refusal is IGNORED:
            self.silenced += 1
            return True
        request, host = arrived.request, arrived.flow.remote.host
        if is_scanner(request):
            return self.offended(now, host, Offence.SCANNER)
        if refusal.counter == FAILED:
            name = refusal.name if directory.find(refusal.name) is not None else ""
            return self.offended(now, host, Offence.FAILED_AUTHENTICATION, name)
        if refusal.counter == CHALLENGED:
            # Everybody is asked who he is; what most of them say next is right.
            if directory.find(request.from_.uri.username or "") is None:
                return self.offended(now, host, Offence.UNKNOWN_EXTENSION)
            return self._is_held_back(now, limit_key(host))
        return refusal.status == MALFORMED and self.offended(now, host, Offence.MALFORMED)

    def offended(self, now: float, host: str, offence: Offence, number: str = "") -> bool:
        """A host has done something wrong, in the name of `number`. True where it is to get no answer.

        An address from which phones are registered, or in calls, is an office with a wrong phone in it: it is not shut
        out, only the name that was tried too often there.
        """
        rules, address = self._rules, limit_key(host)
        if not rules.enabled or self._bans.is_spared(address):
            return False
        is_known = self._bans.is_known(now, address)
        if offence is Offence.SCANNER:
            if not is_known:
                self._ban(now, address, "", offence)
            self.silenced += 1
            return True
        share = _SHARE[offence] * rules.window_s / rules.failures
        is_throttled = self._is_throttled(now, address)
        is_silenced = is_throttled and not self._answers.allows(address, now)
        # What nobody answers a phone says again, some ten times.
        is_full = self._count(now, address, share / 10 if is_silenced else share)
        self.silenced += is_silenced
        if is_silenced and is_known:
            return True
        if is_known:
            # Who sits in the office and tries all names is held to one try a second.
            by_name = offence is Offence.FAILED_AUTHENTICATION and number and is_throttled
            if by_name and self._count(now, key_of(address, number), share):
                self._ban(now, address, number, offence)
                return True
        elif is_full:
            self._ban(now, address, "", offence)
            return True
        return is_silenced

    def _is_throttled(self, now: float, address: str) -> bool:
        return self._clean_at.get(address, now) - now >= self._rules.window_s / 2 * _ALMOST

    def _is_held_back(self, now: float, address: str) -> bool:
        """Who is answered seldom is so whatever name is asked for: silence must not tell which names there are. Phones
        of an office are asked who they are as ever.
        """
        if not self._is_throttled(now, address) or self._bans.is_known(now, address):
            return False
        is_silenced = not self._answers.allows(address, now)
        self.silenced += is_silenced
        return is_silenced

    def _count(self, now: float, key: str, share_s: float) -> bool:
        """Count it; whether it is enough for a ban. What was counted fades evenly, so that only a time needs to be
        kept: when nothing is left of it.
        """
        clean_at = max(self._clean_at.pop(key, now), now) + share_s
        if len(self._clean_at) >= OFFENDERS_MAX:
            # In the order in which they were last counted.
            del self._clean_at[next(iter(self._clean_at))]
        left_s = min(clean_at - now, self._rules.window_s)
        self._clean_at[key] = now + left_s
        return left_s >= self._rules.window_s * _ALMOST

    # Bans

    def _ban(self, now: float, address: str, number: str, offence: Offence) -> None:
        before = self._bans.find(key_of(address, number))
        if before is not None and before.until > now:
            return
        level = 0
        if before is not None and before.forget_at > now:
            level = min(before.level + 1, len(self._rules.durations_s) - 1)
        self.ban(now, address, self._rules.durations_s[level], offence.value, self._node, number=number, level=level)

    def ban(
        self,
        now: float,
        address: str,
        duration_s: float,
        why: str,
        by: str,
        *,
        number: str = "",
        level: int = 0,
        forced: bool = False,
    ) -> None:
        """Ban an address, in the spelling of `limit_key`, or one name there."""
        until = now + duration_s
        why = why[:WHY_CHARS_MAX]
        self._keep(now, Ban(SCHEMA, address, now, until, until + REMEMBERED_S, level, number, why, by, forced))

    def lift(self, now: float, key: str, by: str) -> Ban | None:
        """End the ban of that key, wherever it was made; None where none holds. The next one is a first one again."""
        found = self._bans.find(key)
        if found is None or found.until <= now:
            return None
        # Newer than what it ends, also where that was made by a clock that goes before ours; and kept as long.
        at = max(now, found.made_at + 0.001)
        lifted = Ban(
            SCHEMA, found.address, at, now, found.forget_at, level=-1, number=found.number, why="lifted", by=by
        )
        self._clean_at.pop(key, None)
        self._clean_at.pop(found.address, None)
        self._keep(now, lifted)
        return found

    def restore(self, now: float, records: Mapping[str, bytes]) -> dict[str, Unreadable]:
        """Go on with the bans that the seat has; gives the keys whose record could not be read, and why."""
        unreadable = {}
        for key, record in records.items():
            try:
                self._own[key] = read_ban(record)
            except Unreadable as error:
                unreadable[key] = error
            else:
                self._forget.set(key, self._own[key].forget_at)
        self._bans.take(now, self._seat, self._own)
        self.tick(now)
        return unreadable

    def tick(self, now: float) -> None:
        """Time has passed."""
        while (key := self._forget.pop_due(now)) is not None:
            self._drop(now, key)
        self._bans.tick(now)

    def records(self) -> list[Write]:
        """Every record of the seat's bans as it is now."""
        return [Write(Kind.BAN, key, BANS.encode(ban)) for key, ban in self._own.items()]

    def _keep(self, now: float, ban: Ban) -> None:
        self._own[ban.key] = ban
        self._forget.set(ban.key, ban.forget_at)
        self.writes.append(Write(Kind.BAN, ban.key, BANS.encode(ban)))
        self.news.append(ban)
        self._bans.put(now, self._seat, ban)
        if len(self._own) > BANS_MAX and (first := self._forget.pop_due(inf)) is not None:
            self._drop(now, first)

    def _drop(self, now: float, key: str) -> None:
        del self._own[key]
        self.writes.append(Write(Kind.BAN, key, None))
        self._bans.drop(now, self._seat, key)
