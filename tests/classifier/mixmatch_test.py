"""Tests of cglo_jax/classifier/mixmatch.py: its formulas by hand, and its step against NumPy."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cglo_jax.classifier import mixmatch
from cglo_jax.classifier import step as classifier
from cglo_jax.classifier.methods import METHODS
from cglo_jax.classifier.mixmatch import MixMatch
from cglo_jax.data.pixels import Canvas
from cglo_jax.models.layers import Conv3x3, batch_norm
from cglo_jax.stages import classify
from cglo_jax.training import parallel
from cglo_jax.training.batches import BatchOrder
from tests.helpers import tiny
from tests.helpers.tiny import assert_trees_equal, create_config, create_dataset

CONSTANTS = MixMatch(
    augmentations=2, temperature=0.5, alpha=0.75, lambda_u=8.0, ramp_steps=6, ema=0.75
)


# Formulas


def test_sharpening_by_hand():
    p = jnp.array([[0.5, 0.25, 0.25], [0.0, 0.6, 0.4]])
    expected = [[2 / 3, 1 / 6, 1 / 6], [0, 36 / 52, 16 / 52]]
    np.testing.assert_allclose(mixmatch.sharpen(p, 0.5), expected, rtol=1e-5)
    np.testing.assert_allclose(mixmatch.sharpen(p, 1.0), p, rtol=1e-5)
    # .01^(1/.01) is 0 in float32
    nearly = jnp.full(100, 0.01).at[3].set(0.012)
    cold = mixmatch.sharpen(nearly / nearly.sum(), 0.01)
    np.testing.assert_allclose(cold, np.eye(100)[3], atol=1e-5)


def test_guesses_are_sharpened_means_without_a_gradient():
    p = jnp.array([[[0.9, 0.1]], [[0.3, 0.7]]])  # means .6 and .4
    logits = jnp.log(p) + 5.0
    guesses = mixmatch.guess_labels(logits, 0.5)
    np.testing.assert_allclose(guesses, [[36 / 52, 16 / 52]], rtol=1e-5)
    grad = jax.grad(lambda x: mixmatch.guess_labels(x, 0.5)[0, 0])(logits)
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("alpha", [0.5, 0.75, 3.0])
def test_shares_are_the_larger_part_of_a_beta_draw(alpha):
    keys = jax.random.split(jax.random.key(0), (2, 2000))
    shares = np.asarray(mixmatch.draw_shares(keys, alpha))
    assert shares.shape == (2, 2000)
    assert 0.5 <= shares.min() and shares.max() <= 1
    beta = stats.beta(alpha, alpha)
    test = stats.kstest(shares.ravel(), lambda x: beta.cdf(x) - beta.cdf(1 - x))
    assert test.statistic < 0.03
    one = mixmatch.draw_shares(keys[1:, 7], alpha)
    np.testing.assert_allclose(one, shares[1:, 7], rtol=1e-6)


def test_mixing_by_hand():
    x, y = jnp.array([[0.0, 4.0], [1.0, 1.0]]), jnp.array([[8.0, 0.0], [3.0, 5.0]])
    mixed = mixmatch.mix(x, y, jnp.array([0.75, 0.5]))
    np.testing.assert_array_equal(mixed, [[2, 3], [2, 3]])
    images = mixmatch.mix(x[:, :, None, None], y[:, :, None, None], jnp.ones(2))
    np.testing.assert_array_equal(images, x[:, :, None, None])


def test_interleaving_by_hand():
    expected = [
        [0, 1, 9, 10, 18, 19, 20],
        [7, 8, 2, 3, 11, 12, 13],
        [14, 15, 16, 17, 4, 5, 6],
    ]
    np.testing.assert_array_equal(mixmatch.interleave(3, 7), expected)


@pytest.mark.parametrize(("batches", "size"), [(3, 8), (3, 9), (2, 5), (5, 13), (4, 2)])
def test_interleaving_mixes_the_batches_and_undoes_itself(batches, size):
    source = mixmatch.interleave(batches, size)
    places = np.arange(batches * size).reshape(batches, size)
    np.testing.assert_array_equal(source.ravel()[source], places)
    assert (source % size == places % size).all()
    shares = np.bincount(source[0] // size, minlength=batches)
    assert shares.max() - shares.min() <= 1
    of_first = (source < size).sum(1)
    np.testing.assert_array_equal(of_first, shares)


def test_the_unlabelled_loss_by_hand():
    logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]])) - 3.0
    targets = jnp.array([[0.5, 0.5], [1.0, 0.0]])
    losses = mixmatch.unlabelled_loss(logits, targets)
    np.testing.assert_allclose(losses, [0.0625, 0.25], rtol=1e-5)


def test_the_ramp_by_hand():
    def weights(ramp_steps):
        constants = dataclasses.replace(CONSTANTS, ramp_steps=ramp_steps)
        steps = jnp.arange(6, dtype=jnp.int32)
        return [mixmatch.unlabelled_weight(step, constants) for step in steps]

    assert [float(w) for w in weights(4)] == [0, 2, 4, 6, 8, 8]
    assert [float(w) for w in weights(0)] == [8] * 6


def test_the_average_by_hand():
    averaged = {"a": jnp.array([1.0, 0.0])}
    for _ in range(2):
        averaged = mixmatch.update_average(averaged, {"a": jnp.array([0.0, 4.0])}, 0.75)
    np.testing.assert_allclose(averaged["a"], [0.5625, 1.75])


def test_the_constants_are_the_papers():
    config = create_config(
        **{"classify.epochs": 10, "classify.steps_per_epoch": 30, "mixmatch.ramp": 0.25}
    )
    assert MixMatch.create(config) == MixMatch(2, 0.5, 0.75, 75.0, 75.0, 0.999)


def test_the_pool_is_what_has_no_label():
    some = mixmatch.choose_pool(create_dataset(24, unlabelled=5), 4)
    np.testing.assert_array_equal(some, [19, 20, 21, 22, 23])
    few = mixmatch.choose_pool(create_dataset(24, unlabelled=3), 8)
    np.testing.assert_array_equal(few, [21, 22, 23, 21, 22, 23, 21, 22])
    none = mixmatch.choose_pool(create_dataset(24), 8)
    np.testing.assert_array_equal(none, np.arange(24))


# The step


class Linear(nn.Module):
    """A linear classifier; its running statistic is the mean of the last batch."""

    @nn.compact
    def __call__(self, x, *, train):
        seen = self.variable("batch_stats", "mean", jnp.zeros, x.shape[1:])
        if train:
            seen.value = jax.lax.pmean(x.mean(0), parallel.AXIS)
        return nn.Dense(3, name="head")(x.reshape(len(x), -1)), {}


class Normalised(nn.Module):
    """A convolution with batch norm over all devices, then a linear classifier."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(batch_norm(train, parallel.AXIS)(Conv3x3(4)(x)))
        return nn.Dense(3)(x.reshape(len(x), -1)), {}


