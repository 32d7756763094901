"""The reconstruction loss of cGLO, and the features of its targets, which never change."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cglo_jax.cglo import losses
from cglo_jax.data.dataset import batch_that_fits, to_float
from cglo_jax.models.vgg import TAPS, to_rgb
from cglo_jax.training import memory, parallel


def _weights(spec: Any) -> dict[str, float]:
    """Returns lambda_j of the layers that count."""
    weights = zip(TAPS, spec.layer_weights, strict=True)
    return {tap: weight for tap, weight in weights if weight}


def _features(images: jax.Array, vgg: Any, *, spec: Any) -> dict[str, jax.Array]:
    """Computes the features of images [B, H, W, C] in [-1, 1] that count, by layer."""
    _, features = spec.vgg.apply({"params": vgg}, to_rgb(images))
    return {name: features[name] for name in _weights(spec)}


def cached_shapes(
    n: int, most_gb: float, *, spec: Any
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns what `cache_features` makes of n images in shapes and types; {} if it keeps nothing.

    Args:
      most_gb: memory that they may take, GB.
    """
    if spec.vgg is None:
        return {}
    side = spec.generator.size
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    (_, features), _ = jax.eval_shape(
        spec.vgg.init_with_output, jax.random.key(0), image
    )
    shapes = {
        name: jax.ShapeDtypeStruct((n, *features[name].shape[1:]), features[name].dtype)
        for name in _weights(spec)
    }
    return shapes if memory.tree_bytes(shapes) <= most_gb * memory.GB else {}


def cache_features(
    images: np.ndarray, vgg: Any, most_gb: float, *, spec: Any
) -> dict[str, np.ndarray]:
    """Computes the features of all training images, unless they take too much memory.

    x is not augmented while cGLO is trained, so xi_j(x) of eq. (1) is the same at every step, but
    for rounding.

    Args:
      images: uint8 [n, H, W, C]. vgg: parameters of the perceptual network.
      most_gb: memory that they may take, GB.

    Returns:
      {layer: [n, H_j, W_j, C_j]} in the network's compute type; {} if they take more, or if the
      loss has no network.
    """
    if not cached_shapes(len(images), most_gb, spec=spec):
        return {}
    vgg = jax.device_put(vgg)
    batch = min(len(images), batch_that_fits(images.shape[1]))
    compute = functools.partial(_features_of_uint8, spec=spec)
    return parallel.map_batches(lambda some: compute(some, vgg), images, batch)


@functools.partial(jax.jit, static_argnames="spec")
def _features_of_uint8(
    images: jax.Array, vgg: Any, *, spec: Any
) -> dict[str, jax.Array]:
    return _features(to_float(images), vgg, spec=spec)


def reconstruction_loss(
    x: jax.Array,
    y: jax.Array,
    vgg: Any,
    features_y: dict[str, jax.Array] | None = None,
    *,
    spec: Any,
) -> jax.Array:
    """Eq. (1) plus a pixel term, or GLO's Laplacian loss, between images [B, H, W, C] -> [B].

    Args:
      x: reconstructions. y: targets, not differentiated.
      features_y: of y, see `cache_features`; computed if not given.
      spec: a `algorithm.StepSpec`.
    """
    if spec.vgg is None:
        return losses.laplacian_loss(x, y) + spec.pixel_weight * losses.pixel_l1(x, y)
    features_x = _features(x, vgg, spec=spec)
    if not features_y:
        features_y = jax.lax.stop_gradient(_features(y, vgg, spec=spec))
    perceptual = losses.perceptual_loss(features_x, features_y, _weights(spec))
    return perceptual + spec.pixel_weight * losses.pixel_l1(x, y)
