"""How many new calls and registrations a node lets in while it cannot do all that is asked of it. Pure: what was
measured goes in, and a verdict comes out.

Nothing here reads a clock, a load or a socket: `node.pulse` measures.
"""

from collections import deque
from math import ceil, inf
from typing import Final
from zlib import crc32

from msgspec import Struct

STANDING_SAMPLES: Final = 4
"""The least of so many delays counts: a queue that is empty at times is a burst, one that never is grows."""
REGISTRATIONS_DELAY_S: Final = 0.04
"""From this standing delay on fewer registrations are let in, so that calls need not notice. A phone that asks again
some seconds later rings all the same."""
CALLS_DELAY_S: Final = 0.1
"""From this one on fewer calls: it adds little to the half second after which phones say everything again."""
CALLS_LESS: Final = 0.85
"""What is let in after a sample above the bound, in parts of what was. In small steps, so that much is served."""
REGISTRATIONS_LESS: Final = 0.6
"""The same for registrations: they make room first, and at once, so that calls need not."""
FIRST_LESS: Final = 0.7
"""The same the first time: what was let in while the queue grew was too much."""
MORE_PER_S: Final = 1.0
"""How much more is let in each second below the bound where the processor is idle; near to nothing where it has no idle
time, since what is let in now has its work still before it."""
LEAST_MORE_PER_S: Final = 0.1
BACK_PER_S: Final = 4.0
"""How fast what was let in when it was last too much is let in again, in parts of what is missing each second: it was
only just too much, or the processor had been somebody else's for a moment. Without this a node that loses its processor
now and then never comes up again: each pause costs half, and a second gives a tenth."""
CEILING_LESS: Final = 0.85
"""What is left of that where even less is too much: one pause of the processor may be seen twice."""
USED: Final = 0.7
"""Only who uses so much of what is let in is let in more: else nothing would be learned by it."""
BUSY_S: Final = 1.0
"""Over how long the use of the processor is told: calls come and go in that time."""
STORM_S: Final = 10.0
"""How long calls are let in as ever while most of what comes are registrations: those who are refused are soon served,
and a call that is set up late is better than none."""
STORM_OVER_S: Final = 1.0
"""How long the calls that came meanwhile may take to be served."""
CALM_S: Final = 10.0
"""How long nobody must have been refused before nothing is limited any more."""
CALLS_PER_S_MIN: Final = 5.0
REGISTRATIONS_PER_S_MIN: Final = 50.0
"""What is let in however slow the node is: what is measured may be wrong, and some work always gets done."""
CALLS_BURST_S: Final = 0.1
REGISTRATIONS_BURST_S: Final = 0.5
"""What was not used of the rate may be made up for within this time. Retry-After has whole seconds, so that phones
which were refused one after the other come back together."""
ADMITTED_S: Final = 32.0
"""How long who was let in may take to come back with proof, or say it again."""
ADMITTED_MAX: Final = 20_000
CALL_RETRY_S: Final = (2, 10)
"""When a caller may try again, spread by its Call-ID: each copy of a request gets the same answer."""
REGISTRATION_RETRY_S_MAX: Final = 300
"""A phone that comes later than this would be missed; it is told this much and tries in vain once more."""


class OverloadRules(Struct, frozen=True, gc=False):
    """From the configuration: most per second, whatever the load (0: as many as the node bears)."""

    enabled: bool = True
    calls_per_s: float = 0.0
    registrations_per_s: float = 0.0
    emergency_numbers: tuple[str, ...] = ("112", "911")


class Limiter:
    """A token bucket whose rate follows the delay. `level` is the part that was refused lately, `proven_per_s` half of
    what was let in before it became too much: what may be counted on, some time later. `lately` is what was let in and
    refused before the last sample.
    """

    def __init__(self, delay_s: float, less: float, burst_s: float, rate_min: float, rate_max: float) -> None:
        self.admitted = 0
        self.refused = 0
        self.level = 0.0
        self.rate = rate_max
        self.proven_per_s = rate_min
        self._ceiling = rate_min
        self._delay_s = delay_s
        self._less = less
        self._burst_s = burst_s
        self._rate_min = min(rate_min, rate_max)
        self._rate_max = rate_max
        self._tokens = 0.0
        self._filled_at = -inf
        self._refused_at = -inf
        self.lately = self._seen = 0, 0
        self._admitted_per_s = 0.0

    @property
    def is_limiting(self) -> bool:
        """True while not everything is let in unseen."""
        return self.rate < inf

    def admits(self, now: float) -> bool:
        """Let one in, or refuse it."""
        if self.rate < inf:
            burst = max(1.0, self.rate * self._burst_s)
            self._tokens = min(burst, self._tokens + (now - self._filled_at) * self.rate)
            self._filled_at = now
            if self._tokens < 1.0:
                self.refused += 1
                self._refused_at = now
                return False
            self._tokens -= 1.0
        self.admitted += 1
        return True

    def sample(self, now: float, elapsed_s: float, delay_s: float, busy: float) -> None:
        """What was measured of the last `elapsed_s` seconds."""
        admitted, refused = self.admitted - self._seen[0], self.refused - self._seen[1]
        self._seen = self.admitted, self.refused
        self.lately = admitted, refused
        # Over about half a second.
        weight = min(1.0, elapsed_s / 0.5)
        self._admitted_per_s += weight * (admitted / elapsed_s - self._admitted_per_s)
        if admitted or refused:
            self.level += weight * (refused / (admitted + refused) - self.level)
        else:
            self.level -= weight * self.level
        if delay_s > self._delay_s:
            if self.rate == inf:
                self.proven_per_s = max(self._rate_min, self._admitted_per_s / 2)
                self._ceiling = self._admitted_per_s * FIRST_LESS
                self._set_rate(now, self._ceiling)
            elif refused or self.rate > self._admitted_per_s:
                let_in = min(self.rate, max(self._admitted_per_s, self.rate / 2))
                self._ceiling = max(let_in, self._ceiling * CEILING_LESS)
                self._set_rate(now, let_in * self._less)
        elif self.rate < self._rate_max:
            if now - self._refused_at > CALM_S:
                self._set_rate(now, self._rate_max)
            elif delay_s < self._delay_s / 2 and self._admitted_per_s > self.rate * USED:
                more = self.rate * (1 + elapsed_s * max(LEAST_MORE_PER_S, MORE_PER_S * (1 - busy)))
                back = self.rate + (self._ceiling - self.rate) * min(1.0, BACK_PER_S * elapsed_s)
                self._set_rate(now, max(more, back))

    def _set_rate(self, now: float, rate: float) -> None:
        if self.rate == inf:
            self._tokens, self._filled_at = 1.0, now
            self._refused_at = now
        self.rate = min(max(rate, self._rate_min), self._rate_max)


