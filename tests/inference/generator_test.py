"""Tests of cglo_jax/inference/generator.py: a trained cGLO without its images."""

import dataclasses
import functools
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import cglo_jax
from cglo_jax.cglo import sampling
from cglo_jax.data import dataset as data
from cglo_jax.errors import UserError
from cglo_jax.inference import generator as inference
from cglo_jax.inference import sampler
from cglo_jax.stages import sample
from cglo_jax.training import checkpoints
from cglo_jax.workdir import directory as workdirs
from cglo_jax.workdir import trained
from tests.helpers.saved_run import STEP, put_run
from tests.helpers.tiny import create_dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(config, training images, work directory) of a finished run."""
    workdir = tmp_path_factory.mktemp("inference") / "run"
    return *put_run(workdir), workdir


@pytest.fixture(scope="module")
def model(run):
    return cglo_jax.load(run[2])


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(UserError) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_run_is_loaded_with_all_that_its_images_have_but_pixels(run, model):
    config, dataset, _ = run
    assert model.config.to_dict() == config.to_dict()
    assert (model.seed, model.step) == (0, STEP)
    assert model.class_names == dataset.class_names
    np.testing.assert_array_equal(model.labels, dataset.labels)
    hashed = trained.hash_ids(dataset.ids)
    assert model.ids == tuple(row.tobytes().hex() for row in hashed)
    np.testing.assert_allclose(np.linalg.norm(model.z, axis=1), 1, rtol=1e-6)
    assert (len(model.z), model.image_shape) == (24, (8, 8, 1))


def test_importing_the_package_does_not_import_jax(run):
    code = "import sys, cglo_jax; print('jax' in sys.modules, cglo_jax.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"False {cglo_jax.__version__}\n"


def test_a_run_can_be_moved_and_loaded_from_any_directory(
    run, model, tmp_path, monkeypatch
):
    shutil.copytree(run[2], tmp_path / "elsewhere" / "renamed")
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved = cglo_jax.load("renamed")
    os.chdir(tmp_path)  # what was loaded needs no folder
    np.testing.assert_array_equal(
        moved.sample("class 1", 3, 5), model.sample("class 1", 3, 5)
    )


def test_new_images_are_those_of_the_stage_sample(run, model, tmp_path):
    config, dataset, workdir = run
    key = jax.random.split(jax.random.key(0))[0]
    restored = sampler.restore(config, workdir, dataset, 0)
    sample.write_images(tmp_path, dataset, restored, key, 3, {})
    for label, name in enumerate(dataset.class_names):
        folder = tmp_path / "images" / f"{label:03d}_class_{label}"
        pngs = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
        made = model.sample(name, n=3, key=key)
        assert (made.shape, made.dtype) == ((3, 8, 8, 1), np.uint8)
        np.testing.assert_array_equal(made[..., 0], pngs)
        assert len({image.tobytes() for image in made}) == 3


def test_with_batch_statistics_too(run, tmp_path):
    config, dataset, workdir = run
    config = config.copy_and_resolve_references()
    config.sample.batch_statistics = "batch"
    shutil.copytree(workdir, tmp_path / "run")
    workdirs.create(config, tmp_path / "run")
    restored = sampler.restore(config, workdir, dataset, 0)
    loaded = cglo_jax.load(tmp_path / "run")
    made = loaded.sample(2, n=2, key=7)
    batches = list(sampler.synthesize_classes(restored, jax.random.key(7), 2))
    k, images, *_ = map(np.concatenate, zip(*batches, strict=True))
    np.testing.assert_array_equal(made, images[np.argsort(k)][4:])
    # Not padded, which would change the statistics.
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), np.arange(3))
    generate = jax.jit(functools.partial(sampling.generate, spec=restored.spec))
    images = generate(restored.sampler.variables, loaded.z[:3], keys)
    expected = data.to_uint8(np.asarray(images)).astype(int)
    assert np.abs(loaded.reconstruct(range(3), key=1) - expected).max() <= 1


def test_a_class_is_named_or_numbered_and_a_key_is_a_key_or_its_seed(model):
    expected = model.sample("class 2", 3, jax.random.key(3))
    for label, key in (
        (2, 3),
        (np.int32(2), np.uint8(3)),
        ("class 2", jax.random.PRNGKey(3)),
    ):
        np.testing.assert_array_equal(model.sample(label, 3, key), expected)
    assert (model.sample(2, 3, 4) != expected).any()
    assert (model.sample(1, 3, 3) != expected).any()


def test_reconstructions_are_generated_from_the_codes(run, model):
    _, dataset, workdir = run
    cglo = trained.restore(model.config, workdir, dataset, 0)
    generator = model.restored.spec.generator
    eps = [
        0.15 * jax.random.normal(jax.random.fold_in(jax.random.key(9), i), (4,))
        for i in (5, 2)
    ]
    networks, z = cglo.variables, cglo.z[[5, 2]]
    apply = jax.jit(functools.partial(generator.apply, train=False))
    images = apply(networks, z, np.stack(eps))
    made = model.reconstruct([5, 2], key=9)
    expected = np.clip(np.round((np.asarray(images) + 1) * 127.5), 0, 255)
    assert np.abs(made - expected).max() <= 1
    assert made.dtype == np.uint8


def test_training_images_are_named_by_the_manifests_ids(run, model):
    _, dataset, _ = run
    expected = model.reconstruct([7, 0])
    assert (expected[0] != expected[1]).any()
    for ids in (dataset.ids, model.ids):
        by_id = model.reconstruct([ids[7], ids[0]])
        np.testing.assert_array_equal(by_id, expected)
    again = model.reconstruct([7, dataset.ids[7]])
    np.testing.assert_array_equal(again, expected[[0, 0]])
    assert model.reconstruct([]).shape == (0, 8, 8, 1)
    assert model.reconstruct(dataset.ids[0]).shape == (1, 8, 8, 1)


def test_of_an_image_that_is_there_twice_the_first_is_meant(model):
    ids = trained.hash_ids(["cat", "dog", "cat"])
    names = tuple(row.tobytes().hex() for row in ids)
    twice = dataclasses.replace(model, ids=names)
    assert [twice._find(i) for i in ("cat", "dog", names[2])] == [0, 1, 2]


def test_many_reconstructions_are_made_in_batches(model, monkeypatch):
    expected = [model.reconstruct(pair) for pair in ([0, 1], [2, 3])]
    monkeypatch.setattr(inference, "batch_that_fits", lambda side: 2)
    whole = model.reconstruct([0, 1, 2, 3, 2])
    np.testing.assert_array_equal(whole[:4], np.concatenate(expected))
    np.testing.assert_array_equal(whole[4], whole[2])


def test_a_walk_goes_from_one_reconstruction_along_the_sphere_to_the_other(model):
    images = model.walk(model.ids[3], 6, steps=3, key=1)
    assert (images.shape, images.dtype) == ((3, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(images[0], model.reconstruct([3], key=1)[0])
    p, q = model.z[[3, 6]].astype(np.float64)
    theta = np.arccos(p @ q)
    middle = (p + q) * np.sin(theta / 2) / np.sin(theta)
    path = np.stack([p, middle, q]).astype(np.float32)
    expected = model._generate(path, np.full(3, 3), key=1)  # all with one noise
    assert np.abs(images - expected.astype(int)).max() <= 1
    assert (images[0] != images[2]).any()


# What cannot be had


def test_a_run_without_a_cglo_or_without_the_seed_says_so(run, tmp_path):
    config, _, workdir = run
    told = error_of(cglo_jax.load, workdir, seed=4)
    assert told == f"{workdir} has no cGLO of seed 4: it has 0"
    workdirs.create(config, tmp_path)
    told = error_of(cglo_jax.load, tmp_path)
    assert told == f"there is no trained cGLO in {tmp_path}: run --stage=train first"


def test_a_checkpoint_without_labels_is_refused(run, tmp_path):
    config, _, workdir = run
    directory = trained.checkpoint_dir(workdir, 0)
    model, meta, step = checkpoints.restore_latest_model(directory, "")
    del model["labels"]
    workdirs.create(config, tmp_path)
    with checkpoints.Checkpoints(trained.checkpoint_dir(tmp_path, 0)) as saved:
        saved.save(step, model, {"step": np.int32(step)}, meta)
    assert "does not hold a cGLO of this program" in error_of(cglo_jax.load, tmp_path)


def test_an_unknown_class_is_told_with_the_nearest(model):
    told = error_of(model.sample, "clas 1")
    assert told.startswith("there is no class 'clas 1': use 'class 1' or 'class ")
    names = tuple(f"{a}{b}" for a in ("ant", "bee", "cat") for b in range(9))
    many = dataclasses.replace(model, class_names=names)
    assert "did you mean 'ant1' or " in error_of(many.sample, "aant1")
    assert error_of(model.sample, 3) == "there is no class 3: they are 0 to 2"
    assert error_of(model.sample, -1) == "there is no class -1: they are 0 to 2"


def test_unknown_images_and_numbers_out_of_range_are_told(model):
    assert error_of(model.reconstruct, ["0", "abc"]).startswith(
        "no training image has the id '0': "
    )
    told = "there is no training image 24: they are 0 to 23"
    assert error_of(model.reconstruct, [24]) == told
    assert error_of(model.sample, 0, 0) == "n is 0: it must be at least 1"
    assert error_of(model.walk, 0, 1, 1) == "steps is 1: it must be at least 2"


def test_codes_of_images_added_later_are_loaded(run, tmp_path):
    workdir = shutil.copytree(run[2], tmp_path / "run")
    directory = trained.checkpoint_dir(workdir, 0)
    model, meta, _ = checkpoints.restore_latest_model(directory, "")
    grown = create_dataset(27)
    z = np.concatenate([model["z"], -model["z"][:3]])
    ids, labels = trained.hash_ids(grown.ids), grown.labels
    directory = trained.codes_dir(workdir, 0, grown, model)
    fitted = {**model, "z": z, "ids": ids, "labels": labels}
    with checkpoints.Checkpoints(directory) as saved:
        saved.save(4, fitted, {"step": np.int32(4)}, {**meta, "total": 5})
        saved.wait()
        assert len(cglo_jax.load(workdir).ids) == 24  # not all steps were taken
        saved.save(5, fitted, {"step": np.int32(5)}, {**meta, "total": 5})
    fewer = {**fitted, "z": z[:25], "ids": ids[:25], "labels": labels[:25]}
    for name in ("images-0", "images-z"):  # what a killed call has not removed
        with checkpoints.Checkpoints(directory.with_name(name)) as saved:
            saved.save(5, fewer, {"step": np.int32(5)}, {**meta, "total": 5})
    loaded = cglo_jax.load(workdir)
    assert loaded._find(grown.ids[26]) == 26
    np.testing.assert_array_equal(loaded.z, z)
