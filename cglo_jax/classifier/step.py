"""One training step of the final classifier, with every augmentation method (section 4.2)."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from cglo_jax.cglo import codes, losses, sampling
from cglo_jax.cglo.algorithm import Params
from cglo_jax.classifier import augment
from cglo_jax.data.dataset import to_float
from cglo_jax.data.pixels import Canvas
from cglo_jax.models.resnet import ResNet50
from cglo_jax.models.wide_resnet import WideResNet
from cglo_jax.training import draws, parallel


@struct.dataclass
class ClassifierState:
    """What training a classifier changes.

    Attributes:
      step: int32 [], steps taken.
      params, batch_stats, opt_state: trees of the network and its optimiser.
      averaged: the parameters' moving average, which is tested; {} for methods without one.
    """

    step: jax.Array
    params: Params
    batch_stats: Params
    opt_state: Any
    averaged: Params


class Shared(NamedTuple):
    """What a step reads and never changes; replicated on every device.

    Attributes:
      key: the run's key; every draw but dropout's is f(key, step, image).
      images: uint8 [n, H, W, C], labelled training images; for mixmatch all of them.
      canvas: the same images whole, to crop from; None to train on `images` themselves.
      class_weights: float32 [K], of the cross-entropy.
      sampler: the trained cGLO.
    """

    key: jax.Array
    images: jax.Array
    canvas: Canvas | None
    class_weights: jax.Array
    sampler: sampling.Sampler


class Method(NamedTuple):
    """What a method changes in a training step of the final classifier.

    Attributes:
      replace: makes a new image for each of the batch, which takes the image's place with
        probability `classify.replace_probability`, before the random crop and flip, see `Replace`.
      augment: changes an image, real or (`classify.augment_synthetic`) new, after the random crop
        and flip, with probability `classify.augment_probability`, see `Augment`.
      loss: (outputs [B, K], targets [B, K]) -> float32 [B].
      from_cglo: whether it needs a trained cGLO.
      semi_supervised: whether it is MixMatch, which has a step of its own, `mixmatch.train_step`.
      reads: config fields on which this method depends and the baseline does not, except those on
        which the cGLO itself depends; "a." stands for all fields of section a; None: any field.
        Experiments train only once what differs in no field that is read.
    """

    replace: "Replace | None" = None
    augment: "Augment | None" = None
    loss: Callable[[jax.Array, jax.Array], jax.Array] = losses.soft_cross_entropy
    from_cglo: bool = False
    semi_supervised: bool = False
    reads: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """The constants of a step, plain values: equal specs share one compiled step."""

    model: WideResNet | ResNet50
    method: Method
    sample: sampling.SampleSpec
    replace_probability: float
    augment_probability: float
    draw_per_batch: bool
    cutout_size: int
    cutout_form: str
    erasing_probability: float
    erasing_fill: tuple[float, ...]
    mixup_alpha: float
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


# (keys [B], key_t [B], indices int32 [B], shared, spec) -> (images float32 [B, H, W, C] in [-1, 1],
# targets float32 [B, K]). What `classify.draw_per` may have drawn once for the batch comes from key_t.
Replace = Callable[
    [jax.Array, jax.Array | None, jax.Array, Shared, StepSpec],
    tuple[jax.Array, jax.Array],
]
# (key, x float32 [H, W, C], spec) -> x
Augment = Callable[[jax.Array, jax.Array, StepSpec], jax.Array]


def create_network(
    config: ConfigDict, num_classes: int, axis_name: str | None = parallel.AXIS
) -> WideResNet | ResNet50:
    """Builds the network that `config.classify` names; axis_name: to average batch norm over."""
    c = config.classify
    common = {"dtype": jnp.dtype(config.dtype), "axis_name": axis_name}
    if c.network == "resnet50":
        return ResNet50(num_classes, **common)
    return WideResNet(num_classes, c.depth, c.width, c.dropout, **common)


def create_spec(
    config: ConfigDict, side: int, channels: int, num_classes: int, method: Method
) -> StepSpec:
    """Builds the constants of training with a method.

    Args:
      side, channels: size of the square images in pixels, and their channels. num_classes: K.
    """
    c = config.classify
    return StepSpec(
        model=create_network(config, num_classes),
        method=method,
        sample=sampling.create_sample_spec(config, side, channels),
        replace_probability=c.replace_probability,
        augment_probability=c.augment_probability,
        draw_per_batch=c.draw_per == "batch",
        cutout_size=c.cutout_size,
        cutout_form=c.cutout_form,
        erasing_probability=c.erasing_probability,
        erasing_fill=tuple(c.erasing_fill),
        mixup_alpha=c.mixup_alpha,
        augment_synthetic=c.augment_synthetic,
        pad=c.pad,
        pad_value=c.pad_value,
        flip=c.flip,
        lr=c.lr,
        lr_drops=tuple((e * c.steps_per_epoch, c.lr_drop) for e in c.lr_drop_epochs),
        momentum=c.momentum,
        weight_decay=c.weight_decay,
    )


def one_hot(shared: Shared, indices: jax.Array) -> jax.Array:
    """Returns the targets float32 [B, K] of the images `indices`, int32 [B]."""
    labels = shared.sampler.labels[indices]
    return jax.nn.one_hot(labels, len(shared.class_weights))


def take_images(shared: Shared, keys: jax.Array, indices: jax.Array) -> jax.Array:
    """Returns real images: random crops of `shared.canvas` if there is one, else the squares `shared.images`.

    Args:
      keys: typed keys [B] of the crops. indices: int32 [B].

    Returns:
      float32 [B, H, W, C] in [-1, 1].
    """
    if shared.canvas is None:
        return to_float(shared.images[indices])
    crop = functools.partial(augment.random_crop_of_canvas, side=shared.images.shape[1])
    return to_float(jax.vmap(crop)(keys, *(leaf[indices] for leaf in shared.canvas)))


def apply_per_example(
    function: Augment,
    keys: jax.Array,
    x: jax.Array,
    probability: float,
    spec: StepSpec,
) -> jax.Array:
    """Applies an augmentation to each image [B, H, W, C] with a probability; keys [B]."""

    def one(key, image):
        key_apply, key_function = jax.random.split(key)
        changed = function(key_function, image, spec)
        return jnp.where(jax.random.bernoulli(key_apply, probability), changed, image)

    return jax.vmap(one)(keys, x)


def create_batch(
    shared: Shared,
    keys: jax.Array,
    indices: jax.Array,
    *,
    spec: StepSpec,
    key_batch: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Makes what a step trains on: images replaced with probability p, then augmented.

    Args:
      keys: typed keys [B]. indices: int32 [B].
      key_batch: a key of the step, for what `classify.draw_per` has drawn once for the batch.

    Returns:
      (images float32 [B, H, W, C] in [-1, 1], targets float32 [B, K]).
    """
    split = jax.vmap(jax.random.split, (0, None), 1)
    key_new, key_replace, key_augment = split(keys, 3)
    fold_in = jax.vmap(jax.random.fold_in, (0, None))
    key_crop = fold_in(key_augment, draws.Augment.CROP_OF_CANVAS)
    key_method = fold_in(key_augment, draws.Augment.METHOD)
    method, targets = spec.method, one_hot(shared, indices)
    x = take_images(shared, key_crop, indices)
    replaced = jnp.zeros(len(indices), bool)
    if method.replace is not None:
        key_t = None
        if spec.draw_per_batch:
            key_replace, key_t = (
                jnp.broadcast_to(key, keys.shape) for key in jax.random.split(key_batch)
            )
        draw = jax.vmap(jax.random.bernoulli, (0, None))
        replaced = draw(key_replace, spec.replace_probability)
        new, new_targets = method.replace(key_new, key_t, indices, shared, spec)
        x = jnp.where(replaced[:, None, None, None], new, x)
        targets = jnp.where(replaced[:, None], new_targets, targets)
    augmented = augment.standard(
        key_augment, x, pad=spec.pad, flip=spec.flip, pad_value=spec.pad_value
    )
    if method.augment is not None:
        augmented = apply_per_example(
            method.augment, key_method, augmented, spec.augment_probability, spec
        )
    if not spec.augment_synthetic:
        augmented = jnp.where(replaced[:, None, None, None], x, augmented)
    return augmented, targets


