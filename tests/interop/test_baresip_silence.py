"""A phone that loses its power in a call, with real audio: the call ends when nothing has come from it for a while."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from warden.call.cdr import Party, Result

from baresip_phone import Baresip
from pbx import Pbx


@pytest.fixture
def pbx(tmp_path: Path) -> Iterator[Pbx]:
    (tmp_path / "node").mkdir()
    pbx = Pbx(tmp_path / "node", rtp="  timeout: 2\n")
    pbx.add_extensions("1001", "1002")
    pbx.start()
    try:
        yield pbx
    finally:
        pbx.close()
    log = pbx.stderr.read_text()
    assert "Traceback" not in log, log
    assert "[error" not in log, log


def test_a_phone_that_loses_its_power_is_missed_and_the_other_one_is_hung_up(pbx: Pbx, tmp_path: Path) -> None:
    with (
        Baresip(tmp_path / "ann", "1001", pbx.sip_port, tone_hz=440.0) as ann,
        Baresip(tmp_path / "bob", "1002", pbx.sip_port, tone_hz=880.0, answers=True) as bob,
    ):
        ann.registers()
        bob.registers()
        ann.dial("1002")
        bob.sees("CALL_ESTABLISHED")
        time.sleep(1.0)  # Sound takes its time: both have been heard by then.
        bob.loses_power()
        ann.sees("CALL_CLOSED")
    (cdr,) = pbx.cdrs(1)
    assert (cdr.result, cdr.ended_by, cdr.reason) == (Result.ANSWERED, Party.SYSTEM, "No audio from the callee")
