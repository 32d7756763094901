"""Adding images later: one code for each new image, eq. (2) over the codes alone.

The generator and the weak classifier stay as Algorithm 1 left them and normalise by running
statistics, as they do when sampling. Images that already have a code keep it; the codes of new
ones start uniformly on the sphere, whatever `latent.init` was for those of training.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from ml_collections import ConfigDict

from cglo_jax.cglo import algorithm, codes
from cglo_jax.config.fingerprint import check_fingerprint
from cglo_jax.data.dataset import Dataset
from cglo_jax.errors import UserError
from cglo_jax.process import numerics
from cglo_jax.stages import train
from cglo_jax.training import loop, memory, parallel
from cglo_jax.training.batches import BatchOrder
from cglo_jax.training.checkpoints import Checkpoints, remove_all
from cglo_jax.workdir import trained as restoring


@struct.dataclass
class FitState:
    """Everything that fitting changes: steps taken, int32 [], and the codes of all images."""

    step: jax.Array
    codes: codes.Codes


class Shared(NamedTuple):
    """What a step reads and never changes; params and batch_stats of both networks."""

    fixed: algorithm.Shared
    params: dict[str, Any]
    batch_stats: dict[str, Any]


def fit_step(
    state: FitState,
    shared: Shared,
    indices: jax.Array,
    *,
    spec: algorithm.StepSpec,
    use_weak: bool,
) -> tuple[FitState, dict[str, jax.Array]]:
    """One step of eq. (2) over the codes of the batch: L_rec + gamma L_ce, G and phi frozen.

    L_ce is of the labelled images. Runs inside a `parallel.MappedStep`; all draws depend on
    (key, step, image) only, so N devices compute what one computes.

    Args:
      indices: int32 [B], this device's images, none twice on any device.
      use_weak: whether L_ce counts.

    Returns:
      The new state and scalar metrics, means over the batch of all devices; those of f_phi
      are means over its labelled images, 0 without any.
    """
    fixed = shared.fixed
    keys = codes.example_keys(jax.random.fold_in(fixed.key, state.step), indices)
    rows = codes.gather_codes(state.codes, indices)
    eps = algorithm.draw_noise_for(rows.z, keys, spec=spec)

    def loss_fn(z: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        loss, (_, metrics) = algorithm.compute_loss(
            shared.params,
            z,
            eps,
            indices,
            batch_stats=shared.batch_stats,
            shared=fixed,
            spec=spec,
            use_weak=use_weak,
            train=False,
        )
        return loss, metrics

    grads, metrics = jax.grad(loss_fn, has_aux=True)(rows.z)
    lr = spec.lr_factor(state.step) * spec.code_lr
    # As in training, a code has its own image's loss, undivided by the batch.
    rows = codes.update_codes(rows, grads * len(indices), lr, spec.adam)
    labelled = (fixed.labels[indices] >= 0).mean()
    metrics, labelled = jax.lax.pmean((metrics, labelled), parallel.AXIS)
    for name in metrics.keys() - {"loss", "reconstruction"}:
        metrics[name] = jnp.where(labelled > 0, metrics[name] / labelled, 0)
    indices, rows = jax.lax.all_gather((indices, rows), parallel.AXIS, tiled=True)
    new_codes = codes.scatter_codes(state.codes, indices, rows)
    return FitState(step=state.step + 1, codes=new_codes), metrics


@functools.cache
def compiled_step(
    spec: algorithm.StepSpec, use_weak: bool, devices: tuple[jax.Device, ...]
) -> parallel.MappedStep:
    """Returns the mapped `fit_step`, the same object for the same arguments (one compilation)."""
    step = functools.partial(fit_step, spec=spec, use_weak=use_weak)
    return parallel.MappedStep(step, devices)


def keep_codes(
    drawn: np.ndarray, ids: np.ndarray, models: Sequence[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """Gives each image the code that the first of `models` to know it has for it.

    Args:
      drawn: float32 [n, d], codes of images that none of them knows. ids: uint8 [n, 16].
      models: with `z` and `ids`.

    Returns:
      (codes float32 [n, d], int64 [m], the images that none of them knows).
    """
    known = {}
    for model in reversed(models):
        names = (row.tobytes() for row in model["ids"])
        known.update(zip(names, model["z"], strict=True))
    names = [row.tobytes() for row in ids]
    z = [known.get(name, row) for name, row in zip(names, drawn, strict=True)]
    new = [i for i, name in enumerate(names) if name not in known]
    return np.stack(z), np.array(new, np.int64)


def scale_drops(config: ConfigDict, total: int) -> tuple[tuple[int, float], ...]:
    """Returns (step, factor) of the rate's drops, at the fractions of `total` where training has them."""
    t = config.train
    return tuple((round(e / t.epochs * total), t.lr_drop) for e in t.lr_drop_epochs)


