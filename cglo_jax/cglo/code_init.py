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
from cglo_jax.models.resnet import ResNet18, ResNet50
from cglo_jax.pretrained import networks
from cglo_jax.pretrained.networks import NO_WEIGHTS, RANDOM, Origin
from cglo_jax.training import draws, parallel

# Their one logit is not read.
_RESNETS = {"resnet50": ResNet50(1), "resnet18": ResNet18(1)}


def load_resnet(config: ConfigDict) -> tuple[dict[str, Any] | None, Origin]:
    """Returns the variables of the ResNet that codes start from, and their origin.

    They are None if `latent.init` does not use it.

    Raises:
      UserError: they cannot be had, see `networks.load`.
    """
    if config.latent.init != "resnet":
        return None, NO_WEIGHTS
    name = config.latent.init_network
    if config.latent.init_weights == "random":
        init = jax.jit(functools.partial(_RESNETS[name].init, train=False))
        return init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))), RANDOM
    tensors, provenance = networks.load(name, config.latent.init_weights)
    params, batch_stats = networks.resnet_variables(tensors)
    length = {"resnet50": 2048, "resnet18": 512}[name]
    params["head"] = {"kernel": np.zeros((length, 1)), "bias": np.zeros(1)}
    return {"params": params, "batch_stats": batch_stats}, provenance.summary


def join_origins(
    perceptual: Origin, start: Origin, network: str = "resnet50"
) -> Origin:
    """Returns the origin of the perceptual network and of the `network` that codes start from.

    It is external if one of the two is.
    """
    if start == NO_WEIGHTS:
        return perceptual
    if not (perceptual.external or start.external):
        return RANDOM
    text = start.text if start.external else f"a random {networks.NAMES[network]}"
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
        network, side = config.latent.init_network, config.latent.init_size
        activations = compute_activations(resnet, dataset.images, network, side)
        return project_activations(activations, dim)
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


def compute_activations(
    variables: dict[str, Any],
    images: np.ndarray,
    network: str = "resnet50",
    side: int = 0,
) -> np.ndarray:
    """Computes the penultimate activations of a ResNet for all images, labelled or not.

    Images are normalised as ImageNet's, and grey images are repeated to three channels. One device
    computes all activations, so that they do not depend on the number of devices.

    Args:
      variables: see `load_resnet`. images: uint8 [n, H, W, C].
      network: "resnet50" or "resnet18".
      side: in pixels, to which images are resized bilinearly (smaller: antialiased) as by PIL, but
        without rounding; 0: they keep their size.

    Returns:
      float32 [n, 2048], of a ResNet-18 [n, 512].
    """
    variables = jax.device_put(variables)
    size = min(len(images), batch_that_fits(side or images.shape[1]))
    activate = functools.partial(_activate, variables, network=network, side=side)
    return parallel.map_batches(activate, images, size)


@functools.partial(jax.jit, static_argnames=("network", "side"))
def _activate(
    variables: dict[str, Any], images: jax.Array, *, network: str, side: int
) -> jax.Array:
    x = to_float(images)
    if side:
        shape = (len(x), side, side, x.shape[-1])
        x = jax.image.resize(x, shape, "bilinear", precision=jax.lax.Precision.HIGHEST)
    _, features = _RESNETS[network].apply(variables, x, train=False)
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
