"""Tests of cglo_jax/stages/sample_formats.py: every form holds the pixels, labels and names of the manifest."""

import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image

from cglo_jax.stages import sample_formats

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ("a/b\\c", 'it\'s "odd", 100 %', "été 日本", "0")
FIELDS = {"image", "label", "source", "partner", "t"}


def put_samples(directory, *, channels=3, names=NAMES, per_class=3, size=(6, 8)):
    """Writes PNGs and a manifest as --stage=sample does; returns (pixels, manifest lines)."""
    rng = np.random.default_rng(channels)
    n = per_class * len(names)
    pixels = rng.integers(0, 256, (n, *size, channels), dtype=np.uint8)
    lines = []
    for k, image in enumerate(pixels):
        label = k // per_class
        path = directory / "images" / f"class{label}" / f"{k % per_class:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if channels == 1 else image).save(path)
        lines.append(
            {
                "file": str(path.relative_to(directory)),
                "label": label,
                "class": names[label],
                "source": f"{k:032x}",
                "partner": f"{k + 1:x}-2",  # of another length
                "t": (0.1, 0.25, 0.4)[k % 3],
                "seed": 0,
            }
        )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (directory / "manifest.jsonl").write_text(text)
    return pixels, lines


def read_tfds(directory, name="cglo_birds", **options):
    """Opens what was written as a directory: (records, features)."""
    logging.set_verbosity(logging.ERROR)  # "OpenCV is not installed"
    builder = tfds.builder_from_directory(directory / "tfds" / name / "1.0.0")
    return builder.as_data_source("train", **options), builder.info.features


@pytest.mark.parametrize("channels", [1, 3])
def test_npz_holds_what_the_manifest_says(tmp_path, channels):
    pixels, lines = put_samples(tmp_path, channels=channels)
    sample_formats.write(tmp_path, ("npz",), NAMES, "birds")
    assert not (tmp_path / "tfds").exists()
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as samples:
        arrays = dict(samples)
    assert set(arrays) == {"images", "labels", "class_names", "source", "partner", "t"}
    assert (arrays["images"].dtype, arrays["labels"].dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(arrays["images"], pixels)
    assert arrays["labels"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert tuple(arrays["class_names"].tolist()) == NAMES
    for key in ("source", "partner"):
        assert arrays[key].tolist() == [line[key] for line in lines]
    assert arrays["t"].dtype == np.float32
    np.testing.assert_array_equal(arrays["t"], np.float32([0.1, 0.25, 0.4] * 4))


@pytest.mark.parametrize("channels", [1, 3])
def test_tfds_holds_what_the_manifest_says(tmp_path, channels):
    pixels, lines = put_samples(tmp_path, channels=channels)
    sample_formats.write(tmp_path, ("tfds",), NAMES, "birds")
    assert not (tmp_path / "samples.npz").exists()
    records, features = read_tfds(tmp_path)
    assert set(features) == FIELDS
    assert tuple(features["label"].names) == NAMES
    assert features["image"].shape == (6, 8, channels)
    assert len(records) == len(lines)
    for record, image, line in zip(records, pixels, lines, strict=True):
        assert record["image"].dtype == np.uint8
        np.testing.assert_array_equal(record["image"], image)
        assert record["label"] == line["label"]
        assert record["source"].decode() == line["source"]
        assert record["partner"].decode() == line["partner"]
        assert np.float32(record["t"]) == np.float32(line["t"])


def test_tfds_keeps_the_bytes_of_the_pngs(tmp_path):
    _, lines = put_samples(tmp_path)
    sample_formats.write(tmp_path, ("tfds",), NAMES, "birds")
    raw = {"image": tfds.decode.SkipDecoding()}
    records, _ = read_tfds(tmp_path, decoders=raw)
    for record, line in zip(records, lines, strict=True):
        assert record["image"] == (tmp_path / line["file"]).read_bytes()


def test_tfds_is_found_by_name_and_can_be_sliced(tmp_path):
    pixels, _ = put_samples(tmp_path)
    sample_formats.write(tmp_path, ("npz", "tfds"), NAMES, "birds")
    logging.set_verbosity(logging.ERROR)
    records = tfds.data_source(
        "cglo_birds", split="train[5:7]", data_dir=tmp_path / "tfds"
    )
    assert len(records) == 2
    np.testing.assert_array_equal(records[1]["image"], pixels[6])
    assert (tmp_path / "samples.npz").exists()


def test_many_images_are_spread_over_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_formats, "_SHARD_IMAGES", 5)
    pixels, _ = put_samples(tmp_path)
    sample_formats.write(tmp_path, ("tfds",), NAMES, "birds")
    folder = tmp_path / "tfds" / "cglo_birds" / "1.0.0"
    assert len(list(folder.glob("*.array_record-*"))) == 3
    records, _ = read_tfds(tmp_path)
    images = np.stack([record["image"] for record in records])
    np.testing.assert_array_equal(images, pixels)


def test_class_names_that_are_no_stripped_lines_stay_apart(tmp_path):
    names = (
        "cat",
        " cat",
        "cat\n",
        "c\nat",
        "",
        "\r",
        "c\tat",
        "\udce9t\udce9",
        "\xa0",
    )
    put_samples(tmp_path, names=names, per_class=1)
    sample_formats.write(tmp_path, ("npz", "tfds"), names, "birds")
    with np.load(tmp_path / "samples.npz") as samples:
        assert tuple(samples["class_names"].tolist()) == names
    _, features = read_tfds(tmp_path)
    stored = features["label"].names
    assert stored[0] == "cat"
    assert tuple(json.loads(name) for name in stored[1:]) == names[1:]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digits", "cglo_digits"),
        ("caltech_birds2011", "cglo_caltech_birds2011"),
        ("cifar10_corrupted/fog_1:1.0.0", "cglo_cifar10_corrupted_fog_1_1_0_0"),
        ("huggingface:Some-Body__birds", "cglo_huggingface_some_body_birds"),
    ],
)
def test_names_are_such_that_tfds_takes(tmp_path, name, expected):
    assert sample_formats.tfds_name(name) == expected
    put_samples(tmp_path, per_class=1)
    sample_formats.write(tmp_path, ("tfds",), NAMES, name)
    assert os.listdir(tmp_path / "tfds") == [expected]
    assert (
        len(tfds.data_source(expected, split="train", data_dir=tmp_path / "tfds")) == 4
    )