class Overload:
    """The verdicts of a node; one serves all its switches. Until `sample` tells of a delay, everything is let in that
    the rules allow.
    """

    def __init__(self, rules: OverloadRules | None = None) -> None:
        rules = OverloadRules() if rules is None else rules
        self._rules = rules
        self.calls = Limiter(CALLS_DELAY_S, CALLS_LESS, CALLS_BURST_S, CALLS_PER_S_MIN, rules.calls_per_s or inf)
        self.registrations = Limiter(
            REGISTRATIONS_DELAY_S,
            REGISTRATIONS_LESS,
            REGISTRATIONS_BURST_S,
            REGISTRATIONS_PER_S_MIN,
            rules.registrations_per_s or inf,
        )
        self.delay_s = 0.0
        self.busy = 0.0
        self._delays: deque[float] = deque(maxlen=STANDING_SAMPLES)
        self._sampled_at = 0.0
        self._admitted: dict[str, float] = {}
        self._next_at = 0.0
        self._storm_from = self._storm_seen_at = 0.0
        self.is_limiting = self.calls.is_limiting or self.registrations.is_limiting

    def sample(self, now: float, delay_s: float, busy: float) -> None:
        """How long what comes in has to wait, as was just measured, and the part of the time since the sample before in
        which the loop was at work.
        """
        self._delays.append(delay_s)
        if not self._sampled_at:
            self._sampled_at = now
        if len(self._delays) < STANDING_SAMPLES or now <= self._sampled_at or not self._rules.enabled:
            return
        elapsed_s, self._sampled_at = now - self._sampled_at, now
        self.delay_s = min(self._delays)
        self.busy += min(1.0, elapsed_s / BUSY_S) * (busy - self.busy)
        phones, calls = self.registrations, self.calls
        before = phones.rate, calls.rate
        phones.sample(now, elapsed_s, self.delay_s, self.busy)
        if sum(phones.lately) > sum(calls.lately):
            self._storm_seen_at = now
        elif now - self._storm_seen_at > STORM_OVER_S:
            self._storm_from = now
        waits = now > self._storm_from and now - self._storm_from < STORM_S
        calls.sample(now, elapsed_s, min(self.delay_s, CALLS_DELAY_S) if waits else self.delay_s, self.busy)
        if phones.rate < before[0] or calls.rate < before[1]:
            # What comes of it is seen when all of that queue has been served.
            self._delays.clear()
        self.is_limiting = self.calls.is_limiting or self.registrations.is_limiting
        if not self.is_limiting:
            self._admitted.clear()

    def is_emergency(self, number: str) -> bool:
        """True for a number to which calls are always let in."""
        return number in self._rules.emergency_numbers

    def was_admitted(self, now: float, call_id: str) -> bool:
        """True for a request that belongs to one which was let in a moment ago."""
        return now - self._admitted.get(call_id, -inf) <= ADMITTED_S

    def call_may_begin(self, now: float, call_id: str) -> int:
        """0 where a new call is let in, else after how many seconds its caller may try again."""
        if self.calls.admits(now):
            self._remember(now, call_id)
            return 0
        first, last = CALL_RETRY_S
        return first + crc32(call_id.encode("utf-8", "surrogateescape")) % (last - first + 1)

    def phone_may_register(self, now: float, call_id: str) -> int:
        """The same for a phone that is not registered yet. Those who are refused get one after the other a time at
        which there is room.
        """
        if self.registrations.admits(now):
            self._remember(now, call_id)
            return 0
        limiter = self.registrations
        each_s = 1 / max(limiter.rate, limiter.proven_per_s)
        self._next_at = min(max(self._next_at, now + 1.0) + each_s, now + REGISTRATION_RETRY_S_MAX)
        return ceil(self._next_at - now)

    def _remember(self, now: float, call_id: str) -> None:
        if not self.is_limiting:
            return
        admitted = self._admitted
        admitted.pop(call_id, None)
        admitted[call_id] = now
        while len(admitted) > ADMITTED_MAX or now - admitted[next(iter(admitted))] > ADMITTED_S:
            del admitted[next(iter(admitted))]
