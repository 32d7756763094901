"""Tests of cglo_jax/cglo/code_init.py: codes on vertices and from a ResNet-50's activations."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy as st
from PIL import Image

from cglo_jax.cglo import code_init
from cglo_jax.errors import UserError
from cglo_jax.models import resnet
from cglo_jax.pretrained import networks
from cglo_jax.pretrained.networks import NO_WEIGHTS, RANDOM, Origin
from experiments.parity import flax_networks
from tests.helpers.tiny import create_config, create_dataset

KEY = jax.random.key(0)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# Vertices


@pytest.mark.parametrize(("num_classes", "dim"), [(8, 3), (5, 3), (100, 128), (1, 1)])
def test_each_class_has_a_vertex_of_its_own(num_classes, dim):
    vertices = code_init.draw_vertices(KEY, num_classes, dim)
    assert (vertices.shape, vertices.dtype) == ((num_classes, dim), np.float32)
    np.testing.assert_allclose(np.abs(vertices), dim**-0.5, rtol=1e-6)
    assert len({tuple(np.sign(v)) for v in vertices}) == num_classes


def test_vertices_are_drawn_uniformly_from_the_key():
    drawn = np.stack(
        [code_init.draw_vertices(jax.random.key(k), 2, 2) for k in range(200)]
    )
    pairs, counts = np.unique(drawn.reshape(200, 4), axis=0, return_counts=True)
    assert len(pairs) == 4 * 3  # ordered pairs of distinct corners of a square
    assert 3 <= counts.min() and counts.max() <= 35  # 17 each
    again = code_init.draw_vertices(jax.random.key(7), 2, 2)
    np.testing.assert_array_equal(again, drawn[7])


def test_too_few_vertices_are_refused():
    config = create_config(**{"latent.init": "hypercube", "latent.dim": 1})
    with pytest.raises(UserError) as error:
        code_init.draw(config, KEY, create_dataset(), None)
    assert str(error.value) == (
        "config.latent.dim is 1: a hypercube has 2 vertices there, too few for 3 classes: "
        "use 2 or more"
    )


def test_codes_lie_beside_the_vertex_of_their_class():
    dim, labels = 128, np.arange(600) % 3
    vertices = code_init.draw_vertices(KEY, 3, dim)
    z = code_init.draw_beside(jax.random.key(1), vertices, labels, 0.1)
    assert (z.shape, z.dtype) == ((600, dim), np.float32)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-6)
    angles = np.arccos((z * vertices[labels]).sum(1))
    # Noise of length 0.1 +- 6 % (of sqrt(chi2 with 128 degrees / 128)), nearly all of it
    # at right angles to the vertex.
    assert angles.mean() == pytest.approx(np.arctan(0.1), rel=0.02)
    assert angles.std() == pytest.approx(0.1 / np.sqrt(2 * dim), rel=0.15)
    assert len(np.unique(z, axis=0)) == 600
    exact = code_init.draw_beside(jax.random.key(1), vertices, labels, 0.0)
    np.testing.assert_allclose(exact, vertices[labels], rtol=1e-5)


def test_a_code_beside_a_vertex_is_of_the_key_and_the_image_alone():
    vertices = code_init.draw_vertices(KEY, 2, 4)
    labels = np.array([1, 0, -1, 1, -1])
    z = code_init.draw_beside(jax.random.key(1), vertices, labels, 0.5)
    for i, label in enumerate(labels):
        normal = jax.random.normal(jax.random.fold_in(jax.random.key(1), i), (4,))
        near = normal if label < 0 else vertices[label] + 0.25 * normal
        np.testing.assert_allclose(z[i], unit(np.asarray(near)), rtol=1e-5)
    few = code_init.draw_beside(jax.random.key(1), vertices, labels[:3], 0.5)
    np.testing.assert_array_equal(few, z[:3])


def test_unlabelled_codes_are_uniform_on_the_sphere():
    vertices = code_init.draw_vertices(KEY, 2, 6)
    z = code_init.draw_beside(KEY, vertices, np.full(20000, -1), 0.1)
    error = 5 / np.sqrt(20000)
    np.testing.assert_allclose(z.mean(0), 0, atol=error * 6**-0.5)
    np.testing.assert_allclose(z.T @ z / 20000, np.eye(6) / 6, atol=error / 6)


def test_draw_gives_what_the_config_asks_for():
    dataset = create_dataset(12, unlabelled=3)
    assert code_init.draw(create_config(), KEY, dataset, None) is None
    config = create_config(**{"latent.init": "hypercube", "latent.init_noise": 0.0})
    z = code_init.draw(config, KEY, dataset, None)
    np.testing.assert_allclose(np.abs(z[:9]), 8**-0.5, rtol=1e-5)
    assert len(np.unique(z[:9].round(4), axis=0)) == 3
    np.testing.assert_array_equal(z[0].round(4), z[3].round(4))
    other = code_init.draw(config, jax.random.key(1), dataset, None)
    assert (z[9:] != other[9:]).all()


# ResNet-50


@pytest.fixture(scope="module")
def small_resnet() -> Iterator[None]:
    """One bottleneck per layer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "BLOCKS", (1, 1, 1, 1))
        yield


