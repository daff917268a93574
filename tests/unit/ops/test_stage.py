"""What a drill's stage makes sure of before it strikes."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from warden.core.errors import WardenError
from warden.ops.drills.stage import Drill, Size, Stage


class Fault:
    """A node's death, of which only is noted whether it came."""

    name = "kill -9 of n1"

    def __init__(self, *struck: str) -> None:
        self.struck = list(struck)
        self.came = False

    async def strike(self) -> None:
        self.came = True


@pytest.mark.parametrize(("struck", "holder"), [((), "n2"), (("s2",), "n2"), ((), "")])
async def test_a_node_that_has_not_the_seat_is_not_struck_and_the_drill_says_who_has_it(
    struck: tuple[str, ...], holder: str
) -> None:
    stage, fault = stage_with({"s1": holder}), Fault(*struck)
    with pytest.raises(WardenError, match=f"^kill -9 of n1 strikes nobody: {holder or 'no node'} has s1$"):
        await stage.strike(cast(Any, fault), "s1")
    assert not fault.came


async def test_the_node_that_has_the_seat_is_struck() -> None:
    fault = Fault("s1")
    await stage_with({"s1": "n1"}).strike(cast(Any, fault), "s1")
    assert fault.came


def stage_with(holders: dict[str, str]) -> Stage[Any]:
    cluster = SimpleNamespace(seats={"s1": None}, holders=holders, look=lambda: None)
    drill = Drill("x", "", "", Size(1), Size(1))
    return Stage(drill, Size(1), cast(Any, cluster), cast(Any, SimpleNamespace(talks=[], ringing=[])), lambda *_: None)
