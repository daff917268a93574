"""One party of a call has the other put through to somebody else."""

from urllib.parse import quote

import pytest
from msgspec.structs import replace
from tests.unit.switch.world import Crash, World

from warden.call.cdr import Party, Result
from warden.phone.events import Ended, Incoming, Outcome, Referred, Talking, UpdateFailed
from warden.phone.line import Habits
from warden.sdp.session import parse

SIDES = [("1001", "1002"), ("1002", "1001")]


def three(*more: str, crash: Crash | None = None, seed: int = 0) -> tuple[World, dict[str, str]]:
    """1001 talks with 1002, and 1003 has a phone."""
    world = World("1001", "1002", "1003", *more, crash=crash, seed=seed)
    caller, callee = world.up()
    world.rings_then_answers("1003")
    return world, {"1001": caller, "1002": callee}


def progress(world: World, who: str) -> list[int]:
    return [event.status for event in world.of(who, Referred)]


def talk_with_each_other(world: World, one: str, other: str) -> bool:
    """True where what each of the two sends comes out at the other's."""
    (session,) = world.media.values()
    (stream,) = session.streams
    assert stream.b is not None
    remotes = {side.remote.host for side in (stream.a, stream.b) if side.remote is not None}
    ports = {talking.remote.port for who in (one, other) if (talking := world.of(who, Talking)[-1]).remote is not None}
    both = all(world.of(who, Talking)[-1].sends and world.of(who, Talking)[-1].hears for who in (one, other))
    return both and remotes == {world.addresses[x].host for x in (one, other)} and len(ports) == 2


@pytest.mark.parametrize(("referrer", "party"), SIDES)
@pytest.mark.parametrize("held", [False, True])
def test_a_blind_transfer_puts_the_other_party_through(referrer: str, party: str, held: bool) -> None:
    world, tags = three()
    if held:
        world.do(referrer, world.phones[referrer].hold(world.now, tags[referrer]))
        world.run(1)
    world.do(referrer, world.phones[referrer].transfer(world.now, tags[referrer], "1003"))
    world.run(3)
    assert world.of(referrer, Outcome) == [Outcome(tags[referrer], "REFER", 202)]
    assert progress(world, referrer) == [100, 180, 200]
    assert [event.final for event in world.of(referrer, Referred)] == [False, False, True]
    assert len(world.of(referrer, Ended)) == 1
    assert world.of("1003", Incoming)[0].number == party
    assert world.requests("INVITE", to="1003")[0].get("Referred-By") == f"<sip:{referrer}@10.0.0.254>"
    assert world.requests("REFER", to=party) == []
    assert talk_with_each_other(world, party, "1003")
    world.hang_up(party, tags[party], run_s=1)
    assert len(world.of("1003", Ended)) == 1
    (cdr,) = world.is_clean()
    assert (cdr.caller, cdr.callee, cdr.answered_by) == ("1001", "1002", "1002")
    assert (cdr.transferred_by, cdr.transferred_to) == (referrer, "1003")
    assert cdr.result is Result.ANSWERED
    assert cdr.ended_by is (Party.CALLER if party == "1001" else Party.CALLEE)


def transfer(world: World, who: str, tag: str, to: str, *, run_s: float = 3.0, instead_of: str = "") -> None:
    world.do(who, world.phones[who].transfer(world.now, tag, to, instead_of=instead_of))
    world.run(run_s)


def go_on_talking(world: World, tags: dict[str, str], *, strict: bool = True) -> None:
    """Nothing came of the transfer: the two hold and resume, and hang up."""
    assert talk_with_each_other(world, "1001", "1002")
    for who, tag in tags.items():
        world.do(who, world.phones[who].hold(world.now, tag))
        world.run(0.5)
        world.do(who, world.phones[who].resume(world.now, tag))
        world.run(0.5)
    assert talk_with_each_other(world, "1001", "1002")
    world.hang_up("1001", tags["1001"], run_s=1)
    (cdr,) = world.is_clean(strict=strict)
    assert (cdr.result, cdr.transferred_by, cdr.transferred_to) == (Result.ANSWERED, "", "")


@pytest.mark.parametrize(("referrer", "_party"), SIDES)
@pytest.mark.parametrize("status", [486, 603])
def test_a_target_that_is_busy_leaves_the_two_together(referrer: str, _party: str, status: int) -> None:
    world, tags = three()
    world.refuses("1003", status, ring=True)
    transfer(world, referrer, tags[referrer], "1003")
    assert progress(world, referrer) == [100, 180, status]
    go_on_talking(world, tags)


