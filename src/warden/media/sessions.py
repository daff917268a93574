"""The sessions as the controller ordered them, and the ports that make them so.

Decides what to open, close and join for an order; the packets themselves go through `process.py` and `port.py`.
"""

import select
import time
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Final

from warden.core.errors import WardenError
from warden.media import clips
from warden.media.player import Player, Players
from warden.media.port import NARROW_SILENCE_S, Port, read_host, usable
from warden.media.protocol import (
    Answer,
    Done,
    Drop,
    Dropped,
    Event,
    FellSilent,
    Lease,
    List,
    Listed,
    Mode,
    Order,
    Played,
    Put,
    Quit,
    Refused,
    Session,
    Share,
    Side,
    SideStats,
    Stream,
    Totals,
    TotalsAre,
)
from warden.rtp.g711 import SILENCE
from warden.sdp.crypto import is_usable

STREAMS_MAX: Final = 8
"""Streams of one call: audio, video, and room for what a phone may offer besides."""
HOSTS_MAX: Final = 16
"""Allowed hosts of a side: SDP's, the signalling's, and those of the phones that a fork rang."""
PACKETS_PER_S_MAX: Final = 3000
"""From one peer. High-definition video has 1,000; more is a flood, or two sessions that send each other's packets in a
circle. The port passes nothing on until the rate has fallen.
"""
GROUPS_MAX: Final = 1024
"""Leases that are remembered: more seats than a cluster has."""
STEADY: Final = 20
"""Packets a second from which sparing what each of them costs is worth the while."""
LOOK_S: Final = 1.0
"""How often the rate of the ports is looked at."""
PAUSE_LOOK_S: Final = 0.2
"""How often it is looked whether a peer has paused."""


class Impossible(WardenError):
    """Why an order is refused."""


@dataclass
class Held:
    """A session, its ports by number, and who knows of its events. `silent_at` is when a side may have been silent for
    too long, at the earliest.
    """

    order: Session
    ports: dict[int, Port] = field(default_factory=dict)
    player: Player | None = None
    played: str = ""
    silent_at: float = inf
    controller: int = 0
    group: str = ""


