"""A fault that strikes nothing is none."""

import pytest

from warden.core.errors import WardenError
from warden.ops.lab.faults import running


class Machine:
    """A host on which only Patroni runs."""

    name = "pbx1"

    def pids_of(self, program: str) -> list[int]:
        return {"patroni": [7, 8]}.get(program, [])


def test_a_program_that_does_not_run_is_told_although_others_do() -> None:
    assert running(Machine(), "patroni") == [7, 8]
    with pytest.raises(WardenError, match="pbx1 runs no postgres"):
        running(Machine(), "patroni", "postgres")
