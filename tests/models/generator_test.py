"""Tests of cglo_jax/models/generator.py."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.config.checks import SIDES
from cglo_jax.config.defaults import get_config
from cglo_jax.errors import UserError
from cglo_jax.models import generator


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tiny(**fields) -> generator.Generator:
    defaults = {"size": 8, "channels": 1, "width": 2, "noise_dim": 3}
    return generator.Generator(**{**defaults, **fields})


def inputs(batch: int = 4) -> tuple[np.ndarray, np.ndarray]:
    z = normal(0, batch, 5)
    return z / np.linalg.norm(z, axis=1, keepdims=True), normal(1, batch, 3)


def init(model: generator.Generator, *args):
    run = jax.jit(lambda *args: model.init(jax.random.key(0), *args, train=True))
    return run(*args)


def evaluate(model: generator.Generator, variables, *args) -> jax.Array:
    run = jax.jit(lambda v, *args: model.apply(v, *args, train=False))
    return run(variables, *args)


def count(tree) -> int:
    return sum(a.size for a in jax.tree.leaves(tree))


def test_the_sides_that_the_config_allows_are_those_that_can_be_made():
    for side in range(1, 600):
        try:
            generator.start_and_doublings(side)
        except UserError:
            assert side not in SIDES
        else:
            assert side in SIDES


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (8, (4, 1)),
        (14, (7, 1)),
        (16, (4, 2)),
        (28, (7, 2)),
        (32, (4, 3)),
        (56, (7, 3)),
        (64, (4, 4)),
        (224, (7, 5)),
        (256, (4, 6)),
    ],
)
def test_start_and_doublings(size, expected):
    assert generator.start_and_doublings(size) == expected


@pytest.mark.parametrize(
    ("size", "nearest"),
    [(30, "28 or 32"), (4, "8"), (7, "8"), (0, "8"), (-8, "8"), (100, "64 or 112")],
)
def test_impossible_size_names_it_and_the_nearest(size, nearest):
    with pytest.raises(UserError, match=rf"size {size} .* to {nearest}$"):
        generator.start_and_doublings(size)


def test_impossible_size_fails_at_init():
    with pytest.raises(UserError, match="image size 9 "):
        init(tiny(size=9), *inputs())


def test_stage_widths():
    assert generator.stage_widths(3, 64, 512) == [512, 256, 128, 64]
    assert generator.stage_widths(5, 64, 512) == [512, 512, 512, 256, 128, 64]
    assert generator.stage_widths(1, 8, 12) == [12, 8]


def test_parameter_count_by_hand():
    # noise 3*3+3 = 12; dense (5+3)*4*4*4 = 512; bn0 2*4 = 8; up1 4*4*4*2 = 128;
    # bn1 2*2 = 4; to_image 3*3*2*1+1 = 19: in all 683.
    variables = jax.eval_shape(lambda: init(tiny(), *inputs()))
    assert count(variables["params"]) == 683
    assert count(variables["batch_stats"]) == 2 * 4 + 2 * 2
    # Without noise the 12 go and the dense layer has 5 inputs: 320 instead of 512.
    variables = jax.eval_shape(lambda: init(tiny(), inputs()[0]))
    assert count(variables["params"]) == 479


def test_parameter_count_at_32_px():
    # noise 10,100; dense 228*8192 = 1,867,776; up 16*(512*256 + 256*128 + 128*64)
    # = 2,752,512; batch norms 2*(512+256+128+64) = 1,920; to_image 9*64*3+3 = 1,731.
    shapes = jax.eval_shape(
        lambda: generator.Generator(32).init(
            jax.random.key(0), jnp.zeros((2, 128)), jnp.zeros((2, 100)), train=True
        )
    )
    assert count(shapes["params"]) == 4_634_039
    assert shapes["params"]["up1"]["kernel"].shape == (4, 4, 512, 256)


@pytest.mark.parametrize("size", [8, 16, 28, 32, 56, 64, 224])
def test_sizes(size):
    model = generator.Generator(size)
    z, eps = jnp.zeros((2, 128)), jnp.zeros((2, 100))
    images, _ = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), z, eps, train=True)
    )
    assert images.shape == (2, size, size, 3)
    assert images.dtype == jnp.float32


def numpy_generator(params, stats, z, eps):
    """Computes `tiny()` in evaluation, written out."""
    noise = eps @ params["noise"]["kernel"] + params["noise"]["bias"]
    noise = np.where(noise > 0, noise, 0.2 * noise)
    x = np.concatenate([z, noise], 1) @ params["dense"]["kernel"]

    def norm_relu(x, name):
        p, s = params[name], stats[name]
        x = (x - s["mean"]) / np.sqrt(s["var"] + 1e-5)
        return np.maximum(x * p["scale"] + p["bias"], 0)

    x = norm_relu(x.reshape(-1, 4, 4, 4), "bn0")
    canvas = np.zeros((len(x), 10, 10, 2))
    for i, j, a, c in np.ndindex(4, 4, 4, 4):
        tap = params["up1"]["kernel"][a, c]
        canvas[:, 2 * i + 3 - a, 2 * j + 3 - c] += x[:, i, j] @ tap
    x = np.pad(
        norm_relu(canvas[:, 1:-1, 1:-1], "bn1"), [(0, 0), (1, 1), (1, 1), (0, 0)]
    )
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    image = np.einsum("bhwcij,ijco->bhwo", windows, params["to_image"]["kernel"])
    return np.tanh(image + params["to_image"]["bias"])


def test_forward_equals_numpy():
    z, eps = inputs()
    shapes = init(tiny(), z, eps)
    leaves, structure = jax.tree.flatten(shapes)
    # Positive everywhere, so that running variances are variances.
    drawn = [abs(normal(i, *a.shape)) + 0.1 for i, a in enumerate(leaves)]
    variables = jax.tree.unflatten(structure, drawn)
    variables["params"]["to_image"]["kernel"] *= np.float32(0.02)  # not all saturated
    variables["params"]["noise"]["bias"] -= np.float32(0.5)  # some noise below zero
    images = evaluate(tiny(), variables, z, eps)
    expected = numpy_generator(variables["params"], variables["batch_stats"], z, eps)
    assert 0.05 < np.std(expected) < 0.9
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_images_are_in_range_and_noise_changes_them():
    z, eps = inputs()
    variables = init(tiny(), z, eps)
    images = evaluate(tiny(), variables, z, eps)
    assert np.abs(images).max() <= 1
    other = evaluate(tiny(), variables, z, -eps)
    assert np.abs(images - other).max() > 0


@pytest.mark.parametrize("noise", ["concat", "additive", "none"])
def test_codes_of_any_length_are_projected(noise):
    z, eps = inputs()
    eps = {"concat": eps, "additive": 0.3 * normal(2, *z.shape), "none": None}[noise]
    lengths = np.array([[0.01], [0.5], [2], [300]], np.float32)
    plain, projects = tiny(noise=noise), tiny(noise=noise, normalize_codes=True)
    variables = init(plain, z, eps)
    if noise == "additive":  # the sum is what has length 1
        unit = (z + eps) / np.linalg.norm(z + eps, axis=1, keepdims=True)
        expected = evaluate(plain, variables, unit)
        images = evaluate(projects, variables, lengths * z, lengths * eps)
    else:
        expected = evaluate(plain, variables, z, eps)
        images = evaluate(projects, variables, lengths * z, eps)
    np.testing.assert_allclose(images, expected, atol=1e-6)
    assert np.abs(evaluate(plain, variables, lengths * z, eps) - expected).max() > 1e-3


def test_the_gradient_through_the_projection_is_the_authors_and_finite_at_0():
    torch = pytest.importorskip("torch")
    z = 2 * inputs()[0]
    z[0], z[1] = 0, 1e-30
    weights = normal(3, *z.shape)

    def projected(z):
        return (generator._to_length_1(z) * weights).sum()

    gradient = np.asarray(jax.grad(projected)(z))
    assert np.isfinite(gradient).all() and (gradient[0] != 0).all()
    x = torch.tensor(z, requires_grad=True)
    unit = x.div(x.norm(2, 1).detach().unsqueeze(1).expand_as(x))
    (unit * torch.tensor(weights)).sum().backward()
    np.testing.assert_allclose(gradient[2:], x.grad[2:], rtol=1e-5)


def test_noise_dim_0_ignores_eps():
    z, eps = inputs()
    model = tiny(noise_dim=0)
    variables = init(model, z, eps)
    assert "noise" not in variables["params"]
    images = evaluate(model, variables, z, eps)
    np.testing.assert_array_equal(images, evaluate(model, variables, z))


def test_eps_of_another_shape_is_refused_with_both_shapes():
    z, eps = inputs()
    with pytest.raises(ValueError, match=r"\(4, 2\).*\(4, 3\)"):
        tiny().init(jax.random.key(0), z, eps[:, :2], train=True)
    with pytest.raises(ValueError, match=r"\(3, 3\).*\(4, 3\)"):
        tiny().init(jax.random.key(0), z, eps[:3], train=True)


def test_initial_deviations():
    z, eps = jnp.zeros((2, 64)), jnp.zeros((2, 100))
    model = generator.Generator(8, width=32)
    params = init(model, z, eps)["params"]
    for name in ("dense", "up1", "to_image"):
        assert np.std(params[name]["kernel"]) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(("gain", "length"), [(2**0.5, 1.51), (3**-0.5, 0.62)])
def test_the_noise_starts_as_strong_as_xaviers_initialisation_makes_it(gain, length):
    model = generator.Generator(8, width=4, noise_gain=gain)
    eps = model.draw_noise(jax.random.split(jax.random.key(1), 400), 64)
    kernel = init(model, jnp.zeros((2, 64)), eps[:2])["params"]["noise"]["kernel"]
    # torch.nn.init.xavier_normal_: gain sqrt(2 / (100 + 100)), normal, so some beyond 3.
    assert np.std(kernel) == pytest.approx(gain / 10, rel=0.03)
    assert 3 < np.abs(kernel).max() / np.std(kernel) < 5
    x = eps @ kernel
    norms = np.linalg.norm(np.where(x > 0, x, 0.2 * x), axis=1)
    assert norms.mean() == pytest.approx(length, rel=0.04)


def test_the_default_gain_of_the_noise_is_the_authors():
    assert generator.Generator(8).noise_gain == 2**0.5
    assert get_config().latent.noise_gain == pytest.approx(2**0.5, abs=1e-3)


def loss(variables, model, z, eps):
    images, updated = model.apply(
        variables, z, eps, train=True, mutable=["batch_stats"]
    )
    target = jnp.linspace(-1, 1, images[0].size).reshape(1, *images.shape[1:])
    return jnp.abs(images - target).mean(), (images, updated)


def test_gradients_are_finite_and_reach_everything():
    z, eps = inputs()
    variables = init(tiny(), z, eps)
    gradient = jax.grad(loss, (0, 2, 3), has_aux=True)
    gradients, _ = jax.jit(gradient, static_argnums=1)(variables, tiny(), z, eps)
    gradients[0].pop("batch_stats")
    for gradient in jax.tree.leaves(gradients):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


def gradient_program(model: generator.Generator, platform: str) -> str:
    z, eps = jnp.zeros((2, 5)), jnp.zeros((2, 3))
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), z, eps, train=True)
    )
    gradient = jax.jit(
        lambda v, z, eps: jax.grad(loss, (0, 2), has_aux=True)(v, model, z, eps)
    )
    return gradient.trace(variables, z, eps).lower(lowering_platforms=(platform,))


@pytest.mark.parametrize("size", [16, 28])
def test_no_dilated_input_on_cpu_forward_and_backward(size):
    model = tiny(size=size)
    dilated = re.compile(r"lhs_dilate = \[\d+, [2-9]")
    assert not dilated.search(gradient_program(model, "cpu").as_text())
    assert dilated.search(gradient_program(model, "cuda").as_text())
    optimized = gradient_program(model, "cpu").compile().as_text()
    assert "lhs_dilate=" not in optimized


def test_bfloat16_computes_all_convolutions_in_bfloat16_only():
    model = tiny(size=16, dtype=jnp.bfloat16)
    text = gradient_program(model, "cpu").as_text()
    convolutions = re.findall(r"stablehlo\.convolution.*", text)
    assert len(convolutions) > 8
    assert all("bf16" in line and "xf32" not in line for line in convolutions)


def test_bfloat16_gives_float32_images_and_params():
    z, eps = inputs()
    model = tiny(dtype=jnp.bfloat16)
    variables = init(model, z, eps)
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    images = evaluate(model, variables, z, eps)
    assert images.dtype == jnp.float32
    full = evaluate(tiny(), variables, z, eps)
    np.testing.assert_allclose(images, full, atol=0.02)


def test_axis_name_equals_the_global_batch():
    z, eps = inputs(8)
    variables = init(tiny(), z, eps)
    _, (expected, stats) = jax.jit(lambda *a: loss(variables, tiny(), *a))(z, eps)

    def parts(model):
        run = jax.vmap(lambda z, eps: loss(variables, model, z, eps)[1], axis_name="d")
        return jax.jit(run)(z.reshape(4, 2, 5), eps.reshape(4, 2, 3))

    images, updated = parts(tiny(axis_name="d"))
    np.testing.assert_allclose(images.reshape(expected.shape), expected, atol=1e-5)
    for a, b in zip(jax.tree.leaves(updated), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(a, jnp.broadcast_to(b, a.shape), atol=1e-6)
    apart, _ = parts(tiny())
    assert np.abs(apart.reshape(expected.shape) - expected).max() > 1e-3
