"""The four tables against the figures of RFC 3261 section 17 (with RFC 6026), written out once more from the RFCs."""

from itertools import product
from math import inf

import msgspec
import pytest

from warden.core.address import Address, Flow, Transport
from warden.sip.transaction import (
    CLOCKS,
    TABLES,
    Action,
    Input,
    Machine,
    State,
    Timers,
    Transaction,
    next_interval,
    spans,
)

# state | input | next state | actions: one line per arrow of the figure.
FIGURES = {
    Machine.INVITE_CLIENT: """
        calling    | timer A            | calling    | send
        calling    | timer B            | terminated | inform TU
        calling    | transport error    | terminated | inform TU
        calling    | 1xx                | proceeding | to TU
        calling    | 2xx                | accepted   | to TU
        calling    | 300-699            | completed  | send ACK, to TU
        proceeding | 1xx                | proceeding | to TU
        proceeding | 2xx                | accepted   | to TU
        proceeding | 300-699            | completed  | send ACK, to TU
        proceeding | 64*T1 since CANCEL | terminated | inform TU
        proceeding | transport error    | terminated | inform TU
        completed  | 300-699            | completed  | send ACK
        completed  | transport error    | terminated | inform TU
        completed  | timer D            | terminated |
        accepted   | 2xx                | accepted   | to TU
        accepted   | timer M            | terminated |
    """,
    Machine.NON_INVITE_CLIENT: """
        trying     | timer E            | trying     | send
        trying     | timer F            | terminated | inform TU
        trying     | transport error    | terminated | inform TU
        trying     | 1xx                | proceeding | to TU
        trying     | 200-699            | completed  | to TU
        proceeding | timer E            | proceeding | send
        proceeding | timer F            | terminated | inform TU
        proceeding | transport error    | terminated | inform TU
        proceeding | 1xx                | proceeding | to TU
        proceeding | 200-699            | completed  | to TU
        completed  | timer K            | terminated |
    """,
    Machine.INVITE_SERVER: """
        proceeding | request            | proceeding | send
        proceeding | 1xx                | proceeding | send
        proceeding | 2xx                | accepted   | send
        proceeding | 300-699            | completed  | send
        proceeding | transport error    | proceeding | inform TU
        completed  | request            | completed  | send
        completed  | timer G            | completed  | send
        completed  | timer H            | terminated |
        completed  | transport error    | completed  | inform TU
        completed  | ACK                | confirmed  |
        confirmed  | timer I            | terminated |
        accepted   | ACK                | accepted   | to TU
        accepted   | 2xx                | accepted   | send
        accepted   | transport error    | accepted   | inform TU
        accepted   | timer L            | terminated |
    """,
    Machine.NON_INVITE_SERVER: """
        trying     | 1xx                | proceeding | send
        trying     | 200-699            | completed  | send
        proceeding | request            | proceeding | send
        proceeding | 1xx                | proceeding | send
        proceeding | 200-699            | completed  | send
        proceeding | transport error    | proceeding | inform TU
        completed  | request            | completed  | send
        completed  | transport error    | completed  | inform TU
        completed  | timer J            | terminated |
    """,
}


def read_figure(text: str) -> dict[tuple[str, str], tuple[str, tuple[str, ...]]]:
    out: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
    for line in filter(None, (line.strip() for line in text.splitlines())):
        state, happened, after, actions = (cell.strip() for cell in line.split("|"))
        assert (state, happened) not in out
        out[state, happened] = (after, tuple(a.strip() for a in actions.split(",") if a.strip()))
    return out


@pytest.mark.parametrize("machine", Machine)
def test_every_state_and_input_does_what_the_figure_says_or_nothing(machine: Machine) -> None:
    figure, table = read_figure(FIGURES[machine]), TABLES[machine]
    for state, happened in product(State, Input):
        expected = figure.pop((state.value, happened.value), None)
        found = table.get((state, happened))
        plain = None if found is None else (found[0].value, tuple(action.value for action in found[1]))
        assert plain == expected, (machine, state, happened)
    assert not figure, "the figure names a state or an input that is not there"


@pytest.mark.parametrize("machine", Machine)
def test_each_state_leads_on_and_only_its_own_timers_run_in_it(machine: Machine) -> None:
    table = TABLES[machine]
    entered = {after for after, _ in table.values()} - {State.TERMINATED}
    for state in {state for state, _ in table} | entered:
        assert any(s is state and after is not state for (s, _), (after, _) in table.items()), "a dead end"
        again, end = CLOCKS.get((machine, state), (None, None))
        fired = {i for s, i in table if s is state and (i.value.startswith("timer") or i is Input.CANCEL_EXPIRED)}
        assert fired == {i for i in (again, end) if i is not None and i is not Input.SUCCESS}
        for reliable in (False, True):
            span = spans(Timers())[machine, state, reliable]
            if span is not None:
                assert span[0] == inf or again is not None
                assert span[1] in {0, inf} or end is not None


def test_reliable_transports_repeat_nothing_but_the_2xx_and_linger_for_no_copies() -> None:
    reliable = {(m, s): span for (m, s, r), span in spans(Timers()).items() if r and span is not None}
    assert [key for key, span in reliable.items() if span[0] < inf] == [(Machine.INVITE_SERVER, State.ACCEPTED)]
    assert {key for key, span in reliable.items() if span[1] == 0} == {
        (Machine.INVITE_CLIENT, State.COMPLETED),
        (Machine.NON_INVITE_CLIENT, State.COMPLETED),
        (Machine.INVITE_SERVER, State.CONFIRMED),
        (Machine.NON_INVITE_SERVER, State.COMPLETED),
    }


def test_intervals_double_and_only_timer_a_has_no_ceiling() -> None:
    timers = Timers()
    assert next_interval(Machine.INVITE_CLIENT, State.CALLING, 16.0, timers) == 32.0
    assert next_interval(Machine.NON_INVITE_CLIENT, State.TRYING, 1.0, timers) == 2.0
    assert next_interval(Machine.NON_INVITE_CLIENT, State.TRYING, 4.0, timers) == 4.0
    assert next_interval(Machine.NON_INVITE_CLIENT, State.PROCEEDING, 0.5, timers) == 4.0
    assert next_interval(Machine.INVITE_SERVER, State.COMPLETED, 4.0, timers) == 4.0
    assert next_interval(Machine.INVITE_SERVER, State.ACCEPTED, 0.5, timers) == 1.0


def test_a_transaction_crosses_a_process_border_as_msgpack() -> None:
    flow = Flow(Transport.TLS, Address("192.0.2.1", 5061), Address("2001:db8::2", 40000), 7)
    child = Transaction("k CANCEL", Machine.NON_INVITE_CLIENT, State.TRYING, "CANCEL", flow, b"CANCEL ...")
    whole = Transaction(
        "k",
        Machine.INVITE_CLIENT,
        State.PROCEEDING,
        "INVITE",
        flow,
        b"INVITE ...",
        end_at=1234.5,
        cancel=(("Reason", "SIP;cause=200"),),
        cancelled=True,
        cancellation=child,
    )
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(whole), type=Transaction)
    assert back == whole
    assert back.flow.transport is Transport.TLS
    assert back.resend_at == inf
    assert Action.SEND in TABLES[back.machine][State.CALLING, Input.TIMER_A][1]
