"""How long things took, in buckets."""

from warden.core.histogram import Histogram


def test_what_is_as_long_as_a_bound_is_counted_below_it_and_what_is_longer_than_all_above() -> None:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.0, 0.1, 0.5, 1.0, 7.0):
        histogram.observe(seconds)
    assert histogram.buckets() == [("0.1", 2.0), ("1.0", 4.0), ("+Inf", 5.0)]
    assert histogram.total == 8.6


def test_what_one_has_counted_is_another_ones_afterwards() -> None:
    one, other = Histogram((1.0,)), Histogram((1.0,))
    one.observe(0.5)
    other.observe(2.0)
    one.drain(other)
    assert (one.counts, one.total) == ([1, 1], 2.5)
    assert (other.counts, other.total) == ([0, 0], 0.0)
