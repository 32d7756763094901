"""Pictures of a cGLO during training, of the same images and the same draws each time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import codes, quality, sampling
from cglo_jax.cglo.algorithm import TrainState
from cglo_jax.cglo.sampling import Sampler, SampleSpec
from cglo_jax.data.dataset import Dataset, to_uint8
from cglo_jax.report import figures, fonts

_CLASSES = 8  # shown at most, evenly spread
_SAMPLES = 4  # per class
_SIDE = 128  # pixels: larger images are shrunk to at most this side


def draw(
    config: ConfigDict, dataset: Dataset, state: TrainState
) -> dict[str, np.ndarray]:
    """Draws training images above their reconstructions, and samples of their classes.

    The first device computes them in one program. The draws follow config.sample.seed.

    Args:
      state: replicated; it is not changed.

    Returns:
      {"reconstructions", "samples"}: RGB pictures, uint8 [height, width, 3].
    """
    variables = {
        "params": state.params["generator"],
        "batch_stats": state.batch_stats["generator"],
    }
    variables, z = jax.tree.map(
        lambda leaf: leaf.addressable_data(0), (variables, state.codes.z)
    )
    spec = sampling.create_sample_spec(
        config, *dataset.side_and_channels, axis_name=None
    )
    sampler = sampling.create_sampler(variables, z, dataset.labels, dataset.num_classes)
    members, counts, _ = sampler.classes
    classes = quality.spread(len(counts), _CLASSES)
    rows = np.arange(_SAMPLES)[:, None] % counts[classes]  # [_SAMPLES, classes]
    beside = members[classes, rows]
    keys = jax.random.split(jax.random.key(config.sample.seed))
    again, made = _compute(sampler, keys, beside[0], beside.ravel(), spec=spec)
    labels = fonts.label_classes(dataset.class_names)
    titles = [labels[label] for label in classes]
    real, again, made = map(_shrink, (dataset.images[beside[0]], again, made))
    made = made.reshape(*beside.shape, *made.shape[1:])
    pictures = {
        "reconstructions": figures.reconstruction_grid(real, again, titles),
        "samples": figures.image_grid(made, column_labels=titles),
    }
    return {name: np.asarray(picture) for name, picture in pictures.items()}


@functools.partial(jax.jit, static_argnames="spec")
def _compute(
    sampler: Sampler,
    keys: jax.Array,
    shown: jax.Array,
    beside: jax.Array,
    *,
    spec: SampleSpec,
) -> tuple[jax.Array, jax.Array]:
    """Returns reconstructions of the images `shown` [B] and a new image for each of `beside`, uint8."""
    key_images, key_grids = keys  # as in `sample.run`
    noise = codes.example_keys(key_grids, shown)
    again = sampling.generate(sampler.variables, sampler.z[shown], noise, spec=spec)
    draws = codes.example_keys(key_images, jnp.arange(len(beside)))
    made, _, _ = sampling.synthesize(sampler, draws, beside, spec=spec)
    return to_uint8(again), to_uint8(made)


def _shrink(images: np.ndarray | jax.Array) -> np.ndarray:
    """Averages squares of pixels if images [B, H, W, C] are larger than _SIDE."""
    images = np.asarray(images)
    count, height, width, channels = images.shape
    by = -(-height // _SIDE)
    squares = images.reshape(count, height // by, by, width // by, by, channels)
    return squares.mean((2, 4)).round().astype(np.uint8)
