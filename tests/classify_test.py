"""Tests of cglo_jax/classify.py: the same procedure for every method, and exact accuracy."""

import dataclasses
import functools
import json
import re
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import create_config, create_dataset
from sklearn.metrics import top_k_accuracy_score

from cglo_jax import checkpoints, classify, codes, parallel, sample, train
from cglo_jax.config import METHODS
from cglo_jax.errors import UserError

TEST_SET = create_dataset(13, seed=1, split="test")
INDICES = np.arange(1200, dtype=np.int32) % 24


@pytest.fixture(scope="module")
def shared():
    """Images, an untrained generator and its codes."""
    dataset, config = create_dataset(), create_config()
    spec = train.create_spec(config, dataset)
    state = jax.jit(lambda key: train.init_state(key, spec=spec, n=24, dim=8))(
        jax.random.key(0)
    )
    # Codes far apart and lively weights: an untrained generator's images are all alike.
    lively = jax.tree.map(lambda p: 10 * p, state.params)
    model, _ = train.split_state(state.replace(params=lively))
    sampler = sample.create_sampler(model, dataset)
    created = classify.Shared(jax.random.key(1), dataset.images, sampler)
    return jax.tree.map(jnp.asarray, created)


def create_spec(method, **changes):
    """The spec of a method on one device, by default without crops and flips."""
    spec = classify.create_spec(create_config(), create_dataset(), method)
    generator = spec.sample.generator.clone(axis_name=None)
    changes = {"pad": 0, "flip": False, **changes}
    return dataclasses.replace(
        spec, sample=spec.sample._replace(generator=generator), **changes
    )


def create_batch(shared, spec, indices=INDICES, seed=2):
    keys = codes.example_keys(jax.random.key(seed), jnp.arange(len(indices)))
    create = jax.jit(functools.partial(classify.create_batch, spec=spec))
    return np.asarray(create(shared, keys, indices)), keys


def create_real(shared, indices=INDICES):
    """The images themselves, to the bit: XLA divides by 127.5 otherwise than NumPy."""
    real, _ = create_batch(shared, create_spec("baseline"), indices)
    expected = np.asarray(shared.images)[indices] / 127.5 - 1
    np.testing.assert_allclose(real, expected, atol=1e-6)
    return real


