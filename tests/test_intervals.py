"""Intervals hold the truth as often as they say, whatever varies: pictures, trainings, clips."""

import numpy as np
import pytest
from scipy import stats

from icm_helpers.intervals import Interval, holm, of_clips, of_pictures, of_signs, of_trainings, widened

DRAWS = np.random.default_rng(0).normal(size=20_000)


def test_of_replicates_without_bias_or_skewness_the_ends_are_their_percentiles():
    interval = of_pictures(3.0, 3 + 2 * DRAWS)
    assert (interval.low, interval.high) == pytest.approx((3 - 2 * 1.96, 3 + 2 * 1.96), abs=0.1)
    assert interval.p == pytest.approx(2 * stats.norm.sf(1.5), abs=0.02)


def test_replicates_that_lie_beside_the_value_are_moved_back_past_it():
    interval = of_pictures(3.0, 3.5 + DRAWS)
    assert (interval.low, interval.high) == pytest.approx((2.5 - 1.96, 2.5 + 1.96), abs=0.15)


def test_where_the_bias_leaves_no_replicate_beyond_an_end_plain_and_mirrored_percentiles_are_joined():
    interval = of_pictures(0.0, np.linspace(1, 2, 200))
    assert (interval.low, interval.high) == pytest.approx((-1.975, 1.975))
    still = of_pictures(1.0, np.ones(200))
    assert (still.low, still.high, still.defined) == (1, 1, 1)


def test_what_is_undefined_in_replicates_is_left_out_and_counted():
    assert of_pictures(0.0, np.r_[DRAWS[:150], np.full(50, np.nan)]).defined == 0.75
    nothing = of_pictures(float("nan"), DRAWS)
    assert np.isnan([nothing.value, nothing.low, nothing.high, nothing.p]).all()


@pytest.mark.parametrize("trainings", [2, 3])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 2.0, 20.0])
def test_two_or_three_trainings_cover_the_truth_whatever_share_of_the_chance_is_theirs(trainings, ratio):
    """Pictures have a standard deviation of one, trainings one of `ratio`; the truth is zero."""
    rng, trials = np.random.default_rng(1), 1500
    values = rng.normal(size=(trials, 1)) + ratio * rng.normal(size=(trials, trainings))
    half = stats.norm.ppf(0.975)
    pictures = [Interval(m, m - half, m + half) for m in values.mean(1)]
    found = [of_trainings(one, each) for one, each in zip(pictures, values, strict=True)]
    covered = np.mean([i.low < 0 < i.high for i in found])
    assert 0.95 - 2.6 * np.sqrt(0.95 * 0.05 / trials) < covered < 0.995
    assert np.mean([i.p > 0.05 for i in found]) == covered  # p and interval say the same
    if ratio == 20:
        assert np.mean([i.low < 0 < i.high for i in pictures]) < 0.2  # what pictures alone would promise


def test_trainings_that_do_not_differ_leave_the_interval_over_pictures():
    pictures = Interval(-17.0, -24.0, -9.0)
    same = of_trainings(pictures, [-17.0, -17.0, -17.0])
    assert (same.low, same.high, same.trainings) == (pytest.approx(-24), pytest.approx(-9), 3)


def test_one_training_is_as_it_is_until_others_lend_it_their_spread():
    pictures = Interval(-17.0, -24.0, -9.0)
    one = of_trainings(pictures, [-17.0])
    assert (one.low, one.high, one.trainings) == (-24, -9, 1) and np.isnan(one.spread)
    lent = widened(one, 3.0, df=2)
    reach = stats.t.ppf(0.975, 2) * 3
    assert (lent.low, lent.high) == pytest.approx((-17 - np.hypot(7, reach), -17 + np.hypot(8, reach)))


def test_a_training_without_a_value_leaves_no_interval():
    broken = of_trainings(Interval(-17.0, -24.0, -9.0), [-16.0, float("nan")])
    assert broken.value == -17 and np.isnan([broken.low, broken.high]).all()


