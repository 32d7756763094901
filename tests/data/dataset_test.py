"""Tests of cglo_jax/data/dataset.py: digits and the real CIFAR-100."""

import dataclasses
import hashlib
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cglo_jax.data import dataset as data
from cglo_jax.errors import UserError
from tests.helpers.tiny import error_of, fields, hash_pixels

ROOT = pathlib.Path(__file__).parents[2]


# Digits


def true_digits() -> dict[str, tuple[np.ndarray, int]]:
    """Returns {id: (image, label)} of the 1797 digits, straight from scikit-learn."""
    bunch = load_digits()
    images = np.rint(bunch.images * 255 / 16).astype(np.uint8)
    return {
        hash_pixels(image): (image, label)
        for image, label in zip(images, bunch.target, strict=True)
    }


def check_digits(dataset: data.Dataset, hidden: slice = slice(0)) -> None:
    """Asserts that these are digits with their labels, but for the `hidden` ones."""
    truth = true_digits()
    labels = np.array([truth[i][1] for i in dataset.ids])
    labels[hidden] = -1
    np.testing.assert_array_equal(dataset.labels, labels)
    images = np.stack([truth[i][0] for i in dataset.ids])[..., None]
    np.testing.assert_array_equal(dataset.images, images)
    assert (dataset.images.dtype, dataset.labels.dtype) == (np.uint8, np.int32)
    assert dataset.class_names == tuple("0123456789")
    assert dataset.num_labelled == (labels >= 0).sum()


def test_digits_are_1000_and_797():
    train, test = data.load(fields(shots=1, unlabelled=990))
    check_digits(test)
    check_digits(train, slice(10, None))
    assert (len(train.ids), len(test.ids)) == (1000, 797)
    assert {*train.ids, *test.ids} == set(true_digits())
    assert (train.split, test.split) == ("train", "test")


def test_digits_chosen_are_the_same_everywhere():
    train, test = data.load(fields(shots=2, split_seed=0))
    assert train.ids[:4] == (
        "d73675b0e046e6826bccccc726c14a01",
        "608e9390e2732996c759e17058c763c3",
        "8ba8d864871fb98d27c2d200d4c8db88",
        "05ffa0d39b98ef1cca1880e3a79da7d6",
    )
    assert train.digest == "daef0ed75179b42a8f0241f42a16233a"
    assert test.digest == "becfba7a8766bf01684bac82e5289e02"
    np.testing.assert_array_equal(train.labels, np.repeat(np.arange(10), 2))
    check_digits(train)


def test_the_split_seed_chooses_others_and_the_same_test_images():
    train, test = data.load(fields(shots=5, split_seed=0))
    other, test_too = data.load(fields(shots=5, split_seed=1))
    check_digits(other)
    assert len({*train.ids} & {*other.ids}) < 10
    assert test_too.digest == test.digest


def test_each_seed_draws_its_own_images_if_asked_for(monkeypatch):
    opened = []
    read = data.sources.read_digits
    monkeypatch.setattr(
        data.sources, "read_digits", lambda f: opened.append(f) or read(f)
    )
    own = {"shots": 5, "unlabelled": 20, "split_seed": 3}
    images = data.Images(fields(**own, split_per_seed=True))
    drawn = {seed: images.of(seed) for seed in (0, 1, 2)}
    assert len(opened) == 1
    for seed, (train, test) in drawn.items():
        expected, tested = data.load(fields(**own | {"split_seed": 3 + seed}))
        assert (train.digest, test.digest) == (expected.digest, tested.digest)
        assert test.images is drawn[0][1].images  # read once
        np.testing.assert_array_equal(train.images, expected.images)
    assert len({train.digest for train, _ in drawn.values()}) == 3
    assert images.of(1)[0].digest == drawn[1][0].digest
    shared = data.Images(fields(**own))
    assert shared.of(2)[0] is shared.of(0)[0]


