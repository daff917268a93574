"""Each fuzz target of this folder, for a bounded number of runs from a fixed seed.

A target is a file `fuzz_*.py` that runs by itself under atheris and takes libFuzzer's options and corpus folders.
"""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RUNS = 20_000
SECONDS_MAX = 15  # On a busy machine there are fewer runs, not a longer wait.
BYTES_MAX = 4096


def test_targets_are_found() -> None:
    assert (HERE / "fuzz_sip.py").exists()


@pytest.mark.parametrize("target", sorted(path.stem for path in HERE.glob("fuzz_*.py")))
def test_no_input_makes_a_parser_fail(target: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    options = [
        f"-runs={RUNS}",
        f"-max_total_time={SECONDS_MAX}",
        f"-max_len={BYTES_MAX}",
        "-seed=4475",
        "-timeout=10",
        "-rss_limit_mb=1024",
        f"-artifact_prefix={tmp_path}/",
    ]
    command = [sys.executable, str(HERE / f"{target}.py"), *options, str(corpus)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=90)
    output = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, output[-4000:]
    assert "Done " in output, "the target ended before its runs did"
