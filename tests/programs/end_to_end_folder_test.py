"""A folder of images through every stage by one command, then more images: python -m cglo_jax.main."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.helpers.tiny import create_dataset

ROOT = pathlib.Path(__file__).parents[2]
FIELDS = {
    "seeds": "(0,)",
    "devices": "1",
    "dataset.size": "16",
    "latent.dim": "8",
    "generator.width": "8",
    "weak_classifier.width": "4",
    "train.epochs": "2",
    "train.steps_per_epoch": "5",
    "train.batch_size": "8",
    "train.lr_drop_epochs": "()",
    "sample.per_class": "2",
    "sample.projection": "pca",
    "sample.export": "('npz','tfds')",
    "classify.width": "1",
    "classify.epochs": "1",
    "classify.steps_per_epoch": "5",
    "classify.batch_size": "8",
    "classify.lr_drop_epochs": "()",
}


def run(folder, workdir, *more: str) -> subprocess.CompletedProcess:
    changes = [f"--config.{k}={v}" for k, v in FIELDS.items()]
    program = [sys.executable, "-m", "cglo_jax.main", "--config=configs/folder.py"]
    paths = [f"--config.dataset.path={folder}", f"--workdir={workdir}"]
    done = subprocess.run(
        [*program, *paths, *changes, *more],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert "Traceback" not in done.stderr
    return done


def write_images(folder: pathlib.Path, numbers: range) -> None:
    """Images of three classes, 'class 0' with twice as many, as PNG and JPEG of several shapes.

    Of the first 32, PNGs of each class are held out and others are not, whatever the JPEGs,
    whose ids depend on the encoder: so images added later move none.
    """
    images = create_dataset(60, size=24, channels=3).images
    for i in numbers:
        label = (i % 4) % 3
        path = folder / f"class {label}" / (f"{i}.jpg" if i % 5 == 0 else f"{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[3 * i // 2][: 24 - i % 3]).save(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, workdir, what was printed) of a folder with 32 images and a text file."""
    base = tmp_path_factory.mktemp("folder")
    write_images(base / "photos", range(32))
    (base / "photos" / "class 1" / "notes.txt").write_text("not an image")
    done = run(base / "photos", base / "run")
    assert done.returncode == 0, done.stderr
    return base / "photos", base / "run", done.stdout


def test_every_stage_ran(finished):
    folder, workdir, out = finished
    assert f"folder {folder}: 32 images in 3 classes (class 0 16, " in out
    counts = re.search(
        r"(\d+) labelled training images of 3 classes, (\d+) test images "
        r"\(held out of the folder\), 16x16 px",
        out,
    )
    n_train, n_test = map(int, counts.groups())
    assert n_train + n_test == 32 and n_test >= 3
    skipped = (workdir / "skipped.txt").read_text().splitlines()
    assert len(skipped) == 1
    assert "class 1/notes.txt: not an image" in skipped[0]
    text = (workdir / "report.md").read_text()
    assert text.startswith(
        f"# photos: {n_train} labelled images of 3 classes, no external"
    )
    assert "no-external-weights mode" in text
    for name in ("baseline-0", "cglo-0"):
        result = json.loads(
            (workdir / "classifiers" / name / "result.json").read_text()
        )
        assert result["n_test"] == n_test


def test_samples_can_be_read_as_a_folder_npz_and_tfds(finished):
    import tensorflow_datasets as tfds

    _, workdir, _ = finished
    samples = workdir / "samples"
    with np.load(samples / "samples.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    assert (images.shape, images.dtype) == ((6, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 2, 2])
    records = tfds.data_source("cglo_folder", split="train", data_dir=samples / "tfds")
    for image, record in zip(images, records, strict=True):
        np.testing.assert_array_equal(record["image"], image)
    pngs = sorted((samples / "images").glob("*/*.png"))
    for image, png in zip(images, pngs, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(png)), image)


@pytest.mark.slow
def test_codes_for_images_added_later(finished, tmp_path):
    folder, workdir, _ = finished
    more, new = tmp_path / "more", tmp_path / "new"
    shutil.copytree(folder, more)
    write_images(more, range(32, 40))
    new.mkdir()
    shutil.copytree(workdir / "checkpoints", new / "checkpoints")
    refused = run(more, new, "--stage=sample")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "--config.train.only_codes=True" in refused.stderr
    done = run(more, new, "--config.train.only_codes=True")
    assert done.returncode == 0, done.stderr
    assert "images without a code" in done.stdout
    assert (new / "report.html").exists()


def test_a_folder_that_is_not_there_is_one_line_and_status_2(tmp_path):
    done = run(tmp_path / "nothing", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "nothing") in done.stderr
    assert not list(tmp_path.glob("run/*/*"))
