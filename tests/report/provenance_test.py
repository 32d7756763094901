"""Tests of report/provenance.py: where the results come from, as the page shows it."""

import pytest

from cglo_jax.config import defaults as config_lib
from cglo_jax.errors import UserError
from cglo_jax.report.write import write_report
from tests.helpers.report_workdir import (
    Parsed,
    make_config,
    make_result,
    put_result,
    write_html,
)


def test_times_of_resumed_runs_are_added(workdir, config):
    cells = Parsed(write_html(workdir, config)).cells
    start = cells.index("train")
    assert cells[start : start + 5] == ["train", "2", "2 min", "6.0 s", "4,321"]
    assert cells[start + 5 : start + 10] == ["sample", "1", "7.5 s", "-", "-"]


VGG = "VGG-16 from a.safetensors (trained on: birds)"


@pytest.mark.parametrize(
    ("perceptual", "classifier", "want"),
    [
        ("none", "none", "none"),
        ("random", "random", "none"),
        (VGG, "none", f"cglo uses {VGG}"),
        ("none", "ResNet", "classifiers start from ResNet"),
        (VGG, "ResNet", f"classifiers start from ResNet; cglo uses {VGG}"),
    ],
)
def test_external_weights_are_said_and_refused_in_the_strict_mode(
    tmp_path, perceptual, classifier, want
):
    config = make_config()
    for method, used in (("baseline", "none"), ("cglo", perceptual)):
        perceptual_fields = {"perceptual_weights": used, "perceptual_digest": used}
        result = make_result(
            config, method, 0, 80.0, **perceptual_fields, classifier_weights=classifier
        )
        result["fingerprint"]["weights"] = classifier
        put_result(tmp_path, result)
    cells = Parsed(write_html(tmp_path, config)).cells
    assert cells[cells.index("External weights") + 1] == want
    config.external_weights = False
    if want != "none":
        with pytest.raises(UserError, match="external_weights is False, but in"):
            write_report(config, tmp_path)
        return
    cells = Parsed(write_html(tmp_path, config)).cells
    mode = "none: no-external-weights mode (external_weights=False)"
    assert cells[cells.index("External weights") + 1] == mode


def test_near_copies_are_counted_and_listed(tmp_path):
    config = make_config()
    result = make_result(config, "baseline", 0, 80.0)
    result["dataset"] |= {
        "near_copies": 2,
        "near_copies_shown": [
            ["test/a.jpg", "train/b.png"],
            ["test/c.jpg", "train/d.png"],
        ],
    }
    put_result(tmp_path, result)
    put_result(
        tmp_path, make_result(config, "cglo", 0, 81.0) | {"dataset": result["dataset"]}
    )
    cells = Parsed(write_html(tmp_path, config)).cells
    place = cells.index("Test images that are near copies of training images")
    counted = f"2 of {result['n_test']}: included in the accuracies, listed below"
    assert cells[place + 1] == counted
    assert cells[cells.index("test/c.jpg") + 1] == "train/d.png"


def test_seeds_with_different_weights_are_not_averaged(tmp_path):
    config = make_config()
    for seed in (0, 1):
        result = make_result(config, "cglo", seed, 80.0, perceptual_digest=f"{seed}")
        put_result(tmp_path, result)
    with pytest.raises(
        UserError, match=r"cglo-0 and .*cglo-1 differ in perceptual_dig"
    ):
        write_report(config, tmp_path)


def test_classes_have_their_numbers_of_images_and_weights(tmp_path):
    config = make_config()
    result = make_result(config, "cglo", 0, 80.0, codes_added_later=6)
    result["dataset"]["class_weights"] = True
    put_result(tmp_path, result)
    cells = Parsed(write_html(tmp_path, config)).cells
    assert not any("rates lowered" in cell for cell in cells)
    start = cells.index("plain")
    assert cells[start - 1 : start + 3] == ["0", "plain", "4", "70"]
    assert "1 / (labelled images of the class)" in cells
    assert "6 images: added after the generator was trained" in cells


def test_lowered_rates_are_listed(tmp_path):
    config = make_config()
    rates = {"classifier": 1.0, "cglo": 0.25}
    put_result(tmp_path, make_result(config, "cglo", 1, 80.0, rates_times=rates))
    put_result(tmp_path, make_result(config, "cglo", 0, 80.0))
    cells = Parsed(write_html(tmp_path, config)).cells
    first = cells.index("Learning rates lowered after a value was not finite")
    assert cells[first + 1] == "cglo seed 1, its cglo: times 0.25"


def test_changed_settings_are_marked(tmp_path):
    config = make_config(**{"latent.dim": 96})
    put_result(tmp_path, make_result(config, "baseline", 0, 80.0))
    cells = Parsed(write_html(tmp_path, config)).cells
    first = cells.index("latent.dim")
    assert cells[first : first + 3] == ["latent.dim", "96", "128"]
    second = cells.index("latent.dim", first + 1)
    assert cells[second : second + 4] == ["latent.dim", "96", "128", "changed"]
    assert cells.count("train.epochs") == 1
    assert set(config_lib.flatten(config)) <= set(cells)
