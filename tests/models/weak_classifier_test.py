"""Tests of cglo_jax/models/weak_classifier.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.cglo.losses import cross_entropy
from cglo_jax.models.layers import max_pool_2x2
from cglo_jax.models.weak_classifier import (
    LatentClassifier,
    WeakClassifier,
    drop_out,
)


def images(batch: int = 6, side: int = 8, channels: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (batch, side, side, channels)).astype(np.float32)


def count(tree) -> int:
    return sum(a.size for a in jax.tree.leaves(tree))


def init(model: WeakClassifier, x: np.ndarray):
    return jax.jit(lambda x: model.init(jax.random.key(0), x, train=True))(x)


def evaluate(model: WeakClassifier, variables, x: np.ndarray):
    return jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, x)


@pytest.fixture(scope="module")
def variables():
    """Returns fresh variables for 8 px, 2 channels and 3 classes."""
    return init(WeakClassifier(3, width=4), images())


def test_parameter_count_by_hand(variables):
    # conv1 9*2*4 = 72; conv2..4 3 * 9*4*4 = 432; batch norms 4 * 2*4 = 32;
    # head: 8 px pools to 4, 2, 1, 1, so 4 inputs: 4*3+3 = 15. In all 551.
    assert count(variables["params"]) == 551
    assert count(variables["batch_stats"]) == 32


def test_parameter_count_at_32_px():
    # 9*3*64 + 3*9*64*64 = 112,320; batch norms 512; head 2*2*64*100+100 = 25,700.
    x = jnp.zeros((2, 32, 32, 3))
    variables = jax.eval_shape(lambda: init(WeakClassifier(100), x))
    assert count(variables["params"]) == 138_532


@pytest.mark.parametrize(
    ("side", "sides", "embedding"),
    [
        (8, (4, 2, 1, 1), 64),
        (28, (14, 7, 3, 1), 64),
        (32, (16, 8, 4, 2), 256),
        (64, (32, 16, 8, 4), 1024),
        (224, (112, 56, 28, 14), 64),
    ],
)
def test_shapes(side, sides, embedding):
    model = WeakClassifier(10)
    (logits, features), _ = jax.eval_shape(
        lambda: model.init_with_output(
            jax.random.key(0), jnp.zeros((2, side, side, 3)), train=True
        )
    )
    assert logits.shape == (2, 10)
    assert {name: f.shape for name, f in features.items()} == {
        **{f"block{i}": (2, s, s, 64) for i, s in enumerate(sides, 1)},
        "embedding": (2, embedding),
    }


def numpy_forward(params, x: np.ndarray, slope: float = 0.0) -> np.ndarray:
    """Computes the logits with fresh running statistics (mean 0, variance 1).

    As the authors do: activated after pooling.
    """
    for i in range(1, 5):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
        x = np.einsum("bhwcij,ijco->bhwo", windows, params[f"conv{i}"]["kernel"])
        x = x / np.sqrt(1 + 1e-5)
        b, h, w, c = x.shape
        if h > 1:
            x = x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
        x = np.where(x > 0, x, slope * x)
    return x.reshape(len(x), -1) @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
def test_forward_equals_numpy_which_activates_after_pooling(variables, slope):
    x = images()
    model = WeakClassifier(3, width=4, negative_slope=slope)
    logits, features = evaluate(model, variables, x)
    expected = numpy_forward(jax.tree.map(np.asarray, variables["params"]), x, slope)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert np.std(expected) > 1e-3
    flat = np.asarray(features["block4"]).reshape(len(x), -1)
    np.testing.assert_array_equal(features["embedding"], flat)


def test_dropout_keeps_a_share_and_scales_it_image_by_image():
    x = jnp.arange(1.0, 4001).reshape(2, 2000)
    keys = jax.random.split(jax.random.key(0), 2)
    dropped = drop_out(x, 0.25, keys)
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], (x / 0.75)[kept], rtol=1e-6)
    np.testing.assert_allclose(kept.mean(1), 0.75, atol=0.05)
    assert (kept[0] != kept[1]).any()
    np.testing.assert_array_equal(drop_out(x[1:], 0.25, keys[1:]), dropped[1:])
    assert drop_out(x, 0.25, None) is x
    assert drop_out(x, 0.0, keys) is x


@pytest.mark.parametrize(
    "model",
    [WeakClassifier(3, 4, dropout=0.5), LatentClassifier(3, 4, dropout=0.5)],
    ids=["image", "latent"],
)
def test_dropout_acts_before_the_last_layer_only(model):
    image = isinstance(model, WeakClassifier)
    x = images() if image else images().reshape(6, -1)
    variables = model.init(jax.random.key(0), x, train=False)
    keys = jax.random.split(jax.random.key(1), len(x))
    outputs = [model.apply(variables, x, train=False, keys=k) for k in (None, keys)]
    for name in outputs[0][1]:
        np.testing.assert_array_equal(outputs[0][1][name], outputs[1][1][name])
    head = variables["params"]["head"]
    embedding = np.asarray(drop_out(outputs[1][1]["embedding"], 0.5, keys))
    expected = embedding @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    np.testing.assert_allclose(outputs[1][0], expected, rtol=1e-5, atol=1e-6)
    assert (np.asarray(outputs[0][0]) != np.asarray(outputs[1][0])).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_activating_before_or_after_pooling_gives_the_same_bits(variables, dtype):
    """The authors' LeakyReLU(True) is the identity; their LeakyReLU(.1) follows the pooling."""
    model = WeakClassifier(3, width=4, dtype=dtype, negative_slope=0.1)
    (_, features), kept = model.apply(
        variables, images(), train=False, capture_intermediates=True
    )
    normed = kept["intermediates"]["bn1"]["__call__"][0]
    after = jax.nn.leaky_relu(max_pool_2x2(normed), 0.1)
    assert (np.asarray(after) < 0).any() and (np.asarray(after) > 0).any()
    np.testing.assert_array_equal(features["block1"], after)


