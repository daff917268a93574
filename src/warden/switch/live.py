"""A call as the switch carries it: engine state, SIP legs, transactions, media; and all of it as one record."""

import re
from functools import lru_cache
from operator import is_
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from warden.call.apps.beeps import Beeps
from warden.call.apps.echo import Echo
from warden.call.model import Call, Leg, LegPhase, Phase
from warden.call.way import SPEAKERS
from warden.core.address import Address, Flow
from warden.core.errors import MalformedMessage
from warden.core.versions import Codec, Extras, Unreadable
from warden.media.protocol import Clip, Mode, Playing, Rolled, Session, Side, Stream
from warden.sdp.answer import read_answer
from warden.sdp.crypto import Keys
from warden.sdp.relay import STREAMS_MAX, streams
from warden.sdp.sdes import Sdes
from warden.sdp.session import STATIC, Direction
from warden.sip.dialog import Dialog
from warden.sip.endpoint import Endpoint, Transaction
from warden.sip.message import Request
from warden.sip.refer import Replaces
from warden.sip.session_timer import SessionTimer
from warden.switch.settings import Settings
from warden.switch.trunks.leg import TrunkLeg

SCHEMA: Final = 1
_PAUSE_MS: Final = 400
ROLLED_MAX: Final = 12
"""Counted sources that a side's record has: three directions, for who talks now and the three before."""


class Instead(Struct, frozen=True, gc=False, omit_defaults=True):
    """A peer has refused the re-INVITE that tells where we are, and gets an INVITE with Replaces (`replacing`).
    `dialog` is the one that this is to make, None before it is sent. `has_left`: the peer has ended the dialog that it
    has, which is what follows from accepting the other one, and may be a hang-up too.
    """

    dialog: Dialog | None = None
    has_left: bool = False


class SipLeg(Struct, frozen=True, gc=False, omit_defaults=True):
    """One leg's SIP: its dialog and the keys of its transactions ("" where there is none under way).

    `target` and `route` say where a callee's INVITE goes, `flow` over what; `lookup` that `target` must be resolved
    first, `direct` that the peer is where its Contact says (`switch.targets`). `update_out` stays after its 2xx
    (`update_out_answered`), since its transaction repeats the ACK, and `last_in`, the peer's last request but INVITE,
    after its answer, so that a repetition is known as one. `forks` are the tags of other phones that answered the same
    INVITE and were hung up. `phone_host` is where a phone is that is reached through another seat, "" for all others.
    `fields` are those of its INVITE beside the usual ones. `refer` is the CSeq of its REFER while it wants to hear how
    that goes on, `notify` tells it so.
    `timer` is there from the answer on, `least_s` is the shortest session interval that the peer takes (0: unknown).
    `trunk` is there for a leg over one. `tell_at` is when the peer is to be told that we have another address; None
    where it knows. `instead` is there once it has refused to be told within its dialog, and then `update_out` the
    INVITE that asks for another one; `former` is the dialog whose place that has taken.
    """

    id: str
    local_tag: str
    call_id: str
    flow: Flow
    target: str = ""
    route: tuple[str, ...] = ()
    lookup: bool = False
    direct: bool = False
    dialog: Dialog | None = None
    early_tag: str = ""
    invite: str = ""
    invite_cseq: int = 1
    update_in: str = ""
    update_in_method: str = ""
    update_in_cseq: int = 0
    update_out: str = ""
    update_out_method: str = ""
    update_out_cseq: int = 0
    update_out_answered: bool = False
    last_in: str = ""
    bye: str = ""
    allows_update: bool = False
    forks: tuple[str, ...] = ()
    phone_host: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    refer: int = 0
    notify: str = ""
    timer: SessionTimer | None = None
    least_s: int = 0
    trunk: TrunkLeg | None = None
    tell_at: float | None = None
    instead: Instead | None = None
    former: Replaces | None = None

    @property
    def asks_instead(self) -> bool:
        """True while an INVITE with Replaces has no final answer."""
        return self.instead is not None and self.instead.dialog is not None

    def is_peer(self, request: Request) -> bool:
        """True where a request with the Call-ID and tag of one of the leg's dialogs has the peer's tag, too."""
        tag = request.from_.tag or ""
        if self.former is not None and request.call_id == self.former.call_id:
            return tag == self.former.from_tag
        return self.dialog is None or tag == self.dialog.remote_tag


class LegSrtp(Struct, frozen=True, gc=False):
    """What protects a leg's media."""

    leg: str
    sdes: Sdes


