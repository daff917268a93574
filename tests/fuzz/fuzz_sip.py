"""Messages of chance against every reader of SIP, guided by coverage: only `MalformedMessage` may come out.

Run by itself: `python tests/fuzz/fuzz_sip.py -max_total_time=60 [CORPUS_FOLDER ...]`. The messages of RFC 4475 are
always among the seeds.
"""

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["warden.sip"]):
    from read_sip import read, read_stream

SEEDS = Path(__file__).parents[1] / "corpus" / "rfc4475"


def one_input(data: bytes) -> None:
    """Read `data` as a datagram and as a stream."""
    read(data)
    read_stream(data, 1 + len(data) // 3)


if __name__ == "__main__":
    # New finds go to the first folder named, so the seeds come last; alone they would be written to.
    folders = [str(SEEDS)] if any(not argument.startswith("-") for argument in sys.argv[1:]) else []
    atheris.Setup([*sys.argv, *folders], one_input)
    atheris.Fuzz()
