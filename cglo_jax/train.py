"""Algorithm 1: learns the generator, the weak classifier and one code per training image."""

import collections
import functools
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cglo_jax import cglo, codes, init_codes, loop, memory, parallel, pretrained
from cglo_jax.checkpoints import restore_latest_model
from cglo_jax.config import check_fingerprint, train_fingerprint
from cglo_jax.data import Dataset
from cglo_jax.errors import UserError
from cglo_jax.models.vgg import VGG16
from cglo_jax.order import Schedule
from cglo_jax.pretrained import NO_WEIGHTS, RANDOM, Origin
from cglo_jax.train_step import train_step


@functools.cache
def compiled_step(
    spec: cglo.StepSpec, labelled: bool, devices: tuple[jax.Device, ...]
) -> parallel.MappedStep:
    """Returns the mapped `train_step`, the same object for the same arguments (one compilation)."""
    return parallel.MappedStep(
        functools.partial(train_step, spec=spec, labelled=labelled), devices
    )


def load_vgg(config: ConfigDict) -> tuple[dict[str, Any], Origin]:
    """Returns the perceptual network's parameters and their origin.

    They are {} if the loss does not use it.

    Raises:
      UserError: they cannot be had, see `pretrained.load`.
    """
    weights = config.reconstruction.weights
    if config.reconstruction.loss != "perceptual":
        return {}, NO_WEIGHTS
    if weights == "random":
        variables = VGG16().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        return variables["params"], RANDOM
    tensors, provenance = pretrained.load("vgg16", weights)
    return pretrained.vgg16_params(tensors), provenance.summary


def load_weights(config: ConfigDict) -> tuple[tuple[Any, Any], Origin]:
    """Returns the networks that training only reads, and the origin of both.

    Returns:
      ((parameters of the perceptual network, variables of the ResNet-50 that codes start
      from), origin), see `load_vgg` and `init_codes.load_resnet`.
    """
    vgg, of_vgg = load_vgg(config)
    resnet, of_resnet = init_codes.load_resnet(config)
    return (vgg, resnet), init_codes.join_origins(of_vgg, of_resnet)


