"""How calls sounded, reckoned from the final counters of their sides."""

import pytest

from warden.core.histogram import Histogram
from warden.media.protocol import SideStats
from warden.media.quality import PACKETS_MIN, Quality


def count(histogram: Histogram) -> int:
    return sum(histogram.counts)


def score(**counters: float) -> float:
    """The mean opinion score of one side that sent a thousand packets."""
    quality = Quality()
    quality.note(SideStats(port=1, packets=1000, **counters))  # type: ignore[arg-type]
    return quality.mos.total


def test_a_side_that_came_through_whole_has_the_best_score_there_is() -> None:
    assert score() == pytest.approx(4.41, abs=0.01)


def test_the_score_never_rises_when_something_gets_worse() -> None:
    for worse in (
        [score(lost=n * 10) for n in range(60)],
        [score(jitter_ms=n * 5) for n in range(60)],
        [score(rtt_ms=n * 20) for n in range(60)],
    ):
        assert worse == sorted(worse, reverse=True)
        assert worse[0] > 4.3
        assert 1.0 <= worse[-1] < 3.5, "what alerts look for can be reached"


def test_each_side_that_spoke_is_counted_once_and_one_that_hardly_did_is_not() -> None:
    quality = Quality()
    quality.note(SideStats(port=1, packets=900, lost=100, jitter_ms=60.0, rtt_ms=400.0))
    quality.note(SideStats(port=2, packets=PACKETS_MIN - 1, lost=50, jitter_ms=200.0))
    assert quality.loss.total == pytest.approx(0.1)
    assert quality.jitter_s.total == pytest.approx(0.06)
    assert quality.round_trip_s.total == pytest.approx(0.4)
    assert [count(h) for h in (quality.loss, quality.jitter_s, quality.round_trip_s, quality.mos)] == [1, 1, 1, 1]


def test_duplicates_are_no_loss_and_a_phone_without_rtcp_has_no_round_trip() -> None:
    quality = Quality()
    quality.note(SideStats(port=1, packets=500, lost=-20, jitter_ms=1.0))
    assert (quality.loss.total, count(quality.loss)) == (0.0, 1)
    assert count(quality.round_trip_s) == 0
    assert quality.mos.total > 4.3