# The images of a step


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
    # Each replacement is another image of the same class, as `sample` draws it.
    key_new = jax.vmap(lambda key: jax.random.split(key, 3)[0])(keys)
    if method == "cglo":
        new, partners, _ = jax.jit(
            functools.partial(sample.synthesize, spec=spec.sample)
        )(shared.sampler, key_new, INDICES)
    else:
        partners, t, _ = sample.draw_pairs(
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


def test_all_methods_see_the_same_images_in_the_same_order(trained, monkeypatch):
    config, dataset, workdir = trained
    seen = {method: [] for method in METHODS}

    def compiled_step(spec, devices):
        def step(state, shared, batch):
            key = jax.random.key_data(shared.key)
            seen[spec.method] += [np.asarray(batch), np.asarray(key)]
            return state, {"loss": jnp.zeros(())}

        return step

    def init_state(key, *, spec):
        w = jax.random.normal(key, (3,))
        return classify.ClassifierState(jnp.zeros((), jnp.int32), {"w": w}, {}, {})

    def evaluate(state, *_):
        seen[method].append(np.asarray(state.params["w"]))
        return np.zeros((13, 3))

    monkeypatch.setattr(classify, "compiled_step", compiled_step)
    monkeypatch.setattr(classify, "init_state", init_state)
    monkeypatch.setattr(classify, "evaluate", evaluate)
    for method in METHODS:
        classify.run(config, workdir, (dataset, TEST_SET), method, 0)
        assert len(seen[method]) == 6 * 2 + 1
        for one, other in zip(seen["baseline"], seen[method], strict=True):
            np.testing.assert_array_equal(one, other)
    assert len({batch.tobytes() for batch in seen["baseline"]}) > 6


# The optimiser


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


# Accuracy


def test_top_k_by_hand():
    logits = np.array(
        [
            [9.0, 1.0, 2.0, 3.0],  # label first
            [9.0, 1.0, 2.0, 3.0],  # label last
            [9.0, 1.0, 2.0, 3.0],  # label second
            [5.0, 5.0, 1.0, 0.0],  # label ties with one other for the first place
        ]
    )
    labels = np.array([0, 1, 3, 1])
    accuracies = [classify.top_k_accuracy(logits, labels, k) for k in (1, 2, 3, 4, 5)]
    assert accuracies == [25.0, 75.0, 75.0, 100.0, 100.0]
    equal = np.zeros((6, 4))  # a classifier that knows nothing gets nothing for it
    labels = np.array([0, 1, 2, 3, 0, 1])
    assert classify.top_k_accuracy(equal, labels, 1) == 0
    assert classify.top_k_accuracy(equal, labels, 5) == 100
    assert classify.top_k_accuracy(np.full((6, 4), np.nan), labels, 5) == 0


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_equals_scikit_learn(k):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((200, 10)).astype(np.float32)
    labels = rng.integers(0, 10, 200)
    expected = 100 * top_k_accuracy_score(labels, logits, k=k, labels=range(10))
    ours = classify.top_k_accuracy(logits, labels, k)
    assert ours == pytest.approx(expected, rel=1e-12)
    assert 0 < ours < 100


@pytest.mark.parametrize("devices", [1, 4])
def test_evaluate_is_exact_with_a_ragged_last_batch(devices, monkeypatch):
    monkeypatch.setattr(classify, "_EVAL_BATCH", 5)  # 13 = 5 + 5 + 3 or 8 + 5
    spec = create_spec("baseline")
    model = classify.create_spec(create_config(), create_dataset(), "baseline").model
    state = jax.jit(functools.partial(classify.init_state, spec=spec))(
        jax.random.key(0)
    )
    devices = tuple(jax.local_devices()[:devices])
    state = parallel.replicate(state, devices)
    logits = classify.evaluate(state, model, TEST_SET, devices)
    assert logits.shape == (13, 3)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    x = TEST_SET.images.astype(np.float32) / 127.5 - 1
    expected, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert len({row.tobytes() for row in logits}) == 13


# Training


def test_four_devices_compute_what_one_computes():
    dataset, config = create_dataset(), create_config()
    spec = classify.create_spec(config, dataset, "baseline")
    model = {"params": {}, "batch_stats": {}, "z": np.zeros((24, 0), np.float32)}
    host = classify.Shared(
        jax.random.key(1), dataset.images, sample.create_sampler(model, dataset)
    )
    order = train.BatchOrder(jax.random.key(2), np.arange(24), 8)
    losses, states = [], []
    for n in (1, 4):
        devices = tuple(jax.local_devices()[:n])
        step = classify.compiled_step(spec, devices)
        shared = parallel.replicate(host, devices)
        state = parallel.create_replicated(
            classify.init_state, devices, jax.random.key(0), spec=spec
        )
        for s in range(10):
            batch = parallel.shard(order(s), devices)
            state, metrics = step(state, shared, batch)
            losses.append(float(metrics["loss"]))
        states.append(jax.device_get(state))
    np.testing.assert_allclose(losses[:10], losses[10:], rtol=1e-4)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-2, atol=1e-4), *states
    )
    assert int(states[0].step) == 10
    assert len(set(losses[:10])) == 10


def read_state(directory):
    with checkpoints.Checkpoints(directory / "checkpoints", read_only=True) as saved:
        step = saved.latest_step()
        return step, saved.restore_model(step)


