"""Tests of cglo_jax/models/layers.py."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.models import layers


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def numpy_conv(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    return np.einsum("bhwcij,ijco->bhwo", windows, kernel)[:, ::stride, ::stride]


def numpy_conv_transpose(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Scatters every input pixel: tap a of pixel i lands on 2i + 2 - a, if inside."""
    b, h, w, _ = x.shape
    canvas = np.zeros((b, 2 * h + 2, 2 * w + 2, kernel.shape[-1]))  # one pixel around
    for i, j, a, c in np.ndindex(h, w, 4, 4):
        canvas[:, 2 * i + 3 - a, 2 * j + 3 - c] += x[:, i, j] @ kernel[a, c]
    return canvas[:, 1:-1, 1:-1]


def value_and_gradients(function, x, kernel):
    """Returns the output and the gradients of a weighted sum of it."""

    def weighted(x, kernel):
        y = function(x, kernel)
        return (y * normal(9, *y.shape)).sum(), y

    gradient = jax.jit(jax.grad(weighted, (0, 1), has_aux=True))
    gradients, y = gradient(x, kernel)
    return y, *gradients


@pytest.mark.parametrize("side", [(1, 1), (2, 2), (1, 3), (2, 4), (3, 2)])
def test_tiny_conv_equals_native_with_gradients(side):
    x, kernel = normal(0, 3, *side, 5), normal(1, 3, 3, 5, 7)
    tiny = value_and_gradients(layers.conv3x3_tiny, x, kernel)
    native = value_and_gradients(layers.conv3x3_native, x, kernel)
    for a, b in zip(tiny, native, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(tiny[0], numpy_conv(x, kernel), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("module", [layers.Conv1x1(3), layers.Conv3x3(3)])
@pytest.mark.parametrize("channels", [3, 8])
def test_a_batch_may_be_empty(module, channels):
    x = jnp.zeros((0, 4, 4, channels))
    variables = module.init(jax.random.key(0), x)
    assert module.apply(variables, x).shape == (0, 4, 4, 3)


@pytest.mark.parametrize("side", [(1, 1), (1, 3), (3, 3), (5, 4)])
@pytest.mark.parametrize(
    ("form", "channels"),
    [(layers.conv3x3_from_few, (3, 7)), (layers.conv3x3_to_few, (7, 3))],
)
def test_conv_of_few_channels_equals_native_with_gradients(form, channels, side):
    x, kernel = normal(0, 3, *side, channels[0]), normal(1, 3, 3, *channels)
    few = value_and_gradients(form, x, kernel)
    native = value_and_gradients(layers.conv3x3_native, x, kernel)
    for a, b in zip(few, native, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(few[0], numpy_conv(x, kernel), rtol=1e-5, atol=2e-5)


def test_conv_to_few_channels_adds_bfloat16_in_float32():
    x, kernel = normal(0, 2, 4, 4, 64), normal(1, 3, 3, 64, 3)
    half = [jnp.asarray(a, jnp.bfloat16) for a in (x, kernel)]
    expected = layers.conv3x3_native(*(a.astype(jnp.float32) for a in half))
    y = layers.conv3x3_to_few(*half)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, expected.astype(jnp.bfloat16))


def test_conv_1x1_module_equals_flax_with_its_parameters():
    x = normal(0, 2, 3, 5, 4)
    module = layers.Conv1x1(6)
    variables = module.init(jax.random.key(0), x)
    flax = nn.Conv(6, (1, 1), use_bias=False)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
        jnp.shape, flax.init(jax.random.key(0), x)
    )
    expected = flax.apply(variables, x)
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize("side", [(1, 1), (2, 2), (4, 4), (3, 5)])
def test_phase_conv_transpose_equals_native_with_gradients(side):
    x, kernel = normal(0, 2, *side, 5), normal(1, 4, 4, 5, 3)
    phases = value_and_gradients(layers.conv_transpose_4x4_phases, x, kernel)
    native = value_and_gradients(layers.conv_transpose_4x4_native, x, kernel)
    for a, b in zip(phases, native, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)
    expected = numpy_conv_transpose(x, kernel)
    np.testing.assert_allclose(phases[0], expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("side", [(1, 1), (2, 2), (5, 4), (7, 7)])
@pytest.mark.parametrize("stride", [1, 2])
def test_conv_module_equals_numpy(side, stride):
    x = normal(0, 2, *side, 3)
    module = layers.Conv3x3(4, stride, kernel_init=nn.initializers.normal(1.0))
    params = module.init(jax.random.key(0), x)["params"]
    assert jax.tree.map(jnp.shape, params) == {"kernel": (3, 3, 3, 4), "bias": (4,)}
    params["bias"] = jnp.array([1.0, 2.0, 3.0, 4.0])
    expected = numpy_conv(x, params["kernel"], stride) + np.array([[[[1, 2, 3, 4]]]])
    y = module.apply({"params": params}, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_conv_transpose_module_equals_numpy():
    x = normal(0, 2, 3, 2, 3)
    module = layers.ConvTranspose4x4(2, kernel_init=nn.initializers.normal(1.0))
    params = module.init(jax.random.key(0), x)["params"]
    params["bias"] = jnp.array([5.0, -5.0])
    expected = numpy_conv_transpose(x, params["kernel"]) + np.array([[[[5, -5]]]])
    y = module.apply({"params": params}, x)
    assert y.shape == (2, 6, 4, 2)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "module", [layers.Conv1x1(2), layers.Conv3x3(2), layers.ConvTranspose4x4(2)]
)
def test_bfloat16_computes_in_bfloat16_with_float32_params(module):
    x = normal(0, 1, 2, 2, 3)
    half = module.copy(dtype=jnp.bfloat16)
    variables = half.init(jax.random.key(0), x)
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    y = half.apply(variables, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        y.astype(jnp.float32), module.apply(variables, x), atol=0.03
    )


def lowered(module: nn.Module, shape: tuple[int, ...], platform: str) -> str:
    """Returns the program (StableHLO) of a module's gradient for one platform."""
    x = jnp.zeros(shape)
    variables = module.init(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda v: (module.apply(v, x) ** 2).sum()))
    return gradient.trace(variables).lower(lowering_platforms=(platform,)).as_text()


def test_cpu_form_is_chosen_on_cpu_and_native_on_gpu():
    tiny, up = layers.Conv3x3(2), layers.ConvTranspose4x4(2)
    assert "stablehlo.convolution" not in lowered(tiny, (1, 2, 2, 3), "cpu")
    assert "stablehlo.convolution" in lowered(layers.Conv3x3(5), (1, 3, 3, 5), "cpu")
    assert "stablehlo.convolution" not in lowered(
        layers.Conv3x3(5), (1, 3, 3, 3), "cpu"
    )
    assert "stablehlo.convolution" not in lowered(tiny, (1, 3, 3, 5), "cpu")
    assert "stablehlo.convolution" not in lowered(
        layers.Conv3x3(5), (1, 3, 3, 4), "cpu"
    )
    assert "stablehlo.convolution" in lowered(layers.Conv3x3(5, 2), (1, 3, 3, 3), "cpu")
    assert "stablehlo.convolution" in lowered(tiny, (1, 3, 3, 5), "cuda")
    assert "stablehlo.convolution" in lowered(tiny, (1, 2, 2, 3), "cuda")
    assert "lhs_dilate = [2, 2]" not in lowered(up, (1, 4, 4, 3), "cpu")
    assert "lhs_dilate = [2, 2]" in lowered(up, (1, 4, 4, 3), "cuda")


@pytest.mark.parametrize("side", [(2, 2), (4, 6), (5, 7)])
def test_max_pool_equals_flax_with_gradients(side):
    x = normal(0, 2, *side, 3)  # no two values are equal

    def flax_pool(x, _):
        return nn.max_pool(x, (2, 2), (2, 2))

    ours = value_and_gradients(lambda x, _: layers.max_pool_2x2(x), x, jnp.zeros(()))
    flax = value_and_gradients(flax_pool, x, jnp.zeros(()))
    np.testing.assert_array_equal(ours[0], flax[0])
    np.testing.assert_array_equal(ours[1], flax[1])


def test_max_pool_gives_the_gradient_to_the_first_of_equal_maxima_as_flax_does():
    x = jnp.floor(
        normal(0, 4, 6, 6, 5)
    )  # of few values: many windows have equal maxima
    weights = normal(1, 4, 3, 3, 5)

    def gradient(pool, x):
        return jax.grad(lambda x: (pool(x) * weights).sum())(x)

    expected = gradient(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)
    np.testing.assert_array_equal(gradient(layers.max_pool_2x2, x), expected)
    assert layers.max_pool_2x2(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("side", [(1, 1), (2, 2), (3, 1), (4, 6), (5, 7), (16, 15)])
def test_3x3_max_pool_equals_flax_with_gradients(side):
    x = normal(0, 2, *side, 3)  # no two values are equal
    x -= 10  # all negative: zeros as padding would win

    def flax_pool(x, _):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    ours = value_and_gradients(lambda x, _: layers.max_pool_3x3(x), x, jnp.zeros(()))
    flax = value_and_gradients(flax_pool, x, jnp.zeros(()))
    assert ours[0].shape == (2, -(-side[0] // 2), -(-side[1] // 2), 3)
    np.testing.assert_array_equal(ours[0], flax[0])
    # A pixel of four windows adds up their gradients in another order.
    np.testing.assert_allclose(ours[1], flax[1], rtol=1e-5, atol=1e-6)


def test_3x3_max_pool_after_relu_has_flaxs_gradient():
    x = normal(0, 2, 7, 8, 3) - 1  # most are zero after the ReLU
    weights = normal(9, 2, 4, 4, 3)

    def gradient(pool):
        return jax.grad(lambda x: (pool(nn.relu(x)) * weights).sum())(x)

    flax = gradient(lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))))
    ours = gradient(layers.max_pool_3x3)
    assert np.abs(flax).max() > 1 and np.mean(flax == 0) > 0.5
    np.testing.assert_allclose(ours, flax, rtol=1e-5, atol=1e-6)


def test_3x3_max_pool_shares_the_gradient_of_equal_maxima_and_keeps_bfloat16():
    x = jnp.array([[3.0, 3.0], [1.0, 2.0]]).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: layers.max_pool_3x3(x).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0.5, 0.5], [0, 0]])
    assert layers.max_pool_3x3(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


class _Norm(nn.Module):
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train):
        return layers.batch_norm(train, self.axis_name, name="bn")(x)