@numerics.with_ours
def run(
    config: ConfigDict,
    workdir: pathlib.Path,
    data: tuple[Dataset, Dataset],
    seed: int,
) -> None:
    """Fits codes for the images that the trained cGLO of `seed` has none for, or goes on with it.

    Writes checkpoints to `trained.codes_dir`, from where `trained.restore_model` takes them; those
    of training stay as they are. What an earlier call fitted to the same generator is kept for
    the images that are still there, and its checkpoints are removed in the end.

    Args:
      data: all training images, old and new, and the test images, see `data.load`.

    Raises:
      UserError: no fully trained cGLO of this configuration, these classes and this size of
        images is there, it was trained on a test image, or a loss is not finite.
    """
    dataset, test_set = data
    name = f"codes seed {seed}"
    trained, meta = _restore_trained(config, workdir, dataset, seed)
    if meta["images"] == dataset.digest:
        print(f"{name}: no image was added: nothing to do", flush=True)
        return
    directory = restoring.codes_dir(workdir, seed, dataset, trained)
    if restoring.restore_finished(directory):
        print(f"{name}: done before", flush=True)
        return
    ids = restoring.hash_ids(dataset.ids)
    z = np.asarray(codes.draw_codes(_split_key(seed)[0], ids, config.latent.dim))
    others = [path for path in sorted(directory.parent.glob("*")) if path != directory]
    earlier = [model for path in others if (model := restoring.restore_if_whole(path))]
    z, new = keep_codes(z, ids, [trained, *earlier])
    kept = len(z) - len(new)
    print(f"{name}: {len(new)} images without a code, {kept} with one", flush=True)
    # What the generator has learnt, without labels at most, may not be a test image now.
    transductive = config.dataset.transductive
    learnt = trained["ids"][: meta["n_labelled"] if transductive else None]
    of_images = {"z": z, "ids": ids, "labels": dataset.labels}
    model = {**trained, **of_images, "generator_ids": learnt}
    restoring.check_unseen(test_set, model)
    old = {row.tobytes() for row in trained["ids"]}
    notes = {
        **meta["notes"],
        "added": sum(row.tobytes() not in old for row in ids),
        "generator_rate": meta["rate"],
    }
    meta = {**meta, "images": dataset.digest, "notes": notes}
    parallel.wait_for_all("codes are read")
    if len(new):
        _fit(config, workdir, dataset, seed, model, meta, new)
    elif parallel.is_first_process():
        # Images were only left out, labelled or put in another order.
        with Checkpoints(directory) as checkpoints:
            meta = {**meta, "total": 0, "rate": 1.0}
            checkpoints.save(0, model, {"step": np.int32(0)}, meta)
    if parallel.is_first_process():  # those of other images or of another generator
        generator = directory.parent
        for path in list(generator.parent.glob("generator-*/images-*")):
            if path != directory:
                remove_all(path)
        for path in generator.parent.glob("generator-*"):
            with contextlib.suppress(OSError):  # it holds something else
                path.rmdir()
    parallel.wait_for_all("codes are there")


def _split_key(seed: int) -> jax.Array:
    """Returns the keys of the first codes, of the steps and of the order of images."""
    key = jax.random.fold_in(jax.random.key(seed), 3)  # 0 to 2 are those of `train.run`
    return jax.random.split(key, 3)


