"""Tests of cglo_jax/cglo/algorithm.py: state, loss, noise, and the step on one and on more devices."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cglo_jax.cglo import algorithm, codes, losses
from cglo_jax.data import dataset as data
from cglo_jax.errors import UserError
from cglo_jax.models.generator import Generator
from cglo_jax.models.vgg import VGG16
from cglo_jax.stages import train
from cglo_jax.training import parallel
from cglo_jax.training.batches import BatchOrder
from tests.helpers.bench import BATCH, Bench
from tests.helpers.tiny import assert_trees_equal, create_config, create_dataset, differ


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


def test_gamma_weighs_the_weak_classifiers_own_step_only_if_it_should():
    dataset, steps = create_dataset(), {}
    for gamma, scaled in itertools.product((0.5, 0.05), (True, False)):
        config = create_config(
            **{
                "weak_classifier.gamma": gamma,
                "weak_classifier.scale_gradient": scaled,
                "train.weak_weight_decay": 0.0,
            }
        )
        bench = Bench(config, dataset)
        before, _ = bench.host_state(), bench.step(BATCH)
        after = bench.host_state()
        steps[gamma, scaled] = [
            np.asarray(jax.flatten_util.ravel_pytree(s.params["weak_classifier"])[0])
            for s in (before, after)
        ]
        generator = [s.params["generator"] for s in (before, after)]
        assert differ(*generator)
    moved = {key: after - before for key, (before, after) in steps.items()}
    np.testing.assert_allclose(
        moved[0.5, True], 10 * moved[0.05, True], rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(
        moved[0.5, False], moved[0.05, False], rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(
        moved[0.5, True], 0.5 * moved[0.5, False], rtol=1e-3, atol=1e-6
    )


def test_dropout_of_the_weak_classifier_changes_training_and_nothing_else():
    def run(devices, rate):
        config = create_config(**{"weak_classifier.dropout": rate})
        bench = Bench(config, create_dataset(), devices=devices)
        return [bench.step(BATCH) for _ in range(3)]

    without, one, four = run(1, 0.0), run(1, 0.5), run(4, 0.5)
    assert without[0]["reconstruction"] == one[0]["reconstruction"]
    assert without[0]["cross_entropy"] != one[0]["cross_entropy"]
    for a, b in zip(one, four, strict=True):
        assert a["cross_entropy"] == pytest.approx(b["cross_entropy"], rel=1e-4)


def test_smoothed_labels_enter_the_step():
    losses_of = {}
    for smoothing in (0.0, 0.4):
        config = create_config(**{"weak_classifier.label_smoothing": smoothing})
        losses_of[smoothing] = Bench(config, create_dataset()).step(BATCH)
    assert losses_of[0.0]["reconstruction"] == losses_of[0.4]["reconstruction"]
    assert losses_of[0.0]["cross_entropy"] != losses_of[0.4]["cross_entropy"]


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


# State, loss and noise


def test_in_evaluation_statistics_stay_and_an_image_has_its_loss_in_any_batch():
    dataset = create_dataset(unlabelled=21)  # 0, 1 and 2 have labels
    spec = algorithm.create_spec(create_config(), dataset)
    init = functools.partial(algorithm.init_state, spec=spec, n=24, dim=8)
    state = jax.jit(init)(jax.random.key(0))
    key, weights = jax.random.key(1), np.array([1, 2, 4], np.float32)
    shared = algorithm.Shared(key, dataset.images, dataset.labels, weights, {}, {})
    shared = jax.tree.map(jnp.asarray, shared)

    @functools.partial(jax.jit, static_argnames="weak")
    def loss(indices, weak):
        return algorithm.compute_loss(
            state.params,
            state.codes.z[indices],
            jnp.zeros((len(indices), 4)),
            indices,
            batch_stats=state.batch_stats,
            shared=shared,
            spec=spec,
            use_weak=weak,
            train=False,
        )

    batch = np.array([2, 20, 1, 21])
    total, (batch_stats, metrics) = loss(batch, True)
    assert_trees_equal(batch_stats, state.batch_stats)
    alone = [[float(loss(batch[[k]], weak)[0]) for k in range(4)] for weak in (1, 0)]
    assert float(total) == pytest.approx(np.mean(alone[0]), rel=1e-5)
    difference = np.subtract(*alone)  # gamma times the cross-entropy
    assert (difference[[1, 3]] == 0).all()  # without a label
    assert (difference[[0, 2]] > 0.1).all()
    assert float(metrics["cross_entropy"]) == pytest.approx(
        difference.mean() / 0.5, rel=1e-4
    )
    # Before training all classes are about as likely, so that their weights show.
    assert difference[0] / difference[2] == pytest.approx(4 / 2, rel=0.3)


def test_noise_is_a_function_of_the_images_key_with_the_given_deviation():
    keys = codes.example_keys(jax.random.key(0), jnp.arange(500))
    generator = Generator(8, noise_dim=20)
    eps = generator.draw_noise(keys, 8)
    assert eps.shape == (500, 20)
    assert float(eps.std()) == pytest.approx(0.15, rel=0.03)
    assert abs(float(eps.mean())) < 0.01
    some = jnp.array([7, 3, 400])
    np.testing.assert_array_equal(generator.draw_noise(keys[some], 8), eps[some])
    assert Generator(8, noise="none").draw_noise(keys, 8) is None


def test_lr_factor_drops_with_the_first_step_of_an_epoch():
    config = create_config(
        **{"train.lr_drop_epochs": (2, 5), "train.lr_drop": 0.5, "train.epochs": 6}
    )
    dataset = create_dataset(20, unlabelled=6)  # 3 labelled + 1 unlabelled steps
    spec = algorithm.create_spec(config, dataset)
    factors = np.array([float(spec.lr_schedule(jnp.asarray(s))) for s in range(24)])
    np.testing.assert_allclose(factors, [1.0] * 8 + [0.5] * 12 + [0.25] * 4)


def test_images_that_are_not_square_are_refused():
    dataset = create_dataset()
    wide = dataclasses.replace(dataset, images=np.zeros((24, 8, 16, 1), np.uint8))
    with pytest.raises(UserError, match=r"16x8 .*--config\.dataset\.size"):
        algorithm.create_spec(create_config(), wide)


def test_noise_enters_as_the_config_says():
    dataset = create_dataset()
    keys = codes.example_keys(jax.random.key(0), np.arange(3))
    z = jnp.asarray(np.eye(3, 8, dtype=np.float32))
    entered = {}
    for noise in ("concat", "additive", "none"):
        config = create_config(**{"latent.noise": noise})
        generator = algorithm.create_spec(config, dataset).generator
        eps = generator.draw_noise(keys, 8)
        length = {"concat": 4, "additive": 8, "none": 0}[noise]
        assert generator.noise_length(8) == length
        assert (eps is None) if not length else (eps.shape == (3, length))
        entered[noise] = (eps, generator)
    normal = jax.vmap(lambda k: jax.random.normal(k, (8,)))(keys)
    eps, generator = entered["additive"]
    noisy = generator._with_noise(z, eps)
    np.testing.assert_allclose(eps, 0.15 * normal, rtol=1e-6)
    np.testing.assert_allclose(noisy, z + 0.15 * normal, rtol=1e-6)
    # Not on the sphere any more: 1 + 2 * .15 n_i + .15^2 |n|^2 is the squared length.
    squared = 1 + 0.3 * np.diag(normal) + 0.15**2 * (normal**2).sum(1)
    np.testing.assert_allclose((noisy**2).sum(1), squared, rtol=1e-5)
    assert np.abs(squared - 1).max() > 0.1
    without = entered["none"][1]
    assert without._with_noise(z, None) is z
