"""Losses of cGLO; each returns one float32 value per example, [B].

`ReconstructionLoss` is what Algorithm 1 minimises: eq. (1) of VGG-16 features, or GLO's Laplacian
loss, and a pixel term. The features of its targets never change, so that they can be kept.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cglo_jax.cglo import quality
from cglo_jax.data.dataset import batch_that_fits, to_float
from cglo_jax.errors import UserError
from cglo_jax.models.vgg import VGG16, to_rgb
from cglo_jax.training import memory, parallel

# Burt & Adelson's generating kernel with a = 3/8: the binomial, sum 16.
_BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16
_IMAGES = 256  # that give the mean activations of a perceptual network


@dataclasses.dataclass(frozen=True)
class ReconstructionLoss:
    """The loss between an image and its reconstruction: constants of a compiled step.

    Attributes:
      vgg: the perceptual network of eq. (1); None: the Laplacian pyramid loss takes its place.
      layer_weights: lambda_j of the layers `vgg.taps`.
      pixel_weight: weight of the mean absolute pixel difference, which is added.
    """

    vgg: VGG16 | None
    layer_weights: tuple[float, ...]
    pixel_weight: float

    def __call__(
        self,
        generated: jax.Array,
        target: jax.Array,
        params: Any,
        target_features: dict[str, jax.Array] | None = None,
    ) -> jax.Array:
        """Computes eq. (1) plus the pixel term, or GLO's loss, per image.

        Args:
          generated: float32 [B, H, W, C] in [-1, 1].
          target: float32 [B, H, W, C] in [-1, 1], not differentiated.
          params: parameters of the perceptual network; {} without one.
          target_features: features of `target`, rows of `compute_features`' result; computed if not
            given.

        Returns:
          float32 [B].
        """
        if self.vgg is None:
            pyramid = laplacian_loss(generated, target)
            return pyramid + self.pixel_weight * pixel_l1(generated, target)
        features = self._features(generated, params)
        if not target_features:
            target_features = jax.lax.stop_gradient(self._features(target, params))
        perceptual = perceptual_loss(features, target_features, self._weights)
        return perceptual + self.pixel_weight * pixel_l1(generated, target)

    def divide_by_activations(
        self, images: np.ndarray, params: Any
    ) -> "ReconstructionLoss":
        """Returns the loss with lambda_j / mean(|xi_j(x)|) in the place of each lambda_j.

        So a weight says the same for every perceptual network, however large its activations.

        Args:
          images: uint8 [n, H, W, C]; up to _IMAGES of them, evenly spread, give the means.
          params: parameters of the perceptual network.

        Returns:
          A loss with other weights; itself if it has no perceptual network.

        Raises:
          UserError: a layer is 0 for all images.
        """
        if self.vgg is None:
            return self
        few = quality.spread(len(images), _IMAGES)
        compute = functools.partial(
            _mean_activations, params=jax.device_put(params), loss=self
        )
        size = min(len(few), batch_that_fits(images.shape[1]))
        each = parallel.map_batches(compute, images[few], size)
        means = {name: float(v.mean(dtype=np.float64)) for name, v in each.items()}
        if dead := [name for name, mean in means.items() if not mean > 0]:
            raise UserError(
                f"config.reconstruction.unit_activations: {dead[0]} of the VGG-16 is 0 for all "
                "training images: give the layer the weight 0 in "
                "config.reconstruction.layer_weights, or take other weights"
            )
        scaled = tuple(weight / means[tap] for tap, weight in self._weights.items())
        return dataclasses.replace(self, layer_weights=scaled)

    def feature_shapes(
        self, n: int, side: int, most_gb: float
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and types of the features of n images, {} if they are not to be kept.

        Args:
          side: side length of the images, pixels.
          most_gb: memory that all features may take, GB.
        """
        if self.vgg is None:
            return {}
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        (_, features), _ = jax.eval_shape(
            self.vgg.init_with_output, jax.random.key(0), image
        )
        shapes = {
            name: jax.ShapeDtypeStruct(
                (n, *features[name].shape[1:]), features[name].dtype
            )
            for name in self._weights
        }
        return shapes if memory.tree_bytes(shapes) <= most_gb * memory.GB else {}

    def compute_features(
        self, images: np.ndarray, params: Any
    ) -> dict[str, np.ndarray]:
        """Computes the features xi_j of all training images, the targets of eq. (1).

        Targets are not augmented while cGLO is trained, so that their features are the same at every
        step, but for rounding.

        Args:
          images: uint8 [n, H, W, C]. params: parameters of the perceptual network.

        Returns:
          {layer: [n, H_j, W_j, C_j]} in the network's compute type.
        """
        params = jax.device_put(params)
        size = min(len(images), batch_that_fits(images.shape[1]))
        compute = functools.partial(_features_of_uint8, params=params, loss=self)
        return parallel.map_batches(compute, images, size)

    @property
    def _weights(self) -> dict[str, float]:
        return dict(zip(self.vgg.taps, self.layer_weights, strict=True))

    def _features(self, images: jax.Array, params: Any) -> dict[str, jax.Array]:
        """Computes the features of images [B, H, W, C] in [-1, 1], by layer."""
        return self.vgg.apply({"params": params}, to_rgb(images))[1]


