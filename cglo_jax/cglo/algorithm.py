"""Algorithm 1 of the paper: its state, its constants, its loss, its step and its schedule.

    for each epoch:                                                           # `Schedule`
        for each of train.steps_per_epoch batches of labelled images:
            L = L_rec(G([z, eps]), x) + gamma L_ce(f_phi(G([z, eps])), y)     # `compute_loss`
            a step of G, of f_phi and of the codes z of the batch; z / |z|    # `train_step`
        for each of train.unlabelled_steps batches of unlabelled images:
            the same with L = L_rec

By default the second loop is one pass over the unlabelled images and comes first, so that an epoch
ends on labelled images (train.epoch_ends_on), from whose codes new images are made.

G is the generator, theta its parameters, f_phi the weak classifier: `generator` and `weak_classifier`
in the dicts of `TrainState`. z is one code per image, a point on the unit sphere in R^d, eps noise.
All of it minimises (eq. 2) the sum of L over images, over theta, phi and every z.

Everything is a pure function of (state, what never changes, images of the batch): any step can be
repeated, and N devices compute what one computes. Codes and slerp are in `codes`, L_rec in `losses`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from ml_collections import ConfigDict

from cglo_jax.cglo import codes, losses
from cglo_jax.data.dataset import Dataset, to_float
from cglo_jax.models.generator import Generator, start_and_doublings
from cglo_jax.models.vgg import VGG16
from cglo_jax.models.weak_classifier import LatentClassifier, WeakClassifier
from cglo_jax.training import draws, parallel
from cglo_jax.training.batches import BatchOrder

Params = dict[str, Any]  # a tree of arrays


@struct.dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
      step: int32 [], steps taken, both labelled and unlabelled.
      params, batch_stats, opt_state: dicts with the keys `generator` and `weak_classifier`.
      codes: the codes of all training images.
    """

    step: jax.Array
    params: Params
    batch_stats: Params
    opt_state: Params
    codes: codes.Codes


class Shared(NamedTuple):
    """What a step reads and never changes; replicated on every device.

    Attributes:
      key: the run's key; every draw is f(key, step, image).
      images: uint8 [n, H, W, C]. labels: int32 [n], -1 = unlabelled.
      class_weights: float32 [K], weights of the classes in the weak classifier's cross-entropy.
      vgg: parameters of the perceptual network, {} if it is not used.
      features: the perceptual network's features of all images, see
        `losses.ReconstructionLoss.compute_features`, or only their shapes and types before they are
        computed; {} if every step computes them.
    """

    key: jax.Array
    images: np.ndarray
    labels: np.ndarray
    class_weights: np.ndarray
    vgg: Params
    features: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """The constants of a step, plain values: equal specs share one compiled step.

    Attributes:
      gamma: weight of the weak classifier's loss.
      weak_loss: a name that `losses.weak_loss` knows.
      weak_smoothing: of its labels, see there.
      weak_scaled: whether f_phi descends gamma L_ce, as Algorithm 1 has it, or L_ce: gamma then
        weighs only what reaches the generator and the codes.
      lr_drops: (step, factor) of each drop of `generator_lr` and `code_lr`.
    """

    generator: Generator
    weak_classifier: WeakClassifier | LatentClassifier
    reconstruction: losses.ReconstructionLoss
    gamma: float
    weak_loss: str
    weak_smoothing: float
    weak_scaled: bool
    generator_lr: float
    code_lr: float
    adam_b1: float
    adam_b2: float
    lr_drops: tuple[tuple[int, float], ...]
    weak_lr: float
    weak_momentum: float
    weak_weight_decay: float

    @property
    def adam(self) -> optax.GradientTransformation:
        """The optimiser of the generator and of every code, without its learning rate."""
        return optax.scale_by_adam(self.adam_b1, self.adam_b2)

    @property
    def weak_tx(self) -> optax.GradientTransformation:
        """The optimiser of the weak classifier, without its learning rate."""
        decay = optax.add_decayed_weights(self.weak_weight_decay)
        return optax.chain(decay, optax.trace(self.weak_momentum))

    def lr_schedule(self, step: jax.Array) -> jax.Array:
        """Returns the factor of the generator's and the codes' learning rates at a step."""
        return optax.piecewise_constant_schedule(1.0, dict(self.lr_drops))(step)

    def scale_lr(self, lr_scale: float) -> "StepSpec":
        """Returns the constants with all learning rates times `lr_scale`."""
        names = ("generator_lr", "code_lr", "weak_lr")
        scaled = {name: getattr(self, name) * lr_scale for name in names}
        return dataclasses.replace(self, **scaled)


