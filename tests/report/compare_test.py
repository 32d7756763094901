"""Tests of report/compare.py on made-up work directories."""

import json
import statistics

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from cglo_jax.errors import UserError
from cglo_jax.report import compare
from tests.helpers.report_workdir import (
    TOP1,
    Parsed,
    keep_classes,
    make_config,
    make_result,
    put_finished_run,
    put_result,
)


def asking(*workdirs):
    return make_config(**{"report.compare": ",".join(map(str, workdirs))})


def write(tmp_path, *workdirs):
    """Writes the comparison into tmp_path/both and returns the text of compare.md."""
    compare.write_comparison(asking(*workdirs), tmp_path / "both")
    return (tmp_path / "both" / "compare.md").read_text()


def rows_of(text, caption):
    """The cells of the table with this caption, without its header."""
    lines = text.partition(f"# {caption}\n\n")[2].partition("\n\n")[0].splitlines()
    return [line.strip("| ").split(" | ") for line in lines[2:]]


@pytest.fixture
def two(tmp_path):
    a = put_finished_run(tmp_path / "a")
    b = put_finished_run(tmp_path / "b", **{"classify.lr": 0.2, "dataset.shots": 10})
    return a, b


def test_accuracies_stand_side_by_side(tmp_path):
    mixed = {"baseline": TOP1["baseline"], "mixup": (90.0, 91.0, 92.0)}
    a, b = put_finished_run(tmp_path / "a"), put_finished_run(tmp_path / "b", mixed)
    text = write(tmp_path, a, b)

    def cell(values):
        return f"{statistics.fmean(values):.2f} ± {stats.sem(values):.2f}"

    base, cglo, mixup = TOP1["baseline"], TOP1["cglo"], mixed["mixup"]
    assert rows_of(text, "Top-1: mean ± standard error over seeds") == [
        ["baseline", cell(base), cell(base)],
        ["cglo", cell(cglo), "-"],
        ["mixup", "-", cell(mixup)],
    ]
    gain = np.subtract(cglo, base)
    interval = stats.ttest_1samp(gain, 0).confidence_interval(0.95)
    numbers = f"{gain.mean():+.2f} ({interval.low:+.2f} to {interval.high:+.2f})"
    rows = rows_of(text, "Verdict of each run: difference to its baseline")
    assert rows[0] == ["cglo", f"helped, {numbers}", "-"]
    assert rows[1][:2] == ["mixup", "-"]
    assert rows[1][2].startswith("helped, +10.83 (")


def test_runs_of_the_same_images_are_compared_by_seed(tmp_path):
    other = {**TOP1, "baseline": (80.5, 81.0, 79.0), "mixup": (90.0, 91.0, 92.0)}
    text = write(
        tmp_path,
        put_finished_run(tmp_path / "a"),
        put_finished_run(tmp_path / "b", other),
    )
    assert "can be compared. They have the same training and test images." in text
    assert "differ in" not in text
    differences = np.subtract(other["baseline"], TOP1["baseline"])
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    rows = dict(rows_of(text, "Difference to a"))
    assert differences.mean() == 0
    assert rows["baseline"] == f"0.00 ({low:+.2f} to {high:+.2f})"
    assert rows["cglo"] == "0.00 (-0.31 to +0.31)"  # half a test image of 400
    assert rows["mixup"] == "-"


def test_other_test_images_are_said_and_nothing_is_subtracted(tmp_path):
    a = put_finished_run(tmp_path / "a")
    b, c = (put_finished_run(tmp_path / name, test_images="33") for name in "bc")
    text = write(tmp_path, a, b, c)
    for name in "bc":
        expected = (
            f"a and {name} differ in test images: their accuracies cannot be compared."
        )
        assert expected in text
    assert "b and c differ" not in text
    assert "Not all of their accuracies can be compared." in text
    rows = rows_of(text, "Difference to a")
    assert rows == [["baseline", "-", "-"], ["cglo", "-", "-"]]