def test_a_folder_holds_out_the_same_test_images_for_every_seed(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(12):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    drawn = {"name": "folder", "path": str(tmp_path), "shots": 3, "size": 8}
    images = data.Images(fields(**drawn, split_per_seed=True))
    sets = [images.of(seed) for seed in (0, 1, 2)]
    assert len({test.digest for _, test in sets}) == 1
    assert len({train.digest for train, _ in sets}) == 3
    tested = set(sets[0][1].ids)
    assert tested and all(not tested & set(train.ids) for train, _ in sets)


def test_some_classes_only():
    train, test = data.load(fields(shots=2, classes=4, unlabelled=30))
    kept = ["0", "3", "6", "9"]
    assert train.class_names == test.class_names == tuple(kept)
    np.testing.assert_array_equal(train.labels[:8], np.repeat(np.arange(4), 2))
    truth = true_digits()
    for dataset in (train, test):
        for i, label in zip(dataset.ids, dataset.labels, strict=True):
            digit = str(truth[i][1])
            assert digit == kept[label] if label >= 0 else digit in kept
    _, all_of_them = data.load(fields(shots=2))
    names = [str(truth[i][1]) for i in all_of_them.ids]
    assert len(test.ids) == sum(name in kept for name in names)


@pytest.mark.parametrize("classes", [1, 11])
def test_classes_that_are_not_there(classes):
    with pytest.raises(UserError, match=r"classes is \d+, but there are 10 classes"):
        data.load(fields(shots=2, classes=classes))


def test_parts_of_digits_are_disjoint():
    train, test = data.load(fields(shots=5, unlabelled=200, holdout=300))
    check_digits(train, slice(50, None))
    check_digits(test)
    assert (len(train.ids), len(test.ids), test.split) == (
        250,
        300,
        "held out of train",
    )
    _, real_test = data.load(fields(shots=5))
    assert len({*train.ids, *test.ids, *real_test.ids}) == 250 + 300 + 797
    assert data.describe(train, test) == (
        "data: 50 labelled and 200 unlabelled training images of 10 classes, "
        "300 test images (held out of train), 8x8 px"
    )


def test_more_unlabelled_images_keep_the_others():
    few, _ = data.load(fields(shots=5, unlabelled=20))
    many, _ = data.load(fields(shots=5, unlabelled=60))
    assert many.ids[:70] == few.ids
    counts = np.bincount([true_digits()[i][1] for i in many.ids[50:]], minlength=10)
    assert (counts > 0).all()  # the pool is drawn, not the first images of a file


def test_description_without_unlabelled_images():
    assert data.describe(*data.load(fields(shots=3, size=16))) == (
        "data: 30 labelled training images of 10 classes, 797 test images (test), 16x16 px"
    )


def test_too_many_shots():
    counts = np.bincount(load_digits().target)
    counts -= np.bincount(data.load(fields(shots=1))[1].labels)
    assert counts.sum() == 1000
    first = int(np.flatnonzero(counts < 100)[0])
    assert error_of(fields(shots=100)) == (
        f"config.dataset.shots is 100, but class '{first}' has only {counts[first]} "
        f"training images: use {counts[first]} or fewer"
    )
    most = int(counts.min())
    assert data.load(fields(shots=most))[0].num_labelled == 10 * most
    assert "config.dataset.shots" in error_of(fields(shots=most + 1))


def test_too_many_unlabelled_images():
    assert error_of(fields(shots=5, unlabelled=900, holdout=51)) == (
        "config.dataset.unlabelled + holdout = 951, but only 950 training images are "
        "left beside the 50 labelled ones"
    )
    data.load(fields(shots=5, unlabelled=900, holdout=50))


# Transductive


def test_transductive_adds_the_test_images_without_labels():
    train, test = data.load(fields(shots=5, unlabelled=30, transductive=True))
    plain, plain_test = data.load(fields(shots=5, unlabelled=30))
    assert train.ids == plain.ids + test.ids
    check_digits(train, slice(50, None))
    np.testing.assert_array_equal(train.images[80:], test.images)
    assert test.digest == plain_test.digest


def test_transductive_on_a_holdout():
    train, test = data.load(fields(shots=5, holdout=100, transductive=True))
    assert test.split == "held out of train"
    assert train.ids[50:] == test.ids
    check_digits(train, slice(50, None))
    check_digits(test)


@pytest.mark.parametrize("garbage", ["scrambled", "absurd"])
def test_labels_of_test_images_are_never_read(monkeypatch, garbage):
    digits = data.read

    def poisoned(dataset):
        splits = digits(dataset)
        labels = np.random.default_rng(0).permutation(splits.test.labels)
        labels = labels if garbage == "scrambled" else np.full_like(labels, 999)
        return splits._replace(test=dataclasses.replace(splits.test, labels=labels))

    dataset = fields(shots=5, unlabelled=20, transductive=True)
    train, test = data.load(dataset)
    monkeypatch.setattr(data, "read", poisoned)
    train_too, test_too = data.load(dataset)
    assert (test.labels != test_too.labels).mean() > 0.8  # they were poisoned
    np.testing.assert_array_equal(train.images, train_too.images)
    np.testing.assert_array_equal(train.labels, train_too.labels)
    assert train.digest == train_too.digest


# Choosing


def made_up_pool(n: int = 60, classes: int = 3) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.bytes(8).hex() for _ in range(n)], rng.integers(0, classes, n)