def test_large_maps_are_averaged():
    model, x = WeakClassifier(3, width=4), images(2, 80)
    _, features = evaluate(model, init(model, x), x)
    assert features["block4"].shape == (2, 5, 5, 4)
    mean = np.asarray(features["block4"]).mean((1, 2))
    np.testing.assert_allclose(features["embedding"], mean, rtol=1e-5, atol=1e-6)


def test_loss_falls(variables):
    model, x, labels = WeakClassifier(3, width=4), images(), jnp.arange(6) % 3

    @jax.jit
    def step(params):
        def loss(params):
            (logits, _), _ = model.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return cross_entropy(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient), gradient

    params, losses = variables["params"], []
    for _ in range(30):
        value, params, gradient = step(params)
        losses.append(float(value))
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    assert losses[-1] < 0.5 * losses[0]


def test_bfloat16_gives_float32_logits_and_params(variables):
    x = images()
    model = WeakClassifier(3, width=4, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(lambda: init(model, x))
    assert {a.dtype for a in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    logits, features = evaluate(model, variables, x)
    assert logits.dtype == features["embedding"].dtype == jnp.float32
    assert features["block1"].dtype == jnp.bfloat16
    full, _ = evaluate(WeakClassifier(3, width=4), variables, x)
    np.testing.assert_allclose(logits, full, atol=0.05)


def test_axis_name_equals_the_global_batch(variables):
    x = images(8)

    def run(x, axis_name=None):
        model = WeakClassifier(3, width=4, axis_name=axis_name)
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    (expected, _), stats = jax.jit(run)(x)
    parts = x.reshape(4, 2, 8, 8, 2)
    synced = jax.jit(jax.vmap(lambda x: run(x, "data"), axis_name="data"))
    (logits, _), updated = synced(parts)
    np.testing.assert_allclose(logits.reshape(8, 3), expected, atol=1e-4)
    for a, b in zip(jax.tree.leaves(updated), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(a, jnp.broadcast_to(b, a.shape), atol=1e-5)
    (apart, _), _ = jax.jit(jax.vmap(run))(parts)
    assert np.abs(apart.reshape(8, 3) - expected).max() > 1e-2


# On codes

OF_CODES = LatentClassifier(3, width=7)


def codes(batch: int = 6, dim: int = 5) -> np.ndarray:
    z = np.random.default_rng(0).normal(size=(batch, dim)).astype(np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def latent_variables():
    """Returns fresh latent_variables for codes of 5 dimensions and 3 classes."""
    return jax.jit(lambda z: OF_CODES.init(jax.random.key(0), z, train=True))(codes())


def test_of_codes_there_are_three_dense_layers_and_no_batch_statistics(
    latent_variables,
):
    assert latent_variables.keys() == {"params"}
    # 5*7 + 7 = 42; 7*7 + 7 = 56; 7*3 + 3 = 24.
    assert sum(a.size for a in jax.tree.leaves(latent_variables)) == 42 + 56 + 24


@pytest.mark.parametrize("train", [True, False])
def test_of_codes_forward_equals_numpy(latent_variables, train):
    z = codes()
    logits, features = jax.jit(lambda v, z: OF_CODES.apply(v, z, train=train))(
        latent_variables, z
    )
    params, x = jax.tree.map(np.asarray, latent_variables["params"]), z
    for name in ("dense1", "dense2"):
        x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
        np.testing.assert_allclose(features[name], x, atol=1e-6)
    np.testing.assert_array_equal(features["embedding"], features["dense2"])
    expected = x @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    assert np.std(expected) > 1e-2


def test_of_codes_bfloat16_gives_float32_logits(latent_variables):
    model = LatentClassifier(3, width=7, dtype=jnp.bfloat16)
    logits, features = model.apply(latent_variables, codes(), train=False)
    assert logits.dtype == features["embedding"].dtype == jnp.float32
    assert features["dense2"].dtype == jnp.bfloat16
    full, _ = OF_CODES.apply(latent_variables, codes(), train=False)
    np.testing.assert_allclose(logits, full, atol=0.02)


def test_of_codes_loss_falls(latent_variables):
    z, labels = codes(), jnp.arange(6) % 3

    @jax.jit
    def step(params):
        def loss(params):
            logits, _ = OF_CODES.apply({"params": params}, z, train=True)
            return cross_entropy(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)

    params, values = latent_variables["params"], []
    for _ in range(60):
        value, params = step(params)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]
