"""Tests of cglo_jax/classifier/augment.py."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from cglo_jax.classifier import augment


def image(height: int = 6, width: int = 5, channels: int = 2) -> np.ndarray:
    """Returns an image without zeros or equal pixels, so that no two crops agree."""
    values = np.random.default_rng(0).permutation(height * width * channels) + 1
    return (values / values.size).astype(np.float32).reshape(height, width, channels)


def keys(n: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), n)


def numpy_crops(x: np.ndarray, pad: int, fill: float = 0.0) -> np.ndarray:
    """Returns all windows [(2 pad + 1)^2, H, W, C], row by row of their corners."""
    (h, w, _), n = x.shape, 2 * pad + 1
    padded = np.pad(x, ((pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    return np.stack([padded[i : i + h, j : j + w] for i in range(n) for j in range(n)])


def which(outputs: jax.Array, candidates: np.ndarray) -> np.ndarray:
    """Returns the index of the one candidate that each output equals bit for bit."""
    pairs = np.asarray(outputs)[:, None] == candidates[None]
    equal = pairs.all((2, 3, 4))
    np.testing.assert_array_equal(equal.sum(1), 1)
    return equal.argmax(1)


@pytest.mark.parametrize("pad", [1, 2, 4])
@pytest.mark.parametrize("fill", [0.0, -1.0])
def test_crop_is_every_numpy_window_equally_often(pad, fill):
    x, windows = image(), (2 * pad + 1) ** 2
    draws = 200 * windows
    crop = jax.jit(jax.vmap(lambda key: augment.random_crop(key, x, pad, fill)))
    found = which(crop(keys(draws)), numpy_crops(x, pad, fill))
    counts = np.bincount(found, minlength=windows)
    assert counts.shape == (windows,)
    # 200 expected each, deviation 14: six of them either way.
    assert counts.min() > 115
    assert counts.max() < 285


def test_crop_keeps_shape_and_type():
    x = jnp.asarray(image(), jnp.bfloat16)
    y = augment.random_crop(jax.random.key(0), x, 2)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)


def test_flip_mirrors_half_of_the_images_left_to_right():
    x = image()
    flipped = jax.vmap(lambda key: augment.random_flip(key, x))(keys(1000))
    found = which(flipped, np.stack([x, x[:, ::-1]]))
    assert 420 < found.sum() < 580  # deviation 16


def test_standard_draws_crop_and_flip_independently():
    x, pad = image(), 1
    crops = numpy_crops(x, pad)
    candidates = np.concatenate([crops, crops[:, :, ::-1]])  # 9 plain, 9 mirrored
    batch = jnp.broadcast_to(x[None], (1800, *x.shape))
    outputs = augment.standard(keys(1800), batch, pad=pad, flip=True)
    counts = np.bincount(which(outputs, candidates), minlength=18)
    assert counts.shape == (18,)
    assert counts.min() > 50  # 100 expected each, deviation 10
    assert counts.max() < 150


@pytest.mark.parametrize(("pad", "flip"), [(0, False), (2, False), (0, True)])
def test_standard_applies_only_what_is_asked_for(pad, flip):
    x = image()
    crops = numpy_crops(x, pad)
    candidates = np.concatenate([crops, crops[:, :, ::-1]]) if flip else crops
    batch = jnp.broadcast_to(x[None], (400, *x.shape))
    outputs = augment.standard(keys(400), batch, pad=pad, flip=flip)
    assert (outputs.shape, outputs.dtype) == (batch.shape, batch.dtype)
    assert len(set(which(outputs, candidates))) == len(candidates)


def test_standard_does_not_depend_on_the_batch():
    x = jnp.asarray(np.stack([image(6, 6) * s for s in (1, -1, 0.5, 0.25)]))
    together = jax.jit(lambda k, x: augment.standard(k, x, pad=2, flip=True))(
        keys(4), x
    )
    for i, key in enumerate(keys(4)):
        alone = augment.standard(key[None], x[i : i + 1], pad=2, flip=True)
        np.testing.assert_array_equal(together[i], alone[0])
    assert len({np.asarray(a).tobytes() for a in together}) == 4


def test_standard_is_differentiable():
    # The classifier's synthetic images may be augmented inside a gradient.
    x = jnp.asarray(image()[None])
    gradient = jax.grad(lambda x: augment.standard(keys(1), x, pad=2, flip=True).sum())(
        x
    )
    kept = augment.standard(keys(1), x, pad=2, flip=True) != 0
    assert set(np.unique(gradient)) <= {0.0, 1.0}
    assert gradient.sum() == kept.sum()


def rectangles(outputs: jax.Array) -> np.ndarray:
    """Returns (top, left, height, width) of each image's zeros, which are a rectangle."""
    zeros = np.asarray(outputs) == 0
    np.testing.assert_array_equal(zeros, zeros[..., :1].repeat(zeros.shape[-1], -1))
    rows, columns = zeros[..., 0].any(2), zeros[..., 0].any(1)
    np.testing.assert_array_equal(zeros[..., 0], rows[:, :, None] & columns[:, None, :])
    corner = [rows.argmax(1), columns.argmax(1)]
    return np.stack([*corner, rows.sum(1), columns.sum(1)], 1)