@pytest.fixture(scope="module")
def variables(small_resnet):
    """Random ones."""
    config = create_config(**{"latent.init": "resnet", "latent.init_weights": "random"})
    variables, origin = code_init.load_resnet(config)
    assert origin == RANDOM
    return variables


def test_codes_are_pytorchs_activations_centred_and_on_the_sphere(
    small_resnet, tmp_path
):
    torch = pytest.importorskip("torch")
    from experiments.parity import torch_networks

    tensors = flax_networks.random_tensors("resnet50")
    st.save_file(tensors, tmp_path / "resnet.safetensors")
    changes = {
        "latent.init": "resnet",
        "latent.dim": 2048,
        "latent.init_weights": str(tmp_path / "resnet.safetensors"),
    }
    dataset = create_dataset(6, size=32, unlabelled=2)
    loaded, origin = code_init.load_resnet(create_config(**changes))
    assert origin.external and "resnet.safetensors" in origin.text
    z = code_init.draw(create_config(**changes), KEY, dataset, loaded)
    net = torch_networks.ResNet50().eval()
    for i in range(1, 5):
        setattr(net, f"layer{i}", getattr(net, f"layer{i}")[:1])
    net.load_state_dict({k: torch.tensor(v) for k, v in tensors.items()}, strict=False)
    net.fc = torch.nn.Identity()
    rgb = torch.tensor(dataset.images).permute(0, 3, 1, 2).repeat(1, 3, 1, 1)
    with torch.no_grad():
        expected = net(torch_networks.imagenet(rgb / 127.5 - 1)).numpy()
    assert expected.shape == (6, 2048)
    np.testing.assert_allclose(z, unit(expected - expected.mean(0)), atol=1e-4)
    assert np.abs(z).max() > 0.05


def test_images_are_resized_as_pil_does_for_a_resnet18(monkeypatch):
    monkeypatch.setattr(resnet, "BLOCKS_18", (1, 1, 1, 1))
    fields = {
        "latent.init": "resnet",
        "latent.init_network": "resnet18",
        "latent.init_weights": "random",
        "latent.dim": 512,
    }
    dataset = create_dataset(5, size=32, channels=3)
    loaded, origin = code_init.load_resnet(create_config(**fields))
    assert origin == RANDOM
    found = {}
    for side in (0, 16, 56):
        config = create_config(**fields, **{"latent.init_size": side})
        found[side] = code_init.draw(config, KEY, dataset, loaded)
        assert found[side].shape == (5, 512)  # as many as there are activations
        resized = dataset.images
        if side:  # by rounded pixels
            resized = np.stack(
                [
                    np.asarray(Image.fromarray(x).resize((side, side), Image.BILINEAR))
                    for x in dataset.images
                ]
            )
        x = resized.astype(np.float32) / 127.5 - 1
        model = resnet.ResNet18(1)
        _, features = jax.jit(lambda x, m=model: m.apply(loaded, x, train=False))(x)
        expected = np.asarray(features["embedding"])
        expected = unit(expected - expected.mean(0))  # and no matrix
        atol = 0.01 if side else 1e-5
        np.testing.assert_allclose(found[side], expected, atol=atol)
    assert np.abs(found[0] - found[56]).max() > 0.05
    assert np.abs(found[0] - found[16]).max() > 0.05


def test_a_resnet18_needs_a_file_or_random_weights():
    config = create_config(
        **{"latent.init": "resnet", "latent.init_network": "resnet18"}
    )
    with pytest.raises(UserError, match=r"weights of a ResNet-18 .* give a \.safetens"):
        code_init.load_resnet(config)


