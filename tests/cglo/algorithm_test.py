"""Tests of cglo_jax/cglo/algorithm.py: the state and the loss of the paper's model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.cglo import algorithm, codes
from cglo_jax.errors import UserError
from cglo_jax.models.generator import Generator
from tests.helpers.tiny import assert_trees_equal, create_config, create_dataset


def test_in_evaluation_statistics_stay_and_an_image_has_its_loss_in_any_batch():
    dataset = create_dataset(unlabelled=21)  # 0, 1 and 2 have labels
    spec = algorithm.create_spec(create_config(), dataset)
    init = functools.partial(algorithm.init_state, spec=spec, n=24, dim=8)
    state = jax.jit(init)(jax.random.key(0))
    key, weights = jax.random.key(1), np.array([1, 2, 4], np.float32)
    shared = algorithm.Shared(key, dataset.images, dataset.labels, weights, {}, {})
    shared = jax.tree.map(jnp.asarray, shared)

    @functools.partial(jax.jit, static_argnames="weak")
    def loss(indices, weak):
        return algorithm.compute_loss(
            state.params,
            state.codes.z[indices],
            jnp.zeros((len(indices), 4)),
            indices,
            batch_stats=state.batch_stats,
            shared=shared,
            spec=spec,
            use_weak=weak,
            train=False,
        )

    batch = np.array([2, 20, 1, 21])
    total, (batch_stats, metrics) = loss(batch, True)
    assert_trees_equal(batch_stats, state.batch_stats)
    alone = [[float(loss(batch[[k]], weak)[0]) for k in range(4)] for weak in (1, 0)]
    assert float(total) == pytest.approx(np.mean(alone[0]), rel=1e-5)
    difference = np.subtract(*alone)  # gamma times the cross-entropy
    assert (difference[[1, 3]] == 0).all()  # without a label
    assert (difference[[0, 2]] > 0.1).all()
    assert float(metrics["cross_entropy"]) == pytest.approx(
        difference.mean() / 0.5, rel=1e-4
    )
    # Before training all classes are about as likely, so that their weights show.
    assert difference[0] / difference[2] == pytest.approx(4 / 2, rel=0.3)


def test_noise_is_a_function_of_the_images_key_with_the_given_deviation():
    keys = codes.example_keys(jax.random.key(0), jnp.arange(500))
    generator = Generator(8, noise_dim=20)
    eps = generator.draw_noise(keys, 8)
    assert eps.shape == (500, 20)
    assert float(eps.std()) == pytest.approx(0.15, rel=0.03)
    assert abs(float(eps.mean())) < 0.01
    some = jnp.array([7, 3, 400])
    np.testing.assert_array_equal(generator.draw_noise(keys[some], 8), eps[some])
    assert Generator(8, noise="none").draw_noise(keys, 8) is None


def test_lr_factor_drops_with_the_first_step_of_an_epoch():
    config = create_config(
        **{"train.lr_drop_epochs": (2, 5), "train.lr_drop": 0.5, "train.epochs": 6}
    )
    dataset = create_dataset(20, unlabelled=6)  # 3 labelled + 1 unlabelled steps
    spec = algorithm.create_spec(config, dataset)
    factors = np.array([float(spec.lr_schedule(jnp.asarray(s))) for s in range(24)])
    np.testing.assert_allclose(factors, [1.0] * 8 + [0.5] * 12 + [0.25] * 4)


def test_images_that_are_not_square_are_refused():
    dataset = create_dataset()
    wide = dataclasses.replace(dataset, images=np.zeros((24, 8, 16, 1), np.uint8))
    with pytest.raises(UserError, match=r"16x8 .*--config\.dataset\.size"):
        algorithm.create_spec(create_config(), wide)


def test_noise_enters_as_the_config_says():
    dataset = create_dataset()
    keys = codes.example_keys(jax.random.key(0), np.arange(3))
    z = jnp.asarray(np.eye(3, 8, dtype=np.float32))
    entered = {}
    for noise in ("concat", "additive", "none"):
        config = create_config(**{"latent.noise": noise})
        generator = algorithm.create_spec(config, dataset).generator
        eps = generator.draw_noise(keys, 8)
        length = {"concat": 4, "additive": 8, "none": 0}[noise]
        assert generator.noise_length(8) == length
        assert (eps is None) if not length else (eps.shape == (3, length))
        entered[noise] = (eps, generator)
    normal = jax.vmap(lambda k: jax.random.normal(k, (8,)))(keys)
    eps, generator = entered["additive"]
    noisy = generator._with_noise(z, eps)
    np.testing.assert_allclose(eps, 0.15 * normal, rtol=1e-6)
    np.testing.assert_allclose(noisy, z + 0.15 * normal, rtol=1e-6)
    # Not on the sphere any more: 1 + 2 * .15 n_i + .15^2 |n|^2 is the squared length.
    squared = 1 + 0.3 * np.diag(normal) + 0.15**2 * (normal**2).sum(1)
    np.testing.assert_allclose((noisy**2).sum(1), squared, rtol=1e-5)
    assert np.abs(squared - 1).max() > 0.1
    without = entered["none"][1]
    assert without._with_noise(z, None) is z
