"""Tests of report/intervals.py: marks where the values are, shapes that say what they mean."""

import re
import xml.etree.ElementTree

import pytest

from cglo_jax.report.intervals import Interval, Scale, choose_scale, draw_chart

SCALE = Scale(-10.0, 10.0, (-10.0, 0.0, 10.0))


def draw(interval, scale=SCALE):
    [row] = draw_chart("a", "b", [interval], 0.95, scale).rows
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
    chart = draw_chart("a", "b", [Interval("x", 5.0, None, None)], 0.95)
    assert chart.rows[0].interval == chart.header[2] == ""
    assert "bar" not in chart.legend


def test_numbers_stand_beside():
    chart = draw_chart("a", "b", [Interval("x", -1e-9, -2.346, 2.0, note="n")], 0.9)
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
    axis = draw_chart("a", "b", [Interval("x", 1.0, -5, 9)], 0.95, SCALE).axis
    texts = xml.etree.ElementTree.fromstring(axis).iter("text")
    found = [(place(t, "x"), t.text) for t in texts]
    assert found == [(4, "-10"), (50, "0"), (96, "+10")]


def test_the_legend_tells_the_marks_that_are_there():
    lines = [Interval("x", 1.0, 0.5, 2.0, "helped"), Interval("y", 1.0, -0.5, 2.0)]
    legend = draw_chart("a", "b", lines, 0.95).legend
    assert "points up: mean, clearly higher" in legend
    assert not re.search("down|rings|arrow", legend)
