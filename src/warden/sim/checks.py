"""What must hold. The first class of checks always does (one speaker, CSeq, at most one CDR); the second under any
single fault and under planned moves: no call is lost, every phone hears what it should, nothing is left behind.
"""

from typing import Final

from warden.call.cdr import Cdr, Party, Result
from warden.core.address import Address
from warden.phone.events import By
from warden.sim.network import PHONES, Message
from warden.sim.story import Story
from warden.sim.town import TARGET, CallStory, Ending, Person, Town
from warden.sip.message import Request

SLACK_S: Final = 1.0
"""How wrong a CDR's time may be."""

_UNNUMBERED: Final = ("ACK", "CANCEL")
"""Methods whose CSeq is that of the INVITE that they belong to."""
_RESULTS: Final = {
    Ending.TALK: Result.ANSWERED,
    Ending.ECHO: Result.ANSWERED,
    Ending.BUSY: Result.BUSY,
    Ending.CANCEL: Result.CANCELLED,
}


class Witness:
    """Hears everything that is said, and accuses who may not say it."""

    def __init__(self, story: Story, town: Town) -> None:
        self._story = story
        self._town = town
        self._epochs: dict[str, tuple[int, str]] = {}
        self._phones = {person.address for person in town.people.values()}
        self._said: set[str] = set()
        self._heard: dict[tuple[str, str], int] = {}

    def speaks(self, node: str, seat: str, epoch: int) -> None:
        """A message leaves a node for a seat that it holds at this epoch."""
        newest, who = self._epochs.get(seat, (0, ""))
        if epoch < newest:
            self._story.accuse(f"{node} speaks for {seat} at epoch {epoch} after {who} did at epoch {newest}")
        self._epochs[seat] = max((newest, who), (epoch, node))

    def sent(self, machine: str, message: Message) -> None:
        """A message leaves a machine."""
        if not isinstance(message, Request):
            return
        if machine == PHONES:
            if message.method == "INVITE" and not message.to.tag:
                for call in self._town.calls:
                    if call.caller.tag == message.from_.tag:
                        call.sip_call_id = message.call_id
            return
        if message.method == "BYE":
            for seen in (side for call in self._town.calls for side in (call.caller, call.callee)):
                seen.hung_up_on |= seen.tag == message.to.tag
        if (
            message.method not in _UNNUMBERED
            # Another seat only passes it on, and what overtakes on the way there is no fault of who sent it.
            and len(message.values("Via")) == 1
            and message.via.branch not in self._said
        ):
            self._said.add(message.via.branch)
            newest, number = self._heard.get(_dialog(message), 0), message.cseq.number
            if number <= newest:
                self._story.accuse(
                    f"{machine} sends {message.method} {message.call_id} with CSeq {number}, and {newest} was heard"
                )

    def heard(self, target: Address, message: Message) -> None:
        """A message has arrived. What nobody heard may be said again in other words."""
        if target in self._phones and isinstance(message, Request) and message.method not in _UNNUMBERED:
            self._heard[_dialog(message)] = max(self._heard.get(_dialog(message), 0), message.cseq.number)


def _dialog(request: Request) -> tuple[str, str]:
    return request.call_id, request.from_.tag or ""


def check_cdrs_once(story: Story, cdrs: list[Cdr]) -> None:
    """No call has two records."""
    seen: dict[str, Cdr] = {}
    for cdr in cdrs:
        if cdr.sip_call_id in seen:
            story.accuse(f"call {cdr.sip_call_id} has two CDRs: {seen[cdr.sip_call_id].id} and {cdr.id}")
        seen[cdr.sip_call_id] = cdr


