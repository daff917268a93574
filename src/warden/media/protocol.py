"""What the signalling process and `warden-media` say to each other over a Unix socket.

Orders are declarative: `Put` carries the whole session as it shall be, and the media process makes it so. The same
`Put` again changes nothing, so a restarted signalling process re-attaches by putting every session of its snapshots
and dropping the ones that `Listed` names besides. Frames are 4 bytes of length (big-endian) and msgpack.
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from warden.core.address import Address
from warden.sdp.crypto import Keys

PROTOCOL_VERSION: Final = 4
FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
"""Room for a re-attach of some thousand sessions in one frame."""

EXIT_TAKEN: Final = 3
"""Exit status of a media process whose socket another one serves."""


class Mode(StrEnum):
    """What a stream does with the packets of its two sides."""

    RELAY = "relay"
    ECHO = "echo"
    SILENT = "silent"


class Way(StrEnum):
    """Packets of a secured port that are counted: RTP from its peer, RTP to it, RTCP to it."""

    IN = "in"
    OUT = "out"
    RTCP = "rtcp"


class Rolled(Struct, frozen=True, gc=False):
    """How far the packets of one source had been counted when that was last reported: the index of SRTP (RFC 3711
    section 3.3.1: roll-over counter and sequence number) or of SRTCP. What came after is within 16,384 of it, or 64.
    `key` tells under which key: its CRC-32.
    """

    way: Way
    ssrc: int
    index: int
    key: int


class Side(Struct, frozen=True, gc=False, omit_defaults=True):
    """One side of a stream: our even RTP port (RTCP on the next) and where its peer is.

    `remote` and `remote_rtcp` are what the peer's SDP says (None while unknown: nothing is sent there). Packets are
    sent to the latched source once there is one, else to `remote`. `hosts` are the addresses from which the peer may
    be latched at once (SDP's and the one its SIP comes from). A stranger is latched only after ten packets in a row
    from one source, and only as long as nothing was latched from an allowed host: from then on strangers are refused,
    however long the peer is silent. A peer whose NAT gives it another port is followed to another port of the same host
    once the old one is silent. A changed `generation` forgets what was latched (after a re-INVITE).
    `learned` and `learned_rtcp` are what an earlier process had latched: used until a packet says otherwise.
    `dtmf_payload_type` is the one with which this peer sends RFC 4733 events (-1: it sends none), `clock_hz` the RTP
    clock of what it sends.
    `srtp` are the keys, None where the peer speaks plain RTP; `rolled` is how far an earlier process had counted,
    from which one goes on that begins with the same keys.
    `host` is the local address that the port is bound on where it is not the session's: the two sides of a call may
    speak different versions of IP.
    """

    port: int
    remote: Address | None = None
    remote_rtcp: Address | None = None
    hosts: tuple[str, ...] = ()
    generation: int = 0
    learned: Address | None = None
    learned_rtcp: Address | None = None
    dtmf_payload_type: int = -1
    clock_hz: int = 8000
    srtp: Keys | None = None
    rolled: tuple[Rolled, ...] = ()
    host: str = ""


class Stream(Struct, frozen=True, gc=False):
    """One m-line of the call. `b` is None for calls to an application (echo, playing)."""

    a: Side
    b: Side | None = None
    mode: Mode = Mode.RELAY


class Clip(Struct, frozen=True, gc=False):
    """What to play: a file of the prompts folder or an absolute path (`path`: 8 kHz mono 16-bit WAV), or a tone
    (`tone_hz` for `ms`), or silence (`ms` alone).
    """

    path: str = ""
    tone_hz: int = 0
    ms: int = 0


class Playing(Struct, frozen=True, gc=False):
    """Clips played one behind the other to side `a` of the first stream. `id` is the caller's; a `Played` names it when
    the last clip has ended; a `Put` with the same id does not start it again. `codec` is PCMU or PCMA.
    """

    id: str
    clips: tuple[Clip, ...]
    codec: str
    payload_type: int


class Session(Struct, frozen=True, gc=False):
    """The media of one call. `host` is the local address that the ports are bound on. A side that has sent something
    and then nothing for `silence_s` is told of (`FellSilent`); 0: silence means nothing.
    """

    id: str
    host: str
    streams: tuple[Stream, ...]
    playing: Playing | None = None
    silence_s: float = 0.0


class Hello(Struct, frozen=True, gc=False, tag=True):
    """First frame from both ends; the media process answers with its version and the pid."""

    version: int = PROTOCOL_VERSION
    pid: int = 0


class Put(Struct, frozen=True, gc=False, tag=True):
    """Make this session so: open what is new, close what is gone, keep what is the same. `group` is whose lease it ends
    with ("": nobody's). With `ahead` its ports are opened though the machine does not have the address yet.
    """

    session: Session
    group: str = ""
    ahead: bool = False


class Drop(Struct, frozen=True, gc=False, tag=True):
    """Close the session and its ports; answered with `Dropped` and the final counters. An unknown id is no error."""

    id: str


class Lease(Struct, frozen=True, gc=False, tag=True):
    """The sessions of this group may go on until then (seconds of CLOCK_MONOTONIC, which all processes of a machine
    share); then they are closed, and a `Put` into the group is refused until the lease is renewed. A group without a
    lease goes on.
    """

    group: str
    until_mono: float


class Share(Struct, frozen=True, gc=False, tag=True):
    """Let another media process of this machine open the ports of these sessions beside this one. What comes in is then
    the other's, and what has come is still passed on here until `Drop`. Unknown ids are no error.
    """

    ids: tuple[str, ...]


class List(Struct, frozen=True, gc=False, tag=True):
    """Which sessions are there?"""


class Totals(Struct, frozen=True, gc=False, tag=True):
    """The sums over all sessions since the process started."""


class Quit(Struct, frozen=True, gc=False, tag=True):
    """Close everything and end the process."""


Order = Put | Drop | Share | Lease | List | Totals | Quit


class SideStats(Struct, frozen=True, gc=False):
    """What one side's peer sent. `jitter_ms` is RFC 3550's interarrival jitter; `lost` may be negative (duplicates);
    `gap_ms_max` the longest silence between two packets. `sent` is what went to this peer, `dropped` what came from it
    (or from strangers) or was meant for it and was thrown away. `rtt_ms` is between us and the peer, from RTCP (0: not
    known).
    """

    port: int
    packets: int = 0
    bytes: int = 0
    lost: int = 0
    jitter_ms: float = 0.0
    gap_ms_max: float = 0.0
    sent: int = 0
    dropped: int = 0
    remote: Address | None = None
    rtt_ms: float = 0.0


class Done(Struct, frozen=True, gc=False, tag=True):
    """The order was carried out."""


class Refused(Struct, frozen=True, gc=False, tag=True):
    """The order could not be carried out; nothing of it was."""

    why: str


class Dropped(Struct, frozen=True, gc=False, tag=True):
    """Answer to `Drop`: the final counters of every side, in the order of the streams."""

    stats: tuple[SideStats, ...] = ()


class Listed(Struct, frozen=True, gc=False, tag=True):
    """Answer to `List`: ids of the sessions."""

    ids: tuple[str, ...]


class TotalsAre(Struct, frozen=True, gc=False, tag=True):
    """Answer to `Totals`."""

    sessions: int = 0
    packets: int = 0
    bytes: int = 0
    lost: int = 0
    dropped: int = 0
    cpu_s: float = 0.0


Answer = Done | Refused | Dropped | Listed | TotalsAre


class Orders(Struct, frozen=True, gc=False, tag=True):
    """A frame of orders, carried out in turn and answered by one `Answers` with the same serial."""

    serial: int
    orders: tuple[Order, ...]


class Answers(Struct, frozen=True, gc=False, tag=True):
    """One answer per order."""

    serial: int
    answers: tuple[Answer, ...]


class Latched(Struct, frozen=True, gc=False, tag=True):
    """A side now hears its peer from (and sends to) another address than before. `port` is the side's RTP port, also
    where `rtcp` says that it is the address of the RTCP. Told again to a controller whose `Put` does not know it.
    """

    session: str
    port: int
    address: Address
    rtcp: bool = False


class RolledOver(Struct, frozen=True, gc=False, tag=True):
    """The packets of a source are counted so far: to be remembered as `Side.rolled`. `port` is the side's RTP port."""

    session: str
    port: int
    rolled: Rolled


class FellSilent(Struct, frozen=True, gc=False, tag=True):
    """Neither RTP nor RTCP has come from a side's peer for `Session.silence_s`. `port` is its first RTP port. Told
    again for as long as that is so.
    """

    session: str
    port: int


class Played(Struct, frozen=True, gc=False, tag=True):
    """The clips of `Playing` `id` have ended."""

    session: str
    id: str


class Digit(Struct, frozen=True, gc=False, tag=True):
    """An RFC 4733 key press ended on a side (`digit` is one of 0-9 * # A-D)."""

    session: str
    port: int
    digit: str
    ms: int


Event = Latched | RolledOver | FellSilent | Played | Digit
FromMedia = Hello | Answers | Latched | RolledOver | FellSilent | Played | Digit
ToMedia = Hello | Orders
