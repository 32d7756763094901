"""Tests of cglo_jax/models/wide_resnet.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

from cglo_jax.errors import UserError
from cglo_jax.models import layers
from cglo_jax.models.wide_resnet import WideResNet


def images(batch: int = 2, side: int = 8, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (batch, side, side, channels)).astype(np.float32)


def small(**fields) -> WideResNet:
    return WideResNet(3, **{"depth": 10, "width": 1, "dropout": 0.0, **fields})


@pytest.fixture(scope="module")
def variables():
    """Returns random WRN-10-1 weights whose batch norms do something."""
    drawn = jax.jit(lambda: small().init(jax.random.key(0), images(), train=False))()
    leaves, structure = jax.tree.flatten(drawn)
    rng = np.random.default_rng(1)
    noise = [rng.uniform(-0.2, 0.2, a.shape).astype(np.float32) for a in leaves]
    return jax.tree.unflatten(
        structure,
        [a + n if a.ndim == 1 else a for a, n in zip(leaves, noise, strict=True)],
    )


def evaluate(model: WideResNet, variables, x: np.ndarray):
    return jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, x)


def count(model: WideResNet, channels: int = 3) -> int:
    x = jnp.zeros((1, 32, 32, channels))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    return sum(a.size for a in jax.tree.leaves(shapes["params"]))


def test_parameter_counts_of_wrn_28_10():
    assert count(WideResNet(100)) == 36_536_884
    assert count(WideResNet(10)) == 36_479_194


def test_parameter_count_by_hand():
    # conv1 9*1*16 = 144; group1 bn 32 + 9*16*16 + bn 32 + 9*16*16 = 4,672;
    # group2 bn 32 + 9*16*32 + bn 64 + 9*32*32 + shortcut 16*32 = 14,432;
    # group3 bn 64 + 9*32*64 + bn 128 + 9*64*64 + shortcut 32*64 = 57,536;
    # bn 128; head 64*3+3 = 195.
    assert count(small(), channels=1) == 77_107


@pytest.mark.parametrize("depth", [4, 3, 27, 29, -2])
def test_impossible_depth_is_refused(depth):
    with pytest.raises(UserError, match=f"depth {depth}: set it to 6n"):
        small(depth=depth).init(jax.random.key(0), images(), train=False)


def test_shapes():
    x = jnp.zeros((2, 32, 32, 3))
    (logits, features), _ = jax.eval_shape(
        lambda: WideResNet(10).init_with_output(jax.random.key(0), x, train=False)
    )
    assert logits.shape == (2, 10)
    assert {name: f.shape for name, f in features.items()} == {
        "group1": (2, 32, 32, 160),
        "group2": (2, 16, 16, 320),
        "group3": (2, 8, 8, 640),
        "embedding": (2, 640),
    }


def numpy_forward(variables, x: np.ndarray) -> np.ndarray:
    """Computes WRN-10-1 in evaluation, written out."""
    params, stats = variables["params"], variables["batch_stats"]

    def norm_relu(x, p, s):
        x = (x - s["mean"]) / np.sqrt(s["var"] + 1e-5)
        return np.maximum(x * p["scale"] + p["bias"], 0)

    def conv(x, p, stride=1):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
        y = np.einsum("bhwcij,ijco->bhwo", windows, p["kernel"])
        return y[:, ::stride, ::stride]

    x = conv(x, params["conv1"])
    for name, stride in [("group1", 1), ("group2", 2), ("group3", 2)]:
        p, s = params[f"{name}_block1"], stats[f"{name}_block1"]
        y = norm_relu(x, p["bn1"], s["bn1"])
        if stride == 2:
            x = y[:, ::2, ::2] @ np.asarray(p["shortcut"]["kernel"][0, 0])
        y = norm_relu(conv(y, p["conv1"], stride), p["bn2"], s["bn2"])
        x = x + conv(y, p["conv2"])
    x = norm_relu(x, params["bn"], stats["bn"]).mean((1, 2))
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def test_forward_equals_numpy(variables):
    logits, features = evaluate(small(), variables, images())
    expected = numpy_forward(jax.tree.map(np.asarray, variables), images())
    assert np.std(expected) > 0.02
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert features["embedding"].shape == (2, 64)


def test_convolutions_start_with_fan_out_deviation(variables):
    kernel = variables["params"]["group3_block1"]["conv2"]["kernel"]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.03)
    shortcut = variables["params"]["group3_block1"]["shortcut"]["kernel"]
    assert np.std(shortcut) == pytest.approx(np.sqrt(2 / 64), rel=0.06)
    conv1 = variables["params"]["conv1"]["kernel"]  # 1 input channel: fan_in is 9
    assert np.std(conv1) == pytest.approx(np.sqrt(2 / (9 * 16)), rel=0.2)


def test_dropout_needs_a_key_only_when_it_acts(variables):
    x, train = images(), {"train": True, "mutable": ["batch_stats"]}
    model = small(dropout=0.5)
    with pytest.raises(InvalidRngError, match="dropout"):
        model.apply(variables, x, **train)

    def logits(key: int):
        rngs = {"dropout": jax.random.key(key)}
        return model.apply(variables, x, rngs=rngs, **train)[0][0]

    np.testing.assert_array_equal(logits(0), logits(0))
    assert np.abs(logits(0) - logits(1)).max() > 1e-3
    (plain, _), _ = small().apply(variables, x, **train)  # rate 0: no key
    assert np.abs(logits(0) - plain).max() > 1e-3
    evaluated, _ = evaluate(model, variables, x)  # evaluation: no key
    without, _ = evaluate(small(), variables, x)
    np.testing.assert_array_equal(evaluated, without)


def test_dropout_acts_between_the_convolutions_of_a_block(variables):
    # At rate 1 conv2 has no input, so group 1 is its shortcut, the stem's output. Had
    # dropout been before conv1, the bias of bn2 would still reach conv2.
    x = images()
    (_, features), _ = small(dropout=1.0).apply(
        variables,
        x,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(0)},
    )
    stem = layers.conv3x3_native(x, variables["params"]["conv1"]["kernel"])
    np.testing.assert_allclose(features["group1"], stem, atol=1e-6)


def test_gradients_are_finite_and_reach_everything(variables):
    @jax.jit
    @jax.grad
    def gradient(params):
        (logits, _), _ = small().apply(
            {**variables, "params": params},
            images(),
            train=True,
            mutable=["batch_stats"],
        )
        return -jax.nn.log_softmax(logits)[:, 0].mean()

    for value in jax.tree.leaves(gradient(variables["params"])):
        assert np.isfinite(value).all()
        assert np.abs(value).max() > 0


def test_bfloat16_gives_float32_logits_and_params(variables):
    model = small(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), images(), train=False)
    )
    assert {a.dtype for a in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    logits, features = evaluate(model, variables, images())
    assert logits.dtype == features["embedding"].dtype == jnp.float32
    assert features["group1"].dtype == jnp.bfloat16
    full, _ = evaluate(small(), variables, images())
    np.testing.assert_allclose(logits, full, atol=0.05)


def test_axis_name_equals_the_global_batch(variables):
    x = images(4)

    def run(x, axis_name=None):
        model = small(axis_name=axis_name)
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    (expected, _), stats = jax.jit(run)(x)
    parts = x.reshape(2, 2, 8, 8, 1)
    synced = jax.jit(jax.vmap(lambda x: run(x, "data"), axis_name="data"))
    (logits, _), updated = synced(parts)
    np.testing.assert_allclose(logits.reshape(4, 3), expected, atol=1e-4)
    for a, b in zip(jax.tree.leaves(updated), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(a, jnp.broadcast_to(b, a.shape), atol=1e-4)
    (apart, _), _ = jax.jit(jax.vmap(run))(parts)
    assert np.abs(apart.reshape(4, 3) - expected).max() > 1e-2