def check_call(story: Story, call: CallStory, cdrs: list[Cdr]) -> None:
    """The call went as planned, and has its one right record."""
    plan, caller, callee = call.plan, call.caller, call.callee
    name = f"call {plan.caller}-{plan.callee} ({plan.ending})"

    def must(holds: bool, what: str) -> None:
        if not holds:
            story.accuse(f"{name}: {what}")

    if plan.ending is Ending.CANCEL and caller.by is By.US and caller.status == 401:
        # Given up before the answer to the challenge was heard: nobody was asked to carry a call yet.
        return
    mine = [cdr for cdr in cdrs if cdr.sip_call_id == call.sip_call_id]
    must(caller.ended_at is not None, "never ends for the caller")
    must(len(mine) == 1, f"has {len(mine)} CDRs")
    must(not callee.tag or callee.ended_at is not None, "never ends for the callee")
    match plan.ending:
        case Ending.TALK | Ending.ECHO:
            must(caller.answered_at is not None, f"never answered for the caller (status {caller.status})")
            if caller.answered_at is None:
                return
            ends_first, other = (caller, callee) if plan.caller_ends or not callee.tag else (callee, caller)
            must(ends_first.by is By.US and ends_first.status == 200, f"was dropped: {ends_first.by}")
            # A BYE that is said again, since its answer was lost, may find a holder who never knew the call: 481.
            must(ends_first.bye_status in (200, 481), f"BYE was answered {ends_first.bye_status}")
            if callee.tag:
                heard = (other.by, other.status)
                # Its own request may have crossed a BYE that was lost: the answer tells as well that the call is over.
                crossed = heard == (By.NETWORK, 481) and other.hung_up_on
                must(heard == (By.PEER, 200) or crossed, f"the other side heard {other.by} {other.status}")
        case Ending.BUSY:
            must((caller.by, caller.status) == (By.PEER, 486), f"the caller heard {caller.by} {caller.status}")
        case Ending.CANCEL:
            must((caller.by, caller.status) == (By.US, 487), f"the caller heard {caller.by} {caller.status}")
            if callee.tag:
                must((callee.by, callee.status) == (By.PEER, 487), f"the callee heard {callee.by} {callee.status}")
    for cdr in mine:
        _check_cdr(story, name, call, cdr)


def _check_cdr(story: Story, name: str, call: CallStory, cdr: Cdr) -> None:
    plan, caller, callee = call.plan, call.caller, call.callee
    if cdr.result is not _RESULTS[plan.ending]:
        story.accuse(f"{name}: its CDR says {cdr.result} {cdr.status}")
        return
    if plan.ending not in (Ending.TALK, Ending.ECHO):
        return
    is_transferred = callee.transferred_at is not None
    if plan.transfer_s is not None and callee.ended_at is not None and caller.hung_up_at is not None:
        # Nobody but Warden hangs up on the callee before the caller does, and only because it has transferred.
        is_transferred = is_transferred or callee.ended_at < caller.hung_up_at
    if is_transferred and (cdr.transferred_by, cdr.transferred_to) != (plan.callee, TARGET):
        story.accuse(f"{name}: its CDR says that {cdr.transferred_by} transferred it to {cdr.transferred_to!r}")
    answered_from = callee.answered_at if callee.answered_at is not None else caller.invited_at
    ends_first = caller if plan.caller_ends or not callee.tag else callee
    _within(story, f"{name}: CDR's answer", cdr.answered_at_utc, answered_from, caller.answered_at)
    _within(story, f"{name}: CDR's end", cdr.ended_at_utc, ends_first.hung_up_at, ends_first.ended_at)
    by = Party.CALLER if ends_first is caller else Party.CALLEE
    if cdr.ended_by is not by:
        story.accuse(f"{name}: its CDR says that the {cdr.ended_by} ended it")


def _within(story: Story, what: str, at: float | None, start: float | None, end: float | None) -> None:
    if at is None or start is None or end is None or not start - SLACK_S <= at <= end + SLACK_S:
        story.accuse(f"{what} is at {at}, not between {start} and {end}")


def check_person(story: Story, person: Person, bindings: set[str]) -> None:
    """A phone that was registered is, and had nothing to complain of."""
    if person.registered_at is None:
        story.accuse(f"{person.number} is not registered")
    elif person.number not in bindings:
        story.accuse(f"{person.number} was registered, and nobody knows")
    for what in person.violations:
        # What overtakes on the way is no fault of who sent it; `Witness` hears what is.
        if not what.startswith("CSeq"):
            story.accuse(f"{person.number} complains: {what}")