def test_nothing_is_printed_and_tensorflow_is_never_imported(tmp_path):
    put_samples(tmp_path / "samples")
    trap = tmp_path / "trap" / "tensorflow"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text("import os; os._exit(77)\n")
    code = (
        "import sys, pathlib\n"
        f"assert sys.path[1] == {str(trap.parent)!r}\n"
        "from cglo_jax.stages import sample_formats as export\n"
        f"export.write(pathlib.Path(sys.argv[1]), ('npz', 'tfds'), {NAMES!r}, 'birds')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "samples")],
        env=os.environ | {"PYTHONPATH": f"{trap.parent}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert len(read_tfds(tmp_path / "samples")[0]) == 12


def test_the_pngs_and_the_manifest_stay_as_they_are(tmp_path):
    put_samples(tmp_path)

    def digests():
        files = [*tmp_path.rglob("*.png"), tmp_path / "manifest.jsonl"]
        return {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    before = digests()
    sample_formats.write(tmp_path, ("npz", "tfds"), NAMES, "birds")
    assert digests() == before
    assert set(os.listdir(tmp_path)) == {
        "images",
        "manifest.jsonl",
        "samples.npz",
        "tfds",
    }


def test_plain_class_names_are_folder_names_as_they_are():
    names = ["cat", "001.Black_footed_Albatross", "aquarium-fish", "7", "conure"]
    assert sample_formats.folder_names(names) == names


@pytest.mark.parametrize(
    "names",
    [
        ["a/b", "a\\b", "a b"],
        ["..", ".", "", "...", "_"],
        ["Cat", "cat", "CAT", "dog"],
        ["été", "日本", "c:\0"],
        ["a b", "000_a_b", "000_A_b"],
        ["a" * 50, "A" * 50, "-rf", "../../etc"],
        ["con", "NUL.txt", "com1", "lpt9.jpg"],
    ],
)
def test_folder_names_are_safe_and_distinct(names, tmp_path):
    folders = sample_formats.folder_names(names)
    assert len(folders) == len(names)
    assert len({folder.lower() for folder in folders}) == len(names)
    for folder in folders:
        assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", folder)
        assert folder.lower().split(".")[0] not in ("con", "nul", "com1", "lpt9")
        (tmp_path / folder).mkdir()
        assert (tmp_path / folder).resolve().parent == tmp_path.resolve()


def test_pngs_hold_the_exact_pixels():
    rng = np.random.default_rng(0)
    for channels, mode in ((1, "L"), (3, "RGB")):
        image = rng.integers(0, 256, (5, 7, channels), dtype=np.uint8)
        encoded = sample_formats.encode_png(image)
        assert encoded.startswith(b"\x89PNG")
        with Image.open(io.BytesIO(encoded)) as png:
            assert (png.mode, png.size) == (mode, (7, 5))
            np.testing.assert_array_equal(np.asarray(png).reshape(image.shape), image)
