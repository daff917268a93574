"""What the rest of Warden may ask of its stores. Concrete stores are named only in `node` (and the simulator).

Every method raises `Unavailable` when the store does not answer, `Fenced` when the seat has a newer holder.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol

from msgspec import Struct

from warden.call.cdr import Cdr
from warden.sdp.sdes import Policy


class Kind(StrEnum):
    """The kinds of record a seat keeps in the fast store."""

    CALL = "call"
    BINDING = "binding"
    OUTBOX = "outbox"
    ASIDE = "aside"
    TRUNK = "trunk"
    BAN = "ban"


class Write(Struct, frozen=True, gc=False):
    """One change of a seat's records: a new value, or None to delete."""

    kind: Kind
    key: str
    value: bytes | None


FOLLOWED: Final = Kind.BINDING
"""The kind whose changes can be followed. Calls change many times a second and nobody else needs to know at once."""


class Changes(Struct, frozen=True, gc=False):
    """What has changed of a seat's records: `records` maps a key to its value now, or to None where it is gone.

    `whole`: these are all records there are, whatever was known before. `mark` is for the next question. It is empty
    where the store knows nothing of the seat: nobody has held it yet, or the store has lost its memory and its holder
    is about to write everything again; whoever knew the seat may go by that meanwhile.
    """

    mark: str
    whole: bool
    records: Mapping[str, bytes | None]


