"""Tests of report/classes.py: counts and intervals of single classes, by hand and by SciPy."""

import numpy as np
import pytest
from scipy import stats

from cglo_jax.errors import UserError
from cglo_jax.report import classes

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
    changes = classes.compare_classes(make_results(), "cglo", 0.9)
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
    change = classes.compare_classes(make_results(), "cglo", 0.9)[0]
    half = stats.t.ppf(0.95, 2) * 5 / np.sqrt(3)  # an image is 10 points
    assert (change.low, change.high) == pytest.approx((10 - half, 10 + half))


def test_what_survives_excludes_0_at_the_confidence_for_all_classes():
    # 90% for three classes: 96.67% each
    assert classes.adjust_confidence(0.9, 3) == pytest.approx(1 - 0.1 / 3)
    for c in classes.compare_classes(make_results(), "cglo", 0.9):
        right = [[s[c.label] for s in RIGHT[m]] for m in ("cglo", "baseline")]
        if c.label:
            p = stats.ttest_rel(*right).pvalue
            assert c.excludes_zero == (p < 0.1)
            assert c.survives == (p < 0.1 / 3)
    found = {
        c.label: (c.excludes_zero, c.survives)
        for c in classes.compare_classes(make_results(), "cglo", 0.9)
    }
    assert found == {0: (True, False), 1: (False, False), 2: (True, True)}


def test_one_seed_has_no_interval_and_nothing_survives():
    results = {m: {0: runs[0]} for m, runs in make_results().items()}
    for c in classes.compare_classes(results, "cglo", 0.9):
        assert (c.low, c.high) == (None, None)
        assert not c.excludes_zero
        assert not c.survives


def test_only_shared_seeds_are_paired():
    results = make_results()
    del results["baseline"][1]
    assert classes.shared_seeds(results, "cglo") == [0, 2]
    changes = classes.compare_classes(results, "cglo", 0.9)
    assert {c.label: c.baseline for c in changes}[1] == pytest.approx(52.5)


def test_classes_without_test_images_are_left_out():
    results = make_results()
    for runs in results.values():
        for seed, result in runs.items():
            rows = [row for row in result["confusion"] if row[0] != 1]
            runs[seed] = {"confusion": rows}
    changes = classes.compare_classes(results, "cglo", 0.9)
    assert [c.label for c in changes] == [0, 2]


def test_results_on_other_test_images_are_named():
    results = make_results()
    results["cglo"][2]["confusion"][0][2] += 1
    with pytest.raises(UserError, match=r"classifiers/cglo-2 was tested on other"):
        classes.compare_classes(results, "cglo", 0.9)


def test_confusions_are_summed_over_seeds():
    pairs = classes.sum_confusion(make_results(), "baseline", [0, 2])
    assert dict(pairs) == {
        (0, 0): 9, (0, 1): 11, (1, 1): 21, (1, 2): 19, (2, 2): 80, (2, 0): 20
    }  # fmt: skip


def test_the_most_confused_pairs_are_those_of_both_together():
    a = classes.Pairs({(0, 0): 99, (0, 1): 5, (1, 0): 4, (2, 1): 3})
    b = classes.Pairs({(1, 0): 2, (2, 1): 3, (3, 1): 1})
    assert classes.most_confused(a, b, 3) == [(1, 0), (2, 1), (0, 1)]


def test_results_without_counts_are_named():
    results = make_results()
    results["cglo"][1]["confusion"] = []
    assert classes.uncounted(results) == ["classifiers/cglo-1"]
