"""Tests of sections.py: what the page of a made-up work directory says."""

import math

import pytest
from report_workdir import (
    TOP1,
    Parsed,
    make_config,
    make_result,
    put_result,
    write_html,
)

from cglo_jax import report
from cglo_jax.errors import UserError


def test_headings_and_pictures(workdir, config):
    parsed = Parsed(write_html(workdir, config))
    assert parsed.headings[0] == ("h1", "shapes: 5 labelled images per class")
    assert [text for _, text in parsed.headings[1:]] == [
        "Accuracy",
        "Difference to baseline",
        "Learning curves",
        "What the generator makes",
        "What the methods were given",
        "Settings",
        "How it was run",
        "Files of the work directory",
    ]
    pictures = [attrs for tag, attrs in parsed.tags if tag == "img"]
    assert len(pictures) == 3
    for attrs in pictures:
        assert attrs["alt"]
        assert (attrs["width"], attrs["height"]) == ("30", "20")
    assert sum(tag == "svg" for tag, _ in parsed.tags) == 4


def test_title_without_shots_and_without_external_weights(tmp_path):
    config = make_config(**{"dataset.shots": 0, "external_weights": False})
    put_result(tmp_path, make_result(config, "baseline", 0, 80.0))
    title = Parsed(write_html(tmp_path, config)).headings[0][1]
    assert title == "shapes: 30 labelled images of 6 classes, no external weights"


def test_every_number_is_there(workdir, config):
    cells = Parsed(write_html(workdir, config)).cells
    markdown = (workdir / "report.md").read_text()
    expected = ["1234", "80.17 ± 0.44", "83.67 ± 0.22"]  # means and errors by hand
    expected += ["+3.25, +3.00, +4.25", "helped", "0123abc", "0, 1, 2"]
    expected += ["30 images of 6 classes", "7", "400 images (held out of train)"]
    for values in zip(*TOP1.values(), strict=True):
        expected += [f"{top1:.2f} / {(100 + top1) / 2:.2f}" for top1 in values]
    for text in expected:
        assert text in cells, text
        assert f"| {text} |" in markdown, text
    standard_error = 100 * math.sqrt(0.795 * 0.205 / 400)  # of the lowest accuracy
    assert f"standard error of up to {standard_error:.2f} points" in markdown


def test_what_is_missing_names_its_stage(tmp_path, config):
    put_result(tmp_path, make_result(config, "baseline", 0, 80.0))
    report.write(tmp_path, config)
    text = (tmp_path / "report.md").read_text()
    assert "--stage=train and --stage=classify write them" in text
    missing = "reconstructions.png, interpolations.png, codes.png, the synthetic images"
    assert f"Not there: {missing}. --stage=sample makes them." in text


def test_broken_picture_is_named(workdir, config):
    (workdir / "samples" / "codes.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"codes\.png.*--stage=sample"):
        report.write(workdir, config)
