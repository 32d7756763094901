"""Tests of cglo_jax/cglo/sampling.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.cglo import algorithm, codes, sampling
from cglo_jax.stages import train
from tests.helpers import tiny
from tests.helpers.tiny import create_config, create_dataset


def create_sampler(config, dataset, seed=0):
    """A sampler of an untrained generator, and its spec."""
    spec = algorithm.create_spec(config, dataset)
    create = jax.jit(
        lambda key: algorithm.init_state(
            key, spec=spec, n=len(dataset.ids), dim=config.latent.dim
        )
    )
    model, _ = train.split_state(create(jax.random.key(seed)))
    sampler = jax.tree.map(jnp.asarray, tiny.create_sampler(model, dataset))
    spec = sampling.create_sample_spec(
        config, *dataset.side_and_channels, axis_name=None
    )
    return sampler, spec


def test_batch_statistics_normalise_by_the_batch():
    dataset = create_dataset()
    images = {}
    for option in ("running", "batch"):
        config = create_config(**{"sample.batch_statistics": option})
        sampler, spec = create_sampler(config, dataset)
        make = jax.jit(
            lambda z, k, s=spec, v=sampler.variables: sampling.generate(v, z, k, spec=s)
        )
        keys = jax.random.split(jax.random.key(0), 8)
        images[option] = [make(sampler.z[:8], keys), make(sampler.z[:4], keys[:4])]
    for whole, _ in images.values():
        assert whole.shape == (8, 8, 8, 1)
        assert np.isfinite(whole).all()
    whole, part = images["running"]
    np.testing.assert_allclose(whole[:4], part, atol=1e-6)
    whole, part = images["batch"]
    assert np.abs(whole[:4] - part).max() > 1e-3


def test_draws_are_uniform_and_of_the_images_key():
    labels = np.array([0, 0, 0, 0, 1, 2, 2], np.int32)
    dataset = dataclasses.replace(create_dataset(7), labels=labels)
    config = create_config(**{"sample.t_values": (0.25, 0.5)})
    sampler, spec = create_sampler(config, dataset)
    indices = jnp.asarray(np.arange(7).repeat(300))
    keys = jax.random.split(jax.random.key(0), 2100)
    draw = jax.jit(lambda k, i: sampling.draw_pairs(sampler, k, i, spec=spec))
    partners, t, rest = draw(keys, indices)
    for i in range(7):
        counts = np.bincount(partners[indices == i], minlength=7)
        others = [j for j in range(7) if labels[j] == labels[i] and j != i] or [i]
        assert set(np.flatnonzero(counts)) == set(others)
        assert counts[others].min() > 250 / len(others)
    assert set(np.asarray(t).tolist()) == {0.25, 0.5}
    assert np.mean(t == 0.5) == pytest.approx(0.5, abs=0.05)
    some = np.array([2000, 3, 700])
    partners_of_some, t_of_some, rest_of_some = draw(keys[some], indices[some])
    np.testing.assert_array_equal(partners_of_some, partners[some])
    np.testing.assert_array_equal(t_of_some, t[some])
    assert (rest_of_some == rest[some]).all()


def test_a_given_key_draws_t_and_nothing_else():
    dataset = create_dataset()
    sampler, spec = create_sampler(create_config(), dataset)
    keys, indices = jax.random.split(jax.random.key(0), 24), jnp.arange(24)
    draw = jax.jit(
        lambda **k: sampling.draw_pairs(sampler, keys, indices, spec=spec, **k)
    )
    partners, own, rest = draw()
    assert len(set(np.asarray(own).tolist())) == 4
    drawn = set()
    for seed in range(20):
        one = jnp.repeat(jax.random.key(seed)[None], 24)
        partners_then, t, rest_then = draw(key_t=one)
        np.testing.assert_array_equal(partners_then, partners)
        assert (rest_then == rest).all()
        assert len(set(np.asarray(t).tolist())) == 1
        drawn.add(float(t[0]))
    assert drawn == set(np.float32([0.1, 0.2, 0.3, 0.4]).tolist())
    make = jax.jit(
        lambda **k: sampling.synthesize(sampler, keys, indices, spec=spec, **k)
    )
    images, partners_then, t_then = make(key_t=one)
    np.testing.assert_array_equal(partners_then, partners)
    np.testing.assert_array_equal(t_then, t)
    path = jax.vmap(codes.slerp)(sampler.z, sampler.z[partners], t)
    expected = sampling.generate(sampler.variables, path, rest, spec=spec)
    np.testing.assert_allclose(images, expected, atol=1e-5)
    other_keys = jax.random.split(jax.random.key(9), 24)
    each = jax.vmap(jax.random.choice, (0, None))(other_keys, jnp.array(spec.t_values))
    np.testing.assert_array_equal(draw(key_t=other_keys)[1], each)


def test_added_noise_is_drawn_anew_and_added_to_the_code():
    config = create_config(**{"latent.noise": "additive"})
    sampler, spec = create_sampler(config, create_dataset())
    keys = jax.random.split(jax.random.key(0), 4)
    make = jax.jit(lambda k: sampling.generate(sampler.variables, z, k, spec=spec))
    z = sampler.z[:4]
    images = make(keys)
    noise = np.stack([np.asarray(jax.random.normal(k, (8,))) for k in keys])
    expected = jax.jit(
        lambda z: spec.generator.apply(sampler.variables, z, train=False)
    )(z + np.float32(0.15) * noise)
    np.testing.assert_allclose(images, expected, atol=1e-6)
    other = make(jax.random.split(jax.random.key(1), 4))
    assert np.abs(images - other).max() > 0
