"""Tests of report/curves.py: readable SVG, lines where the values are."""

import math
import xml.etree.ElementTree

import numpy as np
import pytest

from cglo_jax.report import curves, figures

SVG = "{http://www.w3.org/2000/svg}"


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


def polylines(svg):
    for line in xml.etree.ElementTree.fromstring(svg).iter(f"{SVG}polyline"):
        yield (
            line,
            [tuple(map(float, p.split(","))) for p in line.get("points").split()],
        )


def test_curves_have_a_line_per_method_and_seed():
    drawn = curves.learning_curves(make_records())
    assert [len(list(polylines(svg))) for svg in drawn.values()] == [2, 2, 4, 4]
    styles = [line.get("style") for line, _ in polylines(list(drawn.values())[2])]
    assert [styles.count(s) for s in dict.fromkeys(styles)] == [2, 2]


def test_curves_are_where_the_values_are():
    svg = curves.learning_curves(make_records())["Classifier: training accuracy (%)"]
    left, top, right, bottom = curves._FRAME
    for _, points in polylines(svg):
        # steps 100, 200, 300 of 300; values 33.3, 66.7, 100 on an axis from 0 to 100
        wanted = [
            (left + (right - left) * f, bottom - (bottom - top) * f)
            for f in (1 / 3, 2 / 3, 1)
        ]
        np.testing.assert_allclose(points, wanted, atol=0.051)


def test_curves_stay_inside_and_readable_at_320_pixels():
    for svg in curves.learning_curves(make_records()).values():
        root = xml.etree.ElementTree.fromstring(svg)
        assert root.get("viewBox").split()[2] == "320"
        assert float(root.get("font-size")) >= 11
        for _, points in polylines(svg):
            assert all(0 <= x <= 320 and 0 <= y <= 210 for x, y in points)
        for text in root.iter(f"{SVG}text"):
            assert 0 <= float(text.get("x")) <= 320
            assert 0 < float(text.get("y")) <= 210


def test_curves_of_odd_records():
    assert curves.learning_curves([]) == {}
    common = {"stage": "train", "seed": 0}
    records = [{**common, "step": 0, "reconstruction": 0.0, "cross_entropy": math.nan}]
    [svg] = curves.learning_curves(records).values()
    assert "nan" not in svg
    constant = [{**common, "step": s, "reconstruction": -1.0} for s in (1, 2)]
    [svg] = curves.learning_curves(constant).values()
    assert len(list(polylines(svg))) == 1


@pytest.mark.parametrize("top", [1.4e-3, 0.0213, 0.9, 7.0, 98.0, 4321.0, 3e5, 2e-9])
def test_axis_numbers_fit_and_are_exact(top):
    common = {"stage": "classify", "method": "cglo", "seed": 0, "loss": top}
    [svg] = curves.learning_curves([{**common, "step": 1}]).values()
    texts = list(xml.etree.ElementTree.fromstring(svg).iter(f"{SVG}text"))
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
    [svg] = curves.learning_curves([record]).values()
    assert '<b>&"' in xml.etree.ElementTree.fromstring(svg).get("aria-label")


def test_a_single_point_is_a_dot():
    record = {"stage": "classify", "seed": 0, "step": 50, "loss": 2.0, "method": "cglo"}
    [svg] = curves.learning_curves([record]).values()
    assert not list(polylines(svg))
    [dot] = xml.etree.ElementTree.fromstring(svg).iter(f"{SVG}circle")
    _, top, right, _ = curves._FRAME
    # step 50 of 50, and 2 on an axis from 0 to 2
    assert (float(dot.get("cx")), float(dot.get("cy"))) == (right, top)
    assert curves._color(0) in dot.get("style")


@pytest.mark.parametrize("values", [(100.0, 100.0), (12.0, 13.0), (99.5, 99.75)])
def test_percentages_have_an_axis_from_0_to_100(values):
    common = {"stage": "classify", "seed": 0, "method": "cglo"}
    records = [{**common, "step": i, "train_accuracy": v} for i, v in enumerate(values)]
    [svg] = curves.learning_curves(records).values()
    texts = xml.etree.ElementTree.fromstring(svg).iter(f"{SVG}text")
    axis = [t.text for t in texts if t.get("text-anchor") == "end"]
    assert axis == ["0", "25", "50", "75", "100"]


def test_curves_are_said_in_words():
    drawn = curves.learning_curves(make_records())
    labels = {
        title: xml.etree.ElementTree.fromstring(svg).get("aria-label")
        for title, svg in drawn.items()
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
    legend = curves.legend(records)
    assert list(legend) == methods
    keys = ("style", "stroke-dasharray")
    shown = [
        tuple(next(iter(xml.etree.ElementTree.fromstring(svg))).get(k) for k in keys)
        for svg in legend.values()
    ]
    assert len(set(shown)) == 12
    [svg] = curves.learning_curves(records).values()
    assert {tuple(line.get(k) for k in keys) for line, _ in polylines(svg)} == set(
        shown
    )