class SeatStore(Protocol):
    """The fast truth: small records by (seat, kind, key), fenced by the seat's epoch."""

    async def claim(self, seat: str, holder: str) -> int:
        """Take the seat for `holder`: its epoch grows by one and is returned; older epochs are fenced from here on."""

    async def write(self, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        """Carry out all writes in order, or none. A lower epoch than the seat's raises `Fenced`.

        Gives how often it has come to light on this handle that the store lost what it had acknowledged of the seat: it
        was emptied, or failed over to an older copy. When that number is no longer what it was, everything has to be
        written again. An empty write asks just that.
        """

    async def read(self, seat: str, kind: Kind) -> Mapping[str, bytes]:
        """All records of one kind, by key."""

    async def changes(self, seat: str, kind: Kind, since: str) -> Changes:
        """What has changed since the mark that an earlier call on this handle gave; everything where that is empty, or
        where the store cannot tell. Quick where nothing has. `kind` is `FOLLOWED`; others raise `ValueError`.
        """

    async def close(self) -> None:
        """Let go of files and connections. Safe to call twice."""


class Holding(Struct, frozen=True, gc=False):
    """Who holds a seat. `holder` is empty while nobody does; `expires_in_s` is 0 then."""

    seat: str
    holder: str
    epoch: int
    expires_in_s: float


class Member(Struct, frozen=True, gc=False):
    """What a node says of itself. `data` is the node's own record; the coordinator never looks into it."""

    node: str
    data: bytes


class Coordinator(Protocol):
    """Decides who holds which seat, one node at a time, each time with a higher epoch; and keeps the list of members.

    Time is the coordinator's own. A holder counts its deadline from before it asked (`acquire`, `take` or `renew`), so
    it always stops before its lease ends here; a lease may last longer than asked for, never shorter. Calls may be
    repeated: `acquire` and `take` that were carried out without the answer arriving give the same epoch again.

    Epochs never go back. Where the coordinator itself forgets (a Redis that fails over without its last writes, a
    backup brought back), who has seen more wins: `acquire` and `take` give an epoch of at least `at_least`, one more
    than the highest the caller has seen, and `renew` and `take` restore what their caller still knows.
    """

    async def acquire(self, seat: str, node: str, ttl_s: float, at_least: int = 0) -> int | None:
        """Take a seat that is free or expired, for `ttl_s`: its new epoch, one higher; None while another node holds
        it. A node that holds it already has it renewed and gets its epoch back.
        """

    async def take(self, seat: str, node: str, ttl_s: float, from_epoch: int, at_least: int = 0) -> int | None:
        """Take a seat from whoever holds it, or held it, at `from_epoch` (hand-over, or an address that has moved by
        itself): its new epoch. None where the seat is past `from_epoch`.
        """

    async def renew(self, node: str, held: Mapping[str, int], ttl_s: float) -> frozenset[str]:
        """Keep the seats of `held` (seat to epoch) for `ttl_s` more: those that are still the node's. What has expired
        is not, even if nobody has taken it since.
        """

    async def release(self, seat: str, node: str, epoch: int) -> bool:
        """Free the seat at once; its epoch stays. False where the node no longer holds it at that epoch."""

    async def holdings(self) -> Mapping[str, Holding]:
        """Every seat that was ever held, by name."""

    async def announce(self, member: Member, ttl_s: float) -> None:
        """Be a member for `ttl_s` more, with this record from now on."""

    async def members(self) -> Mapping[str, Member]:
        """The members whose time is not over, by node."""

    async def changed(self, timeout_s: float) -> None:
        """Return when a holding or member may have changed since this last returned on the same handle, and after
        `timeout_s` in any case; the first call may return at once. A coordinator that does not answer is told by the
        other methods, never by this one: it just lets the time pass.
        """

    async def close(self) -> None:
        """Let go of files and connections. Nothing is released: leases run out. Safe to call twice."""


class Extension(Struct, frozen=True, gc=False):
    """A user that phones register as. `ha1` maps a digest algorithm (`MD5`, `SHA-256`, `SHA-512-256`) to
    H(number:realm:password) in lower-case hex; the password itself is kept nowhere. `srtp` says whether its media are
    protected.
    """

    number: str
    realm: str
    ha1: Mapping[str, str]
    name: str = ""
    created_at_utc: float = 0.0
    srtp: Policy = Policy.OPTIONAL


class Item(Struct, frozen=True, gc=False):
    """One piece of the dialplan: `kind` says what it is and `name` tells it from others of its kind; `body` is JSON.
    The store never looks into it.
    """

    kind: str
    name: str
    body: str
    created_at_utc: float = 0.0
    changed_at_utc: float = 0.0


class ApiToken(Struct, frozen=True, gc=False):
    """A bearer token of the HTTP API, known by its digest (SHA-256, hex) only. `role` is `admin` or `viewer`."""

    name: str
    role: str
    digest: str
    created_at_utc: float


USER: Final = "user"
"""The kind of item that holds an extension's settings; its name is the extension's number."""


class AlreadyExists(Exception):
    """The row is there already: the caller's fault."""


class CdrStore(Protocol):
    """Where CDRs go in the end."""

    async def add_cdrs(self, cdrs: Sequence[Cdr]) -> None:
        """Store CDRs; one whose id is there already is left as it is, so the call may be repeated."""


class Durable(CdrStore, Protocol):
    """The durable truth: what must outlive the cluster. Rows are few or append-only; every change of the directory
    bumps `revision`, which nodes poll.
    """

    async def extensions(self) -> Sequence[Extension]:
        """Every extension, by number."""

    async def add_extension(self, extension: Extension) -> None:
        """Raises `AlreadyExists`."""

    async def replace_extension(self, extension: Extension) -> bool:
        """False where there is none of that number."""

    async def remove_extension(self, number: str) -> bool:
        """False where there is none of that number. Its item of kind `USER` goes with it."""

    async def items(self) -> Sequence[Item]:
        """The whole dialplan, by kind and name."""

    async def put_item(self, item: Item, at_revision: int | None = None) -> bool:
        """Make an item, or put it in the place of the one of its kind and name, whose `created_at_utc` stays. False,
        and nothing is changed, where the directory is not at `at_revision` any more: it was judged by an older one.
        """

    async def remove_item(self, kind: str, name: str, at_revision: int | None = None) -> bool | None:
        """None where there is none; False as for `put_item`."""

    async def revision(self) -> int:
        """Grows with every change of the directory (extensions and dialplan)."""

    async def cdrs(
        self, *, limit: int = 100, before_utc: float | None = None, number: str | None = None
    ) -> Sequence[Cdr]:
        """The newest CDRs first (by `ended_at_utc`), at most `limit` (1 to 1000), optionally older than `before_utc`
        and of calls from or to `number`.
        """

    async def add_token(self, token: ApiToken) -> None:
        """Raises `AlreadyExists` for a name in use."""

    async def tokens(self) -> Sequence[ApiToken]:
        """Every token, by name."""

    async def remove_token(self, name: str) -> bool:
        """False where there is none of that name."""

    async def close(self) -> None:
        """Let go of files and connections. Safe to call twice."""