def create_run(dataset, method="mixmatch", canvas=None, **changes):
    """Returns (spec, shared on the host); by default linear, without crops and flips."""
    spec = classifier.create_spec(
        create_config(),
        *dataset.side_and_channels,
        dataset.num_classes,
        METHODS[method],
    )
    changes = {"model": Linear(), "pad": 0, "flip": False, **changes}
    spec = dataclasses.replace(spec, **changes)
    model = {"params": {}, "batch_stats": {}, "z": np.zeros((24, 0), np.float32)}
    sampler = tiny.create_sampler(model, dataset)
    weights = np.array([1, 2, 4], np.float32)
    return spec, classifier.Shared(
        jax.random.key(1), dataset.images, canvas, weights, sampler
    )


def take_steps(spec, shared, constants, batches, devices=1):
    """Returns (state, metrics of each step) on the host."""
    devices = tuple(jax.local_devices()[:devices])
    step = classify.compiled_step(spec, devices, constants)
    shared = parallel.replicate(shared, devices)
    state = parallel.create_replicated(
        classifier.init_state, devices, jax.random.key(0), spec=spec
    )
    told = []
    for batch in batches:
        state, metrics = step(state, shared, parallel.shard(batch, devices))
        told.append({name: float(value) for name, value in metrics.items()})
    return jax.device_get(state), told


