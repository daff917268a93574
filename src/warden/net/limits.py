"""How much one address may ask of us. Pure: the time is an argument."""

from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final

_ADDRESSES_MAX: Final = 65_536
"""Addresses remembered at a time, about 8 MiB. Whoever can send from more is not held by limits per address."""


@lru_cache(maxsize=8192)
def limit_key(host: str) -> str:
    """What limits per address count by: an IPv4 address itself, the /64 of an IPv6 address."""
    if ":" not in host:
        return host
    address = ip_address(host.partition("%")[0])
    return str(ip_network(f"{address}/64", strict=False))


@lru_cache(maxsize=8192)
def is_numeric(host: str) -> bool:
    """True for an IP address, False for a name (which the kernel's resolver would block on)."""
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class RateLimit:
    """A token bucket per key, each kept as the one time at which it will be full again."""

    __slots__ = ("_full_at", "_interval_s", "_keys_max", "_tolerance_s")

    def __init__(self, per_s: float, burst: int, keys_max: int = _ADDRESSES_MAX) -> None:
        self._interval_s = 1.0 / per_s
        self._tolerance_s = burst / per_s
        self._keys_max = keys_max
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def allows(self, key: str, now: float) -> bool:
        """Take a token of `key` at `now` (seconds, steady); False when there is none."""
        full_at = self._full_at.get(key)
        if full_at is None:
            if len(self._full_at) >= self._keys_max:
                self._forget(now)
            full_at = now
        elif full_at < now:
            full_at = now
        full_at += self._interval_s
        # The thousandth of a token bears the rounding of many small sums.
        if full_at - now > self._tolerance_s + self._interval_s / 1000:
            return False
        self._full_at[key] = full_at
        return True

    def _forget(self, now: float) -> None:
        self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        if len(self._full_at) > self._keys_max // 2:
            # Forgetting one at a time would walk the whole table for each new address of a spoofed flood.
            self._full_at.clear()
