"""What of a switch's requests is refused while the node is overloaded: new calls and new registrations, before anything
is done about them, and never what belongs to something that is there already, nor an emergency call.
"""

from collections.abc import Callable
from typing import Final

from warden.core.errors import MalformedMessage
from warden.sip.message import Request
from warden.switch.overload import Overload
from warden.switch.registrar import Binding

SHEDDABLE: Final = frozenset({"INVITE", "REGISTER"})


class Shedding:
    """`knows(request)`: there is a transaction of it. `bindings_of(number)` are the contacts registered for it, also
    those that have expired. `is_emergency(number)` is what the dialplan says.
    """

    def __init__(
        self,
        overload: Overload,
        knows: Callable[[Request], bool],
        bindings_of: Callable[[str], tuple[Binding, ...]],
        is_emergency: Callable[[str], bool],
    ) -> None:
        self.overload = overload
        self._knows = knows
        self._bindings_of = bindings_of
        self._is_emergency = is_emergency

    def retry_after(self, now: float, request: Request) -> int:
        """0 where the request is to be served, else after how many seconds its sender may try again."""
        overload, method = self.overload, request.method
        if method not in SHEDDABLE:
            return 0
        try:
            call_id = request.call_id
            if overload.was_admitted(now, call_id):
                return 0
            if method == "INVITE":
                return self._judge_call(now, request, call_id)
            number = request.to.uri.username or ""
            # The same Call-ID as ever: a phone that refreshes what it has, and was not started anew.
            if any(binding.call_id == call_id for binding in self._bindings_of(number)):
                return 0
            return overload.phone_may_register(now, call_id)
        except MalformedMessage:
            # What is wrong with it is told by those who serve it.
            return 0

    def _judge_call(self, now: float, request: Request, call_id: str) -> int:
        if request.to.tag is not None:
            return 0
        retry_after = self.overload.call_may_begin(now, call_id)
        number = request.uri.username or ""
        if retry_after and (self._knows(request) or self._is_emergency(number) or self.overload.is_emergency(number)):
            return 0
        return retry_after