def test_activations_do_not_depend_on_the_batch(variables, monkeypatch):
    images = create_dataset(10, size=32, channels=3).images
    model = resnet.ResNet50(1)
    _, features = jax.jit(lambda x: model.apply(variables, x, train=False))(
        images.astype(np.float32) / 127.5 - 1
    )
    expected = np.asarray(features["embedding"])
    assert expected.shape == (10, 2048)
    assert expected.std(0).max() > 0.01 * expected.max()
    monkeypatch.setattr(code_init, "batch_that_fits", lambda side: 4)  # ragged
    activations = code_init.compute_activations(variables, images)
    np.testing.assert_allclose(activations, expected, rtol=1e-4, atol=1e-4)


def test_activations_are_mapped_by_one_matrix_whatever_seed_or_label(variables):
    config = create_config(**{"latent.init": "resnet", "latent.init_weights": "random"})
    dataset = create_dataset(4, size=32, channels=3)
    z = code_init.draw(config, KEY, dataset, variables)
    other = code_init.draw(config, jax.random.key(1), dataset, variables)
    np.testing.assert_array_equal(z, other)
    hidden = dataclasses.replace(dataset, labels=np.full(4, -1, np.int32))
    np.testing.assert_array_equal(z, code_init.draw(config, KEY, hidden, variables))
    assert z.shape == (4, 8)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-6)


def test_projection_by_numpy_keeps_angles():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (5, 300)).astype(np.float32)
    x[1] = x[0] + 0.1 * x[1]  # two alike
    same = code_init.project_activations(x, 300)
    expected = unit(x - x.mean(0))
    np.testing.assert_allclose(same, expected, rtol=1e-3, atol=1e-5)
    z = code_init.project_activations(x, 128)
    matrix = np.asarray(jax.random.normal(jax.random.key(0), (300, 128)))
    np.testing.assert_allclose(z, unit((x - x.mean(0)) @ matrix), atol=1e-5)
    np.testing.assert_allclose(z @ z.T, expected @ expected.T, atol=4 / np.sqrt(128))
    assert z[0] @ z[1] > 0.9
    shifted = code_init.project_activations(x + 3, 128)
    np.testing.assert_allclose(shifted, z, atol=1e-4)


def test_weights_of_the_resnet_and_their_origin(small_resnet, tmp_path):
    assert code_init.load_resnet(create_config()) == (None, NO_WEIGHTS)
    missing = str(tmp_path / "none.safetensors")
    config = create_config(**{"latent.init_weights": missing})
    assert code_init.load_resnet(config) == (None, NO_WEIGHTS)  # not used
    config.latent.init = "resnet"
    with pytest.raises(UserError, match=r"none\.safetensors"):
        code_init.load_resnet(config)
    weights = str(tmp_path / "resnet.safetensors")
    st.save_file(flax_networks.random_tensors("resnet50"), weights)
    config.latent.init_weights = weights
    variables, origin = code_init.load_resnet(config)
    tensors, provenance = networks.load("resnet50", weights)
    assert origin == provenance.summary
    kernel = np.asarray(variables["params"]["conv1"]["kernel"])
    np.testing.assert_array_equal(kernel[1, 2, 0], tensors["conv1.weight"][:, 0, 1, 2])
    assert jnp.shape(variables["batch_stats"]["layer4_0"]["bn3"]["var"]) == (2048,)


VGG, RESNET = Origin("12", "VGG-16 from a"), Origin("34", "ResNet-50 from b")


@pytest.mark.parametrize(
    ("perceptual", "start", "expected"),
    [
        (VGG, NO_WEIGHTS, VGG),
        (NO_WEIGHTS, NO_WEIGHTS, NO_WEIGHTS),
        (RANDOM, NO_WEIGHTS, RANDOM),
        (NO_WEIGHTS, RANDOM, RANDOM),
        (RANDOM, RANDOM, RANDOM),
        (VGG, RESNET, ("12+34", f"{VGG.text}; codes started from {RESNET.text}")),
        (NO_WEIGHTS, RESNET, ("none+34", f"none; codes started from {RESNET.text}")),
        (
            VGG,
            RANDOM,
            ("12+random", f"{VGG.text}; codes started from a random ResNet-50"),
        ),
    ],
)
def test_origins_are_joined(perceptual, start, expected):
    joined = code_init.join_origins(perceptual, start)
    assert joined == Origin(*expected)
    assert joined.external == (perceptual.external or start.external)


def test_a_random_resnet18_is_named():
    joined = code_init.join_origins(VGG, RANDOM, "resnet18")
    assert joined.text == f"{VGG.text}; codes started from a random ResNet-18"
