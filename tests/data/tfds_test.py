"""Tests of cglo_jax/data/tfds.py on made-up data sets, written by TFDS's own builders."""

import contextlib
import hashlib
import io
import os
import pathlib
import subprocess
import sys
import threading
import time
import types
import weakref

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image

from cglo_jax.data import dataset as data
from cglo_jax.data import tfds as tfds_source
from cglo_jax.errors import UserError
from tests.helpers.tiny import error_of, fields, hash_pixels

ROOT = pathlib.Path(__file__).parents[2]


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def encode(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def prepare(builder: tfds.core.DatasetBuilder, splits: dict[str, list[dict]]) -> None:
    """Writes a prepared directory, as tests/data/archives_test.py shows to be TFDS's own."""
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
    assert (train.split, test.split) == ("train", "validation")
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


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (encode(random_image(40, 40))[:700], ""),
        (encode(random_image(40, 40), "JPEG")[:700], ""),
        (encode(random_image(40, 40))[:20], "Truncated File Read"),
        (encode(random_image(8, 8), "BMP"), "not a PNG or JPEG image"),
        (b"", "not a PNG or JPEG image"),
    ],
)
def test_tfds_with_an_image_that_cannot_be_decoded(tmp_path, image, reason, split):
    splits = {name: made_up_examples(4, 40, 40) for name in ("train", "test")}
    splits[split][3]["image"] = image
    dataset = create_made_up(tmp_path, made_up_features(1), splits)
    dataset.shots = 2
    # TFDS shuffles what it writes, so the record's number is looked up.
    builder = tfds.builder("made_up", data_dir=tmp_path)
    skip = {"image": tfds.decode.SkipDecoding()}
    records = builder.as_data_source(split=split, decoders=skip)
    (number,) = (i for i, record in enumerate(records) if record["image"] == image)
    text = error_of(dataset)
    assert text.startswith(
        f"data set 'made_up', split {split!r}, record {number} cannot be decoded "
        f"({reason}"
    )
    assert text.endswith("): prepare it again")


def test_few_images_are_held_at_once(tmp_path):
    splits = {"train": made_up_examples(60, 8, 8), "test": made_up_examples(2, 8, 8)}
    source = tfds_source.read(
        create_made_up(tmp_path, made_up_features(1), splits)
    ).train
    images, alive, lock = [], [], threading.Lock()

    def use(image: Image.Image) -> str:
        with lock:
            images.append(weakref.ref(image))
            alive.append(sum(one() is not None for one in images))
        time.sleep(0.001)
        return hash_pixels(np.asarray(image))

    assert source.read(range(60), use) == source.ids
    assert 1 < max(alive) <= 5
    assert not any(image() for image in images)
    assert source.read([], use) == []


def test_tfds_not_prepared(tmp_path, monkeypatch):
    data_dir = tmp_path / "my data"
    assert error_of(fields(name="cifar100", data_dir=str(data_dir))) == (
        f"data set 'cifar100' is not prepared in {data_dir}/cifar100/3.0.2: run "
        f"`python -m cglo_jax.prepare cifar100 --data_dir '{data_dir}'` first, or "
        "say where it is (dataset.data_dir or TFDS_DATA_DIR)"
    )
    assert error_of(fields(name="mnist", data_dir=str(data_dir))) == (
        f"data set 'mnist' is not prepared in {data_dir}/mnist/3.0.1: "
        "prepare it with TFDS's file_format='array_record' first, or "
        "say where it is (dataset.data_dir or TFDS_DATA_DIR)"
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
        "from cglo_jax import config; from cglo_jax.data import dataset as data\n"
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


# CUB-200: class names in the records, subsets by lists of image_ids

BIRDS = (
    "001.Black_Owl/a.jpg",
    "001.Black_Owl/b.jpg",
    "002.Wren/c.jpg",
    "002.Wren/d.jpg",
)


def create_cub(data_dir: pathlib.Path) -> ConfigDict:
    """Four training images and one test image, as TFDS stores CUB-200's."""
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "image/filename": tfds.features.Text(),
        "label": tfds.features.ClassLabel(num_classes=2),
        "label_name": tfds.features.Text(),
    }
    examples = [
        {
            "image": encode(random_image(8, 8 + i, 3), "JPEG"),
            "image/filename": f"CUB_200_2011/images/{path}",
            "label": int(path[2]) - 1,
            "label_name": path[4:].split("/")[0].lower(),
        }
        for i, path in enumerate([*BIRDS, "002.Wren/e.jpg"])
    ]
    return create_made_up(
        data_dir, features, {"train": examples[:4], "test": examples[4:]}
    )


