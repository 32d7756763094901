"""The model of the paper, its state and its loss, as pure functions."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from cglo_jax.cglo import codes, losses
from cglo_jax.cglo.reconstruction import (
    cache_features,
    cached_shapes,
    reconstruction_loss,
)
from cglo_jax.data.dataset import Dataset, to_float
from cglo_jax.errors import UserError
from cglo_jax.models.generator import Generator, start_and_doublings
from cglo_jax.models.vgg import VGG16
from cglo_jax.models.weak_classifier import LatentClassifier, WeakClassifier
from cglo_jax.training import parallel
from cglo_jax.training.batches import unlabelled_steps_per_epoch


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
      class_weights: float32 [K], of the weak classifier's cross-entropy.
      vgg: parameters of the perceptual network, {} if it is not used.
      features: what it makes of the images, {} if that is computed at every step; see
        `reconstruction.cache_features`.
    """

    key: jax.Array
    images: jax.Array
    labels: jax.Array
    class_weights: jax.Array
    vgg: dict[str, Any]
    features: dict[str, jax.Array]


def create_shared(
    key: jax.Array, dataset: Dataset, vgg: dict[str, Any], cache_gb: float, *, spec: Any
) -> Shared:
    """Returns what the steps on `dataset` read; cache_gb: see `reconstruction.cache_features`."""
    features = cache_features(dataset.images, vgg, cache_gb, spec=spec)
    outline = outline_shared(key, dataset, vgg, cache_gb, spec=spec)
    return outline._replace(features=features)


def outline_shared(
    key: jax.Array, dataset: Dataset, vgg: dict[str, Any], cache_gb: float, *, spec: Any
) -> Shared:
    """Returns `create_shared` with shapes and types in the place of features."""
    features = cached_shapes(len(dataset.ids), cache_gb, spec=spec)
    labels, weights = dataset.labels, dataset.class_weights
    return Shared(key, dataset.images, labels, weights, vgg, features)


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """The constants of a step, plain values: equal specs share one compiled step."""

    generator: Generator
    weak_classifier: WeakClassifier | LatentClassifier
    vgg: VGG16 | None  # None: Laplacian pyramid loss
    layer_weights: tuple[float, ...]
    pixel_weight: float
    gamma: float
    weak_loss: str  # of losses.WEAK_LOSSES
    noise_added: bool  # to the codes, beside which it stands otherwise
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


