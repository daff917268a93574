"""Offers made while a call stands: re-INVITE (RFC 3261 section 14) and UPDATE (RFC 3311), ours and the peer's."""

from typing import TYPE_CHECKING, Final
from zlib import crc32

from msgspec import Struct

from warden.core.errors import MalformedMessage
from warden.phone.events import Offered, Output, Updated, UpdateFailed, Violation
from warden.phone.line import ALLOW, Asked
from warden.phone.session import SDP, Session, sdp_of
from warden.sdp.session import Direction
from warden.sip.message import Request, Response

if TYPE_CHECKING:
    from warden.phone.call import Call

GLARES_MAX: Final = 4
"""Offers again after so many 491 in a row; two phones that both own the pause never need more than two."""


class Change(Struct, frozen=True):
    """What we want to offer: kept, so that it can be offered again after a glare."""

    method: str
    direction: Direction | None
    sdp: str
    late: bool


class Changes:
    """The offers within one call: at most one of ours and one of the peer's at a time."""

    def __init__(self, call: "Call") -> None:
        self._call = call
        self._ours: tuple[Asked, Change] | None = None
        self._theirs: tuple[str, Request] | None = None
        self._again: Change | None = None
        self._waiting: Change | None = None
        self._glares = 0
        self.again_at: float | None = None

    def owns(self, key: str) -> bool:
        """True where the peer's pending offer came with the server transaction `key`."""
        return self._theirs is not None and self._theirs[0] == key

    # ---- ours

    def offer(self, now: float, change: Change) -> list[Output]:
        """Send an offer, as soon as our last 2xx is acknowledged (section 14.1). A 491 of our own making answers while
        another exchange is open.
        """
        call, session = self._call, self._call.session
        if session is None or session.open or self._ours or self._theirs or self.again_at is not None or not call.up:
            return [UpdateFailed(call.tag, 491)]
        if call.owed_acks:
            if self._waiting is not None:
                return [UpdateFailed(call.tag, 491)]
            self._waiting = change
            return []
        return self._send(now, change)

    def tick(self, now: float) -> list[Output]:
        """Offer again after a glare, if it is time and nothing came between."""
        if self.again_at is None or self.again_at > now or self._again is None:
            return []
        change, self._again, self.again_at = self._again, None, None
        return self.offer(now, change)

    def _send(self, now: float, change: Change) -> list[Output]:
        session = self._call.session
        assert session is not None, "checked by offer"
        body = "" if change.late else session.offer(direction=change.direction, text=change.sdp)
        if change.late and change.direction is not None:
            session.direction = change.direction
        asked, out = self._call.ask(
            now,
            change.method,
            self._replied,
            ("Allow", ALLOW),
            body=body.encode(),
            content_type=SDP if body else "",
        )
        self._ours = (asked, change)
        return out

    def _replied(self, now: float, asked: Asked, response: Response, heard: bool) -> list[Output]:
        call, session = self._call, self._call.session
        status = response.status
        if status < 200:
            return []
        invite = asked.request.method == "INVITE"
        if asked.done:
            return call.ack_again(now, asked) if invite and status < 300 else []
        change = self._ours[1] if self._ours is not None and self._ours[0] is asked else None
        self._ours = None
        if status < 300:
            return self._accepted(now, asked, response)
        if session is None or not call.up or change is None:
            return []
        session.withdraw()
        if status in (408, 481):
            # The peer has lost the call, or is lost itself (section 14.1).
            return call.give_up(now, status, "" if heard else response.reason)
        if status == 491 and call.line.habits.retries_glare and self._glares < GLARES_MAX:
            self._glares += 1
            self._again = change
            self.again_at = now + self._pause()
            return []
        self._glares = 0
        return [UpdateFailed(call.tag, status)]

    def _accepted(self, now: float, asked: Asked, response: Response) -> list[Output]:
        call, session = self._call, self._call.session
        assert session is not None, "an offer of ours comes from a session"
        assert call.dialog is not None, "an offer of ours needs a dialog"
        self._glares = 0
        invite = asked.request.method == "INVITE"
        ours = ""
        told: list[Output]
        try:
            call.dialog = call.dialog.refreshed(response)
            if asked.request.body:
                session.answered(sdp_of(response))
            else:
                ours = session.answer(sdp_of(response))
            told = self._settled(session, ours=True)
        except MalformedMessage as error:
            session.withdraw()
            told = [Violation(call.tag, f"2xx to {asked.request.method}: {error}"), UpdateFailed(call.tag, 488)]
        out = call.ack(now, asked, ours=ours) if invite else []
        return out + told if call.up else out

    def _settled(self, session: Session, *, ours: bool) -> list[Output]:
        tag = self._call.tag
        return [Updated(tag, ours, session.offer_sdp, session.answer_sdp), *session.settled(tag)]

    def _pause(self) -> float:
        """How long to wait after a 491: in steps of 10 ms, longer where we own the Call-ID (section 14.1)."""
        chance = crc32(self._call.line.new_token().encode())
        return 2.1 + chance % 191 / 100 if self._call.outgoing else chance % 201 / 100

    # ---- the peer's

    def offered(self, now: float, key: str, request: Request) -> list[Output]:
        """A re-INVITE or UPDATE came within the call."""
        call, session = self._call, self._call.session
        update = request.method == "UPDATE"
        offer = sdp_of(request)
        if update and not offer:
            return call.respond(now, key, request, 200)
        if session is None or self._theirs is not None or (not update and not call.standing):
            return call.respond(now, key, request, 500, ("Retry-After", str(crc32(key.encode()) % 11)))
        if session.open or (self._ours is not None and not update):
            return call.respond(now, key, request, 491)
        self._theirs = (key, request)
        if not call.line.habits.answers_updates:
            return [Offered(call.tag, request.method, offer)]
        return self.answer(now)

    def answer(self, now: float, *, direction: Direction | None = None, text: str = "") -> list[Output]:
        """Accept the peer's pending offer with our answer (or make the offer it asks for), wanting `direction` from
        now on; `text` is sent as it is.
        """
        call, session = self._call, self._call.session
        if self._theirs is None or session is None:
            return []
        (key, request), self._theirs = self._theirs, None
        if direction is not None:
            session.direction = direction
        offer = sdp_of(request)
        told: list[Output] = []
        try:
            body = session.answer(offer, text=text) if offer else session.offer(text=text)
            if offer:
                told = self._settled(session, ours=False)
        except MalformedMessage as error:
            return [*call.respond(now, key, request, error.status or 488), Violation(call.tag, str(error))]
        if request.method == "INVITE":
            call.await_ack(request.cseq.number, key)
        return call.respond(now, key, request, 200, body=body) + told

    def refuse(self, now: float, status: int) -> list[Output]:
        """Refuse the peer's pending offer."""
        if self._theirs is None:
            return []
        (key, request), self._theirs = self._theirs, None
        return self._call.respond(now, key, request, status)

    def acked(self, now: float, answer: str) -> list[Output]:
        """The ACK of our 2xx to a re-INVITE; it has the answer where our 2xx had the offer."""
        told = self._answered(answer)
        if self._waiting is not None and not self._call.owed_acks:
            change, self._waiting = self._waiting, None
            told += self.offer(now, change)
        return told

    def _answered(self, answer: str) -> list[Output]:
        call, session = self._call, self._call.session
        if session is None or not session.open or not call.up:
            return []
        try:
            session.answered(answer)
            return self._settled(session, ours=False)
        except MalformedMessage as error:
            return [Violation(call.tag, f"ACK: {error}")]

    def cancelled(self, now: float, key: str) -> list[Output]:
        """The peer cancelled its re-INVITE."""
        return self.refuse(now, 487) if self.owns(key) else []

    def released(self, now: float) -> list[Output]:
        """The call ends by the peer's BYE: what is pending is answered 487 (section 15.1.2)."""
        self.stop()
        return self.refuse(now, 487)

    def stop(self) -> None:
        """Nothing is offered any more."""
        self._again = self._waiting = None
        self.again_at = None
