"""Tests of `algorithm.train_step`: one step of Algorithm 1 on one and on more devices."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cglo_jax.cglo import algorithm, codes, losses
from cglo_jax.data import dataset as data
from cglo_jax.models.vgg import VGG16
from cglo_jax.stages import train
from cglo_jax.training import parallel
from cglo_jax.training.batches import BatchOrder
from tests.helpers.tiny import assert_trees_equal, create_config, create_dataset, differ

BATCH = np.arange(8)


class Bench:
    """One training set on some devices, stepped by hand."""

    def __init__(self, config, dataset, *, devices=1, seed=0, **spec_changes):
        self.devices = tuple(jax.local_devices()[:devices])
        self.spec = algorithm.create_spec(config, dataset)
        self.spec = dataclasses.replace(self.spec, **spec_changes)
        key_init, self.key, self.key_order = jax.random.split(jax.random.key(seed), 3)
        vgg, _ = train.load_vgg(config)
        cache_gb = config.reconstruction.cache_gb
        shared = algorithm.create_shared(
            self.key, dataset, vgg, cache_gb, spec=self.spec
        )
        shared = algorithm.compute_features(shared, spec=self.spec)
        self.shared = parallel.replicate(shared, self.devices)
        self.state = parallel.create_replicated(
            algorithm.init_state,
            self.devices,
            key_init,
            spec=self.spec,
            n=len(dataset.ids),
            dim=config.latent.dim,
        )

    def step(self, indices, labelled=True):
        """Takes one step; returns its metrics as floats."""
        step_fn = train.compiled_step(self.spec, labelled, self.devices)
        batch = parallel.shard(np.asarray(indices, np.int32), self.devices)
        self.state, metrics = step_fn(self.state, self.shared, batch)
        return {name: float(value) for name, value in metrics.items()}

    def host_state(self):
        """The state now, copied: a step donates the one before it."""
        return jax.tree.map(np.array, self.state)


def test_four_devices_compute_what_one_computes():
    dataset = create_dataset()
    one, four = (Bench(create_config(), dataset, devices=n) for n in (1, 4))
    order = BatchOrder(one.key_order, np.arange(24), 8)
    metrics = [[bench.step(order(s)) for s in range(20)] for bench in (one, four)]
    for name in ("loss", "reconstruction", "cross_entropy"):
        losses_one, losses_four = ([m[name] for m in run] for run in metrics)
        np.testing.assert_allclose(losses_one, losses_four, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(one.state.codes.z, four.state.codes.z, atol=1e-5)


def test_loss_falls_on_eight_images():
    bench = Bench(create_config(), create_dataset(8))
    reconstruction = [bench.step(BATCH)["reconstruction"] for _ in range(150)]
    assert np.mean(reconstruction[-10:]) < 0.5 * reconstruction[0]


def test_neither_a_second_step_nor_a_second_seed_compiles_again(compilations):
    config, dataset = create_config(), create_dataset()
    first = Bench(config, dataset)
    first.step(BATCH)
    first.step(BATCH, labelled=False)
    before = len(compilations)
    second = Bench(config, dataset, seed=1)
    for bench in (first, second):
        for labelled in (True, False, True):
            bench.step(BATCH + 8, labelled)
    assert len(compilations) == before
    jax.jit(lambda x: x + 1)(jnp.zeros(3))  # the count can grow
    assert len(compilations) > before


def test_only_codes_of_the_batch_move_and_stay_on_the_sphere():
    bench = Bench(create_config(), create_dataset())
    before = bench.host_state()
    indices = np.array([3, 1, 4, 20, 5, 9, 2, 6])
    bench.step(indices)
    after = bench.host_state()
    rest = np.setdiff1d(np.arange(24), indices)
    assert_trees_equal(*(codes.gather_codes(s.codes, rest) for s in (before, after)))
    assert (before.codes.z[indices] != after.codes.z[indices]).any(1).all()
    assert (after.codes.opt_state.count == np.isin(np.arange(24), indices)).all()
    np.testing.assert_allclose(np.linalg.norm(after.codes.z, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("devices", [1, 4])
def test_gradient_of_a_code_is_that_of_its_images_loss(devices):
    dataset = create_dataset()
    bench = Bench(create_config(), dataset, devices=devices)
    state, spec = bench.host_state(), bench.spec
    generator, weak = (
        m.clone(axis_name=None) for m in (spec.generator, spec.weak_classifier)
    )

    def summed_losses(z):
        """Every image's own L_rec + gamma L_ce; batch norm alone couples them."""
        keys = jax.vmap(
            lambda i: jax.random.fold_in(jax.random.fold_in(bench.key, 0), i)
        )(BATCH)
        eps = 0.15 * jax.vmap(lambda k: jax.random.normal(k, (4,)))(keys)
        networks = [
            {"params": state.params[n], "batch_stats": state.batch_stats[n]}
            for n in ("generator", "weak_classifier")
        ]
        x, _ = generator.apply(networks[0], z, eps, train=True, mutable="batch_stats")
        (logits, _), _ = weak.apply(networks[1], x, train=True, mutable="batch_stats")
        target = dataset.images[:8].astype(np.float32) / 127.5 - 1
        reconstruction = losses.laplacian_loss(x, target)
        reconstruction += jnp.abs(x - target).mean((1, 2, 3))
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(
            logits, dataset.labels[:8]
        )
        return (reconstruction + 0.5 * cross_entropy).sum()

    loss, gradient = jax.jit(jax.value_and_grad(summed_losses))(state.codes.z[:8])
    metrics = bench.step(BATCH)
    assert metrics["loss"] == pytest.approx(float(loss) / 8, rel=1e-5)
    mu = np.asarray(bench.state.codes.opt_state.mu[:8])  # (1 - b1) g after one step
    np.testing.assert_allclose(mu / 0.5, gradient, rtol=1e-3, atol=1e-5)
    # Adam's first step is lr * sign(g), up to its epsilon; then the sphere.
    moved = state.codes.z[:8] - 1e-3 * np.sign(gradient)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(bench.state.codes.z[:8], moved, atol=1e-5)