class Sessions:
    """All sessions of the process. `by_fd` is the relay's table; `events` is what the controller is to be told;
    `lapse_at` when the first lease ends.
    """

    def __init__(self, epoll: select.epoll, prompts: Path) -> None:
        self.by_fd: dict[int, Port] = {}
        self.events: list[Event] = []
        self.players = Players(self.events)
        self._epoll = epoll
        self._prompts = prompts
        self._held: dict[str, Held] = {}
        self._past = TotalsAre()
        self._rates: dict[int, int] = {}
        self._leases: dict[str, float] = {}
        self.lapse_at = inf

    def carry_out(self, order: Order, now: float, controller: int) -> Answer:
        """Do what `order` says. `controller` numbers who asks: a new one is told what only an older one knows."""
        match order:
            case Put(session=session, group=group, ahead=ahead):
                try:
                    self._put(session, group, now, controller, ahead=ahead)
                except (Impossible, clips.Unplayable) as error:
                    return Refused(str(error))
                return Done()
            case Drop(id=id_):
                return self._drop(id_)
            case Share(ids=ids):
                for id_ in ids:
                    for port in self._held[id_].ports.values() if id_ in self._held else ():
                        port.share()
                return Done()
            case Lease(group=group, until_mono=until):
                return self._lease(group, until, now)
            case List():
                return Listed(tuple(self._held))
            case Totals():
                return self._totals()
            case Quit():
                return Done()

    # ---- put ----

    def _put(self, session: Session, group: str, now: float, controller: int, *, ahead: bool) -> None:
        if self._leases.get(group, inf) <= now:
            raise Impossible(f"the lease of {group} has ended")
        held = self._held.get(session.id)
        if held is None or held.order != session:
            sides = _sides(session, None if held is None else held.order)
            octets = self._octets(session, held)
            opened = self._open(session, sides, held, ahead=ahead)
            if held is None:
                held = self._held[session.id] = Held(session, controller=controller)
            if held.order.silence_s != session.silence_s or held.silent_at == inf:
                held.silent_at = now + (session.silence_s or inf)
            self._replace(held, session, sides, opened)
            self._play(held, session, octets, now)
            self._join(held)
        held.group = group
        if held.controller != controller:
            held.controller = controller
            self.events += [told for port in held.ports.values() if (told := port.untold())]
            if session.playing is not None and held.played == session.playing.id:
                self.events.append(Played(session.id, held.played))

    def _octets(self, session: Session, held: Held | None) -> bytes | None:
        """What to play, if it is to be started."""
        playing = session.playing
        if playing is None or (held is not None and playing.id == held.played):
            return None
        if held is not None and held.player is not None and held.player.id == playing.id:
            return None
        return clips.encoded(playing, self._prompts)

    def _open(self, session: Session, sides: dict[int, Side], held: Held | None, *, ahead: bool) -> dict[int, Port]:
        """Open what is not there yet: all of it, or nothing."""
        opened: dict[int, Port] = {}
        for number, side in sides.items():
            host = side.host or session.host
            before = None if held is None else held.ports.get(number)
            if held is not None and before is not None and (before.side.host or held.order.host) == host:
                continue
            for rtcp in (False, True):
                try:
                    opened[number + rtcp] = Port(session.id, host, side, self.events, rtcp=rtcp, ahead=ahead)
                except OSError as error:
                    for port in opened.values():
                        port.close()
                    raise Impossible(f"port {number + rtcp} of {host}: {error.strerror or error}") from error
        return opened

    def _replace(self, held: Held, session: Session, sides: dict[int, Side], opened: dict[int, Port]) -> None:
        for number in [n for n in held.ports if n & ~1 not in sides or n in opened]:
            port = held.ports.pop(number)
            self._close(port)
            if not port.rtcp:
                self._past = _added(self._past, port.stats(0.0))
        for number, port in held.ports.items():
            side = sides[number & ~1]
            if port.side != side:
                port.describe(side)
        for port in opened.values():
            self.by_fd[port.fd] = port
            self._epoll.register(port.fd, select.EPOLLIN)
        # In the order of the streams, which is the order of the counters in `Dropped`.
        ports = {**held.ports, **opened}
        held.ports = {n + rtcp: ports[n + rtcp] for n in sides for rtcp in (0, 1)}
        held.order = session

    def _play(self, held: Held, session: Session, octets: bytes | None, now: float) -> None:
        playing = session.playing
        player = held.player
        if player is not None and (playing is None or playing.id != player.id):
            player.stopped = True
            held.player = player = None
        if playing is None:
            return
        port = held.ports[session.streams[0].a.port]
        if octets is not None:
            player = Player(playing.id, port, octets, SILENCE[playing.codec], playing.payload_type)
            held.player = player
            held.played = ""
            self.players.start(player, now)
        elif player is not None:
            player.port = port

    def _join(self, held: Held) -> None:
        """Say for every port whose peer gets its packets, and what else becomes of them."""
        heard = held.player.port if held.player is not None else None
        for stream in held.order.streams:
            for side, other in ((stream.a, stream.b), (stream.b, stream.a)):
                if side is None:
                    continue
                for rtcp in (0, 1):
                    port = held.ports[side.port + rtcp]
                    peer = held.ports[other.port + rtcp] if other is not None else None
                    port.mode = stream.mode
                    port.talking = port is heard
                    passes = stream.mode is Mode.RELAY and not port.muted and (peer is None or peer is not heard)
                    port.peer = peer if passes else None

    # ---- drop, list, totals ----

    def _drop(self, id_: str) -> Dropped:
        held = self._held.pop(id_, None)
        if held is None:
            return Dropped()
        if held.player is not None:
            held.player.stopped = True
        stats = tuple(self._stats(held))
        for port in held.ports.values():
            self._close(port)
        for side in stats:
            self._past = _added(self._past, side)
        return Dropped(stats)

    @staticmethod
    def _stats(held: Held) -> list[SideStats]:
        ports = held.ports
        return [port.stats(ports[number + 1].rtt_s) for number, port in ports.items() if not port.rtcp]

    def _close(self, port: Port) -> None:
        del self.by_fd[port.fd]
        self._rates.pop(port.fd, None)
        port.peer = None
        port.close()

    def _totals(self) -> TotalsAre:
        sums = self._past
        for port in self.by_fd.values():
            if not port.rtcp:
                sums = _added(sums, port.stats(0.0))
        return TotalsAre(len(self._held), sums.packets, sums.bytes, sums.lost, sums.dropped, cpu_s=time.process_time())

    def close(self) -> None:
        """Close everything."""
        for id_ in list(self._held):
            self._drop(id_)

    # ---- time ----

    def _lease(self, group: str, until: float, now: float) -> Answer:
        if group not in self._leases and len(self._leases) >= GROUPS_MAX:
            return Refused(f"{GROUPS_MAX} groups have a lease already")
        self._leases[group] = until
        self.lapse(now)
        return Done()

    def lapse(self, now: float) -> list[str]:
        """Close what has no lease any more; the groups that had something to close."""
        over = {group for group, until in self._leases.items() if until <= now}
        self.lapse_at = min((until for until in self._leases.values() if until > now), default=inf)
        ended = [(id_, held.group) for id_, held in self._held.items() if held.group in over]
        for id_, _ in ended:
            self._drop(id_)
        return sorted({group for _, group in ended})

    def tick(self, now: float) -> None:
        """Let the players send what is due."""
        for player in self.players.tick(now):
            held = self._held[player.port.session]
            held.played, held.player = player.id, None
            self._join(held)

    def look_at_rates(self) -> None:
        """Once a second: mute the ports to which too much comes, and let the others speak again. Those to which a
        stream comes steadily are spared what they need not look at.
        """
        for fd, port in self.by_fd.items():
            packets = port.packets
            came = packets - self._rates.get(fd, packets)
            muted = came > PACKETS_PER_S_MAX * LOOK_S
            self._rates[fd] = packets
            if came >= STEADY and port.receive is None and not port.rtcp:
                port.keep_to_peer()
            if muted is not port.muted:
                port.muted = muted
                self._join(self._held[port.session])

    def look_at_pauses(self, now: float) -> None:
        """Five times a second: let the ports whose peer may have moved hear everybody."""
        for port in self.by_fd.values():
            if port.narrow and now - port.reception.heard_at > NARROW_SILENCE_S:
                port.widen()

    def look_at_silence(self, now: float) -> None:
        """Once a second: tell of the sides that have fallen silent."""
        for held in self._held.values():
            if held.silent_at <= now:
                held.silent_at = min(self._next_silence(held, now, numbers) for numbers in _numbers(held.order))

    def _next_silence(self, held: Held, now: float, numbers: list[int]) -> float:
        """Tell of the side with these ports if it is silent; when to look at it again."""
        limit = held.order.silence_s
        heard_at = max(held.ports[number + rtcp].heard_at for number in numbers for rtcp in (0, 1))
        # Whoever never sent anything may not be able to, and says nothing by it.
        if heard_at < 0.0:
            return now + limit
        if now - heard_at < limit:
            return heard_at + limit
        self.events.append(FellSilent(held.order.id, numbers[0]))
        return now + limit