@pytest.mark.parametrize(("to", "told"), [("7777", [404]), ("1004", [100, 480]), ("*43", [100, 403])])
def test_a_transfer_to_nowhere_says_so_and_leaves_the_two_together(to: str, told: list[int]) -> None:
    world, tags = three("1004")
    world.register("1004", 0)
    transfer(world, "1002", tags["1002"], to)
    assert progress(world, "1002") == told
    go_on_talking(world, tags)


def test_a_target_that_does_not_answer_stops_ringing_and_leaves_the_two_together() -> None:
    world, tags = three()
    world.on_incoming["1003"] = lambda e: world.do("1003", world.phones["1003"].ring(world.now, e.call))
    transfer(world, "1002", tags["1002"], "1003", run_s=world.settings.no_answer_s + 2)
    assert progress(world, "1002") == [100, 180, 480]
    assert world.ended("1003") == [487]
    go_on_talking(world, tags)


def test_a_target_without_a_common_codec_leaves_the_two_together() -> None:
    world, tags = three()
    sdp = "v=0\r\no=- 1 1 IN IP4 10.0.0.3\r\ns=-\r\nc=IN IP4 10.0.0.3\r\nt=0 0\r\n"
    sdp += "m=audio 4000 RTP/AVP 97\r\na=rtpmap:97 speex/16000\r\n"

    def take(incoming: Incoming) -> None:
        world.do("1003", world.phones["1003"].answer(world.now, incoming.call, world.media_of("1003"), sdp=sdp))

    world.on_incoming["1003"] = take
    transfer(world, "1002", tags["1002"], "1003")
    assert progress(world, "1002") == [100, 488]
    assert len(world.of("1003", Ended)) == 1
    # Its ACK had no answer, since there is none.
    go_on_talking(world, tags, strict=False)


@pytest.mark.parametrize(("referrer", "party"), SIDES)
def test_a_referrer_that_hangs_up_at_once_does_not_end_the_transfer(referrer: str, party: str) -> None:
    world, tags = three()
    transfer(world, referrer, tags[referrer], "1003", run_s=0.3)
    world.hang_up(referrer, tags[referrer], run_s=3)
    assert talk_with_each_other(world, party, "1003")
    world.hang_up("1003", world.incoming("1003"), run_s=1)
    (cdr,) = world.is_clean(strict=False)
    assert (cdr.transferred_by, cdr.transferred_to) == (referrer, "1003")
    assert cdr.ended_by is (Party.CALLER if referrer == "1001" else Party.CALLEE)


@pytest.mark.parametrize(("referrer", "party"), SIDES)
def test_a_referrer_that_has_hung_up_is_called_back_where_the_target_is_busy(referrer: str, party: str) -> None:
    world, tags = three()
    world.refuses("1003", 486, ring=True, after_s=1.0)
    world.rings_then_answers(referrer)
    transfer(world, referrer, tags[referrer], "1003", run_s=0.3)
    world.hang_up(referrer, tags[referrer], run_s=5)
    assert world.of(referrer, Incoming)[-1].number == party
    assert talk_with_each_other(world, party, referrer)
    world.hang_up(party, tags[party], run_s=1)
    (cdr,) = world.is_clean(strict=False)
    assert (cdr.transferred_by, cdr.transferred_to) == ("", "")


def test_a_party_whose_transfer_failed_and_whose_referrer_is_gone_is_hung_up_with_the_reason() -> None:
    world, tags = three()
    world.refuses("1003", 486, ring=True, after_s=1.0)
    world.refuses("1001", 486)
    transfer(world, "1001", tags["1001"], "1003", run_s=0.3)
    world.hang_up("1001", tags["1001"], run_s=5)
    (ended,) = world.of("1002", Ended)
    assert "486" in ended.reason
    (cdr,) = world.is_clean(strict=False)
    assert (cdr.result, cdr.ended_by, cdr.reason) == (Result.ANSWERED, Party.SYSTEM, "Busy Here")


