"""A phone that accepts no change of a call, and takes another dialog in its place where somebody asks for one."""

from itertools import count

from msgspec.structs import replace
from tests.unit.switch.world import World

from warden.core.address import Flow
from warden.phone.call import Call, State
from warden.phone.events import Output
from warden.phone.phone import Phone
from warden.sip.message import Request
from warden.sip.refer import read_replaces


class Stubborn(Phone):
    """`refuses` is its answer to a re-INVITE, `takes` that to an INVITE with Replaces: 200 is what RFC 3891 wants, 180
    has it ring, 0 leaves it without any. `leaves_first`: the BYE of the old dialog goes out before that answer. It
    comes where we are, since such a phone says everything to whom it is registered with.
    """

    def __init__(self, world: World, name: str) -> None:
        line = world.phones[name]._line
        tokens = count()
        super().__init__(line.account, line.flow, lambda: f"{name}s{next(tokens)}")
        self.world = world
        self.name = name
        self.refuses = 488
        self.fields: tuple[tuple[str, str], ...] = ()
        self.takes = 200
        self.leaves_first = False
        self.replacements: list[Request] = []

    def _arrived(self, now: float, key: str, request: Request, flow: Flow) -> list[Output]:
        if request.method == "INVITE" and request.get("Replaces") is not None:
            return self._replaced(now, key, request, flow)
        call = self._find(request) if request.method == "INVITE" else None
        if call is not None:
            return call.respond(now, key, request, self.refuses, *self.fields)
        return super()._arrived(now, key, request, flow)

    def _replaced(self, now: float, key: str, request: Request, flow: Flow) -> list[Output]:
        self.replacements.append(request)
        wanted = read_replaces(request.get("Replaces") or "")
        old = self._calls.get(wanted.to_tag)
        if old is None or old.dialog is None or old.call_id != wanted.call_id:
            return self._refuse(now, key, request, 481)
        assert old.dialog.remote_tag == wanted.from_tag
        if self.takes >= 300:
            return self._refuse(now, key, request, self.takes)
        if not self.takes:
            self._endpoint.drop(key)
            return []
        new = Call(self._line, request.call_id, State.INCOMING)
        out = new.invited(now, key, request, flow)
        self._calls[new.tag] = new
        if self.takes == 180:
            return out + new.ring(now)
        self.follow(old)
        bye = old.hang_up(now)
        answer = new.answer(now, self.world.media_of(self.name))
        return out + (bye + answer if self.leaves_first else answer + bye)

    def follow(self, call: Call) -> None:
        """What the phone says in the call's dialog goes where we are."""
        assert call.dialog is not None
        call.dialog = replace(call.dialog, remote_target=f"sip:{self.world.server}")


def make_stubborn(world: World, name: str) -> Stubborn:
    """The phone is one from now on."""
    world.register(name, 0)
    phone = Stubborn(world, name)
    world.phones[name] = phone
    world.register(name)
    return phone
