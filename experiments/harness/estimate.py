"""How long the missing runs of a table will take: measured where runs like them are, else assumed."""

import functools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import algorithm
from cglo_jax.cglo.algorithm import total_steps
from cglo_jax.classifier import step
from cglo_jax.classifier.methods import METHODS
from cglo_jax.config.defaults import get_config
from cglo_jax.data.dataset import Dataset
from cglo_jax.models.vgg import VGG16
from experiments.harness import runs, work
from experiments.harness.runs import Choice, Run


class Assumed(NamedTuple):
    """What a scale's runs are assumed to need where none was measured."""

    flops_per_s: float  # that a step reaches
    step_s: float  # the least a step takes, however small
    start_s: float  # to compile and test


# Two cores; a modern GPU with bfloat16; with float32.
ASSUMED = {
    "cpu": Assumed(5e10, 0.005, 8.0),
    "hour": Assumed(5e13, 0.005, 30.0),
    "paper": Assumed(2e13, 0.005, 60.0),
}


class Images(NamedTuple):
    """What counts of a data set, known without reading it: channels, classes, test images."""

    side: int
    channels: int
    classes: int
    test: int


IMAGES = {
    "digits": Images(8, 1, 10, 797),
    "cifar10": Images(32, 3, 10, 10000),
    "cifar100": Images(32, 3, 100, 10000),
    "caltech_birds2011": Images(0, 3, 200, 5794),
}


def outline(config: ConfigDict) -> Dataset:
    """Returns a data set as large as the one that `config.dataset` names, of one black image."""
    d, images = config.dataset, IMAGES[config.dataset.name]
    classes = d.classes or images.classes
    test = images.test * classes // images.classes
    hidden = d.unlabelled + (test if d.transductive else 0)
    side = d.crop or d.size or images.side
    labels = np.repeat(np.arange(classes, dtype=np.int32), d.shots)
    return Dataset(
        images=np.zeros((1, side, side, images.channels), np.uint8),
        labels=np.concatenate([labels, np.full(hidden, -1, np.int32)]),
        class_names=("",) * classes,
        ids=("",) * (len(labels) + hidden),
        split="",
    )


def steps_of(runs_of_group: Sequence[Run]) -> int:
    """Returns the steps of a group's classifiers and its cGLO, as a measure of its work."""
    c = runs_of_group[0].config
    cglo = total_steps(c, outline(c)) if runs_of_group[0].cglo else 0
    classifier = c.classify.epochs * c.classify.steps_per_epoch
    return cglo + classifier * len(runs_of_group)


@functools.cache
def forward_flops(model: nn.Module, *shapes: tuple[int, ...]) -> float:
    """Counts the floating-point operations of a network for one image, without compiling it.

    Args:
      shapes: of its inputs, without the batch axis.
    """
    inputs = [jax.ShapeDtypeStruct((1, *shape), jnp.float32) for shape in shapes]
    constants = {} if isinstance(model, VGG16) else {"train": False}
    init = functools.partial(model.init, **constants)
    variables = jax.eval_shape(init, jax.random.key(0), *inputs)
    apply = jax.jit(functools.partial(model.apply, **constants))
    return apply.lower(variables, *inputs).cost_analysis()["flops"]


def _image(dataset: Dataset) -> tuple[int, ...]:
    return dataset.images.shape[1:]


def _generator_flops(spec: Any, config: ConfigDict) -> float:
    shapes = [(config.latent.dim,)]
    if length := spec.noise_length(config.latent.dim):
        shapes.append((length,))
    return forward_flops(spec, *shapes)


def classifier_flops(run: Run) -> float:
    """Counts those of a classifier's step; a backward pass counts as two forward passes."""
    c, dataset = run.config.classify, outline(run.config)
    spec = step.create_spec(
        run.config, *dataset.side_and_channels, dataset.num_classes, METHODS[run.method]
    )
    forward = forward_flops(spec.model, _image(dataset))
    per_image = 3 * forward
    if run.method == "mixmatch":  # K guesses, then 1 + K images to train on
        k = run.config.mixmatch.augmentations
        per_image = (k + 3 * (1 + k)) * forward
    if run.cglo:
        per_image += _generator_flops(spec.sample.generator, run.config)
    return per_image * min(c.batch_size, dataset.num_labelled)


def cglo_flops(run: Run) -> float:
    """Counts those of a cGLO's step: generator, perceptual network, weak classifier."""
    dataset = outline(run.config)
    spec = algorithm.create_spec(run.config, dataset)
    per_image = 3 * _generator_flops(spec.generator, run.config)
    loss = spec.reconstruction
    if loss.vgg is not None:  # of G(z), back through it to G(z), and of x
        side, cache_gb = _image(dataset)[0], run.config.reconstruction.cache_gb
        cached = loss.feature_shapes(len(dataset.ids), side, cache_gb)
        passes = 2 if cached else 3
        per_image += passes * forward_flops(loss.vgg, (side, side, 3))
    if spec.gamma and run.config.weak_classifier.input == "image":
        per_image += 3 * forward_flops(spec.weak_classifier, _image(dataset))
    return per_image * min(run.config.train.batch_size, dataset.num_labelled)


