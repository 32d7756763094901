"""Tests of cglo_jax/models/resnet.py; tests/experiments/parity/networks_test.py has torchvision's values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cglo_jax.models import vgg
from cglo_jax.models.resnet import BasicBlock, Bottleneck, ResNet18, ResNet50
from cglo_jax.pretrained import networks


def images(batch: int = 2, side: int = 32, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (batch, side, side, channels)).astype(np.float32)


def random_variables(shapes):
    """Draws weights with which maps keep their size and batch norms do something."""
    rng = np.random.default_rng(1)

    def draw(a: jax.ShapeDtypeStruct) -> np.ndarray:
        if a.ndim == 1:
            return rng.uniform(0.5, 1.5, a.shape).astype(np.float32)
        bound = (3 / np.prod(a.shape[:-1])) ** 0.5
        return rng.uniform(-bound, bound, a.shape).astype(np.float32)

    return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def variables():
    """Random weights of a ResNet-50 with 3 classes."""
    return random_variables(shapes_of(ResNet50(3)))


@pytest.fixture(scope="module")
def evaluated(variables):
    """Logits and features of `images(side=64)`, in which no map is a single pixel."""
    return evaluate(ResNet50(3), variables, images(side=64))


def evaluate(model: ResNet50, variables, x: np.ndarray):
    return jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, x)


def shapes_of(model: ResNet50):
    x = jnp.zeros((1, 32, 32, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))


def test_parameter_counts_are_torchvisions():
    shapes = shapes_of(ResNet50(1000))
    assert sum(a.size for a in jax.tree.leaves(shapes["params"])) == 25_557_032
    # 53 batch norms: one in the stem, three in each of 16 blocks, four downsampling.
    assert len(jax.tree.leaves(shapes["batch_stats"])) == 2 * (1 + 3 * 16 + 4)
    # With 200 classes the head has 800 * 2049 fewer.
    shapes = shapes_of(ResNet50(200))
    params = sum(a.size for a in jax.tree.leaves(shapes["params"]))
    assert params == 25_557_032 - 1_639_200


def test_names_are_torchvisions():
    params = shapes_of(ResNet50(1000))["params"]
    counts = {1: 3, 2: 4, 3: 6, 4: 3}
    blocks = {f"layer{i}_{j}" for i, n in counts.items() for j in range(n)}
    assert params.keys() == {"conv1", "bn1", "head"} | blocks
    parts = {f"{kind}{i}" for kind in ("conv", "bn") for i in (1, 2, 3)}
    downsample = {"downsample_conv", "downsample_bn"}
    for name in blocks:
        expected = parts | downsample if name.endswith("_0") else parts
        assert params[name].keys() == expected, name
    assert params["conv1"]["kernel"].shape == (7, 7, 3, 64)
    assert params["layer3_0"]["conv2"]["kernel"].shape == (3, 3, 256, 256)
    assert params["layer3_0"]["downsample_conv"]["kernel"].shape == (1, 1, 512, 1024)
    assert params["head"]["kernel"].shape == (2048, 1000)


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (224, (56, 28, 14, 7)),
        (64, (16, 8, 4, 2)),
        (41, (11, 6, 3, 2)),
        (32, (8, 4, 2, 1)),
        (28, (7, 4, 2, 1)),
    ],
)
def test_shapes(side, sides):
    x = jnp.zeros((2, side, side, 1))
    (logits, features), _ = jax.eval_shape(
        lambda: ResNet50(5).init_with_output(jax.random.key(0), x, train=False)
    )
    assert logits.shape == (2, 5)
    maps = {
        f"layer{i}": (2, s, s, 128 << i)
        for i, s in zip((1, 2, 3, 4), sides, strict=True)
    }
    assert {name: f.shape for name, f in features.items()} == {
        **maps,
        "embedding": (2, 2048),
    }


def test_head_and_embedding_by_hand(variables, evaluated):
    logits, features = evaluated
    embedding = np.asarray(features["layer4"]).mean((1, 2))
    np.testing.assert_allclose(features["embedding"], embedding, rtol=1e-5)
    head = variables["params"]["head"]
    expected = embedding @ head["kernel"] + head["bias"]
    assert np.std(expected) > 0.02
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_initial_weights():
    stds = {  # kaiming normal, fan_out: sqrt(2 / (taps * outputs))
        ("conv1",): np.sqrt(2 / (49 * 64)),
        ("layer3_1", "conv2"): np.sqrt(2 / (9 * 256)),
        ("layer2_2", "conv3"): np.sqrt(2 / 512),
        ("layer2_0", "downsample_conv"): np.sqrt(2 / 512),
    }

    @jax.jit
    def draw():  # only what is returned is compiled
        x = jnp.zeros((1, 32, 32, 3))
        params = ResNet50(3).init(jax.random.key(0), x, train=False)["params"]
        flat = flatten_dict(params)
        kernels = {path: flat[*path, "kernel"] for path in stds}
        return kernels, params["layer1_0"]["bn3"], params["head"]

    kernels, norm, head = draw()
    for path, std in stds.items():
        assert np.std(kernels[path]) == pytest.approx(std, rel=0.03)
    assert np.all(norm["scale"] == 1) and np.all(norm["bias"] == 0)
    largest = np.abs(head["kernel"]).max()  # U(-1/sqrt(2048), 1/sqrt(2048))
    assert 0.99 / np.sqrt(2048) < largest <= 1 / np.sqrt(2048)


def test_normalisation_and_grey_images(variables):
    def layer1(model: ResNet50, x: np.ndarray) -> jax.Array:
        def apply(x):
            return model.apply(variables, x, train=False)[1]["layer1"]

        return jax.jit(apply)(x)  # the other layers are not compiled

    grey = images(channels=1)
    rgb = np.concatenate([grey] * 3, -1)
    normalised = layer1(ResNet50(3), grey)
    np.testing.assert_array_equal(normalised, layer1(ResNet50(3), rgb))
    plain = ResNet50(3, normalize=False)
    same = layer1(plain, vgg.normalize_imagenet(jnp.asarray(rgb)))
    np.testing.assert_allclose(same, normalised, rtol=1e-4, atol=1e-4)
    assert np.abs(layer1(plain, grey) - normalised).max() > 0.01
    with pytest.raises(ValueError, match=r"\(2, 32, 32, 2\), expected 1 or 3"):
        layer1(plain, grey.repeat(2, -1))


def test_bfloat16_gives_float32_logits_and_params(variables, evaluated):
    model = ResNet50(3, dtype=jnp.bfloat16)
    leaves = jax.tree.leaves(shapes_of(model))
    assert {a.dtype for a in leaves} == {jnp.dtype("float32")}
    logits, features = evaluate(model, variables, images(side=64))
    assert logits.dtype == features["embedding"].dtype == jnp.float32
    for i in (1, 2, 3, 4):
        assert features[f"layer{i}"].dtype == jnp.bfloat16
    full, _ = evaluated
    np.testing.assert_allclose(logits, full, atol=0.05 * np.abs(full).max())


def test_axis_name_reaches_every_batch_norm(variables):
    model = ResNet50(3, axis_name="data")

    def run(x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])[1]

    parts = images(4).reshape(2, 2, 32, 32, 3)
    updated = jax.jit(jax.vmap(run, axis_name="data"))(parts)
    for a in jax.tree.leaves(updated):
        np.testing.assert_allclose(a[0], a[1], rtol=1e-6)


def random_block(inputs: int, width: int, stride: int):
    """Returns a bottleneck and random weights."""
    block = Bottleneck(width, stride, jnp.float32, None)
    x = jnp.zeros((1, 4, 4, inputs))
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=False))
    return block, random_variables(shapes)


def numpy_bottleneck(variables, x: np.ndarray, stride: int) -> np.ndarray:
    """Computes a bottleneck in evaluation, written out."""
    params, stats = variables["params"], variables["batch_stats"]

    def norm(x, name):
        p, s = params[name], stats[name]
        return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

    y = np.maximum(norm(x @ params["conv1"]["kernel"][0, 0], "bn1"), 0)
    padded = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    y = np.einsum("bhwcij,ijco->bhwo", windows, params["conv2"]["kernel"])
    y = np.maximum(norm(y[:, ::stride, ::stride], "bn2"), 0)
    y = norm(y @ params["conv3"]["kernel"][0, 0], "bn3")
    if "downsample_conv" in params:
        x = x[:, ::stride, ::stride] @ params["downsample_conv"]["kernel"][0, 0]
        x = norm(x, "downsample_bn")
    return np.maximum(y + x, 0)


@pytest.mark.parametrize(("inputs", "stride"), [(12, 1), (5, 1), (12, 2), (5, 2)])
@pytest.mark.parametrize("side", [1, 5, 6])
def test_bottleneck_equals_numpy(inputs, stride, side):
    block, variables = random_block(inputs, 3, stride)
    assert ("downsample_bn" in variables["params"]) == ((inputs, stride) != (12, 1))
    x = 5 * images(2, side, inputs)
    expected = numpy_bottleneck(variables, x, stride)
    assert (expected > 0).any()
    y = block.apply(variables, x, train=False)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [1, 6])
def test_gradients_are_finite_and_reach_everything(side):
    block, variables = random_block(5, 3, 2)

    def loss(params):
        y, _ = block.apply(
            {**variables, "params": params},
            5 * images(4, side, 5),
            train=True,
            mutable=["batch_stats"],
        )
        return (y**2).mean()

    for value in jax.tree.leaves(jax.jit(jax.grad(loss))(variables["params"])):
        assert np.isfinite(value).all()
        assert np.abs(value).max() > 1e-4


def test_bottleneck_over_an_axis_equals_the_global_batch():
    block, variables = random_block(5, 3, 2)
    x = 5 * images(4, 6, 5)

    def run(x, axis_name=None):
        part = block.copy(axis_name=axis_name)
        return part.apply(variables, x, train=True, mutable=["batch_stats"])

    expected, stats = jax.jit(run)(x)
    parts = x.reshape(2, 2, 6, 6, 5)
    synced = jax.jit(jax.vmap(lambda x: run(x, "data"), axis_name="data"))
    y, updated = synced(parts)
    np.testing.assert_allclose(y.reshape(expected.shape), expected, atol=1e-4)
    for a, b in zip(jax.tree.leaves(updated), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(a, jnp.broadcast_to(b, a.shape), atol=1e-4)
    apart, updated = jax.jit(jax.vmap(run))(parts)
    assert np.abs(apart.reshape(expected.shape) - expected).max() > 1e-2
    for a in jax.tree.leaves(updated):
        assert np.abs(a[0] - a[1]).max() > 1e-4


# ResNet-18


def test_resnet18_has_torchvisions_parameters_names_and_shapes():
    shapes = shapes_of(ResNet18(1000))
    params = shapes["params"]
    assert sum(a.size for a in jax.tree.leaves(params)) == 11_689_512
    assert len(jax.tree.leaves(shapes["batch_stats"])) == 2 * (1 + 2 * 8 + 3)
    blocks = {f"layer{i}_{j}" for i in (1, 2, 3, 4) for j in (0, 1)}
    assert params.keys() == {"conv1", "bn1", "head"} | blocks
    down = {name for name in blocks if "downsample_conv" in params[name]}
    assert down == {"layer2_0", "layer3_0", "layer4_0"}  # layer1 keeps its shape
    x = jnp.zeros((2, 41, 41, 1))
    (logits, features), _ = jax.eval_shape(
        lambda: ResNet18(5).init_with_output(jax.random.key(0), x, train=False)
    )
    assert logits.shape == (2, 5)
    sides = {f"layer{i}": s for i, s in zip((1, 2, 3, 4), (11, 6, 3, 2), strict=True)}
    maps = {name: (2, s, s, 32 << int(name[-1])) for name, s in sides.items()}
    assert {name: f.shape for name, f in features.items()} == {
        **maps,
        "embedding": (2, 512),
    }


def test_every_stage_of_resnet18_is_torchvisions():
    torch = pytest.importorskip("torch")
    net = pytest.importorskip("torchvision").models.resnet18(num_classes=3).eval()
    rng = np.random.default_rng(2)
    state = {}
    for name, tensor in net.state_dict().items():
        shape = tuple(tensor.shape)
        if len(shape) > 1:
            bound = (3 / np.prod(shape[1:])) ** 0.5
            value = rng.uniform(-bound, bound, shape)
        else:
            value = rng.uniform(0.5, 1.5, shape)
        state[name] = tensor if not shape else torch.tensor(value, dtype=torch.float32)
    net.load_state_dict(state)
    outputs = {}
    for i in (1, 2, 3, 4):
        layer = getattr(net, f"layer{i}")
        layer.register_forward_hook(
            lambda _, x, y, i=i: outputs.update({f"layer{i}": y})
        )
    net.avgpool.register_forward_hook(
        lambda _, x, y: outputs.update(embedding=y[:, :, 0, 0])
    )
    body = {
        name: np.asarray(tensor)
        for name, tensor in state.items()
        if not name.startswith("fc.") and tensor.ndim
    }
    assert {k: v.shape for k, v in body.items()} == networks.resnet18_shapes()
    params, stats = networks.resnet_variables(body)
    params["head"] = {
        "kernel": np.asarray(state["fc.weight"]).T,
        "bias": np.asarray(state["fc.bias"]),
    }
    x = images(side=72)
    y = torch.tensor(np.asarray(vgg.normalize_imagenet(x))).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = net(y).numpy()
    variables = {"params": params, "batch_stats": stats}
    logits, features = evaluate(ResNet18(3), variables, x)
    assert outputs.keys() == features.keys()
    for name, output in outputs.items():
        found = np.moveaxis(np.asarray(features[name]), -1, 1)
        scale = np.abs(output.numpy()).max()
        np.testing.assert_allclose(
            found / scale, output.numpy() / scale, atol=2e-5, err_msg=name
        )
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits / scale, expected / scale, atol=2e-5)


def numpy_basic_block(variables, x: np.ndarray, stride: int) -> np.ndarray:
    """Computes a basic block in evaluation, written out."""
    params, stats = variables["params"], variables["batch_stats"]

    def norm(x, name):
        p, s = params[name], stats[name]
        return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

    def conv(x, name):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
        return np.einsum("bhwcij,ijco->bhwo", windows, params[name]["kernel"])

    y = np.maximum(norm(conv(x, "conv1")[:, ::stride, ::stride], "bn1"), 0)
    y = norm(conv(y, "conv2"), "bn2")
    if "downsample_conv" in params:
        x = x[:, ::stride, ::stride] @ params["downsample_conv"]["kernel"][0, 0]
        x = norm(x, "downsample_bn")
    return np.maximum(y + x, 0)


@pytest.mark.parametrize(("inputs", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("side", [1, 5, 6])
def test_basic_block_equals_numpy(inputs, stride, side):
    block = BasicBlock(3, stride, jnp.float32, None)
    x = 5 * images(2, side, inputs)
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=False))
    variables = random_variables(shapes)
    assert ("downsample_bn" in variables["params"]) == ((inputs, stride) != (3, 1))
    expected = numpy_basic_block(variables, x, stride)
    assert (expected > 0).any()
    y = block.apply(variables, x, train=False)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