@pytest.mark.parametrize(("referrer", "party"), SIDES)
def test_a_party_that_hangs_up_while_the_target_rings_ends_everything(referrer: str, party: str) -> None:
    world, tags = three()
    world.on_incoming["1003"] = lambda e: world.do("1003", world.phones["1003"].ring(world.now, e.call))
    transfer(world, referrer, tags[referrer], "1003")
    world.hang_up(party, tags[party], run_s=1)
    assert world.ended("1003") == [487]
    assert progress(world, referrer) == [100, 180, 487]
    assert len(world.of(referrer, Ended)) == 1
    world.is_clean()


def test_a_second_refer_while_the_first_is_under_way_is_refused() -> None:
    world, tags = three("1004")
    world.on_incoming["1003"] = lambda e: world.do("1003", world.phones["1003"].ring(world.now, e.call))
    transfer(world, "1002", tags["1002"], "1003", run_s=1)
    transfer(world, "1002", tags["1002"], "1004", run_s=1)
    transfer(world, "1001", tags["1001"], "1004", run_s=1)
    assert [o.status for who in ("1002", "1001") for o in world.of(who, Outcome)] == [202, 491, 491]
    world.hang_up("1002", tags["1002"])
    world.hang_up("1001", tags["1001"])
    world.is_clean(strict=False)


def test_a_transferred_call_can_be_transferred_again_and_again() -> None:
    world, tags = three("1004", "1005")
    world.rings_then_answers("1004")
    world.rings_then_answers("1005")
    transfer(world, "1002", tags["1002"], "1003")
    transfer(world, "1003", world.incoming("1003"), "1004")
    transfer(world, "1001", tags["1001"], "1005")
    assert talk_with_each_other(world, "1004", "1005")
    world.hang_up("1004", world.incoming("1004"), run_s=1)
    (cdr,) = world.is_clean()
    assert (cdr.caller, cdr.answered_by) == ("1001", "1002")
    assert (cdr.transferred_by, cdr.transferred_to, cdr.ended_by) == ("1001", "1005", Party.CALLEE)


def test_a_referrer_that_wants_to_hear_nothing_hears_nothing() -> None:
    world, tags = three()
    world.do("1002", world.phones["1002"].transfer(world.now, tags["1002"], "1003", quietly=True))
    world.run(3)
    assert [r.get("Refer-Sub") for r in world.responses("REFER", to="1002") if r.status == 202] == ["false"]
    assert world.requests("NOTIFY") == []
    assert talk_with_each_other(world, "1001", "1003")
    world.hang_up("1001", tags["1001"])
    world.is_clean()


def test_changes_that_cross_with_a_transfer_come_one_after_the_other() -> None:
    world, tags = three()
    world.rings_then_answers("1003", answer_s=0.5)
    transfer(world, "1002", tags["1002"], "1003", run_s=0.525)
    world.do("1001", world.phones["1001"].reinvite(world.now, tags["1001"]))
    world.run(8)
    assert talk_with_each_other(world, "1001", "1003")
    assert 491 in [r.status for r in world.responses("INVITE")]
    world.hang_up("1001", tags["1001"])
    world.is_clean()


BAD = [
    ((), 400, "Refer-To: missing"),
    (("",), 400, "Refer-To"),
    (("<sip:1003@10.0.0.254>, <sip:1004@10.0.0.254>",), 400, "Refer-To: one is wanted"),
    (("<sip:1003@10.0.0.254>", "<sip:1004@10.0.0.254>"), 400, "Refer-To"),
    (("<tel:+49301234>",), 416, "scheme tel"),
    (("<sip:1003@10.0.0.254;method=BYE>",), 403, "only INVITE"),
    (("<sip:1003@10.0.0.254?Replaces=nothing>",), 400, "Replaces"),
]


@pytest.mark.parametrize(("refer_to", "status", "why"), BAD)
def test_a_refer_that_cannot_be_understood_is_refused_with_the_reason(
    refer_to: tuple[str, ...], status: int, why: str
) -> None:
    world, tags = three()
    fields = [("Refer-To", value) for value in refer_to]
    world.do("1002", world.phones["1002"].ask(world.now, tags["1002"], "REFER", *fields))
    world.run(1)
    assert world.of("1002", Outcome)[-1].status == status
    assert why in (world.responses("REFER", to="1002")[-1].get("Warning") or why * (len(refer_to) > 1))
    go_on_talking(world, tags)