def test_choose_shots_by_hand():
    ids, labels = made_up_pool()
    chosen = data.choose_shots(ids, labels, ("a", "b", "c"), 4, 7)
    expected = []
    for label in range(3):
        members = [i for i, of in zip(ids, labels, strict=True) if of == label]
        members.sort(key=lambda i: hashlib.sha256(f"7/labelled/{i}".encode()).digest())
        expected += members[:4]
    assert [ids[i] for i in chosen] == expected


def test_choose_shots_does_not_depend_on_the_order():
    ids, labels = made_up_pool()
    chosen = [ids[i] for i in data.choose_shots(ids, labels, "abc", 5, 0)]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(ids))
        shuffled = [ids[i] for i in order]
        again = data.choose_shots(shuffled, labels[order], "abc", 5, 0)
        assert [shuffled[i] for i in again] == chosen


def test_fewer_shots_are_a_subset_of_more():
    ids, labels = made_up_pool()
    for shots in range(1, 10):
        fewer = data.choose_shots(ids, labels, "abc", shots, 0).reshape(3, shots)
        more = data.choose_shots(ids, labels, "abc", shots + 1, 0)
        np.testing.assert_array_equal(fewer, more.reshape(3, -1)[:, :-1])


def test_no_number_of_shots_takes_all():
    labels = np.array([1, 0, 1, 1])
    chosen = data.choose_shots(list("pqrs"), labels, "ab", 0, 0)
    assert chosen[0] == 1
    np.testing.assert_array_equal(np.sort(chosen[1:]), [0, 2, 3])


