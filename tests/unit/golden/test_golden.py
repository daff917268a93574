"""Records of other versions: those of each released one, of the next one, of the one after it, and of none."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.golden.records import CODECS, HERE, NOW, folder, shape
from tests.unit.switch.world import SERVER, World

from warden.call.cdr import decode_cdr
from warden.call.model import Cause
from warden.core.versions import Codec, Unreadable
from warden.sip.message import Request, Response
from warden.sip.parser import parse_message
from warden.store.ports import Kind
from warden.switch.live import SNAPSHOTS, Snapshot
from warden.switch.outcome import Outcome
from warden.switch.switch import Switch

FUTURE = {"a": [1, {"b": None}], "c": b"\x00"}
KNOWN = [
    path
    for kind, codec in CODECS.items()
    for schema in (codec.schema - 1, codec.schema)
    for path in sorted((HERE / f"v{schema}").glob(f"{kind}.*.msgpack"))
]
CALLS = [path for path in KNOWN if path.name.startswith("call.")]
BINDING = next(path for path in KNOWN if path.name.startswith("binding."))


def codec_of(path: Path) -> Codec[Any]:
    return CODECS[path.name.partition(".")[0]]


def name_of(path: Path) -> str:
    return f"{path.parent.name} {path.name.removesuffix('.msgpack')}"


@pytest.mark.parametrize("kind", CODECS)
def test_a_record_type_has_the_shape_that_its_golden_records_were_made_with(kind: str) -> None:
    """Before a release: `make golden`. After it: raise the SCHEMA of the record type first."""
    codec = CODECS[kind]
    assert shape(codec.record_type) == (folder(codec) / f"{kind}.shape").read_text().splitlines()


@pytest.mark.parametrize("path", KNOWN, ids=name_of)
def test_a_record_of_this_or_the_last_version_is_read(path: Path) -> None:
    value, extras = codec_of(path).decode(path.read_bytes())
    assert value.schema == int(path.parent.name[1:])
    assert extras is None


class Phones:
    """Somebody at every address, who agrees to everything; and the store."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.records: dict[tuple[Kind, str], bytes] = {}
        self._invites = {
            request.via.branch: request
            for transaction in snapshot.transactions
            if transaction.method == "INVITE" and transaction.request
            for request in [parse_message(transaction.request)]
            if isinstance(request, Request)
        }

    def hear(self, switch: Switch, now: float, outcome: Outcome) -> None:
        for write in outcome.writes:
            if write.value is None:
                self.records.pop((write.kind, write.key), None)
            else:
                self.records[write.kind, write.key] = write.value
        for send in outcome.sends:
            flow = send.flow._replace(connection=7) if send.flow.transport.reliable else send.flow
            for answer in self._answers(parse_message(send.data)):
                self.hear(switch, now, switch.received(now, flow, parse_message(bytes(answer))))

    def _answers(self, message: Request | Response) -> Sequence[Request | Response]:
        if isinstance(message, Response):
            return [_ack(message)] if message.cseq.method == "INVITE" and message.status >= 200 else []
        match message.method:
            case "ACK" | "INVITE":
                return []
            case "CANCEL":
                return [message.respond(200), self._invites[message.via.branch].respond(487, to_tag="late")]
            case _:
                return [message.respond(200)]


def _ack(response: Response) -> Request:
    fields = [(name, response.get(name) or "") for name in ("Via", "From", "To", "Call-ID")]
    return Request("ACK", f"sip:{SERVER}", (*fields, ("CSeq", f"{response.cseq.number} ACK"), ("Max-Forwards", "70")))


def restored(record: bytes, phones: Phones | None = None) -> Switch:
    """A switch that goes on with a call; without `phones` nobody hears it."""
    switch = World().make_switch()
    snapshot = SNAPSHOTS.decode(record)[0]
    outcome, unreadable = switch.restore(NOW, {}, {snapshot.call.id: record})
    assert unreadable == []
    assert len(switch.calls) == 1
    if phones is not None:
        phones.hear(switch, NOW, outcome)
    return switch


def hang_up(record: bytes) -> None:
    """The call is restored and can be ended: nothing of it is left, and it has its one CDR."""
    snapshot = SNAPSHOTS.decode(record)[0]
    phones = Phones(snapshot)
    switch = restored(record, phones)
    phones.hear(switch, NOW, switch.stop_call(NOW, snapshot.call.id, Cause(480, "Stopped")))
    while (due := switch.deadline) is not None and due < NOW + 200:
        phones.hear(switch, due, switch.tick(due))
    assert len(switch) == 0
    assert {kind for kind, _ in phones.records} == (set() if snapshot.call.cdr is not None else {Kind.OUTBOX})


@pytest.mark.parametrize("path", CALLS, ids=name_of)
def test_a_call_of_this_or_the_last_version_goes_on_and_can_be_hung_up(path: Path) -> None:
    hang_up(path.read_bytes())


# Version N+1


def maps(tree: Any) -> Iterator[dict[str, Any]]:
    """Every struct in a record."""
    if isinstance(tree, dict):
        yield tree
    members = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, member in members:
        if name not in ("acks", "wishes", "seat_calls", "from_the_future"):
            yield from maps(member)


def with_schema(record: bytes, schema: int) -> Any:
    tree = msgspec.msgpack.decode(record)
    tree["schema"] = schema
    return tree


