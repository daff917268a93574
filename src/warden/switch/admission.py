"""Who may have what: requests that begin something are judged here before anything is done about them.

Nothing is decided about calls and nothing is stored; a verdict is a value.
"""

from typing import Final

from msgspec import Struct

from warden.core.address import Transport
from warden.sdp.relay import STREAMS_MAX, streams
from warden.sdp.sdes import NotSecure, Policy, Sdes
from warden.sip.digest import Nonces
from warden.sip.message import Fields, Request
from warden.store.ports import Extension
from warden.switch.auth import Authenticator, Challenged
from warden.switch.bodies import audio_host, no_way, offer_of
from warden.switch.directory import Directory
from warden.switch.secrecy import PRIVATE, begin, needs_tls, why
from warden.switch.settings import Settings
from warden.switch.text import printable
from warden.switch.trunks.identity import called_of, caller_of
from warden.switch.trunks.trunk import Trunk

NUMBER_CHARS_MAX: Final = 128
"""What may be dialled: longer than any number or name."""
HOPS_MAX: Final = 70
"""What a call may still cross behind us, whatever its caller says (RFC 3261 section 8.1.1.6)."""
RETRY_AFTER: Final = ("Retry-After", "5")
"""With every 503: calls end and ports get free within seconds."""


FAILED: Final = "auth_failures"
CHALLENGED: Final = "challenges"


class Refusal(Struct, frozen=True, gc=False):
    """The answer to a request that gets nothing. `counter` is what it counts as, "" for nothing special; `proven` is
    True where the sender is known to be one of our extensions; `name` is the one that it failed to be.
    """

    status: int
    fields: Fields = ()
    counter: str = ""
    proven: bool = False
    name: str = ""


class Caller(Struct, frozen=True, gc=False):
    """Who makes a call: an extension, or somebody outside over a `trunk`. `dialled` is the number that is called. For
    one who `is_seat` another seat of the cluster speaks, which knows its callers.
    """

    number: str
    name: str
    dialled: str
    trunk: str = ""
    is_seat: bool = False


class Wanted(Struct, frozen=True, gc=False):
    """A call that may begin. `sdp` is the caller's offer ("" for a late one), `streams` the number of its m= lines that
    need ports, `hops` the Max-Forwards for the callees, `srtp` what protects its media, if anything.
    """

    caller: Caller
    dialled: str
    sdp: str
    streams: int
    hops: int
    srtp: Sdes | None


class Admission:
    """Judges the requests of a seat."""

    def __init__(self, settings: Settings, nonce_key: bytes, salt: bytes) -> None:
        self._settings = settings
        self._auth = Authenticator(
            settings.realm,
            settings.digest_algorithms,
            Nonces(nonce_key, salt=salt, lifetime_s=settings.nonce_lifetime_s),
        )

    def judge_registration(self, now: float, request: Request, directory: Directory) -> Extension | Refusal:
        """May this REGISTER change the bindings of its address of record? Raises `MalformedMessage` (400)."""
        return self._owner(now, request, directory, request.to.uri.username, request.from_.uri.username)

    def judge_caller(self, now: float, request: Request, directory: Directory) -> Caller | Refusal:
        """May whoever sent this INVITE make calls? Raises `MalformedMessage` (400)."""
        if _hops(request) == 0:
            return Refusal(483)
        owner = self._owner(now, request, directory, request.from_.uri.username)
        return owner if isinstance(owner, Refusal) else Caller(owner.number, owner.name, request.uri.username)

    def judge_outsider(self, request: Request, trunk: Trunk, contact_user: str) -> Caller | Refusal:
        """Who calls over a trunk, and whom. Raises `MalformedMessage` (400)."""
        if _hops(request) == 0:
            return Refusal(483, proven=True)
        number, name = caller_of(trunk, request)
        return Caller(number, name, called_of(request, contact_user), trunk.name)

    def judge_transport(self, policy: Policy, transport: Transport) -> Refusal | None:
        """The answer to an extension that must not be served over this transport; None where it may."""
        if policy is Policy.REQUIRED and transport not in PRIVATE:
            return Refusal(403, needs_tls(self._settings.media_host), "srtp_refused", proven=True)
        return None

    def judge_call(self, request: Request, caller: Caller, policy: Policy, transport: Transport) -> Wanted | Refusal:
        """May this INVITE of `caller` begin a call? `policy` is about its media. Raises `MalformedMessage` (400, 413,
        415, 488).
        """
        refusal = self.judge_transport(policy, transport)
        if refusal is not None:
            return refusal
        dialled = caller.dialled
        if not dialled or len(dialled) > NUMBER_CHARS_MAX:
            return Refusal(484, proven=True)
        try:
            srtp, sdp = begin(policy, offer_of(request), transport)
        except NotSecure as error:
            return Refusal(488, why(error, self._settings.media_host), "srtp_refused", proven=True)
        wanted = streams(sdp) if sdp else ()
        if sdp and not any(s.active for s in wanted):
            warning = ("Warning", f'304 {self._settings.media_host} "Media type not available"')
            return Refusal(488, (warning,), proven=True)
        if not self._settings.reaches(audio_host(sdp)):
            return Refusal(488, (no_way(self._settings.media_host),), proven=True)
        slots = min(len(wanted), STREAMS_MAX) if sdp else 1
        return Wanted(caller, printable(dialled), sdp, slots, _hops(request) - 1, srtp)

    def _owner(self, now: float, request: Request, directory: Directory, *names: str) -> Extension | Refusal:
        """The extension that sent the request, which must be the one that all `names` are of."""
        verdict = self._auth.check(now, request, directory)
        if isinstance(verdict, Challenged):
            return Refusal(401, verdict.fields, FAILED if verdict.failed else CHALLENGED, name=verdict.failed)
        if any(name != verdict.extension.number for name in names):
            return Refusal(403, counter="forbidden", proven=True)
        return verdict.extension


def _hops(request: Request) -> int:
    hops = request.number("Max-Forwards")
    return HOPS_MAX if hops is None else min(hops, HOPS_MAX)
