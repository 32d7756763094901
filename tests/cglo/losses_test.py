"""Tests of cglo_jax/cglo/losses.py."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.cglo import algorithm, losses
from cglo_jax.data import dataset as data
from cglo_jax.errors import UserError
from cglo_jax.models.vgg import BLOCK_WIDTHS, VGG16
from cglo_jax.stages import train
from cglo_jax.training import parallel
from configs import cifar100
from tests.helpers.bench import BATCH, Bench
from tests.helpers.tiny import create_config, create_dataset


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


WEAK_LOSSES = ("cosine", "cross_entropy", "double_softmax")


def test_losses_of_the_weak_classifier_by_numpy():
    def of(name):
        return np.asarray(losses.weak_loss(name, jnp.asarray(LOGITS), LABELS))

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
        lambda x: losses.weak_loss("double_softmax", x, LABELS).mean()
    )(jnp.asarray(LOGITS))
    assert float(value) == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, logits.grad, rtol=1e-4, atol=1e-7)


def test_smoothed_labels_by_numpy():
    targets = 0.7 * np.eye(3)[LABELS] + 0.1
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    q = np.exp(p) / np.exp(p).sum(1, keepdims=True)
    for name, probabilities in (("cross_entropy", p), ("double_softmax", q)):
        expected = -(targets * np.log(probabilities)).sum(1)
        value = losses.weak_loss(name, jnp.asarray(LOGITS), LABELS, 0.3)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
    lengths = np.linalg.norm(LOGITS, axis=1) * np.linalg.norm(targets, axis=1)
    dots = (LOGITS * targets).sum(1)
    cosine = np.divide(dots, lengths, out=np.zeros(3), where=lengths > 0)
    value = losses.weak_loss("cosine", jnp.asarray(LOGITS), LABELS, 0.3)
    np.testing.assert_allclose(value, 1 - cosine, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", WEAK_LOSSES)
def test_losses_without_a_label_are_finite_with_a_finite_gradient(name, smoothing):
    labels = np.full(3, -1)

    def loss(x, labels):
        return losses.weak_loss(name, x, labels, smoothing)

    assert np.isfinite(loss(jnp.asarray(LOGITS), labels)).all()
    gradient = jax.grad(lambda x: loss(x, labels).sum())(jnp.asarray(LOGITS))
    assert np.isfinite(gradient).all()


# The reconstruction loss: kept features change speed and rounding, nothing else


PERCEPTUAL = {"reconstruction.loss": "perceptual", "reconstruction.weights": "random"}


def perceptual_config(**changes):
    fields = {name.replace("__", "."): value for name, value in changes.items()}
    return create_config(**{**PERCEPTUAL, **fields})


@pytest.mark.parametrize(
    ("dtype", "rtol"),
    [("float32", 1e-5), pytest.param("bfloat16", 1e-2, marks=pytest.mark.slow)],
)
def test_a_step_with_cached_features_is_the_step_without(dtype, rtol):
    dataset = create_dataset(size=16, channels=3)
    cached, plain = (
        Bench(perceptual_config(dtype=dtype, reconstruction__cache_gb=gb), dataset)
        for gb in (1, 0)
    )
    assert len(cached.shared.features) == 5
    assert plain.shared.features == {}
    for step in range(4):
        batch = (BATCH + 3 * step) % 24
        ours, theirs = cached.step(batch), plain.step(batch)
        names = ("loss", "reconstruction")
        assert [ours[n] for n in names] == pytest.approx(
            [theirs[n] for n in names], rel=rtol
        )
    z = [bench.state.codes.z for bench in (cached, plain)]
    np.testing.assert_allclose(*z, atol=10 * rtol)


@pytest.mark.slow
def test_four_devices_with_cached_features_compute_what_one_computes():
    dataset = create_dataset(size=16, channels=3)
    one, four = (Bench(perceptual_config(), dataset, devices=n) for n in (1, 4))
    for step in range(3):
        losses = [bench.step((BATCH + step) % 24)["loss"] for bench in (one, four)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_the_cache_is_what_the_network_computes(dtype, atol):
    dataset = create_dataset(24, size=16)  # grey
    loss = algorithm.create_spec(perceptual_config(dtype=dtype), dataset).reconstruction
    vgg, _ = train.load_vgg(perceptual_config())
    features = loss.compute_features(dataset.images, vgg)
    images = (dataset.images / 127.5 - 1).astype(np.float32).repeat(3, -1)
    network = VGG16(dtype=jnp.dtype(dtype))
    _, expected = jax.jit(network.apply)({"params": vgg}, images)
    assert features.keys() == expected.keys()
    for name, values in features.items():
        assert values.dtype == dtype
        np.testing.assert_allclose(
            values.astype(np.float32), expected[name].astype(np.float32), atol=atol
        )
    size = sum(values.nbytes for values in features.values())
    shapes = loss.feature_shapes(24, 16, 1.0)
    assert shapes == {
        k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in features.items()
    }
    assert loss.feature_shapes(24, 16, size / 1e9) == shapes
    assert loss.feature_shapes(24, 16, 0.99 * size / 1e9) == {}


def test_layers_that_do_not_count_are_neither_cached_nor_computed():
    dataset = create_dataset(size=16, channels=3)
    weights = (1.0, 0.0, 2.0, 0.0, 0.0)
    bench = Bench(perceptual_config(reconstruction__layer_weights=weights), dataset)
    assert set(bench.shared.features) == {"conv1_2", "conv3_2"}
    products = re.findall(
        r"stablehlo\.(?:convolution|dot_general).*", lower(bench).as_text()
    )
    assert any("x256x" in line for line in products)  # of conv3
    assert not any("x512x" in line for line in products)  # of conv4 and conv5


def test_any_layers_count_by_name_and_the_network_ends_at_the_deepest():
    dataset = create_dataset(6, size=16, channels=3)
    config = perceptual_config(
        reconstruction__layers=("pool3", "conv3_2_pre", "conv5_3", "conv2_1"),
        reconstruction__layer_weights=(0.5, 2.0, 0.0, 1.0),
    )
    loss = algorithm.create_spec(config, dataset).reconstruction
    assert loss.vgg.taps == ("pool3", "conv3_2_pre", "conv2_1")
    vgg, _ = train.load_vgg(config)
    kept = loss.compute_features(dataset.images, vgg)
    shapes = loss.feature_shapes(6, 16, 1.0)
    assert {k: v.shape for k, v in kept.items()} == {
        "pool3": (6, 2, 2, 256),
        "conv3_2_pre": (6, 4, 4, 256),
        "conv2_1": (6, 8, 8, 128),
    }
    assert {k: v.shape for k, v in shapes.items()} == {
        k: v.shape for k, v in kept.items()
    }
    x = (dataset.images / 127.5 - 1).astype(np.float32)
    y = x[::-1]
    swapped = {name: f[::-1] for name, f in kept.items()}
    expected = np.abs(x - y).mean((1, 2, 3))
    for name, weight in (("pool3", 0.5), ("conv3_2_pre", 2.0), ("conv2_1", 1.0)):
        expected += weight * np.abs(kept[name] - swapped[name]).mean((1, 2, 3))
    np.testing.assert_allclose(loss(x, y, vgg, swapped), expected, rtol=1e-5)
    np.testing.assert_allclose(loss(x, y, vgg), expected, rtol=1e-4)


def test_random_weights_of_more_layers_begin_with_the_same():
    fields = {
        "reconstruction__layers": ("pool5",),
        "reconstruction__layer_weights": (1.0,),
    }
    five, _ = train.load_vgg(perceptual_config())
    more, _ = train.load_vgg(perceptual_config(**fields))
    assert more.keys() - five.keys() == {"conv5_3"}
    for name, layer in five.items():
        np.testing.assert_array_equal(layer["kernel"], more[name]["kernel"])


def test_without_a_network_there_is_nothing_to_cache():
    dataset = create_dataset()
    spec = algorithm.create_spec(create_config(), dataset)
    assert spec.reconstruction.feature_shapes(24, 8, 1.0) == {}
    shared = algorithm.create_shared(jax.random.key(0), dataset, {}, 1.0, spec=spec)
    assert algorithm.compute_features(shared, spec=spec).features == {}


def lower(bench):
    step_fn = train.compiled_step(bench.spec, True, bench.devices)
    batch = parallel.shard(BATCH.astype(np.int32), bench.devices)
    return step_fn.lower(bench.state, bench.shared, batch)


def vgg_flops(side: int) -> int:
    """Counts multiplications and additions of one image, those with padding left out."""
    total, channels = 0, 3
    for block, widths in BLOCK_WIDTHS.items():
        for width in widths[: 2 if block == 5 else None]:  # to conv5_2
            total += 2 * (3 * side - 2) ** 2 * channels * width
            channels = width
        side //= 2
    return total


def test_a_step_has_the_passes_that_algorithm_1_needs():
    """The paper's sizes at 32 px, lowered only; the authors' step has six passes of VGG-16."""
    dataset = create_dataset(24, size=32, channels=3)
    flops = {}
    for name, loss, gb in (
        ("none", "laplacian", 0),
        ("cached", "perceptual", 1),
        ("plain", "perceptual", 0),
    ):
        fields = cifar100.get_config("10")
        fields.external_weights = False
        fields.reconstruction.loss, fields.reconstruction.weights = loss, "random"
        fields.reconstruction.cache_gb = gb
        fields.train.batch_size = len(BATCH)
        flops[name] = lower(Bench(fields, dataset)).cost_analysis()["flops"] / len(
            BATCH
        )
    once = vgg_flops(32)
    # Of G(z) and back through it to G(z), but not to the weights; then of x.
    assert flops["cached"] - flops["none"] == pytest.approx(2 * once, rel=0.05)
    assert flops["plain"] - flops["cached"] == pytest.approx(once, rel=0.05)
    # 0.75 if products with padding counted too.
    assert flops["cached"] <= 0.77 * flops["plain"]


def test_divided_by_activations_a_weight_means_the_same_for_every_network():
    dataset = create_dataset(channels=3, size=16)
    config = perceptual_config(reconstruction__pixel_weight=0.0)
    config.reconstruction.layer_weights = (1.0, 0.0, 2.0, 1.0, 0.5)
    loss = algorithm.create_spec(config, dataset).reconstruction
    params, _ = train.load_vgg(config)
    scaled = loss.divide_by_activations(dataset.images, params)
    features = loss.compute_features(dataset.images, params)
    taps = loss.vgg.taps
    assert taps == ("conv1_2", "conv3_2", "conv4_2", "conv5_2")
    for tap, before, after in zip(
        taps, loss.layer_weights, scaled.layer_weights, strict=True
    ):
        mean = features[tap].mean(dtype=np.float64)
        assert after == pytest.approx(before / mean, rel=1e-5)
    # A network whose activations are larger has the same loss then, and a larger one before.
    louder = jax.tree.map(lambda x: x, params)
    louder["conv3_2"] = {k: 8 * v for k, v in params["conv3_2"].items()}
    louder["conv3_3"] = {**params["conv3_3"], "kernel": params["conv3_3"]["kernel"] / 8}
    x = jnp.asarray(data.to_float(dataset.images))
    y = x[::-1]
    again = loss.divide_by_activations(dataset.images, louder)
    np.testing.assert_allclose(again(x, y, louder), scaled(x, y, params), rtol=1e-4)
    assert (loss(x, y, louder) > 1.5 * loss(x, y, params)).all()


def test_a_layer_that_is_never_active_is_named():
    dataset = create_dataset(channels=3, size=16)
    config = perceptual_config()
    loss = algorithm.create_spec(config, dataset).reconstruction
    params, _ = train.load_vgg(config)
    dead = {**params, "conv4_2": jax.tree.map(jnp.zeros_like, params["conv4_2"])}
    with pytest.raises(UserError, match="conv4_2 of the VGG-16 is 0 for all"):
        loss.divide_by_activations(dataset.images, dead)


def test_without_a_network_there_is_nothing_to_divide():
    dataset = create_dataset()
    loss = algorithm.create_spec(create_config(), dataset).reconstruction
    assert loss.divide_by_activations(dataset.images, {}) is loss


def test_training_and_fitting_divide_when_the_field_says_so():
    dataset = create_dataset(channels=3, size=16)
    for wanted in (False, True):
        config = perceptual_config(reconstruction__unit_activations=wanted)
        spec = algorithm.create_spec(config, dataset)
        params, _ = train.load_vgg(config)
        scaled = train.scale_layers(config, spec, dataset, params)
        changed = scaled.reconstruction != spec.reconstruction
        assert changed == wanted
