"""Algorithm 1: learns the generator, the weak classifier and one code per training image."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from ml_collections import ConfigDict

from cglo_jax import codes, loop, losses, parallel
from cglo_jax.checkpoints import restore_latest_model
from cglo_jax.config import check_fingerprint, train_fingerprint
from cglo_jax.data import Dataset, to_float
from cglo_jax.errors import UserError
from cglo_jax.models.generator import Generator, start_and_doublings
from cglo_jax.models.vgg import TAPS, VGG16, to_rgb
from cglo_jax.models.weak_classifier import WeakClassifier


@struct.dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
      step: int32 [], steps taken, labelled and unlabelled ones.
      params, batch_stats, opt_state: dicts with the keys `generator` and `weak_classifier`.
      codes: of all training images.
    """

    step: jax.Array
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    opt_state: dict[str, Any]
    codes: codes.Codes


class Shared(NamedTuple):
    """What a step reads and never changes; replicated on every device.

    Attributes:
      key: the run's key; every draw is f(key, step, image).
      images: uint8 [n, H, W, C]. labels: int32 [n], -1 = unlabelled.
      vgg: parameters of the perceptual network, {} if it is not used.
    """

    key: jax.Array
    images: jax.Array
    labels: jax.Array
    vgg: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """The constants of a step, plain values: equal specs share one compiled step."""

    generator: Generator
    weak_classifier: WeakClassifier
    vgg: VGG16 | None  # None: Laplacian pyramid loss
    layer_weights: tuple[float, ...]
    pixel_weight: float
    gamma: float
    noise_std: float
    generator_lr: float
    code_lr: float
    adam_b1: float
    adam_b2: float
    lr_drops: tuple[tuple[int, float], ...]  # (step, factor) of these two rates
    weak_lr: float
    weak_momentum: float
    weak_weight_decay: float

    @property
    def adam(self) -> optax.GradientTransformation:
        """Of the generator and of every code."""
        return optax.scale_by_adam(self.adam_b1, self.adam_b2)

    @property
    def weak_tx(self) -> optax.GradientTransformation:
        """Of the weak classifier."""
        decay = optax.add_decayed_weights(self.weak_weight_decay)
        return optax.chain(decay, optax.trace(self.weak_momentum))

    def lr_factor(self, step: jax.Array) -> jax.Array:
        """Returns what the generator's and the codes' rates are multiplied by."""
        return optax.piecewise_constant_schedule(1.0, dict(self.lr_drops))(step)


def create_spec(config: ConfigDict, dataset: Dataset) -> StepSpec:
    """Builds networks and optimisers from the config, for the images of `dataset`."""
    _, height, width, channels = dataset.images.shape
    if height != width:
        raise UserError(
            f"images are {width}x{height} pixels: set --config.dataset.size to make them square"
        )
    start_and_doublings(height)
    c, t = config, config.train
    common = {"dtype": jnp.dtype(c.dtype), "axis_name": parallel.AXIS}
    perceptual = c.reconstruction.loss == "perceptual"
    steps = t.steps_per_epoch + unlabelled_steps_per_epoch(config, dataset)
    return StepSpec(
        generator=Generator(
            size=height,
            channels=channels,
            width=c.generator.width,
            max_width=c.generator.max_width,
            noise_dim=c.latent.noise_dim if c.latent.noise == "concat" else 0,
            **common,
        ),
        weak_classifier=WeakClassifier(
            len(dataset.class_names), c.weak_classifier.width, **common
        ),
        vgg=VGG16(dtype=jnp.dtype(c.dtype)) if perceptual else None,
        layer_weights=tuple(c.reconstruction.layer_weights),
        pixel_weight=c.reconstruction.pixel_weight,
        gamma=c.weak_classifier.gamma,
        noise_std=c.latent.noise_std,
        generator_lr=t.generator_lr,
        code_lr=t.code_lr,
        adam_b1=t.adam_b1,
        adam_b2=t.adam_b2,
        lr_drops=tuple((epoch * steps, t.lr_drop) for epoch in t.lr_drop_epochs),
        weak_lr=t.weak_lr,
        weak_momentum=t.weak_momentum,
        weak_weight_decay=t.weak_weight_decay,
    )


def init_state(key: jax.Array, *, spec: StepSpec, n: int, dim: int) -> TrainState:
    """Creates the state before the first step; n codes of dimension `dim`."""
    key_codes, key_generator, key_weak = (jax.random.fold_in(key, i) for i in range(3))
    all_codes = codes.init_codes(key_codes, n, dim, spec.adam)
    z = all_codes.z[:1]
    eps = jnp.zeros((1, spec.generator.noise_dim)) if spec.generator.noise_dim else None
    generator = spec.generator.init(key_generator, z, eps, train=False)
    image = jnp.zeros(
        (1, spec.generator.size, spec.generator.size, spec.generator.channels)
    )
    weak = spec.weak_classifier.init(key_weak, image, train=False)
    networks = {"generator": generator, "weak_classifier": weak}
    params = {name: variables["params"] for name, variables in networks.items()}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats={
            name: variables["batch_stats"] for name, variables in networks.items()
        },
        opt_state={
            "generator": spec.adam.init(params["generator"]),
            "weak_classifier": spec.weak_tx.init(params["weak_classifier"]),
        },
        codes=all_codes,
    )


