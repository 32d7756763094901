"""Tests of cglo_jax/inference/classifier.py: trained classifiers, the mean over seeds, image files."""

import dataclasses
import json
import shutil
from typing import NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

import cglo_jax
from cglo_jax.classifier import step
from cglo_jax.data.colours import Conversion
from cglo_jax.errors import UserError
from cglo_jax.training import checkpoints
from cglo_jax.workdir import results
from tests.helpers.saved_run import STEP, put_classifier, put_run
from tests.helpers.tiny import create_config, create_dataset

IMAGES = create_dataset(5, seed=3).images


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, {seed: variables}) of a run with two seeds of `cglo` and one of `mixmatch`."""
    workdir = tmp_path_factory.mktemp("ensemble") / "run"
    config, dataset = put_run(workdir, seeds=(0, 1))
    models = {s: put_classifier(workdir, config, dataset, "cglo", s) for s in (0, 1)}
    put_classifier(workdir, config, dataset, "mixmatch", 0)
    return workdir, models


def probabilities_of(variables, images) -> np.ndarray:
    """Computes what one network says, in the way of the textbook."""
    network = step.create_network(create_config(), 3, axis_name=None)
    x = images.astype(np.float32) / 127.5 - 1
    logits, _ = jax.jit(lambda v, x: network.apply(v, x, train=False))(variables, x)
    e = np.exp(np.asarray(logits, np.float64))
    return e / e.sum(1, keepdims=True)


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(UserError) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_seeds_probabilities_are_averaged(run):
    workdir, models = run
    names, probabilities = cglo_jax.load_classifier(workdir, "cglo").predict(IMAGES)
    each = [probabilities_of(models[seed], IMAGES) for seed in (0, 1)]
    assert np.abs(each[0] - each[1]).max() > 0.05
    np.testing.assert_allclose(probabilities, np.mean(each, 0), atol=1e-5)
    assert probabilities.dtype == np.float32
    assert names == [f"class {label}" for label in np.mean(each, 0).argmax(1)]
    one = cglo_jax.load_classifier(workdir, "cglo", seed=1)
    np.testing.assert_allclose(one.predict(IMAGES)[1], each[1], atol=1e-5)


def test_of_mixmatch_the_averaged_parameters_classify(run):
    loaded = cglo_jax.load_classifier(run[0], "mixmatch")
    path = run[0] / "classifiers" / "mixmatch-0" / "checkpoints"
    with checkpoints.Checkpoints(path, read_only=True) as saved:
        model = saved.restore_model(STEP)
    variables = {"params": model["averaged"], "batch_stats": model["batch_stats"]}
    expected = probabilities_of(variables, IMAGES)
    np.testing.assert_allclose(loaded.predict(IMAGES)[1], expected, atol=1e-5)
    assert np.abs(probabilities_of(model, IMAGES) - expected).max() > 0.05


def test_files_are_scaled_cropped_and_greyed_as_in_training(run, tmp_path):
    loaded = cglo_jax.load_classifier(run[0], "cglo")
    paths = [tmp_path / f"{i}.png" for i in range(len(IMAGES))]
    for path, image in zip(paths, IMAGES, strict=True):
        large = image.repeat(3, 0).repeat(3, 1)[..., 0]  # 24 px
        wide = np.pad(large, ((0, 0), (6, 6)), constant_values=255)
        Image.fromarray(np.stack([wide] * 3, -1)).save(path)
    images = np.stack(loaded.read(paths))
    assert (images.shape, images.dtype) == ((5, 8, 8, 1), np.uint8)
    inner = (slice(None), slice(2, -2), slice(2, -2))  # the rest has seen the white
    assert np.abs(images[inner].astype(int) - IMAGES[inner]).max() < 30
    names, probabilities = loaded.predict(paths)
    np.testing.assert_array_equal(probabilities, loaded.predict(images)[1])
    assert len(names) == 5
    np.testing.assert_array_equal(loaded.predict(str(paths[2]))[1].shape, (1, 3))
    assert loaded.predict([])[1].shape == (0, 3)


def test_files_are_put_on_the_background_and_scaled_by_the_bits_of_training(tmp_path):
    config, dataset = put_run(tmp_path / "run", seeds=(0, 1))
    dataset = dataclasses.replace(dataset, conversion=Conversion("#000000", 12, True))
    put_classifier(tmp_path / "run", config, dataset, "cglo", 0)
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4] = 255
    Image.fromarray(clear).save(tmp_path / "clear.png")
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(tmp_path / "deep.png")
    loaded = cglo_jax.load_classifier(tmp_path / "run", "cglo")
    on_black, white = loaded.read([tmp_path / "clear.png", tmp_path / "deep.png"])
    np.testing.assert_array_equal(on_black[:, :, 0], clear[..., 0])
    assert (white == 255).all()
    plain = dataclasses.replace(dataset, conversion=Conversion())
    put_classifier(tmp_path / "run", config, plain, "cglo", 1)
    on_white, dark = cglo_jax.load_classifier(tmp_path / "run", "cglo", seed=1).read(
        [tmp_path / "clear.png", tmp_path / "deep.png"]
    )
    assert (on_white == 255).all() and (dark == 16).all()
    assert (
        "read transparent or 16-bit images otherwise for seed 1 than for 0"
        in error_of(cglo_jax.load_classifier, tmp_path / "run", "cglo")
    )


def test_a_conversion_with_a_field_that_is_unknown_here_is_refused(tmp_path):
    class Other(NamedTuple):
        background: str = "#000000"
        bits: int = 8
        profiles: bool = True
        gamma: float = 2.2

    config, dataset = put_run(tmp_path / "run")
    dataset = dataclasses.replace(dataset, conversion=Other())
    put_classifier(tmp_path / "run", config, dataset, "cglo", 0)
    line = error_of(cglo_jax.load_classifier, tmp_path / "run", "cglo")
    assert "does not hold a classifier of this program" in line


def test_files_of_the_right_size_are_taken_as_they_are(run, tmp_path):
    loaded = cglo_jax.load_classifier(run[0], "cglo")
    Image.fromarray(IMAGES[0][..., 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(loaded.read([tmp_path / "a.png"])[0], IMAGES[0])


def test_the_side_that_was_cropped_is_cropped(tmp_path):
    changes = {"dataset.size": 10, "dataset.crop": 8}
    config, dataset = put_run(
        tmp_path / "run", dataset=create_dataset(channels=3), **changes
    )
    put_classifier(tmp_path / "run", config, dataset, "baseline", 0)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 14, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    loaded = cglo_jax.load_classifier(tmp_path / "run", "baseline")
    (image,) = loaded.read([tmp_path / "a.png"])
    np.testing.assert_array_equal(image, pixels[1:9, 3:11])


# What cannot be had


def test_an_untrained_method_or_seed_is_told_with_those_there_are(run):
    workdir, _ = run
    told = error_of(cglo_jax.load_classifier, workdir, "baseline")
    assert told.startswith(f"{workdir} has no trained classifier of the method 'base")
    assert "(it has cglo, mixmatch)" in told
    told = error_of(cglo_jax.load_classifier, workdir, "cglo", seed=2)
    assert told == f"{workdir} has no cglo classifier of seed 2: it has 0, 1"


def test_other_arrays_are_refused_with_both_shapes(run):
    loaded = cglo_jax.load_classifier(run[0], "cglo")
    told = error_of(loaded.predict, IMAGES.astype(np.float32))
    assert told.startswith("images are float32 of shape (5, 8, 8, 1): give uint8 of ")
    assert "(n, 8, 8, 1)" in error_of(loaded.predict, IMAGES[..., 0])


def test_a_damaged_file_is_named(run, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    loaded = cglo_jax.load_classifier(run[0], "cglo")
    told = error_of(loaded.predict, [tmp_path / "a.png"])
    assert told.startswith(f"{tmp_path / 'a.png'} cannot be used: not an image")


def test_a_checkpoint_that_is_not_of_the_result_is_refused(run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    path = results.result_path(workdir, "cglo", 1)
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "steps": 9}))
    told = error_of(cglo_jax.load_classifier, workdir, "cglo")
    assert "cglo-1 has a checkpoint of step 6, but 9 were taken" in told
    shutil.rmtree(path.parent / "checkpoints")
    assert "no checkpoint in" in error_of(cglo_jax.load_classifier, workdir, "cglo")
