"""One address of record kept registered (RFC 3261 section 10.2): refreshed before it expires, tried again when lost."""

import math
from typing import Final

from warden.core.errors import MalformedMessage
from warden.phone.events import Output, Registered, RegisterFailed, Violation
from warden.phone.line import ALLOW, USER_AGENT, Asked, Line
from warden.sip.message import Request, Response
from warden.sip.uri import NameAddr, parse_name_addr

MARGIN_S: Final = 40.0
"""A refresh starts so long before the end: longer than the 32 s in which a REGISTER over UDP finds out that nobody
answers. Short registrations are refreshed at half their time."""
RETRY_S: Final = (2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""The pauses after one failure and the next (RFC 5626 section 4.5 backs off likewise, with larger figures)."""


class Registration:
    """`due` is when `tick` has something to do. Failures of the network are retried, refusals are not."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._call_id = line.new_token()
        self._tag = line.new_token()
        self._seq = 0
        self._wanted_s = 0
        self._failures = 0
        self._asked: Asked | None = None
        self.due: float | None = None

    @property
    def wanted(self) -> bool:
        """True from `register` to `unregister`, unless refused for good."""
        return self._wanted_s > 0

    def register(self, now: float, expires_s: int) -> list[Output]:
        """Register for `expires_s` seconds, or remove our contact with 0."""
        self._wanted_s = expires_s
        self.due = None
        if self._asked is not None:
            self._asked.cancelled = True
        self._asked, outputs = self._line.ask(now, self._request, self._line.flow, self._replied)
        return outputs

    def again(self, now: float) -> list[Output]:
        """Register at once, if we want to be."""
        return self.register(now, self._wanted_s) if self.wanted else []

    def tick(self, now: float) -> list[Output]:
        """Refresh or retry, if it is time."""
        if self.due is None or self.due > now:
            return []
        return self.register(now, self._wanted_s)

    def _contact(self) -> str:
        account = self._line.account
        return "".join(
            (
                self._line.contact,
                f';+sip.instance="<{account.instance_id}>"' if account.instance_id else "",
                f";q={account.q}" if account.q else "",
            )
        )

    def _request(self) -> Request:
        self._seq += 1
        account = self._line.account
        return Request(
            "REGISTER",
            f"sip:{account.domain}",
            (
                ("Max-Forwards", "70"),
                ("From", f"{account.name_addr};tag={self._tag}"),
                ("To", account.name_addr),
                ("Call-ID", self._call_id),
                ("CSeq", f"{self._seq} REGISTER"),
                ("Contact", self._contact()),
                ("Expires", str(self._wanted_s)),
                ("Allow", ALLOW),
                ("Supported", "path"),
                ("User-Agent", USER_AGENT),
            ),
        )

    def _replied(self, now: float, asked: Asked, response: Response, heard: bool) -> list[Output]:
        if asked is not self._asked or response.status < 200:
            return []
        self._asked = None
        try:
            if response.status < 300:
                return self._granted(now, response)
            return self._refused(now, response, heard)
        except MalformedMessage as error:
            return [Violation("", f"answer to REGISTER: {error}")]

    def _granted(self, now: float, response: Response) -> list[Output]:
        self._failures = 0
        contacts = response.contacts
        uris = tuple(str(contact.uri) for contact in contacts)
        ours = parse_name_addr(self._line.contact).uri
        mine = next((contact for contact in contacts if contact.uri.equivalent(ours)), None)
        if self._wanted_s == 0:
            wrong = [Violation("", "REGISTER: our contact is still there after its removal")] if mine else []
            return [Registered(0, uris), *wrong]
        if mine is None:
            return [Violation("", "REGISTER: the 200 does not list our contact"), Registered(0, uris)]
        granted = _expires(mine, response)
        if granted is None or granted > self._wanted_s:
            return [Violation("", f"REGISTER: asked for {self._wanted_s} s, got {granted}"), Registered(0, uris)]
        self.due = now + max(granted / 2, granted - MARGIN_S)
        return [Registered(granted, uris)]

    def _refused(self, now: float, response: Response, heard: bool) -> list[Output]:
        status = response.status
        shortest = response.number("Min-Expires")
        if status == 423 and shortest is not None and shortest > self._wanted_s > 0:
            return self.register(now, shortest)
        if self._wanted_s and (not heard or status in (408, 480, 500, 502, 503, 504)):
            pause = RETRY_S[min(self._failures, len(RETRY_S) - 1)]
            self._failures += 1
            self.due = now + max(pause, math.ceil(response.number("Retry-After") or 0))
            return [RegisterFailed(status, self.due)]
        self._wanted_s = 0
        return [RegisterFailed(status)]


def _expires(contact: NameAddr, response: Response) -> int | None:
    text = contact.param("expires")
    if text is None:
        return response.number("Expires")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 11 else None
