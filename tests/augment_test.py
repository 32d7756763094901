"""Tests of cglo_jax/augment.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax import augment


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
