"""Tests of appendix.py: what the page says of how the results came about."""

import pytest
from report_workdir import Parsed, make_config, make_result, put_result, write_html

from cglo_jax import config as config_lib


def test_times_of_resumed_runs_are_added(workdir, config):
    cells = Parsed(write_html(workdir, config)).cells
    start = cells.index("train")
    assert cells[start : start + 5] == ["train", "2", "2 min", "6.0 s", "4,321"]
    assert cells[start + 5 : start + 10] == ["sample", "1", "7.5 s", "-", "-"]


PERCEPTUAL = "VGG-16 from a.safetensors (trained on: birds)"


@pytest.mark.parametrize(
    ("changes", "perceptual", "classifier", "want"),
    [
        ({}, "none", "none", "none"),
        ({}, "VGG-16, random", "none", "none"),
        ({}, PERCEPTUAL, "none", f"cglo's loss uses {PERCEPTUAL}"),
        ({}, "none", "ResNet-50", "classifiers start from ResNet-50"),
        (
            {},
            PERCEPTUAL,
            "ResNet-50",
            f"classifiers start from ResNet-50; cglo's loss uses {PERCEPTUAL}",
        ),
        (
            {"external_weights": False},
            "none",
            "none",
            "none: no-external-weights mode (external_weights=False)",
        ),
    ],
)
def test_external_weights_are_said(tmp_path, changes, perceptual, classifier, want):
    config = make_config(**changes)
    for method, used in (("baseline", "none"), ("cglo", perceptual)):
        result = make_result(config, method, 0, 80.0, perceptual_weights=used)
        result["fingerprint"]["weights"] = classifier
        put_result(tmp_path, result)
    cells = Parsed(write_html(tmp_path, config)).cells
    assert cells[cells.index("External weights") + 1] == want


def test_images_held_out_of_training_are_said(tmp_path):
    config = make_config(**{"dataset.holdout": 400})
    put_result(tmp_path, make_result(config, "baseline", 0, 80.0))
    cells = Parsed(write_html(tmp_path, config)).cells
    assert "400 unused training images (dataset.holdout)" in cells


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
