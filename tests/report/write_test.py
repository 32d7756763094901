"""Tests of report/write.py on made-up work directories: verdicts, mistakes, files."""

import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from cglo_jax.errors import UserError
from cglo_jax.files import storage
from cglo_jax.report.write import write_report
from tests.helpers.report_workdir import (
    TOP1,
    make_config,
    make_result,
    put_result,
    write_html,
)


def test_helped(workdir, config):
    [line] = write_report(config, workdir)
    differences = np.subtract(TOP1["cglo"], TOP1["baseline"])
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert line == (
        f"cglo helped. Its top-1 accuracy is {differences.mean():.2f} points above baseline "
        f"(95% interval {interval.low:+.2f} to {interval.high:+.2f}, 3 seeds)."
    )


def test_hurt_and_no_difference(workdir, config):
    for seed, top1 in enumerate((70.0, 71.5, 69.0)):
        put_result(workdir, make_result(config, "cglo", seed, top1))
    for seed, top1 in enumerate((79.0, 82.0, 79.75)):
        put_result(workdir, make_result(config, "pixelmix", seed, top1))
    cglo, pixelmix = write_report(config, workdir)
    assert cglo.startswith(
        "cglo hurt. Its top-1 accuracy is 10.00 points below baseline ("
    )
    assert pixelmix.startswith("pixelmix: no measurable difference. ")


def test_one_seed_is_no_verdict(tmp_path, config):
    for method, top1 in (("baseline", 80.0), ("cglo", 90.0)):
        put_result(tmp_path, make_result(config, method, 0, top1))
    [line] = write_report(config, tmp_path)
    assert line.startswith("cglo: no verdict from one seed. ")
    assert "helped" not in line
    assert "interval" not in line
    text = (tmp_path / "report.md").read_text()
    assert "With one seed there is no interval" in text
    assert "Student" not in text


def test_missing_seed_is_named(workdir, config):
    (workdir / "classifiers" / "baseline-1" / "result.json").unlink()
    [line] = write_report(config, workdir)
    assert line.endswith(", 2 seeds).")
    text = (workdir / "report.md").read_text()
    assert "| +3.25, +4.25 | 0, 2 |" in text
    assert "Missing: baseline seed 1." in text


def put_own_images(workdir, config, **images):
    """Puts results of three seeds; images: {"cglo1": digest of its training images}, else the seed's."""
    for method, of_seeds in TOP1.items():
        for seed, top1 in enumerate(of_seeds):
            result = make_result(config, method, seed, top1)
            own = images.get(f"{method}{seed}", f"of seed {seed}")
            result["fingerprint"] |= {"images": own, "test_images": "same"}
            put_result(workdir, result)


def test_with_own_images_the_interval_covers_their_draw(tmp_path):
    config = make_config(**{"dataset.split_per_seed": True})
    put_own_images(tmp_path, config)
    [line] = write_report(config, tmp_path)
    assert line.startswith("cglo helped. ")
    text = " ".join((tmp_path / "report.md").read_text().split())
    assert (
        "The interval covers what differs between seeds: the choice of the labelled images, which "
        "each seed drew anew (dataset.split_per_seed), initialisation"
    ) in text
    assert "Other training images." not in text
    assert "Other test images." in text
    assert "others for each seed" in text


def test_with_shared_images_the_interval_does_not_cover_their_draw(workdir, config):
    write_report(config, workdir)
    text = " ".join((workdir / "report.md").read_text().split())
    assert "Other training images. All seeds share those of" in text
    assert "between seeds: initialisation, order, noise and augmentation." in text
    assert "others for each seed" not in text


def test_methods_of_a_seed_share_their_images_in_any_case(tmp_path):
    own = make_config(**{"dataset.split_per_seed": True})
    put_own_images(tmp_path / "own", own, cglo1="others")
    with pytest.raises(UserError, match=r"baseline-1 and .*cglo-1 differ in images"):
        write_report(own, tmp_path / "own")
    put_own_images(tmp_path / "shared", make_config())
    with pytest.raises(UserError, match="differ in images"):
        write_report(make_config(), tmp_path / "shared")


def test_no_common_seed_is_no_verdict(tmp_path, config):
    put_result(tmp_path, make_result(config, "baseline", 0, 80.0))
    put_result(tmp_path, make_result(config, "cglo", 1, 90.0))
    [line] = write_report(config, tmp_path)
    assert line == "cglo: no verdict, baseline has no result with its seeds."