class Snapshot(Struct, frozen=True, gc=False):
    """A call as its store record: what a successor needs to go on with it, and nothing else."""

    schema: int
    revision: int
    max_forwards: int
    call: Call
    legs: tuple[SipLeg, ...]
    transactions: tuple[Transaction, ...]
    session: Session | None
    srtp: tuple[LegSrtp, ...] = ()


SNAPSHOTS: Final = Codec(Snapshot, SCHEMA)
"""Calls as records."""


class _Media(Struct, frozen=True, gc=False):
    schema: int
    session: Session | None


_MEDIA: Final = Codec(_Media, SCHEMA)


def find_session(record: bytes) -> Session | None:
    """The media of the next version's call that this one cannot carry, where it understands at least that."""
    try:
        return _MEDIA.decode(record)[0].session
    except Unreadable:
        return None


def ports_of(session: Session) -> set[int]:
    """Our RTP ports in a session."""
    return {side.port for stream in session.streams for side in (stream.a, stream.b) if side is not None}


def snapshot_of(live: "LiveCall", endpoint: Endpoint) -> Snapshot:
    """The call as it stands, with the transactions that are under way. They are said again in this order, so that a
    referrer hears of its transfer before it is hung up.
    """
    export = endpoint.export
    transactions = [
        transaction
        for leg in live.legs.values()
        for key in {leg.invite: 0, leg.update_in: 0, leg.update_out: 0, leg.last_in: 0, leg.notify: 0, leg.bye: 0}
        if key and (transaction := export(key)) is not None
    ]
    legs = tuple(live.legs.values())
    srtp = tuple(LegSrtp(leg, sdes) for leg, sdes in live.srtp.items())
    return Snapshot(SCHEMA, live.revision, live.max_forwards, live.call, legs, tuple(transactions), live.session, srtp)


class LiveCall:
    """The one mutable thing about a call: which values are current. `requests` holds the requests that wait for an
    answer or made a dialog, by transaction key; `srtp` the keys of the legs that have any; `keys` all transactions that
    belong to the call. `written` is what the newest record was made of, `session_of` what the session was told from:
    both compared by identity. `extras` is what a newer version knows of the call and this one does not.
    """

    __slots__ = (
        "call", "extras", "keys", "legs", "max_forwards", "requests", "revision", "session", "session_of", "srtp",
        "written",
    )  # fmt: skip

    def __init__(self, call: Call, max_forwards: int) -> None:
        self.call = call
        self.legs: dict[str, SipLeg] = {}
        self.requests: dict[str, Request] = {}
        self.keys: set[str] = set()
        self.srtp: dict[str, Sdes] = {}
        self.session: Session | None = None
        self.session_of: tuple[object, ...] = ()
        self.written: tuple[object, ...] = ()
        self.revision = 0
        self.max_forwards = max_forwards
        self.extras: Extras | None = None

    @property
    def values(self) -> tuple[object, ...]:
        """What a record would be made of now."""
        return (self.call, self.session, *self.legs.values(), *self.srtp.values())


def is_same(ours: tuple[object, ...], theirs: tuple[object, ...]) -> bool:
    """True where both hold the very same values; frozen values that are equal may still be two."""
    return len(ours) == len(theirs) and all(map(is_, ours, theirs))


def session_of(live: LiveCall, settings: Settings) -> Session | None:
    """The media that the call wants now, told from what its legs last heard; None when it is over.

    What the media process has learned about a peer's address stays in force until that peer's SDP names another
    address: then it is forgotten and the generation grows, so that the process learns anew.
    """
    call = live.call
    if call.phase is Phase.OVER or not call.ports.a:
        return None
    from_ = told_from(live)
    if is_same(from_, live.session_of):
        return live.session
    live.session_of = from_
    caller, callee, old = call.leg(call.near), _heard_callee(call), live.session
    a_side = _peer(live, caller, caller.told if callee is None else callee.heard)
    b_side = () if callee is None else _peer(live, callee, caller.heard)
    ours, theirs = live.srtp.get(caller.id), _callee_srtp(live, callee)
    made = []
    hosts = settings.media_bind_for(caller.host), settings.media_bind_for(_far_host(call, callee))
    for i, port in enumerate(call.ports.a):
        before = old.streams[i] if old is not None and i < len(old.streams) else None
        a = _side(port, a_side[i] if i < len(a_side) else None, before.a if before else None, _keys(ours, i), hosts[0])
        if call.app is not None:
            made.append(Stream(a, None, Mode.ECHO if isinstance(call.app, Echo) else Mode.SILENT))
        else:
            b_before = before.b if before else None
            b = _side(call.ports.b[i], b_side[i] if i < len(b_side) else None, b_before, _keys(theirs, i), hosts[1])
            made.append(Stream(a, b, Mode.RELAY))
    silence_s = 0.0 if callee is None else _silence_s(call, caller, callee, settings)
    session = Session(call.id, settings.media_bind, tuple(made), _playing(live), silence_s)
    return old if session == old else session


