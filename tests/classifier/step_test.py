"""Tests of cglo_jax/classifier/step.py: the images and the step of every method."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.cglo import algorithm, codes, sampling
from cglo_jax.classifier import step as classifier
from cglo_jax.classifier.methods import METHODS
from cglo_jax.data.pixels import Canvas
from cglo_jax.stages import classify, train
from cglo_jax.training import parallel
from cglo_jax.training.batches import BatchOrder
from tests.helpers import tiny
from tests.helpers.tiny import create_config, create_dataset

INDICES = np.arange(1200, dtype=np.int32) % 24


@pytest.fixture(scope="module")
def shared():
    """Images, an untrained generator and its codes."""
    dataset, config = create_dataset(), create_config()
    spec = algorithm.create_spec(config, dataset)
    state = jax.jit(lambda key: algorithm.init_state(key, spec=spec, n=24, dim=8))(
        jax.random.key(0)
    )
    # Codes far apart and lively weights: an untrained generator's images are all alike.
    lively = jax.tree.map(lambda p: 10 * p, state.params)
    model, _ = train.split_state(state.replace(params=lively))
    sampler = tiny.create_sampler(model, dataset)
    created = classifier.Shared(
        jax.random.key(1), dataset.images, None, dataset.class_weights, sampler
    )
    return jax.tree.map(jnp.asarray, created)


def create_spec(method, **changes):
    """The spec of a method on one device, by default without crops and flips."""
    dataset = create_dataset()
    spec = classifier.create_spec(
        create_config(),
        *dataset.side_and_channels,
        dataset.num_classes,
        METHODS[method],
    )
    generator = spec.sample.generator.clone(axis_name=None)
    changes = {"pad": 0, "flip": False, **changes}
    return dataclasses.replace(
        spec, sample=spec.sample._replace(generator=generator), **changes
    )


def create_batch(shared, spec, indices=INDICES, seed=2):
    keys = codes.example_keys(jax.random.key(seed), jnp.arange(len(indices)))
    create = jax.jit(functools.partial(classifier.create_batch, spec=spec))
    x, targets = create(shared, keys, indices, key_batch=jax.random.key(seed + 100))
    if spec.method != METHODS["mixup"]:
        labels = np.asarray(shared.sampler.labels)[indices]
        np.testing.assert_array_equal(targets, np.eye(3)[labels])
    return np.asarray(x), keys


def create_real(shared, indices=INDICES):
    """The images themselves, to the bit: XLA divides by 127.5 otherwise than NumPy."""
    real, _ = create_batch(shared, create_spec("baseline"), indices)
    expected = np.asarray(shared.images)[indices] / 127.5 - 1
    np.testing.assert_allclose(real, expected, atol=1e-6)
    return real


@pytest.mark.parametrize(("method", "p"), [("cglo", 0.5), ("pixelmix", 0.2)])
def test_images_are_replaced_one_by_one_with_probability_p(shared, method, p):
    spec = create_spec(method, replace_probability=p)
    x, keys = create_batch(shared, spec)
    real = create_real(shared)
    replaced = (x != real).any((1, 2, 3))
    deviation = np.sqrt(p * (1 - p) / len(INDICES))
    assert replaced.mean() == pytest.approx(p, abs=5 * deviation)
    per_image = replaced.reshape(-1, 24).mean(0)
    assert 0 < per_image.min()
    assert per_image.max() < 1
    # Each replacement is another image of the same class, as `synthesis` draws it.
    key_new = jax.vmap(lambda key: jax.random.split(key, 3)[0])(keys)
    if method == "cglo":
        new, partners, _ = jax.jit(
            functools.partial(sampling.synthesize, spec=spec.sample)
        )(shared.sampler, key_new, INDICES)
    else:
        partners, t, _ = sampling.draw_pairs(
            shared.sampler, key_new, INDICES, spec=spec.sample
        )
        t = np.asarray(t)[:, None, None, None]
        other = create_real(shared, np.asarray(partners))
        new = (1 - t) * real + t * other
        assert set(np.unique(t)) == set(np.float32([0.1, 0.2, 0.3, 0.4]))
    labels = np.asarray(shared.sampler.labels)
    np.testing.assert_array_equal(labels[np.asarray(partners)], labels[INDICES])
    np.testing.assert_allclose(x[replaced], np.asarray(new)[replaced], atol=1e-5)
    np.testing.assert_array_equal(x[~replaced], real[~replaced])


def test_every_image_can_be_replaced(shared):
    x, _ = create_batch(shared, create_spec("pixelmix", replace_probability=1.0))
    real = create_real(shared)
    assert (x != real).any((1, 2, 3)).all()


@pytest.mark.parametrize("method", ["cglo", "pixelmix"])
def test_probability_zero_is_the_baseline_bit_for_bit(shared, method):
    changes = {"pad": 1, "flip": True}
    baseline, _ = create_batch(shared, create_spec("baseline", **changes))
    other, _ = create_batch(
        shared, create_spec(method, replace_probability=0.0, **changes)
    )
    np.testing.assert_array_equal(baseline, other)
    assert (baseline != create_real(shared)).any()


@pytest.mark.parametrize("augment_synthetic", [True, False])
def test_synthetic_images_are_augmented_if_asked_for(shared, augment_synthetic):
    create = functools.partial(
        create_spec, "pixelmix", augment_synthetic=augment_synthetic
    )
    plain, _ = create_batch(shared, create())
    augmented, _ = create_batch(shared, create(flip=True))
    replaced = (plain != create_real(shared)).any((1, 2, 3))
    flipped = (plain != augmented).any((1, 2, 3))
    assert 0.3 < flipped[~replaced].mean() < 0.7
    assert (0.3 < flipped[replaced].mean() < 0.7) == augment_synthetic
    if not augment_synthetic:
        np.testing.assert_array_equal(plain[replaced], augmented[replaced])


def torch_sgd(params, grads, rates, momentum, weight_decay):
    """torch.optim.SGD(nesterov=True) as its documentation has it, in float64."""
    params = {k: p.astype(np.float64) for k, p in params.items()}
    buffers = {}
    for grad, lr in zip(grads, rates, strict=True):
        for k, p in params.items():
            g = grad[k] + weight_decay * p
            buffers[k] = momentum * buffers[k] + g if k in buffers else g
            params[k] = p - lr * (g + momentum * buffers[k])
    return params


def optimiser_case():
    """Returns (spec, params, gradients, rates) with a drop after the third step."""
    spec = create_spec(
        "baseline",
        lr=0.1,
        lr_drops=((3, 0.2), (5, 0.2)),
        momentum=0.9,
        weight_decay=0.05,
    )
    rng = np.random.default_rng(0)

    def draw():
        return {
            "kernel": rng.standard_normal((3, 4)).astype(np.float32),
            "bias": rng.standard_normal(4).astype(np.float32),
        }

    rates = [0.1, 0.1, 0.1, 0.02, 0.02, 0.004, 0.004]
    return spec, draw(), [draw() for _ in rates], rates


def run_optax(spec, params, grads):
    opt_state = spec.tx.init(params)
    for grad in grads:
        updates, opt_state = spec.tx.update(grad, opt_state, params)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
    return params


def test_sgd_is_nesterov_with_weight_decay_as_in_torch():
    spec, params, grads, rates = optimiser_case()
    ours = run_optax(spec, params, grads)
    expected = torch_sgd(params, grads, rates, 0.9, 0.05)
    for name in params:
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-5, atol=1e-6)


def test_sgd_equals_torch_itself():
    torch = pytest.importorskip("torch")
    spec, params, grads, rates = optimiser_case()
    tensors = {k: torch.nn.Parameter(torch.tensor(p)) for k, p in params.items()}
    sgd = torch.optim.SGD(
        tensors.values(), lr=0.1, momentum=0.9, weight_decay=0.05, nesterov=True
    )
    for grad, lr in zip(grads, rates, strict=True):
        sgd.param_groups[0]["lr"] = lr
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(grad[name])
        sgd.step()
    ours = run_optax(spec, params, grads)
    for name, tensor in tensors.items():
        theirs = tensor.detach().numpy()
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-5, atol=1e-6)


def test_real_images_are_random_crops_of_whole_ones(shared):
    """Every window of the image, upright, none beyond its end, all equally often."""
    whole = np.arange(9 * 12, dtype=np.uint8).reshape(9, 12, 1)
    rows = np.stack([whole, whole])
    canvas = Canvas(rows, np.array([11, 11], np.int32), np.array([False, True]))
    shared = shared._replace(canvas=jax.tree.map(jnp.asarray, canvas))
    windows = [whole[r : r + 8, c : c + 8] for r in range(2) for c in range(4)]
    indices = np.arange(800, dtype=np.int32) % 2
    x, _ = create_batch(shared, create_spec("baseline"), indices)
    x = np.rint((x + 1) * 127.5).astype(np.uint8)
    x[indices == 1] = x[indices == 1].swapaxes(1, 2)
    found = np.array([[(image == w).all() for w in windows] for image in x])
    np.testing.assert_array_equal(found.sum(1), 1)
    counts = np.stack([found[indices == i].sum(0) for i in (0, 1)])
    assert counts.min() > 25  # of 50 expected
    again, _ = create_batch(shared, create_spec("baseline"), indices, seed=3)
    assert np.any(again != x)


def test_class_weights_weigh_the_loss():
    dataset = create_dataset()
    spec = classifier.create_spec(
        create_config(),
        *dataset.side_and_channels,
        dataset.num_classes,
        METHODS["baseline"],
    )
    model = {"params": {}, "batch_stats": {}, "z": np.zeros((24, 0), np.float32)}
    sampler = tiny.create_sampler(model, dataset)
    devices = tuple(jax.local_devices()[:1])
    step = classify.compiled_step(spec, devices)
    indices = parallel.shard(np.arange(3, dtype=np.int32), devices)  # one of each class
    losses = []
    for weights in np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 2, 4]]):
        shared = classifier.Shared(
            jax.random.key(1), dataset.images, None, weights, sampler
        )
        state = parallel.create_replicated(
            classifier.init_state, devices, jax.random.key(0), spec=spec
        )
        _, metrics = step(state, parallel.replicate(shared, devices), indices)
        losses.append(float(metrics["loss"]))
    assert len({*losses}) == 4
    assert losses[3] == pytest.approx(np.dot(losses[:3], [1, 2, 4]), rel=1e-5)


def test_four_devices_compute_what_one_computes():
    dataset, config = create_dataset(), create_config()
    spec = classifier.create_spec(
        config, *dataset.side_and_channels, dataset.num_classes, METHODS["baseline"]
    )
    spec = dataclasses.replace(spec, lr=0.01)  # at .1 rounding is 2e-5 by then
    model = {"params": {}, "batch_stats": {}, "z": np.zeros((24, 0), np.float32)}
    sampler = tiny.create_sampler(model, dataset)
    host = classifier.Shared(
        jax.random.key(1), dataset.images, None, dataset.class_weights, sampler
    )
    order = BatchOrder(jax.random.key(2), np.arange(24), 8)
    losses, states = [], []
    for n in (1, 4):
        devices = tuple(jax.local_devices()[:n])
        step = classify.compiled_step(spec, devices)
        shared = parallel.replicate(host, devices)
        state = parallel.create_replicated(
            classifier.init_state, devices, jax.random.key(0), spec=spec
        )
        for s in range(20):
            batch = parallel.shard(order(s), devices)
            state, metrics = step(state, shared, batch)
            losses.append(float(metrics["loss"]))
        states.append(jax.device_get(state))
    np.testing.assert_allclose(losses[:20], losses[20:], rtol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-2, atol=1e-4), *states
    )
    assert int(states[0].step) == 20
    assert len(set(losses[:20])) == 20
