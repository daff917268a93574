"""Reception statistics, against a plain transcription of what RFC 3550's appendix A says."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warden.rtp.packet import HEADER
from warden.rtp.stats import BROKEN, CHANGED, OPAQUE, ROUTINE, Reception


def rtp(
    sequence: int, timestamp: int, ssrc: int = 1, payload_type: int = 0, size: int = 160, marker: bool = False
) -> bytes:
    head = HEADER.pack(0x8000 | marker << 7 | payload_type, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc)
    return head + bytes(size)


def stream(count: int, first: int = 0, ssrc: int = 1) -> list[bytes]:
    return [rtp(first + i, 160 * (first + i), ssrc) for i in range(count)]


def feed(reception: Reception, packets: list[bytes], start: float = 0.0) -> list[int]:
    return [reception.update(start + 0.02 * i, data) for i, data in enumerate(packets)]


def test_packets_octets_and_order_of_a_quiet_stream_are_counted_across_the_wraps() -> None:
    reception = Reception()
    verdicts = feed(reception, stream(150_000, first=65_000))
    assert (reception.packets, reception.octets, reception.lost) == (150_000, 150_000 * 172, 0)
    assert reception.highest_sequence == 65_000 + 150_000 - 1
    assert reception.jitter < 1e-6
    assert reception.gap_ms_max == pytest.approx(20.0)
    assert verdicts[0] == CHANGED
    assert verdicts.count(ROUTINE) > 149_990, "nearly every packet takes the short way"


def test_lost_late_and_doubled_packets_are_counted_as_appendix_a_3_says() -> None:
    packets = stream(100, first=65_500)
    reception = Reception()
    feed(reception, packets[:10] + packets[13:50])
    assert reception.lost == 3
    feed(reception, [packets[11]], 1.0)
    assert reception.lost == 2, "it was only late"
    feed(reception, [packets[49], packets[49], packets[49]], 1.1)
    assert reception.lost == -1, "doubles count against it"
    feed(reception, packets[50:], 1.2)
    assert (reception.packets, reception.lost) == (10 + 37 + 1 + 3 + 50, -1)
    assert reception.highest_sequence == 65_599


@given(
    first=st.integers(0, 0xFFFF),
    fates=st.lists(st.sampled_from(["come"] * 12 + ["lose", "double", "swap"]), min_size=1, max_size=300),
)
def test_loss_is_what_was_sent_less_what_came(first: int, fates: list[str]) -> None:
    arrivals: list[int] = []
    held: int | None = None
    for number, fate in enumerate(["come", *fates, "come", "come"], start=first):
        if fate == "lose":
            continue
        if fate == "swap" and held is None:
            held = number
            continue
        arrivals += [number] * (2 if fate == "double" else 1)
        if held is not None:
            arrivals.append(held)
            held = None
    reception = Reception()
    feed(reception, [rtp(n, 160 * n) for n in arrivals])
    assert reception.packets == len(arrivals)
    assert reception.lost == max(arrivals) - first + 1 - len(arrivals)
    assert reception.highest_sequence == max(arrivals)


def test_jitter_is_that_of_appendix_a_8_for_every_packet() -> None:
    chance = random.Random(8)
    reception = Reception()
    jitter, transit_before = 0.0, None
    for i in range(2000):
        arrival = 0.02 * i + chance.uniform(0, 0.03)
        data = rtp(i, 160 * i, size=160 if i % 7 else 80)
        if i % 40 == 39:
            continue  # Lost.
        reception.update(arrival, data)
        transit = arrival * 8000 - 160 * i
        if transit_before is not None:
            jitter += (abs(transit - transit_before) - jitter) / 16
        transit_before = transit
        assert reception.jitter == pytest.approx(jitter, abs=1e-6)
    assert reception.jitter_ms == pytest.approx(jitter / 8)
    assert reception.lost == 49, "the fiftieth is not missed, as nothing came after it"


def test_jitter_takes_the_clock_of_the_codec() -> None:
    for clock_hz in (8000, 48_000):
        reception = Reception(clock_hz)
        for i in range(1000):
            reception.update(0.02 * i + (0.004 if i % 2 else 0.0), rtp(i, clock_hz // 50 * i))
        assert reception.jitter_ms == pytest.approx(4.0, abs=0.01)


def test_new_start_of_the_timestamps_is_no_jitter() -> None:
    reception = Reception()
    packets = stream(50) + [rtp(i, 160 * i + 2_000_000_000) for i in range(50, 100)]
    feed(reception, packets)
    assert reception.jitter < 1e-6
    assert reception.lost == 0


def test_longest_silence_is_kept() -> None:
    reception = Reception()
    packets = stream(30)
    feed(reception, packets[:10])
    feed(reception, packets[10:20], start=0.18 + 0.37)
    feed(reception, packets[20:], start=0.18 + 0.37 + 0.2)
    assert reception.gap_ms_max == pytest.approx(370.0)


def test_source_that_restarts_its_numbers_has_lost_nothing() -> None:
    reception = Reception()
    feed(reception, stream(20, first=100))
    feed(reception, stream(20, first=40_000), start=0.4)
    assert (reception.packets, reception.lost, reception.highest_sequence) == (40, 0, 40_019)
    feed(reception, [rtp(5, 0)], start=0.8)
    feed(reception, stream(5, first=40_020), start=0.82)
    assert (reception.packets, reception.lost) == (46, 0), "one stray number restarts nothing"


def test_loss_before_a_new_source_stays_counted() -> None:
    reception = Reception()
    packets = stream(20)
    feed(reception, packets[:5] + packets[9:])
    feed(reception, stream(20, first=7, ssrc=2), start=0.4)
    assert (reception.packets, reception.lost) == (36, 4)


def test_marker_and_size_change_nothing_but_the_verdict() -> None:
    reception = Reception()
    packets = [rtp(i, 160 * i, size=100 + i % 3, marker=i % 10 == 0) for i in range(100)]
    feed(reception, packets)
    assert (reception.packets, reception.lost) == (100, 0)
    assert reception.octets == sum(len(data) for data in packets)
    assert reception.jitter < 1e-6


def test_key_events_are_always_shown_and_make_no_jitter() -> None:
    reception = Reception(events_payload_type=101)
    feed(reception, stream(20))
    verdicts = feed(reception, [rtp(20 + i, 3200, payload_type=101, size=4) for i in range(10)], start=0.4)
    assert verdicts == [CHANGED] * 10
    feed(reception, stream(20, first=30), start=0.6)
    assert (reception.packets, reception.lost) == (50, 0)
    assert reception.jitter < 1e-6


def test_what_is_not_rtp_is_told_and_not_counted() -> None:
    reception = Reception()
    feed(reception, stream(5))
    assert reception.update(1.0, b"") == OPAQUE
    assert reception.update(1.0, b"\x00\x01\x02") == OPAQUE
    assert reception.update(1.0, b"\x00" * 40) == OPAQUE
    assert reception.update(1.0, b"\x80\xc8\x00\x06" + bytes(24)) == OPAQUE
    assert reception.update(1.0, b"\x80") == BROKEN
    assert reception.update(1.0, b"\x80\x00" + bytes(9)) == BROKEN
    assert (reception.packets, reception.octets) == (5, 5 * 172)


def test_nothing_has_been_lost_before_the_first_packet() -> None:
    reception = Reception()
    assert (reception.packets, reception.octets, reception.lost, reception.highest_sequence) == (0, 0, 0, 0)
    assert (reception.jitter_ms, reception.gap_ms_max) == (0.0, 0.0)


@given(st.lists(st.tuples(st.floats(0, 1e9), st.binary(max_size=64)), max_size=40))
def test_anything_may_come(arrivals: list[tuple[float, bytes]]) -> None:
    reception = Reception(events_payload_type=0)
    for now, data in sorted(arrivals):
        assert reception.update(now, data) in {ROUTINE, CHANGED, OPAQUE, BROKEN}
    assert 0 <= reception.packets <= len(arrivals)