def told_from(live: LiveCall) -> tuple[object, ...]:
    """The values that `session_of` tells the session from."""
    call = live.call
    caller, callee = call.leg(call.near), _heard_callee(call)
    speaks = isinstance(call.app, SPEAKERS) and caller.phase is LegPhase.UP
    ours = (call.ports, caller.heard, caller.told, speaks, live.legs[caller.id].flow, live.legs[caller.id].phone_host)
    if callee is None:
        return (*ours, _far_host(call, callee), *live.srtp.values())
    sip = live.legs[callee.id]
    gone = caller.phase is LegPhase.GONE, callee.phase is LegPhase.GONE, call.transfer is None
    return (*ours, *gone, call.phase, callee.heard, callee.told, sip.flow, sip.phone_host, *live.srtp.values())


def _far_host(call: Call, callee: Leg | None) -> str:
    """Our address for who is called: until it is known who that is, that for the latest."""
    far = callee or (call.callees[-1] if call.callees else None)
    return "" if far is None else far.host


def _silence_s(call: Call, near: Leg, far: Leg, settings: Settings) -> float:
    """For how long a phone of the pair may send nothing; 0 where that means nothing."""
    if call.phase is not Phase.UP or not (near.heard and far.heard):
        return 0.0
    if call.transfer is not None:
        # Who waits for somebody else may well be silent, and the referrer may have hung up.
        return 0.0
    talk = _talks(near.heard) and _talks(far.heard)
    return settings.rtp_timeout_s if talk else settings.rtp_hold_timeout_s


def _talks(sdp: str) -> bool:
    return any(info.active and info.direction is Direction.SENDRECV for info in streams(sdp))


def _heard_callee(call: Call) -> Leg | None:
    """The callee whose media the caller is to hear."""
    if call.joined:
        return call.leg(call.joined)
    for leg in call.callees:
        if leg.heard:
            return leg
    return None


def _callee_srtp(live: LiveCall, callee: Leg | None) -> Sdes | None:
    """What protects the callee's side. As long as no callee has been heard, any may be speaking under its keys."""
    if callee is not None or not live.srtp:
        return None if callee is None else live.srtp.get(callee.id)
    return next((srtp for leg in live.call.callees if (srtp := live.srtp.get(leg.id)) is not None), None)


def _keys(srtp: Sdes | None, stream: int) -> Keys | None:
    return None if srtp is None else srtp.keys(stream)


def _playing(live: LiveCall) -> Playing | None:
    caller, app = live.call.caller, live.call.app
    # A phone that has not confirmed the answer may not be listening yet, and would miss the first words.
    if not isinstance(app, SPEAKERS) or caller.phase is not LegPhase.UP:
        return None
    try:
        agreed = read_answer(caller.heard, caller.told)
    except MalformedMessage:
        # An offer of ours that is not answered yet: what was agreed before goes on.
        return None if live.session is None else live.session.playing
    if isinstance(app, Beeps):
        clips = tuple(Clip(tone_hz=hz, ms=ms) for hz, ms in app.tones)
    else:
        clips = tuple(Clip(path=f"{name}.wav") if name else Clip(ms=_PAUSE_MS) for name in app.prompts)
    # Another codec is another playing, so it begins again: nobody changes codecs while listening to the time.
    return Playing(f"clock {agreed.codec}", clips, agreed.codec, agreed.payload_type)


class _Peer(Struct, frozen=True, gc=False):
    """What one stream of a side is told of its peer."""

    remote: Address | None
    remote_rtcp: Address | None
    hosts: tuple[str, ...]
    dtmf_payload_type: int
    clock_hz: int


def _peer(live: LiveCall, leg: Leg, asked: str) -> tuple[_Peer, ...]:
    """`asked` is what the leg's peer was told to send, as far as formats go: the other side's description."""
    sip = live.legs[leg.id]
    host = sip.phone_host or sip.flow.remote.host
    if leg.heard and leg.phase is not LegPhase.GONE:
        return _peers(leg.heard, asked or leg.heard, host)
    return (_Peer(None, None, (host,), -1, 8000),) * STREAMS_MAX