def _numbers(session: Session) -> list[list[int]]:
    """The RTP ports of each of the two sides."""
    a = [stream.a.port for stream in session.streams]
    b = [stream.b.port for stream in session.streams if stream.b is not None]
    return [a, b] if b else [a]


def _added(sums: TotalsAre, stats: SideStats) -> TotalsAre:
    return TotalsAre(
        packets=sums.packets + stats.packets,
        bytes=sums.bytes + stats.bytes,
        lost=sums.lost + stats.lost,
        dropped=sums.dropped + stats.dropped,
    )


def _sides(session: Session, before: Session | None) -> dict[int, Side]:
    """All sides by port, checked as far as they are not those of the session as it was; raises `Impossible`."""
    if not 1 <= len(session.streams) <= STREAMS_MAX:
        raise Impossible(f"{len(session.streams)} streams; 1 to {STREAMS_MAX} can be carried")
    sides: dict[int, Side] = {}
    known = () if before is None or before.host != session.host else before.streams
    checked = [side for stream in known for side in _of(stream)]
    for stream in session.streams:
        for side in _of(stream):
            if side.port % 2 or not 1024 <= side.port < 65535:
                raise Impossible(f"port {side.port}: an even port from 1024 to 65534 is needed")
            if side.port in sides:
                raise Impossible(f"port {side.port} is named twice")
            if side not in checked:
                _check(side, _ip_version("host", side.host or session.host))
            sides[side.port] = side
    ours = {side.host or session.host for side in sides.values()}
    for side in sides.values():
        for remote in (side.remote, side.remote_rtcp, side.learned, side.learned_rtcp):
            # The packets of such a session would go round for ever.
            if remote is not None and remote.host in ours and remote.port & ~1 in sides:
                raise Impossible(f"the peer of port {side.port} is port {remote.port} of the same session")
    return sides


def _of(stream: Stream) -> tuple[Side, ...]:
    return (stream.a,) if stream.b is None else (stream.a, stream.b)


def _check(side: Side, version: int) -> None:
    if len(side.hosts) > HOSTS_MAX:
        raise Impossible(f"port {side.port}: {len(side.hosts)} hosts are more than {HOSTS_MAX}")
    if not -1 <= side.dtmf_payload_type < 128 or not 1 <= side.clock_hz <= 1_000_000:
        raise Impossible(f"port {side.port}: payload type {side.dtmf_payload_type}, clock {side.clock_hz}")
    if side.srtp is not None and not is_usable(side.srtp):
        raise Impossible(f"port {side.port}: its SRTP keys are none")
    for host in side.hosts:
        _ip_version(f"port {side.port}", host)
    for remote in (side.remote, side.remote_rtcp, side.learned, side.learned_rtcp):
        if remote is None:
            continue
        what = f"port {side.port}: the peer's address"
        theirs = _ip_version(what, remote.host)
        if not 0 <= remote.port < 65536:
            raise Impossible(f"{what} has port {remote.port}")
        if read_host(remote.host).is_multicast:
            raise Impossible(f"{what} {remote.host} is a multicast group")
        if theirs != version and usable(remote) is not None:
            raise Impossible(f"{what} {remote.host} is IPv{theirs}, ours is IPv{version}")


def _ip_version(what: str, host: str) -> int:
    """4 or 6. Names are refused: looking one up would stop all audio."""
    try:
        return read_host(host).version
    except ValueError as error:
        raise Impossible(f"{what}: {host!r} is no IP address") from error
