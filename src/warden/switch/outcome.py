"""What the switch gives back for every input."""

from msgspec import Struct

from warden.media.protocol import Order
from warden.sip.endpoint import Send
from warden.sip.uri import Uri
from warden.store.ports import Write


class Lookup(Struct, frozen=True, gc=False):
    """A callee's URI to be resolved (RFC 3263) before its leg can be dialled."""

    call: str
    leg: str
    uri: Uri


class TrunkLookup(Struct, frozen=True, gc=False):
    """A trunk's target to be resolved (RFC 3263): all its addresses are wanted."""

    trunk: str
    uri: Uri


class Change(Struct, frozen=True, gc=False):
    """Extension `number` has dialled a feature code: its setting `field` is to be `to` from now on, and the caller
    waits to hear that it is.
    """

    call: str
    number: str
    field: str
    to: str | bool


class Outcome(Struct):
    """What came of one input. `writes` are to be stored, then `orders` and `sends` carried out, in order."""

    writes: list[Write]
    orders: list[Order]
    sends: list[Send]
    lookups: list[Lookup | TrunkLookup | Change]

    @property
    def may_go_at_once(self) -> bool:
        """True where no message waits for a record or for media."""
        return not self.writes and not self.orders
