"""Tests of cglo_jax/stages/classify.py: the same procedure for every method, and exact accuracy."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.classifier import step as classifier
from cglo_jax.classifier.methods import METHODS
from cglo_jax.data.colours import Conversion
from cglo_jax.errors import UserError
from cglo_jax.pretrained import networks
from cglo_jax.stages import classify
from cglo_jax.training import checkpoints, parallel
from cglo_jax.training.batches import BatchOrder
from cglo_jax.workdir import trained as restoring
from tests.helpers.tiny import assert_trees_equal, create_config, create_dataset

TEST_SET = create_dataset(13, seed=1, split="test")


@pytest.mark.parametrize("devices", [1, 4])
def test_evaluate_is_exact_with_a_ragged_last_batch(devices, monkeypatch):
    # 13 = 5 + 5 + 3 or 8 + 5
    monkeypatch.setattr(classify, "batch_that_fits", lambda side: 5)
    spec = classifier.create_spec(create_config(), 8, 1, 3, METHODS["baseline"])
    state = jax.jit(functools.partial(classifier.init_state, spec=spec))(
        jax.random.key(0)
    )
    devices = tuple(jax.local_devices()[:devices])
    state = parallel.replicate(state, devices)
    logits = classify.evaluate(state, spec.model, TEST_SET, devices)
    assert logits.shape == (13, 3)
    nothing = jax.tree.map(jnp.zeros_like, state.params)
    swapped = state.replace(params=nothing, averaged=state.params)
    of_averaged = classify.evaluate(swapped, spec.model, TEST_SET, devices)
    np.testing.assert_array_equal(of_averaged, logits)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    x = TEST_SET.images.astype(np.float32) / 127.5 - 1
    expected, _ = jax.jit(lambda v, x: spec.model.apply(v, x, train=False))(
        variables, x
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert len({row.tobytes() for row in logits}) == 13


# Training


@pytest.mark.slow  # finetune_test.py has a run that does
def test_a_resnet_starts_from_the_given_body_and_a_head_of_its_own():
    config = create_config(**{"classify.network": "resnet50"})
    spec = classifier.create_spec(config, 32, 1, 3, METHODS["mixmatch"])
    devices = tuple(jax.local_devices()[:2])
    key = jax.random.key(3)
    plain = classifier.create_state(key, spec, None, devices)
    body = {k: v for k, v in jax.device_get(plain.params).items() if k != "head"}
    ones, fours = (
        jax.tree.map(lambda a, c=c: np.full_like(a, c), tree)
        for tree, c in ((body, 1), (jax.device_get(plain.batch_stats), 4))
    )
    state = classifier.create_state(key, spec, (ones, fours), devices)
    assert jax.tree.structure(state) == jax.tree.structure(plain)
    for leaf in jax.tree.leaves({k: v for k, v in state.params.items() if k != "head"}):
        np.testing.assert_array_equal(leaf, 1)
        assert len(leaf.sharding.device_set) == 2
    assert {float(a.min()) for a in jax.tree.leaves(state.batch_stats)} == {4.0}
    assert_trees_equal(state.averaged, state.params)
    assert state.params["head"]["kernel"].shape == (2048, 3)
    kernels = (s.params["head"]["kernel"] for s in (state, plain))
    np.testing.assert_array_equal(*kernels)


def test_a_missing_cglo_is_found_before_anything_is_trained(trained, tmp_path):
    config, dataset, workdir = trained
    data = (dataset, TEST_SET)
    classify.check_cglo(config, workdir, data, 0)
    with pytest.raises(UserError, match=r"seed-1: run --stage=train first"):
        classify.check_cglo(config, workdir, data, 1)
    config.classify.methods = ("baseline", "pixelmix")
    classify.check_cglo(config, tmp_path / "empty", data, 0)


def test_without_weights_there_is_no_body_and_missing_ones_are_named(tmp_path):
    assert classify.load_body(create_config()) == (None, networks.RANDOM)
    missing = str(tmp_path / "none.safetensors")
    config = create_config(
        **{"classify.network": "resnet50", "classify.weights": missing}
    )
    with pytest.raises(UserError, match=r"none\.safetensors"):
        classify.load_body(config)


def test_all_methods_see_the_same_images_in_the_same_order(trained, monkeypatch):
    config, dataset, workdir = trained
    seen, pool = {method: [] for method in METHODS}, []

    def compiled_step(spec, devices, constants):
        def step(state, shared, batch):
            assert (constants is not None) == spec.method.semi_supervised
            if constants:
                pool.append(np.asarray(batch[..., 1]))
                batch = batch[..., 0]
            key = jax.random.key_data(shared.key)
            seen[method] += [np.asarray(batch), np.asarray(key)]
            return state, {"loss": jnp.zeros(())}

        return step

    def init_state(key, *, spec):
        w = jax.random.normal(key, (3,))
        step = jnp.zeros((), jnp.int32)
        return classifier.ClassifierState(step, {"w": w}, {}, {}, {})

    def evaluate(state, *_):
        seen[method].append(np.asarray(state.params["w"]))
        return np.zeros((13, 3))

    monkeypatch.setattr(classify, "compiled_step", compiled_step)
    monkeypatch.setattr(classifier, "init_state", init_state)
    monkeypatch.setattr(classify, "evaluate", evaluate)
    config.check_memory = False  # the step cannot be traced
    for method in METHODS:
        classify.run(config, workdir, (dataset, TEST_SET), method, 0)
        assert len(seen[method]) == 6 * 2 + 1
        for one, other in zip(seen["baseline"], seen[method], strict=True):
            np.testing.assert_array_equal(one, other)
    assert len({batch.tobytes() for batch in seen["baseline"]}) > 6
    # The hidden labels are of the same images, in another order.
    assert len({batch.tobytes() for batch in [*pool, *seen["baseline"][:-1:2]]}) == 12
    np.testing.assert_array_equal(np.sort(np.ravel(pool[:3])), np.arange(24))


def read_state(directory):
    with checkpoints.Checkpoints(directory / "checkpoints", read_only=True) as saved:
        step = saved.latest_step()
        return step, saved.restore_model(step)


@pytest.mark.parametrize(
    "method", ["cglo", pytest.param("mixmatch", marks=pytest.mark.slow)]
)
def test_a_run_resumes_bit_for_bit(trained, method, monkeypatch, capsys):
    config, dataset, workdir = trained
    if method == "mixmatch":
        dataset = create_dataset(unlabelled=9)
    run = functools.partial(classify.run, config, workdir, (dataset, TEST_SET))
    run(method, 0)
    directory = workdir / "classifiers" / f"{method}-0"
    whole = (directory / "result.json").read_bytes()
    lines = (workdir / "metrics.jsonl").read_bytes()
    step, params = read_state(directory)
    directory.rename(workdir / "classifiers" / "whole")

    call = BatchOrder.__call__

    def interrupted(self, step):
        if step == 5:
            raise KeyboardInterrupt
        return call(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(BatchOrder, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(method, 0)
    assert not (directory / "result.json").exists()
    assert read_state(directory)[0] == 3
    capsys.readouterr()
    run(method, 0)
    printed = capsys.readouterr()
    assert "resumed at step 3 of 6" in printed.err
    assert (directory / "result.json").read_bytes() == whole
    assert (workdir / "metrics.jsonl").read_bytes() == lines
    resumed_step, resumed = read_state(directory)
    assert resumed_step == step == 6
    assert_trees_equal(params, resumed)
    assert ("averaged" in params) == (method == "mixmatch")


def test_a_finished_result_is_taken_as_it_is_by_the_same_configuration_only(
    trained, monkeypatch, capsys
):
    config, dataset, workdir = trained
    run = functools.partial(classify.run, config, workdir, (dataset, TEST_SET))
    run("baseline", 0)
    directory = workdir / "classifiers" / "baseline-0"
    result = json.loads((directory / "result.json").read_text())

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(classify, "_train", refuse)
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    run("baseline", 0)
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*")} == before
    printed = capsys.readouterr().out
    assert (
        f"classify baseline seed 0: done before, top-1 {result['top1']:.2f}" in printed
    )
    config.classify.lr = 0.25
    with pytest.raises(UserError, match=r"classify\.lr=0\.1, this call has 0\.25: "):
        run("baseline", 0)
    config.classify.lr = 0.1
    other = dataclasses.replace(TEST_SET, ids=TEST_SET.ids[::-1])
    n = len(TEST_SET.labels)
    match = rf"other test images .* \(24 labelled and {n} test images then, 24 and {n} now\): use"
    with pytest.raises(UserError, match=match):
        classify.run(config, workdir, (dataset, other), "baseline", 0)
    without = {k: v for k, v in result.items() if k != "fingerprint"}
    for text in ("{", "{}", '{"top1": "x", "top5": 1}', "[]", json.dumps(without)):
        (directory / "result.json").write_text(text)
        match = r"result\.json cannot be used \(.*\): move this file away"
        with pytest.raises(UserError, match=match):
            run("baseline", 0)


def test_a_result_says_what_it_is(trained):
    config, dataset, workdir = trained
    for path in workdir.glob("checkpoints/*"):
        path.rename(workdir / "moved")  # a baseline needs no cGLO
    conversion = Conversion("#000000", 12, True)
    near = dataclasses.replace(TEST_SET, near_copies=(("a.jpg", "b.png"),))
    dataset = dataclasses.replace(dataset, conversion=conversion)
    classify.run(config, workdir, (dataset, near), "baseline", 0)
    directory = workdir / "classifiers" / "baseline-0"
    result = json.loads((directory / "result.json").read_text())
    assert (result["method"], result["seed"], result["steps"]) == ("baseline", 0, 6)
    assert result["n_test"] == 13
    assert result["top1"] * 13 / 100 == pytest.approx(round(result["top1"] * 13 / 100))
    assert result["top5"] == 100  # of three classes
    right = sum(n for label, predicted, n in result["confusion"] if label == predicted)
    assert right == round(result["top1"] * 13 / 100)
    of_label = [sum(n for k, _, n in result["confusion"] if k == c) for c in range(3)]
    assert of_label == result["dataset"]["test_counts"]
    assert result["dataset"] == {
        "name": "digits",
        "num_classes": 3,
        "n_labelled": 24,
        "n_unlabelled": 0,
        "transductive": False,
        "test_split": "test",
        "class_weights": False,
        "class_names": ["class 0", "class 1", "class 2"],
        "train_counts": [8, 8, 8],
        "test_counts": [5, 4, 4],
        "near_copies": 1,
        "near_copies_shown": [["a.jpg", "b.png"]],
    }
    _, meta, _ = checkpoints.restore_latest_model(directory / "checkpoints", "")
    assert Conversion(**meta["conversion"]) == conversion
    assert result["fingerprint"]["images"] == dataset.digest
    assert result["fingerprint"]["test_images"] == TEST_SET.digest
    assert result["fingerprint"]["classify.lr"] == 0.1
    card = (directory / "README.md").read_text()
    assert f"| top-1 accuracy | {result['top1']:.2f} " in card
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
    (restoring.checkpoint_dir(workdir, 0) / "60").rename(workdir / "moved")
    with pytest.raises(UserError, match=r"step 30 of 60: run --stage=train first"):
        run(0)
    assert not (workdir / "classifiers" / "cglo-0").exists()


def test_logits_that_are_not_finite_are_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr(classify, "_train", lambda *_: (None, 1.0))
    logits = np.zeros((13, 3), np.float32)
    logits[12, 2] = np.nan
    monkeypatch.setattr(classify, "evaluate", lambda *_: logits)
    data = (create_dataset(), TEST_SET)
    message = (
        "classify baseline seed 0: its logits are not finite: use a lower classify.lr"
    )
    with pytest.raises(UserError, match=message):
        classify.run(create_config(), tmp_path, data, "baseline", 0)
    assert not (tmp_path / "classifiers" / "baseline-0" / "result.json").exists()
