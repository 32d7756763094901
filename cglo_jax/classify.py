"""The final classifier, trained with each augmentation method for the same steps (section 4.2)."""

import dataclasses
import functools
import importlib.metadata
import json
import pathlib
import platform
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from ml_collections import ConfigDict

from cglo_jax import augment, codes, loop, losses, parallel, sample, train
from cglo_jax.config import METHODS, check_fingerprint, classify_fingerprint
from cglo_jax.data import Dataset, to_float
from cglo_jax.errors import UserError
from cglo_jax.models.wide_resnet import WideResNet

_EVAL_BATCH = 256  # test images at a time


@struct.dataclass
class ClassifierState:
    """What training a classifier changes; step is an int32 scalar."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any


class Shared(NamedTuple):
    """What a step reads and never changes; replicated on every device.

    Attributes:
      key: the run's key; every draw but dropout's is f(key, step, image).
      images: uint8 [n, H, W, C], labelled training images. sampler: the trained cGLO.
    """

    key: jax.Array
    images: jax.Array
    sampler: sample.Sampler


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """The constants of a step, plain values: equal specs share one compiled step."""

    model: WideResNet
    method: str
    sample: sample.SampleSpec
    replace_probability: float
    augment_synthetic: bool
    pad: int
    pad_value: float
    flip: bool
    lr: float
    lr_drops: tuple[tuple[int, float], ...]  # (step, factor)
    momentum: float
    weight_decay: float

    @property
    def tx(self) -> optax.GradientTransformation:
        """SGD with Nesterov momentum and weight decay, as `torch.optim.SGD`."""
        lr = optax.piecewise_constant_schedule(self.lr, dict(self.lr_drops))
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay),
            optax.sgd(lr, self.momentum, nesterov=True),
        )


def create_spec(config: ConfigDict, dataset: Dataset, method: str) -> StepSpec:
    """Builds the constants of training with `method` on the images of `dataset`."""
    c = config.classify
    return StepSpec(
        model=WideResNet(
            len(dataset.class_names),
            c.depth,
            c.width,
            c.dropout,
            dtype=jnp.dtype(config.dtype),
            axis_name=parallel.AXIS,
        ),
        method=method,
        sample=sample.create_spec(config, train.create_spec(config, dataset).generator),
        replace_probability=c.replace_probability,
        augment_synthetic=c.augment_synthetic,
        pad=c.pad,
        pad_value=c.pad_value,
        flip=c.flip,
        lr=c.lr,
        lr_drops=tuple((e * c.steps_per_epoch, c.lr_drop) for e in c.lr_drop_epochs),
        momentum=c.momentum,
        weight_decay=c.weight_decay,
    )


# A method makes a new image for each of the batch: (keys [B], indices [B], shared, spec) ->
# float32 [B, H, W, C]. To add one, write its function, put it into _REPLACEMENTS and its name
# into config.METHODS.


def _cglo(keys, indices, shared, spec) -> jax.Array:
    images, _, _ = sample.synthesize(shared.sampler, keys, indices, spec=spec.sample)
    return images


def _pixelmix(keys, indices, shared, spec) -> jax.Array:
    """Control for cGLO: the same pairs and t, mixed as pixels instead of codes."""
    partners, t, _ = sample.draw_pairs(shared.sampler, keys, indices, spec=spec.sample)
    x, y = to_float(shared.images[indices]), to_float(shared.images[partners])
    return jax.vmap(codes.lerp)(x, y, t)


_REPLACEMENTS: dict[str, Callable[..., jax.Array] | None] = {
    "baseline": None,
    "cglo": _cglo,
    "pixelmix": _pixelmix,
}
_FROM_CGLO = ("cglo",)  # methods that need a trained cGLO
assert tuple(_REPLACEMENTS) == METHODS


def create_batch(
    shared: Shared, keys: jax.Array, indices: jax.Array, *, spec: StepSpec
) -> jax.Array:
    """Makes the images that a step trains on: replaced with probability p, then augmented.

    Args:
      keys: typed keys [B]. indices: int32 [B].

    Returns:
      float32 [B, H, W, C] in [-1, 1]; each keeps the label of image i.
    """
    split = jax.vmap(jax.random.split, (0, None), 1)
    key_new, key_replace, key_augment = split(keys, 3)
    x = to_float(shared.images[indices])
    replaced = jnp.zeros(len(indices), bool)
    replacement = _REPLACEMENTS[spec.method]
    if replacement is not None:
        draw = jax.vmap(jax.random.bernoulli, (0, None))
        replaced = draw(key_replace, spec.replace_probability)
        new = replacement(key_new, indices, shared, spec)
        x = jnp.where(replaced[:, None, None, None], new, x)
    augmented = augment.standard(
        key_augment, x, pad=spec.pad, flip=spec.flip, pad_value=spec.pad_value
    )
    if spec.augment_synthetic:
        return augmented
    return jnp.where(replaced[:, None, None, None], x, augmented)


def train_step(
    state: ClassifierState, shared: Shared, indices: jax.Array, *, spec: StepSpec
) -> tuple[ClassifierState, dict[str, jax.Array]]:
    """One SGD step on images made on the device; runs inside `parallel.pmap_step`.

    Args:
      indices: int32 [B], this device's images.
    """
    key = jax.random.fold_in(shared.key, state.step)
    x = create_batch(shared, codes.example_keys(key, indices), indices, spec=spec)
    labels = shared.sampler.labels[indices]
    rngs = {"dropout": jax.random.fold_in(key, jax.lax.axis_index(parallel.AXIS))}

    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        (logits, _), new = spec.model.apply(
            variables, x, train=True, mutable="batch_stats", rngs=rngs
        )
        loss = losses.cross_entropy(logits, labels).mean()
        accuracy = 100 * (logits.argmax(-1) == labels).mean()
        return loss, (new["batch_stats"], {"loss": loss, "train_accuracy": accuracy})

    grads, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, metrics = jax.lax.pmean((grads, metrics), parallel.AXIS)
    updates, opt_state = spec.tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return ClassifierState(state.step + 1, params, batch_stats, opt_state), metrics


def init_state(key: jax.Array, *, spec: StepSpec) -> ClassifierState:
    """Creates the state before the first step."""
    generator = spec.sample.generator
    image = jnp.zeros((1, generator.size, generator.size, generator.channels))
    variables = spec.model.init(key, image, train=False)
    params = variables["params"]
    return ClassifierState(
        jnp.zeros((), jnp.int32), params, variables["batch_stats"], spec.tx.init(params)
    )


@functools.cache
def compiled_step(spec: StepSpec, devices: tuple[jax.Device, ...]) -> Callable:
    """Returns the pmapped `train_step`, the same object for the same arguments (one compilation)."""
    return parallel.pmap_step(functools.partial(train_step, spec=spec), devices)


@functools.cache
def compiled_logits(model: WideResNet, devices: tuple[jax.Device, ...]) -> Callable:
    """Returns pmapped (variables, uint8 images [D, B, H, W, C]) -> logits [D, B, K]."""

    def logits(variables: Any, images: jax.Array) -> jax.Array:
        return model.apply(variables, to_float(images), train=False)[0]

    return parallel.pmap_batch(logits, devices)


def evaluate(
    state: ClassifierState,
    model: WideResNet,
    dataset: Dataset,
    devices: Sequence[jax.Device],
) -> np.ndarray:
    """Returns logits float32 [n, K] of all images; the last batch is padded, the padding cut off."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    compute = compiled_logits(model, tuple(devices))
    n = len(dataset.images)
    size = -(-min(n, _EVAL_BATCH) // len(devices)) * len(devices)
    outputs = []
    for start in range(0, n, size):
        images = dataset.images[start : start + size]
        padding = [(0, size - len(images))] + [(0, 0)] * (images.ndim - 1)
        logits = compute(variables, parallel.shard(np.pad(images, padding), devices))
        outputs.append(np.asarray(logits).reshape(size, -1)[: len(images)])
    return np.concatenate(outputs)


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Returns the percentage of images whose label is among the k largest logits.

    Exact over all images; of equal logits the label's counts as the smallest.

    Args:
      logits: float [n, K]. labels: int [n].
    """
    of_label = np.take_along_axis(logits, labels[:, None], 1)
    rank = (logits >= of_label).sum(1)  # the label's own logit counts: rank >= 1
    return 100 * float(((rank >= 1) & (rank <= k)).mean())


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
      data: training and test images, see `data.load`.
    """
    train_set, test_set = data
    directory = workdir / "classifiers" / f"{method}-{seed}"
    fingerprint = {
        **classify_fingerprint(config),
        "images": train_set.digest,
        "test_images": test_set.digest,
    }
    if (directory / "result.json").exists():
        result = read_result(directory / "result.json")
        check_fingerprint(result["fingerprint"], fingerprint, str(directory))
        print(
            f"classify {method} seed {seed}: done before, top-1 {result['top1']:.2f} %",
            flush=True,
        )
        return
    devices = tuple(parallel.choose_devices(config.devices))
    spec = create_spec(config, train_set, method)
    state = _train(
        config, workdir, directory, train_set, spec, seed, devices, fingerprint
    )
    logits = evaluate(state, spec.model, test_set, devices)
    if not np.isfinite(logits).all():
        raise UserError(
            f"classify {method} seed {seed}: the trained classifier gives logits that are not finite"
        )
    result = {
        "method": method,
        "seed": seed,
        "top1": top_k_accuracy(logits, test_set.labels, 1),
        "top5": top_k_accuracy(logits, test_set.labels, 5),
        "n_test": len(test_set.labels),
        "steps": int(state.step),
        "fingerprint": fingerprint,
        "dataset": _describe(config, train_set, test_set),
        "environment": environment(devices),
    }
    loop.write_atomically(
        directory / "result.json", json.dumps(result, indent=1) + "\n"
    )
    print(
        f"classify {method} seed {seed}: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} % of {result['n_test']} images",
        flush=True,
    )


def _train(
    config, workdir, directory, dataset, spec, seed, devices, fingerprint
) -> ClassifierState:
    c = config.classify
    model = {"params": {}, "batch_stats": {}, "z": np.zeros((len(dataset.ids), 0))}
    if spec.method in _FROM_CGLO:
        model, step = train.restore_model(config, workdir, dataset, seed)
        if step < (total := train.total_steps(config, dataset)):
            raise UserError(
                f"cGLO of seed {seed} is trained to step {step} of {total}: "
                "run --stage=train first, it goes on from there"
            )
    # The same keys for every method: they differ in the replaced images only.
    key_init, key_step, key_order = jax.random.split(jax.random.key(seed), 3)
    n = dataset.num_labelled
    shared = parallel.replicate(
        Shared(key_step, dataset.images[:n], sample.create_sampler(model, dataset)),
        devices,
    )
    size = parallel.per_device(c.batch_size, n, devices, "classify.batch_size")
    order = train.BatchOrder(key_order, np.arange(n), size)
    step_fn = compiled_step(spec, devices)

    def take_step(
        state: ClassifierState, step: int
    ) -> tuple[ClassifierState, dict[str, Any]]:
        return step_fn(state, shared, parallel.shard(order(step), devices))

    return loop.run_steps(
        take_step,
        parallel.create_replicated(init_state, devices, key_init, spec=spec),
        split_state=_split_state,
        merge_state=_merge_state,
        devices=devices,
        checkpoint_dir=directory / "checkpoints",
        meta={"fingerprint": fingerprint},
        workdir=workdir,
        tags={"stage": "classify", "method": spec.method, "seed": seed},
        total=c.epochs * c.steps_per_epoch,
        steps_per_epoch=c.steps_per_epoch,
        images_per_step=size,
        log_every=c.log_every_steps,
        save_every=c.checkpoint_every_epochs * c.steps_per_epoch,
    )


def _split_state(state: ClassifierState) -> tuple[Any, Any]:
    model = {"params": state.params, "batch_stats": state.batch_stats}
    return model, {"step": state.step, "opt_state": state.opt_state}


def _merge_state(model: Any, rest: Any) -> ClassifierState:
    return ClassifierState(
        rest["step"], model["params"], model["batch_stats"], rest["opt_state"]
    )


def read_result(path: pathlib.Path) -> dict[str, Any]:
    """Reads a result.json.

    Raises:
      UserError: it is damaged.
    """
    try:
        result = json.loads(path.read_text())
        return {**result, "top1": float(result["top1"]), "top5": float(result["top5"])}
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} is damaged: remove it and run --stage=classify again"
        ) from None


def _describe(
    config: ConfigDict, train_set: Dataset, test_set: Dataset
) -> dict[str, Any]:
    return {
        "name": config.dataset.name,
        "num_classes": len(train_set.class_names),
        "n_labelled": train_set.num_labelled,
        "n_unlabelled": len(train_set.ids) - train_set.num_labelled,
        "transductive": config.dataset.transductive,
        "test_split": test_set.split,
        "class_names": list(train_set.class_names),
    }


def environment(devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Returns what a number was computed with: versions, devices, commit."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    git = [
        "git",
        "-C",
        str(pathlib.Path(__file__).parent),
        "rev-parse",
        "--short",
        "HEAD",
    ]
    try:
        commit = subprocess.run(
            git, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "backend": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "commit": commit,
    }
