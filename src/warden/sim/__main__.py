"""`python -m warden.sim`: tell the stories of many seeds on all cores, and the first that went wrong in full."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from warden.sim.plan import make_plan
from warden.sim.run import Told, tell, tell_briefly

LINES_SHOWN = 1_500
"""Of the story of a seed that failed; `--lines` shows more."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 where nothing was wrong, 1 where something was."""
    parser = argparse.ArgumentParser(prog="python -m warden.sim", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="tell one story in full")
    which.add_argument("--seeds", help="tell many: COUNT, or FIRST-LAST")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    parser.add_argument("--lines", type=int, default=LINES_SHOWN, help="lines shown of a story")
    asked = parser.parse_args(arguments)
    if asked.seed is not None:
        told = tell(make_plan(asked.seed))
        _show(told, asked.lines)
        return 1 if told.violations else 0
    first, _, last = asked.seeds.partition("-")
    seeds = range(int(first), int(last) + 1) if last else range(int(first))
    return _many(seeds, asked.jobs, asked.lines)


def _many(seeds: range, jobs: int, lines: int) -> int:
    began, failed, steps = time.monotonic(), list[Told](), 0
    for told in _stories(seeds, jobs):
        steps += told.steps
        if told.violations:
            failed.append(told)
            print(f"seed {told.seed} ({told.mode}): {'; '.join(told.violations)[:400]}", flush=True)  # noqa: T201
    failed.sort(key=lambda told: told.seed)
    took = time.monotonic() - began
    if failed:
        _show(tell(make_plan(failed[0].seed)), lines)
    print(f"{len(seeds)} seeds, {len(failed)} failed, {steps} steps, {took:.1f} s")  # noqa: T201
    return 1 if failed else 0


def _stories(seeds: range, jobs: int) -> Iterator[Told]:
    if jobs == 1:
        yield from map(tell_briefly, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(tell_briefly, seeds, chunksize=4)


def _show(told: Told, lines: int) -> None:
    if len(told.lines) > lines:
        print(f"... {len(told.lines) - lines} earlier lines")  # noqa: T201
    for line in told.lines[max(0, len(told.lines) - lines) :]:
        print(line)  # noqa: T201
    print(f"seed {told.seed} ({told.mode}), story {told.digest}, {told.steps} steps")  # noqa: T201
    for what in told.violations:
        print(f"VIOLATION  {what}")  # noqa: T201
    if told.violations:
        print(f"again:     python -m warden.sim --seed {told.seed}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