def split_state(state: cglo.TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a state into what sampling needs (generator and codes) and the rest."""
    model = {
        "params": state.params["generator"],
        "batch_stats": state.batch_stats["generator"],
        "z": state.codes.z,
    }
    rest = {
        "step": state.step,
        "params": state.params["weak_classifier"],
        "batch_stats": state.batch_stats["weak_classifier"],
        "opt_state": state.opt_state,
        "code_opt_state": state.codes.opt_state,
    }
    return model, rest


def merge_state(model: dict[str, Any], rest: dict[str, Any]) -> cglo.TrainState:
    """Inverse of `split_state`."""
    return cglo.TrainState(
        step=rest["step"],
        params={"generator": model["params"], "weak_classifier": rest["params"]},
        batch_stats={
            "generator": model["batch_stats"],
            "weak_classifier": rest["batch_stats"],
        },
        opt_state=rest["opt_state"],
        codes=codes.Codes(z=model["z"], opt_state=rest["code_opt_state"]),
    )


def hash_ids(ids: Sequence[str]) -> np.ndarray:
    """Returns uint8 [n, 16], the ids of n images in a form that is saved beside their codes.

    Copies of an image, such as a test image that is also a training image, are told apart.
    """
    seen: collections.Counter[str] = collections.Counter()
    digests = []
    for i in ids:
        digests.append(hashlib.sha256(f"{i}/{seen[i]}".encode()).digest()[:16])
        seen[i] += 1
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def run(
    config: ConfigDict, workdir: pathlib.Path, dataset: Dataset, seed: int
) -> cglo.TrainState:
    """Trains one cGLO, or goes on from its newest checkpoint, to the last epoch.

    Args:
      dataset: the training images, see `data.load`.
      seed: of everything drawn here; checkpoints go to `checkpoint_dir(workdir, seed)`.

    Returns:
      The state after the last step.

    Raises:
      UserError: the checkpoints there are another run's, a loss is not finite, weights
        cannot be had, or codes have too few dimensions for `latent.init`.
    """
    devices = tuple(parallel.choose_devices(config.devices))
    spec = cglo.create_spec(config, dataset)
    key_init, key_step, key_order = jax.random.split(jax.random.key(seed), 3)
    (vgg, resnet), origin = load_weights(config)
    cache_gb = config.reconstruction.cache_gb
    schedule = Schedule(config, dataset, key_order, devices)
    z = init_codes.draw(config, key_init, dataset, resnet)
    ids = hash_ids(dataset.ids)

    def split_with_ids(
        state: cglo.TrainState,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        model, rest = split_state(state)
        return {**model, "ids": ids}, rest

    reads = (key_step, dataset, vgg, cache_gb)
    outline = cglo.outline_shared(*reads, spec=spec)

    def create(rate: float) -> tuple[parallel.TakeSteps, cglo.TrainState]:
        scaled = cglo.scale_rates(spec, rate)

        def choose(step: int) -> tuple[parallel.MappedStep, np.ndarray]:
            labelled, indices = schedule(step)
            return compiled_step(scaled, labelled, devices), indices

        state = parallel.create_replicated(
            cglo.init_state,
            devices,
            key_init,
            z,
            spec=spec,
            n=len(dataset.ids),
            dim=config.latent.dim,
        )
        take_steps = parallel.create_take_steps(
            choose,
            lambda: cglo.create_shared(*reads, spec=spec),
            devices,
            config.steps_per_call,
            functools.partial(memory.check, config, "train", outline),
        )
        return take_steps, state

    job = loop.Job(
        create=create,
        split_state=split_with_ids,
        merge_state=merge_state,
        devices=devices,
        checkpoint_dir=checkpoint_dir(workdir, seed),
        meta={
            "fingerprint": train_fingerprint(config),
            "images": dataset.digest,
            "names": list(dataset.class_names),
            "shape": list(dataset.images.shape[1:]),
            "total": schedule.total,
            "weights": origin.digest,
            "n_labelled": dataset.num_labelled,
            "notes": {"weights": origin.text, "added": 0},
        },
        workdir=workdir,
        tags={"stage": "train", "seed": seed},
        total=schedule.total,
        steps_per_epoch=schedule.steps_per_epoch,
        images_per_step=schedule.batch_size,
        log_every=config.train.log_every_steps,
        save_every=config.train.checkpoint_every_epochs * schedule.steps_per_epoch,
        rollbacks=config.rollbacks,
        rollback_factor=config.rollback_factor,
    )
    return loop.run_steps(job)[0]


def checkpoint_dir(workdir: pathlib.Path, seed: int) -> pathlib.Path:
    """Returns where the cGLO of `seed` has its checkpoints."""
    return workdir / "checkpoints" / f"seed-{seed}"


def codes_dir(
    workdir: pathlib.Path, seed: int, dataset: Dataset, model: dict[str, Any]
) -> pathlib.Path:
    """Returns where codes of these images are that were fitted to the generator of `model`."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((model["params"], model["batch_stats"])):
        digest.update(np.ascontiguousarray(leaf))
    generator = f"generator-{digest.hexdigest()[:16]}"
    images = f"images-{dataset.digest[:16]}"
    return workdir / "codes" / f"seed-{seed}" / generator / images


def restore_newest(
    config: ConfigDict, directory: pathlib.Path, hint: str
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Restores the newest generator and codes in `directory`; `hint` says what makes them.

    Returns:
      ({params, batch_stats, z, ids}, meta, step), NumPy arrays.

    Raises:
      UserError: there is no checkpoint, it is of another configuration, or it has weights
        of other images in it and `external_weights` is False.
    """
    model, meta, step = restore_latest_model(directory, hint)
    check_fingerprint(meta["fingerprint"], train_fingerprint(config), str(directory))
    origin = Origin(meta["weights"], meta["notes"]["weights"])
    if origin.external and not config.external_weights:
        raise UserError(
            f"{directory} was trained with {origin.text}, but config.external_weights is "
            "False: use another --workdir"
        )
    return model, meta, step


def check_complete(
    directory: pathlib.Path, command: str, meta: dict[str, Any], step: int
) -> None:
    """Raises UserError unless `step` is the last one of what `command` makes."""
    if step < meta["total"]:
        raise UserError(
            f"{directory} is at step {step} of {meta['total']}: run {command} first, "
            "it goes on from there"
        )


def restore_model(
    config: ConfigDict,
    workdir: pathlib.Path,
    dataset: Dataset,
    seed: int,
    *,
    complete: bool = False,
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Restores the newest generator and codes, nothing else.

    The codes are those of training or, if the images are others now, those of `fit_codes`.

    Args:
      complete: whether to refuse what is not trained or fitted to its last step.

    Returns:
      ({params, batch_stats, z, ids}, meta, step): NumPy arrays; code i belongs to image i
      of `dataset`, ids are its `hash_ids`; meta is what was saved beside them.

    Raises:
      UserError: there is no checkpoint, or it is of another configuration or other images,
        or see `complete`.
    """
    directory, command = checkpoint_dir(workdir, seed), "--stage=train"
    model, meta, step = restore_newest(config, directory, f"run {command} first")
    if meta["images"] != dataset.digest:
        fitted = codes_dir(workdir, seed, dataset, model)
        command += " --config.train.only_codes=True"
        if not fitted.is_dir():
            raise UserError(
                f"{directory} was made with other images than this call reads: use another "
                f"--workdir or the old data, or fit codes for the new images: {command}"
            )
        directory = fitted
        model, meta, step = restore_newest(config, directory, f"run {command} first")
    if complete:
        check_complete(directory, command, meta, step)
    return model, meta, step


def check_unseen(test_set: Dataset, model: dict[str, Any]) -> None:
    """Checks that a generator whose codes were fitted later has not learnt the test images.

    Raises:
      UserError: it has, before other images were added.
    """
    learnt = {row.tobytes() for row in model.get("generator_ids", ())}
    seen = sum(row.tobytes() in learnt for row in hash_ids(test_set.ids))
    if seen:
        raise UserError(
            f"{seen} of the test images are images that the generator was trained on, before "
            "others were added: put what it shall be tested on into a folder test/, or train "
            "anew in another --workdir"
        )