def numpy_cutouts(x: np.ndarray, size: int) -> np.ndarray:
    """Returns `x` with a grey square around every pixel, [H * W, H, W, C]."""
    outputs = []
    for row, column in np.ndindex(x.shape[:2]):
        y = x.copy()
        top, left = row - size // 2, column - size // 2
        y[max(top, 0) : top + size, max(left, 0) : left + size] = 0
        outputs.append(y)
    return np.stack(outputs)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_cutout_is_every_clipped_square_equally_often(size):
    x = image(6, 5, 3)
    cut = jax.jit(jax.vmap(lambda key: augment.cutout(key, x, size)))
    found = which(cut(keys(6000)), numpy_cutouts(x, size))
    counts = np.bincount(found, minlength=30)
    assert counts.shape == (30,)
    assert counts.min() > 120  # 200 expected each, deviation 14
    assert counts.max() < 280


def test_cutout_by_hand():
    x = jnp.ones((8, 8, 1))
    outputs = jax.jit(jax.vmap(lambda key: augment.cutout(key, x, 8)))(keys(200))
    _, _, heights, widths = rectangles(outputs).T
    # Around pixel 0 of a side lie 4 of 8 pixels inside, around pixel 4 all.
    assert set(heights) == set(widths) == {4, 5, 6, 7, 8}
    assert not augment.cutout(keys(1)[0], x, 16).any()