@pytest.mark.parametrize("says_so", [False, True])
def test_a_refer_in_another_ones_name_is_refused(says_so: bool) -> None:
    world, tags = three()
    phone = world.phones["1002"]
    dialog = phone._calls[tags["1002"]].dialog
    assert dialog is not None
    if says_so:
        phone._calls[tags["1002"]].dialog = replace(dialog, local_uri="<sip:1003@10.0.0.254>")
    phone._line.account = replace(phone._line.account, number="1003", password="secret of 1003")
    transfer(world, "1002", tags["1002"], "1003")
    assert world.of("1002", Outcome)[-1].status == 403
    assert world.requests("INVITE", to="1003") == []
    world.hang_up("1001", tags["1001"])
    world.is_clean(strict=False)


def test_there_is_nobody_to_transfer_in_a_call_with_an_application() -> None:
    world = World("1001", "1002")
    tag = world.call("1001", "*43", run_s=1)
    transfer(world, "1001", tag, "1002")
    assert world.of("1001", Outcome)[-1].status == 403
    world.hang_up("1001", tag)
    world.is_clean()


# Attended: the referrer talks with the target first


def consulting(first: tuple[str, str], second: tuple[str, str]) -> tuple[World, dict[tuple[str, str], str]]:
    """Two calls: who called whom. The party that is in both has put the first on hold."""
    world = World("1001", "1002", "1003")
    tags: dict[tuple[str, str], str] = {}
    for caller, callee in (first, second):
        if tags:
            referrer = ({caller, callee} & {*first}).pop()
            world.do(referrer, world.phones[referrer].hold(world.now, tags[referrer, "first"]))
            world.run(1)
        tag, answered = world.up(caller, callee)
        name = "second" if tags else "first"
        tags[caller, name], tags[callee, name] = tag, answered
    return world, tags


@pytest.mark.parametrize("second", [("1002", "1003"), ("1003", "1002")])
@pytest.mark.parametrize("first", [("1001", "1002"), ("1002", "1001")])
def test_an_attended_transfer_joins_the_two_others(first: tuple[str, str], second: tuple[str, str]) -> None:
    world, tags = consulting(first, second)
    transfer(world, "1002", tags["1002", "first"], "1003", instead_of=tags["1002", "second"])
    assert progress(world, "1002") == [100, 200]
    assert len(world.of("1002", Ended)) == 2
    assert len(world.of("1003", Incoming)) == (second[1] == "1003")
    assert talk_with_each_other(world, "1001", "1003")
    for who, name in (("1001", "first"), ("1003", "second")):
        world.do(who, world.phones[who].hold(world.now, tags[who, name]))
        world.run(1)
        world.do(who, world.phones[who].resume(world.now, tags[who, name]))
        world.run(1)
    assert talk_with_each_other(world, "1001", "1003")
    world.hang_up("1003", tags["1003", "second"], run_s=1)
    assert len(world.of("1001", Ended)) == 1
    by_dialled = {cdr.callee: cdr for cdr in world.is_clean(cdrs=2)}
    ours, theirs = by_dialled[first[1]], by_dialled[second[1]] if second[1] != first[1] else None
    assert (ours.caller, ours.transferred_by) == (first[0], "1002")
    if theirs is not None:
        assert (theirs.caller, theirs.transferred_by, theirs.result) == (second[0], "1002", Result.ANSWERED)


def test_both_records_of_an_attended_transfer_say_who_was_put_through_to_whom() -> None:
    world, tags = consulting(("1001", "1002"), ("1002", "1003"))
    transfer(world, "1002", tags["1002", "first"], "1003", instead_of=tags["1002", "second"])
    world.run(5)
    world.hang_up("1001", tags["1001", "first"], run_s=1)
    second, first = world.is_clean(cdrs=2)
    assert (first.caller, first.answered_by, first.transferred_by, first.transferred_to) == (
        "1001", "1002", "1002", "1003",
    )  # fmt: skip
    assert (second.caller, second.answered_by, second.transferred_by, second.transferred_to) == (
        "1002", "1003", "1002", "1001",
    )  # fmt: skip
    assert second.ended_by is Party.CALLER
    assert first.talk_s > second.talk_s


