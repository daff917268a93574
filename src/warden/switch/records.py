"""The calls of a seat as the store shall have them: one record each, written when something about the call changed."""

from msgspec.structs import replace

from warden.call.cdr import Cdr, encode_cdr
from warden.call.model import CALLER
from warden.core.deadlines import Deadlines
from warden.sip.endpoint import Endpoint
from warden.sip.transaction import State
from warden.store.ports import Kind, Write
from warden.switch.live import SNAPSHOTS, LiveCall, is_same, snapshot_of
from warden.switch.settings import Settings

LINGER_S = 32.0
"""How long the record of a refused call stays: as long as its refusal is repeated (timer H, 64*T1)."""


class Records:
    """A machine: what is to be stored is left in `writes`, for the owner to take."""

    def __init__(self, settings: Settings, endpoint: Endpoint) -> None:
        self.writes: list[Write] = []
        self._settings = settings
        self._endpoint = endpoint
        self._deadlines: Deadlines[str] = Deadlines()

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        return self._deadlines.earliest

    def tick(self, now: float) -> None:
        """Delete the records that have stayed long enough."""
        while (call_id := self._deadlines.pop_due(now)) is not None:
            self.writes.append(Write(Kind.CALL, call_id, None))

    def keep(self, live: LiveCall) -> None:
        """Write the call's record, unless it has not changed."""
        values = live.values
        if not is_same(values, live.written):
            live.written = values
            self._write(live)

    def end(self, now: float, live: LiveCall) -> None:
        """The call is over. One that was refused is not forgotten before its caller can have heard so: a successor that
        knew nothing of it would leave the caller without an answer, or take its INVITE for another call.
        """
        call = live.call
        if call.answered_at is None:
            refusal = self._endpoint.export(live.legs[CALLER].invite)
            if refusal is not None and refusal.state is State.COMPLETED:
                self._write(live)
                self.linger(now, call.id)
                return
        if live.revision:
            self.writes.append(Write(Kind.CALL, call.id, None))

    def linger(self, now: float, call_id: str) -> None:
        """The record of a call that is over is deleted later."""
        self._deadlines.set(call_id, now + LINGER_S)

    def add_cdr(self, cdr: Cdr) -> None:
        """The call detail record goes to the outbox."""
        cdr = replace(cdr, seat=self._settings.seat, node=self._settings.node)
        self.writes.append(Write(Kind.OUTBOX, cdr.id, encode_cdr(cdr)))

    def record_of(self, live: LiveCall) -> Write:
        """The call's record as it is now."""
        return Write(Kind.CALL, live.call.id, SNAPSHOTS.encode(snapshot_of(live, self._endpoint), live.extras))

    def _write(self, live: LiveCall) -> None:
        live.revision += 1
        self.writes.append(self.record_of(live))
