"""Algorithm 1: learns the generator, the weak classifier and one code per training image."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cglo_jax import cglo, codes, loop, parallel
from cglo_jax.checkpoints import restore_latest_model
from cglo_jax.config import check_fingerprint, train_fingerprint
from cglo_jax.data import Dataset
from cglo_jax.errors import UserError
from cglo_jax.order import Schedule


@functools.cache
def compiled_step(
    spec: cglo.StepSpec, labelled: bool, devices: tuple[jax.Device, ...]
) -> Any:
    """Returns the pmapped `cglo.train_step`, the same object for the same arguments (one compilation)."""
    return parallel.pmap_step(
        functools.partial(cglo.train_step, spec=spec, labelled=labelled), devices
    )


def check_weights(config: ConfigDict) -> None:
    """Checks that the perceptual loss has its weights, before anything is read or written.

    Raises:
      UserError: they would be random and the config does not ask for that.
    """
    fields = config.reconstruction
    if fields.loss == "perceptual" and not fields.random_weights:
        raise UserError(
            "the perceptual loss needs VGG-16 weights, which this version cannot load yet: use "
            "--config.reconstruction.loss=laplacian, or --config.reconstruction.random_weights=True "
            "for a VGG-16 with random weights"
        )


def create_vgg_params(config: ConfigDict, spec: cglo.StepSpec) -> dict[str, Any]:
    """Returns the perceptual network's parameters, {} if the loss does not use it.

    Raises:
      UserError: see `check_weights`.
    """
    if spec.vgg is None:
        return {}
    check_weights(config)
    return spec.vgg.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]


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
      UserError: the checkpoints there are another run's, or a loss is not finite.
    """
    devices = tuple(parallel.choose_devices(config.devices))
    spec = cglo.create_spec(config, dataset)
    key_init, key_step, key_order = jax.random.split(jax.random.key(seed), 3)
    vgg = create_vgg_params(config, spec)
    shared = parallel.replicate(
        cglo.Shared(key_step, dataset.images, dataset.labels, vgg), devices
    )
    schedule = Schedule(config, dataset, key_order, devices)
    state = parallel.create_replicated(
        cglo.init_state,
        devices,
        key_init,
        spec=spec,
        n=len(dataset.ids),
        dim=config.latent.dim,
    )

    def take_step(
        state: cglo.TrainState, step: int
    ) -> tuple[cglo.TrainState, dict[str, Any]]:
        labelled, indices = schedule(step)
        step_fn = compiled_step(spec, labelled, devices)
        return step_fn(state, shared, parallel.shard(indices, devices))

    return loop.run_steps(
        take_step,
        state,
        split_state=split_state,
        merge_state=merge_state,
        devices=devices,
        checkpoint_dir=checkpoint_dir(workdir, seed),
        meta={"fingerprint": train_fingerprint(config), "images": dataset.digest},
        workdir=workdir,
        tags={"stage": "train", "seed": seed},
        total=schedule.total,
        steps_per_epoch=schedule.steps_per_epoch,
        images_per_step=schedule.batch_size,
        log_every=config.train.log_every_steps,
        save_every=config.train.checkpoint_every_epochs * schedule.steps_per_epoch,
    )


def checkpoint_dir(workdir: pathlib.Path, seed: int) -> pathlib.Path:
    """Returns where the cGLO of `seed` has its checkpoints."""
    return workdir / "checkpoints" / f"seed-{seed}"


def restore_model(
    config: ConfigDict, workdir: pathlib.Path, dataset: Dataset, seed: int
) -> tuple[dict[str, Any], int]:
    """Restores the newest generator and codes, nothing else.

    Returns:
      ({params, batch_stats, z}, step), NumPy arrays; code i belongs to image i of `dataset`.

    Raises:
      UserError: there is no checkpoint, or it is of another configuration or other images.
    """
    directory = checkpoint_dir(workdir, seed)
    model, meta, step = restore_latest_model(directory, "run --stage=train first")
    check_fingerprint(meta["fingerprint"], train_fingerprint(config), str(directory))
    check_fingerprint(
        {"images": meta["images"]}, {"images": dataset.digest}, str(directory)
    )
    return model, step