def of_the_future(path: Path) -> bytes:
    """The record as the next version would write it, with a new field everywhere."""
    tree = with_schema(path.read_bytes(), codec_of(path).schema + 1)
    for struct in list(maps(tree)):
        struct["from_the_future"] = FUTURE
    return msgspec.msgpack.encode(tree)


def lacking(record: bytes | None) -> list[dict[str, Any]]:
    assert record is not None
    return [struct for struct in maps(msgspec.msgpack.decode(record)) if struct.get("from_the_future") != FUTURE]


@pytest.mark.parametrize("path", KNOWN, ids=name_of)
def test_a_record_of_the_next_version_is_read_and_written_back_as_it_was(path: Path) -> None:
    codec, record = codec_of(path), of_the_future(path)
    value, extras = codec.decode(record)
    assert msgspec.structs.replace(value, schema=codec.schema) == codec.decode(path.read_bytes())[0]
    again = codec.encode(msgspec.structs.replace(value, schema=codec.schema), extras)
    assert msgspec.msgpack.decode(again) == msgspec.msgpack.decode(record)


class NextSnapshot(Snapshot, frozen=True, kw_only=True):
    """A snapshot as the next version knows it."""

    from_the_future: dict[str, Any]


@pytest.mark.parametrize("path", CALLS, ids=name_of)
def test_a_call_of_the_next_version_is_used_here_and_loses_nothing_when_it_goes_back(path: Path) -> None:
    record = of_the_future(path)
    hang_up(record)
    switch = restored(record)
    (write,) = (write for write in switch.everything() if write.kind is Kind.CALL)
    assert lacking(write.value) == []
    assert write.value is not None
    back, extras = Codec(NextSnapshot, SNAPSHOTS.schema + 1).decode(write.value)
    assert back.from_the_future == FUTURE
    assert extras is None


def test_unknown_fields_stay_with_their_value_while_the_call_goes_on_and_go_with_it() -> None:
    path = next(path for path in CALLS if path.name == "call.mid_reinvite.msgpack")
    switch, snapshot = restored(of_the_future(path)), SNAPSHOTS.decode(path.read_bytes())[0]
    (live,) = switch.calls.values()
    refused = next(t for t in snapshot.transactions if t.key == live.legs["b0"].update_out)
    request = parse_message(refused.request)
    assert isinstance(request, Request)
    outcome = switch.received(NOW, refused.flow, parse_message(bytes(request.respond(488))))
    (write,) = (write for write in outcome.writes if write.kind is Kind.CALL)
    assert write.value is not None
    tree = msgspec.msgpack.decode(write.value)
    assert "exchange" not in tree["call"]
    assert lacking(write.value) == []
    assert tree["schema"] == SNAPSHOTS.schema + 1


def test_a_registration_of_the_next_version_keeps_what_it_says_when_the_phone_registers_here_again() -> None:
    world = World()
    world.switch = world.make_switch()
    outcome, unreadable = world.switch.restore(world.now, {"1002": of_the_future(BINDING)}, {})
    assert unreadable == []
    world.carry_out(outcome)
    contact = '<sip:1002@10.0.0.77:5060;ob>;q=0.5;+sip.instance="<urn:uuid:7f>";reg-id=1;expires=900'
    fields = (("Contact", contact), ("Call-ID", "other"))
    assert world.peer("10.0.0.77").ask("REGISTER", "1002", *fields) == 200
    record = world.records[Kind.BINDING]["1002"]
    assert lacking(record) == []
    assert [write.value for write in world.switch.everything()] == [record]
    assert world.peer("10.0.0.77").ask("REGISTER", "1002", ("Contact", "*"), ("Expires", "0")) == 200
    assert world.switch.everything() == []


def test_a_cdr_of_the_next_version_is_read_as_far_as_the_database_has_columns() -> None:
    path = next(path for path in KNOWN if path.name.startswith("outbox."))
    assert decode_cdr(of_the_future(path)) == decode_cdr(path.read_bytes())


# What is not understood


@pytest.mark.parametrize("path", KNOWN, ids=name_of)
def test_a_record_of_the_version_after_the_next_is_refused_and_known_as_newer(path: Path) -> None:
    codec = codec_of(path)
    with pytest.raises(Unreadable, match=f"schema {codec.schema + 2}") as refused:
        codec.decode(msgspec.msgpack.encode(with_schema(path.read_bytes(), codec.schema + 2)))
    assert refused.value.newer


def test_a_call_that_does_what_this_version_does_not_know_is_known_as_newer() -> None:
    tree = with_schema(CALLS[0].read_bytes(), SNAPSHOTS.schema + 1)
    tree["call"]["app"] = {"type": "fishing", "rods": 2}
    with pytest.raises(Unreadable) as refused:
        SNAPSHOTS.decode(msgspec.msgpack.encode(tree))
    assert refused.value.newer


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("record", [b"", b"\xc1", b"\x90", b"nonsense", b"\x81\xa2\xff\xfe\x01", b"\x91" * 100_000])
def test_what_is_no_record_is_refused_and_not_taken_for_a_newer_one(kind: str, record: bytes) -> None:
    with pytest.raises(Unreadable) as refused:
        CODECS[kind].decode(record)
    assert not refused.value.newer


@pytest.mark.parametrize("schema", [0, -1])
def test_a_schema_that_never_was_is_refused(schema: int) -> None:
    with pytest.raises(Unreadable, match=f"schema {schema}") as refused:
        SNAPSHOTS.decode(msgspec.msgpack.encode(with_schema(CALLS[0].read_bytes(), schema)))
    assert not refused.value.newer
