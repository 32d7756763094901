"""Tests of report/per_class.py: what the page says of single classes, few and many."""

import pytest

from cglo_jax.report import per_class
from tests.helpers.report_workdir import NAMES, TESTED, make_config, make_result

FLAT = {"report.confidence": 0.95}


def make_results(right, tested=TESTED, names=NAMES, methods=("baseline", "cglo")):
    """Results by method and seed of `right` [method][seed][class]; mistakes are of the next class."""
    n, config = len(names), make_config()
    results = {}
    for method in methods:
        results[method] = {}
        for seed, of_classes in enumerate(right[method]):
            rows = []
            for k, (r, t) in enumerate(zip(of_classes, tested, strict=True)):
                pairs = [[k, k, r], [k, (k + 1) % n, t - r]]
                rows += sorted(row for row in pairs if row[2])
            result = make_result(config, method, seed, 50.0, confusion=rows)
            result["dataset"]["class_names"] = list(names)
            results[method][seed] = result
    return results


def spread(base, *differences):
    """Right ones by seed: those of `base`, plus a difference for each seed."""
    return [[b + d for b in base] for d in differences]


HALF = [t // 2 for t in TESTED]
SAME = {"baseline": [HALF] * 3, "cglo": spread(HALF, 0, 3, -3)}
FIRST_ROSE = {
    "baseline": [HALF] * 3,
    "cglo": [[h + d + 25 * (k == 0) for k, h in enumerate(HALF)] for d in (0, 1, -1)],
}


def texts(section):
    return " ".join(b.text for b in section.content if b.kind == "text")


def test_by_chance_is_said_and_no_class_is_marked():
    section = per_class.changes(make_results(SAME), FLAT)
    assert "0 of 6 intervals exclude 0; at most about 0.3 would if nothing" in texts(
        section
    )
    assert "none excludes 0: there is no evidence that any single class" in texts(
        section
    )
    [chart] = [b for b in section.content if b.kind == "intervals"]
    assert len(chart.rows) == 6
    assert {row.note for row in chart.rows} == {""}


def test_the_class_that_survives_is_marked():
    section = per_class.changes(make_results(FIRST_ROSE), FLAT)
    assert "1 of 6 intervals excludes 0" in texts(section)
    assert f"one still excludes 0, that of class {NAMES[0]}." in texts(section)
    [chart] = [b for b in section.content if b.kind == "intervals"]
    assert [row.note for row in chart.rows] == ["rose", *[""] * 5]
    [table] = [b for b in section.content if b.kind == "table"]
    # 25 of 70 test images; 35 of them were right before
    assert table.rows[0][:5] == ["plain", "70", "50.00", "85.71", "+35.71"]
    assert table.rows[0][-1] == "rose"


def test_a_class_that_fell_is_marked():
    swapped = {"baseline": FIRST_ROSE["cglo"], "cglo": FIRST_ROSE["baseline"]}
    section = per_class.changes(make_results(swapped), FLAT)
    [chart] = [b for b in section.content if b.kind == "intervals"]
    assert chart.rows[-1].note == "fell"
    assert chart.rows[-1].name == "plain"


def test_one_seed_has_no_intervals():
    one = {method: right[:1] for method, right in SAME.items()}
    section = per_class.changes(make_results(one), FLAT)
    assert "With one seed there is no interval" in texts(section)
    assert "Bonferroni" not in texts(section)


def test_intervals_of_no_information_are_said():
    two = {"baseline": [HALF] * 2, "cglo": spread(HALF, 20, -20)}
    text = texts(per_class.changes(make_results(two), FLAT))
    assert "Of the intervals, 6 go beyond ±100 points" in text
    assert "beyond ±100" not in texts(per_class.changes(make_results(SAME), FLAT))


MANY = [f"class {k}" for k in range(30)]
BASE = [50] * 30
GROWING = {
    "baseline": [BASE] * 2,
    "cglo": [[b + k - 15 for k, b in enumerate(BASE)]] * 2,
}


def test_of_many_classes_the_extremes_are_drawn():
    results = make_results(GROWING, [100] * 30, MANY)
    section = per_class.changes(results, FLAT)
    best, worst = (b for b in section.content if b.kind == "intervals")
    assert [row.name for row in best.rows] == [f"class {k}" for k in range(29, 19, -1)]
    assert [row.name for row in worst.rows] == [f"class {k}" for k in range(9, -1, -1)]
    assert best.axis == worst.axis
    assert "the largest changes are partly chance" in texts(section)
    [table] = [b for b in section.content if b.kind == "table"]
    assert table.folded
    assert [row[0] for row in table.rows] == [f"class {k}" for k in range(29, -1, -1)]


@pytest.mark.parametrize(("n", "charts"), [(20, 1), (21, 2)])
def test_up_to_20_classes_are_drawn_one_by_one(n, charts):
    right = {"baseline": [BASE[:n]] * 2, "cglo": [BASE[:n]] * 2}
    results = make_results(right, [100] * n, MANY[:n])
    kinds = [b.kind for b in per_class.changes(results, FLAT).content]
    assert kinds.count("intervals") == charts
    kinds = [b.kind for b in per_class.confusions(results).content]
    assert ("heat" in kinds) == (charts == 1)


def test_confusions_stand_side_by_side():
    [heat] = [
        b for b in per_class.confusions(make_results(SAME)).content if b.kind == "heat"
    ]
    base, cglo = heat.maps
    assert base.caption == "baseline, summed over 3 seeds"
    assert base.counts[0] == [105, 105, 0, 0, 0, 0]
    assert base.counts[5] == [75, 0, 0, 0, 0, 75]
    assert cglo.counts[0] == [105, 105, 0, 0, 0, 0]  # 0, +3 and -3
    assert base.table.rows[0] == ["plain", "105", "105", "0", "0", "0", "0"]


@pytest.mark.parametrize(
    ("count", "level"), [(0, 0), (1, 1), (20, 1), (21, 2), (51, 3), (101, 4), (201, 5)]
)
def test_shades_are_percentages_of_the_class(count, level):
    assert per_class._level(count, 1000) == level
    names = per_class._shade_names()
    assert names == ["0-2%", "2-5%", "5-10%", "10-20%", "over 20%"]


def test_of_many_classes_the_most_confused_are_listed():
    results = make_results(GROWING, [100] * 30, MANY)
    [table] = [b for b in per_class.confusions(results).content if b.kind == "table"]
    assert len(table.rows) == 15
    # Of two times 100 images: 100 wrong before, 130 now
    assert table.rows[0] == ["class 0", "class 1", "100", "130", "+30", "200"]
    assert table.header[2:4] == ["baseline", "cglo"]


def test_further_methods_are_folded():
    right = {**SAME, "cutout": SAME["cglo"]}
    results = make_results(right, methods=("baseline", "cglo", "cutout"))
    for section in (
        per_class.changes(results, FLAT),
        per_class.confusions(results),
    ):
        [folded] = [b for b in section.content if b.kind == "folded"]
        assert "cutout" in folded.summary
        assert folded.blocks


def test_a_baseline_alone_is_not_compared():
    results = make_results(SAME, methods=("baseline",))
    [block] = per_class.changes(results, FLAT).content
    assert block.text == "There is nothing to compare."