def test_baseline_alone_is_no_verdict(tmp_path, config):
    put_result(tmp_path, make_result(config, "baseline", 0, 80.0))
    assert write_report(config, tmp_path) == ["No verdict: only baseline has results."]


def test_agreeing_seeds_are_said(tmp_path, config):
    for seed in range(3):
        put_result(tmp_path, make_result(config, "baseline", seed, 80.0))
        put_result(
            tmp_path, make_result(config, "cglo", seed, 80.25)
        )  # one image of 400
    [line] = write_report(config, tmp_path)
    assert line.startswith("cglo: no measurable difference. ")
    assert "half a test image (0.125 points)" in (tmp_path / "report.md").read_text()


def test_without_results_names_the_stage(tmp_path, config):
    with pytest.raises(UserError, match=r"--stage=classify"):
        write_report(config, tmp_path / "absent")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"method": "cglo", "seed": 0}', b"\xff\xfe"],
)
def test_corrupt_result_is_named(workdir, config, text):
    path = workdir / "classifiers" / "cglo-0" / "result.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        write_report(config, workdir)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"top1": math.nan},
        {"top1": 101.0},
        {"top1": 99.0, "top5": 98.0},
        {"n_test": 0},
        {"steps": None},
        {"dataset": "shapes"},
    ],
)
def test_impossible_result_is_named(workdir, config, changes):
    put_result(workdir, make_result(config, "cglo", 0, 80.0) | changes)
    with pytest.raises(UserError, match=r"cglo-0"):
        write_report(config, workdir)


def test_swapped_results_are_found(workdir, config):
    path = workdir / "classifiers" / "cglo-1" / "result.json"
    path.write_text(json.dumps(make_result(config, "cglo", 2, 80.0)))
    with pytest.raises(UserError, match=r"cglo-1.*another method or seed"):
        write_report(config, workdir)


@pytest.mark.parametrize("name", ["steps", "n_test"])
def test_unequal_runs_are_not_compared(workdir, config, name):
    put_result(workdir, make_result(config, "cglo", 0, 80.0, **{name: 399}))
    with pytest.raises(UserError, match=rf"differ in {name}"):
        write_report(config, workdir)


@pytest.mark.parametrize("name", ["images", "test_images"])
def test_results_on_other_images_are_not_compared(workdir, config, name):
    result = make_result(config, "cglo", 0, 80.0)
    put_result(workdir, result | {"fingerprint": {**result["fingerprint"], name: "1f"}})
    with pytest.raises(UserError, match=rf"differ in {name}"):
        write_report(config, workdir)


def test_results_of_other_settings_are_refused(workdir):
    with pytest.raises(UserError, match=r"classify\.lr=0\.1, this call has 0\.2"):
        write_report(make_config(**{"classify.lr": 0.2}), workdir)


def test_fields_that_change_nothing_may_differ(workdir):
    write_report(make_config(**{"train.log_every_steps": 7}), workdir)


@pytest.mark.parametrize(
    "text", ["{oops", "", "[1]", "3", "\xff", '{"stage": "train"}']
)
@pytest.mark.parametrize("name", ["metrics", "timings"])
def test_damaged_lines_are_named(workdir, config, name, text):
    path = workdir / f"{name}.jsonl"
    damaged = path.read_bytes() + text.encode("latin-1") + b"\n"
    path.write_bytes(damaged)
    number = damaged.count(b"\n")
    match = rf"{name}\.jsonl cannot be used \(line {number}: .*\): move the file away"
    with pytest.raises(UserError, match=match) as caught:
        write_report(config, workdir)
    assert "\n" not in str(caught.value)


def test_line_being_written_is_left_out(workdir, config):
    before = write_html(workdir, config)
    for name in ("metrics", "timings"):
        with (workdir / f"{name}.jsonl").open("a") as file:
            file.write('{"stage": "tr')
    assert write_html(workdir, config) == before


def test_same_bytes_on_a_second_call(workdir, config):
    first = write_html(workdir, config), (workdir / "report.md").read_bytes()
    assert (write_html(workdir, config), (workdir / "report.md").read_bytes()) == first


def test_interrupted_write_leaves_the_old_report(workdir, config, monkeypatch):
    old = write_html(workdir, config)
    put_result(workdir, make_result(config, "cglo", 0, 10.0))
    monkeypatch.setattr(storage.os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(config, workdir)
    assert (workdir / "report.html").read_text() == old
