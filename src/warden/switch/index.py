"""Which call is meant: from transactions and dialogs to calls. Nothing here knows what they are about."""

from warden.sip.refer import Replaces
from warden.switch.live import LiveCall, SipLeg

Role = str
"""What a transaction is to its leg: "invite", "update", "bye", "notify" or "info"."""


class Index:
    """The transactions and dialogs of all calls of a seat."""

    def __init__(self) -> None:
        self._by_key: dict[str, tuple[LiveCall, str, Role]] = {}
        self._by_dialog: dict[tuple[str, str], tuple[LiveCall, str]] = {}
        self._own_call_ids: set[str] = set()
        self._by_number: dict[str, dict[str, LiveCall]] = {}

    def __len__(self) -> int:
        """Everything indexed: 0 when no call has left anything behind."""
        return len(self._by_key) + len(self._by_dialog) + len(self._own_call_ids) + len(self._by_number)

    def find_transaction(self, key: str) -> tuple[LiveCall, str, Role] | None:
        """The call, leg and role of a transaction."""
        return self._by_key.get(key)

    def find_dialog(self, call_id: str, local_tag: str) -> tuple[LiveCall, str] | None:
        """The call and leg of a dialog."""
        return self._by_dialog.get((call_id, local_tag))

    def find_replaced(self, replaces: Replaces) -> tuple[LiveCall, str] | None:
        """The call and leg of the dialog that a Replaces names (RFC 3891 section 3)."""
        found = self.find_dialog(replaces.call_id, replaces.to_tag)
        if found is None:
            return None
        leg = found[0].legs[found[1]]
        theirs = leg.early_tag if leg.dialog is None else leg.dialog.remote_tag
        return found if theirs == replaces.from_tag else None

    def is_ours(self, call_id: str) -> bool:
        """True for the Call-ID of a leg that we opened ourselves: an INVITE with it has come round in a loop."""
        return call_id in self._own_call_ids

    def calls_of(self, number: str) -> list[LiveCall]:
        """The calls that an extension is part of."""
        return list(self._by_number.get(number, {}).values())

    def add_leg(self, live: LiveCall, leg: SipLeg) -> None:
        """The leg belongs to the call from now on."""
        self._by_dialog[leg.call_id, leg.local_tag] = (live, leg.id)
        if leg.former is not None:
            self._by_dialog[leg.former.call_id, leg.former.to_tag] = (live, leg.id)
        call = live.call
        its = call.leg(leg.id)
        self._by_number.setdefault(its.number, {})[call.id] = live
        if not its.is_inbound:
            self._own_call_ids.add(leg.call_id)

    def replace_dialog(self, live: LiveCall, old: SipLeg, new: SipLeg) -> None:
        """The leg has another dialog, and what was its dialog as its former one."""
        self._forget_dialogs(old)
        self.add_leg(live, new)

    def _forget_dialogs(self, leg: SipLeg) -> None:
        self._by_dialog.pop((leg.call_id, leg.local_tag), None)
        self._own_call_ids.discard(leg.call_id)
        if leg.former is not None:
            self._by_dialog.pop((leg.former.call_id, leg.former.to_tag), None)

    def drop_leg(self, live: LiveCall, leg: SipLeg, number: str) -> None:
        """The leg is no part of the call any more."""
        self._forget_dialogs(leg)
        for key in (leg.invite, leg.update_in, leg.update_out, leg.bye, leg.notify):
            if key:
                self.disown(live, key)
        if all(other.number != number for other in live.call.legs if other.id != leg.id):
            calls = self._by_number.get(number, {})
            calls.pop(live.call.id, None)
            if not calls:
                self._by_number.pop(number, None)

    def own(self, live: LiveCall, leg_id: str, key: str, role: Role) -> None:
        """The transaction belongs to the leg from now on."""
        self._by_key[key] = (live, leg_id, role)
        live.keys.add(key)

    def give(self, live: LiveCall, leg_id: str) -> list[tuple[str, Role]]:
        """The leg goes to another call: its transactions, which are nobody's from now on, and what they are to it."""
        mine = [(key, self._by_key[key]) for key in live.keys if key in self._by_key]
        given = [(key, role) for key, (_, owner, role) in mine if owner == leg_id]
        for key, _ in given:
            del self._by_key[key]
            live.keys.discard(key)
        return given

    def disown(self, live: LiveCall, key: str) -> None:
        """The transaction means nothing more to the call."""
        self._by_key.pop(key, None)
        live.keys.discard(key)
        live.requests.pop(key, None)

    def adopt(self, live: LiveCall) -> None:
        """Index a restored call."""
        for leg in live.legs.values():
            self.add_leg(live, leg)
            asked = "" if leg.update_out_answered else leg.update_out
            roles = (leg.invite, "invite"), (leg.update_in, "update"), (asked, "update"), (leg.bye, "bye")
            for key, role in (*roles, (leg.notify, "notify")):
                if key:
                    self.own(live, leg.id, key, role)

    def forget(self, live: LiveCall) -> None:
        """A call is over and all its legs are gone. The endpoint's transactions end by themselves."""
        for leg in live.legs.values():
            self._forget_dialogs(leg)
        for number in {leg.number for leg in live.call.legs}:
            calls = self._by_number.get(number, {})
            calls.pop(live.call.id, None)
            if not calls:
                self._by_number.pop(number, None)
        for key in live.keys:
            self._by_key.pop(key, None)