def draw_noise(keys: jax.Array, dim: int, std: float) -> jax.Array | None:
    """Draws eps ~ N(0, std^2 I) for each of the keys [B] -> float32 [B, dim]; None for dim 0."""
    if not dim:
        return None
    return std * jax.vmap(lambda key: jax.random.normal(key, (dim,)))(keys)


def reconstruction_loss(
    x: jax.Array, y: jax.Array, vgg_params: Any, *, spec: StepSpec
) -> jax.Array:
    """Eq. (1) plus a pixel term, or GLO's Laplacian loss, between images [B, H, W, C] -> [B].

    Args:
      x: reconstructions. y: targets, not differentiated.
    """
    if spec.vgg is None:
        return losses.laplacian_loss(x, y) + spec.pixel_weight * losses.pixel_l1(x, y)
    _, features_x = spec.vgg.apply({"params": vgg_params}, to_rgb(x))
    _, features_y = spec.vgg.apply({"params": vgg_params}, to_rgb(y))
    weights = dict(zip(TAPS, spec.layer_weights, strict=True))
    perceptual = losses.perceptual_loss(
        features_x, jax.lax.stop_gradient(features_y), weights
    )
    return perceptual + spec.pixel_weight * losses.pixel_l1(x, y)


def train_step(
    state: TrainState,
    shared: Shared,
    indices: jax.Array,
    *,
    spec: StepSpec,
    labelled: bool,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of Algorithm 1: updates theta, the codes of the batch and, if labelled, phi.

    Runs inside `parallel.pmap_step`; all draws depend on (key, step, image) only, so N devices
    compute what one computes.

    Args:
      indices: int32 [B], this device's images, none twice on any device.
      labelled: whether the images have labels: L = L_rec + gamma L_ce, else L = L_rec.

    Returns:
      The new state and scalar metrics, means over the batch of all devices.
    """
    keys = codes.example_keys(jax.random.fold_in(shared.key, state.step), indices)
    x = to_float(shared.images[indices])  # [B, H, W, C]
    rows = codes.gather_codes(state.codes, indices)
    eps = draw_noise(keys, spec.generator.noise_dim, spec.noise_std)
    use_weak = labelled and spec.gamma > 0

    def loss_fn(params, z):
        variables = {
            "params": params["generator"],
            "batch_stats": state.batch_stats["generator"],
        }
        images, new = spec.generator.apply(
            variables, z, eps, train=True, mutable="batch_stats"
        )
        batch_stats = {**state.batch_stats, "generator": new["batch_stats"]}
        reconstruction = reconstruction_loss(images, x, shared.vgg, spec=spec).mean()
        metrics = {"loss": reconstruction, "reconstruction": reconstruction}
        if use_weak:
            labels = shared.labels[indices]
            variables = {
                "params": params["weak_classifier"],
                "batch_stats": state.batch_stats["weak_classifier"],
            }
            (logits, _), new = spec.weak_classifier.apply(
                variables, images, train=True, mutable="batch_stats"
            )
            batch_stats["weak_classifier"] = new["batch_stats"]
            cross_entropy = losses.cross_entropy(logits, labels).mean()
            metrics["loss"] = reconstruction + spec.gamma * cross_entropy
            metrics["cross_entropy"] = cross_entropy
            metrics["weak_accuracy"] = 100 * (logits.argmax(-1) == labels).mean()
        return metrics["loss"], (batch_stats, metrics)

    grad_fn = jax.grad(loss_fn, argnums=(0, 1), has_aux=True)
    (grads, code_grads), (batch_stats, metrics) = grad_fn(state.params, rows.z)
    grads, metrics = jax.lax.pmean((grads, metrics), parallel.AXIS)
    factor = spec.lr_factor(state.step)
    # The mean over the batch is for the networks; a code has only its own image's loss.
    rows = codes.update_codes(
        rows, code_grads * len(indices), factor * spec.code_lr, spec.adam
    )
    indices, rows = jax.lax.all_gather((indices, rows), parallel.AXIS, tiled=True)

    params, opt_state = dict(state.params), dict(state.opt_state)
    rates = {"generator": (spec.adam, factor * spec.generator_lr)}
    if use_weak:
        rates["weak_classifier"] = (spec.weak_tx, spec.weak_lr)
    for name, (tx, lr) in rates.items():
        updates, opt_state[name] = tx.update(grads[name], opt_state[name], params[name])
        params[name] = jax.tree.map(
            lambda p, u, lr=lr: p - lr * u, params[name], updates
        )
    new_state = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        codes=codes.scatter_codes(state.codes, indices, rows),
    )
    return new_state, metrics


@functools.cache
def compiled_step(
    spec: StepSpec, labelled: bool, devices: tuple[jax.Device, ...]
) -> Any:
    """Returns the pmapped `train_step`, the same object for the same arguments (one compilation)."""
    return parallel.pmap_step(
        functools.partial(train_step, spec=spec, labelled=labelled), devices
    )


def unlabelled_steps_per_epoch(config: ConfigDict, dataset: Dataset) -> int:
    """Returns the steps of the second pass of an epoch: once through the unlabelled images."""
    n = len(dataset.ids) - dataset.num_labelled
    return -(-n // config.train.batch_size)


def total_steps(config: ConfigDict, dataset: Dataset) -> int:
    """Returns the steps of a whole run, labelled and unlabelled ones."""
    t = config.train
    return t.epochs * (t.steps_per_epoch + unlabelled_steps_per_epoch(config, dataset))


class BatchOrder:
    """Which images a step takes: pass after pass over `members` in an order f(key, pass).

    A pass is cut into whole batches; what is left over has its turn in other passes, so that no
    batch holds an image twice and every batch has one size.
    """

    def __init__(self, key: jax.Array, members: np.ndarray, batch_size: int):
        self._key, self._members, self.batch_size = key, members, batch_size
        self._pass, self._order = -1, members

    def __call__(self, step: int) -> np.ndarray:
        """Returns int32 [B], the images of the step-th batch."""
        number, place = divmod(step, len(self._members) // self.batch_size)
        if number != self._pass:
            order = jax.random.permutation(
                jax.random.fold_in(self._key, number), len(self._members)
            )
            self._pass, self._order = number, self._members[np.asarray(order)]
        return self._order[place * self.batch_size :][: self.batch_size].astype(
            np.int32
        )


class Schedule:
    """Maps a global step to (labelled?, images): every epoch a labelled, then an unlabelled pass."""

    def __init__(
        self,
        config: ConfigDict,
        dataset: Dataset,
        key: jax.Array,
        devices: Sequence[jax.Device],
    ):
        labelled = np.flatnonzero(dataset.labels >= 0)
        unlabelled = np.flatnonzero(dataset.labels < 0)
        self.labelled_steps = config.train.steps_per_epoch
        self.unlabelled_steps = unlabelled_steps_per_epoch(config, dataset)
        self.steps_per_epoch = self.labelled_steps + self.unlabelled_steps
        self.total = total_steps(config, dataset)

        def order(purpose: int, members: np.ndarray) -> BatchOrder:
            size = parallel.per_device(
                config.train.batch_size, len(members), devices, "train.batch_size"
            )
            return BatchOrder(jax.random.fold_in(key, purpose), members, size)

        self._labelled = order(0, labelled)
        self.batch_size = self._labelled.batch_size
        self._unlabelled = order(1, unlabelled) if self.unlabelled_steps else None

    def __call__(self, step: int) -> tuple[bool, np.ndarray]:
        """Returns whether the step is of the labelled pass, and its images, int32 [B]."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if place < self.labelled_steps:
            return True, self._labelled(epoch * self.labelled_steps + place)
        return False, self._unlabelled(
            epoch * self.unlabelled_steps + place - self.labelled_steps
        )


def create_vgg_params(config: ConfigDict, spec: StepSpec) -> dict[str, Any]:
    """Returns the perceptual network's parameters, {} if the loss does not use it.

    Raises:
      UserError: they would be random and the config does not ask for that.
    """
    if spec.vgg is None:
        return {}
    if not config.reconstruction.random_weights:
        raise UserError(
            "the perceptual loss needs VGG-16 weights, which this version cannot load yet: use "
            "--config.reconstruction.loss=laplacian, or --config.reconstruction.random_weights=True "
            "for a VGG-16 with random weights"
        )
    return spec.vgg.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]


def split_state(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
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


def merge_state(model: dict[str, Any], rest: dict[str, Any]) -> TrainState:
    """Inverse of `split_state`."""
    return TrainState(
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
) -> TrainState:
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
    spec = create_spec(config, dataset)
    key_init, key_step, key_order = jax.random.split(jax.random.key(seed), 3)
    vgg = create_vgg_params(config, spec)
    shared = parallel.replicate(
        Shared(key_step, dataset.images, dataset.labels, vgg), devices
    )
    schedule = Schedule(config, dataset, key_order, devices)
    state = parallel.create_replicated(
        init_state,
        devices,
        key_init,
        spec=spec,
        n=len(dataset.ids),
        dim=config.latent.dim,
    )

    def take_step(state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
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
