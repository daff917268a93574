"""SIPp scenarios, written step by step.

A `Script` is what one phone does in one call: it sends, it expects, and anything else fails the call. SIPp's own
language needs a hundred lines of XML for that, of which few differ from one story to the next.
"""

import re
from typing import Final, Self
from xml.sax.saxutils import quoteattr

from pbx import password_of

_SAVED: Final = ("Via", "From", "To", "CSeq")
_OF_INVITE: Final = "@"
"""Stands for the branch of the last INVITE, which SIPp names by the number of steps since then."""


def sdp(direction: str = "sendrecv", *, version: int = 1, codecs: str = "0 8 101") -> str:
    """A session with G.711 audio and key presses. The version must grow from one of a phone's sessions to the next."""
    return f"""\
v=0
o=sipp 53655765 {version} IN IP[local_ip_type] [local_ip]
s=-
c=IN IP[media_ip_type] [media_ip]
t=0 0
m=audio [media_port] RTP/AVP {codecs}
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:101 telephone-event/8000
a={direction}
"""


class Script:
    """One phone's side of one call. Every method adds a step and returns the script."""

    def __init__(
        self, name: str, number: str, *, rings: str = "", password: str = "", behind_proxy: bool = False
    ) -> None:
        """`rings` is the number that a caller dials, "" for a callee. `password` other than the right one for tests.
        `behind_proxy`: what it hears has more than one Via, and a Record-Route.
        """
        self._vias = "[last_Via:]" if behind_proxy else ""
        self.name = name
        self.number = number
        self._rings = rings
        self._password = password or password_of(number)
        self._steps: list[str] = []
        self._variables: set[str] = set()
        self._cseq = 0
        self._invite_cseq = 0
        self._invite_step = 0
        self._asked = ""
        self._final = 0
        self._in_dialog = False
        self._other: Script | None = None
        tag = f";tag=[pid]{'c' if rings else 'u'}[call_number]"
        self._tag = tag
        self._from = f"<sip:{number}@[remote_ip]>{tag}" if rings else f"[$local]{tag}"

    # What the phone sends

    def dials(self, body: str | None = None, *, method: str = "INVITE", fields: str = "") -> Self:
        """Send the INVITE, be asked who it is, send it again with the proof. `body` is the offer, "" for none."""
        body = sdp() if body is None else body
        self._out_of_dialog(method, body, fields)
        self.expects(401, auth=True)
        if method == "INVITE":
            self.acks()
        return self._out_of_dialog(method, body, fields, self._proof())

    def asks(self, method: str, body: str = "", fields: str = "", *, proof: bool = False) -> Self:
        """Send one request outside a dialog; with `proof` the answer to the challenge that was just received."""
        return self._out_of_dialog(method, body, fields, self._proof() if proof else "")

    def registers(self, port: str, *, aor: str = "", expires_s: int = 300) -> Self:
        """Register the contact port, be asked who it is, and prove it. `aor` where it is not the phone's own."""
        contact = f"Contact: <sip:{self.number}@[local_ip]:{port};transport=[transport]>\nExpires: {expires_s}"
        self._register(aor or self.number, contact)
        self.expects(401, auth=True)
        return self._register(aor or self.number, f"{contact}\n{self._proof()}")

    def requests(
        self, method: str, body: str = "", *, kind: str = "application/sdp", fields: str = "", proof: bool = False
    ) -> Self:
        """Send a request in the dialog; with `proof` the answer to the challenge that was just received."""
        self._begin(method)
        head = self._head(method, "[next_url]", "[$remote]", self._cseq)
        contact = self._contact() if method in ("INVITE", "UPDATE", "REFER") else ""
        more = (contact, fields, self._proof() if proof else "")
        return self._send(head, "\n".join(x for x in more if x), body, kind)

    def acks(self, body: str = "") -> Self:
        """Acknowledge the last final response to an INVITE."""
        uri, to = ("[next_url]", "[$remote]") if self._in_dialog else (self._target(), "[last_To:]")
        # The ACK of a 2xx is a transaction of its own (RFC 3261 section 17.1.1.3).
        branch = "[branch]" if self._final < 300 else _OF_INVITE
        head = self._head("ACK", uri, to, self._invite_cseq, branch)
        return self._send(head, "", body, retransmit=False)

    def cancels(self) -> Self:
        """Give up the INVITE."""
        self._asked = "CANCEL"
        to = f"<sip:{self._rings}@[remote_ip]>"
        head = self._head("CANCEL", self._target(), to, self._invite_cseq, _OF_INVITE)
        return self._send(head, "", "")

    def replies(
        self, status: int, body: str = "", *, to: str = "INVITE", fields: str = "", is_never_lost: bool = False
    ) -> Self:
        """Answer the last request of the method `to`; `is_never_lost` even where SIPp is told to lose some messages."""
        tag = "" if self._in_dialog else self._tag
        lines = [f"SIP/2.0 {status} {_reason(status)}"]
        lines += [f"{name}:[${to}{name}]{tag if name == 'To' else ''}" for name in _SAVED]
        lines.append("Call-ID: [call_id]")
        if self._vias:
            lines[1:2] = [self._vias, "[last_Record-Route:]"]
        if to == "INVITE" and 200 <= status < 300:
            self._in_dialog = True
        retransmit = to == "INVITE" and status >= 200
        extra = "\n".join(x for x in (self._contact() if status < 300 else "", fields) if x)
        self._send("\n".join(lines), extra, body, retransmit=retransmit)
        if is_never_lost:
            self._steps[-1] = self._steps[-1].replace("<send", '<send lost="0"', 1)
        return self

    # What the phone waits for

    def expects(
        self,
        status: int,
        *,
        optional: bool = False,
        auth: bool = False,
        has: dict[str, str] | None = None,
        says: str = "",
        timeout_ms: int = 0,
    ) -> Self:
        """Wait for a response. `has` are patterns that header fields must match, `says` one that the body must."""
        attributes = f'response="{status}"'
        if optional:
            attributes += ' optional="true"'
        if auth:
            attributes += ' auth="true"'
        actions = [*_checks(has), *_body_check(says)]
        if self._asked == "INVITE" and status >= 200:
            self._final = status
            if status < 300 and not self._in_dialog:
                self._in_dialog = True
                attributes += ' rrs="true"'
                actions.append(_keep("To", "remote"))
        elif self._asked == "CANCEL":
            self._asked = "INVITE"
        return self._recv(attributes, actions, timeout_ms)

    def expects_request(self, method: str, *, has: dict[str, str] | None = None, says: str = "") -> Self:
        """Wait for a request."""
        actions = [*_checks(has), *_body_check(says)]
        if method != "ACK":
            actions += [_keep(name, method + name) for name in _SAVED]
        attributes = f'request="{method}"'
        if method == "INVITE" and not self._in_dialog and not self._rings:
            actions += [_keep("To", "local"), _keep("From", "remote")]
            attributes += ' rrs="true"'
        return self._recv(attributes, actions, 0)

    def or_else(self, header: str, other: "Script") -> Self:
        """SIPp begins its scenario anew with each Call-ID. Where the request just received has this header field, what
        comes now is `other` instead.
        """
        seen = f'<ereg regexp=".+" search_in="hdr" header="{header}:" assign_to="elsewhere"/>'
        step = self._steps[-1].replace("<action>", f"<action>{seen}", 1)
        self._steps[-1] = step.replace("<recv ", '<recv next="elsewhere" test="elsewhere" ', 1)
        self._other = other
        return self

    def turns_to(self, host: str, port: int) -> Self:
        """Say what comes now to this address, from which the request just received came: SIPp would stay with the one
        that its call began with.
        """
        turn = f'<setdest host="{host}" port="{port}" protocol="udp"/>'
        self._steps[-1] = self._steps[-1].replace("<action>", f"<action>{turn}", 1)
        return self

    def pauses(self, ms: int) -> Self:
        """Do nothing for a while."""
        self._steps.append(f'<pause milliseconds="{ms}"/>')
        return self

    def lingers(self, ms: int = 100) -> Self:
        """Stay at the end to answer what comes again."""
        self._steps.append(f'<timewait milliseconds="{ms}"/>')
        return self

    # Whole passages

    def answers(self, body: str | None = None) -> Self:
        """Ring, answer, and be confirmed."""
        self.expects_request("INVITE").replies(180)
        return self.replies(200, sdp() if body is None else body).expects_request("ACK")

    def is_answered(self, says: str = "m=audio") -> Self:
        """Hear it ring and answered, and confirm."""
        self.expects(100, optional=True).expects(180, optional=True)
        return self.expects(200, says=says).acks()

    def hangs_up(self) -> Self:
        """Send a BYE and see it answered."""
        return self.requests("BYE").expects(200)

    def is_hung_up(self, *, lingers_ms: int = 100) -> Self:
        """Receive a BYE and answer it."""
        return self.expects_request("BYE").replies(200, to="BYE").lingers(lingers_ms)

    # The text

    @property
    def xml(self) -> str:
        """The scenario as SIPp reads it."""
        lines = self._steps
        if self._other is not None:
            end = '<nop next="end"/>', '<label id="elsewhere"/>'
            lines = [*lines, *end, *self._other._steps, '<label id="end"/>', '<timewait milliseconds="100"/>']
        steps = "\n".join(lines)
        kept = sorted(set(re.findall(r'assign_to="(\w+)"', steps)))
        reference = f'<Reference variables="{",".join(kept)}"/>' if kept else ""
        scenario = f'<scenario name="{self.name}">\n{steps}\n{reference}\n</scenario>'
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{scenario}\n'

    def _target(self) -> str:
        return f"sip:{self._rings}@[remote_ip]:[remote_port]"

    def _contact(self) -> str:
        return f"Contact: <sip:{self.number}@[local_ip]:[local_port];transport=[transport]>"

    def _proof(self) -> str:
        return f"[authentication username={self.number} password={self._password}]"

    def _head(self, method: str, uri: str, to: str, cseq: int, branch: str = "[branch]", from_: str = "") -> str:
        to = to if to.startswith("[last_") else f"To:{to}"
        if self._vias and self._in_dialog:
            to += "\n[routes]"
        return f"""\
{method} {uri} SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch={branch};rport
Max-Forwards: 70
From:{from_ or self._from}
{to}
Call-ID: [call_id]
CSeq: {cseq} {method}"""

    def _out_of_dialog(self, method: str, body: str, *fields: str) -> Self:
        self._begin(method)
        head = self._head(method, self._target(), f"<sip:{self._rings}@[remote_ip]>", self._cseq)
        allow = "Allow: INVITE, ACK, CANCEL, BYE, UPDATE, INFO"
        return self._send(head, "\n".join(x for x in (self._contact(), allow, *fields) if x), body)

    def _begin(self, method: str) -> None:
        self._cseq += 1
        self._asked = method
        if method == "INVITE":
            self._invite_cseq, self._invite_step = self._cseq, len(self._steps)

    def _register(self, aor: str, fields: str) -> Self:
        self._begin("REGISTER")
        address = f"<sip:{aor}@[remote_ip]>"
        uri = "sip:[remote_ip]:[remote_port]"
        head = self._head("REGISTER", uri, address, self._cseq, from_=f"{address}{self._tag}")
        return self._send(head, fields, "")

    def _send(
        self, head: str, fields: str, body: str, kind: str = "application/sdp", *, retransmit: bool = True
    ) -> Self:
        head = head.replace(f"branch={_OF_INVITE}", f"branch=[branch-{len(self._steps) - self._invite_step}]")
        lines = [head]
        if fields:
            lines.append(fields)
        if body:
            lines.append(f"Content-Type: {kind}")
        lines += ["Content-Length: [len]", "", body]
        text = "\n".join(lines)
        attribute = ' retrans="500"' if retransmit else ""
        self._steps.append(f"<send{attribute}>\n<![CDATA[\n{text}\n]]>\n</send>")
        return self

    def _recv(self, attributes: str, actions: list[str], timeout_ms: int) -> Self:
        if timeout_ms:
            attributes += f' timeout="{timeout_ms}"'
        inner = f"<action>{''.join(actions)}</action>" if actions else ""
        self._steps.append(f"<recv {attributes}>{inner}</recv>")
        return self


_REASONS: Final = {180: "Ringing", 183: "Session Progress", 200: "OK", 486: "Busy Here", 487: "Request Terminated"}


def _reason(status: int) -> str:
    return _REASONS.get(status, f"Status {status}")


def _keep(name: str, variable: str) -> str:
    return f'<ereg regexp=".*" search_in="hdr" header="{name}:" assign_to="{variable}"/>'


def _checks(has: dict[str, str] | None) -> list[str]:
    return [
        f'<ereg regexp={quoteattr(pattern)} search_in="hdr" header="{name}:" check_it="true" assign_to="seen"/>'
        for name, pattern in (has or {}).items()
    ]


def _body_check(pattern: str) -> list[str]:
    if not pattern:
        return []
    return [f'<ereg regexp={quoteattr(pattern)} search_in="body" check_it="true" assign_to="seen"/>']