def test_batch_norm_equals_numpy_and_moves_running_values_by_a_tenth():
    x = 3 * normal(0, 8, 2, 2, 3) + 1
    variables = _Norm().init(jax.random.key(0), x, True)
    y, updated = _Norm().apply(variables, x, True, mutable=["batch_stats"])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-5)
    stats = updated["batch_stats"]["bn"]
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-5)
    y = _Norm().apply({**variables, **updated}, x, False)
    expected = (x - 0.1 * mean) / np.sqrt(0.9 + 0.1 * var + 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_batch_norm_over_an_axis_equals_the_global_batch():
    x = normal(0, 8, 2, 2, 3) + np.arange(8, dtype=np.float32)[:, None, None, None]
    variables = _Norm().init(jax.random.key(0), x, True)
    expected, stats = _Norm().apply(variables, x, True, mutable=["batch_stats"])

    def part(x, norm):
        return norm.apply(variables, x, True, mutable=["batch_stats"])

    parts = x.reshape(4, 2, 2, 2, 3)
    synced = jax.vmap(lambda x: part(x, _Norm("data")), axis_name="data")(parts)
    np.testing.assert_allclose(synced[0].reshape(x.shape), expected, atol=1e-5)
    for a, b in zip(jax.tree.leaves(synced[1]), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(a, jnp.broadcast_to(b, a.shape), rtol=1e-5)
    # Without the name the parts are normalised apart, so the comparison can fail.
    alone = jax.vmap(lambda x: part(x, _Norm()), axis_name="data")(parts)[0]
    assert np.abs(alone.reshape(x.shape) - expected).max() > 0.1
    # Evaluation needs no mapped axis.
    assert _Norm("data").apply(variables, x, False).shape == x.shape
