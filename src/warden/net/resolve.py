"""Where a request for a URI goes: RFC 3263 (NAPTR, SRV, A, AAAA) with RFC 2782's order of servers.

The resolver asks DNS and remembers answers; it opens no SIP socket.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from ipaddress import ip_address
from random import Random, SystemRandom
from typing import Final, NamedTuple, TypeVar

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA
from dns.rdtypes.IN.NAPTR import NAPTR
from dns.rdtypes.IN.SRV import SRV

from warden.core.address import Address, Transport
from warden.core.errors import Unavailable
from warden.sip.uri import Uri

TARGETS_MAX: Final = 16
"""Addresses tried for one request: at 5 s each the caller has long gone."""
TIMEOUT_S: Final = 3.0
"""For all look-ups of one request together: a caller hears ringing within 4 s or thinks that the line is dead."""
_TRY_S: Final = 1.0
"""For one name server, so that the second and third are asked within `TIMEOUT_S`."""
_RECORDS_MAX: Final = 32
"""Records of one name that are looked at; a real zone has below ten."""
_CACHE_MAX: Final = 4_096
"""Names remembered: every trunk many times over, however many foreign domains are called."""
_TTL_MAX_S: Final = 3_600.0
"""A zone that says more is believed for an hour, so that a move of a trunk is noticed."""
_MISSING_TTL_MAX_S: Final = 30.0
"""How long "there is no such record" is believed; a new trunk is in service half a minute after its zone is."""
_STALE_MAX_S: Final = 86_400.0
"""While DNS does not answer, what it said last is used for up to a day (RFC 8767): trunks outlive their DNS."""
_STALE_RETRY_S: Final = 30.0
"""How long a stale answer is used before DNS is asked again, lest every call wait for the time-out."""

_STALE_SHARE: Final = 0.3
"""The part of the time-out that DNS gets to replace an answer that is stale but would do."""

_PREFERENCE: Final = (Transport.UDP, Transport.TCP, Transport.TLS)
"""Our order where the peer's DNS states none (RFC 3263 section 4.1 leaves it to us)."""
_NAPTR_SERVICES: Final = {"sip+d2u": Transport.UDP, "sip+d2t": Transport.TCP, "sips+d2t": Transport.TLS}
_SRV_PREFIX: Final = {Transport.UDP: "_sip._udp", Transport.TCP: "_sip._tcp", Transport.TLS: "_sips._tcp"}
_DEFAULT_PORT: Final = {Transport.UDP: 5060, Transport.TCP: 5060, Transport.TLS: 5061}

T = TypeVar("T")
Record = A | AAAA | SRV | NAPTR


class Target(NamedTuple):
    """One place to send to. `name` is what a TLS certificate there must carry (RFC 5922 section 4)."""

    transport: Transport
    address: Address
    name: str = ""


class _Known(NamedTuple):
    records: tuple[Record, ...]
    asked_at: float
    fresh_until: float


def name_servers(addresses: Sequence[Address] = ()) -> dns.asyncresolver.Resolver:
    """A DNS client that asks these servers in turn, the system's (resolv.conf) where none is given.

    A system without any still serves its phones: only look-ups of names fail, each with `Unavailable`.
    """
    try:
        client = dns.asyncresolver.Resolver(configure=not addresses)
    except dns.resolver.NoResolverConfiguration:
        client = dns.asyncresolver.Resolver(configure=False)
    if addresses:
        client.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in addresses]
    client.timeout = _TRY_S
    client.lifetime = TIMEOUT_S
    return client


