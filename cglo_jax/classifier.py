"""One training step of the final classifier, with every augmentation method (section 4.2)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from cglo_jax import augment, cglo, codes, losses, parallel, sample
from cglo_jax.config import METHODS
from cglo_jax.data import Dataset, to_float
from cglo_jax.models.resnet import ResNet50
from cglo_jax.models.wide_resnet import WideResNet
from cglo_jax.pixels import Canvas


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
      images: uint8 [n, H, W, C], labelled training images.
      canvas: the same images whole, to crop from; None to train on `images` themselves.
      class_weights: float32 [K], of the cross-entropy.
      sampler: the trained cGLO.
    """

    key: jax.Array
    images: jax.Array
    canvas: Canvas | None
    class_weights: jax.Array
    sampler: sample.Sampler


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """The constants of a step, plain values: equal specs share one compiled step."""

    model: WideResNet | ResNet50
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
    c, num_classes = config.classify, len(dataset.class_names)
    common = {"dtype": jnp.dtype(config.dtype), "axis_name": parallel.AXIS}
    if c.network == "resnet50":
        model = ResNet50(num_classes, **common)
    else:
        model = WideResNet(num_classes, c.depth, c.width, c.dropout, **common)
    return StepSpec(
        model=model,
        method=method,
        sample=sample.create_spec(config, cglo.create_spec(config, dataset).generator),
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
# into config.METHODS, and into FROM_CGLO if it needs a trained cGLO.


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
FROM_CGLO = ("cglo",)  # methods that need a trained cGLO
assert tuple(_REPLACEMENTS) == METHODS


def _crop(shared: Shared, keys: jax.Array, indices: jax.Array) -> jax.Array:
    """The real images [B, H, W, C]: random crops where there is more to see than them."""
    if shared.canvas is None:
        return shared.images[indices]
    crop = functools.partial(augment.random_crop_of_canvas, side=shared.images.shape[1])
    return jax.vmap(crop)(keys, *(leaf[indices] for leaf in shared.canvas))


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
    # Not 0 or 1, which are `split`s of it.
    key_crop = jax.vmap(jax.random.fold_in, (0, None))(key_augment, 2)
    x = to_float(_crop(shared, key_crop, indices))
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
        weights = shared.class_weights[labels]
        loss = (weights * losses.cross_entropy(logits, labels)).mean()
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
