"""The offer and answer of one call, seen from the phone (RFC 3264): what was agreed, what is still open.

Nothing here knows dialogs; who may offer when is `call.py`'s and `changes.py`'s matter.
"""

from hashlib import sha512
from typing import Final
from zlib import crc32

from msgspec import Struct

from warden.core.errors import MalformedMessage
from warden.phone.events import Output, Talking, Violation
from warden.sdp import answer as sdp
from warden.sdp.relay import streams
from warden.sdp.sdes import Policy, Sdes, heard_answer, heard_offer, say_answer, say_offer
from warden.sdp.session import Direction, parse
from warden.sip.message import Request, Response

SDP: Final = "application/sdp"
_SENDS: Final = (Direction.SENDRECV, Direction.SENDONLY)
_HEARS: Final = (Direction.SENDRECV, Direction.RECVONLY)


class Media(Struct, frozen=True):
    """Where a call's RTP is wanted, the codecs the phone has, best first, and whether it speaks SRTP."""

    host: str
    port: int
    codecs: tuple[str, ...] = ("PCMU", "PCMA")
    srtp: Policy = Policy.OFF


class Session:
    """`offer_sdp` and `answer_sdp` are the last completed exchange, `local` our half of it; "" until there is one.
    `direction` is what we want; an answer gives what both want. `_plain` is that exchange without its SRTP keys.
    """

    __slots__ = (
        "_id", "_keys_made", "_media", "_offered", "_offered_plain", "_peer", "_plain", "_sdes", "_seed", "_version",
        "answer_sdp", "direction", "local", "offer_sdp",
    )  # fmt: skip

    def __init__(self, media: Media, seed: str) -> None:
        self._media = media
        self._id = crc32(seed.encode())
        self._seed = seed
        self._keys_made = 0
        self._sdes = None if media.srtp is Policy.OFF else Sdes(media.srtp, offers=True)
        self._version = 0
        self._offered = self._offered_plain = ""
        self._plain = ("", "")
        self._peer = ""
        self.direction = Direction.SENDRECV
        self.local = ""
        self.offer_sdp = ""
        self.answer_sdp = ""

    @property
    def open(self) -> bool:
        """True while an offer of ours has no answer."""
        return bool(self._offered)

    def offer(self, *, direction: Direction | None = None, text: str = "") -> str:
        """Make an offer, wanting `direction` from now on; `text` is offered as it is. The same again while it is
        open.
        """
        if self._offered:
            return self._offered
        if direction is not None:
            self.direction = direction
        if not text:
            text = sdp.offer(
                host=self._media.host,
                port=self._media.port,
                session_id=self._id,
                version=self._version,
                codecs=self._media.codecs,
            )
            if self.direction is not Direction.SENDRECV:
                text = text.replace("a=sendrecv\r\n", f"a={self.direction}\r\n")
        self._version += 1
        self._offered_plain = text
        if self._sdes is not None:
            self._sdes, text = say_offer(self._sdes, text, self._new_key)
        self._offered = text
        return text

    def answered(self, answer: str) -> None:
        """The peer answered our open offer. Raises `MalformedMessage` where it is no answer to it, or refuses the
        audio; the offer is withdrawn then.
        """
        offer, self._offered = self._offered, ""
        if not answer:
            raise MalformedMessage("no answer to our offer")
        sdes, plain = (None, answer) if self._sdes is None else heard_answer(self._sdes, answer)
        sdp.read_answer(self._offered_plain, plain)
        self._sdes, self._plain = sdes, (self._offered_plain, plain)
        self.offer_sdp, self.answer_sdp, self.local = offer, answer, offer

    def answered_again(self, answer: str) -> None:
        """The answer to our last offer changed (which the RFC forbids, and PBXs do)."""
        self._offered, self._offered_plain = self.offer_sdp, self._plain[0]
        self.answered(answer)

    def answer(self, offer: str, *, text: str = "") -> str:
        """Answer the peer's offer; `text` is answered as it is. Raises `MalformedMessage`, with status 488 where no
        codec fits; nothing changed then.
        """
        sdes, plain = (None, offer) if self._sdes is None else heard_offer(self._sdes, offer)
        if not text:
            text = sdp.answer(
                plain,
                host=self._media.host,
                port=self._media.port,
                session_id=self._id,
                version=self._version,
                codecs=self._media.codecs,
            ).sdp
            # A side that is on hold by our wish stays so, whatever the peer offers.
            if self.direction not in _HEARS:
                text = text.replace("a=sendrecv\r\n", "a=sendonly\r\n").replace("a=recvonly\r\n", "a=inactive\r\n")
        self._version += 1
        self._plain = (plain, text)
        if sdes is not None:
            self._sdes, text = say_answer(sdes, text, self._new_key)
        self.offer_sdp, self.answer_sdp, self.local = offer, text, text
        return text

    def withdraw(self) -> None:
        """Our open offer was refused: what was agreed before stays."""
        self._offered = ""

    def settled(self, call: str) -> list[Output]:
        """What the last completed exchange means for RTP, and what is wrong with the peer's half. Raises
        `MalformedMessage` where it is no good at all.
        """
        ours = self.local == self.offer_sdp
        agreed = sdp.read_answer(*self._plain)
        theirs = self.answer_sdp if ours else self.offer_sdp
        fault = _origin_fault(self._peer, theirs) if self._peer else ""
        self._peer = theirs
        peer = streams(self._plain[1 if ours else 0])[agreed.stream]
        # `agreed` is read from the offerer's chair; the answerer sees the same the other way round.
        direction = agreed.direction if ours else agreed.direction.mirrored
        talking = Talking(
            call,
            peer.rtp,
            direction in _SENDS and peer.rtp is not None,
            direction in _HEARS,
            agreed.codec,
            agreed.payload_type,
            agreed.telephone_event,
            None if self._sdes is None else self._sdes.keys(agreed.stream),
        )
        return [Violation(call, fault), talking] if fault else [talking]

    def _new_key(self, size: int) -> bytes:
        """Keys of a test phone: as unguessable as its tag."""
        self._keys_made += 1
        return sha512(f"{self._seed} {self._keys_made}".encode()).digest()[:size]


def _origin_fault(before: str, after: str) -> str:
    """What is wrong with the o= line of a peer's next description (RFC 3264 section 8). Numbers may be left out: they
    went to offers that were refused.
    """
    old, new = parse(before).origin, parse(after).origin
    if (old.username, old.session_id) != (new.username, new.session_id):
        return "sdp: another session in o= within one dialog"
    if old.version == new.version:
        return "" if before == after else "sdp: another description under the same o= version"
    if (len(old.version), old.version) < (len(new.version), new.version):
        return ""
    return f"sdp: o= version went from {old.version} to {new.version}"


def sdp_of(message: Request | Response) -> str:
    """The SDP that a message carries, "" where it has none. Raises `MalformedMessage` for a body that is no text."""
    if not message.body or message.content_type != SDP:
        return ""
    try:
        return message.body.decode()
    except UnicodeDecodeError as error:
        raise MalformedMessage("sdp: not UTF-8", 400) from error