class Resolver:
    """RFC 3263 for requests. Answers are remembered for their TTL; `now` is a steady clock in seconds."""

    def __init__(
        self,
        dns: dns.asyncresolver.Resolver,
        *,
        ipv6: bool = True,
        random: Random | None = None,
        now: Callable[[], float] = time.monotonic,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """With `ipv6` False (no IPv6 socket is open) AAAA records are not asked for. `random` shares the load over
        SRV records of one priority.
        """
        self._dns = dns
        self._ipv6 = ipv6
        self._random = random if random is not None else SystemRandom()
        self._now = now
        self._timeout_s = timeout_s
        self._cache: dict[tuple[str, str], _Known] = {}
        self._dns_silent_until = -math.inf

    async def resolve(self, uri: Uri, *, supported: Collection[Transport]) -> list[Target]:
        """Where to send a request for a sip or sips URI, best first; at least one, at most `TARGETS_MAX`.

        Raises `Unavailable` that names what has no address, does not answer, or asks for a transport that is not
        `supported`.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                targets = await self._resolve(uri, [t for t in _PREFERENCE if t in supported])
        except TimeoutError:
            raise Unavailable(f"dns: {uri.host} was not resolved within {self._timeout_s:g} s") from None
        unique = list(dict.fromkeys(targets))
        if not unique:
            raise Unavailable(f"dns: {uri.host} has no address")
        return unique[:TARGETS_MAX]

    async def _resolve(self, uri: Uri, supported: Sequence[Transport]) -> list[Target]:
        host = (uri.param("maddr") or uri.host).strip("[]").rstrip(".").lower()
        explicit = _explicit_transport(uri, supported)
        default = explicit or supported[0]
        addresses = self._literal(host)
        if addresses or uri.port is not None:
            # Section 4.1: a numeric host or a port leaves nothing for NAPTR and SRV to say.
            port = uri.port if uri.port is not None else _DEFAULT_PORT[default]
            return [Target(default, Address(a, port), uri.host) for a in addresses or await self._addresses(host)]
        services = await self._services(host, explicit, supported)
        if services is None:
            port = _DEFAULT_PORT[default]
            return [Target(default, Address(a, port), uri.host) for a in await self._addresses(host)]
        servers = [record.target.to_text(omit_final_dot=True).lower() for _, record in services]
        found = await _all_that_answer(self._addresses(server) for server in servers)
        return [
            Target(transport, Address(address, record.port), uri.host)
            for (transport, record), addresses in zip(services, found, strict=True)
            for address in addresses
        ]

    async def _services(
        self, host: str, explicit: Transport | None, supported: Sequence[Transport]
    ) -> list[tuple[Transport, SRV]] | None:
        """SRV records with their transports, in the order to try; None where the domain has none."""
        names = await self._service_names(host, explicit, supported)
        answers = await _all_that_answer(self._ask(name, "SRV") for _, name in names)
        if not any(answers):
            return None
        services = []
        for (transport, _), answer in zip(names, answers, strict=True):
            # RFC 2782: a target of "." says that the service is decidedly not there.
            records = [r for r in answer if isinstance(r, SRV) and r.target != dns.name.root]
            services += [(transport, record) for record in self._in_order(records)]
        return services[:TARGETS_MAX]

    async def _service_names(
        self, host: str, explicit: Transport | None, supported: Sequence[Transport]
    ) -> list[tuple[Transport, str]]:
        """The names to look for SRV at, best first: NAPTR's, without NAPTR those that RFC 3263 section 4.1 makes."""
        if explicit is not None:
            return [(explicit, f"{_SRV_PREFIX[explicit]}.{host}")]
        offers = []
        try:
            records = await self._ask(host, "NAPTR")
        except Unavailable:
            records = ()  # Many a forwarder fails on a type it does not know; SRV may do.
        for record in records:
            if isinstance(record, NAPTR) and record.flags.lower() == b"s" and not record.regexp:
                transport = _NAPTR_SERVICES.get(record.service.decode("ascii", "replace").lower())
                if transport is not None and transport in supported:
                    name = record.replacement.to_text(omit_final_dot=True)
                    offers.append((record.order, record.preference, transport, name))
        if offers:
            # RFC 3403 section 4.1: once an order has a usable record, higher ones are not looked at.
            best = min(order for order, _, _, _ in offers)
            return [(transport, name) for order, _, transport, name in sorted(offers) if order == best]
        return [(transport, f"{_SRV_PREFIX[transport]}.{host}") for transport in supported]

    def _in_order(self, records: Sequence[SRV]) -> list[SRV]:
        """By priority; within one, drawn by weight (RFC 2782)."""
        out: list[SRV] = []
        left = sorted(records, key=lambda record: (record.priority, record.weight))
        while left:
            group = [record for record in left if record.priority == left[0].priority]
            mark = self._random.randint(0, sum(record.weight for record in group))
            for record in group:
                mark -= record.weight
                if mark <= 0:
                    out.append(record)
                    left.remove(record)
                    break
        return out

    def _literal(self, host: str) -> list[str]:
        """The address that `host` itself is; [] for a name."""
        if host == "localhost":
            return ["127.0.0.1", "::1"] if self._ipv6 else ["127.0.0.1"]  # RFC 6761 section 6.3: never asked for.
        try:
            return [str(ip_address(host))]
        except ValueError:
            return []

    async def _addresses(self, host: str) -> list[str]:
        """The addresses of a host, IPv4 first, at least one. Raises `Unavailable`."""
        answers = await _all_that_answer(self._ask(host, kind) for kind in (("A", "AAAA") if self._ipv6 else ("A",)))
        found = [record.address for answer in answers for record in answer if isinstance(record, A | AAAA)]
        if not found:
            raise Unavailable(f"dns: {host} has no address")
        return found

    async def _ask(self, name: str, kind: str) -> tuple[Record, ...]:
        """The records of a name, () where there are none. Raises `Unavailable` when DNS does not say."""
        now = self._now()
        known = self._cache.get((name, kind))
        if known is not None and now < known.fresh_until:
            return known.records
        stale = known is not None and now - known.asked_at < _STALE_MAX_S
        if known is not None and stale and now < self._dns_silent_until:
            return known.records
        try:
            records, ttl_s = await self._ask_dns(name, kind, self._timeout_s * (_STALE_SHARE if stale else 1.0))
        except dns.exception.DNSException as error:
            if isinstance(error, dns.resolver.LifetimeTimeout):
                self._dns_silent_until = self._now() + _STALE_RETRY_S
            if known is None or not stale:
                raise Unavailable(f"dns: {name} {kind}: {_reason(error)}") from None
            self._cache[name, kind] = known._replace(fresh_until=self._now() + _STALE_RETRY_S)
            return known.records
        if len(self._cache) >= _CACHE_MAX:
            self._cache.clear()
        self._cache[name, kind] = _Known(records, now, now + ttl_s)
        return records

    async def _ask_dns(self, name: str, kind: str, within_s: float) -> tuple[tuple[Record, ...], float]:
        """Records and for how many seconds they hold."""
        try:
            answer = await self._dns.resolve(
                dns.name.from_text(name), kind, search=False, raise_on_no_answer=False, lifetime=within_s
            )
        except dns.resolver.NXDOMAIN:
            return (), _MISSING_TTL_MAX_S
        self._ask_first(answer.nameserver, answer.port)
        ttl_s = float(answer.chaining_result.minimum_ttl)
        if answer.rrset is None:
            return (), min(ttl_s, _MISSING_TTL_MAX_S)
        records = tuple(record for record in answer.rrset if isinstance(record, Record))[:_RECORDS_MAX]
        return records, min(ttl_s, _TTL_MAX_S)

    def _ask_first(self, host: str | None, port: int | None) -> None:
        """The server that has answered is the first from now on. One that is silent costs its second once, and not for
        each of NAPTR, SRV and A: these together would be all the time there is.
        """
        servers = list(self._dns.nameservers)
        for place, server in enumerate(servers):
            if server == host or (
                isinstance(server, dns.nameserver.Do53Nameserver) and (server.address, server.port) == (host, port)
            ):
                if place:
                    self._dns.nameservers = [*servers[place:], *servers[:place]]
                return


def _explicit_transport(uri: Uri, supported: Sequence[Transport]) -> Transport | None:
    """The transport about which the URI leaves no choice, None where it leaves one among `supported`."""
    wanted = uri.transport
    if uri.param("transport") is not None and wanted is None:
        raise Unavailable(f"dns: {uri}: unknown transport")
    if uri.scheme == "sips":
        if wanted not in (None, Transport.TCP, Transport.TLS):
            raise Unavailable(f"dns: {uri}: sips cannot go over {wanted}")
        wanted = Transport.TLS
    if not supported or (wanted is not None and wanted not in supported):
        raise Unavailable(f"dns: {uri}: {wanted or 'no transport'} is not served here")
    return wanted


async def _all_that_answer(questions: Iterable[Awaitable[T]]) -> list[T | tuple[()]]:
    """The answers in order, () for those that failed; raises the first failure where none has an answer."""
    answers = await asyncio.gather(*questions, return_exceptions=True)
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    for failure in failures:
        if not isinstance(failure, Unavailable):
            raise failure
    good: list[T | tuple[()]] = [() if isinstance(answer, BaseException) else answer for answer in answers]
    if failures and not any(good):
        raise failures[0]
    return good


def _reason(error: dns.exception.DNSException) -> str:
    if isinstance(error, dns.resolver.LifetimeTimeout):
        return "no name server answers"
    if isinstance(error, dns.resolver.NoNameservers):
        return "no name server, or each one refuses or fails"
    return str(error).lower() or type(error).__name__
