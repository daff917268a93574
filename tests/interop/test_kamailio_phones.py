"""The load test is for any SIP server: here a proxy that is no B2BUA, speaks with Record-Route and leaves the audio to
the phones.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from kamailio import WORD, Kamailio
from pbx import free_ports


def test_phones_register_and_call_each_other_through_kamailio_and_prove_who_they_are(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    kamailio = Kamailio(tmp_path / "kamailio", port)
    report = tmp_path / "report.json"
    try:
        kamailio.start()
        options = "--test-type mixed --concurrent-calls 5 --total-calls 15 --call-duration 1 --ramp-up 0.5 --refresh 1"
        where = ["--pbx-host", "127.0.0.1", "--sip-port", str(port), "--save-report", str(report)]
        done = subprocess.run(
            [sys.executable, "-m", "warden", "loadtest", *where, *options.split()],
            cwd=tmp_path, env=os.environ | {"WARDEN_LOADTEST_PASSWORD": WORD}, text=True, capture_output=True,
            check=False, timeout=100,
        )  # fmt: skip
    finally:
        kamailio.close()
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(report.read_text())
    assert told["calls"]["tried"]["ok"] == 15
    # What is lost on a busy machine is what the phones have not read in time.
    assert told["voice"]["loss_percent"] < 5
    # All ten before the first call, and again while there were calls.
    assert told["registrations"]["tried"]["ok"] > 20
    assert told["breaches"] == []
