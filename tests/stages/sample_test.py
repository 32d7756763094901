"""Tests of cglo_jax/stages/sample.py: what is written for people is what the classifier is given."""

import dataclasses
import hashlib
import json

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image

from cglo_jax.cglo import algorithm
from cglo_jax.errors import UserError
from cglo_jax.files import ownership
from cglo_jax.inference import sampler
from cglo_jax.report import figures, fonts
from cglo_jax.stages import sample, train
from cglo_jax.training import checkpoints
from cglo_jax.workdir import trained as restoring
from tests.helpers.tiny import create_config, create_dataset
from tests.training.run_log_test import TIMINGS, fields_of

TEST_SET = create_dataset(9, seed=1, split="test")


def manifest(directory) -> list[dict]:
    text = (directory / "manifest.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def all_files(directory) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def numpy_slerp(p, q, t):
    """Eq. (3), in float64."""
    p, q = p.astype(np.float64), q.astype(np.float64)
    theta = np.arccos(p @ q)
    return (np.sin((1 - t) * theta) * p + np.sin(t * theta) * q) / np.sin(theta)


def check_walks(directory, dataset):
    """The tiles of walks.png are the images of interpolations.png in their order."""
    told = json.loads((directory / "walks.json").read_text())
    assert told["classes"] == list(dataset.class_names)
    assert told["t"] == [k / 8 for k in range(9)]
    assert told["tile"] == [64, 64]  # 8 x 8 pixels, 8 times as large
    with Image.open(directory / "walks.png") as picture:
        walks = np.asarray(picture)
    with Image.open(directory / "interpolations.png") as picture:
        grid = np.asarray(picture)
    assert walks.shape == (3 * 64, 9 * 64, 3)
    tiles = walks.reshape(3, 64, 9, 64, 3).swapaxes(1, 2)
    # The last image ends 2 pixels before the corner, as every one does before the next.
    for row, column in np.ndindex(3, 9):
        y, x = 66 * (row - 3), 66 * (column - 9)
        shown = grid[y : y + 64 or None, x : x + 64 or None]
        np.testing.assert_array_equal(tiles[row, column], shown)


@pytest.fixture
def no_figures(monkeypatch):
    """Leaves out what takes most of the time and is tested once."""
    monkeypatch.setattr(sample, "write_figures", lambda *_: None)


def test_test_images_that_were_learnt_are_not_compared_with(trained, no_figures):
    config, dataset, workdir = trained
    ids = (*dataset.ids[:2], *TEST_SET.ids[2:])
    sample.run(config, workdir, (dataset, dataclasses.replace(TEST_SET, ids=ids)), 0)
    told = json.loads((workdir / "samples" / "nearest.json").read_text())
    assert told["held_out"] == len(TEST_SET.ids) - 2


def test_everything_written_is_what_the_manifest_says(trained):
    config, dataset, workdir = trained
    directory = sample.run(config, workdir, (dataset, TEST_SET), 0)
    assert directory == workdir / "samples"
    lines = manifest(directory)
    files = all_files(directory)
    figures = {"reconstructions.png", "interpolations.png", "walks.png", "codes.png"}
    figures |= {"nearest.png"}
    told = {"manifest.jsonl", "walks.json", "nearest.json", ownership.RECORD}
    assert set(files) == {line["file"] for line in lines} | figures | told
    for name in figures:
        with Image.open(directory / name) as picture:
            assert min(picture.size) > 20
    index = {image_id: i for i, image_id in enumerate(dataset.ids)}
    assert [line["label"] for line in lines] == [0, 0, 1, 1, 2, 2]
    for line in lines:
        i, j = index[line["source"]], index[line["partner"]]
        assert i != j
        assert dataset.labels[i] == dataset.labels[j] == line["label"]
        assert line["class"] == dataset.class_names[line["label"]]
        assert line["t"] in (0.1, 0.2, 0.3, 0.4)
        assert (line["seed"], line["sample_seed"]) == (0, 0)
        assert line["checkpoint_step"] == 60
        assert line["sha256"] == hashlib.sha256(files[line["file"]]).hexdigest()
    assert json.loads(files["nearest.json"])["checked"] == 6
    check_walks(directory, dataset)
    (timing,) = [
        t
        for t in map(json.loads, (workdir / "timings.jsonl").read_text().splitlines())
        if t["stage"] == "sample"
    ]
    assert timing["images"] == 6
    assert timing.keys() == fields_of(TIMINGS, "sample")


def test_pngs_are_the_generators_images_of_the_drawn_pairs(
    trained, no_figures, monkeypatch
):
    monkeypatch.setattr(sampler, "batch_that_fits", lambda side: 4)  # several
    config, dataset, workdir = trained
    config.sample.per_class = 5
    lines = manifest(sample.run(config, workdir, (dataset, TEST_SET), 0))
    model = restoring.restore(config, workdir, dataset, 0)
    index = {image_id: i for i, image_id in enumerate(dataset.ids)}
    z = [
        numpy_slerp(
            model.z[index[line["source"]]],
            model.z[index[line["partner"]]],
            line["t"],
        )
        for line in lines
    ]
    key = jax.random.split(jax.random.key(0))[0]
    keys = [
        jax.random.split(jax.random.fold_in(key, k), 3)[2] for k in range(len(lines))
    ]
    eps = np.stack([0.15 * jax.random.normal(k, (4,)) for k in keys])
    generator = algorithm.create_spec(config, dataset).generator.clone(axis_name=None)
    variables = model.variables
    images = jax.jit(lambda z, eps: generator.apply(variables, z, eps, train=False))(
        np.float32(z), eps
    )
    expected = np.clip(np.round((np.asarray(images) + 1) * 127.5), 0, 255)
    pngs = []
    for line in lines:
        with Image.open(workdir / "samples" / line["file"]) as png:
            assert (png.format, png.mode, png.size) == ("PNG", "L", (8, 8))
            pngs.append(np.asarray(png))
    difference = np.abs(np.stack(pngs) - expected[..., 0])
    assert difference.max() <= 1  # the last bit of a float may round another way
    assert (difference > 0).mean() < 0.01
    assert len({png.tobytes() for png in pngs}) == 15


def test_batches_have_one_size_and_the_classes_in_turn(trained, monkeypatch):
    config, dataset, workdir = trained
    model, sizes = sampler.restore(config, workdir, dataset, 0), []
    make = sampler._synthesize_uint8

    def watched(trained, keys, i, *, spec):
        sizes.append(len(i))
        return make(trained, keys, i, spec=spec)

    monkeypatch.setattr(sampler, "_synthesize_uint8", watched)
    monkeypatch.setattr(sampler, "batch_that_fits", lambda side: 4)
    batches = list(sampler.synthesize_classes(model, jax.random.key(0), 2))
    assert sizes == [4, 4]
    k, images, i, j, t = map(np.concatenate, zip(*batches, strict=True))
    assert k.tolist() == [0, 2, 4, 1, 3, 5]
    assert dataset.labels[i].tolist() == dataset.labels[j].tolist() == [0, 1, 2] * 2
    assert (i != j).all()
    assert len(images) == len(t) == 6


def test_the_same_seed_gives_the_same_bytes_and_another_other_images(trained):
    config, dataset, workdir = trained
    first = all_files(sample.run(config, workdir, (dataset, TEST_SET), 0))
    second = all_files(sample.run(config, workdir, (dataset, TEST_SET), 0))
    assert first == second
    timings = (workdir / "timings.jsonl").read_text().splitlines()
    assert sum('"stage": "sample"' in line for line in timings) == 1
    config.sample.seed = 1
    other = all_files(sample.run(config, workdir, (dataset, TEST_SET), 0))
    assert other.keys() == first.keys()
    assert all(first[n] != other[n] for n in first if n.startswith("images"))


def test_exports_hold_the_pixels_of_the_pngs(trained, no_figures):
    config, dataset, workdir = trained
    config.sample.export = ("npz", "tfds")
    config.sample.per_class = 5
    directory = sample.run(config, workdir, (dataset, TEST_SET), 0)
    pixels = []
    for line in manifest(directory):
        with Image.open(directory / line["file"]) as png:
            pixels.append(np.asarray(png)[..., None])
    assert len(pixels) == 15
    with np.load(directory / "samples.npz", allow_pickle=False) as samples:
        np.testing.assert_array_equal(samples["images"], pixels)
        assert tuple(samples["class_names"].tolist()) == dataset.class_names
        assert set(samples["source"].tolist()) <= set(dataset.ids)
    logging.set_verbosity(logging.ERROR)  # "OpenCV is not installed"
    records = tfds.data_source(
        "cglo_digits", split="train", data_dir=directory / "tfds"
    )
    np.testing.assert_array_equal([record["image"] for record in records], pixels)
    assert [record["label"] for record in records] == [0] * 5 + [1] * 5 + [2] * 5
    config.sample.export = ()  # and the directory is replaced as a whole
    sample.run(config, workdir, (dataset, TEST_SET), 0)
    assert not (directory / "samples.npz").exists()
    assert not (directory / "tfds").exists()


def test_only_generator_and_codes_are_restored(trained, no_figures, monkeypatch):
    config, dataset, workdir = trained

    def refuse(*_):
        raise AssertionError("the whole state was restored")

    monkeypatch.setattr(checkpoints.Checkpoints, "restore", refuse)
    assert len(manifest(sample.run(config, workdir, (dataset, TEST_SET), 0))) == 6


def test_a_run_with_batch_statistics_writes_other_images(trained, no_figures):
    config, dataset, workdir = trained
    running = all_files(sample.run(config, workdir, (dataset, TEST_SET), 0))
    config.sample.batch_statistics = "batch"
    batch = all_files(sample.run(config, workdir, (dataset, TEST_SET), 0))
    assert batch.keys() == running.keys()
    assert all(batch[n] != running[n] for n in batch if n.endswith(".png") and "/" in n)


def test_a_class_with_one_image_is_its_own_partner(tmp_path, no_figures):
    # Colour images this time, and unlabelled ones, which are no class's.
    dataset = create_dataset(12, channels=3, unlabelled=4)
    labels = dataset.labels.copy()
    labels[:8] = [0, 0, 0, 1, 2, 2, 2, 2]
    dataset = dataclasses.replace(dataset, labels=labels)
    config = create_config(**{"train.epochs": 1, "train.steps_per_epoch": 40})
    train.run(config, tmp_path, dataset, 0)
    test_set = create_dataset(9, channels=3, seed=1)
    lines = manifest(sample.run(config, tmp_path, (dataset, test_set), 0))
    assert [line["label"] for line in lines] == [0, 0, 1, 1, 2, 2]
    for line in lines:
        assert (line["source"] == line["partner"]) == (line["label"] == 1)
        assert dataset.ids.index(line["source"]) < 8
    pngs = [tmp_path / "samples" / line["file"] for line in lines]
    assert pngs[2].read_bytes() != pngs[3].read_bytes()  # the noise differs
    with Image.open(pngs[0]) as png:
        assert (png.mode, png.size) == ("RGB", (8, 8))


def test_more_images_than_sources_take_them_in_turn(trained, no_figures, monkeypatch):
    config, dataset, workdir = trained
    # Several batches, the last one ragged.
    monkeypatch.setattr(sampler, "batch_that_fits", lambda side: 16)
    config.sample.per_class = 11
    lines = manifest(sample.run(config, workdir, (dataset, TEST_SET), 0))
    assert len(lines) == 33
    for label in range(3):
        of_class = [line["source"] for line in lines if line["label"] == label]
        expected = [dataset.ids[i] for i in np.flatnonzero(dataset.labels == label)]
        assert of_class == (expected * 2)[:11]
    pngs = {(workdir / "samples" / line["file"]).read_bytes() for line in lines}
    assert len(pngs) == 33


def test_without_a_checkpoint_the_error_names_the_stage(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint in .*: run --stage=train"):
        sample.run(create_config(), tmp_path, (create_dataset(), TEST_SET), 0)
    assert not (tmp_path / "samples").exists()


def test_names_that_no_font_has_are_numbered_and_listed(trained, tmp_path, monkeypatch):
    config, dataset, workdir = trained
    model = sampler.restore(config, workdir, dataset, 0)
    names = ("a", "\u540d\u524d", "c")
    monkeypatch.setattr(fonts, "_installed", tuple)
    fonts._find.cache_clear()
    shown, real = [], figures.image_grid

    def image_grid(images, rows=None, columns=None, scale=None):
        shown.extend([rows, columns])
        return real(images, rows, columns, scale)

    monkeypatch.setattr(figures, "image_grid", image_grid)
    named = dataclasses.replace(dataset, class_names=names)
    sample.write_figures(tmp_path, named, model, jax.random.key(0), "pca")
    labels = ["a", "#1", "c"]
    assert [shown[1], shown[2]] == [labels, labels]  # reconstructions, interpolations
    listed = (tmp_path / "class_names.txt").read_text(encoding="utf-8")
    assert listed == "#1 = \u540d\u524d\n"
    told = json.loads((tmp_path / "walks.json").read_text())
    assert told["classes"] == list(names)
    (other := tmp_path / "other").mkdir()
    sample.write_figures(other, dataset, model, jax.random.key(0), "pca")
    assert not (other / "class_names.txt").exists()
    fonts._find.cache_clear()
