"""Tests of cglo_jax/models/vgg.py."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.config.checks import VGG16_LAYERS
from cglo_jax.models import vgg

# torchvision: features.{0,2,5,7,10,12,14,17,19,21,24,26,28} -> (inputs, outputs)
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
    "conv5_3": (512, 512),
}
ALL = vgg.VGG16(taps=VGG16_LAYERS)


@pytest.fixture(scope="module")
def variables():
    """Returns random weights of all convolutions with random biases."""
    x = jnp.zeros((1, 8, 8, 3))
    drawn = jax.jit(ALL.init)(jax.random.key(0), x)
    rng = np.random.default_rng(1)
    for layer in drawn["params"].values():
        layer["bias"] = jnp.asarray(rng.normal(0, 0.1, layer["bias"].shape), "float32")
    return drawn


def images(batch: int = 2, side: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (batch, side, side, 3)).astype(np.float32)


def test_parameters_are_torchvisions_up_to_the_deepest_tap(variables):
    params = variables["params"]
    shapes = {
        name: {"kernel": (3, 3, c, o), "bias": (o,)}
        for name, (c, o) in CONVOLUTIONS.items()
    }
    assert jax.tree.map(jnp.shape, params) == shapes
    assert sum(a.size for a in jax.tree.leaves(params)) == 14_714_688
    names = list(CONVOLUTIONS)
    for taps, count in (
        (vgg.TAPS, 12),  # as ever: the largest, conv5_3, is not needed
        (("pool4", "conv1_1"), 10),
        (("conv3_2_pre",), 6),
        (("pool5",), 13),
        ((), 0),
    ):
        model = vgg.VGG16(taps=taps)
        init = jax.eval_shape(model.init, jax.random.key(0), images())
        assert list(init.get("params", {})) == names[:count]


def test_the_config_knows_every_tap(variables):
    convolutions = [name for name in vgg.LAYERS if name.startswith("conv")]
    taps = {*vgg.LAYERS, *(name + vgg.BEFORE_RELU for name in convolutions)}
    assert len(VGG16_LAYERS) == 2 * 13 + 5 and set(VGG16_LAYERS) == taps
    _, features = jax.eval_shape(ALL.apply, variables, images())
    assert set(features) == taps


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


def test_every_tap_is_torchvisions(variables):
    torch = pytest.importorskip("torch")
    layers = pytest.importorskip("torchvision").models.vgg16().features.eval()
    tensors = {}
    convolutions = [i for i, m in enumerate(layers) if isinstance(m, torch.nn.Conv2d)]
    for index, name in zip(convolutions, CONVOLUTIONS, strict=True):
        params = jax.tree.map(np.asarray, variables["params"][name])
        kernel = torch.tensor(params["kernel"].transpose(3, 2, 0, 1))
        tensors[f"{index}.weight"] = kernel
        tensors[f"{index}.bias"] = torch.tensor(params["bias"])
    layers.load_state_dict(tensors)
    x = images(side=32)
    y = torch.tensor(np.asarray(vgg.normalize_imagenet(x))).permute(0, 3, 1, 2)
    names = []  # of the outputs of `layers`: 3_2_pre, 3_2 after its ReLU, pool3
    for name in vgg.LAYERS:
        names += [name] if name[0] == "p" else [name + vgg.BEFORE_RELU, name]
    _, features = jax.jit(ALL.apply)(variables, x)
    with torch.no_grad():
        for name, layer in zip(names, layers, strict=True):
            y = layer(y.clone())  # ReLUs work in place
            expected = y.permute(0, 2, 3, 1).numpy()
            scale = np.abs(expected).max()
            np.testing.assert_allclose(
                features[name] / scale, expected / scale, atol=2e-5, err_msg=name
            )
    assert len(names) == len(features) == 31


def test_fewer_taps_are_the_same_bits(variables):
    x = images()
    _, expected = vgg.VGG16().apply(variables, x)
    for taps in (("conv3_2", "conv1_2"), ("conv5_2", "conv5_3_pre")):
        _, features = vgg.VGG16(taps=taps).apply(variables, x)
        assert set(features) == set(taps)
        for name in set(taps) & set(expected):
            np.testing.assert_array_equal(features[name], expected[name])


def test_features_equal_numpy(variables):
    x = images()
    last, features = vgg.VGG16(taps=tuple(CONVOLUTIONS)).apply(variables, x)
    expected = numpy_vgg(variables["params"], x)
    for name in CONVOLUTIONS:
        assert expected[name].std() > 0.02
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(
            features[name] / scale, expected[name] / scale, atol=1e-5
        )
    np.testing.assert_array_equal(last, features["conv5_3"])


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
