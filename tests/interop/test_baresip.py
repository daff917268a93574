"""baresip, a real phone with real audio: it registers, calls, is called, and hears what it should."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from warden.call.cdr import Cdr, Party, Result
from warden.rtp.g711 import CLOCK_HZ, Samples
from warden.rtp.tone import LEVEL, hears

from baresip_phone import Baresip
from pbx import Pbx

ANN_HZ, BOB_HZ = 440.0, 880.0
TALK_S = 3.0


ECHOED_HZ = 620.0


@pytest.fixture
def pbx(tmp_path: Path) -> Iterator[Pbx]:
    (tmp_path / "node").mkdir()
    pbx = Pbx(tmp_path / "node")
    pbx.add_extensions("1001", "1002")
    pbx.start()
    try:
        yield pbx
    finally:
        pbx.close()
    log = pbx.stderr.read_text()
    assert "Traceback" not in log, log
    assert "[error" not in log, log


def talk(seconds: float = TALK_S) -> None:
    time.sleep(seconds)  # Sound takes its time: what is heard is what is said meanwhile.


def hears_only(samples: Samples, tone: float, *others: float) -> bool:
    """True where the tone is there, most of the time and at full loudness, and none of the others is."""
    return hears(samples, tone) > LEVEL / 2 and all(hears(samples, other) < LEVEL / 50 for other in others)


def one_cdr(pbx: Pbx, result: Result = Result.ANSWERED) -> Cdr:
    (cdr,) = pbx.cdrs(1)
    assert cdr.result is result
    return cdr


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_two_phones_talk_and_each_hears_the_other(pbx: Pbx, tmp_path: Path, transport: str) -> None:
    with (
        Baresip(tmp_path / "ann", "1001", pbx.sip_port, tone_hz=ANN_HZ, transport=transport) as ann,
        Baresip(tmp_path / "bob", "1002", pbx.sip_port, tone_hz=BOB_HZ, transport=transport, answers=True) as bob,
    ):
        ann.registers()
        bob.registers()
        ann.dial("1002")
        ann.sees("CALL_RINGING")
        ann.sees("CALL_ESTABLISHED")
        bob.sees("CALL_ESTABLISHED")
        talk()
        ann.tell("hangup")
        bob.sees("CALL_CLOSED")
        cdr = one_cdr(pbx)
        heard_by_ann, heard_by_bob = ann.heard(), bob.heard()
    for heard, theirs, own in ((heard_by_ann, BOB_HZ, ANN_HZ), (heard_by_bob, ANN_HZ, BOB_HZ)):
        assert len(heard) > (TALK_S - 1) * CLOCK_HZ
        assert hears_only(heard, theirs, own)
    assert (cdr.caller, cdr.callee, cdr.answered_by, cdr.ended_by) == ("1001", "1002", "1002", Party.CALLER)
    assert TALK_S - 0.5 < cdr.talk_s < TALK_S + 30


def test_hold_silences_both_and_resume_brings_both_back(pbx: Pbx, tmp_path: Path) -> None:
    with (
        Baresip(tmp_path / "ann", "1001", pbx.sip_port, tone_hz=ANN_HZ) as ann,
        Baresip(tmp_path / "bob", "1002", pbx.sip_port, tone_hz=BOB_HZ, answers=True) as bob,
    ):
        ann.registers()
        bob.registers()
        ann.dial("1002")
        ann.sees("CALL_ESTABLISHED")
        talk(1.0)
        ann.tell("hold")
        talk()
        ann.tell("resume")
        talk(2.0)
        bob.tell("hangup")
        ann.sees("CALL_CLOSED")
        cdr = one_cdr(pbx)
        heard_by_ann, heard_by_bob = ann.heard(), bob.heard()
    assert cdr.ended_by is Party.CALLEE
    for heard, theirs, own in ((heard_by_ann, BOB_HZ, ANN_HZ), (heard_by_bob, ANN_HZ, BOB_HZ)):
        # Only what comes is kept, so a recording is shorter than the call by the time of silence.
        assert len(heard) / CLOCK_HZ < cdr.talk_s - TALK_S / 2
        assert hears_only(heard[: CLOCK_HZ // 2], theirs, own)
        assert hears_only(heard[-CLOCK_HZ:], theirs, own)


def test_the_echo_test_gives_back_what_is_said(pbx: Pbx, tmp_path: Path) -> None:
    with Baresip(tmp_path / "ann", "1001", pbx.sip_port, tone_hz=ECHOED_HZ) as ann:
        ann.registers()
        ann.dial("*43")
        ann.sees("CALL_ESTABLISHED")
        talk()
        ann.tell("hangup")
        cdr = one_cdr(pbx)
        heard = ann.heard()
    assert len(heard) > (TALK_S - 1) * CLOCK_HZ
    assert hears_only(heard, ECHOED_HZ, ANN_HZ, BOB_HZ)
    assert (cdr.callee, cdr.ended_by) == ("*43", Party.CALLER)


def test_the_speaking_clock_speaks_and_hangs_up(pbx: Pbx, tmp_path: Path) -> None:
    with Baresip(tmp_path / "ann", "1001", pbx.sip_port, tone_hz=ANN_HZ) as ann:
        ann.registers()
        ann.dial("*60")
        ann.sees("CALL_ESTABLISHED")
        ann.sees("CALL_CLOSED")
        cdr = one_cdr(pbx)
        heard = ann.heard().astype(np.float64) / 32768
    assert (cdr.callee, cdr.ended_by) == ("*60", Party.SYSTEM)
    # Speech: loud and quiet in turn, and with many tones at once, none of them all the time.
    loudness = np.sqrt(np.mean(heard[: len(heard) // 800 * 800].reshape(-1, 800) ** 2, axis=1))
    assert loudness.max() > 0.05
    assert loudness.min() < loudness.max() / 20
    spectrum = np.abs(np.fft.rfft(heard)) ** 2
    assert spectrum.max() < spectrum.sum() / 20
