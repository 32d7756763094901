"""Tests of cglo_jax/sources.py: identity and size of images, made-up TFDS data sets."""

import contextlib
import hashlib
import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import error_of, fields, hash_pixels
from ml_collections import ConfigDict
from PIL import Image

from cglo_jax import data, sources
from cglo_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


def test_ids_of_identical_images_differ():
    assert sources._unique(["p", "q", "p", "p"]) == ["p", "q", "p-2", "p-3"]


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(
    ("width", "height", "size", "resized", "box"),
    [
        (20, 10, 5, (10, 5), (2, 0, 7, 5)),
        (10, 20, 5, (5, 10), (0, 2, 5, 7)),
        (50, 33, 32, (48, 32), (8, 0, 40, 32)),
        (8, 8, 32, (32, 32), (0, 0, 32, 32)),
        (7, 9, 14, (14, 18), (0, 2, 14, 16)),
    ],
)
def test_fit_resizes_and_cuts_the_middle(width, height, size, resized, box):
    for shape in [(height, width), (height, width, 3)]:
        image = Image.fromarray(random_image(*shape))
        expected = image.resize(resized, Image.Resampling.BICUBIC).crop(box)
        fitted = sources._fit(image, size)
        assert fitted.size == (size, size)
        np.testing.assert_array_equal(np.asarray(fitted), np.asarray(expected))


def test_fit_leaves_images_of_the_size_alone():
    image = Image.fromarray(random_image(8, 8))
    assert sources._fit(image, 8) is image
    assert sources._fit(image, 0) is image


def test_stack():
    grey, colour = random_image(3, 6, 6), random_image(2, 6, 6, 3)
    stacked = sources._stack([Image.fromarray(x) for x in grey], 0)
    np.testing.assert_array_equal(stacked, grey[..., None])
    stacked = sources._stack([Image.fromarray(x) for x in colour], 0)
    np.testing.assert_array_equal(stacked, colour)
    sizes = [Image.fromarray(random_image(*s, 3)) for s in [(6, 6), (5, 9)]]
    assert sources._stack(sizes, 4).shape == (2, 4, 4, 3)


@pytest.mark.parametrize("sizes", [[(6, 6), (6, 7)], [(6, 6), (7, 7)], [(7, 6)]])
def test_stack_of_several_sizes(sizes):
    images = [Image.fromarray(random_image(*size)) for size in sizes]
    height, width = sizes[-1]
    with pytest.raises(UserError) as error:
        sources._stack(images, 0)
    assert str(error.value) == (
        f"images are not all squares of one size (one is {width}x{height}): "
        "set --config.dataset.size to the side you want"
    )


# TFDS