def test_a_run_resumes_bit_for_bit_and_is_not_done_twice(trained, monkeypatch, capsys):
    config, dataset, workdir = trained
    run = functools.partial(classify.run, config, workdir, (dataset, TEST_SET))
    run("cglo", 0)
    directory = workdir / "classifiers" / "cglo-0"
    whole = (directory / "result.json").read_bytes()
    lines = (workdir / "metrics.jsonl").read_bytes()
    step, params = read_state(directory)
    directory.rename(workdir / "classifiers" / "whole")

    call = train.BatchOrder.__call__

    def interrupted(self, step):
        if step == 5:
            raise KeyboardInterrupt
        return call(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(train.BatchOrder, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("cglo", 0)
    assert not (directory / "result.json").exists()
    assert read_state(directory)[0] == 3
    capsys.readouterr()
    run("cglo", 0)
    printed = capsys.readouterr()
    assert "resumed at step 3 of 6" in printed.err
    assert (directory / "result.json").read_bytes() == whole
    assert (workdir / "metrics.jsonl").read_bytes() == lines
    resumed_step, resumed = read_state(directory)
    assert resumed_step == step == 6
    jax.tree.map(np.testing.assert_array_equal, params, resumed)

    # A finished result is taken as it is, by the same configuration only.
    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(classify, "_train", refuse)
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    run("cglo", 0)
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*")} == before
    result = json.loads(whole)
    printed = capsys.readouterr().out
    assert f"classify cglo seed 0: done before, top-1 {result['top1']:.2f}" in printed
    config.classify.lr = 0.25
    with pytest.raises(UserError, match=r"classify\.lr=0\.1, this call has 0\.25: "):
        run("cglo", 0)
    config.classify.lr = 0.1
    for text in ("{", "{}", '{"top1": "x", "top5": 1}', "[]"):
        (directory / "result.json").write_text(text)
        with pytest.raises(UserError, match=r"result\.json is damaged: remove it"):
            run("cglo", 0)


def test_a_result_says_what_it_is(trained):
    config, dataset, workdir = trained
    for path in workdir.glob("checkpoints/*"):
        path.rename(workdir / "moved")  # a baseline needs no cGLO
    classify.run(config, workdir, (dataset, TEST_SET), "baseline", 0)
    directory = workdir / "classifiers" / "baseline-0"
    result = json.loads((directory / "result.json").read_text())
    assert (result["method"], result["seed"], result["steps"]) == ("baseline", 0, 6)
    assert result["n_test"] == 13
    assert result["top1"] * 13 / 100 == pytest.approx(round(result["top1"] * 13 / 100))
    assert result["top5"] == 100  # of three classes
    assert result["dataset"] == {
        "name": "digits",
        "num_classes": 3,
        "n_labelled": 24,
        "n_unlabelled": 0,
        "transductive": False,
        "test_split": "test",
        "class_names": ["class 0", "class 1", "class 2"],
    }
    assert result["fingerprint"]["images"] == dataset.digest
    assert result["fingerprint"]["test_images"] == TEST_SET.digest
    assert result["fingerprint"]["classify.lr"] == 0.1
    records = [
        json.loads(line)
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    tags = {"stage": "classify", "method": "baseline", "seed": 0}
    mine = [r for r in records if r["stage"] == "classify"]
    assert all(r.items() > tags.items() for r in mine)
    assert [r["step"] for r in mine] == [1, 2, 3, 4, 5, 6]


def test_a_cglo_that_is_missing_or_not_trained_to_its_end_is_refused(trained):
    config, dataset, workdir = trained
    run = functools.partial(classify.run, config, workdir, (dataset, TEST_SET), "cglo")
    with pytest.raises(UserError, match=r"seed-1: run --stage=train first"):
        run(1)
    (train.checkpoint_dir(workdir, 0) / "60").rename(workdir / "moved")
    with pytest.raises(UserError, match=r"step 30 of 60: run --stage=train first"):
        run(0)
    assert not (workdir / "classifiers" / "cglo-0").exists()


def test_environment_tells_versions_and_devices(monkeypatch):
    environment = classify.environment(jax.local_devices()[:2])
    assert environment["devices"] == 2
    assert environment["backend"] == "cpu"
    assert environment["jax"] == jax.__version__
    assert environment["numpy"] == np.__version__
    assert re.fullmatch(r"3\.\d+\.\d+", environment["python"])
    assert environment.keys() >= {"jaxlib", "flax", "optax", "device"}
    assert re.fullmatch(r"[0-9a-f]{7,40}|unknown", environment["commit"])

    def no_git(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", no_git)
    assert classify.environment(jax.local_devices())["commit"] == "unknown"