def test_unlabelled_step_leaves_the_weak_classifier_and_reads_no_label():
    config = create_config()
    hidden, labelled = create_dataset(unlabelled=24), create_dataset()
    benches = [Bench(config, d) for d in (hidden, labelled)]
    before = benches[0].host_state()
    for bench in benches:
        metrics = bench.step(BATCH, labelled=False)
        assert metrics.keys() == {"loss", "reconstruction"}
    after = benches[0].host_state()
    assert_trees_equal(after, benches[1].host_state())
    for part in ("params", "batch_stats", "opt_state"):
        networks = [getattr(s, part) for s in (before, after)]
        assert_trees_equal(*(n["weak_classifier"] for n in networks))
        assert differ(*(n["generator"] for n in networks))


def test_labelled_step_trains_the_weak_classifier_by_the_labels():
    config, dataset = create_config(), create_dataset()
    other = dataclasses.replace(dataset, labels=(dataset.labels + 1) % 3)
    benches = [Bench(config, d) for d in (dataset, other)]
    before = benches[0].host_state()
    metrics = [bench.step(BATCH) for bench in benches]
    after, after_other = (bench.host_state() for bench in benches)
    for part in ("params", "batch_stats", "opt_state"):
        networks = [getattr(s, part)["weak_classifier"] for s in (before, after)]
        assert differ(*networks)
    assert differ(after.params, after_other.params)
    assert metrics[0]["reconstruction"] == metrics[1]["reconstruction"]
    assert metrics[0]["cross_entropy"] != metrics[1]["cross_entropy"]
    total = metrics[0]["reconstruction"] + 0.5 * metrics[0]["cross_entropy"]
    assert metrics[0]["loss"] == pytest.approx(total, rel=1e-6)
    assert metrics[0]["weak_accuracy"] in 100 * np.arange(9) / 8


def test_gamma_zero_leaves_the_weak_classifier_alone():
    bench = Bench(create_config(**{"weak_classifier.gamma": 0.0}), create_dataset())
    before = bench.host_state()
    assert bench.step(BATCH).keys() == {"loss", "reconstruction"}
    after = bench.host_state()
    for part in ("params", "batch_stats", "opt_state"):
        assert_trees_equal(
            *(getattr(s, part)["weak_classifier"] for s in (before, after))
        )
    assert differ(before.params["generator"], after.params["generator"])


def test_noise_none_makes_the_step_independent_of_the_key():
    def first_loss(config, seed):
        bench = Bench(config, create_dataset())
        key = jax.random.key(seed)
        bench.shared = bench.shared._replace(key=key)
        return bench.step(BATCH)["loss"], bench.state.params["generator"]

    without = create_config(**{"latent.noise": "none"})
    (loss, params), (other_loss, _) = (first_loss(without, seed) for seed in (1, 2))
    assert loss == other_loss
    assert "noise" not in params
    (loss, params), (other_loss, _) = (
        first_loss(create_config(), seed) for seed in (1, 2)
    )
    assert loss != other_loss
    assert "noise" in params


