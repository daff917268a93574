"""The registrations of a seat: the bindings of every number, kept as long as they are asked to live."""

from collections.abc import Mapping
from typing import Final

from warden.core.address import Flow
from warden.core.deadlines import Deadlines
from warden.core.errors import MalformedMessage
from warden.core.versions import Extras, Unreadable
from warden.sip.message import Request
from warden.sip.uri import parse_uri
from warden.store.ports import Kind, Write
from warden.switch.directory import Directory
from warden.switch.registrar import BINDINGS, SCHEMA, Binding, Bound, Limits, Registration, flows_of, live, register
from warden.switch.relocation import bindings_here
from warden.switch.restart import reconnected
from warden.switch.settings import Settings
from warden.switch.targets import is_direct

GONE_MAX: Final = 20_000
"""Connections remembered that are gone: every phone of a full node, twice."""
NOTHING: Final[tuple[Binding, ...]] = ()


class Registrations:
    """A machine: what is to be stored is left in `writes`, for the owner to take."""

    def __init__(self, settings: Settings) -> None:
        self.bindings: dict[str, tuple[Binding, ...]] = {}
        self.writes: list[Write] = []
        self._settings = settings
        self._limits = Limits(
            settings.min_expires_s, settings.default_expires_s, settings.max_expires_s, settings.contacts_max
        )
        self._deadlines: Deadlines[str] = Deadlines()
        self._extras: dict[str, Extras] = {}
        self._gone: dict[Flow, None] = {}

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        return self._deadlines.earliest

    def find(self, now: float, number: str) -> tuple[Binding, ...]:
        """The bindings of a number, the most wanted first."""
        return tuple(sorted(live(self.bindings.get(number, NOTHING), now), key=lambda binding: -binding.q))

    def find_flows(self, now: float, number: str) -> list[Binding]:
        """One binding for each phone of a number, the most wanted first."""
        bindings = self.bindings.get(number, NOTHING)
        if len(bindings) <= 1:
            return [binding for binding in bindings if binding.expires_at > now]
        flows = flows_of(live(bindings, now), self._is_gone)
        return sorted(flows, key=lambda binding: -binding.q)

    def register(self, now: float, number: str, request: Request, flow: Flow) -> Registration:
        """Carry out a REGISTER of the number's owner. Raises `MalformedMessage` (400)."""
        old = self.bindings.get(number, NOTHING)
        direct = is_direct(request, flow)
        done = register(now, old, request, flow, self._limits, direct=direct, is_gone=self._is_gone)
        if done.status == 200 and request.get("Contact") is not None:
            self._keep(number, done.bindings)
        return done

    def lost(self, flow: Flow) -> None:
        """A connection is gone."""
        if flow.connection:
            self._gone[flow] = None
            if len(self._gone) > GONE_MAX:
                del self._gone[next(iter(self._gone))]

    def _is_gone(self, flow: Flow) -> bool:
        """True where a connection is known to be gone, or was that of an earlier process."""
        return flow.transport.reliable and (flow.connection == 0 or flow in self._gone)

    def tick(self, now: float) -> None:
        """Let go of what has expired."""
        while (number := self._deadlines.pop_due(now)) is not None:
            self._keep(number, live(self.bindings.get(number, NOTHING), now))

    def keep_known(self, directory: Directory) -> None:
        """Let go of the bindings of extensions that are no more."""
        for number in [n for n in self.bindings if directory.find(n) is None]:
            self._keep(number, NOTHING)

    def restore(self, now: float, records: Mapping[str, bytes]) -> dict[str, Unreadable]:
        """Go on with an earlier process's bindings; gives the numbers whose record could not be read, and why."""
        unreadable = {}
        for number, record in records.items():
            try:
                bound, extras = BINDINGS.decode(record)
                known = bound.bindings
                for binding in known:
                    parse_uri(binding.contact)
            except Unreadable as error:
                unreadable[number] = error
                continue
            except MalformedMessage as error:
                unreadable[number] = Unreadable(str(error), newer=False)
                continue
            if extras is not None:
                self._extras[number] = extras
            kept = bindings_here(live(known, now), self._settings)
            if kept == known:
                self._remember(number, reconnected(kept))
            else:
                self._keep(number, reconnected(kept))
        return unreadable

    def _keep(self, number: str, bindings: tuple[Binding, ...]) -> None:
        self._remember(number, bindings)
        self.writes.append(self.record_of(number))

    def record_of(self, number: str) -> Write:
        """The number's record as it is now."""
        bindings = self.bindings.get(number)
        if not bindings:
            return Write(Kind.BINDING, number, None)
        return Write(Kind.BINDING, number, BINDINGS.encode(Bound(SCHEMA, bindings), self._extras.get(number)))

    def _remember(self, number: str, bindings: tuple[Binding, ...]) -> None:
        if bindings:
            self.bindings[number] = bindings
            self._deadlines.set(number, min(b.expires_at for b in bindings))
        else:
            self.bindings.pop(number, None)
            self._extras.pop(number, None)
            self._deadlines.clear(number)
