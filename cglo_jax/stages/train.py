"""Algorithm 1: learns the generator, the weak classifier and one code per training image."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import algorithm, code_init, codes
from cglo_jax.cglo.algorithm import Params
from cglo_jax.config.fingerprint import train_fingerprint
from cglo_jax.data.dataset import Dataset
from cglo_jax.models.vgg import TAPS, VGG16
from cglo_jax.pretrained import networks
from cglo_jax.pretrained.networks import NO_WEIGHTS, RANDOM, Origin
from cglo_jax.process import numerics
from cglo_jax.report import model_cards
from cglo_jax.stages import previews
from cglo_jax.training import loop, parallel
from cglo_jax.workdir import trained


@functools.cache
def compiled_step(
    spec: algorithm.StepSpec, labelled: bool, devices: tuple[jax.Device, ...]
) -> parallel.MappedStep:
    """Returns the mapped `train_step`, the same object for the same arguments (one compilation)."""
    return parallel.MappedStep(
        functools.partial(algorithm.train_step, spec=spec, labelled=labelled), devices
    )


def load_vgg(config: ConfigDict) -> tuple[Params, Origin]:
    """Returns the perceptual network's parameters and their origin.

    They are {} if the loss does not use it.

    Raises:
      UserError: they cannot be had, see `networks.load`.
    """
    weights = config.reconstruction.weights
    if config.reconstruction.loss != "perceptual":
        return {}, NO_WEIGHTS
    layers = tuple(algorithm.layers_that_count(config))
    if weights == "random":
        vgg = VGG16(taps=(*TAPS, *layers))
        variables = vgg.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        return variables["params"], RANDOM
    tensors, provenance = networks.load(networks.vgg16_with(layers), weights)
    return networks.vgg16_params(tensors), provenance.summary


def load_weights(config: ConfigDict) -> tuple[tuple[Params, Params | None], Origin]:
    """Returns the networks that training only reads, and the origin of both.

    Returns:
      ((parameters of the perceptual network, variables of the ResNet that codes start
      from), origin), see `load_vgg` and `code_init.load_resnet`.
    """
    vgg, of_vgg = load_vgg(config)
    resnet, of_resnet = code_init.load_resnet(config)
    return (vgg, resnet), code_init.join_origins(
        of_vgg, of_resnet, config.latent.init_network
    )


def scale_layers(
    config: ConfigDict, spec: algorithm.StepSpec, dataset: Dataset, vgg: Params
) -> algorithm.StepSpec:
    """Returns the constants with the layers' weights that `reconstruction.unit_activations` asks for."""
    if not config.reconstruction.unit_activations:
        return spec
    loss = spec.reconstruction.divide_by_activations(dataset.images, vgg)
    return dataclasses.replace(spec, reconstruction=loss)


def split_state(state: algorithm.TrainState) -> tuple[Params, Params]:
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


def merge_state(model: Params, rest: Params) -> algorithm.TrainState:
    """Inverse of `split_state`."""
    return algorithm.TrainState(
        step=rest["step"],
        params={"generator": model["params"], "weak_classifier": rest["params"]},
        batch_stats={
            "generator": model["batch_stats"],
            "weak_classifier": rest["batch_stats"],
        },
        opt_state=rest["opt_state"],
        codes=codes.Codes(z=model["z"], opt_state=rest["code_opt_state"]),
    )


@numerics.with_ours
def run(
    config: ConfigDict, workdir: pathlib.Path, dataset: Dataset, seed: int
) -> algorithm.TrainState:
    """Trains one cGLO to the last epoch, from its newest checkpoint if it has one.

    Args:
      dataset: the training images, see `data.dataset.load`.
      seed: the seed of everything drawn here; checkpoints go to `trained.checkpoint_dir(workdir, seed)`.

    Returns:
      The state after the last step.

    Raises:
      UserError: the checkpoints there are another run's, a loss is not finite, weights
        cannot be had, or codes have too few dimensions for `latent.init`.
    """
    devices = tuple(parallel.choose_devices(config.devices))
    spec = algorithm.create_spec(config, dataset)
    key_init, key_step, key_order = jax.random.split(jax.random.key(seed), 3)
    (vgg, resnet), origin = load_weights(config)
    spec = scale_layers(config, spec, dataset, vgg)
    schedule = algorithm.Schedule(config, dataset, key_order, devices)
    z = code_init.draw(config, key_init, dataset, resnet)
    ids = trained.hash_ids(dataset.ids)

    def choose(lr_scale: float) -> parallel.Choose:
        scaled = spec.scale_lr(lr_scale)
        steps = [compiled_step(scaled, labelled, devices) for labelled in (False, True)]

        def choose_step(step: int) -> tuple[parallel.MappedStep, np.ndarray]:
            labelled, indices = schedule(step)
            return steps[labelled], indices

        return choose_step

    def split_with_images(state: algorithm.TrainState) -> tuple[Params, Params]:
        model, rest = split_state(state)
        return {**model, "ids": ids, "labels": dataset.labels}, rest

    job = loop.Job(
        init=functools.partial(
            parallel.create_replicated,
            algorithm.init_state,
            devices,
            key_init,
            z,
            spec=spec,
            n=len(dataset.ids),
            dim=config.latent.dim,
        ),
        choose=choose,
        shared=algorithm.create_shared(
            key_step, dataset, vgg, config.reconstruction.cache_gb, spec=spec
        ),
        complete_shared=functools.partial(algorithm.compute_features, spec=spec),
        split_state=split_with_images,
        merge_state=merge_state,
        devices=devices,
        checkpoint_dir=trained.checkpoint_dir(workdir, seed),
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
        section="train",
        total=schedule.total,
        steps_per_epoch=schedule.steps_per_epoch,
        images_per_step=schedule.batch_size,
        log_every=config.train.log_every_steps,
        save_every=config.train.checkpoint_every_epochs * schedule.steps_per_epoch,
        **loop.settings(config),
        kinds=schedule.kinds,
        may_grow=("train",),
        compare_images=lambda model: trained.compare_images(model["ids"], ids),
        draw=lambda state: previews.draw(config, dataset, state),
    )
    state, _ = loop.run_steps(job)
    if parallel.is_first_process():
        model_cards.write_generator_card(config, workdir, dataset, seed)
    return state
