"""Packets of chance against every reader of RTP, RTCP and key events: only `MalformedMessage` may come out.

Run by itself: `python tests/fuzz/fuzz_rtp.py -max_total_time=60 [CORPUS_FOLDER ...]`.
"""

import sys
from contextlib import suppress

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["warden.rtp"]):
    from warden.core.errors import MalformedMessage
    from warden.rtp import dtmf, packet, rtcp
    from warden.rtp.stats import Reception


def one_input(data: bytes) -> None:
    """Read `data` as each kind of packet, print what was read, and let a stream of its slices be counted."""
    with suppress(MalformedMessage):
        rtp = packet.parse(data)
        assert packet.parse(packet.build(rtp)) == rtp
        assert packet.payload_of(data) == rtp.payload
    with suppress(MalformedMessage):
        reports = rtcp.parse(data)
        assert rtcp.parse(rtcp.build(reports)) == reports
        for report in reports:
            if isinstance(report, rtcp.ReceiverReport | rtcp.SenderReport):
                for block in report.blocks:
                    rtcp.round_trip_s(block, 12345)
    reception = Reception(events_payload_type=101)
    keys = dtmf.Keys()
    for at in range(0, min(len(data), 640), 16):
        piece = data[at : at + 16]
        reception.update(at / 800.0, b"\x80" + piece)
        with suppress(MalformedMessage):
            keys.receive(int.from_bytes(piece[:4], "big"), dtmf.parse(piece[4:]))
        keys.voice(int.from_bytes(piece[8:12], "big"))
    assert 0 <= reception.packets <= 40
    assert reception.octets >= 12 * reception.packets
    assert reception.jitter_ms >= 0.0
    assert reception.lost >= -reception.packets


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
