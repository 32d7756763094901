"""Tests of cglo_jax/stages/previews.py: pictures of a cGLO as training holds it."""

import functools

import jax
import numpy as np
import pytest

from cglo_jax.cglo import algorithm, codes
from cglo_jax.stages import previews
from cglo_jax.stages.previews import (
    draw,
)  # conftest.py replaces it for what is trained in tests
from cglo_jax.training import parallel
from tests.helpers.tiny import create_config, create_dataset

CELL, GUTTER = 64, 2  # of figures.image_grid; images of 8 pixels are enlarged 8 times


def make_model(config, dataset):
    """A generator and codes of random numbers."""
    rng, spec = np.random.default_rng(0), algorithm.create_spec(config, dataset)
    init = functools.partial(algorithm.init_state, spec=spec, n=24, dim=8)
    state = jax.eval_shape(init, jax.random.key(0))
    networks = (state.params["generator"], state.batch_stats["generator"])
    params, batch_stats = jax.tree.map(
        lambda leaf: (
            rng.uniform(0.1, 1, leaf.shape).astype(np.float32)
            * rng.choice([-1, 1], leaf.shape).astype(np.float32)
        ),
        networks,
    )
    batch_stats = jax.tree.map(np.abs, batch_stats)  # variances
    z = rng.standard_normal((24, 8)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return {"params": params, "batch_stats": batch_stats, "z": z}


def as_state(model):
    """A state of training with this generator and these codes, and nothing else."""
    params, batch_stats = (
        {"generator": model[name]} for name in ("params", "batch_stats")
    )
    rows = codes.Codes(z=model["z"], opt_state=())
    return algorithm.TrainState(np.int32(0), params, batch_stats, {}, rows)


def tile(picture, row, column, rows):
    """The image at a place of a grid without labels on its left or below, 8 x 8 grey."""
    bottom = picture.shape[0] - (rows - row) * (CELL + GUTTER)
    y, x = bottom + CELL // 16, column * (CELL + GUTTER) + CELL // 16
    left = picture.shape[1] - GUTTER - 3 * (CELL + GUTTER)
    return picture[y : y + CELL : 8, left + GUTTER + x :, 0][:8, : 8 * 8 : 8]


def generate(config, dataset, model, shown):
    """G of the codes of images, as stage sample draws them."""
    key = jax.random.split(jax.random.key(0))[1]
    keys = [jax.random.fold_in(key, i) for i in shown]
    eps = np.stack([0.15 * jax.random.normal(k, (4,)) for k in keys])
    generator = algorithm.create_spec(config, dataset).generator.clone(axis_name=None)
    variables = {name: model[name] for name in ("params", "batch_stats")}
    apply = jax.jit(functools.partial(generator.apply, train=False))
    images = apply(variables, model["z"][shown], eps)
    return np.clip(np.round((np.asarray(images) + 1) * 127.5), 0, 255)[..., 0]


def test_pictures_are_of_the_models_images_on_any_number_of_devices(compilations):
    config, dataset = create_config(), create_dataset()
    model = make_model(config, dataset)
    state = as_state(model)
    states = [
        parallel.replicate(state, jax.local_devices()[:count]) for count in (1, 2)
    ]
    one, two = (draw(config, dataset, state) for state in states)
    assert one.keys() == {"reconstructions", "samples"}
    for name, picture in one.items():
        np.testing.assert_array_equal(picture, two[name])
        assert (picture.dtype, picture.ndim, picture.shape[2]) == (np.uint8, 3, 3)
    before = len(compilations)
    draw(config, dataset, states[0])
    assert len(compilations) == before
    jax.tree.map(np.testing.assert_array_equal, states[1], state)  # still there
    again = generate(config, dataset, model, [0, 1, 2])  # the first image of each class
    real = dataset.images[:3, ..., 0]
    for column in range(3):
        shown = [tile(one["reconstructions"], row, column, 2) for row in (0, 1)]
        np.testing.assert_array_equal(shown[0], real[column])
        assert np.abs(shown[1] - again[column]).max() <= 1  # rounding of a last bit
    samples = [tile(one["samples"], row, c, 4) for row in range(4) for c in range(3)]
    assert len({sample.tobytes() for sample in samples}) == 12
    assert min(len(np.unique(image)) for image in [*samples, *again]) > 8


def test_large_images_are_shrunk_by_the_mean_of_squares():
    images = np.zeros((1, 256, 256, 3), np.uint8)
    images[0, 0, 0], images[0, 2, 2] = 200, 100
    small = previews._shrink(images)
    assert small.shape == (1, 128, 128, 3)
    assert (small[0, 0, 0] == 50).all() and (small[0, 1, 1] == 25).all()
    np.testing.assert_array_equal(previews._shrink(small), small)


@pytest.mark.parametrize("side", [8, 56, 112, 128, 224, 448, 512, 896])
def test_every_side_of_images_can_be_shrunk(side):
    height = previews._shrink(np.zeros((1, side, side, 1), np.uint8)).shape[1]
    assert min(side, 64) <= height <= 128