def test_over_clips_the_interval_is_the_t_interval():
    drops = [-0.0035, 0.0042, -0.0034, -0.0227, -0.0113, -0.0046]
    interval, test = of_clips(drops), stats.ttest_1samp(drops, 0)
    expected = test.confidence_interval()
    assert (interval.low, interval.high, interval.p) == pytest.approx((expected.low, expected.high, test.pvalue))
    assert interval.low == pytest.approx(-0.0165, abs=1e-4) and interval.p == pytest.approx(0.13, abs=0.01)
    assert np.isnan(of_clips([0.1]).low)


def test_of_signs_only_six_of_six_clips_show_that_most_are_above():
    sixth, fifth = of_signs([1, 2, 3, 4, 5, 6]), of_signs([1, 2, 3, 4, 5, -6])
    assert (sixth.value, sixth.p) == (0.5, pytest.approx(2 / 64)) and sixth.low > 0 > fifth.low
    assert of_signs([1.0, -2.0, 0.0]).value == 0  # a tie says nothing
    assert np.isnan(of_signs([0.0, 0.0]).value) and np.isnan(of_signs([1.0, float("nan")]).value)


def test_the_interval_that_ends_at_zero_has_p_of_a_twentieth():
    for interval in (Interval(5.0, 2.0, 9.0, trainings=3), Interval(-5.0, -8.0, -1.0, trainings=2)):
        near = widened(interval, 1.0, interval.trainings - 1)
        moved = near.value - (near.low if near.value > 0 else near.high)
        shifted = Interval(moved, moved + near.low - near.value, moved + near.high - near.value)
        assert shifted.low == pytest.approx(0, abs=1e-9) or shifted.high == pytest.approx(0, abs=1e-9)
        inner = Interval(moved, moved + interval.low - interval.value, moved + interval.high - interval.value)
        again = widened(
            Interval(inner.value, inner.low, inner.high, trainings=interval.trainings), 1.0, interval.trainings - 1
        )
        assert again.p == pytest.approx(0.05, abs=1e-6)


def test_holm_multiplies_the_smallest_by_all_and_never_lets_order_change():
    assert holm([0.01, 0.02, 0.04]) == pytest.approx([0.03, 0.04, 0.04])
    assert np.isnan(holm([0.01, float("nan")])[1]) and holm([0.01, float("nan")])[0] == pytest.approx(0.01)
    assert list(holm([])) == []


def test_one_far_replicate_does_not_close_the_interval():
    for far in (40.0, -90.0):
        interval = of_pictures(-8.0, np.array([far, *(-8 + 4 * DRAWS[:199])]))
        assert interval.low < -14 and interval.high > -2 and interval.p > 0.01


def test_a_value_without_ends_is_widened_by_nothing():
    assert np.isnan(of_trainings(Interval(-5.0, np.nan, np.nan), [-4.0, -6.0]).low)


def test_what_was_not_tested_makes_holm_no_stricter():
    for p in np.random.default_rng(0).uniform(size=(100, 5)):
        assert (holm([*p[1:], float("nan")])[:4] <= holm([*p[1:], p[0]])[:4]).all()


@pytest.mark.parametrize(
    "ends, told",
    [
        ((-9.236, -18.17, -0.482), "-9.2 [-18.2, -0.5]"),
        ((0.0181, -0.0413, 0.0772), "+0.018 [-0.041, +0.077]"),
        ((212.4, 40.0, 380.0), "+212 [+40, +380]"),
        ((-20.0, -20.0, -20.0), "-20.00 [-20.00, -20.00]"),
        ((-20.25, np.nan, np.nan), "-20.2"),
        ((np.nan, np.nan, np.nan), "no overlap"),
    ],
)
def test_value_and_ends_are_written_with_equal_decimals(ends, told):
    assert str(Interval(*ends)) == told