def their_cutout(levels: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    """What the authors' `Cutout_` makes of a corner, in whole levels; its slip is the third line."""
    y, mean, bottom, right = levels.copy(), int(levels.mean()), top + size, left + size
    top = max(top, 0)
    left = 0 if left < 0 else top
    y[top:bottom, left:right] = mean
    return y


@pytest.mark.parametrize(("side", "size"), [(8, 3), (9, 4)])
def test_the_authors_cutout_is_each_of_their_rectangles_equally_often(side, size):
    levels = np.random.default_rng(0).integers(0, 256, (side, side, 3))
    x = jnp.asarray(levels / 127.5 - 1, jnp.float32)
    cut = jax.jit(jax.vmap(lambda key: augment.authors_cutout(key, x, size)))
    found = np.round((np.asarray(cut(keys(6000))) + 1) * 127.5).astype(int)
    corners = range(-(size // 2), side - size)
    expected = collections.Counter(
        their_cutout(levels, top, left, size).tobytes()
        for top in corners
        for left in corners
    )
    counts = collections.Counter(y.astype(levels.dtype).tobytes() for y in found)
    assert counts.keys() == expected.keys()
    share = len(found) / len(corners) ** 2
    for image_bytes, n in expected.items():
        assert counts[image_bytes] == pytest.approx(
            n * share, abs=6 * (n * share) ** 0.5
        )
    assert expected[levels.tobytes()] >= 1  # the slip leaves some images as they are


def test_random_erasing_with_a_probability_and_a_colour():
    x, fill = jnp.ones((16, 16, 3)), (0.014, -0.026, -0.118)
    always = jax.vmap(lambda key: augment.random_erasing(key, x))
    half = jax.vmap(lambda key: augment.random_erasing(key, x, 0.5, fill))
    every, some = (np.asarray(jax.jit(f)(keys(1000))) for f in (always, half))
    erased = (some != 1).any((1, 2, 3))
    assert 0.42 < erased.mean() < 0.58
    # The same rectangles, in the colour.
    np.testing.assert_array_equal((some != 1)[erased], (every != 1)[erased])
    colours = np.unique(some[(some != 1).all(-1)], axis=0)
    np.testing.assert_array_equal(colours, np.float32([fill]))


def zhong_rectangles(n: int, height: int, width: int) -> np.ndarray:
    """Draws like the loop of Zhong et al.'s code, [n, 4] as `rectangles`."""
    rng, drawn = np.random.default_rng(1), []
    while len(drawn) < n:
        area = rng.uniform(0.02, 0.33) * height * width
        ratio = rng.uniform(0.3, 3.3)
        h, w = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if h < height and w < width:
            corner = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            drawn.append((*corner, h, w))
    return np.array(drawn)


@pytest.mark.parametrize("shape", [(64, 64, 1), (30, 60, 3), (8, 8, 1)], ids=str)
def test_random_erasing_draws_rectangles_as_zhong_does(shape):
    (height, width, _), n, x = shape, 2500, jnp.asarray(image(*shape))
    erase = jax.jit(jax.vmap(lambda key: augment.random_erasing(key, x)))
    outputs = erase(keys(n))
    assert outputs.dtype == x.dtype
    kept = np.asarray(outputs) != 0
    np.testing.assert_array_equal(
        outputs, np.where(kept, np.broadcast_to(x, kept.shape), 0)
    )
    ours, theirs = rectangles(outputs), zhong_rectangles(4 * n, height, width)

    def properties(found: np.ndarray) -> dict[str, np.ndarray]:
        top, left, h, w = found.T
        return {
            "area": h * w / (height * width),
            "ratio": h / w,
            "height": h,
            "width": w,
            "top": top / (height - h),
            "left": left / (width - w),
            "middle": (top + h / 2) * (left + w / 2),
        }

    for name, values in properties(ours).items():
        expected = properties(theirs)[name]
        p_value = scipy.stats.ks_2samp(values, expected, method="asymp").pvalue
        assert p_value > 0.001, name


def test_random_erasing_keeps_to_its_ranges():
    height, width = 96, 64
    x = jnp.ones((height, width, 1))
    outputs = jax.jit(jax.vmap(lambda key: augment.random_erasing(key, x)))(keys(2000))
    top, left, h, w = rectangles(outputs).T
    area, ratio = h * w / (height * width), h / w
    # Sides are rounded by up to half a pixel; of the smallest area they are 6 and 21.
    assert 0.018 < area.min() < 0.03
    assert 0.31 < area.max() < 0.34
    assert 0.28 < ratio.min() < 0.35
    assert 3.1 < ratio.max() < 3.6
    assert h.max() < height
    assert w.max() < width
    assert top.min() == left.min() == 0
    assert (top + h).max() == height
    assert (left + w).max() == width


def test_random_erasing_without_room_changes_nothing():
    # The least height that can be drawn is sqrt(400 * .02 * .3) = 1.5, rounded 2: not < 2.
    x = jnp.ones((2, 200, 3))
    outputs = jax.jit(jax.vmap(lambda key: augment.random_erasing(key, x)))(keys(50))
    assert (outputs == 1).all()


@pytest.mark.parametrize(
    "method",
    [lambda key, x: augment.cutout(key, x, 4), augment.random_erasing],
    ids=["cutout", "random_erasing"],
)
def test_erasing_does_not_depend_on_the_batch(method):
    x = jnp.asarray(np.stack([image(8, 8) * s for s in (1, -1, 0.5, 0.25)]))
    together = jax.jit(jax.vmap(method))(keys(4), x)
    for i, key in enumerate(keys(4)):
        np.testing.assert_array_equal(together[i], method(key, x[i]))
    assert len({(np.asarray(a) == 0).tobytes() for a in together}) > 1