def write_lists(folder: pathlib.Path, split: str, images: str = "") -> pathlib.Path:
    named = enumerate([*BIRDS, "002.Wren/e.jpg", "002.Wren/gone.jpg"], 1)
    text = images or "".join(f"{i} {path}\n" for i, path in named)
    (folder / "images.txt").write_text(text)
    path = folder / "split.txt"
    path.write_text(split)
    return path


def test_class_names_in_the_records(tmp_path):
    dataset = create_cub(tmp_path)
    dataset.size = 8
    train, _ = data.load(dataset)
    assert train.class_names == ("black_owl", "wren")


def test_crops(tmp_path):
    dataset = create_cub(tmp_path)
    dataset.size, dataset.crop, dataset.shots = 8, 5, 2
    train, test = data.load(dataset)
    assert (train.images.shape, test.images.shape) == ((4, 5, 5, 3), (1, 5, 5, 3))
    assert train.canvas.pixels.shape == (4, 8, 11, 3)
    assert sorted(train.canvas.lengths) == [8, 9, 10, 11]
    for image, whole, length in zip(
        train.images, train.canvas.pixels, train.canvas.lengths, strict=True
    ):
        left = (length - 5) // 2
        np.testing.assert_array_equal(image, whole[1:6, left : left + 5])
    assert test.canvas is None
    assert data.describe(train, test).endswith(
        "5x5 px, to classifiers as random crops of images whose short side is 8 px"
    )


def test_split_file_restricts_the_labelled_images(tmp_path):
    dataset = create_cub(tmp_path)
    dataset.size = 8
    dataset.split_file = str(write_lists(tmp_path, "1 0\n2 1\n3 0\n4 1\n5 0\n"))
    # The table is called after its own data set: this one is the made-up one's.
    splits = tfds_source.read(dataset)
    eligible = [
        i for i, yes in zip(splits.train.ids, splits.train.eligible, strict=True) if yes
    ]
    wanted = [encode(random_image(8, 8 + i, 3), "JPEG") for i in (1, 3)]
    assert sorted(eligible) == sorted(
        hashlib.sha256(w).hexdigest()[:32] for w in wanted
    )


def test_a_split_file_needs_names_of_files():
    unnamed = types.SimpleNamespace(filenames=())
    with pytest.raises(
        UserError, match="split_file is for data sets with file names only"
    ):
        tfds_source._eligible({"001.Bird/a.jpg"}, unnamed, unnamed)


@pytest.mark.parametrize(
    ("split", "images", "message"),
    [
        ("1 2\n", "", "split.txt: is_train is '2' in a line, it must be 0 or 1"),
        ("1 1 1\n", "", "split.txt, line 1: '1 1 1' is not 'image_id is_train'"),
        ("1 1\n1 0\n", "", "split.txt, line 2: '1 0' is not 'image_id is_train'"),
        ("9 1\n", "", "split.txt has image_id 9, which is not in images.txt"),
        ("5 1\n", "", "split_file trains on 1 test images, such as 002.Wren/e.jpg"),
        (
            "6 1\n",
            "",
            "lists 1 images that are not in the data set, such as 002.Wren/gone",
        ),
        ("1 1\n", "1\n", "images.txt, line 1: '1' is not 'image_id path'"),
    ],
)
def test_split_files_that_are_wrong(tmp_path, split, images, message):
    dataset = create_cub(tmp_path)
    dataset.split_file = str(write_lists(tmp_path, split, images))
    with pytest.raises(UserError) as error:
        tfds_source.read(dataset)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_split_file_needs_its_images_txt(tmp_path):
    path = write_lists(tmp_path, "1 1\n")
    (tmp_path / "images.txt").unlink()
    with pytest.raises(
        UserError,
        match=r"images\.txt cannot be read \(No such file or directory\): .* beside it",
    ):
        tfds_source.read_split_file(path)


def test_split_file_is_for_cub_only():
    assert error_of(fields(split_file="a.txt")) == (
        "config.dataset.split_file is for config.dataset.name=caltech_birds2011, not digits"
    )
    assert error_of(fields(path="photos")) == (
        "config.dataset.path is for config.dataset.name=folder, not digits"
    )
    assert error_of(fields(strict=True)) == (
        "config.dataset.strict is for config.dataset.name=folder, not digits"
    )
