"""The stage train with `train.only_codes`: one code for each image that was added later.

Images that already have a code keep it; the codes of new images start uniformly on the sphere,
whatever `latent.init` was in training.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import algorithm, code_fit, codes
from cglo_jax.cglo.algorithm import Params, StepSpec
from cglo_jax.cglo.code_fit import FitState, Frozen
from cglo_jax.config.fingerprint import check_fingerprint
from cglo_jax.data.dataset import Dataset
from cglo_jax.errors import UserError
from cglo_jax.process import numerics
from cglo_jax.stages import train
from cglo_jax.training import draws, loop, parallel
from cglo_jax.training.batches import BatchOrder
from cglo_jax.training.checkpoints import Checkpoints, remove_all
from cglo_jax.workdir import trained
from cglo_jax.workdir.trained import TrainedCglo


@functools.cache
def compiled_step(
    spec: algorithm.StepSpec, use_weak: bool, devices: tuple[jax.Device, ...]
) -> parallel.MappedStep:
    """Returns the mapped `code_fit.fit_step`, the same object for the same arguments (one compilation)."""
    step = functools.partial(code_fit.fit_step, spec=spec, use_weak=use_weak)
    return parallel.MappedStep(step, devices)


@numerics.with_ours
def run(
    config: ConfigDict,
    workdir: pathlib.Path,
    data: tuple[Dataset, Dataset],
    seed: int,
) -> None:
    """Fits codes for the images that have none in the trained cGLO of `seed`, or continues a fit.

    Writes checkpoints to `trained.codes_dir`, from where `trained.restore` takes them; the
    checkpoints of training stay as they are. Codes that an earlier call fitted to the same generator
    are kept for the images that are still there, and its checkpoints are removed in the end.

    Args:
      data: all training images, old and new, and the test images, see `data.dataset.load`.

    Raises:
      UserError: no fully trained cGLO of this configuration, these classes and this size of
        images is there, it was trained on a test image, or a loss is not finite.
    """
    dataset, test_set = data
    name = f"codes seed {seed}"
    cglo = _restore_trained(config, workdir, dataset, seed)
    if cglo.meta["images"] == dataset.digest:
        print(f"{name}: no image was added: nothing to do", flush=True)
        return
    directory = trained.codes_dir(workdir, seed, dataset, cglo.variables)
    if trained.restore_finished(directory):
        print(f"{name}: done before", flush=True)
        return
    fitted, new = _keep_codes(config, cglo, dataset, seed, directory)
    kept = len(fitted.z) - len(new)
    print(f"{name}: {len(new)} images without a code, {kept} with one", flush=True)
    trained.check_unseen(test_set, fitted.generator_ids)
    parallel.barrier("codes are read")
    if len(new):
        _fit(config, workdir, dataset, seed, fitted, new)
    elif parallel.is_first_process():
        # Images were only left out, labelled or put in another order.
        with Checkpoints(directory) as checkpoints:
            meta = {**fitted.meta, "total": 0, "rate": 1.0}
            checkpoints.save(0, _arrays(fitted), {"step": np.int32(0)}, meta)
    if parallel.is_first_process():
        _remove_others(directory)
    parallel.barrier("codes are there")


def _keep_codes(
    config: ConfigDict,
    cglo: TrainedCglo,
    dataset: Dataset,
    seed: int,
    directory: pathlib.Path,
) -> tuple[TrainedCglo, np.ndarray]:
    """Returns the cGLO with a code for each image of `dataset`, and int64 [m], the new images.

    Args:
      directory: where the codes will be; earlier codes lie beside it.
    """
    ids = trained.hash_ids(dataset.ids)
    drawn = np.asarray(codes.draw_codes(_split_key(seed)[0], ids, config.latent.dim))
    others = [path for path in sorted(directory.parent.glob("*")) if path != directory]
    earlier = [one for path in others if (one := trained.restore_if_whole(path))]
    known = [(one.ids, one.z) for one in (cglo, *earlier)]
    z, new = code_fit.keep_codes(drawn, ids, known)
    # What the generator has learnt, without labels at most, may not be a test image now.
    transductive = config.dataset.transductive
    learnt = cglo.ids[: cglo.meta["n_labelled"] if transductive else None]
    old = {row.tobytes() for row in cglo.ids}
    notes = {
        **cglo.meta["notes"],
        "added": sum(row.tobytes() not in old for row in ids),
        "generator_rate": cglo.meta["rate"],
    }
    meta = {**cglo.meta, "images": dataset.digest, "notes": notes}
    fitted = cglo._replace(
        z=z, ids=ids, labels=dataset.labels, generator_ids=learnt, meta=meta
    )
    return fitted, new


def _remove_others(directory: pathlib.Path) -> None:
    """Removes checkpoints of codes of other images or of another generator."""
    generator = directory.parent
    for path in list(generator.parent.glob("generator-*/images-*")):
        if path != directory:
            remove_all(path)
    for path in generator.parent.glob("generator-*"):
        with contextlib.suppress(OSError):  # it holds something else
            path.rmdir()


def _arrays(cglo: TrainedCglo) -> Params:
    """Returns what a checkpoint of codes holds."""
    names = ("params", "batch_stats", "z", "ids", "labels", "generator_ids")
    return {name: getattr(cglo, name) for name in names}


def _split_key(seed: int) -> jax.Array:
    """Returns the keys of the first codes, of the steps and of the order of images."""
    key = jax.random.fold_in(jax.random.key(seed), draws.Run.CODES_OF_ADDED_IMAGES)
    return jax.random.split(key, 3)


def _restore_trained(
    config: ConfigDict, workdir: pathlib.Path, dataset: Dataset, seed: int
) -> TrainedCglo:
    """Restores the trained cGLO that codes can be fitted to."""
    directory, command = trained.checkpoint_dir(workdir, seed), "--stage=train"
    hint = "train one without --config.train.only_codes, or copy checkpoints/ and cglo_files.jsonl of one here"
    cglo = trained.restore_newest(config, directory, hint)
    trained.check_complete(directory, command, cglo, config.train.epochs)
    names = itertools.zip_longest(cglo.meta["names"], dataset.class_names)
    for label, (old, new) in enumerate(names):
        if old != new:
            raise UserError(
                f"{directory} was trained for other classes (label {label}: {old!r}, this "
                f"call has {new!r}): train a new cGLO for these, in another --workdir"
            )
    shape = list(dataset.images.shape[1:])
    check_fingerprint({"shape": cglo.meta["shape"]}, {"shape": shape}, str(directory))
    return cglo


def _restore_state(
    directory: pathlib.Path, spec: StepSpec, devices: Sequence[jax.Device]
) -> algorithm.TrainState:
    """Returns the state after training."""
    with Checkpoints(directory, read_only=True) as checkpoints:
        step = checkpoints.latest_step()
        model = checkpoints.restore_model(step)
        n, dim = model["z"].shape
        init = functools.partial(algorithm.init_state, spec=spec, n=n, dim=dim)
        abstract, rest = train.split_state(jax.eval_shape(init, jax.random.key(0)))
        abstract |= {name: model[name] for name in model.keys() - abstract.keys()}
        trees = checkpoints.restore(step, abstract, rest)
        return train.merge_state(*parallel.replicate(trees, devices))


def _create_state(z: jax.Array, *, spec: StepSpec) -> FitState:
    return FitState(jnp.zeros((), jnp.int32), codes.create_codes(z, spec.adam))


def _fit(
    config: ConfigDict,
    workdir: pathlib.Path,
    dataset: Dataset,
    seed: int,
    cglo: TrainedCglo,
    new: np.ndarray,
) -> None:
    """Takes the steps: a new image has as many updates as a code had in training on average."""
    c, directory = config.train, trained.checkpoint_dir(workdir, seed)
    (vgg, _), origin = train.load_weights(config)
    saved, now = {"weights": cglo.meta["weights"]}, {"weights": origin.digest}
    check_fingerprint(saved, now, str(directory))
    devices = tuple(parallel.choose_devices(config.devices))
    devices = devices if len(new) >= len(devices) else tuple(parallel.one_device())
    size = parallel.per_device(c.batch_size, len(new), devices, "train.batch_size")
    spec = algorithm.create_spec(config, dataset)
    spec = train.scale_layers(config, spec, dataset, vgg)
    state = _restore_state(directory, spec, devices)
    updates = float(np.mean(state.codes.opt_state.count))
    total = math.ceil(updates * len(new) / size)
    spec = dataclasses.replace(spec, lr_drops=code_fit.scale_drops(config, total))
    use_weak = spec.gamma > 0 and bool((dataset.labels[new] >= 0).any())
    _, key_step, key_order = _split_key(seed)
    shared = algorithm.create_shared(key_step, dataset, vgg, cache_gb=0, spec=spec)
    order, arrays = BatchOrder(key_order, new, size), _arrays(cglo)

    def choose(lr_scale: float) -> parallel.Choose:
        step_fn = compiled_step(spec.scale_lr(lr_scale), use_weak, devices)
        return lambda step: (step_fn, order(step))

    def split_state(state: FitState) -> tuple[Params, Params]:
        rest = {"step": state.step, "code_opt_state": state.codes.opt_state}
        return {**arrays, "z": state.codes.z}, rest

    def merge_state(model: Params, rest: Params) -> FitState:
        return FitState(rest["step"], codes.Codes(model["z"], rest["code_opt_state"]))

    per_epoch = max(1, total // c.epochs)
    job = loop.Job(
        init=functools.partial(
            parallel.create_replicated, _create_state, devices, cglo.z, spec=spec
        ),
        choose=choose,
        shared=Frozen(shared, state.params, state.batch_stats),
        split_state=split_state,
        merge_state=merge_state,
        devices=devices,
        checkpoint_dir=trained.codes_dir(workdir, seed, dataset, cglo.variables),
        meta={**cglo.meta, "total": total},
        workdir=workdir,
        tags={"stage": "codes", "seed": seed},
        section="train",
        total=total,
        steps_per_epoch=per_epoch,
        images_per_step=size,
        log_every=c.log_every_steps,
        save_every=c.checkpoint_every_epochs * per_epoch,
        **loop.settings(config),
    )
    loop.run_steps(job)
