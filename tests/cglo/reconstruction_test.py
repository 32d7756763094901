"""Tests of `losses.ReconstructionLoss`: cached features change speed and rounding, nothing else."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.cglo import algorithm
from cglo_jax.models.vgg import BLOCK_WIDTHS, VGG16
from cglo_jax.stages import train
from cglo_jax.training import parallel
from configs import cifar100
from tests.cglo.train_step_test import BATCH, Bench
from tests.helpers.tiny import create_config, create_dataset

PERCEPTUAL = {"reconstruction.loss": "perceptual", "reconstruction.weights": "random"}


def config(**changes):
    fields = {name.replace("__", "."): value for name, value in changes.items()}
    return create_config(**{**PERCEPTUAL, **fields})


@pytest.mark.parametrize(
    ("dtype", "rtol"),
    [("float32", 1e-5), pytest.param("bfloat16", 1e-2, marks=pytest.mark.slow)],
)
def test_a_step_with_cached_features_is_the_step_without(dtype, rtol):
    dataset = create_dataset(size=16, channels=3)
    cached, plain = (
        Bench(config(dtype=dtype, reconstruction__cache_gb=gb), dataset)
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
    one, four = (Bench(config(), dataset, devices=n) for n in (1, 4))
    for step in range(3):
        losses = [bench.step((BATCH + step) % 24)["loss"] for bench in (one, four)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_the_cache_is_what_the_network_computes(dtype, atol):
    dataset = create_dataset(24, size=16)  # grey
    loss = algorithm.create_spec(config(dtype=dtype), dataset).reconstruction
    vgg, _ = train.load_vgg(config())
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
    bench = Bench(config(reconstruction__layer_weights=weights), dataset)
    assert set(bench.shared.features) == {"conv1_2", "conv3_2"}
    products = re.findall(
        r"stablehlo\.(?:convolution|dot_general).*", lower(bench).as_text()
    )
    assert any("x256x" in line for line in products)  # of conv3
    assert not any("x512x" in line for line in products)  # of conv4 and conv5


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
    for widths in BLOCK_WIDTHS.values():
        for width in widths:
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
