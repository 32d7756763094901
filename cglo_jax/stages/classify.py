"""The final classifier, trained with each augmentation method for the same steps (section 4.2)."""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo.algorithm import Params
from cglo_jax.cglo.sampling import create_sampler
from cglo_jax.classifier import mixmatch
from cglo_jax.classifier import step as classifier
from cglo_jax.classifier.methods import METHODS
from cglo_jax.config import fingerprint as fingerprints
from cglo_jax.config.fingerprint import check_fingerprint, classify_fingerprint
from cglo_jax.data.dataset import Dataset, batch_that_fits, to_float
from cglo_jax.errors import UserError
from cglo_jax.files import ownership
from cglo_jax.pretrained import networks
from cglo_jax.pretrained.networks import NO_WEIGHTS, RANDOM, Origin
from cglo_jax.process import numerics
from cglo_jax.report import model_cards
from cglo_jax.training import loop, parallel
from cglo_jax.training.batches import BatchOrder
from cglo_jax.training.checkpoints import Checkpoints
from cglo_jax.workdir import trained
from cglo_jax.workdir.results import (
    confusion,
    describe_data,
    environment,
    read_result,
    result_path,
    top_k_accuracy,
)
from cglo_jax.workdir.trained import TrainedCglo

Body = tuple[Params, Params]  # parameters and batch statistics


@functools.cache
def compiled_step(
    spec: classifier.StepSpec,
    devices: tuple[jax.Device, ...],
    constants: mixmatch.MixMatch | None = None,
) -> parallel.MappedStep:
    """Returns the mapped step, the same object for the same arguments (one compilation).

    It is `step.train_step`, or `mixmatch.train_step` if its constants are given.
    """
    if constants is None:
        step = functools.partial(classifier.train_step, spec=spec)
    else:
        step = functools.partial(mixmatch.train_step, spec=spec, mixmatch=constants)
    return parallel.MappedStep(step, devices)


@functools.cache
def compiled_logits(model: nn.Module, devices: tuple[jax.Device, ...]) -> Callable:
    """Returns pmapped (variables, uint8 images [D, B, H, W, C]) -> logits [D * B, K]."""

    def logits(variables: Params, images: jax.Array) -> jax.Array:
        return model.apply(variables, to_float(images), train=False)[0]

    return parallel.pmap_batch(logits, devices)


