"""The E-model gives what the recommendation's own tables give."""

import pytest

from warden.rtp.emodel import BEST, mos_of, rating_of


@pytest.mark.parametrize(("rating", "mos"), [(90, 4.34), (80, 4.03), (70, 3.60), (60, 3.10), (50, 2.58), (BEST, 4.41)])
def test_ratings_become_the_scores_of_g107_annex_b(rating: float, mos: float) -> None:
    assert mos_of(rating) == pytest.approx(mos, abs=0.01)


def test_scores_stay_between_one_and_four_and_a_half() -> None:
    assert mos_of(-5) == mos_of(0) == mos_of(3) == 1.0
    assert mos_of(100) == mos_of(120) == 4.5


def test_loss_and_delay_cost_and_a_delay_that_nobody_notices_does_not() -> None:
    assert rating_of(0.0) == rating_of(0.0, 100.0) == BEST
    # Ie,eff = 95 * 1 / (1 + 25.1) for one percent; half of 95 where as much is lost as the codec is robust against.
    assert rating_of(0.01) == pytest.approx(BEST - 3.64, abs=0.01)
    assert rating_of(0.251) == pytest.approx(BEST - 47.5, abs=0.01)
    # X = 1 for 200 ms: 25 * (2^(1/6) - 3 * (1 + 3^-6)^(1/6) + 2).
    assert BEST - rating_of(0.0, 200.0) == pytest.approx(3.04, abs=0.01)
    assert rating_of(1.0, 2_000.0) == 0.0
