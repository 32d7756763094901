"""Tests of cglo_jax/classifier/autoaugment.py: against Pillow, torchvision if there is one, and by hand."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.classifier import autoaugment
from cglo_jax.data import dataset
from experiments.parity import autoaugment as parity

SIZES = [(32, 32, 3), (32, 32, 1), (8, 8, 1), (19, 30, 3)]
each_size = pytest.mark.parametrize("shape", SIZES, ids=str)
each_name = pytest.mark.parametrize("name", parity.NAMES)
_apply = jax.jit(autoaugment.apply)


def images(shape: tuple[int, int, int], n: int = 6) -> np.ndarray:
    """Returns n images and two special ones: of one level, and of two."""
    made = parity.create_images(n, *shape)
    made[0], made[1] = 77, 200
    made[1, : shape[0] // 3] = 13
    return made


def run(name: str, level: int, sign: int, image: np.ndarray) -> np.ndarray:
    """Applies one operation to levels [H, W] or [H, W, C]."""
    x = np.atleast_3d(image).astype(np.int32)
    operation = autoaugment.create_operation(name, level, sign, *x.shape[:2])
    return np.asarray(_apply(x, operation)).reshape(image.shape)


@each_size
def test_operations_are_pillows(shape):
    for name in set(parity.NAMES) - {"AutoContrast"}:
        errors = parity.differences(name, images(shape))
        np.testing.assert_array_equal(errors, 0, err_msg=name)


@each_size
def test_autocontrast_is_pillows_but_for_its_rounding(shape):
    # 255 (level - low) / (high - low), where it is whole, is sometimes 1 less in float64.
    errors = parity.differences("AutoContrast", images(shape, 30))
    assert set(np.unique(errors)) == {0, 1}
    assert (errors != 0).mean() < 0.06  # measured: .013 to .036


@each_name
def test_operations_change_images_at_their_highest_level(name):
    x = images((32, 32, 3))[2]
    assert (run(name, 9, 1, x) != x).mean() > 0.3


def test_color_keeps_a_grey_image():
    x = images((8, 8, 1))[3]
    np.testing.assert_array_equal(run("Color", 9, -1, x), x)


@pytest.mark.parametrize(
    ("name", "level", "sign", "before", "after"),
    [
        ("Posterize", 9, 1, [0b10110111, 0b1111, 255], [0b10110000, 0, 0b11110000]),
        ("Posterize", 3, 1, [0b10110111, 0b1111, 255], [0b10110110, 0b1110, 254]),
        ("Solarize", 3, 1, [0, 169, 170, 255], [0, 169, 85, 0]),  # from 170 up
        ("Solarize", 0, 1, [0, 254, 255], [0, 254, 0]),
        ("Invert", 0, 1, [0, 10, 255], [255, 245, 0]),
        ("Brightness", 9, 1, [0, 10, 100, 200], [0, 19, 190, 255]),
        ("Brightness", 9, -1, [0, 10, 100, 255], [0, 1, 10, 25]),
        ("AutoContrast", 0, 1, [100, 110, 150], [0, 51, 255]),
        ("Contrast", 5, 1, [100, 200, 150], [75, 225, 150]),  # mean 150
    ],
)
def test_levels_by_hand(name, level, sign, before, after):
    x = np.broadcast_to(before, (4, len(before)))
    np.testing.assert_array_equal(
        run(name, level, sign, x), np.broadcast_to(after, x.shape)
    )


def test_equalize_by_hand():
    # 16 x 32 pixels, a quarter of each level: steps of (512 - 128) // 255 = 1.
    x = np.repeat([[10, 20, 200, 201]], 16, axis=0).repeat(8, axis=1)
    after = np.repeat([[0, 128, 255, 255]], 16, axis=0).repeat(8, axis=1)
    np.testing.assert_array_equal(run("Equalize", 0, 1, x), after)


def test_translations_by_hand():
    x = np.arange(64).reshape(8, 8)  # moves by int(150 / 331 * 8) = 3
    right, down = np.full((2, 8, 8), 128)
    right[:, 3:], down[3:] = x[:, :5], x[:5]
    np.testing.assert_array_equal(run("TranslateX", 9, 1, x), right)
    np.testing.assert_array_equal(run("TranslateX", 9, -1, x[:, ::-1]), right[:, ::-1])
    np.testing.assert_array_equal(run("TranslateY", 9, 1, x), down)
    np.testing.assert_array_equal(run("TranslateY", 9, -1, x[::-1]), down[::-1])


def test_unknown_operation_is_refused():
    with pytest.raises(ValueError, match="no operation 'ShearZ'"):
        autoaugment.create_operation("ShearZ", 1, 1, 8, 8)


def test_policy_has_the_totals_of_torchvisions():
    # Of torchvision 0.28's: times, sum of probabilities in tenths, sum of levels.
    totals = {
        "AutoContrast": (7, 50, 0),
        "Brightness": (4, 23, 25),
        "Color": (5, 29, 27),
        "Contrast": (2, 8, 13),
        "Equalize": (9, 47, 0),
        "Invert": (3, 2, 0),
        "Posterize": (1, 3, 7),
        "Rotate": (1, 7, 2),
        "Sharpness": (5, 28, 24),
        "ShearY": (2, 7, 15),
        "Solarize": (4, 19, 18),
        "TranslateX": (2, 8, 17),
        "TranslateY": (5, 34, 39),
    }
    counted = collections.defaultdict(lambda: np.zeros(3, int))
    for name, p, level in itertools.chain(*autoaugment.POLICY):
        counted[name] += (1, round(10 * p), level)
    assert {name: tuple(sums) for name, sums in counted.items()} == totals


def outcomes(image: np.ndarray) -> dict[bytes, float]:
    """Returns the probability of every result, by Pillow and enumeration."""
    found = collections.defaultdict(float)
    for pair in autoaugment.POLICY:
        choices = itertools.product((True, False), (-1, 1), repeat=2)
        for first, sign_first, second, sign_second in choices:
            result, probability = image, 1 / (len(autoaugment.POLICY) * 4)
            settings = ((first, sign_first), (second, sign_second))
            for (name, p, level), (applied, sign) in zip(pair, settings, strict=True):
                probability *= p if applied else 1 - p
                if applied and probability:
                    result = parity.apply_pillow(name, level, sign, result)
            if probability:
                found[result.tobytes()] += probability
    return found


def test_results_are_as_frequent_as_the_policy_says():
    # From 100 to 185, so that AutoContrast is times 3: Pillow's to the last level.
    rng = np.random.default_rng(0)
    image = rng.integers(100, 186, (18, 18, 3)).astype(np.uint8)
    image[0, :2] = [[100], [185]]
    expected = outcomes(image)
    assert len(expected) > 60
    n = 4000
    keys = jax.random.split(jax.random.key(0), n)
    augment = jax.jit(jax.vmap(autoaugment.autoaugment, in_axes=(0, None)))
    results = dataset.to_uint8(augment(keys, dataset.to_float(image)))
    observed = collections.Counter(result.tobytes() for result in results)
    assert set(observed) <= set(expected)
    # Pearson's statistic of the frequent results, the others together: mean = bins - 1.
    frequent = [r for r, p in expected.items() if n * p > 10]
    counts = np.array([observed[r] for r in frequent])
    means = n * np.array([expected[r] for r in frequent])
    counts = np.append(counts, n - counts.sum())
    means = np.append(means, n - means.sum())
    statistic = ((counts - means) ** 2 / means).sum()
    freedom = len(frequent)
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_come_back_on_levels_in_shape_and_type(channels):
    images = parity.create_images(40, 8, 8, channels)
    x = dataset.to_float(images)
    augment = jax.jit(jax.vmap(autoaugment.autoaugment))
    keys = jax.random.split(jax.random.key(1), 40)
    y = augment(keys, x)
    assert (y.shape, y.dtype) == (x.shape, jnp.float32)
    levels = dataset.to_uint8(y)
    np.testing.assert_allclose(y, dataset.to_float(levels), rtol=0, atol=2e-7)
    same = (levels == images).all((1, 2, 3))
    assert 4 < same.sum() < 30
    # Values between levels are rounded to the nearest first, those outside clipped.
    noise = np.random.default_rng(0).uniform(-0.49, 0.49, x.shape) / 127.5
    near = np.where(np.abs(x) == 1, 1.2 * x, x + noise).astype(np.float32)
    assert np.abs(near).max() > 1
    np.testing.assert_array_equal(augment(keys, near), y)


def test_result_does_not_depend_on_the_batch():
    x = dataset.to_float(parity.create_images(8, 12, 8, 3))
    keys = jax.random.split(jax.random.key(2), 8)
    augment = jax.jit(jax.vmap(autoaugment.autoaugment))
    y = augment(keys, x)
    changes = {np.asarray(change).tobytes() for change in y - x}
    assert len(changes) > 2
    order = np.array([5, 0, 5, 1, 7, 2, 5, 3])
    np.testing.assert_array_equal(augment(keys[order], x[order]), y[order])


@pytest.fixture(scope="module")
def torchvision_autoaugment():
    return pytest.importorskip("torchvision.transforms.autoaugment")


def test_policy_is_torchvisions(torchvision_autoaugment):
    cifar10 = torchvision_autoaugment.AutoAugmentPolicy.CIFAR10
    policies = torchvision_autoaugment.AutoAugment(cifar10).policies
    theirs = [[(name, p, level or 0) for name, p, level in pair] for pair in policies]
    assert [list(pair) for pair in autoaugment.POLICY] == theirs


@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 8, 1), (224, 224, 3)], ids=str)
def test_policys_operations_are_torchvisions(shape, torchvision_autoaugment):
    from PIL import Image
    from torchvision.transforms import InterpolationMode

    height, width, channels = shape
    image = parity.create_images(1, *shape)[0]
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    cifar10 = torchvision_autoaugment.AutoAugmentPolicy.CIFAR10
    policy = torchvision_autoaugment.AutoAugment(cifar10)
    # torchvision's factors are inexact, such as .39999998: whole products become 1 less.
    rounded = {"AutoContrast", "Brightness", "Color", "Contrast", "Sharpness"}
    magnitudes = policy._augmentation_space(10, (height, width))
    for name, level in {op[::2] for pair in policy.policies for op in pair}:
        values, signed = magnitudes[name]
        magnitude = 0.0 if level is None else float(values[level])
        for sign in (-1, 1):
            theirs = torchvision_autoaugment._apply_op(
                picture,
                name,
                sign * magnitude if signed else magnitude,
                interpolation=InterpolationMode.NEAREST,
                fill=[128.0] * channels,
            )
            ours = run(name, level or 0, sign, image)
            errors = np.abs(ours - np.asarray(theirs, int).reshape(shape))
            assert errors.max() <= (name in rounded), (name, level, sign)
            assert (errors > 0).mean() < 0.25, (name, level, sign)
