"""Tests of report/svg.py: marks and lines where the values are, readable and described in words."""

import math
import re
import xml.etree.ElementTree

import numpy as np
import pytest

from cglo_jax.report import figures, svg
from cglo_jax.report.svg import Interval, Scale, choose_scale, draw_intervals

SVG = "{http://www.w3.org/2000/svg}"

# Intervals

SCALE = Scale(-10.0, 10.0, (-10.0, 0.0, 10.0))


def draw(interval, scale=SCALE):
    [row] = draw_intervals("a", "b", [interval], 0.95, scale).rows
    return xml.etree.ElementTree.fromstring(row.drawing)


def place(element, name):
    return float(element.get(name).removesuffix("%"))


def find(drawing, name):
    """Elements of a class; of shapes the drawing they are in, which has their place."""
    return [
        (parent, child)
        for parent in drawing.iter()
        for child in parent
        if name in child.get("class", "").split()
    ]


def test_everything_is_where_its_value_is():
    drawing = draw(Interval("x", 5.0, -10.0, 0.0, single=(2.5,)))
    [(_, bar)] = find(drawing, "bar")
    assert (place(bar, "x1"), place(bar, "x2")) == (4, 50)  # 4 percent are left free
    [(mark, _)] = find(drawing, "mark")
    assert place(mark, "x") == 4 + 92 * 0.75
    [(ring, _)] = find(drawing, "ring")
    assert place(ring, "x") == 4 + 92 * 0.625
    [(_, zero)] = find(drawing, "zero")
    assert place(zero, "x1") == place(zero, "x2") == 50


def test_marks_differ_in_shape_not_only_in_color():
    paths = {
        mark: find(draw(Interval("x", 1.0, 0.5, 2.0, mark)), "mark")[0][1].get("d")
        for mark in ("helped", "hurt", "none")
    }
    assert len(set(paths.values())) == 3


def test_what_goes_on_ends_with_an_arrow():
    shapes = [p.get("d") for _, p in find(draw(Interval("x", 0, -150, 5)), "end")]
    assert [path.count("L") for path in shapes] == [2, 0]  # an arrow and a stroke
    [(_, bar)] = find(draw(Interval("x", 0, -150, 5)), "bar")
    assert place(bar, "x1") == 4


def test_one_value_has_no_bar():
    drawing = draw(Interval("x", 5.0, None, None))
    assert not find(drawing, "bar")
    chart = draw_intervals("a", "b", [Interval("x", 5.0, None, None)], 0.95)
    assert chart.rows[0].interval == chart.header[2] == ""
    assert "bar" not in chart.legend


def test_numbers_stand_beside():
    chart = draw_intervals("a", "b", [Interval("x", -1e-9, -2.346, 2.0, note="n")], 0.9)
    [row] = chart.rows
    assert (row.name, row.mean, row.note) == ("x", "0.00", "n")
    assert row.interval == "-2.35 to +2.00"
    assert chart.header == ("b", "Points", "90% interval")


@pytest.mark.parametrize(
    ("interval", "low", "high"),
    [
        (Interval("x", 3.0, 1.0, 7.0), 0, 8),
        (Interval("x", -3.0, -7.5, -1.0), -8, 0),
        (Interval("x", 1.0, -400.0, 500.0), -100, 100),
        (Interval("x", 0.0, None, None), -1, 1),
        (Interval("x", 1.0, 0.5, 1.5, single=(9.0,)), 0, 10),
    ],
)
def test_a_scale_has_0_and_all_values_within_100(interval, low, high):
    scale = choose_scale([interval])
    assert (scale.low, scale.high) == (low, high)
    assert 0 in scale.ticks


def test_the_axis_names_its_places():
    axis = draw_intervals("a", "b", [Interval("x", 1.0, -5, 9)], 0.95, SCALE).axis
    texts = xml.etree.ElementTree.fromstring(axis).iter("text")
    found = [(place(t, "x"), t.text) for t in texts]
    assert found == [(4, "-10"), (50, "0"), (96, "+10")]


def test_the_legend_explains_the_marks_that_are_there():
    lines = [Interval("x", 1.0, 0.5, 2.0, "helped"), Interval("y", 1.0, -0.5, 2.0)]
    legend = draw_intervals("a", "b", lines, 0.95).legend
    assert "points up: mean, clearly higher" in legend
    assert not re.search("down|rings|arrow", legend)


# Learning curves


def make_records():
    for seed in (0, 1):
        for step in (300, 100, 200):
            common = {"seed": seed, "step": step}
            yield {
                "stage": "train",
                **common,
                "reconstruction": 1 / step,
                "cross_entropy": 2.0,
            }
            for method in ("baseline", "cglo"):
                values = {"loss": 3.0 + seed, "train_accuracy": step / 3}
                yield {"stage": "classify", "method": method, **common, **values}


def polylines(drawing):
    for line in xml.etree.ElementTree.fromstring(drawing).iter(f"{SVG}polyline"):
        yield (
            line,
            [tuple(map(float, p.split(","))) for p in line.get("points").split()],
        )


def test_curves_have_a_line_per_method_and_seed():
    drawn = svg.draw_curves(make_records())
    assert [len(list(polylines(drawing))) for drawing in drawn.values()] == [2, 2, 4, 4]
    styles = [line.get("style") for line, _ in polylines(list(drawn.values())[2])]
    assert [styles.count(s) for s in dict.fromkeys(styles)] == [2, 2]


