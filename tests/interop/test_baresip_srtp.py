"""baresip over TLS with SRTP: a real phone's keys and real audio, between two of it, and between it and a plain one."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from warden.call.cdr import Cdr, Result
from warden.rtp.g711 import CLOCK_HZ, Samples
from warden.rtp.tone import LEVEL, hears

from baresip_phone import Baresip
from pbx import Pbx, free_ports
from private_tls import make_certificates

ANN_HZ, BOB_HZ = 440.0, 880.0
TALK_S = 3.0


class SecurePbx:
    """A node with TLS, and 1001 whose media must be protected."""

    def __init__(self, folder: Path) -> None:
        (self.tls_port,) = free_ports(1)
        _, certificate, key = make_certificates(folder / "tls")
        files = f"[{{certificate: {certificate}, key: {key}}}]"
        tls = f"  tls: {{enabled: true, bind_port: {self.tls_port}, certificates: {files}}}\n"
        (folder / "node").mkdir()
        self.pbx = Pbx(folder / "node", sip=tls)
        self.pbx.add_extensions("1001", "1002")
        done = self.pbx.run("extension", "set", "1001", "--srtp", "required")
        assert done.returncode == 0, done.stderr
        self.pbx.start()
        self._ended = 0

    def next_cdr(self) -> Cdr:
        """The record of the call that has just ended."""
        self._ended += 1
        return max(self.pbx.cdrs(self._ended), key=lambda cdr: cdr.ended_at_utc)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecurePbx]:
    made = SecurePbx(tmp_path_factory.mktemp("secure"))
    try:
        yield made
    finally:
        made.pbx.close()
    log = made.pbx.stderr.read_text()
    assert "Traceback" not in log, log


def talk(seconds: float = TALK_S) -> None:
    time.sleep(seconds)  # Sound takes its time: what is heard is what is said meanwhile.


def hears_only(samples: Samples, tone: float, other: float) -> bool:
    """True where the tone is there, most of the time and at full loudness, and the other is not."""
    return hears(samples, tone) > LEVEL / 2 and hears(samples, other) < LEVEL / 50


@pytest.mark.parametrize(
    ("bobs", "who_calls"),
    [("srtp-mand", "bob"), ("srtp-mand", "ann"), ("", "ann"), ("", "bob")],
    ids=["mandatory", "to mandatory", "to plain", "from plain"],
)
def test_phones_with_srtp_and_without_hear_each_other(
    secure: SecurePbx, tmp_path: Path, bobs: str, who_calls: str
) -> None:
    pbx = secure.pbx
    bobs_port, transport = (secure.tls_port, "tls") if bobs else (pbx.sip_port, "udp")
    with (
        Baresip(
            tmp_path / "ann", "1001", secure.tls_port, tone_hz=ANN_HZ, transport="tls", srtp="srtp-mand", answers=True
        ) as ann,
        Baresip(
            tmp_path / "bob", "1002", bobs_port, tone_hz=BOB_HZ, transport=transport, srtp=bobs, answers=True
        ) as bob,
    ):
        ann.registers()
        bob.registers()
        caller, callee, number = (ann, bob, "1002") if who_calls == "ann" else (bob, ann, "1001")
        caller.dial(number)
        caller.sees("CALL_ESTABLISHED")
        callee.sees("CALL_ESTABLISHED")
        talk(1.0)
        caller.tell("hold")
        talk(0.5)
        caller.tell("resume")
        talk(2.0)
        caller.tell("hangup")
        callee.sees("CALL_CLOSED")
        cdr = secure.next_cdr()
        heard_by_ann, heard_by_bob = ann.heard(), bob.heard()
    assert cdr.result is Result.ANSWERED
    for heard, theirs, own in ((heard_by_ann, BOB_HZ, ANN_HZ), (heard_by_bob, ANN_HZ, BOB_HZ)):
        assert hears_only(heard[: CLOCK_HZ // 2], theirs, own)
        assert hears_only(heard[-CLOCK_HZ:], theirs, own)


def test_a_call_with_srtp_outlives_the_node_and_then_its_media_process(secure: SecurePbx, tmp_path: Path) -> None:
    pbx = secure.pbx
    with (
        Baresip(tmp_path / "ann", "1001", secure.tls_port, tone_hz=ANN_HZ, transport="tls", srtp="srtp-mand") as ann,
        Baresip(tmp_path / "bob", "1002", pbx.sip_port, tone_hz=BOB_HZ, answers=True) as bob,
    ):
        ann.registers()
        bob.registers()
        ann.dial("1002")
        ann.sees("CALL_ESTABLISHED")
        talk(1.0)
        pbx.kill(signal.SIGKILL)
        pbx.start()
        pid = pbx.media_pid
        pbx.kill_media()
        pbx.wait_for_log("media process is gone, starting another")
        while pbx.media_pid in (None, pid):
            time.sleep(0.02)  # A file tells nobody that it has changed.
        talk()
        ann.tell("hangup")
        bob.sees("CALL_CLOSED")
        cdr = secure.next_cdr()
        heard_by_ann, heard_by_bob = ann.heard(), bob.heard()
    assert cdr.talk_s > TALK_S
    for heard, theirs, own in ((heard_by_ann, BOB_HZ, ANN_HZ), (heard_by_bob, ANN_HZ, BOB_HZ)):
        assert hears_only(heard[-CLOCK_HZ:], theirs, own)