def test_other_training_images_are_said(tmp_path):
    a, b = (
        put_finished_run(tmp_path / "a"),
        put_finished_run(tmp_path / "b", images="33"),
    )
    text = write(tmp_path, a, b)
    assert "a and b differ in training images: a difference of their" in text
    assert "Their accuracies are of the same test images." in text
    assert rows_of(text, "Difference to a")[0] == ["baseline", "-"]


def test_only_fields_that_differ_are_listed(tmp_path, two):
    assert rows_of(write(tmp_path, *two), "Fields") == [
        ["classify.lr", "0.1", "0.2"],
        ["dataset.shots", "5", "10"],
    ]


def test_settings_are_those_of_the_results(tmp_path, two):
    """As of a run whose newest call, in config.json, trained nothing."""
    path = two[0] / "config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "classify.lr": 0.7}))
    assert rows_of(write(tmp_path, *two), "Fields")[0] == ["classify.lr", "0.1", "0.2"]


@pytest.mark.parametrize(("num_classes", "shown"), [(5, False), (6, True)])
def test_top_5_is_shown_for_more_than_five_classes(tmp_path, two, num_classes, shown):
    for path in tmp_path.glob("*/classifiers/*/result.json"):
        result = json.loads(path.read_text())
        keep_classes(result, num_classes)
        path.write_text(json.dumps(result))
    assert ("Top-5" in write(tmp_path, *two)) == shown


def test_equal_settings_are_said(tmp_path):
    a, b = put_finished_run(tmp_path / "a"), put_finished_run(tmp_path / "b")
    assert "None: every field is the same." in write(tmp_path, a, b)


def test_what_each_run_had_is_listed(tmp_path, two):
    rows = {
        row[0]: row[1:]
        for row in rows_of(write(tmp_path, *two), "Priors, data and length")
    }
    assert rows["Data set"] == ["shapes", "shapes"]
    assert rows["Labelled images"] == ["30 of 6 classes"] * 2
    assert rows["Images per class"] == ["5", "10"]
    assert rows["Unlabelled images"] == ["7", "7"]
    assert rows["Test images among them"] == ["no", "no"]
    assert rows["Tested on"] == ["400 (held out of train)"] * 2
    assert rows["External weights"] == ["none", "none"]
    assert rows["Seeds"] == ["0, 1, 2"] * 2
    assert rows["Steps of a classifier"] == ["1234", "1234"]


def test_times_are_sums_over_seeds_and_calls(tmp_path, two):
    with (two[1] / "timings.jsonl").open("a") as file:
        line = {"stage": "classify", "method": "cglo", "seed": 0, "wall_s": 1234.56}
        file.write(json.dumps(line) + "\n")
    assert rows_of(write(tmp_path, *two), "Seconds") == [
        ["train", "120.0", "120.0"],
        ["sample", "7.5", "7.5"],
        ["classify cglo", "-", "1,234.6"],
    ]


def test_reconstructions_stand_beside_each_other_in_the_page(tmp_path, two):
    for workdir, level in zip(two, (50, 200), strict=True):
        picture = Image.fromarray(np.full((20, 30, 3), level, np.uint8))
        picture.save(workdir / "samples" / "reconstructions.png")
    text = write(tmp_path, *two)
    assert "![" not in text
    assert "Drawn in compare.html." in text
    page = (tmp_path / "both" / "compare.html").read_text()
    assert "Drawn in" not in page
    page = Parsed(page)
    (image,) = [attrs for tag, attrs in page.tags if tag == "img"]
    assert image["src"].startswith("data:image/png;base64,")
    assert image["width"] == str(2 * 30 + 24)


def test_missing_pictures_are_named(tmp_path, two):
    (two[1] / "samples" / "reconstructions.png").unlink()
    assert "Not there: b. --stage=sample makes them." in write(tmp_path, *two)
    (two[0] / "samples" / "reconstructions.png").unlink()
    text = write(tmp_path, *two)
    assert "Not there: a, b." in text
    assert "Drawn" not in text


