"""Tests of cglo_jax/models/vgg.py."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.models import vgg

# torchvision: features.{0,2,5,7,10,12,14,17,19,21,24,26} -> (inputs, outputs)
CONVOLUTIONS = {
    "conv1_1": (3, 64),
    "conv1_2": (64, 64),
    "conv2_1": (64, 128),
    "conv2_2": (128, 128),
    "conv3_1": (128, 256),
    "conv3_2": (256, 256),
    "conv3_3": (256, 256),
    "conv4_1": (256, 512),
    "conv4_2": (512, 512),
    "conv4_3": (512, 512),
    "conv5_1": (512, 512),
    "conv5_2": (512, 512),
}


@pytest.fixture(scope="module")
def variables():
    """Returns random weights with random biases."""
    x = jnp.zeros((1, 8, 8, 3))
    drawn = jax.jit(vgg.VGG16().init)(jax.random.key(0), x)
    rng = np.random.default_rng(1)
    for layer in drawn["params"].values():
        layer["bias"] = jnp.asarray(rng.normal(0, 0.1, layer["bias"].shape), "float32")
    return drawn


def images(batch: int = 2, side: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (batch, side, side, 3)).astype(np.float32)


def test_parameters_are_torchvisions_up_to_conv5_2(variables):
    params = variables["params"]
    assert jax.tree.map(jnp.shape, params) == {
        name: {"kernel": (3, 3, c, o), "bias": (o,)}
        for name, (c, o) in CONVOLUTIONS.items()
    }
    # All thirteen convolutions of VGG-16 have 14,714,688; conv5_3 has 9*512*512+512.
    total = sum(a.size for a in jax.tree.leaves(params))
    assert total == 14_714_688 - 2_359_808 == 12_354_880


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (224, (224, 112, 56, 28, 14)),
        (32, (32, 16, 8, 4, 2)),
        (28, (28, 14, 7, 3, 1)),
        (16, (16, 8, 4, 2, 1)),
        (8, (8, 4, 2, 1, 1)),
        (1, (1, 1, 1, 1, 1)),
    ],
)
def test_tap_shapes(side, sides):
    (last, features), _ = jax.eval_shape(
        lambda: vgg.VGG16().init_with_output(
            jax.random.key(0), jnp.zeros((2, side, side, 3))
        )
    )
    widths = (64, 128, 256, 512, 512)
    assert tuple(features) == vgg.TAPS
    assert [f.shape for f in features.values()] == [
        (2, s, s, width) for s, width in zip(sides, widths, strict=True)
    ]
    assert last.shape == features["conv5_2"].shape


def numpy_vgg(params, x: np.ndarray) -> dict[str, np.ndarray]:
    """Computes every layer with ImageNet's normalisation, written out."""
    x = ((x + 1) / 2 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    features = {}
    for name in CONVOLUTIONS:
        if name.endswith("_1") and name != "conv1_1" and x.shape[1] > 1:
            b, h, w, c = x.shape
            x = x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
        x = np.tensordot(windows, params[name]["kernel"], ([4, 5, 3], [0, 1, 2]))
        x = np.maximum(x + np.asarray(params[name]["bias"]), 0)
        features[name] = x
    return features


def test_features_equal_numpy(variables):
    x = images()
    last, features = vgg.VGG16().apply(variables, x)
    expected = numpy_vgg(variables["params"], x)
    for name in vgg.TAPS:
        assert expected[name].std() > 0.02
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(
            features[name] / scale, expected[name] / scale, atol=1e-5
        )
    np.testing.assert_array_equal(last, features["conv5_2"])


def test_normalisation_by_hand():
    # White is 1: (1 - .485) / .229 = 2.2489; black -1: -.485 / .229 = -2.1179.
    x = np.stack([np.ones((1, 1, 3)), -np.ones((1, 1, 3))]).astype(np.float32)
    y = np.asarray(vgg.normalize_imagenet(x))[:, 0, 0]
    expected = [[2.2489083, 2.4285714, 2.64], [-2.1179039, -2.0357143, -1.8044444]]
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_without_normalisation_the_image_is_taken_as_it_is(variables):
    x = images(1)
    _, plain = vgg.VGG16(normalize=False).apply(variables, vgg.normalize_imagenet(x))
    _, normalised = vgg.VGG16().apply(variables, x)
    np.testing.assert_array_equal(plain["conv2_2"], normalised["conv2_2"])
    _, other = vgg.VGG16(normalize=False).apply(variables, x)
    assert np.abs(other["conv2_2"] - plain["conv2_2"]).max() > 0.01


def test_to_rgb_repeats_grey_and_refuses_other_channels(variables):
    x = images()
    grey = vgg.to_rgb(jnp.asarray(x[..., :1]))
    np.testing.assert_array_equal(grey, np.concatenate([x[..., :1]] * 3, -1))
    np.testing.assert_array_equal(vgg.to_rgb(x), x)
    with pytest.raises(ValueError, match=r"\(2, 8, 8, 2\), expected 1 or 3"):
        vgg.to_rgb(x[..., :2])
    with pytest.raises(ValueError, match=r"\(2, 8, 8, 1\), expected 3"):
        vgg.VGG16().apply(variables, x[..., :1])


def test_image_gradient_is_finite_and_needs_no_dilation_or_weight_gradient(variables):
    def loss(x, v):
        _, features = vgg.VGG16().apply(v, x)
        return sum(f.mean() for f in features.values())

    gradient = jax.jit(jax.grad(loss)).lower(images(), variables)
    text = gradient.as_text()
    # Of 8 px, the layers on 8x8 and 4x4 maps but the first are convolutions, once forward
    # and once backward; those of the image and of 2x2 and 1x1 maps are matmuls.
    assert len(re.findall(r"stablehlo\.convolution", text)) == 2 * 3
    assert "lhs_dilate = [2" not in text
    value = gradient.compile()(images(), variables)
    assert np.isfinite(value).all()
    assert np.abs(value).max() > 0


def test_bfloat16_features(variables):
    x = images(1)
    _, features = vgg.VGG16(dtype=jnp.bfloat16).apply(variables, x)
    assert {f.dtype for f in features.values()} == {jnp.dtype(jnp.bfloat16)}
    _, full = vgg.VGG16().apply(variables, x)
    for name in vgg.TAPS:
        scale = np.abs(full[name]).max()
        error = np.abs(features[name].astype(jnp.float32) - full[name]).max()
        assert error < 0.03 * scale
    params = jax.eval_shape(vgg.VGG16(dtype=jnp.bfloat16).init, jax.random.key(0), x)
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("float32")}