def test_lr_factor_scales_generator_and_codes_not_the_weak_classifier():
    bench = Bench(create_config(), create_dataset(), lr_drops=((1, 0.0),))
    before, _ = bench.host_state(), bench.step(BATCH)
    middle, _ = bench.host_state(), bench.step(BATCH)
    after = bench.host_state()
    assert differ(before.params["generator"], middle.params["generator"])
    assert_trees_equal(middle.params["generator"], after.params["generator"])
    np.testing.assert_allclose(middle.codes.z, after.codes.z, atol=1e-7)
    assert differ(middle.params["weak_classifier"], after.params["weak_classifier"])


def while_bodies(hlo: str) -> list[str]:
    """Texts of all computations that run inside a while loop, called ones included."""
    blocks = re.split(r"\n(?=%|ENTRY)", hlo)
    texts = {b.removeprefix("ENTRY ").split(" ")[0].strip("%"): b for b in blocks}
    reached, todo = set(), re.findall(r" while\(.*?body=%?([\w.-]+)", hlo)
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += re.findall(r"(?:calls|body|to_apply)=%?([\w.-]+)", texts[name])
    return [texts[name] for name in sorted(reached)]


def test_the_compiled_step_is_fast_on_cpu_and_donates_its_state():
    bench = Bench(create_config(), create_dataset())
    step_fn = train.compiled_step(bench.spec, True, bench.devices)
    batch = parallel.shard(BATCH.astype(np.int32), bench.devices)
    hlo = step_fn.lower(bench.state, bench.shared, batch).compile().as_text()
    assert " convolution(" in hlo
    assert "lhs_dilate" not in hlo
    bodies = while_bodies(hlo)  # of the random numbers
    assert bodies
    assert not [body for body in bodies if " convolution(" in body]
    header = hlo.splitlines()[0]
    aliased = re.findall(r"\{(\d+)\}: \((\d+), \{\}", header)
    assert len(aliased) == len(jax.tree.leaves(bench.state))
    old = jax.tree.leaves(bench.state)
    bench.step(BATCH)
    assert all(leaf.is_deleted() for leaf in old)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "type_"), [("bfloat16", "bf16"), ("float32", "f32")])
def test_every_convolution_of_the_step_computes_in_dtype(dtype, type_):
    """G, VGG-16 and f_phi, forwards and backwards; parameters, statistics and loss stay float32."""
    config = create_config(
        **{
            "dtype": dtype,
            "reconstruction.loss": "perceptual",
            "reconstruction.weights": "random",
        }
    )
    bench = Bench(config, create_dataset(size=16))
    step_fn = train.compiled_step(bench.spec, True, bench.devices)
    batch = parallel.shard(BATCH.astype(np.int32), bench.devices)
    text = step_fn.lower(bench.state, bench.shared, batch).as_text()
    operands = re.findall(
        r"stablehlo\.convolution.*: \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\)",
        text,
    )
    assert len(operands) == len(re.findall(r"stablehlo\.convolution\(", text)) > 20
    assert set(operands) == {(type_, type_)}
    kept = jax.tree.leaves((bench.state.params, bench.state.batch_stats))
    assert {leaf.dtype for leaf in kept} == {jnp.dtype("float32")}
    assert np.isfinite(bench.step(BATCH)["loss"])


def test_perceptual_step_with_random_weights_computes_equation_1():
    config = create_config(
        **{
            "reconstruction.loss": "perceptual",
            "reconstruction.weights": "random",
            "reconstruction.layer_weights": (1.0, 0.5, 2.0, 0.0, 3.0),
            "reconstruction.pixel_weight": 0.25,
        }
    )
    dataset = create_dataset(8, size=16)
    bench = Bench(config, dataset)
    x = data.to_float(dataset.images[:2])
    y = data.to_float(dataset.images[2:4])
    vgg = bench.shared.vgg
    features = jax.jit(
        lambda x: VGG16().apply({"params": vgg}, x.repeat(3, axis=-1))[1]
    )
    expected = 0.25 * np.abs(x - y).mean((1, 2, 3))
    of_x, of_y = features(x), features(y)
    taps = ("conv1_2", "conv2_2", "conv3_2", "conv4_2", "conv5_2")
    for tap, weight in zip(taps, (1.0, 0.5, 2.0, 0.0, 3.0), strict=True):
        expected += weight * np.abs(of_x[tap] - of_y[tap]).mean((1, 2, 3))
    loss = jax.jit(bench.spec.reconstruction)
    np.testing.assert_allclose(loss(x, y, vgg), expected, rtol=1e-4)
    np.testing.assert_array_equal(loss(x, x, vgg), 0)
    metrics = bench.step(BATCH)
    assert np.isfinite(list(metrics.values())).all()