def test_curves_are_where_the_values_are():
    drawing = svg.draw_curves(make_records())["Classifier: training accuracy (%)"]
    left, top, right, bottom = svg._FRAME
    for _, points in polylines(drawing):
        # steps 100, 200, 300 of 300; values 33.3, 66.7, 100 on an axis from 0 to 100
        wanted = [
            (left + (right - left) * f, bottom - (bottom - top) * f)
            for f in (1 / 3, 2 / 3, 1)
        ]
        np.testing.assert_allclose(points, wanted, atol=0.051)


def test_curves_stay_inside_and_readable_at_320_pixels():
    for drawing in svg.draw_curves(make_records()).values():
        root = xml.etree.ElementTree.fromstring(drawing)
        assert root.get("viewBox").split()[2] == "320"
        assert float(root.get("font-size")) >= 11
        for _, points in polylines(drawing):
            assert all(0 <= x <= 320 and 0 <= y <= 210 for x, y in points)
        for text in root.iter(f"{SVG}text"):
            assert 0 <= float(text.get("x")) <= 320
            assert 0 < float(text.get("y")) <= 210


def test_curves_of_odd_records():
    assert svg.draw_curves([]) == {}
    common = {"stage": "train", "seed": 0}
    records = [{**common, "step": 0, "reconstruction": 0.0, "cross_entropy": math.nan}]
    [drawing] = svg.draw_curves(records).values()
    assert "nan" not in drawing
    constant = [{**common, "step": s, "reconstruction": -1.0} for s in (1, 2)]
    [drawing] = svg.draw_curves(constant).values()
    assert len(list(polylines(drawing))) == 1


@pytest.mark.parametrize("top", [1.4e-3, 0.0213, 0.9, 7.0, 98.0, 4321.0, 3e5, 2e-9])
def test_axis_numbers_fit_and_are_exact(top):
    common = {"stage": "classify", "method": "cglo", "seed": 0, "loss": top}
    [drawing] = svg.draw_curves([{**common, "step": 1}]).values()
    texts = list(xml.etree.ElementTree.fromstring(drawing).iter(f"{SVG}text"))
    axis = [t for t in texts if t.get("text-anchor") == "end"]
    values = [float(t.text) for t in axis]
    assert values[0] == 0
    assert top <= values[-1] <= 2 * top
    np.testing.assert_allclose(np.diff(values), values[1])
    for text in axis:  # 12 pixels high, in a rather wide font
        width = figures._font(text.text).getlength(text.text) * 12 / figures._FONT_SIZE
        assert width <= float(text.get("x"))


def test_curves_escape_names():
    record = {"stage": "classify", "seed": 0, "step": 1, "loss": 1.0, "method": '<b>&"'}
    [drawing] = svg.draw_curves([record]).values()
    assert '<b>&"' in xml.etree.ElementTree.fromstring(drawing).get("aria-label")


def test_a_single_point_is_a_dot():
    record = {"stage": "classify", "seed": 0, "step": 50, "loss": 2.0, "method": "cglo"}
    [drawing] = svg.draw_curves([record]).values()
    assert not list(polylines(drawing))
    [dot] = xml.etree.ElementTree.fromstring(drawing).iter(f"{SVG}circle")
    _, top, right, _ = svg._FRAME
    # step 50 of 50, and 2 on an axis from 0 to 2
    assert (float(dot.get("cx")), float(dot.get("cy"))) == (right, top)
    assert svg._color(0) in dot.get("style")


@pytest.mark.parametrize("values", [(100.0, 100.0), (12.0, 13.0), (99.5, 99.75)])
def test_percentages_have_an_axis_from_0_to_100(values):
    common = {"stage": "classify", "seed": 0, "method": "cglo"}
    records = [{**common, "step": i, "train_accuracy": v} for i, v in enumerate(values)]
    [drawing] = svg.draw_curves(records).values()
    texts = xml.etree.ElementTree.fromstring(drawing).iter(f"{SVG}text")
    axis = [t.text for t in texts if t.get("text-anchor") == "end"]
    assert axis == ["0", "25", "50", "75", "100"]


def test_curves_are_described_in_words():
    drawn = svg.draw_curves(make_records())
    labels = {
        title: xml.etree.ElementTree.fromstring(drawing).get("aria-label")
        for title, drawing in drawn.items()
    }
    assert labels["Classifier: training loss"] == (
        "Classifier: training loss, mean over seeds: "  # seeds 3 and 4
        "baseline from 3.5 at step 100 to 3.5 at step 300; "
        "cglo from 3.5 at step 100 to 3.5 at step 300"
    )
    assert labels["cGLO: reconstruction loss"].endswith(
        "mean over seeds: from 0.01 at step 100 to 3.33e-3 at step 300"
    )


def test_legend_has_the_lines_of_the_panels():
    methods = [f"method {i}" for i in range(12)]
    records = [
        {"stage": "classify", "method": m, "seed": 0, "step": s, "loss": 1.0}
        for m in methods
        for s in (1, 2)
    ]
    legend = svg.draw_legend(records)
    assert list(legend) == methods
    keys = ("style", "stroke-dasharray")
    shown = [
        tuple(
            next(iter(xml.etree.ElementTree.fromstring(drawing))).get(k) for k in keys
        )
        for drawing in legend.values()
    ]
    assert len(set(shown)) == 12
    [drawing] = svg.draw_curves(records).values()
    assert {tuple(line.get(k) for k in keys) for line, _ in polylines(drawing)} == set(
        shown
    )