def train_step(
    state: ClassifierState, shared: Shared, indices: jax.Array, *, spec: StepSpec
) -> tuple[ClassifierState, dict[str, jax.Array]]:
    """One SGD step on images made on the device; runs inside a `parallel.MappedStep`.

    Args:
      indices: int32 [B], this device's images.
    """
    key = jax.random.fold_in(shared.key, state.step)
    keys = codes.example_keys(key, indices)
    key_batch = jax.random.fold_in(key, draws.Batch.REPLACEMENT)
    key_dropout = jax.random.fold_in(key, draws.Batch.DROPOUT)
    x, targets = create_batch(shared, keys, indices, spec=spec, key_batch=key_batch)
    device = jax.lax.axis_index(parallel.AXIS)
    rngs = {"dropout": jax.random.fold_in(key_dropout, device)}

    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        (logits, _), new = spec.model.apply(
            variables, x, train=True, mutable="batch_stats", rngs=rngs
        )
        weights = targets @ shared.class_weights
        loss = (weights * spec.method.loss(logits, targets)).mean()
        accuracy = 100 * (logits.argmax(-1) == targets.argmax(-1)).mean()
        return loss, (new["batch_stats"], {"loss": loss, "train_accuracy": accuracy})

    grads, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, metrics = jax.lax.pmean((grads, metrics), parallel.AXIS)
    return apply_gradients(state, grads, batch_stats, spec), metrics