class Measured(NamedTuple):
    """Median seconds per step of runs at a scale on this device.

    Attributes:
      classifiers: {(method, batch size, profile): seconds}.
      cglos: {(batch size, profile): seconds}.
    """

    classifiers: Mapping[tuple[str, int, str], float]
    cglos: Mapping[tuple[int, str], float]


def measured(choice: Choice) -> Measured:
    """Reads what the finished runs took.

    Processes beside each other on a CPU share it: their seconds are divided by their number.
    """
    device = jax.local_devices()[0].device_kind
    defaults, classifiers, cglos = get_config(), {}, {}
    for line in runs.finished().values():
        used, profile = line["environment"], line["profile"]
        if (line["scale"], line["data"], used["device"]) != (*choice[:2], device):
            continue
        sharing = line["jobs"] if used["backend"] == "cpu" else 1
        batches = {
            section: line["changes"].get(
                f"{section}.batch_size", defaults[section].batch_size
            )
            for section in ("classify", "train")
        }
        if line["fresh"]:
            per_step = line["wall_s"] / line["steps"] / sharing
            key = (line["method"], batches["classify"], profile)
            classifiers.setdefault(key, []).append(per_step)
        if line.get("train_wall_s"):
            per_step = line["train_wall_s"] / line["train_steps"] / sharing
            cglos.setdefault((batches["train"], profile), []).append(per_step)
    return Measured(
        {key: statistics.median(v) for key, v in classifiers.items()},
        {key: statistics.median(v) for key, v in cglos.items()},
    )


def seconds(missing: Sequence[Run], choice: Choice) -> tuple[list[float], int]:
    """Estimates each run's seconds; a cGLO counts to the first run that needs it,
    if no finished run had it.

    Returns:
      (seconds of every run, how many of them rest on what is assumed, at least in part).
    """
    guess = ASSUMED[choice.scale]

    def assume(flops: float, steps: int) -> float:
        return guess.start_s + steps * max(guess.step_s, flops / guess.flops_per_s)

    known = measured(choice)
    trained = {line.get("cglo") for line in runs.finished().values()}
    assumed, times = 0, []
    for run in missing:
        c, profile = run.config, run.choice.profile
        steps = c.classify.epochs * c.classify.steps_per_epoch
        per_step = known.classifiers.get((run.method, c.classify.batch_size, profile))
        guessed = per_step is None
        time = assume(classifier_flops(run), steps) if guessed else per_step * steps
        if run.cglo and run.cglo not in trained:
            trained.add(run.cglo)
            steps = total_steps(c, outline(c))
            per_step = known.cglos.get((c.train.batch_size, profile))
            if per_step is None:
                guessed = True
                time += assume(cglo_flops(run), steps)
            else:
                time += per_step * steps
        times.append(time)
        assumed += guessed
    return times, assumed


def duration(seconds: float) -> str:
    """Returns it in minutes or hours, for people."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def plan(choice: Choice, chosen: Sequence[Run], devices: int) -> list[str]:
    """Returns lines for people: done and missing runs, and how long the missing ones will take.

    Args:
      devices: that are used beside each other; processes on one CPU share it, it is one.
    """
    missing = runs.missing(chosen)
    times, assumed = seconds(missing, choice)
    of_run = {
        (run.row, run.column, run.seed): time
        for run, time in zip(missing, times, strict=True)
    }
    left = {run.digest for run in missing}
    cells: dict[tuple[str, str], list[Run]] = {}
    for run in chosen:
        cells.setdefault((run.row, run.column), []).append(run)
    lines = []
    for (row, column), members in cells.items():
        todo = [run for run in members if run.digest in left]
        # What equals a run above takes no time here.
        time = sum(of_run.get((row, column, run.seed), 0.0) for run in todo)
        text = f"{row} {column}: {len(members) - len(todo)} done, {len(todo)} missing"
        lines.append(f"{text}, {duration(time)}" if todo else text)
    return [*lines, *_summary(choice, chosen, missing, (sum(times), assumed), devices)]


def _summary(choice, chosen, missing, time, devices) -> list[str]:
    done = len({run.digest for run in chosen}) - len(missing)
    trained = {line.get("cglo") for line in runs.finished().values()}
    cglos = len({run.cglo for run in missing if run.cglo} - trained)
    devices = min(devices, max(1, len(work.group(missing))))
    total, assumed = time
    text = (
        f"{done} runs are done, {len(missing)} missing (equal ones counted once), with "
        f"{cglos} new cGLOs: about {duration(total / devices)} on {devices} device(s)"
    )
    if not assumed:
        return [text]
    guess = ASSUMED[choice.scale]
    why = (
        f"{assumed} of them, or their cGLOs, were not measured here at their batch size and "
        f"profile: {guess.start_s:g} s to start each, then "
        f"their operations at an assumed {guess.flops_per_s / 1e9:,.0f} GFLOP/s, "
        f"{1000 * guess.step_s:g} ms a step or more"
    )
    return [text, why]