def compute_loss(
    params: Params,
    z: jax.Array,
    eps: jax.Array | None,
    indices: jax.Array,
    *,
    batch_stats: Params,
    shared: Shared,
    spec: StepSpec,
    use_weak: bool,
    train: bool = True,
    keys: jax.Array | None = None,
) -> tuple[jax.Array, tuple[Params, dict[str, jax.Array]]]:
    """Computes L = L_rec + gamma L_ce of Algorithm 1, or L = L_rec without the weak classifier.

    L_ce is computed from the generated image or, if f_phi takes codes, from z without noise; it is
    0 for unlabelled images. `spec.weak_loss` may select another loss, see `losses.weak_loss`.

    Args:
      params, batch_stats: trees of both networks, see `TrainState`.
      z: codes float32 [B, d] of the images `indices`, int32 [B].
      eps: noise, see `Generator.draw_noise`.
      train: whether both networks normalise by batch statistics and update their running
        statistics; if not, they normalise by the running statistics and leave them unchanged.
      keys: typed keys [B] of f_phi's dropout; None: no dropout.

    Returns:
      (mean loss over this device's batch, (new batch_stats, metrics)).
    """
    target = to_float(shared.images[indices])  # [B, H, W, C]
    generated, new = spec.generator.apply(
        {"params": params["generator"], "batch_stats": batch_stats["generator"]},
        z,
        eps,
        train=train,
        mutable="batch_stats",
    )
    batch_stats = {**batch_stats, "generator": new["batch_stats"]}
    features = {name: f[indices] for name, f in shared.features.items()}
    reconstruction = spec.reconstruction(generated, target, shared.vgg, features).mean()
    metrics = {"loss": reconstruction, "reconstruction": reconstruction}
    if use_weak:
        labels = shared.labels[indices]
        variables = {
            "params": params["weak_classifier"],
            "batch_stats": batch_stats["weak_classifier"],
        }
        from_codes = isinstance(spec.weak_classifier, LatentClassifier)
        (logits, _), new = spec.weak_classifier.apply(
            variables,
            z if from_codes else generated,
            train=train,
            keys=keys,
            mutable="batch_stats",
        )
        batch_stats["weak_classifier"] = new.get("batch_stats", {})
        # Batches of `code_fit.fit_step` have labelled and unlabelled images in them.
        weights = jnp.where(labels < 0, 0, shared.class_weights[labels])
        each = losses.weak_loss(spec.weak_loss, logits, labels, spec.weak_smoothing)
        weak_loss = (weights * each).mean()
        metrics["loss"] = reconstruction + spec.gamma * weak_loss
        name = "cosine_loss" if spec.weak_loss == "cosine" else "cross_entropy"
        metrics[name] = weak_loss
        metrics["weak_accuracy"] = 100 * (logits.argmax(-1) == labels).mean()
    return metrics["loss"], (batch_stats, metrics)