@functools.partial(jax.jit, static_argnames="loss")
def _features_of_uint8(
    images: jax.Array, params: Any, *, loss: ReconstructionLoss
) -> dict[str, jax.Array]:
    return loss._features(to_float(images), params)


@functools.partial(jax.jit, static_argnames="loss")
def _mean_activations(
    images: jax.Array, params: Any, *, loss: ReconstructionLoss
) -> dict[str, jax.Array]:
    features = loss._features(to_float(images), params)
    return {name: _mean_abs(f.astype(jnp.float32)) for name, f in features.items()}


def perceptual_loss(
    features_x: dict[str, jax.Array],
    features_y: dict[str, jax.Array],
    weights: dict[str, float],
) -> jax.Array:
    """Computes eq. (1): sum_j lambda_j |xi_j(x) - xi_j(y)|_1, each norm as a mean.

    Args:
      features_x: Layer name -> features [B, H_j, W_j, C_j], of any float type.
      features_y: The same of the other images.
      weights: Layer name -> lambda_j; layers not named here do not count.
    """
    terms = [
        weight * pixel_l1(features_x[layer], features_y[layer])
        for layer, weight in weights.items()
    ]
    return sum(terms)  # [B]


def pixel_l1(x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes the mean absolute difference of x and y [B, H, W, C] per example."""
    if x.shape != y.shape:
        raise ValueError(f"shapes differ: {x.shape} and {y.shape}")
    difference = x.astype(jnp.float32) - y.astype(jnp.float32)
    return _mean_abs(difference)


def laplacian_loss(x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes GLO's Lap_1 loss: sum_j 4^j |L_j(x) - L_j(y)|_1 / (H W C).

    Level j has 4^j times fewer values than the image, so this is the sum of the levels'
    mean absolute differences; the pyramid is linear, so one of x - y does.

    Args:
      x: Images [B, H, W, C] in [-1, 1].
      y: Images of the same shape.

    Source: Bojanowski et al. (2018), Optimizing the Latent Space of Generative
    Networks, section 3.
    """
    if x.shape != y.shape:
        raise ValueError(f"shapes differ: {x.shape} and {y.shape}")
    difference = x.astype(jnp.float32) - y.astype(jnp.float32)
    return sum(_mean_abs(level) for level in laplacian_pyramid(difference))  # [B]


def laplacian_pyramid(x: jax.Array) -> list[jax.Array]:
    """Splits images [B, H, W, C] into band-pass levels and the low-pass rest.

    A level is the image less its blurred, halved and interpolated self; the halved
    image is the input of the next. Sides halve while both are even and above 2:
    32 px gives levels of 32, 16, 8 and 4 and a rest of 2. Edges are replicated.

    Source: Burt & Adelson (1983), The Laplacian Pyramid as a Compact Image Code.
    """
    levels = []
    while all(side % 2 == 0 and side > 2 for side in x.shape[1:3]):
        low = _apply(x, _reduce_matrix)
        levels.append(x - _apply(low, _expand_matrix))
        x = low
    return [*levels, x]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes -log softmax(logits)[label] of logits [B, K] and int labels [B]."""
    return optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), labels
    )


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Computes -sum_k targets_k log softmax(logits)_k of logits and targets [B, K]."""
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def cosine_loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Computes 1 - cos(outputs, targets) of each row [B, K], in [0, 2]; 1 for outputs of 0.

    Source: Barz & Denzler (2019), Deep Learning on Small Datasets without Pre-Training
    using Cosine Loss, eq. (3), with one-hot targets.
    """
    return 1 - (_normalise(outputs.astype(jnp.float32)) * _normalise(targets)).sum(-1)


def _normalise(x: jax.Array) -> jax.Array:
    # Not x / |x|: the gradient of a row of zeros would be NaN.
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12))


def _mean_abs(x: jax.Array) -> jax.Array:
    return jnp.abs(x).mean(tuple(range(1, x.ndim)))


def _apply(x: jax.Array, matrix: Callable[[int], np.ndarray]) -> jax.Array:
    """Applies the matrix that fits to the rows and the columns of x [B, H, W, C]."""
    rows, columns = matrix(x.shape[1]), matrix(x.shape[2])
    # The default precision of GPUs (TF32) would leave the image's copy in its levels.
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    x = product("hH,bHWc->bhWc", rows, x)
    return product("wW,bhWc->bhwc", columns, x)


@functools.cache
def _reduce_matrix(n: int) -> np.ndarray:
    """Builds [n/2, n]: blur, then keep every second sample, from the first on."""
    matrix = np.zeros((n // 2, n), np.float32)
    for i in range(n // 2):
        for tap, weight in zip(range(-2, 3), _BINOMIAL, strict=True):
            matrix[i, np.clip(2 * i + tap, 0, n - 1)] += weight
    return matrix


@functools.cache
def _expand_matrix(n: int) -> np.ndarray:
    """Builds [2n, n]: put zeros between the samples, then blur with twice the kernel.

    Even outputs weigh samples by 1, 6, 1 over 8, odd ones by 4, 4 over 8.
    """
    matrix = np.zeros((2 * n, n), np.float32)
    for i in range(2 * n):
        for tap, weight in zip(range(-2, 3), _BINOMIAL, strict=True):
            if (i + tap) % 2 == 0:
                matrix[i, np.clip((i + tap) // 2, 0, n - 1)] += 2 * weight
    return matrix


def weak_loss(
    name: str, outputs: jax.Array, labels: jax.Array, smoothing: float = 0.0
) -> jax.Array:
    """Computes the loss of f_phi, float32 [B]; where the label is -1, any finite value.

    Args:
      name: "cross_entropy"; "cosine"; "double_softmax": cross-entropy of a softmax used as logits, as
        in the authors' code, which is at least log(1 + (K - 1) / e).
      outputs: of f_phi [B, K]. labels: int [B].
      smoothing: of the labels, in [0, 1): targets are (1 - smoothing) one-hot + smoothing / K.
    """
    if name == "double_softmax":
        outputs = jax.nn.softmax(outputs)
    if name != "cosine" and not smoothing:
        return cross_entropy(outputs, labels)
    targets = jax.nn.one_hot(labels, outputs.shape[-1])
    if smoothing:
        targets = optax.smooth_labels(targets, smoothing)
    loss = cosine_loss if name == "cosine" else soft_cross_entropy
    return loss(outputs, targets)