def test_one_seed_has_no_interval(tmp_path):
    one = {method: values[:1] for method, values in TOP1.items()}
    text = write(tmp_path, *(put_finished_run(tmp_path / name, one) for name in "ab"))
    assert rows_of(text, "Difference to a")[0] == ["baseline", "0.00"]
    rows = rows_of(text, "Verdict of each run: difference to its baseline")
    assert rows == [["cglo", *["no verdict from one seed, +3.25"] * 2]]


def test_runs_of_one_name_have_their_paths_as_names(tmp_path):
    a, b = (
        put_finished_run(tmp_path / "x" / "run"),
        put_finished_run(tmp_path / "y" / "run"),
    )
    first, second = compare.read_runs(f" {a} ,{b}/,")
    assert (first.name, second.name) == (str(a), f"{b}/")
    assert [
        one.name for one in compare.read_runs(f"{a},{put_finished_run(tmp_path / 'z')}")
    ] == [
        "run",
        "z",
    ]


# Mistakes


def refuse(given):
    with pytest.raises(UserError) as error:
        compare.read_runs(given)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("given", [",", "runs/a", " runs/a ,"])
def test_fewer_than_two_runs_are_refused(given):
    assert "it must name two runs or more" in refuse(given)


def test_a_run_that_is_not_there_is_named(tmp_path, two):
    text = refuse(f"{two[0]},{tmp_path / 'none'}")
    assert f"run {tmp_path / 'none'}: there is no folder" in text
    (tmp_path / "none").mkdir()
    assert "there is no config.json" in refuse(f"{two[0]},{tmp_path / 'none'}")


def test_a_run_named_twice_is_refused(two):
    assert "names a run twice" in refuse(f"{two[0]},{two[0]}/../a")


def test_a_run_without_results_is_named(two):
    for path in two[1].glob("classifiers/*/result.json"):
        path.unlink()
    text = refuse(f"{two[0]},{two[1]}")
    assert f"run {two[1]}: " in text
    assert "holds no result: run --stage=classify first" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("config.json", "config.json cannot be used"),
        ("timings.jsonl", "timings.jsonl cannot be used (line 1: "),
        ("classifiers/cglo-1/result.json", "result.json cannot be used"),
    ],
)
def test_a_damaged_run_is_named(two, name, expected):
    (two[1] / name).write_text("{\n")
    text = refuse(f"{two[0]},{two[1]}")
    assert f"run {two[1]}: " in text
    assert expected in text


def test_results_of_other_settings_in_one_run_are_refused(two):
    result = make_result(make_config(**{"classify.lr": 0.3}), "cglo", 1, 80.0)
    result["fingerprint"] |= {"images": "11", "test_images": "22"}
    put_result(two[0], result)
    assert "classifiers/cglo-1 was made with" in refuse(f"{two[0]},{two[1]}")


def test_a_damaged_picture_is_named(tmp_path, two):
    (two[1] / "samples" / "reconstructions.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"b.samples.reconstructions\.png.*not a PNG"):
        write(tmp_path, *two)


@pytest.mark.parametrize(("other", "same"), [("of seed 2", True), ("others", False)])
def test_runs_whose_seeds_have_own_images_are_compared_seed_by_seed(
    tmp_path, other, same
):
    config = make_config(**{"dataset.split_per_seed": True})
    for name, of_third in (("a", "of seed 2"), ("b", other)):
        workdir = put_finished_run(tmp_path / name, **{"dataset.split_per_seed": True})
        for method, of_seeds in TOP1.items():
            for seed, top1 in enumerate(of_seeds):
                result = make_result(config, method, seed, top1)
                images = of_third if seed == 2 else f"of seed {seed}"
                result["fingerprint"] |= {"images": images, "test_images": "same"}
                put_result(workdir, result)
    text = write(tmp_path, tmp_path / "a", tmp_path / "b")
    assert ("They have the same training and test images." in text) == same
    assert ("a and b differ in training images" in text) == (not same)