def _restore_trained(config, workdir, dataset, seed) -> tuple[Any, dict[str, Any]]:
    """Returns (model, meta) of the trained cGLO that codes can be fitted to."""
    directory, command = restoring.checkpoint_dir(workdir, seed), "--stage=train"
    hint = "train one without --config.train.only_codes, or copy checkpoints/ and cglo_files.jsonl of one here"
    model, meta, step = restoring.restore_newest(config, directory, hint)
    restoring.check_complete(directory, command, meta, step, config.train.epochs)
    names = itertools.zip_longest(meta["names"], dataset.class_names)
    for label, (old, new) in enumerate(names):
        if old != new:
            raise UserError(
                f"{directory} was trained for other classes (label {label}: {old!r}, this "
                f"call has {new!r}): train a new cGLO for these, in another --workdir"
            )
    shape = list(dataset.images.shape[1:])
    check_fingerprint({"shape": meta["shape"]}, {"shape": shape}, str(directory))
    return model, meta


def _restore_state(directory, spec, devices) -> algorithm.TrainState:
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


def _create_state(z: jax.Array, *, spec: algorithm.StepSpec) -> FitState:
    return FitState(jnp.zeros((), jnp.int32), codes.create_codes(z, spec.adam))


def _fit(config, workdir, dataset, seed, model, meta, new) -> None:
    """Takes the steps: a new image has as many updates as a code had in training on average."""
    c, directory = config.train, restoring.checkpoint_dir(workdir, seed)
    (vgg, _), origin = train.load_weights(config)
    saved, now = {"weights": meta["weights"]}, {"weights": origin.digest}
    check_fingerprint(saved, now, str(directory))
    devices = tuple(parallel.choose_devices(config.devices))
    devices = devices if len(new) >= len(devices) else tuple(parallel.one_device())
    size = parallel.per_device(c.batch_size, len(new), devices, "train.batch_size")
    spec = algorithm.create_spec(config, dataset)
    trained = _restore_state(directory, spec, devices)
    updates = float(np.mean(trained.codes.opt_state.count))
    total = math.ceil(updates * len(new) / size)
    spec = dataclasses.replace(spec, lr_drops=scale_drops(config, total))
    use_weak = spec.gamma > 0 and bool((dataset.labels[new] >= 0).any())
    _, key_step, key_order = _split_key(seed)
    fixed = algorithm.create_shared(key_step, dataset, vgg, cache_gb=0, spec=spec)
    shared = Shared(fixed, trained.params, trained.batch_stats)
    order = BatchOrder(key_order, new, size)

    def create(rate: float) -> tuple[parallel.TakeSteps, FitState]:
        step_fn = compiled_step(algorithm.scale_rates(spec, rate), use_weak, devices)
        take_steps = parallel.create_take_steps(
            lambda step: (step_fn, order(step)),
            lambda: shared,
            devices,
            config.steps_per_call,
            functools.partial(memory.check, config, "train", shared),
        )
        z = model["z"]
        return take_steps, parallel.create_replicated(
            _create_state, devices, z, spec=spec
        )

    def split_state(state: FitState) -> tuple[dict[str, Any], dict[str, Any]]:
        rest = {"step": state.step, "code_opt_state": state.codes.opt_state}
        return {**model, "z": state.codes.z}, rest

    def merge_state(model: dict[str, Any], rest: dict[str, Any]) -> FitState:
        return FitState(rest["step"], codes.Codes(model["z"], rest["code_opt_state"]))

    per_epoch = max(1, total // c.epochs)
    job = loop.Job(
        create=create,
        split_state=split_state,
        merge_state=merge_state,
        devices=devices,
        checkpoint_dir=restoring.codes_dir(workdir, seed, dataset, model),
        meta={**meta, "total": total},
        workdir=workdir,
        tags={"stage": "codes", "seed": seed},
        total=total,
        steps_per_epoch=per_epoch,
        images_per_step=size,
        log_every=c.log_every_steps,
        save_every=c.checkpoint_every_epochs * per_epoch,
        **loop.settings(config),
    )
    loop.run_steps(job)
