"""A carrier as a machine at an address: a registrar, and somebody who takes calls or refuses them."""

from typing import Any

from tests.unit.switch.plans import item
from tests.unit.switch.world import REALM, Peer, World

from warden.core.address import Address, Flow, Transport
from warden.sip.digest import Algorithm, Credentials, challenge, ha1, read_credentials, verify
from warden.sip.message import Request, Response
from warden.store.ports import Item
from warden.switch.trunks.sealed import seal

SECRET = b"a key for nonces"
"""As in `World.make_switch`."""
USER, WORD = "account-1", "the carrier's word"
CARRIER_REALM = "carrier.test"
SDP = (
    "v=0\r\no=c 1 1 IN IP4 10.9.0.1\r\ns=-\r\nc=IN IP4 10.9.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
    "a=rtpmap:0 PCMU/8000\r\n"
)


class Carrier(Peer):
    """`answers` maps a method to the status that is given instead of a good answer: 0 for none. `asks` are the methods
    that have to be proven; `min_expires_s` and `grants_s` are about registrations.
    """

    def __init__(self, world: World, host: str, port: int = 5060) -> None:
        super().__init__(world, Address(host, port))
        self.answers: dict[str, int] = {}
        self.asks: set[str] = {"REGISTER"}
        self.fields: tuple[tuple[str, str], ...] = ()
        self.min_expires_s = 0
        self.grants_s = 0
        self.answer_s = 0.1
        self.is_proxy = False
        self.contacts: dict[str, str] = {}
        self.nonces: list[str] = []
        self._ringing: dict[str, Request] = {}
        world.peers[self.address] = self

    def hear(self, message: Request | Response) -> None:
        super().hear(message)
        if isinstance(message, Request) and message.method != "ACK":
            self._answer(message)

    def calls(self, user: str, *fields: tuple[str, str], to: str = "", by: str = "0409876543") -> Request:
        """Call a number of ours, by the Request-URI or by To."""
        given = dict(fields)
        named = {
            "From": f'"Someone" <sip:{by}@carrier.test>;tag=c{len(self.heard)}',
            "To": f"<sip:{to or user}@carrier.test>",
        }
        request = self.request("INVITE", "", *{**named, **given}.items(), body=SDP)
        request = Request("INVITE", f"sip:{user}@{self.world.server}", request.fields, request.body)
        self.say(request)
        return request

    def reply(self, request: Request, status: int, *fields: tuple[str, str], body: str = "") -> None:
        response = request.respond(status, *fields, to_tag=f"t{self.address.port}{request.call_id[:8]}")
        if body:
            response = response.with_body("application/sdp", body.encode())
        stream = self.address in self.world.connections
        flow = Flow(Transport.TCP if stream else Transport.UDP, self.address, self.world.server)
        self.world.send(self.address, self.world.server, bytes(response), flow)

    def _answer(self, request: Request) -> None:
        method = request.method
        if method in self.answers:
            if self.answers[method]:
                self.reply(request, self.answers[method], *self.fields)
        elif method in self.asks and not self._is_proven(request):
            status, name = (407, "Proxy-Authenticate") if self.is_proxy else (401, "WWW-Authenticate")
            self.nonces.append(f"n{len(self.nonces)}")
            (value,) = challenge(CARRIER_REALM, self.nonces[-1], [Algorithm.MD5], stale=self._is_old(request))
            self.reply(request, status, (name, value))
        elif method == "REGISTER":
            self._register(request)
        elif method == "INVITE":
            self._ringing[request.call_id] = request
            self.reply(request, 180)
            self.world.after(self.answer_s, lambda: self._take(request))
        elif method == "CANCEL":
            self.reply(request, 200)
            ringing = self._ringing.pop(request.call_id, None)
            if ringing is not None:
                self.reply(ringing, 487)
        else:
            self.reply(request, 200)

    def _take(self, request: Request) -> None:
        if self._ringing.pop(request.call_id, None) is not None:
            self.reply(request, 200, ("Contact", f"<sip:line@{self.address}>"), body=SDP)

    def _is_proven(self, request: Request) -> bool:
        given = self._credentials(request)
        proof = ha1(USER, CARRIER_REALM, WORD, Algorithm.MD5)
        return given is not None and given.nonce in self.nonces and verify(given, request.method, proof)

    def _credentials(self, request: Request) -> Credentials | None:
        name = "Proxy-Authorization" if self.is_proxy else "Authorization"
        return next(iter(read_credentials(request, name)), None)

    def _is_old(self, request: Request) -> bool:
        given = self._credentials(request)
        return given is not None and given.nonce not in self.nonces

    def _register(self, request: Request) -> None:
        wanted = request.number("Expires") or 0
        if 0 < wanted < self.min_expires_s:
            self.reply(request, 423, ("Min-Expires", str(self.min_expires_s)))
            return
        (contact,) = request.contacts
        if not wanted:
            self.contacts.pop(str(contact.uri), None)
            self.reply(request, 200)
            return
        granted = self.grants_s or wanted
        self.contacts[str(contact.uri)] = str(granted)
        self.reply(request, 200, ("Contact", f"{contact};expires={granted}"))


def trunk(name: str = "carrier", *targets: str, register: bool = False, word: str = WORD, **more: Any) -> Item:
    """A trunk with the carrier's account, its password sealed."""
    sealed = seal(SECRET, word, name.encode().ljust(12)[:12])
    body = {"targets": targets or ("10.9.0.1",), "username": USER, "password": sealed, "register": register, **more}
    return item("trunk", name, **body)


def outward(*trunks: Item, **more: Any) -> list[Item]:
    """Numbers that begin with 0 go out over these trunks, in this order."""
    names = [one.name for one in trunks]
    return [item("route", "out", pattern="0.", to="outbound:all"), item("outbound", "all", trunks=names, **more)]


__all__ = ["REALM", "SDP", "USER", "WORD", "Carrier", "outward", "trunk"]
