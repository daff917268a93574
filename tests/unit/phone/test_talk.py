"""What a talker says and what a listener makes of it."""

from random import Random

import numpy as np
import pytest

from warden.phone.talk import PACKET_S, Listener, Talker, frames
from warden.rtp.packet import parse


def heard(packets: list[tuple[float, bytes]]) -> Listener:
    listener = Listener()
    for at, data in packets:
        listener.hear(at, data)
    return listener


def spoken(n: int, *, hz: int = 440, codec: str = "PCMU", sequence: int = 0) -> list[tuple[float, bytes]]:
    talker = Talker(7, sequence=sequence)
    talker.retune(codec, {"PCMU": 0, "PCMA": 8}[codec], hz)
    return [(100 + i * PACKET_S, talker.next()) for i in range(n)]


@pytest.mark.parametrize("codec", ["PCMU", "PCMA"])
def test_the_tone_that_is_spoken_is_the_one_that_is_heard(codec: str) -> None:
    listener = heard(spoken(100, hz=440, codec=codec))
    assert listener.hears(440)
    assert not listener.hears(620)
    assert 0.2 < listener.level(440) < 0.3


def test_packets_are_numbered_and_the_first_carries_the_marker() -> None:
    packets = [parse(data) for _, data in spoken(3, sequence=65535)]
    assert [packet.sequence for packet in packets] == [65535, 0, 1]
    assert [packet.timestamp for packet in packets] == [0, 160, 320]
    assert [packet.marker for packet in packets] == [True, False, False]
    assert {len(packet.payload) for packet in packets} == {160}


def test_a_tone_runs_on_from_second_to_second_without_a_step() -> None:
    assert len(frames("PCMU", 441)) == 50
    samples = heard(spoken(120, hz=441)).samples().astype(int)
    assert int(np.abs(np.diff(samples)).max()) < 3500


def test_loss_is_counted_over_the_wrap_of_the_numbers() -> None:
    packets = spoken(200, sequence=65500)
    listener = heard([one for i, one in enumerate(packets) if i not in (10, 36, 37, 90)])
    assert (listener.packets, listener.lost, listener.duplicates, listener.late) == (196, 4, 0, 0)
    assert listener.gap_ms_max == pytest.approx(60)


def test_duplicates_and_late_packets_are_told_apart_from_loss() -> None:
    packets = spoken(100)
    packets[20], packets[21] = (packets[20][0], packets[21][1]), (packets[21][0], packets[20][1])
    packets.insert(51, (packets[50][0] + 0.001, packets[50][1]))
    listener = heard(packets)
    assert (listener.packets, listener.lost, listener.duplicates, listener.late) == (100, 0, 1, 1)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_order_every_packet_is_received_or_lost_once(seed: int) -> None:
    random = Random(seed)
    packets = spoken(300, sequence=65400)
    kept = [one for one in packets if random.random() > 0.2]
    shuffled = [kept[0], *sorted(kept[1:], key=lambda one: one[0] + random.random() * 0.2)]
    again = [one for one in shuffled for _ in range(1 + (random.random() < 0.1))]
    listener = heard([(100 + i * PACKET_S, data) for i, (_, data) in enumerate(again)])
    numbers = [round((at - 100) / PACKET_S) for at, _ in kept]
    assert listener.packets == len(kept)
    assert listener.duplicates == len(again) - len(kept)
    assert listener.expected == max(numbers) - min(numbers) + 1


def test_the_longest_gap_and_the_time_it_ended_are_known() -> None:
    packets = spoken(100)
    late = packets[:50] + [(at + 0.5, data) for at, data in packets[50:]]
    listener = heard(late)
    assert listener.gap_ms_max == pytest.approx(520)
    assert listener.gap_ended_at == pytest.approx(late[50][0])
    assert listener.lost == 0
    assert listener.silence_ms(late[-1][0] + 0.1) == pytest.approx(100)


def test_even_arrival_has_no_jitter_and_uneven_arrival_has() -> None:
    assert heard(spoken(100)).jitter_ms == pytest.approx(0, abs=0.01)
    uneven = [(at + 0.01 * (i % 2), data) for i, (at, data) in enumerate(spoken(200))]
    assert heard(uneven).jitter_ms == pytest.approx(10, abs=1)


def test_a_new_source_begins_a_new_numbering_and_keeps_the_counts() -> None:
    other = Talker(8, sequence=30000)
    other.retune("PCMU", 0, 620)
    packets = spoken(60)
    packets += [(packets[-1][0] + (i + 1) * PACKET_S, other.next()) for i in range(60)]
    listener = heard([one for i, one in enumerate(packets) if i not in (5, 100)])
    assert (listener.sources, listener.packets, listener.lost) == (2, 118, 2)
    assert listener.hears(620)
    assert not listener.hears(440)


def test_a_pause_moves_the_timestamp_and_not_the_numbers() -> None:
    talker = Talker(7)
    first = parse(talker.next())
    talker.skip(50)
    second = parse(talker.next())
    assert (second.sequence - first.sequence, second.timestamp - first.timestamp) == (1, 51 * 160)
    assert second.marker


def test_a_pressed_key_is_heard_as_a_digit_and_costs_no_number() -> None:
    talker = Talker(7)
    listener = Listener()
    listener.expect_events(101)
    for i in range(100):
        if i in (20, 60):
            talker.press("5" if i == 20 else "#", 101)
        listener.hear(100 + i * PACKET_S, talker.next())
    assert listener.digits == "5#"
    assert (listener.packets, listener.lost) == (100, 0)


def test_what_is_no_rtp_is_foreign() -> None:
    listener = heard([(100.0, b""), (100.0, b"\x00" * 40), (100.0, b"\x90" + b"\0" * 11), *spoken(3)])
    assert (listener.foreign, listener.sources) == (3, 2)
    assert listener.samples().size == 480
    assert Listener().samples().size == 0


def test_an_agreed_silence_is_no_gap() -> None:
    packets = spoken(100)
    listener = heard(packets[:50])
    listener.excuse(packets[49][0] + 10)
    for at, data in packets[50:]:
        listener.hear(at + 10, data)
    assert listener.gap_ms_max == pytest.approx(20)
