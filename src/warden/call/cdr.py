"""The call detail record: one per call, whatever happens to the nodes that carry it."""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from warden.core.versions import Codec

SCHEMA: Final = 1


class Result(StrEnum):
    """How a call ended, as the bill, the metrics and the screen say it."""

    ANSWERED = "answered"
    BUSY = "busy"
    NO_ANSWER = "no-answer"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    UNREACHABLE = "unreachable"
    FAILED = "failed"


class Party(StrEnum):
    """Who ended it."""

    CALLER = "caller"
    CALLEE = "callee"
    SYSTEM = "system"


class Cdr(Struct, frozen=True, gc=False):
    """Times are seconds since the epoch, UTC. `status` is the final SIP status the caller saw (200 when answered,
    487 when cancelled). `callee` is what was dialled, `answered_by` the extension or application that took the call;
    where it was transferred, `transferred_by` is who did so last, and `transferred_to` who took it then.
    """

    id: str
    caller: str
    callee: str
    started_at_utc: float
    ended_at_utc: float
    result: Result
    status: int
    ended_by: Party
    reason: str = ""
    caller_name: str = ""
    answered_by: str = ""
    ringing_at_utc: float | None = None
    answered_at_utc: float | None = None
    sip_call_id: str = ""
    seat: str = ""
    node: str = ""
    transferred_by: str = ""
    transferred_to: str = ""

    @property
    def duration_s(self) -> float:
        """From the INVITE to the end."""
        return self.ended_at_utc - self.started_at_utc

    @property
    def talk_s(self) -> float:
        """From the answer to the end; 0 where nobody answered."""
        return 0.0 if self.answered_at_utc is None else self.ended_at_utc - self.answered_at_utc


class CdrRecord(Struct, frozen=True, gc=False):
    """A CDR on its way to the database, as the outbox keeps it."""

    schema: int
    cdr: Cdr


CDRS: Final = Codec(CdrRecord, SCHEMA)
"""CDRs as records."""


def encode_cdr(cdr: Cdr) -> bytes:
    """A CDR as a record."""
    return CDRS.encode(CdrRecord(SCHEMA, cdr))


def decode_cdr(record: bytes) -> Cdr:
    """The inverse. Of a newer version's CDR it gives what the database of this version has columns for. Raises
    `Unreadable`.
    """
    return CDRS.decode(record)[0].cdr
