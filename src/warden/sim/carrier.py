"""A carrier in the simulated world: a registrar that asks for a proof, and one line outside that takes calls."""

from typing import Final

from warden.core.address import Address
from warden.sim.network import PHONES, Message
from warden.sim.node import SECRET
from warden.sim.story import Story
from warden.sim.town import Person, Town
from warden.sip.digest import Algorithm, challenge, ha1, read_credentials, verify
from warden.sip.message import Request
from warden.store.ports import Item
from warden.switch.dialplan.items import Outbound, Route, body_of
from warden.switch.trunks.sealed import NONCE_BYTES, seal
from warden.switch.trunks.trunk import Trunk

OUTSIDE: Final = "80001234"
"""The number of the line outside."""
ADDRESS: Final = Address("10.8.0.2", 5060)
NOWHERE: Final = Address("10.8.0.1", 5060)
"""The trunk's first target, where nobody is; so that every call and registration has to find the second."""
EXPIRES_S: Final = 60
"""The shortest time that a trunk registers for, so that it does so several times in a story."""
_USER, _WORD, _REALM, _NONCE = "account", "the carrier's word", "carrier.sim", "once and for all"


def items() -> list[Item]:
    """The trunk, and the route that leads there."""
    trunk = Trunk(
        (str(NOWHERE), str(ADDRESS)),
        _USER,
        seal(SECRET, _WORD, bytes(NONCE_BYTES)),
        register=True,
        expires_s=EXPIRES_S,
        probe_s=0.0,
    )
    return [
        Item("trunk", "carrier", body_of(trunk)),
        Item("outbound", "carrier", body_of(Outbound(("carrier",)))),
        Item("route", "outside", body_of(Route("8XXXXXXX", to="outbound:carrier"))),
    ]


class Carrier(Person):
    """It is called as a phone is, but registers nowhere: others register with it. `contacts` are theirs, with the time
    until which they are known, `call_ids` those of all registrations.
    """

    def __init__(self, town: Town) -> None:
        super().__init__(OUTSIDE, ADDRESS, NOWHERE, town)
        self.known_at = self.now
        self.contacts: dict[str, float] = {}
        self.call_ids: set[str] = set()
        self._network = town.network

    def register(self) -> None:
        """It need not."""

    def hear(self, source: Address, message: Message) -> None:
        """As `Hears.hear`."""
        if isinstance(message, Request) and message.method == "REGISTER":
            self._register(source, message)
        else:
            super().hear(source, message)

    def _register(self, source: Address, request: Request) -> None:
        proof = ha1(_USER, _REALM, _WORD, Algorithm.MD5)
        if not any(verify(given, "REGISTER", proof) for given in read_credentials(request)):
            (value,) = challenge(_REALM, _NONCE, [Algorithm.MD5])
            response = request.respond(401, ("WWW-Authenticate", value), to_tag="r")
        else:
            (contact,) = request.contacts
            self.call_ids.add(request.call_id)
            self.contacts[str(contact.uri)] = self.now + (request.number("Expires") or 0)
            response = request.respond(200, ("Contact", f"{contact};expires={EXPIRES_S}"), to_tag="r")
        self._network.send(PHONES, self.address, source, bytes(response))

    def check(self, story: Story) -> None:
        """One seat of the cluster is registered, whoever had it went on with the same registration, and no call was
        wrong.
        """
        known = [contact for contact, until in self.contacts.items() if until > self.now]
        if len(known) != 1 or len(self.contacts) != 1:
            story.accuse(f"the carrier knows {sorted(self.contacts.items())}")
        if len(self.call_ids) != 1:
            story.accuse(f"the carrier was asked for {len(self.call_ids)} registrations")
        for what in self.violations:
            if not what.startswith("CSeq"):
                story.accuse(f"the carrier complains: {what}")