def train_step(
    state: TrainState,
    shared: Shared,
    indices: jax.Array,
    *,
    spec: StepSpec,
    labelled: bool,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of Algorithm 1: updates theta, the codes of the batch and, if labelled, phi.

    Runs inside a `parallel.MappedStep`; all draws depend on (key, step, image) only, so N devices
    compute what one computes.

    Args:
      indices: int32 [B], this device's images, none twice on any device.
      labelled: whether the images have labels: L = L_rec + gamma L_ce, else L = L_rec.

    Returns:
      The new state and scalar metrics, means over the batch of all devices.
    """
    keys = codes.example_keys(jax.random.fold_in(shared.key, state.step), indices)
    rows = codes.gather_codes(state.codes, indices)
    eps = spec.generator.draw_noise(keys, rows.z.shape[-1])
    use_weak = labelled and spec.gamma > 0
    loss_fn = functools.partial(
        compute_loss,
        batch_stats=state.batch_stats,
        shared=shared,
        spec=spec,
        use_weak=use_weak,
        keys=jax.vmap(lambda key: jax.random.fold_in(key, draws.Example.DROPOUT))(keys),
    )
    grad_fn = jax.grad(loss_fn, argnums=(0, 1), has_aux=True)
    (grads, code_grads), (batch_stats, metrics) = grad_fn(
        state.params, rows.z, eps, indices
    )
    grads, metrics = jax.lax.pmean((grads, metrics), parallel.AXIS)
    lr_drop = spec.lr_schedule(
        state.step
    )  # for G and the codes; f_phi's rate never drops
    # The networks minimise the batch's mean loss, each code its own image's loss: undo the 1 / B.
    rows = codes.update_codes(
        rows, code_grads * len(indices), lr_drop * spec.code_lr, spec.adam
    )
    indices, rows = jax.lax.all_gather((indices, rows), parallel.AXIS, tiled=True)

    params, opt_state = dict(state.params), dict(state.opt_state)
    optimisers = {"generator": (spec.adam, lr_drop * spec.generator_lr)}
    if use_weak:
        optimisers["weak_classifier"] = (spec.weak_tx, spec.weak_lr)
        if not spec.weak_scaled:
            unscaled = jax.tree.map(lambda g: g / spec.gamma, grads["weak_classifier"])
            grads = {**grads, "weak_classifier": unscaled}
    for name, (tx, lr) in optimisers.items():
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


class Schedule:
    """Maps a global step to (labelled?, images): every epoch has a labelled and an unlabelled pass.

    The last pass of an epoch is the one that train.epoch_ends_on names. The passes over either kind go
    on from epoch to epoch: their images do not depend on the number of steps of the other kind.
    """

    def __init__(
        self,
        config: ConfigDict,
        dataset: Dataset,
        key: jax.Array,
        devices: Sequence[jax.Device],
    ):
        self.labelled_steps, self.unlabelled_steps = _steps_of_passes(config, dataset)
        self.steps_per_epoch = steps_per_epoch(config, dataset)
        self.total = total_steps(config, dataset)
        ends_on_labelled = config.train.epoch_ends_on == "labelled"
        self._first_labelled = self.unlabelled_steps if ends_on_labelled else 0
        self._first_unlabelled = 0 if ends_on_labelled else self.labelled_steps
        # Labelled steps have f_phi, but unlabelled ones may have more images.
        firsts = [self._first_labelled, self._first_unlabelled]
        self.kinds = firsts if self.unlabelled_steps else firsts[:1]

        def order(purpose: draws.Order, members: np.ndarray) -> BatchOrder:
            size = parallel.per_device(
                config.train.batch_size, len(members), devices, "train.batch_size"
            )
            return BatchOrder(jax.random.fold_in(key, purpose), members, size)

        self._labelled = order(
            draws.Order.LABELLED, np.flatnonzero(dataset.labels >= 0)
        )
        self.batch_size = self._labelled.batch_size
        self._unlabelled = (
            order(draws.Order.UNLABELLED, np.flatnonzero(dataset.labels < 0))
            if self.unlabelled_steps
            else None
        )

    def __call__(self, step: int) -> tuple[bool, np.ndarray]:
        """Returns whether a step belongs to the labelled pass, and its images, int32 [B]."""
        epoch, place = divmod(step, self.steps_per_epoch)
        of_labelled = place - self._first_labelled
        if 0 <= of_labelled < self.labelled_steps:
            return True, self._labelled(epoch * self.labelled_steps + of_labelled)
        of_unlabelled = place - self._first_unlabelled
        return False, self._unlabelled(epoch * self.unlabelled_steps + of_unlabelled)


def steps_per_epoch(config: ConfigDict, dataset: Dataset) -> int:
    """Returns the steps of an epoch on `dataset`, both labelled and unlabelled."""
    return sum(_steps_of_passes(config, dataset))


def total_steps(config: ConfigDict, dataset: Dataset) -> int:
    """Returns the steps of a whole run, both labelled and unlabelled."""
    return config.train.epochs * steps_per_epoch(config, dataset)


def _steps_of_passes(config: ConfigDict, dataset: Dataset) -> tuple[int, int]:
    """Returns the labelled and the unlabelled steps of an epoch; a field of 0 is one whole pass."""
    t = config.train

    def count(steps: int, images: int) -> int:
        return (steps or -(-images // t.batch_size)) if images else 0

    return (
        count(t.steps_per_epoch, dataset.num_labelled),
        count(t.unlabelled_steps, dataset.num_unlabelled),
    )


# What a run begins with


def create_generator(
    config: ConfigDict,
    side: int,
    channels: int,
    axis_name: str | None = parallel.AXIS,
) -> Generator:
    """Builds the generator of images of `side` pixels.

    Args:
      axis_name: mapped axis that batch norm averages over; None: on one device.

    Raises:
      UserError: no generator makes images of this side.
    """
    start_and_doublings(side)
    return Generator(
        size=side,
        channels=channels,
        width=config.generator.width,
        max_width=config.generator.max_width,
        noise=config.latent.noise,
        noise_dim=config.latent.noise_dim,
        noise_std=config.latent.noise_std,
        noise_gain=config.latent.noise_gain,
        normalize_codes=config.generator.normalize_codes,
        dtype=jnp.dtype(config.dtype),
        axis_name=axis_name,
    )


def layers_that_count(config: ConfigDict) -> dict[str, float]:
    """Returns lambda_j of eq. (1) by the names of VGG-16's layers, without those of weight 0."""
    c = config.reconstruction
    weights = zip(c.layers, c.layer_weights, strict=True)
    return {layer: weight for layer, weight in weights if weight}


def create_spec(config: ConfigDict, dataset: Dataset) -> StepSpec:
    """Builds networks and optimisers from the config, for the images of `dataset`.

    Raises:
      UserError: no generator makes images of this side.
    """
    c, t, dtype = config, config.train, jnp.dtype(config.dtype)
    layers = layers_that_count(config)  # the network ends at the deepest
    vgg = VGG16(c.reconstruction.normalize, dtype, tuple(layers))
    if c.weak_classifier.input == "latent":
        weak = LatentClassifier(
            dataset.num_classes, c.latent.dim, c.weak_classifier.dropout, dtype
        )
    else:
        weak = WeakClassifier(
            dataset.num_classes,
            c.weak_classifier.width,
            c.weak_classifier.dropout,
            dtype,
            parallel.AXIS,
            negative_slope=c.weak_classifier.negative_slope,
        )
    steps = steps_per_epoch(config, dataset)
    return StepSpec(
        generator=create_generator(config, *dataset.side_and_channels),
        weak_classifier=weak,
        reconstruction=losses.ReconstructionLoss(
            vgg if c.reconstruction.loss == "perceptual" else None,
            tuple(layers.values()),
            c.reconstruction.pixel_weight,
        ),
        gamma=c.weak_classifier.gamma,
        weak_loss=c.weak_classifier.loss,
        weak_smoothing=c.weak_classifier.label_smoothing,
        weak_scaled=c.weak_classifier.scale_gradient,
        generator_lr=t.generator_lr,
        code_lr=t.code_lr,
        adam_b1=t.adam_b1,
        adam_b2=t.adam_b2,
        lr_drops=tuple((epoch * steps, t.lr_drop) for epoch in t.lr_drop_epochs),
        weak_lr=t.weak_lr,
        weak_momentum=t.weak_momentum,
        weak_weight_decay=t.weak_weight_decay,
    )


def create_shared(
    key: jax.Array, dataset: Dataset, vgg: Params, cache_gb: float, *, spec: StepSpec
) -> Shared:
    """Returns the `Shared` of steps on `dataset`; its cached features are only shapes as yet.

    Args:
      key: the run's key. vgg: parameters of the perceptual network.
      cache_gb: memory that features of all images may take, GB; 0: none are kept.
    """
    side = spec.generator.size
    features = spec.reconstruction.feature_shapes(len(dataset.ids), side, cache_gb)
    labels, weights = dataset.labels, dataset.class_weights
    return Shared(key, dataset.images, labels, weights, vgg, features)


def compute_features(shared: Shared, *, spec: StepSpec) -> Shared:
    """Returns `shared` with the features of its images in the place of their shapes."""
    if not shared.features:
        return shared
    features = spec.reconstruction.compute_features(shared.images, shared.vgg)
    return shared._replace(features=features)


def init_state(
    key: jax.Array,
    first: jax.Array | None = None,
    *,
    spec: StepSpec,
    n: int,
    dim: int,
) -> TrainState:
    """Creates the state before the first step.

    Args:
      first: codes [n, dim] to start from, see `code_init`; None: uniform on the sphere.
      n: number of images. dim: d, length of the codes.
    """
    key_codes = jax.random.fold_in(key, draws.Init.CODES)
    key_generator = jax.random.fold_in(key, draws.Init.GENERATOR)
    key_weak = jax.random.fold_in(key, draws.Init.WEAK_CLASSIFIER)
    if first is None:
        all_codes = codes.init_codes(key_codes, n, dim, spec.adam)
    else:
        all_codes = codes.create_codes(first, spec.adam)
    generator = init_generator(spec.generator, key_generator, dim)
    shape = (1, spec.generator.size, spec.generator.size, spec.generator.channels)
    from_codes = isinstance(spec.weak_classifier, LatentClassifier)
    weak_input = all_codes.z[:1] if from_codes else jnp.zeros(shape)
    weak = spec.weak_classifier.init(key_weak, weak_input, train=False)
    networks = {"generator": generator, "weak_classifier": weak}
    params = {name: v["params"] for name, v in networks.items()}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats={name: v.get("batch_stats", {}) for name, v in networks.items()},
        opt_state={
            "generator": spec.adam.init(params["generator"]),
            "weak_classifier": spec.weak_tx.init(params["weak_classifier"]),
        },
        codes=all_codes,
    )


def init_generator(generator: Generator, key: jax.Array, dim: int) -> Params:
    """Creates `params` and `batch_stats` of a generator that takes codes [B, dim]; `key` is a typed key []."""
    length = generator.noise_length(dim)
    eps = jnp.zeros((1, length)) if length else None
    return generator.init(key, jnp.zeros((1, dim)), eps, train=False)
