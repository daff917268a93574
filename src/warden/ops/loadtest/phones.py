"""The phones of a load test: where their server is, and how they are opened, registered and closed."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, Self

from msgspec import Struct

from warden.core.address import Address, Transport
from warden.core.errors import Unavailable, WardenError
from warden.net.files import raise_file_limit
from warden.ops.knock import Silent, knock
from warden.ops.loadtest.accounts import Login
from warden.ops.loadtest.plan import Plan
from warden.ops.loadtest.tally import Outcome, RegistrationResult
from warden.ops.softphone import Line, Refused, Softphone
from warden.ops.sound import ROUNDS, Sound
from warden.ops.town import side_by_side
from warden.phone import events
from warden.sip.message import REASONS

EXPIRES_S: Final = 600
"""What a killed test leaves in the registrar is gone after ten minutes."""
FIRST_S: Final = 10.0
"""How long the first REGISTER may take: who does not answer by then is not there."""
DIRECTORY_S: Final = 10.0
"""How long a node may take to know new extensions; it looks once a second."""
DIRECTORY_LOOK_S: Final = 1.1
"""It is not asked before: failed log-ins would look like an attack."""
TONES: Final = tuple(range(400, 1520, 40))
"""What the phones say, each another than its neighbours, so that a call which hears another one is found out."""
AT_ONCE: Final = 50
BREACHES_MAX: Final = 20


class Server(Struct, frozen=True):
    """What is tested. `local_host` is our address on the way there."""

    address: Address
    domain: str
    transport: Transport
    local_host: str

    def __str__(self) -> str:
        return f"{self.transport.via} {self.address}"


async def find_server(host: str, port: int, transport: Transport, domain: str = "") -> Server:
    """Look it up. Raises `WardenError`."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise WardenError(f"{host}: there is no such host ({why.lower()})") from error
    # What has both kinds of addresses is served at the old one for sure.
    family, _, _, _, where = next((one for one in found if one[0] == socket.AF_INET), found[0])
    address = Address(str(where[0]), port)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            # Nothing is sent: the kernel says which of our addresses leads there.
            sock.connect((address.host, port))
        except OSError as error:
            raise WardenError(f"{address} cannot be reached: {(error.strerror or str(error)).lower()}") from error
        local_host = str(sock.getsockname()[0])
    return Server(address, domain or (f"[{host}]" if ":" in host else host), transport, local_host)


class Pair:
    """Two phones: the first calls the second. `line` is the caller's of their present or last call."""

    def __init__(self, caller: Softphone, callee: Softphone) -> None:
        self.caller = caller
        self.callee = callee
        self.line: Line | None = None


class Phones:
    """Enter it with the server up; leaving it hangs up and unregisters. `are_new` says that the accounts were made a
    moment ago, so that the server may not know them yet.
    """

    def __init__(self, server: Server, logins: Sequence[Login], plan: Plan, *, are_new: bool = False) -> None:
        self.all: list[Softphone] = []
        self.refused_byes: dict[str, int] = {}
        """Tag of a call to the status that its BYE got, where that was no 2xx."""
        self._server = server
        self._logins = logins
        self._plan = plan
        self._are_new = are_new
        self._sound: Sound

    async def __aenter__(self) -> Self:
        self._make_room()
        self._sound = Sound()
        self.all = [self._phone(i, login) for i, login in enumerate(self._logins)]
        try:
            await side_by_side([phone.open() for phone in self.all], AT_ONCE)
        except Unavailable as error:
            self._abort()
            raise self.exhausted(error) if self._server.transport is Transport.UDP else error from None
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await side_by_side([phone.close() for phone in self.all], AT_ONCE)
        finally:
            self._abort()

    def pair(self, number: int) -> Pair:
        """The pair of that number."""
        return Pair(self.all[2 * number], self.all[2 * number + 1])

    async def try_one(self) -> RegistrationResult:
        """Register one phone. Raises `WardenError` that says why no phone can."""
        server = self._server
        if server.transport is Transport.UDP:
            # Who does not answer OPTIONS of a stranger may still answer a phone.
            with suppress(Silent):
                await knock(server.address, server.local_host)
        if self._are_new:
            await asyncio.sleep(DIRECTORY_LOOK_S)
        # The last one was made last: a server that knows it knows all.
        phone, until = self.all[-1], time.monotonic() + DIRECTORY_S
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(FIRST_S):
                    await phone.register(EXPIRES_S)
            except TimeoutError:
                raise WardenError(f"no answer from {server} within {FIRST_S:g} s") from None
            except Refused as refused:
                if not self._are_new or refused.status not in (401, 403, 404) or time.monotonic() > until:
                    raise self._refused(phone.number, refused.status) from None
                await asyncio.sleep(1.0)
            else:
                return RegistrationResult(Outcome.OK, time.monotonic() - began)

    async def register(self, phone: Softphone) -> RegistrationResult:
        """Register or refresh."""
        began = time.monotonic()
        try:
            await phone.register(EXPIRES_S)
        except Refused as refused:
            return RegistrationResult(Outcome.FAILED, time.monotonic() - began, in_words(refused.status))
        except TimeoutError:
            return RegistrationResult(Outcome.UNKNOWN, time.monotonic() - began, "no answer")
        return RegistrationResult(Outcome.OK, time.monotonic() - began)

    @property
    def breaches(self) -> Iterator[str]:
        """What the phones saw the server do wrong, most frequent first."""
        seen = Counter(what for phone in self.all for what in phone.violations)
        for what, times in seen.most_common(BREACHES_MAX):
            yield what if times == 1 else f"{what} ({times} times)"

    def exhausted(self, error: Exception) -> WardenError:
        """Why a phone has no socket."""
        return WardenError(
            f"this machine has no more UDP ports or open files to give ({error}): fewer --users or --concurrent-calls,"
            " or more of them (`ulimit -n`, net.ipv4.ip_local_port_range)"
        )

    def _make_room(self) -> None:
        allowed, needed = raise_file_limit(), self._plan.files
        if allowed < needed:
            raise WardenError(
                f"the phones need {needed} open files, and this process may have {allowed}: fewer --users or"
                " --concurrent-calls, or a higher `ulimit -n`"
            )

    def _phone(self, i: int, login: Login) -> Softphone:
        plan, server = self._plan, self._server
        is_measured = i // 2 % plan.concurrent_calls < plan.measured
        return Softphone(
            login.number,
            login.password,
            server.address,
            transport=server.transport,
            local_host=server.local_host,
            domain=server.domain,
            tone_hz=TONES[i % len(TONES)],
            answers_after_s=0.0,
            sound=self._sound,
            every=1 if is_measured else ROUNDS,
            on_event=self._heard,
        )

    def _heard(self, event: events.Event) -> None:
        if isinstance(event, events.Outcome) and event.method == "BYE" and event.status >= 300:
            self.refused_byes[event.call] = event.status

    def _refused(self, number: str, status: int) -> WardenError:
        server, said = self._server, in_words(status)
        if status in (401, 403, 404, 407):
            if self._are_new:
                return WardenError(
                    f"{number} is refused by {server} ({said}), though it was made a moment ago: does that server"
                    " work on the database that the settings here name? Else give --accounts or --password-file"
                )
            return WardenError(
                f"{number} is refused by {server} ({said}): is the password right, and the number there?"
            )
        return WardenError(f"{number} is not registered by {server}: {said}")

    def _abort(self) -> None:
        for phone in self.all:
            phone.abort()
        self._sound.close()


def in_words(status: int) -> str:
    """A final status that a phone got; 408 also stands for no answer at all."""
    return f"{status} {REASONS.get(status, 'unknown')}"