def scale_rates(spec: StepSpec, factor: float) -> StepSpec:
    """Returns the constants with all learning rates times `factor`."""
    names = ("generator_lr", "code_lr", "weak_lr")
    return dataclasses.replace(spec, **{n: getattr(spec, n) * factor for n in names})


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
    vgg = VGG16(c.reconstruction.normalize, jnp.dtype(c.dtype))
    num_classes = len(dataset.class_names)
    if c.weak_classifier.input == "latent":
        weak = LatentClassifier(num_classes, c.latent.dim, jnp.dtype(c.dtype))
    else:
        weak = WeakClassifier(num_classes, c.weak_classifier.width, **common)
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
        weak_classifier=weak,
        vgg=vgg if perceptual else None,
        layer_weights=tuple(c.reconstruction.layer_weights),
        pixel_weight=c.reconstruction.pixel_weight,
        gamma=c.weak_classifier.gamma,
        weak_loss=c.weak_classifier.loss,
        noise_added=c.latent.noise == "additive",
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
      first: codes [n, dim] to start from, see `init_codes`; None: uniform on the sphere.
    """
    key_codes, key_generator, key_weak = (jax.random.fold_in(key, i) for i in range(3))
    if first is None:
        all_codes = codes.init_codes(key_codes, n, dim, spec.adam)
    else:
        all_codes = codes.create_codes(first, spec.adam)
    z = all_codes.z[:1]
    eps = jnp.zeros((1, spec.generator.noise_dim)) if spec.generator.noise_dim else None
    generator = spec.generator.init(key_generator, z, eps, train=False)
    shape = (1, spec.generator.size, spec.generator.size, spec.generator.channels)
    of_codes = isinstance(spec.weak_classifier, LatentClassifier)
    weak_input = z if of_codes else jnp.zeros(shape)
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


def draw_noise(keys: jax.Array, dim: int, std: float) -> jax.Array | None:
    """Draws eps ~ N(0, std^2 I) for each of the keys [B] -> float32 [B, dim]; None for dim 0."""
    if not dim:
        return None
    return std * jax.vmap(lambda key: jax.random.normal(key, (dim,)))(keys)


def draw_noise_for(z: jax.Array, keys: jax.Array, *, spec: Any) -> jax.Array | None:
    """Draws the noise that goes with codes z [B, d] into G, one of the keys [B] for each.

    Args:
      spec: a `StepSpec` or a `sampling.SampleSpec`.

    Returns:
      float32 [B, d] if it is added, [B, noise_dim] if it is appended, None without noise.
    """
    dim = z.shape[-1] if spec.noise_added else spec.generator.noise_dim
    return draw_noise(keys, dim, spec.noise_std)


def enter_noise(
    z: jax.Array, eps: jax.Array | None, *, spec: Any
) -> tuple[jax.Array, jax.Array | None]:
    """Returns (codes [B, d], noise) as G takes them: [z, eps], or z + eps (section 5.2).

    z + eps is not projected: it lies beside the sphere, in a ball around z.
    """
    return (z + eps, None) if spec.noise_added else (z, eps)


def compute_loss(
    params: dict[str, Any],
    z: jax.Array,
    eps: jax.Array | None,
    indices: jax.Array,
    *,
    batch_stats: dict[str, Any],
    shared: Shared,
    spec: StepSpec,
    use_weak: bool,
    train: bool = True,
) -> tuple[jax.Array, tuple[dict[str, Any], dict[str, jax.Array]]]:
    """Computes L = L_rec + gamma L_ce of Algorithm 1, or L = L_rec without the weak classifier.

    L_ce of an unlabelled image is 0. It is of G's image, or of z itself, before noise is
    added, if f_phi takes codes. It may be another loss, see losses.WEAK_LOSSES.

    Args:
      params, batch_stats: of both networks, see `TrainState`.
      z: codes [B, d] of the images `indices` [B]. eps: see `draw_noise_for`.
      train: both networks normalise by batch statistics, else by running ones, which then
        stay as they are.

    Returns:
      (mean loss over this device's batch, (new batch_stats, metrics)).
    """
    x = to_float(shared.images[indices])  # [B, H, W, C]
    images, new = spec.generator.apply(
        {"params": params["generator"], "batch_stats": batch_stats["generator"]},
        *enter_noise(z, eps, spec=spec),
        train=train,
        mutable="batch_stats",
    )
    batch_stats = {**batch_stats, "generator": new["batch_stats"]}
    features = {name: f[indices] for name, f in shared.features.items()}
    reconstruction = reconstruction_loss(
        images, x, shared.vgg, features, spec=spec
    ).mean()
    metrics = {"loss": reconstruction, "reconstruction": reconstruction}
    if use_weak:
        labels = shared.labels[indices]
        variables = {
            "params": params["weak_classifier"],
            "batch_stats": batch_stats["weak_classifier"],
        }
        of_codes = isinstance(spec.weak_classifier, LatentClassifier)
        (logits, _), new = spec.weak_classifier.apply(
            variables, z if of_codes else images, train=train, mutable="batch_stats"
        )
        batch_stats["weak_classifier"] = new.get("batch_stats", {})
        weights = jnp.where(labels < 0, 0, shared.class_weights[labels])
        weak_loss = (
            weights * losses.WEAK_LOSSES[spec.weak_loss](logits, labels)
        ).mean()
        metrics["loss"] = reconstruction + spec.gamma * weak_loss
        name = "cosine_loss" if spec.weak_loss == "cosine" else "cross_entropy"
        metrics[name] = weak_loss
        metrics["weak_accuracy"] = 100 * (logits.argmax(-1) == labels).mean()
    return metrics["loss"], (batch_stats, metrics)
