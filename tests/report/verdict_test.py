"""Tests of report/verdict.py: intervals by hand and by SciPy, verdicts, single classes."""

import math

import numpy as np
import pytest
from scipy import stats

from cglo_jax.errors import UserError
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
    assert verdict.judge(low, high) == "no measurable difference"
    low, high = verdict.paired_difference([52.0] * 3, [50.0] * 3, 0.95, resolution=1.0)[
        1:
    ]
    assert verdict.judge(low, high) == "helped"


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
    assert verdict.judge(low, high) == want


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


# Single classes

# Right ones of 10, 20 and 50 test images, by seed
RIGHT = {
    "baseline": [(5, 10, 40), (6, 12, 40), (4, 11, 40)],
    "cglo": [(6, 10, 45), (7, 14, 44), (5, 6, 46)],
}
TESTED = (10, 20, 50)


def make_confusion(right):
    """Mistakes of a class are taken for the next."""
    rows = []
    for label, (n, k) in enumerate(zip(TESTED, right, strict=True)):
        pairs = [[label, label, k], [label, (label + 1) % 3, n - k]]
        rows += sorted(row for row in pairs if row[2])
    return rows


def make_results():
    return {
        method: {
            seed: {"confusion": make_confusion(right)}
            for seed, right in enumerate(seeds)
        }
        for method, seeds in RIGHT.items()
    }


def test_changes_are_paired_intervals_of_percentages():
    changes = verdict.compare_classes(make_results(), "cglo", 0.9)
    assert [c.label for c in changes] == [0, 2, 1]  # 10, 10 and -5 points
    for c in changes:
        base, ours = (
            np.array([100 * right[c.label] / TESTED[c.label] for right in RIGHT[m]])
            for m in ("baseline", "cglo")
        )
        assert c.tested == TESTED[c.label]
        assert (c.baseline, c.method) == pytest.approx((base.mean(), ours.mean()))
        assert c.mean == pytest.approx((ours - base).mean())
        if c.label:  # class 0: the same difference by every seed, see below
            want = stats.ttest_rel(ours, base).confidence_interval(0.9)
            assert (c.low, c.high) == pytest.approx((want.low, want.high))


def test_seeds_that_agree_have_half_an_image_of_the_class():
    change = verdict.compare_classes(make_results(), "cglo", 0.9)[0]
    half = stats.t.ppf(0.95, 2) * 5 / np.sqrt(3)  # an image is 10 points
    assert (change.low, change.high) == pytest.approx((10 - half, 10 + half))


def test_what_survives_excludes_0_at_the_confidence_for_all_classes():
    # 90% for three classes: 96.67% each
    assert verdict._adjust_confidence(0.9, 3) == pytest.approx(1 - 0.1 / 3)
    for c in verdict.compare_classes(make_results(), "cglo", 0.9):
        right = [[s[c.label] for s in RIGHT[m]] for m in ("cglo", "baseline")]
        if c.label:
            p = stats.ttest_rel(*right).pvalue
            assert c.excludes_zero == (p < 0.1)
            assert c.survives == (p < 0.1 / 3)
    found = {
        c.label: (c.excludes_zero, c.survives)
        for c in verdict.compare_classes(make_results(), "cglo", 0.9)
    }
    assert found == {0: (True, False), 1: (False, False), 2: (True, True)}


def test_one_seed_has_no_interval_and_nothing_survives():
    results = {m: {0: runs[0]} for m, runs in make_results().items()}
    for c in verdict.compare_classes(results, "cglo", 0.9):
        assert (c.low, c.high) == (None, None)
        assert not c.excludes_zero
        assert not c.survives


def test_only_shared_seeds_are_paired():
    results = make_results()
    del results["baseline"][1]
    assert verdict.shared_seeds(results, "cglo") == [0, 2]
    changes = verdict.compare_classes(results, "cglo", 0.9)
    assert {c.label: c.baseline for c in changes}[1] == pytest.approx(52.5)


def test_classes_without_test_images_are_left_out():
    results = make_results()
    for runs in results.values():
        for seed, result in runs.items():
            rows = [row for row in result["confusion"] if row[0] != 1]
            runs[seed] = {"confusion": rows}
    changes = verdict.compare_classes(results, "cglo", 0.9)
    assert [c.label for c in changes] == [0, 2]


def test_results_on_other_test_images_are_named():
    results = make_results()
    results["cglo"][2]["confusion"][0][2] += 1
    with pytest.raises(UserError, match=r"classifiers/cglo-2 was tested on other"):
        verdict.compare_classes(results, "cglo", 0.9)


def test_confusions_are_summed_over_seeds():
    pairs = verdict.sum_confusion(make_results(), "baseline", [0, 2])
    assert dict(pairs) == {
        (0, 0): 9, (0, 1): 11, (1, 1): 21, (1, 2): 19, (2, 2): 80, (2, 0): 20
    }  # fmt: skip


def test_the_most_confused_pairs_are_those_of_both_together():
    a = verdict.Confusion({(0, 0): 99, (0, 1): 5, (1, 0): 4, (2, 1): 3})
    b = verdict.Confusion({(1, 0): 2, (2, 1): 3, (3, 1): 1})
    assert verdict.most_confused(a, b, 3) == [(1, 0), (2, 1), (0, 1)]