def create_batches(dataset, steps, size=8):
    """Returns the batches [size, 2] of a run."""
    orders = [
        BatchOrder(jax.random.key(2), np.arange(dataset.num_labelled), size),
        BatchOrder(jax.random.key(3), mixmatch.choose_pool(dataset, size), size),
    ]
    return [np.stack([order(s) for order in orders], 1) for s in range(steps)]


def softmax(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def numpy_step(kernel, bias, dataset, batch, weights, lambda_u, draws):
    """A step's losses and gradients by Algorithm 1, in float64, with the given draws."""
    labelled, unlabelled = batch.T
    x = dataset.images.reshape(len(dataset.images), -1) / 127.5 - 1
    p = softmax(x[unlabelled] @ kernel + bias) ** 2
    guess = p / p.sum(-1, keepdims=True)
    everything = np.concatenate([x[labelled], x[unlabelled], x[unlabelled]])
    targets = np.concatenate([np.eye(3)[dataset.labels[labelled]], guess, guess])
    partners, shares = draws
    shares = shares[:, None]
    mixed = shares * everything + (1 - shares) * everything[partners]
    t = shares * targets + (1 - shares) * targets[partners]
    n = len(labelled)
    p = softmax(mixed @ kernel + bias)
    w = t @ weights
    cross_entropy = (w * -(t * np.log(p)).sum(-1))[:n].mean()
    square = ((t - p) ** 2)[n:].mean()
    right = (p.argmax(-1) == t.argmax(-1))[:n]
    slope = w[:, None] * (p - t) / n
    inner = (p * (p - t)).sum(-1, keepdims=True)
    slope[n:] = (lambda_u * 2 * p * (p - t - inner))[n:] / (3 * 2 * n)
    metrics = {
        "loss": cross_entropy + lambda_u * square,
        "labelled_loss": cross_entropy,
        "unlabelled_loss": square,
        "train_accuracy": 100 * right.mean(),
    }
    # The first of the three batches that go through the network, parts of 2, 3 and 3 places.
    first = np.concatenate([mixed[0:2], mixed[n + 2 : n + 5], mixed[2 * n + 5 :]])
    return metrics, mixed.T @ slope, slope.sum(0), first.mean(0)


def test_a_run_of_a_linear_model_equals_numpy():
    dataset = create_dataset(unlabelled=9)
    spec, shared = create_run(dataset, lr=0.01, momentum=0.5, weight_decay=0.1)
    batches = create_batches(dataset, 4)
    state, told = take_steps(spec, shared, CONSTANTS, batches)
    start = classifier.init_state(jax.random.key(0), spec=spec).params["head"]
    params = [np.asarray(start[name], np.float64) for name in ("kernel", "bias")]
    averaged, buffers = [p.copy() for p in params], [0.0, 0.0]
    for s, batch in enumerate(batches):
        key = jax.random.fold_in(jax.random.fold_in(shared.key, s), (1 << 31) + 2)
        key_partners, key_shares = jax.random.split(key)
        keys = jax.vmap(lambda i, k=key_shares: jax.random.fold_in(k, i))(np.arange(24))
        partners = np.asarray(jax.random.permutation(key_partners, 24))
        shares = jax.vmap(lambda k: jax.random.beta(k, 0.75, 0.75))(keys)
        shares = np.maximum(shares, 1 - shares)
        lambda_u = 8 * s / 6
        metrics, *grads, mean = numpy_step(
            *params, dataset, batch, shared.class_weights, lambda_u, (partners, shares)
        )
        assert told[s] == pytest.approx(metrics, rel=1e-4)
        for i, grad in enumerate(grads):
            grad += 0.1 * params[i]
            buffers[i] = 0.5 * buffers[i] + grad
            params[i] = params[i] - 0.01 * (grad + 0.5 * buffers[i])
            averaged[i] = 0.75 * averaged[i] + 0.25 * params[i]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    for tree, expected in ((state.params, params), (state.averaged, averaged)):
        close(tree["head"]["kernel"], expected[0])
        close(tree["head"]["bias"], expected[1])
    close(state.batch_stats["mean"].ravel(), mean)
    assert state.step == 4


def test_without_mixing_and_lambda_it_is_the_baseline():
    """Of a model without batch norm; so labelled images are augmented as the baseline's."""
    dataset = create_dataset(unlabelled=9)
    constants = dataclasses.replace(CONSTANTS, lambda_u=0.0, alpha=1e-8)
    batches = create_batches(dataset, 3)
    changes = {"pad": 1, "flip": True}
    state, told = take_steps(*create_run(dataset, **changes), constants, batches)
    plain, plain_told = take_steps(
        *create_run(dataset, "baseline", **changes), None, [b[:, 0] for b in batches]
    )
    for ours, theirs in zip(told, plain_told, strict=True):
        assert ours["loss"] == ours["labelled_loss"]
        assert ours["unlabelled_loss"] > 0
        for name in ("loss", "train_accuracy"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        state.params,
        plain.params,
    )


def test_four_devices_compute_what_one_computes():
    dataset = create_dataset(unlabelled=9)
    spec, shared = create_run(dataset, model=Normalised(), pad=1, flip=True)
    batches = create_batches(dataset, 20)
    one, told = take_steps(spec, shared, CONSTANTS, batches)
    four, told_by_four = take_steps(spec, shared, CONSTANTS, batches, devices=4)
    for ours, theirs in zip(told, told_by_four, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-2, atol=1e-4), one, four
    )
    assert len({metrics["loss"] for metrics in told}) == 20


