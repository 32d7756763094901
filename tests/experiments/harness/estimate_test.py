"""Tests of experiments/harness/estimate.py: operations by hand, measured times, what a table would take."""

import json

import jax
import numpy as np
import pytest

from cglo_jax.cglo.algorithm import total_steps
from cglo_jax.data import dataset
from cglo_jax.models.weak_classifier import WeakClassifier
from cglo_jax.models.wide_resnet import WideResNet
from experiments.harness import estimate, runs
from experiments.harness.runs import Choice
from experiments.paper_tables import TABLE1, TABLE3

DIGITS = Choice("cpu", "digits", seeds=(0,))


@pytest.fixture(autouse=True)
def _no_results(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "paper.jsonl")
    monkeypatch.setattr(runs, "TUNED", tmp_path / "tuned.jsonl")


def planned(choice: Choice = DIGITS, table=TABLE3) -> dict[str, runs.Run]:
    return {run.row: run for run in runs.expand(table, choice)[0]}


def wide_resnet_multiplications(depth: int, width: int) -> int:
    """Of the convolutions of a WRN on an RGB image of 32 pixels; those of 3x3 without the padding.

    A 3x3 convolution reads 3n - 2 of the n rows around its n outputs.
    """
    taps = {n: (3 * n - 2) ** 2 for n in (32, 16, 8)}
    total, channels = 3 * 16 * taps[32], 16
    for group, side in enumerate((32, 16, 8)):
        out = 16 * width << group
        for block in range((depth - 4) // 6):
            # At stride 2 the last row reads one row of padding.
            first = (3 * side - 1) ** 2 if group and not block else taps[side]
            total += channels * out * first + out * out * taps[side]
            if channels != out:
                total += channels * out * side * side
            channels = out
    return total + channels * 100


@pytest.mark.parametrize(("depth", "width"), [(10, 2), (16, 4)])
def test_operations_by_hand(depth, width):
    counted = estimate.forward_flops(WideResNet(100, depth, width), (32, 32, 3))
    # Normalising and activating come on top of it.
    by_hand = 2 * wide_resnet_multiplications(depth, width)
    assert by_hand < counted < 1.1 * by_hand


def test_a_step_is_three_passes():
    by_row = planned(table=TABLE1, choice=DIGITS)
    c = by_row["Baseline"].config.classify
    model = WideResNet(10, c.depth, c.width, c.dropout, axis_name="data")
    step = 3 * 50 * estimate.forward_flops(model, (8, 8, 1))
    assert estimate.classifier_flops(by_row["Baseline"]) == pytest.approx(step)
    assert estimate.classifier_flops(by_row["Cutout"]) == pytest.approx(step)
    assert estimate.classifier_flops(by_row["MixMatch"]) == pytest.approx(step * 11 / 3)
    assert estimate.classifier_flops(by_row["cGLO"]) > step


def test_the_weak_classifier_counts_if_it_sees_images():
    by_row = planned()
    spec = WeakClassifier(10, 64, axis_name="data")
    step = 3 * 50 * estimate.forward_flops(spec, (8, 8, 1))
    both = estimate.cglo_flops(by_row["cGLO"])
    assert both - estimate.cglo_flops(by_row["no classifier"]) == pytest.approx(step)


def test_outlines_are_as_large_as_the_data():
    for changes in ({}, {"dataset.transductive": True, "dataset.unlabelled": 7}):
        config = runs.SETTINGS["cpu", "digits"].config()
        config.update_from_flattened_dict({**changes, "dataset.shots": 3})
        outline, (real, test_set) = (
            estimate.outline(config),
            dataset.load(config.dataset),
        )
        assert len(outline.ids) == len(real.ids)
        assert outline.num_labelled == real.num_labelled == 30
        assert outline.images.shape[1:] == real.images.shape[1:]
        assert len(outline.class_names) == len(real.class_names)
        assert total_steps(config, outline) == total_steps(config, real)
        assert len(test_set.ids) == estimate.IMAGES["digits"].test


def test_steps_of_a_group_count_those_on_unlabelled_images():
    by_row = planned()
    run, transductive = by_row["cGLO"], by_row["transductive"]
    t, classifier = run.config.train, estimate.steps_of([run._replace(cglo="")])
    assert estimate.steps_of([run]) == classifier + t.epochs * t.steps_per_epoch
    more = estimate.steps_of([transductive]) - estimate.steps_of([run])
    assert more == t.epochs * 16  # 797 test images in batches of 50
    transductive.config.train.steps_per_epoch = 0
    assert estimate.steps_of([transductive]) == classifier + t.epochs * (1 + 16)


def line(run: runs.Run, **changes) -> dict:
    return {
        "digest": run.digest,
        "scale": "cpu",
        "data": "digits",
        "profile": run.choice.profile,
        "changes": runs.changes(run.config),
        "method": run.method,
        "cglo": run.cglo,
        "jobs": 1,
        "fresh": True,
        "wall_s": 60.0,
        "steps": 100,
        "environment": {
            "backend": "cpu",
            "device": jax.local_devices()[0].device_kind,
        },
        **changes,
    }


def write(*lines: dict) -> None:
    runs.RESULTS.write_text("".join(json.dumps(one) + "\n" for one in lines))


def test_measured_seconds_by_hand():
    by_row, later = planned(), planned(DIGITS._replace(seeds=(1, 2, 3)))
    done = by_row["cGLO"]
    cglo = {"train_wall_s": 50.0, "train_steps": 200}
    far = {"backend": "gpu", "device": "H0"}
    write(
        line(done, **cglo),
        line(by_row["lerp"], wall_s=160.0, jobs=2, train_wall_s=None),
        line(by_row["Baseline"], wall_s=10.0),
        # Of no use: resumed, on other hardware, of other data.
        line(by_row["no noise"], wall_s=1.0, fresh=False),
        line(by_row["transductive"], wall_s=1.0, environment=far),
        line(later["cGLO"], wall_s=1.0, data="cifar100"),
    )
    c, t = done.config.classify, done.config.train
    steps, cglo_steps = c.epochs * c.steps_per_epoch, t.epochs * t.steps_per_epoch
    # cGLO: .6 and, of two processes, .8 s a step.
    todo = [later[name] for name in ("lerp", "Baseline", "no noise")]
    todo = [run._replace(cglo=run.cglo and str(i)) for i, run in enumerate(todo)]
    times, assumed = estimate.seconds([*todo, todo[0]], DIGITS)
    expected = [0.7 * steps + 0.25 * cglo_steps, 0.1 * steps]
    np.testing.assert_allclose(times, [*expected, expected[0], 0.7 * steps])
    assert assumed == 0


def test_other_batches_and_profiles_are_not_measured():
    by_row = planned()
    plain = by_row["lerp"]
    write(line(by_row["cGLO"], train_wall_s=50.0, train_steps=200))
    assert estimate.seconds([plain], DIGITS)[1] == 0
    for field in ("classify.batch_size", "train.batch_size"):
        config = plain.config.copy_and_resolve_references()
        config.update_from_flattened_dict({field: 13})
        assert estimate.seconds([plain._replace(config=config, cglo="")], DIGITS)[
            1
        ] == (field == "classify.batch_size")
        new = plain._replace(config=config, cglo="another")
        assert estimate.seconds([new], DIGITS)[1] == 1
    authors = DIGITS._replace(profile="authors")
    assert estimate.seconds([plain._replace(choice=authors)], DIGITS)[1] == 1
    assert estimate.measured(DIGITS) == (
        {("cglo", 50, "paper"): 0.6},
        {(50, "paper"): 0.25},
    )


def test_assumed_seconds_by_hand(monkeypatch):
    made_up = estimate.Assumed(flops_per_s=1e9, step_s=0.5, start_s=7.0)
    monkeypatch.setitem(estimate.ASSUMED, "cpu", made_up)
    run = planned()["Baseline"]
    steps = run.config.classify.epochs * run.config.classify.steps_per_epoch
    flops = estimate.classifier_flops(run)
    assert flops / 1e9 > 0.5
    assert estimate.seconds([run], DIGITS) == ([7.0 + steps * flops / 1e9], 1)
    slow = made_up._replace(flops_per_s=1e15)
    monkeypatch.setitem(estimate.ASSUMED, "cpu", slow)
    assert estimate.seconds([run], DIGITS) == ([7.0 + steps * 0.5], 1)


def test_the_plan_tells_what_is_done_and_what_is_not():
    chosen = list(planned().values())
    write(
        *(
            line(run, wall_s=36.0, train_wall_s=72.0, train_steps=100)
            for run in chosen[:2]
        )
    )
    text = "\n".join(estimate.plan(DIGITS, chosen, devices=3))
    assert "cGLO 5: 1 done, 0 missing\n" in text
    assert "lerp 5: 0 done, 1 missing, " in text
    assert (
        "2 runs are done, 4 missing (equal ones counted once), with 3 new cGLOs" in text
    )
    # Classifiers have 600 steps; lerp has the cGLO of cGLO, which is there.
    steps = [1000, 1000, 20 * (50 + 16)]
    total = sum(0.72 * s for s in steps) + 4 * 0.36 * 600
    assert f"about {total / 3 / 60:.1f} min on 3 device(s)" in text
    assert "not measured" not in text


def test_paper_scale_is_planned_without_compiling(compilations):
    chosen, _ = runs.expand(TABLE1, Choice("paper", "cifar100"))
    text = "\n".join(estimate.plan(Choice("paper", "cifar100"), chosen, 2))
    assert "0 runs are done, 120 missing" in text
    assert (
        "120 of them, or their cGLOs, were not measured here at their batch size"
        in text
    )
    assert compilations == []
