"""baresip over IPv6, alone and with a phone that speaks IPv4: each hears the other."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from warden.call.cdr import Result
from warden.rtp.tone import LEVEL, hears

from baresip_phone import Baresip
from pbx import Pbx

ANN_HZ, BOB_HZ = 440.0, 880.0
TALK_S = 2.0
V4, V6 = "127.0.0.1", "::1"


@pytest.fixture(scope="module")
def pbx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pbx]:
    pbx = Pbx(tmp_path_factory.mktemp("node"), sip='  bind_address_v6: "::1"\n')
    pbx.add_extensions("1001", "1002")
    pbx.start()
    try:
        yield pbx
    finally:
        pbx.close()
    log = pbx.stderr.read_text()
    assert "Traceback" not in log, log
    assert "[error" not in log, log


@pytest.mark.parametrize(
    ("ann_at", "bob_at", "transport"), [(V6, V6, "udp"), (V6, V4, "udp"), (V4, V6, "udp"), (V6, V4, "tcp")]
)
def test_phones_of_both_versions_of_ip_hear_each_other(
    pbx: Pbx, tmp_path: Path, ann_at: str, bob_at: str, transport: str
) -> None:
    with (
        Baresip(tmp_path / "ann", "1001", pbx.sip_port, tone_hz=ANN_HZ, host=ann_at, transport=transport) as ann,
        Baresip(
            tmp_path / "bob", "1002", pbx.sip_port, tone_hz=BOB_HZ, host=bob_at, transport=transport, answers=True
        ) as bob,
    ):
        ann.registers()
        bob.registers()
        ann.dial("1002")
        ann.sees("CALL_ESTABLISHED")
        bob.sees("CALL_ESTABLISHED")
        time.sleep(TALK_S)  # Sound takes its time: what is heard is what is said meanwhile.
        ann.tell("hangup")
        bob.sees("CALL_CLOSED")
        cdr = pbx.cdrs(1)[-1]
        assert cdr.result is Result.ANSWERED
        for phone, theirs, own in ((ann, BOB_HZ, ANN_HZ), (bob, ANN_HZ, BOB_HZ)):
            heard = phone.heard()
            assert len(heard) > TALK_S / 2 * 8000
            assert hears(heard, theirs) > LEVEL / 2
            assert hears(heard, own) < LEVEL / 50
