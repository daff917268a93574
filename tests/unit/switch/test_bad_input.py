"""Whatever comes in, nothing is raised and no call gets stuck."""

from pathlib import Path
from random import Random

import pytest
from tests.unit.switch.world import SERVER, World

from warden.core.address import Address
from warden.sip.message import Request

CORPUS = sorted((Path(__file__).parents[2] / "corpus" / "rfc4475").glob("*.dat"))
STRANGER = Address("10.66.0.1", 5060)
BITS = (
    b"\r\n", b"\0", b"\xff\xfe", b"\xe9", b"%00", b"%FF", b'"', b"<", b">", b";", b",", b"@", b":", b"*", b" ", b"-1",
    b"99999999999999999999", b";tag=", b";branch=z9hG4bK", b"sip:", b"tel:+1", b"sips:", b"[::1]", b"0", b"=", b"v=0",
    b"m=audio 0 RTP/AVP 0\r\n", b"c=IN IP4 0.0.0.0\r\n", b"a=sendonly\r\n",
)  # fmt: skip


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_torture_messages_of_rfc_4475_leave_nothing_behind(path: Path) -> None:
    world = World()
    world.peer(STRANGER.host)
    data = path.read_bytes()
    for _ in range(2):
        world.send(STRANGER, SERVER, data)
        world.run(0.1)
    assert world.switch.calls == {}
    assert set(world.switch.bindings) == {"1001", "1002"}
    # Responses to port 5060 of whoever it came from, as the Via of most of them says.
    world.is_clean(cdrs=0)


def mutated(random: Random, data: bytes) -> bytes:
    """One message with a few things cut out, doubled, swapped or put in."""
    out = bytearray(data)
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(out) + 1)
        end = min(len(out), at + random.randrange(1, 20))
        match random.randrange(5):
            case 0:
                del out[at:end]
            case 1:
                out[at:at] = out[at:end]
            case 2:
                out[at:at] = random.choice(BITS)
            case 3:
                out[at:end] = random.choice(BITS)
            case _:
                lines = bytes(out).split(b"\r\n")
                i, j = random.randrange(len(lines)), random.randrange(len(lines))
                lines[i], lines[j] = lines[j], lines[i]
                out = bytearray(b"\r\n".join(lines))
    return bytes(out)


def with_right_length(data: bytes) -> bytes:
    head, _, body = data.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


class Vandal(World):
    """A wire on which some of what the switch hears is broken, or comes once more and broken."""

    harm = 0.0

    def send(self, source, target, data, flow=None):  # type: ignore[no-untyped-def]
        """As it should be, and perhaps also as it should not."""
        super().send(source, target, data, flow)
        if target == SERVER and self.random.random() < self.harm:
            broken = mutated(self.random, data)
            if self.random.random() < 0.7:
                broken = with_right_length(broken)
            super().send(source, target, broken, flow)


@pytest.mark.parametrize("seed", range(150))
def test_broken_messages_among_good_ones_neither_raise_nor_leave_a_call_behind(seed: int) -> None:
    world = Vandal(seed=seed)
    world.harm = 0.6
    world.rings_then_answers("1002", answer_s=0.8)
    late = seed % 3 == 1
    caller = world.call("1001", "*60" if seed % 7 == 6 else "1002", late=late, run_s=2)
    for who in ("1001", "1002"):
        phone = world.phones[who]
        for tag in list(phone.calls):
            world.do(who, phone.hold(world.now, tag))
            world.run(2)
            world.do(who, phone.info(world.now, tag, "1"))
            world.run(1)
    world.hang_up("1001", caller, run_s=100)
    world.harm = 0.0
    for name, phone in world.phones.items():
        for tag in list(phone.calls):
            world.hang_up(name, tag, run_s=100)
    # A broken copy may count as a call of its own; it ends by itself.
    world.run(200)
    for call_id in list(world.switch.calls):
        assert world.switch.calls[call_id].call.answered_at is not None, "only the maximum duration ends it"
    world.run(world.settings.max_duration_s)
    world.run(200)
    assert world.switch.calls == {}
    assert len(world.switch.ports) == 0
    assert world.media == {}


def test_every_mutation_of_an_answer_is_survived() -> None:
    """Responses are read at many places: each break of a 200 meets each of them."""
    random = Random(7)
    for _ in range(150):
        world = World()
        far = world.peer("10.9.0.1")
        world.register("1002", 0)
        far.ask("REGISTER", "1002", ("Contact", "<sip:1002@10.9.0.1>"))
        caller = world.call("1001", "1002", run_s=0.2)
        (invite,) = far.requests("INVITE")
        sdp = "v=0\r\no=- 1 1 IN IP4 10.9.0.1\r\ns=-\r\nc=IN IP4 10.9.0.1\r\nt=0 0\r\nm=audio 6000 RTP/AVP 0\r\n"
        good = bytes(
            invite.respond(
                random.choice((180, 183, 200, 486)),
                ("Contact", "<sip:1002@10.9.0.1>"),
                ("Record-Route", "<sip:10.9.0.2;lr>"),
                ("Allow", "INVITE, UPDATE"),
                ("Content-Type", "application/sdp"),
                to_tag="far",
                body=sdp.encode(),
            )
        )
        for _ in range(3):
            far.say(with_right_length(mutated(random, good)))
        world.hang_up("1001", caller, run_s=100)
        for bye in far.requests("BYE"):
            far.say(Request.respond(bye, 200))
        world.run(200)
        assert world.switch.calls == {}
        assert len(world.switch.ports) == 0
