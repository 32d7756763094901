"""Tests of cglo_jax/cglo/losses.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.cglo import losses


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def impulse() -> np.ndarray:
    """Returns a 4x4 image that is 1024 in its corner and 0 elsewhere."""
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 0, 0, 0] = 1024
    return x


# By hand. Blurring and halving 4 samples with [1 4 6 4 1] / 16 and replicated edges
# weighs the first sample by 11/16 and 1/16, so the rest is 1024 * [11 1]' [11 1] / 256.
REST = [[484, 44], [44, 4]]
# Interpolation of (a, b) is (7a + b, 4a + 4b, a + 7b, 8b) / 8, and of (11, 1) it is
# (9.75, 6, 2.25, 1): the level is the image less 4 times the outer product of that.
LEVEL = [
    [1024 - 380.25, -234, -87.75, -39],
    [-234, -144, -54, -24],
    [-87.75, -54, -20.25, -9],
    [-39, -24, -9, -4],
]


def test_laplacian_pyramid_by_hand():
    level, rest = losses.laplacian_pyramid(jnp.asarray(impulse()))
    np.testing.assert_array_equal(level[0, :, :, 0], LEVEL)
    np.testing.assert_array_equal(rest[0, :, :, 0], REST)


def test_laplacian_loss_by_hand():
    # |LEVEL| sums to 643.75 + 4 * 19^2 - 380.25 = 1707.5, REST to 576:
    # 1707.5 / 16 + 576 / 4 = 250.71875.
    x = jnp.asarray(impulse())
    np.testing.assert_array_equal(losses.laplacian_loss(x, 0 * x), [250.71875])
    np.testing.assert_array_equal(losses.laplacian_loss(0 * x, x), [250.71875])


def numpy_pyramid(x: np.ndarray) -> list[np.ndarray]:
    """Builds the pyramid of [B, H, W, C] with one-dimensional convolutions."""
    kernel = np.array([1, 4, 6, 4, 1]) / 16

    def reduce(v):
        return np.convolve(np.pad(v, 2, mode="edge"), kernel, "valid")[::2]

    def expand(v):
        zeros_between = np.zeros(2 * len(v) + 4)
        zeros_between[::2] = np.pad(v, 1, mode="edge")
        return 2 * np.convolve(zeros_between, kernel, "valid")[: 2 * len(v)]

    def both(function, x):
        return np.apply_along_axis(function, 2, np.apply_along_axis(function, 1, x))

    levels = []
    while x.shape[1] % 2 == x.shape[2] % 2 == 0 and min(x.shape[1:3]) > 2:
        low = both(reduce, x)
        levels.append(x - both(expand, low))
        x = low
    return [*levels, x]


@pytest.mark.parametrize("side", [(16, 16), (8, 12), (6, 6), (7, 8), (2, 2)])
def test_laplacian_pyramid_equals_numpy(side):
    x = normal(0, 2, *side, 3)
    levels = losses.laplacian_pyramid(x)
    expected = numpy_pyramid(x)
    assert [a.shape for a in levels] == [a.shape for a in expected]
    for a, b in zip(levels, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_laplacian_pyramid_sides():
    levels = losses.laplacian_pyramid(jnp.zeros((1, 32, 32, 3)))
    assert [a.shape[1] for a in levels] == [32, 16, 8, 4, 2]
    levels = jax.eval_shape(losses.laplacian_pyramid, jnp.zeros((1, 224, 224, 3)))
    assert [a.shape[1] for a in levels] == [224, 112, 56, 28, 14, 7]


def test_laplacian_pyramid_of_a_constant_is_zero_but_for_the_rest():
    *levels, rest = losses.laplacian_pyramid(jnp.full((1, 16, 16, 1), 0.7))
    for level in levels:
        np.testing.assert_allclose(level, 0, atol=1e-6)
    np.testing.assert_allclose(rest, 0.7, rtol=1e-6)


def test_laplacian_loss_is_glos_weighted_sum():
    x, y = normal(0, 3, 16, 16, 2), normal(1, 3, 16, 16, 2)
    expected = np.zeros(3)
    pyramids = zip(numpy_pyramid(x), numpy_pyramid(y), strict=True)
    for j, (a, b) in enumerate(pyramids):
        expected += 4**j * np.abs(a - b).sum((1, 2, 3)) / (16 * 16 * 2)
    value = losses.laplacian_loss(x, y)
    assert value.shape == (3,)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_pixel_l1_equals_numpy():
    x, y = normal(0, 3, 4, 5, 2), normal(1, 3, 4, 5, 2)
    expected = np.abs(x - y).mean((1, 2, 3))
    value = losses.pixel_l1(x, y)
    assert value.shape == (3,)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_perceptual_loss_equals_numpy():
    shapes = {"a": (3, 4, 4, 2), "b": (3, 2, 2, 5), "unused": (3, 1, 1, 1)}
    x = {name: normal(i, *s) for i, (name, s) in enumerate(shapes.items())}
    y = {name: normal(9 + i, *s) for i, (name, s) in enumerate(shapes.items())}
    value = losses.perceptual_loss(x, y, {"a": 2.0, "b": 0.5})
    expected = 2 * np.abs(x["a"] - y["a"]).mean((1, 2, 3))
    expected += 0.5 * np.abs(x["b"] - y["b"]).mean((1, 2, 3))
    assert value.shape == (3,)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    with pytest.raises(KeyError, match="conv9_9"):
        losses.perceptual_loss(x, y, {"conv9_9": 1.0})


def test_bfloat16_features_are_compared_in_float32():
    # Differences of 2^-7 and means over 4096 values need more than 8 bits.
    x = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    y = x.at[0, 0, 0, 0].set(1 + 2**-7)
    value = losses.perceptual_loss({"a": x}, {"a": y}, {"a": 1.0})
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, [2.0**-19])


def test_cross_entropy_equals_numpy():
    logits, labels = normal(0, 4, 5) * 3, np.array([0, 4, 2, 2], np.int32)
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    value = losses.cross_entropy(logits, labels)
    assert value.shape == (4,)
    np.testing.assert_allclose(
        value, -np.log(probability[np.arange(4), labels]), rtol=1e-5
    )
    large = losses.cross_entropy(jnp.array([[1e4, 0.0]]), jnp.array([1]))
    np.testing.assert_array_equal(large, [1e4])


@pytest.mark.parametrize(
    "loss", [losses.pixel_l1, losses.laplacian_loss], ids=["pixel_l1", "laplacian"]
)
def test_image_losses_are_zero_at_equality_with_finite_gradient(loss):
    x, y = normal(0, 2, 8, 8, 3), normal(1, 2, 8, 8, 3)
    np.testing.assert_array_equal(loss(x, x), [0, 0])
    assert np.isfinite(jax.grad(lambda x: loss(x, x + 0).sum())(x)).all()
    gradient = jax.grad(lambda x: loss(x, y).sum())(x)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).min() >= 0 < np.abs(gradient).max()
    # A step against the gradient brings the images closer.
    assert (loss(x - gradient, y) < loss(x, y)).all()


def test_cross_entropy_has_a_finite_gradient_even_at_zero():
    labels = jnp.array([0, 1])
    for logits in (jnp.zeros((2, 3)), jnp.asarray(normal(0, 2, 3))):
        gradient = jax.grad(lambda a: losses.cross_entropy(a, labels).sum())(logits)
        assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("loss", [losses.pixel_l1, losses.laplacian_loss])
def test_different_shapes_are_refused_with_both(loss):
    x, y = jnp.zeros((2, 8, 8, 3)), jnp.zeros((2, 8, 8, 1))
    with pytest.raises(ValueError, match=r"\(2, 8, 8, 3\) and \(2, 8, 8, 1\)"):
        loss(x, y)


def test_losses_do_not_depend_on_the_other_examples():
    x, y = normal(0, 3, 8, 8, 2), normal(1, 3, 8, 8, 2)
    for loss in (losses.pixel_l1, losses.laplacian_loss):
        whole = loss(x, y)
        alone = [loss(x[i : i + 1], y[i : i + 1])[0] for i in range(3)]
        np.testing.assert_allclose(whole, alone, rtol=1e-6)


def test_soft_cross_entropy_of_one_hot_and_of_mixed_targets():
    logits = jnp.asarray(normal(0, 5, 3) * 4)
    labels = jnp.array([0, 1, 2, 1, 0])
    hard = losses.cross_entropy(logits, labels)
    soft = losses.soft_cross_entropy(logits, jax.nn.one_hot(labels, 3))
    np.testing.assert_allclose(soft, hard, rtol=1e-6)
    # ln(1 + 1 + 2) - (.5 ln 1 + .5 ln 2)
    by_hand = np.log(4) - 0.5 * np.log(2)
    mixed = losses.soft_cross_entropy(
        jnp.log(jnp.array([[1.0, 1.0, 2.0]])), jnp.array([[0.5, 0.0, 0.5]])
    )
    np.testing.assert_allclose(mixed, [by_hand], rtol=1e-6)


def test_cosine_loss_by_hand():
    outputs = jnp.array([[3.0, 4.0], [0.0, 2.0], [-5.0, 0.0], [0.0, 0.0]])
    targets = jnp.array([[1.0, 0.0]] * 4)
    loss = losses.cosine_loss(outputs, targets)
    np.testing.assert_allclose(loss, [0.4, 1.0, 2.0, 1.0], rtol=1e-6)
    # Mixed targets are normalised as well: the best output is their direction.
    mixed = losses.cosine_loss(jnp.array([[9.0, 3.0]]), jnp.array([[0.75, 0.25]]))
    np.testing.assert_allclose(mixed, [0.0], atol=1e-6)
    grads = jax.grad(lambda x: losses.cosine_loss(x, targets).sum())(outputs)
    assert np.isfinite(grads).all()
    # Its length does not count: the gradient is at right angles to the outputs.
    np.testing.assert_allclose((grads * outputs).sum(1), np.zeros(4), atol=1e-6)
    np.testing.assert_allclose(grads[0], [-0.128, 0.096], rtol=1e-5)


# Of the weak classifier

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 4.0, 1.0]], np.float32)
LABELS = np.array([0, 2, 2])


def test_losses_of_the_weak_classifier_by_numpy():
    def of(name):
        return np.asarray(losses.WEAK_LOSSES[name](jnp.asarray(LOGITS), LABELS))

    assert losses.WEAK_LOSSES.keys() == {"cross_entropy", "cosine", "double_softmax"}
    each = np.arange(3)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    np.testing.assert_allclose(of("cross_entropy"), -np.log(p[each, LABELS]), rtol=1e-5)
    q = np.exp(p) / np.exp(p).sum(1, keepdims=True)
    expected = -np.log(q[each, LABELS])
    np.testing.assert_allclose(of("double_softmax"), expected, rtol=1e-5)
    cosine = [2 / np.sqrt(5.25), 0, 1 / np.sqrt(26)]  # by hand, 0 of a row of zeros
    np.testing.assert_allclose(of("cosine"), 1 - np.array(cosine), rtol=1e-5)


def test_double_softmax_is_pytorchs_cross_entropy_of_a_softmax():
    torch = pytest.importorskip("torch")
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss = torch.nn.CrossEntropyLoss()(logits.softmax(1), torch.tensor(LABELS))
    loss.backward()
    value, gradient = jax.value_and_grad(
        lambda x: losses.WEAK_LOSSES["double_softmax"](x, LABELS).mean()
    )(jnp.asarray(LOGITS))
    assert float(value) == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, logits.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", sorted(losses.WEAK_LOSSES))
def test_losses_without_a_label_are_finite_with_a_finite_gradient(name):
    loss = losses.WEAK_LOSSES[name]
    labels = np.full(3, -1)
    assert np.isfinite(loss(jnp.asarray(LOGITS), labels)).all()
    gradient = jax.grad(lambda x: loss(x, labels).sum())(jnp.asarray(LOGITS))
    assert np.isfinite(gradient).all()
