"""The golden records: what today's code writes, one record per state that matters, and the shape of each record type.

`make golden` writes them anew into the folder of today's schema. A folder of a released version is never written again:
a change of a record's shape after a release begins with a higher SCHEMA, and so with a new folder.
"""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, get_type_hints

import msgspec
from tests.unit.switch.carrier import Carrier, outward, trunk
from tests.unit.switch.moving import relocate
from tests.unit.switch.plans import planned
from tests.unit.switch.stubborn import make_stubborn
from tests.unit.switch.world import START, World

from warden.call.cdr import CDRS
from warden.cluster.members import MEMBERS, Record, encode_record
from warden.core.address import Address
from warden.core.versions import Codec
from warden.media.protocol import Rolled, RolledOver, Way
from warden.phone.line import Habits
from warden.sdp.sdes import Policy
from warden.store.ports import Kind
from warden.switch.bans import BANS, Ban
from warden.switch.live import SNAPSHOTS
from warden.switch.registrar import BINDINGS
from warden.switch.trunks.state import TRUNKS

HERE: Final = Path(__file__).parent
NOW: Final = START + 30.0
"""When the golden calls are gone on with: none has come to a deadline by then."""
CODECS: Final[dict[str, Codec[Any]]] = {
    "call": SNAPSHOTS,
    "binding": BINDINGS,
    "outbox": CDRS,
    "member": MEMBERS,
    "trunk": TRUNKS,
    "ban": BANS,
}


def ringing(world: World) -> None:
    world.on_incoming["1002"] = lambda e: world.do("1002", world.phones["1002"].ring(world.now, e.call))
    world.call("1001", "1002", run_s=1)


def answered(world: World) -> None:
    world.up()


def answered_over_tcp(world: World) -> None:
    world.register("1002", 0)
    world.add("1002", name="tcp", tcp=True)
    world.register("tcp")
    world.rings_then_answers("tcp")
    world.call("1001", "1002", run_s=2)


def held(world: World) -> None:
    caller, _ = world.up()
    world.do("1001", world.phones["1001"].hold(world.now, caller))
    world.run(1)


def mid_reinvite(world: World) -> None:
    caller, _ = world.up()
    world.phones["1002"].habits = Habits(answers_updates=False)
    world.do("1001", world.phones["1001"].hold(world.now, caller))
    world.run(1)


def mid_bye(world: World) -> None:
    caller, _ = world.up()
    del world.addresses["1002"]
    world.hang_up("1001", caller, run_s=1)


def mid_cancel(world: World) -> None:
    world.on_incoming["1002"] = lambda e: world.do("1002", world.phones["1002"].ring(world.now, e.call))
    caller = world.call("1001", "1002", run_s=1)
    del world.addresses["1002"]
    world.hang_up("1001", caller, run_s=1)


def late_offer(world: World) -> None:
    world.rings_then_answers("1002", answer_s=0.2)
    world.call("1001", "1002", late=True, run_s=2)


def echo(world: World) -> None:
    world.call("1001", "*43", run_s=2)


def clock(world: World) -> None:
    world.call("1001", "*60", run_s=2)


def secured(world: World) -> None:
    world.srtp["1001"] = Policy.REQUIRED
    world.up()
    ((call, session),) = world.media.items()
    world.hear(RolledOver(call, session.streams[0].a.port, Rolled(Way.OUT, 7, 70_000, 1)))


def mid_replaces(world: World) -> None:
    """The caller has taken another dialog after a relocation, the callee is asked for one."""
    make_stubborn(world, "1001")
    make_stubborn(world, "1002").takes = 0
    world.up()
    relocate(world, 1.0)


CALLS: Final[tuple[Callable[[World], None], ...]] = (
    ringing, answered, answered_over_tcp, held, mid_reinvite, mid_bye, mid_cancel, late_offer, echo, clock, secured,
    mid_replaces,
)  # fmt: skip


def over_a_trunk(world: World) -> None:
    carrier = Carrier(world, "10.9.0.1")
    carrier.asks, carrier.answer_s = {"INVITE"}, 30.0
    world.run(1)
    world.call("1001", "0301234567", run_s=1)


