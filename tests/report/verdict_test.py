"""Tests of report/verdict.py: intervals by hand and by SciPy, and what they allow to say."""

import math

import numpy as np
import pytest
from scipy import stats

from cglo_jax.report import verdict


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_interval_is_scipys(n, confidence):
    rng = np.random.default_rng(n)
    a, b = rng.normal(50, 3, n), rng.normal(48, 3, n)
    mean, low, high = verdict.paired_difference(a, b, confidence)
    want = stats.ttest_rel(a, b).confidence_interval(confidence)
    np.testing.assert_allclose([mean, low, high], [np.mean(a - b), want.low, want.high])


def test_one_seed_has_no_interval():
    assert verdict.paired_difference([3.0], [1.0], 0.95) == (2.0, None, None)


def test_seeds_that_agree_get_half_a_test_image():
    # 3 seeds, each one image of 100 better: 1 +- t(2, .975) * 0.5 / sqrt(3), t = 4.3026527
    low, high = verdict.paired_difference([51.0] * 3, [50.0] * 3, 0.95, resolution=1.0)[
        1:
    ]
    half = 4.302652729911275 * 0.5 / math.sqrt(3)
    assert (low, high) == pytest.approx((1 - half, 1 + half))
    assert verdict.verdict(low, high) == "no measurable difference"
    low, high = verdict.paired_difference([52.0] * 3, [50.0] * 3, 0.95, resolution=1.0)[
        1:
    ]
    assert verdict.verdict(low, high) == "helped"


def test_a_wider_spread_is_left_alone():
    a, b = [50.0, 53.0, 55.0], [50.0, 50.0, 50.0]
    with_resolution = verdict.paired_difference(a, b, 0.95, resolution=1.0)
    assert with_resolution == verdict.paired_difference(a, b, 0.95)


def test_pairs_must_match():
    with pytest.raises(ValueError):
        verdict.paired_difference([1.0, 2.0], [1.0], 0.95)


@pytest.mark.parametrize(
    ("low", "high", "want"),
    [
        (0.01, 2.0, "helped"),
        (0.0, 2.0, "no measurable difference"),
        (-1.0, 1.0, "no measurable difference"),
        (-2.0, 0.0, "no measurable difference"),
        (-2.0, -0.01, "hurt"),
        (None, None, "no verdict from one seed"),
    ],
)
def test_verdict_says_what_the_interval_carries(low, high, want):
    assert verdict.verdict(low, high) == want


def test_standard_error_by_hand():
    # mean 3, squared deviations 4 + 0 + 4 = 8, / (3 - 1) = 4, root 2, / sqrt(3)
    assert verdict.standard_error([1.0, 3.0, 5.0]) == pytest.approx(2 / math.sqrt(3))
    assert verdict.standard_error([1.0]) is None


def test_seeds_that_both_have_are_compared():
    top1 = {
        "baseline": {0: 80.0, 2: 79.5},
        "cglo": {0: 83.25, 1: 84.0, 2: 83.75},
        "pixelmix": {1: 84.0},
    }
    results = {
        method: {seed: {"top1": x, "n_test": 400} for seed, x in runs.items()}
        for method, runs in top1.items()
    }
    comparison = verdict.compare(results, "cglo", 0.95)
    assert comparison.seeds == [0, 2]
    assert comparison.differences == [3.25, 4.25]
    assert verdict.compare(results, "pixelmix", 0.95) is None


def test_an_accuracy_of_few_images_is_not_exact_where_all_are_right():
    # by hand: 6 of 6 count as 8 of 10
    assert verdict.accuracy_error(100.0, 6) == pytest.approx(
        100 * (0.8 * 0.2 / 10) ** 0.5
    )
    none, every = (verdict.accuracy_error(p, 6) for p in (0.0, 100.0))
    assert none == pytest.approx(every)
    assert verdict.accuracy_error(50.0, 9996) == pytest.approx(0.5)