def evaluate(
    state: classifier.ClassifierState,
    model: nn.Module,
    dataset: Dataset,
    devices: Sequence[jax.Device],
) -> np.ndarray:
    """Returns logits float32 [n, K] of all images; the last batch is padded, the padding cut off.

    The averaged parameters are used if the state has them.
    """
    params = state.averaged or state.params
    variables = {"params": params, "batch_stats": state.batch_stats}
    compute = compiled_logits(model, tuple(devices))
    n = len(dataset.images)
    size = min(n, batch_that_fits(dataset.images.shape[1]))
    size = -(-size // len(devices)) * len(devices)

    def logits(images: np.ndarray) -> np.ndarray:
        return np.asarray(compute(variables, parallel.shard(images, devices)))

    return parallel.map_batches(logits, dataset.images, size)


@numerics.with_ours
def run(
    config: ConfigDict,
    workdir: pathlib.Path,
    data: tuple[Dataset, Dataset],
    method: str,
    seed: int,
) -> None:
    """Trains and tests one classifier, unless its result is there; resumes a cut-off one.

    Writes classifiers/<method>-<seed>/result.json and checkpoints/ beside it.

    Args:
      data: training and test images, see `data.dataset.load`.
      method: one of `methods.METHODS`.
      seed: the seed of everything drawn here, and of the cGLO that is used.

    Raises:
      UserError: the existing classifier belongs to another run, a method needs a fully trained
        cGLO and there is none, or a loss or logit is not finite.
    """
    train_set, test_set = data
    name = f"classify {method} seed {seed}"
    path = result_path(workdir, method, seed)
    body, origin = load_body(config)
    fingerprint = {
        **classify_fingerprint(config),
        "images": train_set.digest,
        "test_images": test_set.digest,
        "weights": origin.digest,
    }
    if path.exists() and (
        done := _find_result(config, path, data, method, fingerprint)
    ):
        print(f"{name}: done before, top-1 {done['top1']:.2f} %", flush=True)
        return
    devices = tuple(parallel.choose_devices(config.devices))
    side, channels = train_set.side_and_channels
    spec = classifier.create_spec(
        config, side, channels, train_set.num_classes, METHODS[method]
    )
    cglo = None
    if spec.method.from_cglo:
        cglo = _restore_complete(config, workdir, data, seed)
    _set_aside_old(workdir, method, seed, fingerprint)
    state, lr_scale = _train(
        config, workdir, train_set, spec, cglo, body, method, seed, devices, fingerprint
    )
    logits = evaluate(state, spec.model, test_set, devices)
    if not np.isfinite(logits).all():
        raise UserError(f"{name}: its logits are not finite: use a lower classify.lr")
    top1, top5 = (top_k_accuracy(logits, test_set.labels, k) for k in (1, 5))
    result = {
        "method": method,
        "seed": seed,
        "top1": top1,
        "top5": top5,
        "n_test": len(test_set.labels),
        "steps": int(state.step),
        "fingerprint": fingerprint,
        "dataset": describe_data(config, train_set, test_set),
        "classifier_weights": origin.text,
        **_describe_cglo(cglo, lr_scale),
        "environment": environment(devices),
        "confusion": confusion(logits, test_set.labels),
    }
    if parallel.is_first_process():
        model_cards.write_classifier_card(config, workdir, result)
        below = path.relative_to(workdir).as_posix()
        ownership.write(workdir, below, json.dumps(result, indent=1) + "\n")
    text = f"top-1 {top1:.2f} %, top-5 {top5:.2f} % of {len(test_set.labels)} images"
    print(f"{name}: {text}", flush=True)


def _find_result(
    config: ConfigDict,
    path: pathlib.Path,
    data: tuple[Dataset, Dataset],
    method: str,
    fingerprint: dict[str, Any],
) -> dict[str, Any] | None:
    """Returns the result of an existing classifier, None if its training must continue.

    Raises:
      UserError: the result belongs to another run.
    """
    train_set, test_set = data
    result = read_result(path)
    numbers = (
        f"{result['dataset'].get('n_labelled')} labelled and {result['n_test']} test images "
        f"then, {train_set.num_labelled} and {len(test_set.labels)} now"
    )
    saved = result["fingerprint"]
    check_fingerprint(
        saved,
        fingerprint,
        str(path.parent),
        numbers,
        may_grow=("train", *_may_grow(config, method)),
        cannot_grow=_cannot_grow(config, method),
    )
    return None if _must_go_on(saved, fingerprint, method) else result


def _must_go_on(saved: Any, now: Any, method: str) -> bool:
    """Whether a classifier has too few epochs, or was trained with images of a shorter cGLO."""
    longer = fingerprints.find_longer(saved, now)
    return "classify" in longer or ("train" in longer and METHODS[method].from_cglo)


def _cannot_grow(config: ConfigDict, method: str) -> str:
    """Says why a method's classifiers cannot be trained for more epochs, "" if they can."""
    if method != "mixmatch" or not config.mixmatch.ramp:
        return ""
    return (
        "mixmatch cannot be trained for more epochs, as the weight of its unlabelled loss grows over "
        "a share of all steps (mixmatch.ramp): use the old value, or another --workdir"
    )


def _may_grow(config: ConfigDict, method: str) -> tuple[str, ...]:
    """Returns what may have more epochs than when a classifier's checkpoint was saved."""
    of_cglo = () if METHODS[method].from_cglo else ("train",)
    return of_cglo if _cannot_grow(config, method) else (*of_cglo, "classify")


def _set_aside_old(workdir: pathlib.Path, method: str, seed: int, now: Any) -> None:
    """Sets a classifier aside that was trained with images of the cGLO at an earlier epoch."""
    if not METHODS[method].from_cglo:
        return
    path = result_path(workdir, method, seed)
    saved = _read_fingerprint(path)
    parallel.barrier("old classifiers are read")
    if "train" in fingerprints.find_longer(saved, now):
        both = ("train", "classify")
        check_fingerprint(saved, now, str(path.parent), may_grow=both)
        if parallel.is_first_process():
            # On the disk where they are.
            joined = "/" if path.parent.parent.is_symlink() else "."
            names = (f"classifiers{joined}old-{i}" for i in itertools.count(1))
            places = (workdir / name for name in names)
            taken = (place / path.parent.name for place in places)
            old = next(place for place in taken if not os.path.lexists(place))
            ownership.move(workdir, path.parent, old)
            tags = {"stage": "classify", "method": method, "seed": seed}
            _move_metrics(workdir, old, tags)
            print(
                f"classify {method} seed {seed}: the existing classifier was trained with images "
                f"of the cGLO at epoch {saved['train.epochs']}, which is now trained for "
                f"{now['train.epochs']} epochs: training the classifier again; the old one was "
                f"moved to {old}",
                file=sys.stderr,
                flush=True,
            )
        parallel.barrier("old classifiers are set aside")


def _move_metrics(
    workdir: pathlib.Path, to: pathlib.Path, tags: dict[str, Any]
) -> None:
    with ownership.Log(workdir, "metrics.jsonl") as log:
        name = (to / log.path.name).relative_to(workdir).as_posix()
        ownership.write_lines(workdir, name, log.find(tags))
        log.drop(tags, after_step=0)


def _read_fingerprint(path: pathlib.Path) -> dict[str, Any]:
    """Returns the fingerprint of a result or of the checkpoints beside it, {} if there are none."""
    if path.exists():
        return read_result(path)["fingerprint"]
    with Checkpoints(path.parent / "checkpoints", read_only=True) as saved:
        step = saved.latest_step()
        return {} if step is None else saved.meta(step).get("fingerprint", {})


def check_longer(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Checks that all classifiers of a work directory can be trained for the epochs of `config`.

    Raises:
      UserError: a classifier cannot.
    """
    now = classify_fingerprint(config)
    for method in METHODS:
        if not (why := _cannot_grow(config, method)):
            continue
        for path in workdir.glob(f"classifiers/{method}-*/result.json"):
            saved = read_result(path)["fingerprint"]
            if "classify" in fingerprints.find_longer(saved, now):
                kept = {
                    name: saved.get(name)
                    for name in now
                    if name.startswith("classify.")
                }
                check_fingerprint(
                    kept, {n: now[n] for n in kept}, str(path.parent), cannot_grow=why
                )


def find_old(config: ConfigDict, workdir: pathlib.Path) -> list[str]:
    """Returns the classifiers, as "cglo-0", that have seen images of the cGLO when it was shorter."""
    now, old = classify_fingerprint(config), []
    for path in sorted(workdir.glob("classifiers/*/result.json")):
        with contextlib.suppress(UserError):  # one that reads it will say so
            result = read_result(path)
            longer = fingerprints.find_longer(result["fingerprint"], now)
            if "train" in longer and METHODS[result["method"]].from_cglo:
                old.append(path.parent.name)
    return old


def check_cglo(
    config: ConfigDict,
    workdir: pathlib.Path,
    data: tuple[Dataset, Dataset],
    seed: int,
) -> None:
    """Checks that the cGLO of a seed is there if a classifier needs it, before any is trained.

    Raises:
      UserError: one is not, or it is not fully trained or has learnt the test images.
    """
    if any(
        _is_to_train(result_path(workdir, method, seed), config, method)
        for method in config.classify.methods
        if METHODS[method].from_cglo
    ):
        _restore_complete(config, workdir, data, seed)


def _is_to_train(path: pathlib.Path, config: ConfigDict, method: str) -> bool:
    if not path.exists():
        return True
    saved = read_result(path)["fingerprint"]
    return _must_go_on(saved, classify_fingerprint(config), method)


def load_body(config: ConfigDict) -> tuple[Body | None, Origin]:
    """Returns the (params, batch_stats) a classifier starts from but for its head, and their origin.

    They are None without weights trained on other images.

    Raises:
      UserError: they cannot be had, see `networks.load`.
    """
    weights = config.classify.weights
    if weights == "random":
        return None, RANDOM
    tensors, provenance = networks.load("resnet50", weights)
    return networks.resnet_variables(tensors), provenance.summary


def _restore_complete(
    config: ConfigDict, workdir: pathlib.Path, data: tuple[Dataset, Dataset], seed: int
) -> TrainedCglo:
    """Restores a fully trained cGLO that has not learnt the test images."""
    train_set, test_set = data
    cglo = trained.restore(config, workdir, train_set, seed, complete=True)
    trained.check_unseen(test_set, cglo.generator_ids)
    return cglo


def _describe_cglo(cglo: TrainedCglo | None, lr_scale: float) -> dict[str, Any]:
    """Returns the fields of a result that depend on the cGLO; None if the method needs none."""
    if cglo is None:
        weights, digest, added, scales = NO_WEIGHTS.text, NO_WEIGHTS.digest, 0, {}
    else:
        notes = cglo.meta["notes"]
        weights, digest, added = notes["weights"], cglo.meta["weights"], notes["added"]
        scales = {"cglo": cglo.meta["rate"]}
        if "generator_rate" in notes:
            scales = {"cglo": notes["generator_rate"], "codes": cglo.meta["rate"]}
    return {
        "perceptual_weights": weights,
        "perceptual_digest": digest,
        "codes_added_later": added,
        "rates_times": {"classifier": lr_scale, **scales},
    }


def _train(
    config: ConfigDict,
    workdir: pathlib.Path,
    dataset: Dataset,
    spec: classifier.StepSpec,
    cglo: TrainedCglo | None,
    body: Body | None,
    method: str,
    seed: int,
    devices: tuple[jax.Device, ...],
    fingerprint: dict[str, Any],
) -> tuple[classifier.ClassifierState, float]:
    """Returns the state after the last step, and the factor of the learning rate."""
    c, n = config.classify, dataset.num_labelled
    # The same keys for every method: they differ in what a step makes of its images.
    keys = jax.random.split(jax.random.key(seed), 4)
    key_init, key_step, key_order, key_pool = keys
    semi_supervised = spec.method.semi_supervised
    constants = mixmatch.MixMatch.create(config) if semi_supervised else None
    images = dataset.images if semi_supervised else dataset.images[:n]
    z = cglo.z if cglo else np.zeros((len(dataset.ids), 0))
    variables = cglo.variables if cglo else {"params": {}, "batch_stats": {}}
    sampler = create_sampler(variables, z, dataset.labels, dataset.num_classes)
    size = parallel.per_device(c.batch_size, n, devices, "classify.batch_size")
    order = BatchOrder(key_order, np.arange(n), size)
    if semi_supervised:
        pool_order = BatchOrder(key_pool, mixmatch.choose_pool(dataset, size), size)

    def choose(lr_scale: float) -> parallel.Choose:
        scaled = dataclasses.replace(spec, lr=spec.lr * lr_scale)
        step_fn = compiled_step(scaled, devices, constants)

        def choose_step(step: int) -> tuple[parallel.MappedStep, np.ndarray]:
            batch = order(step)
            if semi_supervised:
                batch = np.stack([batch, pool_order(step)], 1)
            return step_fn, batch

        return choose_step

    job = loop.Job(
        init=functools.partial(classifier.create_state, key_init, spec, body, devices),
        choose=choose,
        shared=classifier.Shared(
            key_step, images, dataset.canvas, dataset.class_weights, sampler
        ),
        split_state=classifier.split_state,
        merge_state=classifier.merge_state,
        devices=devices,
        checkpoint_dir=result_path(workdir, method, seed).parent / "checkpoints",
        meta={
            "fingerprint": fingerprint,
            "names": list(dataset.class_names),
            "shape": list(dataset.images.shape[1:]),
            "conversion": dataset.conversion._asdict(),
        },
        workdir=workdir,
        tags={"stage": "classify", "method": method, "seed": seed},
        section="classify",
        total=c.epochs * c.steps_per_epoch,
        steps_per_epoch=c.steps_per_epoch,
        images_per_step=size,
        log_every=c.log_every_steps,
        save_every=c.checkpoint_every_epochs * c.steps_per_epoch,
        print_done=False,  # `run` prints the accuracy
        may_grow=_may_grow(config, method),
        cannot_grow=_cannot_grow(config, method),
        **loop.settings(config),
    )
    return loop.run_steps(job)
