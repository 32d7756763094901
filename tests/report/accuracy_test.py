"""Tests of report/accuracy.py on the page of a made-up work directory."""

import math
import re

import pytest

from cglo_jax.report.write import write_report
from tests.helpers.report_workdir import (
    TOP1,
    Parsed,
    keep_classes,
    make_config,
    make_result,
    put_result,
    write_html,
)


def test_headings_and_pictures(workdir, config):
    parsed = Parsed(write_html(workdir, config))
    assert parsed.headings[0] == ("h1", "shapes: 5 labelled images per class")
    assert [text for _, text in parsed.headings[1:]] == [
        "Accuracy",
        "Difference to baseline",
        "Change per class",
        "Confusion",
        "Generated images",
        "Reconstructions",
        "Interpolations",
        "Nearest training images",
        "Map of the codes",
        "Learning curves",
        "Data and priors",
        "Settings",
        "How it was run",
        "Files of the work directory",
    ]
    pictures = [attrs for tag, attrs in parsed.tags if tag == "img"]
    assert len(pictures) == 4
    for attrs in pictures:
        assert (attrs["width"], attrs["height"]) == ("30", "20")
    drawn = [attrs["aria-label"] for tag, attrs in parsed.tags if "viewbox" in attrs]
    assert len(drawn) == 4
    assert all("mean over seeds" in text for text in drawn)


def test_title_without_shots_and_without_external_weights(tmp_path):
    config = make_config(**{"dataset.shots": 0, "external_weights": False})
    put_result(tmp_path, make_result(config, "baseline", 0, 80.0))
    title = Parsed(write_html(tmp_path, config)).headings[0][1]
    assert title == "shapes: 30 labelled images of 6 classes, no external weights"


def test_title_where_classes_have_fewer_images(tmp_path):
    config = make_config(**{"dataset.shots": 6, "dataset.shortfall": 2})
    put_result(tmp_path, make_result(config, "baseline", 0, 80.0))
    title = Parsed(write_html(tmp_path, config)).headings[0][1]
    assert title == "shapes: 4 to 6 labelled images per class"


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
    share = (318 + 2) / 404  # of the lowest accuracy, 318 of 400
    standard_error = 100 * math.sqrt(share * (1 - share) / 404)
    assert f"standard error of up to {standard_error:.2f} points" in markdown


def test_what_is_missing_names_its_stage(tmp_path, config):
    put_result(tmp_path, make_result(config, "baseline", 0, 80.0))
    write_report(config, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "--stage=train and --stage=classify write them" in text


@pytest.mark.parametrize(("num_classes", "shown"), [(5, False), (6, True)])
def test_top_5_is_shown_for_more_than_five_classes(
    tmp_path, config, num_classes, shown
):
    result = make_result(config, "baseline", 0, 80.0)
    keep_classes(result, num_classes)
    put_result(tmp_path, result)
    text = write_html(tmp_path, config)
    assert ("Top-5" in text) == shown
    assert ("80.00 / 90.00" in Parsed(text).cells) == shown


def put_differences(workdir, config, differences):
    for seed, difference in enumerate(differences):
        put_result(workdir, make_result(config, "baseline", seed, 80.0))
        put_result(workdir, make_result(config, "cglo", seed, 80.0 + difference))


def test_no_difference_has_no_sign_and_no_side(tmp_path, config):
    put_differences(tmp_path, config, (1.0, -1.0))
    [line] = write_report(config, tmp_path)
    assert "Its top-1 accuracy is equal to baseline (95% interval -12.71" in line
    text = (tmp_path / "report.md").read_text()
    assert "| cglo | 0.00 | -12.71 to +12.71 | +1.00, -1.00 |" in text
    assert not re.search(r"[-+]0\.00", text)


def test_an_interval_of_no_information_is_said(tmp_path, config):
    put_differences(tmp_path, config, (15.0, -15.0))  # t(1 seed more) = 12.7
    text = write_html(tmp_path, config)
    assert "The interval of cglo goes beyond ±100 points" in text
    assert "arrow: the interval continues" in text
    put_differences(tmp_path, config, (5.0, -5.0))
    assert (
        "beyond ±100 points"
        not in write_html(tmp_path, config).partition("Change per class<")[0]
    )


def test_the_headline_has_the_numbers_of_the_first_method(workdir, config):
    put_result(workdir, make_result(config, "autoaugment", 0, 81.0))
    text = write_html(workdir, config)
    header = text.partition("<header>")[2].partition("</header>")[0]
    assert "<strong>cglo helped.</strong>" in header  # of all methods the first
    facts = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", header)
    assert facts == [
        ("baseline", "80.17%"),
        ("cglo", "83.67%"),
        ("difference", "+3.50 points"),
        ("seeds", "3"),
        ("test images", "400"),
    ]
    assert "no verdict from one seed" in header  # of autoaugment, in the chart


def test_methods_without_a_seed_of_the_baseline_are_in_the_headline(workdir, config):
    put_result(workdir, make_result(config, "mixup", 7, 81.0))
    header = write_html(workdir, config).partition("</header>")[0]
    assert "mixup: no verdict, baseline has no result with its seeds." in header