# Variants of section 5.2

LATENT = {"weak_classifier.input": "latent"}
ADDITIVE = {"latent.noise": "additive", "latent.noise_std": 0.3}


def test_the_latent_classifier_moves_codes_and_itself_but_not_the_generator():
    config, dataset = create_config(**LATENT), create_dataset()
    other = dataclasses.replace(dataset, labels=(dataset.labels + 1) % 3)
    benches = [Bench(config, d) for d in (dataset, other)]
    before = benches[0].host_state()
    metrics = [bench.step(BATCH) for bench in benches]
    one, two = (bench.host_state() for bench in benches)
    assert metrics[0]["cross_entropy"] != metrics[1]["cross_entropy"]
    for part in ("params", "batch_stats", "opt_state"):
        networks = [getattr(s, part) for s in (one, two)]
        assert_trees_equal(*(n["generator"] for n in networks))
    assert one.batch_stats["weak_classifier"] == {}
    assert differ(before.params["generator"], one.params["generator"])
    assert differ(*(s.params["weak_classifier"] for s in (one, two)))
    mu = [s.codes.opt_state.mu[:8] for s in (one, two)]
    assert (np.abs(mu[0] - mu[1]).max(1) > 0).all()  # every code feels its label


def test_the_latent_classifier_on_four_devices_is_that_on_one():
    config = create_config(**LATENT, **ADDITIVE, **{"weak_classifier.loss": "cosine"})
    dataset = create_dataset()
    one, four = (Bench(config, dataset, devices=n) for n in (1, 4))
    order = BatchOrder(one.key_order, np.arange(24), 8)
    metrics = [[bench.step(order(s)) for s in range(20)] for bench in (one, four)]
    for name in ("loss", "reconstruction", "cosine_loss"):
        losses_one, losses_four = ([m[name] for m in run] for run in metrics)
        np.testing.assert_allclose(losses_one, losses_four, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(one.state.codes.z, four.state.codes.z, atol=1e-5)


def test_added_noise_is_in_the_image_and_not_in_what_is_classified():
    config = create_config(**LATENT, **ADDITIVE, **{"weak_classifier.loss": "cosine"})
    dataset = create_dataset()
    bench = Bench(config, dataset)
    state, spec = bench.host_state(), bench.spec
    assert "noise" not in state.params["generator"]
    generator = spec.generator.clone(axis_name=None)
    params = state.params["weak_classifier"]

    def summed_losses(z):
        key = jax.random.fold_in(bench.key, 0)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(BATCH)
        noisy = z + 0.3 * jax.vmap(lambda k: jax.random.normal(k, (8,)))(keys)
        variables = {
            "params": state.params["generator"],
            "batch_stats": state.batch_stats["generator"],
        }
        x, _ = generator.apply(variables, noisy, train=True, mutable="batch_stats")
        target = dataset.images[:8].astype(np.float32) / 127.5 - 1
        reconstruction = losses.laplacian_loss(x, target)
        reconstruction += jnp.abs(x - target).mean((1, 2, 3))
        h = z
        for name in ("dense1", "dense2"):
            bias = params[name]["bias"][None]
            h = jnp.maximum(h @ params[name]["kernel"] + bias, 0)
        outputs = h @ params["head"]["kernel"] + params["head"]["bias"][None]
        of_label = outputs[BATCH, dataset.labels[:8]]
        cosine = of_label / jnp.linalg.norm(outputs, axis=1)
        return (reconstruction + 0.5 * (1 - cosine)).sum()

    loss, gradient = jax.jit(jax.value_and_grad(summed_losses))(state.codes.z[:8])
    metrics = bench.step(BATCH)
    assert metrics["loss"] == pytest.approx(float(loss) / 8, rel=1e-5)
    mu = np.asarray(bench.state.codes.opt_state.mu[:8])  # (1 - b1) g after one step
    np.testing.assert_allclose(mu / 0.5, gradient, rtol=1e-3, atol=1e-5)
    norms = np.linalg.norm(bench.state.codes.z, axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-6)  # the codes stay on the sphere


def test_training_starts_from_codes_that_are_given():
    config, dataset = create_config(), create_dataset()
    spec = algorithm.create_spec(config, dataset)
    first = np.eye(24, 8, dtype=np.float32)
    init = jax.jit(functools.partial(algorithm.init_state, spec=spec, n=24, dim=8))
    given, drawn = init(jax.random.key(0), first), init(jax.random.key(0))
    np.testing.assert_array_equal(given.codes.z, first)
    assert_trees_equal(given.codes.opt_state, drawn.codes.opt_state)
    assert_trees_equal(given.params, drawn.params)
