"""The calls of an earlier process, put back into a switch: a record that cannot be is set aside, and harms no other."""

from collections.abc import Mapping
from typing import Final

from warden.call.events import Stopped
from warden.call.model import Cause, Phase
from warden.core.versions import Extras, Unreadable
from warden.media.protocol import Drop, Put
from warden.sip.endpoint import Endpoint
from warden.sip.message import Request
from warden.sip.parser import parse_message
from warden.sip.uri import parse_uri
from warden.store.ports import Kind
from warden.switch.aside import AsideRecords, Unread
from warden.switch.calls import Calls
from warden.switch.legs import Legs
from warden.switch.live import SNAPSHOTS, LiveCall, Snapshot, ports_of, told_from
from warden.switch.outcome import Lookup
from warden.switch.records import Records
from warden.switch.relocation import is_elsewhere, relocated
from warden.switch.restart import check, reconnecting, said_again
from warden.switch.settings import Settings

MOVED: Final = Cause(503, "Moved to another address")
"""Why a call ends that rings while its seat goes elsewhere: the caller's phone may try again, and finds it there."""


class Restore:
    """Puts calls into `calls`, `endpoint` and what hangs on them; `ports` are those that they have."""

    def __init__(
        self,
        settings: Settings,
        endpoint: Endpoint,
        calls: Calls,
        legs: Legs,
        records: Records,
        aside: AsideRecords,
    ) -> None:
        self.ports: set[int] = set()
        self._left_behind: list[LiveCall] = []
        self._settings = settings
        self._endpoint = endpoint
        self._calls = calls
        self._legs = legs
        self._records = records
        self._aside = aside

    def end_left_behind(self, now: float) -> None:
        """End the calls that could not come along to another address. Their ports are claimed by then."""
        for live_call in self._left_behind:
            self._calls.feed(now, live_call, Stopped(MOVED))

    def take(self, now: float, records: Mapping[str, bytes]) -> list[Unread]:
        """Go on with the calls of these records. The records that could not be read."""
        calls, outputs, unread = self._calls, self._legs.outputs, []
        for call_id, record in records.items():
            said, ordered, asked = len(outputs), len(calls.orders), len(calls.lookups)
            snapshot: Snapshot | None = None
            try:
                snapshot, extras = SNAPSHOTS.decode(record)
                self._restore(now, call_id, snapshot, extras)
            except Exception as error:
                del outputs[said:], calls.orders[ordered:], calls.lookups[asked:]
                if snapshot is not None:
                    self._forget(call_id, snapshot)
                unread.append(self._aside.take(now, Kind.CALL, call_id, record, error))
        for left in self._aside.left.values():
            if left.session is not None:
                calls.orders.append(Put(left.session))
                self.ports |= ports_of(left.session)
        return unread

    def _restore(self, now: float, call_id: str, snapshot: Snapshot, extras: Extras | None) -> None:
        """Raises whatever the record may lead to; `_forget` then undoes what was done."""
        check(call_id, snapshot)
        moved = is_elsewhere(snapshot, self._settings)
        if moved:
            snapshot = relocated(now, snapshot, self._settings)
        call = snapshot.call
        live_call = _live_call(snapshot, extras)
        own = {*call.ports.a, *call.ports.b}
        if not call.is_finished:
            if not self.ports.isdisjoint(own):
                raise Unreadable("its ports are another call's", newer=False)
            self._calls.live[call_id] = live_call
        for transaction in snapshot.transactions:
            self._legs.outputs += self._endpoint.restore(now, transaction)
            self._legs.outputs += said_again(transaction)
        if call.is_finished:
            # Only its last words may not have been heard yet.
            self._records.linger(now, call_id)
            return
        self._legs.index.adopt(live_call)
        self._legs.over_trunks.adopt(now, live_call)
        # The record is as it should be, and so are the media in it: to work both out anew for every call would take
        # most of an adoption's time.
        if not moved:
            live_call.written = live_call.values
        session = live_call.session
        if session is not None and session.host == self._settings.media_bind:
            live_call.session_of = told_from(live_call)
        # Also what is not wanted any more: the order to end it may not have been carried out.
        self._calls.orders.append(Drop(call.id) if session is None else Put(session))
        for leg in live_call.legs.values():
            if leg.lookup:
                self._calls.lookups.append(Lookup(call.id, leg.id, parse_uri(leg.target)))
        self._calls.settle(now, live_call)
        self.ports |= own
        if moved and call.phase is Phase.SETUP:
            self._left_behind.append(live_call)

    def _forget(self, call_id: str, snapshot: Snapshot) -> None:
        """Undo what `_restore` may have done."""
        if self._calls.forget(call_id) is not None:
            for transaction in snapshot.transactions:
                self._endpoint.drop(transaction.key)


def _live_call(snapshot: Snapshot, extras: Extras | None) -> LiveCall:
    live_call = LiveCall(snapshot.call, snapshot.max_forwards)
    live_call.legs = {leg.id: reconnecting(leg) for leg in snapshot.legs}
    live_call.session = snapshot.session
    live_call.srtp = {srtp.leg: srtp.sdes for srtp in snapshot.srtp}
    live_call.revision = snapshot.revision
    live_call.extras = extras
    for transaction in snapshot.transactions:
        if transaction.request:
            request = parse_message(transaction.request)
            assert isinstance(request, Request), "export wrote a request"
            live_call.requests[transaction.key] = request
    return live_call