def test_a_target_that_still_rings_goes_on_ringing_and_is_joined_when_it_answers() -> None:
    world, tags = three()
    world.rings_then_answers("1003", answer_s=5.0)
    second = world.call("1002", "1003", run_s=1)
    transfer(world, "1002", tags["1002"], "1003", instead_of=second, run_s=1)
    assert world.ended("1002") == [487]
    assert len(world.of("1003", Incoming)) == 1
    assert world.of("1003", Ended) == []
    world.run(5)
    assert progress(world, "1002") == [100, 200]
    assert talk_with_each_other(world, "1001", "1003")
    world.hang_up("1001", tags["1001"], run_s=1)
    first, other = sorted(world.is_clean(cdrs=2), key=lambda cdr: cdr.caller)
    assert (first.transferred_by, first.transferred_to) == ("1002", "1003")
    assert (other.result, other.reason) == (Result.CANCELLED, "Transferred")


def test_a_target_that_rings_for_the_referrer_and_is_busy_after_all_leaves_the_two_together() -> None:
    world, tags = three()
    world.refuses("1003", 486, ring=True, after_s=3.0)
    second = world.call("1002", "1003", run_s=1)
    transfer(world, "1002", tags["1002"], "1003", instead_of=second)
    assert progress(world, "1002") == [100, 486]
    assert talk_with_each_other(world, "1001", "1002")
    world.hang_up("1001", tags["1001"])
    world.is_clean(cdrs=2)


def test_a_target_that_hangs_up_while_it_is_joined_gives_the_two_back_to_each_other() -> None:
    world, tags = consulting(("1001", "1002"), ("1002", "1003"))
    world.phones["1001"].habits = Habits(answers_updates=False)
    transfer(world, "1002", tags["1002", "first"], "1003", instead_of=tags["1002", "second"], run_s=1)
    world.hang_up("1003", tags["1003", "second"], run_s=1)
    world.phones["1001"].habits = Habits()
    world.do("1001", world.phones["1001"].answer_update(world.now, tags["1001", "first"]))
    world.run(3)
    assert progress(world, "1002") == [100, 480]
    assert len(world.of("1002", Ended)) == 1
    # The referrer was asked for an offer of its own, which its party was shown.
    assert world.requests("INVITE", to="1002")[-1].body == b""
    world.do("1002", world.phones["1002"].resume(world.now, tags["1002", "first"]))
    world.run(1)
    assert talk_with_each_other(world, "1001", "1002")
    world.hang_up("1002", tags["1002", "first"])
    world.is_clean(cdrs=2, strict=False)


def test_a_refer_that_replaces_an_unknown_or_a_strangers_dialog_is_told_481() -> None:
    world, tags = three("1004")
    world.rings_then_answers("1004")
    theirs = world.call("1003", "1004", run_s=2)
    strange = world.phones["1003"]._calls[theirs].as_replaced
    for replaces in (strange, "nowhere;to-tag=a;from-tag=b"):
        value = quote(replaces, safe="")
        fields = ("Refer-To", f"<sip:1004@10.0.0.254?Replaces={value}>")
        world.do("1002", world.phones["1002"].ask(world.now, tags["1002"], "REFER", fields))
        world.run(1)
    assert progress(world, "1002") == [481, 481]
    assert len(world.switch.calls) == 2
    world.hang_up("1003", theirs)
    world.hang_up("1001", tags["1001"])
    world.is_clean(cdrs=2)


def test_a_party_with_video_is_shown_a_target_without_it_in_the_streams_that_it_knows() -> None:
    world = World("1001", "1002", "1003")
    world.rings_then_answers("1002")
    world.rings_then_answers("1003")
    sdp = "v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
    caller = world.call("1001", "1002", sdp=sdp + "m=video 4002 RTP/AVP 31\r\n", run_s=2)
    transfer(world, "1002", world.incoming("1002"), "1003")
    assert progress(world, "1002") == [100, 180, 200]
    shown = parse(world.requests("INVITE", to="1001")[-1].body.decode())
    assert [(media.kind, bool(media.port)) for media in shown.media] == [("audio", True), ("video", False)]
    answer = parse(world.requests("ACK", to="1003")[-1].body.decode())
    assert [media.kind for media in answer.media] == ["audio"]
    # The target asks once more, and gets its one stream again.
    world.do("1003", world.phones["1003"].hold(world.now, world.incoming("1003")))
    world.run(1)
    assert len(parse(world.requests("INVITE", to="1001")[-1].body.decode()).media) == 2
    assert world.of("1003", UpdateFailed) == []
    world.hang_up("1001", caller)
    world.is_clean()
