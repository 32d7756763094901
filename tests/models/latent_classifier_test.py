"""Tests of cglo_jax/models/latent_classifier.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.cglo.losses import cross_entropy
from cglo_jax.models.latent_classifier import LatentClassifier

MODEL = LatentClassifier(3, width=7)


def codes(batch: int = 6, dim: int = 5) -> np.ndarray:
    z = np.random.default_rng(0).normal(size=(batch, dim)).astype(np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def variables():
    """Returns fresh variables for codes of 5 dimensions and 3 classes."""
    return jax.jit(lambda z: MODEL.init(jax.random.key(0), z, train=True))(codes())


def test_three_dense_layers_and_no_batch_statistics(variables):
    assert variables.keys() == {"params"}
    # 5*7 + 7 = 42; 7*7 + 7 = 56; 7*3 + 3 = 24.
    assert sum(a.size for a in jax.tree.leaves(variables)) == 42 + 56 + 24


@pytest.mark.parametrize("train", [True, False])
def test_forward_equals_numpy(variables, train):
    z = codes()
    logits, features = jax.jit(lambda v, z: MODEL.apply(v, z, train=train))(
        variables, z
    )
    params, x = jax.tree.map(np.asarray, variables["params"]), z
    for name in ("dense1", "dense2"):
        x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
        np.testing.assert_allclose(features[name], x, atol=1e-6)
    np.testing.assert_array_equal(features["embedding"], features["dense2"])
    expected = x @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    assert np.std(expected) > 1e-2


def test_bfloat16_gives_float32_logits_and_params(variables):
    model = LatentClassifier(3, width=7, dtype=jnp.bfloat16)
    logits, features = model.apply(variables, codes(), train=False)
    assert logits.dtype == features["embedding"].dtype == jnp.float32
    assert features["dense2"].dtype == jnp.bfloat16
    full, _ = MODEL.apply(variables, codes(), train=False)
    np.testing.assert_allclose(logits, full, atol=0.02)


def test_loss_falls(variables):
    z, labels = codes(), jnp.arange(6) % 3

    @jax.jit
    def step(params):
        def loss(params):
            logits, _ = MODEL.apply({"params": params}, z, train=True)
            return cross_entropy(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)

    params, values = variables["params"], []
    for _ in range(60):
        value, params = step(params)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]
