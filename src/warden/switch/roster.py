"""Who is registered at the other seats, as far as was last heard: calls find their way while the store is away.

Records are kept as they came and decoded when somebody is called. Nothing here knows where they come from.
"""

from collections.abc import Iterable, Mapping

from warden.core.address import Address
from warden.core.versions import Unreadable
from warden.switch.registrar import Binding, decode_bindings, live

Phone = tuple[str, str, Binding]
"""A number, a seat, and a binding of the number there."""


def newest(phones: Iterable[Phone]) -> list[Phone]:
    """One of each phone: where it is registered at two seats (the same instance, or the same contact) it is at the one
    where its registration ends later; where one seat has several flows of it (RFC 5626), by the newest, the last.
    """
    found: dict[tuple[str, str], Phone] = {}
    for phone in phones:
        name = phone[0], phone[2].instance or phone[2].contact
        before = found.get(name)
        if before is None or before[1] == phone[1] or phone[2].expires_at > before[2].expires_at:
            found[name] = phone
    return list(found.values())


class Roster:
    """The bindings at every seat that was heard of; one serves all switches of a node. `addresses` is where each seat
    hears SIP over UDP; one that is not among them cannot be reached.
    """

    def __init__(self) -> None:
        self.addresses: Mapping[str, Address] = {}
        self._seats: dict[str, dict[str, bytes]] = {}
        self._numbers: dict[str, dict[str, bytes]] = {}

    @property
    def sizes(self) -> dict[str, int]:
        """How many numbers are registered at each seat."""
        return {seat: len(records) for seat, records in self._seats.items()}

    def take(self, seat: str, records: Mapping[str, bytes | None], *, whole: bool) -> None:
        """These records of a seat are new, by number, None where there is none any more; `whole`: and all others
        are no more.
        """
        known = self._seats.setdefault(seat, {})
        if whole:
            for number in [n for n in known if n not in records]:
                self._forget(seat, known, number)
        for number, record in records.items():
            if record is None:
                self._forget(seat, known, number)
            else:
                known[number] = record
                self._numbers.setdefault(number, {})[seat] = record

    def find(self, now: float, number: str, *, but: str) -> list[tuple[str, Binding]]:
        """The live bindings of a number at every seat that can be reached, but at `but`, with their seats."""
        records = self._numbers.get(number)
        if records is None:
            return []
        found = []
        for seat, record in records.items():
            if seat == but or seat not in self.addresses:
                continue
            try:
                bindings = decode_bindings(record)
            except Unreadable:
                # The seat's own node tells of it when it reads the record; here one phone is not found.
                continue
            found += [(seat, binding) for binding in live(bindings, now)]
        return found

    def _forget(self, seat: str, known: dict[str, bytes], number: str) -> None:
        if known.pop(number, None) is None:
            return
        seats = self._numbers[number]
        del seats[seat]
        if not seats:
            del self._numbers[number]