def _peers(heard: str, asked: str, host: str) -> tuple[_Peer, ...]:
    made = []
    formats = _formats(asked)
    for i, info in enumerate(streams(heard)):
        remote = info.rtp if info.active else None
        hosts = (host,) if remote is None or remote.host == host else (remote.host, host)
        dtmf, clock = formats[i] if i < len(formats) else (-1, 8000)
        made.append(_Peer(remote, info.rtcp if info.active else None, hosts, dtmf, clock))
    return tuple(made)


_FORMAT: Final = re.compile(r"^m=\S+ \S+ \S+ (\d+)|^a=rtpmap:(\d+) ([^/\s]+)/(\d{1,7})", re.MULTILINE)


@lru_cache(maxsize=256)
def _formats(sdp: str) -> tuple[tuple[int, int], ...]:
    """Per stream the payload type of RFC 4733 digits (-1: none) and the RTP clock of its first format, in Hz: what a
    peer sends is what the other side's description asks for (RFC 3264 section 5.1).

    Two facts of a text that has been parsed at the door are found by a pattern: parsing it again for them would be the
    most expensive part of a call.
    """
    made: list[tuple[int, int]] = []
    first = ""
    for chosen, payload_type, name, clock in _FORMAT.findall(sdp):
        if chosen:
            first = chosen
            made.append((-1, STATIC.get(int(chosen), ("", 8000, 1))[1]))
        elif made:
            event, hz = made[-1]
            if payload_type == first:
                made[-1] = (event, int(clock) or 8000)
            elif name.lower() == "telephone-event" and (event < 0 or int(clock) == hz):
                made[-1] = (int(payload_type), hz)
    return tuple(made)


def _side(port: int, peer: _Peer | None, before: Side | None, srtp: Keys | None, host: str) -> Side:
    if before is not None and before.host != host:
        # Nothing that is known of a peer holds for one that speaks another version of IP.
        before = Side(port, generation=before.generation + 1)
    side = _described(port, peer, before)
    return side if side.srtp == srtp and side.host == host else replace(side, srtp=srtp, host=host)


def _described(port: int, peer: _Peer | None, before: Side | None) -> Side:
    if peer is None:
        return Side(port) if before is None else before
    if before is None:
        return Side(
            port, peer.remote, peer.remote_rtcp, peer.hosts,
            dtmf_payload_type=peer.dtmf_payload_type, clock_hz=peer.clock_hz,
        )  # fmt: skip
    if before.dtmf_payload_type != peer.dtmf_payload_type or before.clock_hz != peer.clock_hz:
        before = replace(before, dtmf_payload_type=peer.dtmf_payload_type, clock_hz=peer.clock_hz)
    if peer.remote == before.remote and peer.remote_rtcp == before.remote_rtcp and peer.hosts == before.hosts:
        return before
    return replace(
        before,
        remote=peer.remote,
        remote_rtcp=peer.remote_rtcp,
        hosts=peer.hosts,
        generation=before.generation + (before.remote is not None),
        learned=None,
        learned_rtcp=None,
    )


def with_latched(session: Session, port: int, address: Address, *, rtcp: bool) -> Session:
    """The session with what the media process has learned about one side's peer."""

    def learned(side: Side | None) -> Side | None:
        if side is None or side.port != port:
            return side
        return replace(side, learned_rtcp=address) if rtcp else replace(side, learned=address)

    made = tuple(replace(stream, a=learned(stream.a), b=learned(stream.b)) for stream in session.streams)
    return replace(session, streams=made)


def with_rolled(session: Session, port: int, rolled: Rolled) -> Session:
    """The session with how far the media process has counted one side's packets."""

    def counted(side: Side | None) -> Side | None:
        if side is None or side.port != port:
            return side
        others = [r for r in side.rolled if (r.way, r.ssrc, r.key) != (rolled.way, rolled.ssrc, rolled.key)]
        return replace(side, rolled=(*others, rolled)[-ROLLED_MAX:])

    made = tuple(replace(stream, a=counted(stream.a), b=counted(stream.b)) for stream in session.streams)
    return replace(session, streams=made)


def counted_on(session: Session, other: Session) -> Session:
    """The session with how far the packets of another one have been counted, from which a leg comes with its keys."""
    theirs = tuple(r for stream in other.streams for side in (stream.a, stream.b) if side for r in side.rolled)

    def with_theirs(side: Side | None) -> Side | None:
        return side and replace(side, rolled=(*theirs, *side.rolled)[-2 * ROLLED_MAX :])

    made = tuple(replace(stream, a=with_theirs(stream.a), b=with_theirs(stream.b)) for stream in session.streams)
    return replace(session, streams=made) if theirs else session