def apply_gradients(
    state: ClassifierState, grads: Params, batch_stats: Params, spec: StepSpec
) -> ClassifierState:
    """Returns the state after one step of the optimiser."""
    updates, opt_state = spec.tx.update(grads, state.opt_state, state.params)
    return state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    )


def init_state(key: jax.Array, *, spec: StepSpec) -> ClassifierState:
    """Creates the state before the first step."""
    generator = spec.sample.generator
    image = jnp.zeros((1, generator.size, generator.size, generator.channels))
    variables = spec.model.init(key, image, train=False)
    params = variables["params"]
    return ClassifierState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=spec.tx.init(params),
        # Copies: a donated state must not hold an array twice.
        averaged=jax.tree.map(jnp.copy, params) if spec.method.semi_supervised else {},
    )


def create_state(
    key: jax.Array,
    spec: StepSpec,
    body: tuple[Params, Params] | None,
    devices: Sequence[jax.Device],
) -> ClassifierState:
    """Creates the state before the first step, on every device, see `stages.classify.load_body`."""
    state = parallel.create_replicated(init_state, devices, key, spec=spec)
    if body is None:
        return state
    params, batch_stats = parallel.replicate(body, devices)
    params = {**params, "head": state.params["head"]}
    # Copies: a donated state must not hold an array twice.
    averaged = jax.tree.map(jnp.copy, params) if state.averaged else {}
    return state.replace(params=params, batch_stats=batch_stats, averaged=averaged)


def split_state(state: ClassifierState) -> tuple[Params, Params]:
    """Splits a state into what inference needs and the rest, the two items of a checkpoint."""
    model = {"params": state.params, "batch_stats": state.batch_stats}
    if state.averaged:
        model["averaged"] = state.averaged
    return model, {"step": state.step, "opt_state": state.opt_state}


def merge_state(model: Params, rest: Params) -> ClassifierState:
    """Inverse of `split_state`."""
    return ClassifierState(
        step=rest["step"],
        params=model["params"],
        batch_stats=model["batch_stats"],
        opt_state=rest["opt_state"],
        averaged=model.get("averaged", {}),
    )