def contact_with_everything(world: World) -> None:
    fields = (
        ("Contact", '<sip:1002@10.0.0.77:5060;ob>;q=0.5;+sip.instance="<urn:uuid:7f>";reg-id=1;expires=600'),
        ("Path", "<sip:edge.example;lr>"),
        ("User-Agent", "Golden/1.0"),
    )
    assert world.peer("10.0.0.77").ask("REGISTER", "1002", *fields) == 200


def cdr(world: World) -> None:
    caller, _ = world.up()
    world.hang_up("1001", caller, run_s=1)


def golden() -> Iterator[tuple[str, str, bytes]]:
    """Kind, name and record of each."""
    for story in CALLS:
        world = World()
        story(world)
        (record,) = world.records[Kind.CALL].values()
        yield "call", story.__name__, record
    line = trunk()
    world = World(directory=planned(line, *outward(line), numbers=("1001", "1002")))
    over_a_trunk(world)
    (record,) = world.records[Kind.CALL].values()
    yield "call", over_a_trunk.__name__, record
    world = World()
    contact_with_everything(world)
    yield "binding", contact_with_everything.__name__, world.records[Kind.BINDING]["1002"]
    world = World()
    cdr(world)
    (record,) = world.records[Kind.OUTBOX].values()
    yield "outbox", cdr.__name__, record
    world = World(directory=planned(trunk(register=True), numbers=("1001", "1002")))
    Carrier(world, "10.9.0.1")
    world.run(30)
    yield "trunk", "registered", world.records[Kind.TRUNK]["carrier"]
    words = ("a sentence", "another")
    everything = Record(
        "0.1.0", "http://127.0.0.1:9000", True, ("s1",), 7, {"s1": "n2"}, "adopted 7 calls", START,
        "instance", "place", START, "secret", "layout", {"s1": 7}, 1, 2, words, words, words,
        Address("127.0.0.1", 5060),
    )  # fmt: skip
    yield "member", "everything", encode_record(everything)
    ban = Ban(1, "192.0.2.1", START, START + 600, START + 87_000, 1, "1001", "failed authentication", "node1", True)
    yield "ban", "everything", BANS.encode(ban)


def shape(record_type: type) -> list[str]:
    """A record type as text: every type in it with its fields, their types and defaults."""
    seen: dict[str, list[str]] = {}

    def walk(hint: Any) -> None:
        for inner in getattr(hint, "__args__", ()):
            walk(inner)
        if not isinstance(hint, type) or hint.__module__.split(".")[0] != "warden" or hint.__name__ in seen:
            return
        lines = seen[hint.__name__] = [hint.__name__]
        members = getattr(hint, "__members__", None)
        if members is not None:
            lines += [f"  {member.value}" for member in members.values()]
            return
        hints = get_type_hints(hint)
        if issubclass(hint, msgspec.Struct):
            config = hint.__struct_config__
            lines[0] += f" tag={config.tag!r}" * (config.tag is not None) + " omits defaults" * config.omit_defaults
            for field in msgspec.structs.fields(hint):
                required = field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT
                default = "" if required else f" = {field.default!r}"
                if field.default_factory is not msgspec.NODEFAULT:
                    default = f" = {field.default_factory()!r}"
                lines.append(f"  {field.encode_name}: {_plain(hints[field.name])}{default}")
        else:
            lines += [f"  [{i}] {name}: {_plain(hint_)}" for i, (name, hint_) in enumerate(hints.items())]
        for inner in hints.values():
            walk(inner)

    walk(record_type)
    return [line for _, lines in sorted(seen.items()) for line in lines]


def _plain(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
    return re.sub(r"(warden|typing|collections)\.([a-z_]+\.)*", "", text).replace("NoneType", "None")


def folder(codec: Codec[Any]) -> Path:
    """Where the goldens of today's schema of a record type are."""
    return HERE / f"v{codec.schema}"


def main() -> None:
    """Write all goldens of today's schemas."""
    records = list(golden())
    for kind, codec in CODECS.items():
        where = folder(codec)
        where.mkdir(exist_ok=True)
        for old in where.glob(f"{kind}.*"):
            old.unlink()
        (where / f"{kind}.shape").write_text("\n".join(shape(codec.record_type)) + "\n", encoding="utf-8")
        for its_kind, name, record in records:
            if its_kind == kind:
                (where / f"{kind}.{name}.msgpack").write_bytes(record)
    sys.stdout.write(f"{len(records)} records in {HERE.name}\n")


if __name__ == "__main__":
    main()
