"""Initial codes that depend on the images' labels or content (section 5.2, "Z Initialization")."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import codes
from cglo_jax.data.dataset import Dataset, batch_that_fits, to_float
from cglo_jax.errors import UserError
from cglo_jax.models.resnet import ResNet50
from cglo_jax.pretrained import networks
from cglo_jax.pretrained.networks import NO_WEIGHTS, RANDOM, Origin
from cglo_jax.training import draws, parallel

_RESNET = ResNet50(1)  # its one logit is not read


def load_resnet(config: ConfigDict) -> tuple[dict[str, Any] | None, Origin]:
    """Returns the variables of the ResNet-50 that codes start from, and their origin.

    They are None if `latent.init` does not use it.

    Raises:
      UserError: they cannot be had, see `networks.load`.
    """
    if config.latent.init != "resnet":
        return None, NO_WEIGHTS
    if config.latent.init_weights == "random":
        init = jax.jit(functools.partial(_RESNET.init, train=False))
        return init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))), RANDOM
    tensors, provenance = networks.load("resnet50", config.latent.init_weights)
    params, batch_stats = networks.resnet50_variables(tensors)
    params["head"] = {"kernel": np.zeros((2048, 1)), "bias": np.zeros(1)}
    return {"params": params, "batch_stats": batch_stats}, provenance.summary


def join_origins(perceptual: Origin, start: Origin) -> Origin:
    """Returns the origin of the perceptual network and of the one that codes start from.

    It is external if one of the two is.
    """
    if start == NO_WEIGHTS:
        return perceptual
    if not (perceptual.external or start.external):
        return RANDOM
    text = start.text if start.external else "a random ResNet-50"
    return Origin(
        f"{perceptual.digest}+{start.digest}",
        f"{perceptual.text}; codes started from {text}",
    )


def draw(
    config: ConfigDict, key: jax.Array, dataset: Dataset, resnet: dict[str, Any] | None
) -> np.ndarray | None:
    """Makes the codes that `latent.init` asks for.

    Args:
      key: the run's key. resnet: see `load_resnet`.

    Returns:
      float32 [n, d], unit rows; None for "sphere", which `algorithm.init_state` draws itself.

    Raises:
      UserError: the cube has fewer vertices than there are classes.
    """
    dim = config.latent.dim
    if config.latent.init == "hypercube":
        key = jax.random.fold_in(key, draws.Init.CODES_FROM_IMAGES)
        key_vertices, key_images = jax.random.split(key)
        vertices = draw_vertices(key_vertices, len(dataset.class_names), dim)
        noise = config.latent.init_noise
        return draw_beside(key_images, vertices, dataset.labels, noise)
    if config.latent.init == "resnet":
        return project_activations(compute_activations(resnet, dataset.images), dim)
    return None


def draw_vertices(key: jax.Array, num_classes: int, dim: int) -> np.ndarray:
    """Draws a vertex of the cube for each class, no two the same -> float32 [K, dim], length 1.

    Raises:
      UserError: there are more classes than vertices.
    """
    if num_classes > 2**dim:
        raise UserError(
            f"config.latent.dim is {dim}: a hypercube has {2**dim} vertices there, too few "
            f"for {num_classes} classes: use {(num_classes - 1).bit_length()} or more"
        )
    signs = np.zeros((0, dim), np.float32)
    for attempt in itertools.count():
        key_more = jax.random.fold_in(key, attempt)
        more = jax.random.rademacher(key_more, (num_classes, dim), np.float32)
        drawn = np.concatenate([signs, more])
        _, first = np.unique(drawn, axis=0, return_index=True)
        signs = drawn[np.sort(first)]
        if len(signs) >= num_classes:
            return signs[:num_classes] / np.float32(np.sqrt(dim))


def draw_beside(
    key: jax.Array, vertices: np.ndarray, labels: np.ndarray, noise: float
) -> np.ndarray:
    """Draws a code near its class's vertex for each image, f(key, image).

    A vertex plus N(0, noise^2 / d I), which is about `noise` long, projected. The code of an
    unlabelled image (label -1) is uniform on the sphere.

    Args:
      vertices: float32 [K, d]. labels: int [n].

    Returns:
      float32 [n, d], unit rows.
    """
    dim = vertices.shape[1]
    keys = codes.example_keys(key, jnp.arange(len(labels)))
    normal = np.asarray(jax.vmap(lambda k: jax.random.normal(k, (dim,)))(keys))
    beside = vertices[labels] + np.float32(noise / np.sqrt(dim)) * normal
    z = np.where(labels[:, None] < 0, normal, beside)
    return np.asarray(codes.project_codes(z))


def compute_activations(variables: dict[str, Any], images: np.ndarray) -> np.ndarray:
    """Computes the penultimate activations of a ResNet-50 for all images, labelled or not.

    Images keep their size, are normalised as ImageNet's, and grey images are repeated to three
    channels. One device computes all activations, so that they do not depend on the number of devices.

    Args:
      variables: see `load_resnet`. images: uint8 [n, H, W, C].

    Returns:
      float32 [n, 2048].
    """
    variables = jax.device_put(variables)
    size = min(len(images), batch_that_fits(images.shape[1]))
    activate = functools.partial(_activate, variables)
    return parallel.map_batches(activate, images, size)


@jax.jit
def _activate(variables: dict[str, Any], images: jax.Array) -> jax.Array:
    _, features = _RESNET.apply(variables, to_float(images), train=False)
    return features["embedding"]


def project_activations(activations: np.ndarray, dim: int) -> np.ndarray:
    """Brings activations [n, f] to the sphere in R^dim -> float32 [n, dim].

    They are centred over the images (after a ReLU all lie on one side of the origin) and, if
    f is not `dim`, mapped by a Gaussian matrix that is the same for every seed.
    """
    mean = activations.mean(0, dtype=np.float64, keepdims=True)
    z = activations - mean.astype(np.float32)
    if z.shape[1] != dim:
        z = z @ np.asarray(jax.random.normal(jax.random.key(0), (z.shape[1], dim)))
    return np.asarray(codes.project_codes(z))
