"""Key presses in RFC 4733 events: each once, whatever is lost, doubled or late."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warden.core.errors import MalformedMessage
from warden.rtp import dtmf
from warden.rtp.dtmf import DIGITS, Event, Keys, Press


def pressed(keys: Keys, timestamp: int, payloads: tuple[bytes, ...]) -> list[Press]:
    return [press for payload in payloads for press in keys.receive(timestamp, dtmf.parse(payload))]


@given(st.integers(0, 255), st.booleans(), st.integers(0, 63), st.integers(0, 0xFFFF))
def test_printed_event_reads_as_it_was(code: int, end: bool, volume: int, duration: int) -> None:
    event = Event(code, end, volume, duration)
    assert dtmf.parse(dtmf.build(event)) == event


@pytest.mark.parametrize("digit", DIGITS)
def test_every_key_is_told_once_with_its_length(digit: str) -> None:
    keys = Keys()
    assert pressed(keys, 1000, dtmf.encode(digit, 800)) == [Press(digit, 800)]
    assert pressed(keys, 9000, dtmf.encode(digit, 400)) == [Press(digit, 400)]


def test_press_is_sent_every_20_ms_and_its_end_three_times() -> None:
    events = [dtmf.parse(payload) for payload in dtmf.encode("5", 640)]
    assert [(e.duration, e.end) for e in events] == [(160, False), (320, False), (480, False)] + [(640, True)] * 3


@given(st.integers(0, 0xFFFFFFFF), st.lists(st.booleans(), min_size=12, max_size=12))
def test_press_is_told_once_if_any_of_its_packets_comes(timestamp: int, comes: list[bool]) -> None:
    keys = Keys()
    payloads = tuple(p for p, here in zip(dtmf.encode("9", 1600), comes, strict=True) if here)
    told = pressed(keys, timestamp, payloads)
    told += keys.voice((timestamp + 2400) & 0xFFFFFFFF)
    told += keys.voice((timestamp + 2560) & 0xFFFFFFFF)
    assert [press.digit for press in told] == ["9"] * any(comes)


def test_next_press_ends_the_one_whose_end_was_lost() -> None:
    keys = Keys()
    assert pressed(keys, 0, dtmf.encode("1", 800)[:3]) == []
    assert pressed(keys, 4000, dtmf.encode("2", 800)) == [Press("1", 480), Press("2", 800)]


def test_late_packet_of_an_earlier_press_is_not_another() -> None:
    keys = Keys()
    assert pressed(keys, 0xFFFFFF00, dtmf.encode("1", 800)) == [Press("1", 800)]
    assert pressed(keys, 4000, dtmf.encode("2", 800)) == [Press("2", 800)]
    assert pressed(keys, 0xFFFFFF00, dtmf.encode("1", 800)) == []


def test_audio_of_the_same_time_does_not_end_a_press() -> None:
    keys = Keys()
    assert pressed(keys, 8000, dtmf.encode("1", 800)[:3]) == []
    assert keys.voice(7840) == ()
    assert keys.voice(8480) == ()
    assert pressed(keys, 8000, dtmf.encode("1", 800)[3:]) == [Press("1", 800)]


def test_long_press_in_segments_is_one_press() -> None:
    keys = Keys()
    long = dtmf.build(Event(3, end=False, volume=10, duration=0xFFFF))
    assert pressed(keys, 1000, (long,)) == []
    assert [p.digit for p in pressed(keys, 1000 + 0xFFFF, dtmf.encode("3", 800))] == ["3"]
    assert keys.close() == ()


def test_flash_is_no_key() -> None:
    assert Keys().receive(0, Event(16, end=True, volume=0, duration=400)) == ()


def test_payload_that_is_cut_off_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        dtmf.parse(b"\x01\x8a\x03")


@pytest.mark.parametrize("wrong", ["", "12", "E", "x"])
def test_what_is_no_key_is_not_sent(wrong: str) -> None:
    with pytest.raises(ValueError, match="no key"):
        dtmf.encode(wrong, 800)


def test_press_that_does_not_fit_its_field_is_not_sent() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        dtmf.encode("1", 70_000, step=8000)
