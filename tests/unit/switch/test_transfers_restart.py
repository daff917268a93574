"""The process dies at any moment of a transfer, and another one goes on with it from the store."""

from collections.abc import Callable

import pytest
from tests.unit.switch.test_pickup import named, pick_up
from tests.unit.switch.test_transfers import progress, talk_with_each_other, three, transfer
from tests.unit.switch.world import Crash, World

from warden.call.cdr import Result
from warden.phone.events import Ended, Incoming

Story = Callable[[World | None], World]


def blind(world: World, tags: dict[str, str]) -> None:
    transfer(world, "1002", tags["1002"], "1003", run_s=8)


def failing(world: World, tags: dict[str, str]) -> None:
    world.refuses("1003", 486, ring=True, after_s=0.5)
    transfer(world, "1002", tags["1002"], "1003", run_s=8)


def deserted(world: World, tags: dict[str, str]) -> None:
    world.rings_then_answers("1002")
    world.refuses("1003", 486, ring=True, after_s=1.0)
    transfer(world, "1002", tags["1002"], "1003", run_s=0.4)
    world.hang_up("1002", tags["1002"], run_s=8)


def ringing(world: World, tags: dict[str, str]) -> None:
    world.rings_then_answers("1003", answer_s=2.0)
    second = world.call("1002", "1003", run_s=1)
    transfer(world, "1002", tags["1002"], "1003", instead_of=second, run_s=8)


def attended(world: World, tags: dict[str, str]) -> None:
    second, _ = world.up("1002", "1003")
    transfer(world, "1002", tags["1002"], "1003", instead_of=second, run_s=8)


def taken(world: World, _tags: dict[str, str]) -> None:
    pick_up(world, "1003", named(world, "1002"))
    world.run(6)


def picked_up(world: World, tags: dict[str, str]) -> None:
    world.hang_up("1001", tags["1001"], run_s=1)
    world.on_incoming["1002"] = lambda e: world.do("1002", world.phones["1002"].ring(world.now, e.call))
    tags["1001"] = world.call("1001", "1002", run_s=1)
    pick_up(world, "1003", named(world, "1002"))
    world.run(6)


STORIES: dict[Callable[[World, dict[str, str]], None], tuple[str, int]] = {
    blind: ("1003", 1),
    failing: ("1002", 1),
    deserted: ("1002", 1),
    ringing: ("1003", 2),
    attended: ("1003", 2),
    taken: ("1003", 1),
    picked_up: ("1003", 2),
}
"""With whom 1001 talks at the end, and how many calls there were."""


@pytest.mark.parametrize("speaks", [False, True], ids=["before it speaks", "after it spoke"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_process_that_dies_at_any_moment_of_a_transfer_is_not_noticed(
    story: Callable[[World, dict[str, str]], None], speaks: bool
) -> None:
    world, tags = three()
    began = world.outcomes
    story(world, tags)
    for at in range(began + 1, world.outcomes + 1):
        where = f"outcome {at - began} of {story.__name__}"
        (with_whom, calls) = STORIES[story]
        again, tags = three(crash=Crash(at, speaks))
        story(again, tags)
        assert again.crash is None, "the process died"
        assert talk_with_each_other(again, "1001", with_whom), where
        assert len(again.of("1001", Ended)) == (story is picked_up), where
        if story not in (deserted, taken, picked_up):
            assert progress(again, "1002")[-1] == (486 if story is failing else 200), where
        again.hang_up("1001", tags["1001"], run_s=1)
        last = [cdr for cdr in again.is_clean(cdrs=calls, strict=False) if cdr.caller == "1001"][-1]
        assert last.result is Result.ANSWERED, where
        has_moved = with_whom == "1003" and story is not picked_up
        assert last.transferred_to == (with_whom if has_moved else ""), where
        assert len(again.of("1003", Incoming)) == (story not in (taken, picked_up)), where


@pytest.mark.parametrize("seed", range(30))
def test_on_a_lossy_wire_with_restarts_a_transfer_leaves_nothing_behind(seed: int) -> None:
    world, tags = three(seed=seed)
    world.loss = 0.1
    random = world.random
    world.rings_then_answers("1002")
    if seed % 4 == 3:
        world.refuses("1003", 486, ring=True, after_s=1.0)
    for _ in range(2):
        world.after(random.random() * 20, world.restart)
    second = world.call("1002", "1003", run_s=3) if seed % 2 else ""
    transfer(world, "1002", tags["1002"], "1003", instead_of=second, run_s=random.random() * 3)
    if seed % 3 == 0:
        world.hang_up("1002", tags["1002"])
    world.run(60)
    for name, phone in world.phones.items():
        for tag in list(phone.calls):
            world.hang_up(name, tag)
    world.run(120)
    for name, phone in world.phones.items():
        for tag in list(phone.calls):
            world.hang_up(name, tag)
    world.run(150)
    world.loss = 0.0
    world.is_clean(cdrs=len(world.call_ids), strict=False)
    assert len(world.call_ids) == 1 + bool(second)