def test_a_class_with_fewer_shots_by_hand():
    labels = np.array([1, 0, 1, 1, 0, 1])
    with pytest.raises(UserError, match=r"class 'a' has only 2 .*: use 2 or fewer$"):
        data.choose_shots("pqrstu", labels, "ab", 3, 0)
    chosen = data.choose_shots("pqrstu", labels, "ab", 3, 0, shortfall=1)
    alone = [data.choose_shots("pqrstu", labels, "ab", n, 0) for n in (2, 0)]
    assert set(chosen[:2]) == {1, 4}
    np.testing.assert_array_equal(labels[chosen], [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(chosen[:4], alone[0])  # the ranks stay
    np.testing.assert_array_equal(chosen, alone[1][:5])


def test_only_eligible_images_are_labelled(monkeypatch):
    splits = data.read(fields())
    eligible = np.arange(len(splits.train.ids)) % 3 == 0
    train = dataclasses.replace(splits.train, eligible=eligible)
    monkeypatch.setattr(data, "read", lambda _: splits._replace(train=train))
    train, _ = data.load(fields(shots=3, unlabelled=970))
    check_digits(train, slice(30, None))
    may = {i for i, yes in zip(splits.train.ids, eligible, strict=True) if yes}
    assert {*train.ids[:30]} <= may
    assert {*train.ids} == {*splits.train.ids}  # the others may be unlabelled ones


def test_class_weights_by_hand():
    images = np.zeros((6, 1, 1, 1), np.uint8)
    labels = np.array([0, 0, 0, 1, 2, -1], np.int32)
    dataset = data.Dataset(images, labels, tuple("abc"), tuple("pqrstu"), "train")
    np.testing.assert_array_equal(dataset.class_weights, [1, 1, 1])
    weights = dataclasses.replace(dataset, balanced=True).class_weights
    np.testing.assert_allclose(weights, [5 / 9, 5 / 3, 5 / 3], rtol=1e-6)
    assert weights[labels[:5]].mean() == pytest.approx(1)
    assert weights.dtype == np.float32
    assert data.load(fields(class_weights=True))[0].balanced
    assert not data.load(fields())[0].balanced


@pytest.mark.parametrize(
    ("side", "images"), [(8, 256), (90, 256), (224, 41), (512, 16)]
)
def test_batches_that_fit(side, images):
    assert data.batch_that_fits(side) == images


def test_choose_shots_passes_unlabelled_images_over():
    labels = np.array([-1, 0, -1, 1])
    chosen = data.choose_shots(list("pqrs"), labels, "ab", 1, 0)
    np.testing.assert_array_equal(chosen, [1, 3])


def test_classes_with_too_few_images():
    labels = np.array([0, 0, 2, 2])
    with pytest.raises(UserError) as error:
        data.choose_shots(list("pqrs"), labels, ("cat", "dog", "owl"), 1, 0)
    assert str(error.value) == (
        "class 'dog' (label 1) has no training image: every class needs at least one"
    )
    with pytest.raises(UserError) as error:
        data.choose_shots(list("pqrs"), labels // 2, ("cat", "owl"), 3, 0)
    assert str(error.value) == (
        "config.dataset.shots is 3, but class 'cat' has only 2 training images: "
        "use 2 or fewer"
    )


def test_test_images_without_labels_are_refused_unless_others_are_held_out(monkeypatch):
    splits = data.read(fields())
    labels = np.full_like(splits.test.labels, -1)
    secret = splits._replace(test=dataclasses.replace(splits.test, labels=labels))
    monkeypatch.setattr(data, "read", lambda _: secret)
    assert "--config.dataset.holdout=N" in error_of(fields())
    _, held_out = data.load(fields(holdout=20))
    assert (held_out.labels >= 0).all()


def test_classes_of_one_image_are_named():
    images = np.zeros((5, 8, 8, 1), np.uint8)
    labels = np.array([0, 0, 1, 2, -1], np.int32)
    train = data.Dataset(images, labels, ("a", "b", "c"), tuple("pqrst"), "train")
    assert data.describe(train, train).endswith(
        "8x8 px; 2 class(es) have only one image each: their synthetic images are reconstructions "
        "of it, as there is no second image to interpolate with"
    )


def test_digest_is_of_ids_order_labels_and_names():
    images = np.zeros((2, 1, 1, 1), np.uint8)
    dataset = data.Dataset(images, np.array([0, 1]), ("a", "b"), ("p", "q"), "train")
    others = [
        dataclasses.replace(dataset, labels=np.array([0, -1])),
        dataclasses.replace(dataset, class_names=("a", "c")),
        dataclasses.replace(dataset, ids=("q", "p")),
    ]
    assert len({d.digest for d in (dataset, *others)}) == 4
    assert dataclasses.replace(dataset, split="test").digest == dataset.digest


# Pixels


def test_to_uint8_inverts_to_float():
    levels = np.arange(256, dtype=np.uint8)
    for x in (data.to_float(levels), data.to_float(jnp.asarray(levels))):
        assert x.dtype == np.float32
        assert (x[0], x[-1]) == (-1, 1)
        np.testing.assert_array_equal(data.to_uint8(x), levels)
        assert data.to_uint8(x).dtype == np.uint8


def test_to_uint8_rounds_and_clips():
    x = np.array([-2.0, -1.0, -0.996, 0.0, 0.9964, 1.0, 1.5])
    np.testing.assert_array_equal(data.to_uint8(x), [0, 0, 1, 128, 255, 255, 255])


def test_digits_are_brought_to_a_size():
    train, test = data.load(fields(shots=1, size=12))
    assert (train.images.shape, test.images.shape) == (
        (10, 12, 12, 1),
        (797, 12, 12, 1),
    )
    for i, image in zip(train.ids, train.images, strict=True):
        small = Image.fromarray(true_digits()[i][0])
        large = small.resize((12, 12), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(image[..., 0], np.asarray(large))
    assert train.ids == data.load(fields(shots=1))[0].ids


def test_each_image_is_read_once(monkeypatch):
    splits = data.read(fields())
    taken = []

    def read(positions, use):
        taken.extend(positions)
        return splits.train.read(positions, use)

    train = dataclasses.replace(splits.train, read=read)
    monkeypatch.setattr(data, "read", lambda _: splits._replace(train=train))
    train, _ = data.load(fields(shots=2, unlabelled=7, size=8, crop=6))
    assert [splits.train.ids[i] for i in taken] == list(train.ids)
    assert train.images.shape == (27, 6, 6, 1)
    assert train.canvas.pixels.shape == (20, 8, 8, 1)
    np.testing.assert_array_equal(train.images[:20], train.canvas.pixels[:, 1:7, 1:7])


# The real thing


def test_cifar100(cifar100_dir):
    train, test = data.load(fields(name="cifar100", data_dir=cifar100_dir, shots=10))
    assert (train.images.shape, train.images.dtype) == ((1000, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(train.labels, np.repeat(np.arange(100), 10))
    assert train.class_names[:3] == ("apple", "aquarium_fish", "baby")
    assert train.class_names[-2:] == ("woman", "worm")
    assert (len(train.class_names), len({*train.ids, *test.ids})) == (100, 11000)
    assert train.ids[:2] == (
        "452e5c1b379128499734ea3c509ed7a6",
        "13b94d843a129c45af4f62fed6da8ab9",
    )
    assert train.digest == "4ff28ae6dd0b292018b203b05054d604"
    np.testing.assert_array_equal(np.bincount(test.labels), np.full(100, 100))
    # Of the training images, as published; 10000 test images differ in the third digit.
    pixels = test.images / np.float32(255)
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    np.testing.assert_allclose(mean, [0.5071, 0.4865, 0.4409], atol=0.003)
    np.testing.assert_allclose(std, [0.2673, 0.2564, 0.2762], atol=0.003)