def encode(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def prepare(builder: tfds.core.DatasetBuilder, splits: dict[str, list[dict]]) -> None:
    """Writes a prepared directory, as tests/prepare_test.py shows to be TFDS's own."""
    builder._split_generators = lambda dl_manager, **_: {
        name: iter(enumerate(examples)) for name, examples in splits.items()
    }
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()


def cifar100_images(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Two training images and one test image of each of 100 classes, made up."""
    rng = np.random.default_rng(len(split))
    labels = rng.permutation(np.tile(np.arange(100), {"train": 2, "test": 1}[split]))
    return rng.integers(0, 256, (len(labels), 32, 32, 3), np.uint8), labels


@pytest.fixture(scope="module")
def tiny_cifar100(tmp_path_factory) -> str:
    """A data_dir with a made-up cifar100, prepared by the stock builder."""
    data_dir = tmp_path_factory.mktemp("tfds")
    builder = tfds.builder("cifar100", data_dir=data_dir, file_format="array_record")
    builder.info.features["label"].names = [f"fine {i}" for i in range(100)]
    builder.info.features["coarse_label"].names = [f"coarse {i}" for i in range(20)]
    splits = {}
    for split in ("train", "test"):
        examples = enumerate(zip(*cifar100_images(split), strict=True))
        splits[split] = [
            {"id": f"{i}", "image": encode(x), "label": y, "coarse_label": y % 20}
            for i, (x, y) in examples
        ]
    prepare(builder, splits)
    return str(data_dir)


def check_cifar100(dataset: data.Dataset, split: str, n: int) -> None:
    images, labels = cifar100_images(split)
    by_id = {hash_pixels(x): (x, y) for x, y in zip(images, labels, strict=True)}
    assert len({*dataset.ids}) == len(dataset.ids) == n
    for i, image, label in zip(
        dataset.ids, dataset.images, dataset.labels, strict=True
    ):
        np.testing.assert_array_equal(image, by_id[i][0])
        assert label in (by_id[i][1], -1)
    assert dataset.class_names == tuple(f"fine {i}" for i in range(100))


def test_tfds_reads_back(tiny_cifar100):
    dataset = fields(
        name="cifar100", data_dir=tiny_cifar100, shots=1, unlabelled=30, holdout=0
    )
    train, test = data.load(dataset)
    check_cifar100(train, "train", 130)
    check_cifar100(test, "test", 100)
    np.testing.assert_array_equal(train.labels[:100], np.arange(100))
    assert (train.labels[100:] == -1).all()
    np.testing.assert_array_equal(np.sort(test.labels), np.arange(100))
    assert data.load(dataset)[0].digest == train.digest
    dataset.transductive, dataset.size = True, 16
    train, test = data.load(dataset)
    assert train.images.shape == (230, 16, 16, 3)
    np.testing.assert_array_equal(train.images[130:], test.images)
    assert (train.labels[130:] == -1).all()


def test_tfds_takes_too_many_shots(tiny_cifar100):
    text = error_of(fields(name="cifar100", data_dir=tiny_cifar100, shots=3))
    assert "class 'fine 0' has only 2 training images: use 2 or fewer" in text


def create_made_up(
    data_dir: pathlib.Path,
    features: dict[str, tfds.features.FeatureConnector],
    splits: dict[str, list[dict]],
) -> ConfigDict:
    """Prepares a data set of one's own, 'made_up', and returns fields that name it."""
    with tfds.core.registered.skip_registration():

        class MadeUp(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                described = tfds.features.FeaturesDict(features)
                return tfds.core.DatasetInfo(builder=self, features=described)

            def _split_generators(self, dl_manager):
                raise NotImplementedError

            def _generate_examples(self):
                raise NotImplementedError

    prepare(MadeUp(data_dir=data_dir, file_format="array_record"), splits)
    return fields(name="made_up", data_dir=str(data_dir), shots=1)


def made_up_features(channels: int) -> dict[str, tfds.features.FeatureConnector]:
    return {
        "image": tfds.features.Image(shape=(None, None, channels)),
        "label": tfds.features.ClassLabel(names=["cat", "owl"]),
    }


def made_up_examples(n: int, *shape: int, kind: str = "PNG") -> list[dict]:
    images = np.random.default_rng(n).integers(0, 256, (n, *shape), np.uint8)
    return [{"image": encode(x, kind), "label": i % 2} for i, x in enumerate(images)]


def test_tfds_of_ones_own(tmp_path):
    """Grey images; a 'validation' split to test on; no class of the builder around."""
    pool, held_out = made_up_examples(6, 8, 8), made_up_examples(4, 8, 8)
    splits = {"train": pool, "validation": held_out}
    dataset = create_made_up(tmp_path, made_up_features(1), splits)
    train, test = data.load(dataset)
    assert (train.images.shape, test.images.shape) == ((2, 8, 8, 1), (4, 8, 8, 1))
    assert train.class_names == ("cat", "owl")
    truth = {}
    for example in held_out:
        with Image.open(io.BytesIO(example["image"])) as image:
            pixels = np.asarray(image)
        truth[hash_pixels(pixels)] = (pixels, example["label"])
    for i, image, label in zip(test.ids, test.images, test.labels, strict=True):
        np.testing.assert_array_equal(image[..., 0], truth[i][0])
        assert label == truth[i][1]


def test_tfds_jpegs_of_several_sizes(tmp_path):
    pool = made_up_examples(2, 20, 10, 3, kind="JPEG")
    pool += made_up_examples(4, 12, 16, 3, kind="JPEG")
    held_out = made_up_examples(3, 16, 16, 3, kind="JPEG")
    held_out.append({"image": encode(random_image(16, 16), "JPEG"), "label": 0})  # grey
    splits = {"train": pool, "test": held_out}
    dataset = create_made_up(tmp_path, made_up_features(3), splits)
    assert "set --config.dataset.size" in error_of(dataset)
    dataset.size = 10
    train, test = data.load(dataset)
    assert (train.images.shape, test.images.shape) == ((2, 10, 10, 3), (4, 10, 10, 3))
    hashes = [hashlib.sha256(e["image"]).hexdigest()[:32] for e in held_out]
    assert sorted(test.ids) == sorted(hashes)


@pytest.mark.parametrize("has_image", [False, True])
def test_tfds_that_is_not_for_classification(tmp_path, has_image):
    features = {"label": tfds.features.Text()}
    example = {"label": "a"}
    if has_image:
        features["image"] = made_up_features(1)["image"]
        example["image"] = made_up_examples(1, 8, 8)[0]["image"]
    dataset = create_made_up(tmp_path, features, {"train": [example]})
    assert error_of(dataset) == (
        "data set 'made_up' has no image and label features: "
        "it is not for image classification"
    )


def test_tfds_without_test_images(tmp_path):
    splits = {"train": made_up_examples(2, 8, 8), "extra": made_up_examples(2, 8, 8)}
    dataset = create_made_up(tmp_path, made_up_features(1), splits)
    text = error_of(dataset)
    assert text.startswith("data set 'made_up' has the splits ")
    assert "extra" in text
    assert text.endswith(": train and test are needed")


def test_tfds_that_needs_tensorflow(tmp_path):
    splits = {"train": made_up_examples(2, 8, 8), "test": made_up_examples(2, 8, 8)}
    dataset = create_made_up(tmp_path, made_up_features(1), splits)
    data.load(dataset)
    path = tmp_path / "made_up" / "1.0.0"
    info = path / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    assert error_of(dataset) == (
        f"data set 'made_up' in {path} is stored as tfrecord, which only TensorFlow "
        "reads: prepare it again with file_format='array_record' in another data_dir"
    )


def test_tfds_that_lost_a_file(tmp_path):
    splits = {"train": made_up_examples(2, 8, 8), "test": made_up_examples(2, 8, 8)}
    dataset = create_made_up(tmp_path, made_up_features(1), splits)
    (gone,) = tmp_path.glob("made_up/1.0.0/*-test.array_record*")
    gone.unlink()
    text = error_of(dataset)
    assert gone.name in text
    assert text.endswith(": prepare it again")


def test_tfds_not_prepared(tmp_path, monkeypatch):
    data_dir = tmp_path / "my data"
    assert error_of(fields(name="cifar100", data_dir=str(data_dir))) == (
        f"data set 'cifar100' is not prepared in {data_dir}/cifar100/3.0.2: run "
        f"`python -m cglo_jax.prepare cifar100 --data_dir '{data_dir}'` first"
    )
    assert error_of(fields(name="mnist", data_dir=str(data_dir))) == (
        f"data set 'mnist' is not prepared in {data_dir}/mnist/3.0.1: "
        "prepare it with TFDS's file_format='array_record' first"
    )
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar1000", "no data set is called 'cifar1000': did you mean 'cifar100'?"),
        ("cifar-100", "no data set is called 'cifar-100': did you mean 'cifar100'?"),
        ("Digits", "no data set is called 'Digits': did you mean 'digits'?"),
        ("digit", "no data set is called 'digit': did you mean 'digits'?"),
        (
            "../zzzz",
            "no data set is called '../zzzz': use 'digits' or the name of a TFDS data set",
        ),
        ("", "no data set is called '': use 'digits' or the name of a TFDS data set"),
        (
            "cifar100/small",
            "TFDS cannot open 'cifar100/small': "
            + "BuilderConfig small not found with version 3.0.2",
        ),
        (
            "cifar100:9.9.9",
            "TFDS cannot open 'cifar100:9.9.9': "
            + "Dataset cifar100 cannot be loaded at version 9.9.9, only: 3.0.2",
        ),
    ],
)
def test_tfds_unknown_names(tmp_path, name, message):
    text = error_of(fields(name=name, data_dir=str(tmp_path)))
    assert text == f"config.dataset.name: {message}"


def test_tensorflow_is_never_imported(tmp_path, tiny_cifar100):
    trap = tmp_path / "tensorflow"
    trap.mkdir()
    (trap / "__init__.py").write_text("import os; os._exit(77)\n")
    code = (
        "from cglo_jax import config, data\n"
        "fields = config.get_config().dataset\n"
        f"fields.update(name='cifar100', data_dir={tiny_cifar100!r}, shots=2)\n"
        "print(data.load(fields)[0].images.shape)\n"
        "try:\n"
        "    fields.name = 'cifar1000'\n"
        "    data.load(fields)\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    shape, error = done.stdout.splitlines()
    assert shape == "(200, 32, 32, 3)"
    assert "did you mean 'cifar100'?" in error