def make_batches(shared, spec, indices):
    create = functools.partial(mixmatch.create_batches, spec=spec, augmentations=3)
    x, targets = jax.jit(create)(shared, jax.random.key(5), indices)
    return np.rint((np.asarray(x) + 1) * 127.5), np.asarray(targets)


def test_every_augmentation_of_an_image_is_drawn_by_itself():
    dataset = create_dataset(48, unlabelled=24)
    spec, shared = create_run(dataset, flip=True)
    shared = shared._replace(images=jnp.asarray(dataset.images))
    indices = np.stack([np.arange(24), np.arange(24, 48)], 1)
    x, targets = make_batches(shared, spec, indices)
    np.testing.assert_array_equal(targets, np.eye(3)[dataset.labels[:24]])
    whole = np.concatenate([dataset.images[indices.T[i]] for i in (0, 1, 1, 1)])
    x = x.reshape(whole.shape)
    flipped = (x == whole[:, :, ::-1]).all((1, 2, 3))
    assert (flipped | (x == whole).all((1, 2, 3))).all()
    flipped = flipped.reshape(4, 24)
    assert len({row.tobytes() for row in flipped}) == 4
    assert (np.abs(flipped.mean(1) - 0.5) < 0.4).all()
    swapped, _ = make_batches(shared, spec, indices[::-1])
    np.testing.assert_array_equal(swapped[:, ::-1], x.reshape(swapped.shape))


@pytest.mark.parametrize("unlabelled", [0, 9])
def test_unlabelled_images_are_random_crops_if_they_are_there_whole(unlabelled):
    dataset = create_dataset(unlabelled=unlabelled)
    n = dataset.num_labelled
    pixels = np.random.default_rng(0).integers(0, 256, (n, 8, 11, 1), np.uint8)
    canvas = Canvas(pixels, np.full(n, 11, np.int32), np.zeros(n, bool))
    spec, shared = create_run(dataset, canvas=canvas)
    pool = mixmatch.choose_pool(dataset, 8)
    indices = np.stack([np.arange(8), pool[:8]], 1)
    x, _ = make_batches(jax.tree.map(jnp.asarray, shared), spec, indices)

    def is_window(image, i):
        return any(np.array_equal(image, pixels[i, :, k : k + 8]) for k in range(4))

    assert all(is_window(x[0, b], i) for b, i in enumerate(indices[:, 0]))
    for batch in x[1:]:
        if unlabelled:
            np.testing.assert_array_equal(batch, dataset.images[indices[:, 1]])
        else:
            assert all(is_window(batch[b], i) for b, i in enumerate(indices[:, 1]))
    assert np.array_equal(x[1], x[2]) == bool(unlabelled)


def test_the_average_starts_at_the_parameters():
    spec, _ = create_run(create_dataset())
    state = classifier.init_state(jax.random.key(0), spec=spec)
    assert_trees_equal(state.averaged, state.params)
