"""A trained cGLO on one device, to generate images with (section 4.2)."""

import functools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import codes, sampling
from cglo_jax.cglo.sampling import Sampler, SampleSpec
from cglo_jax.data.dataset import Dataset, batch_that_fits, to_uint8
from cglo_jax.workdir import trained
from cglo_jax.workdir.trained import TrainedCglo


class Restored(NamedTuple):
    """A trained cGLO, to sample from.

    Attributes:
      z: float32 [n, d], the codes of all its images, unlabelled ones included.
      step: the step of its checkpoint.
    """

    sampler: Sampler
    spec: SampleSpec
    z: np.ndarray
    step: int


def restore(
    config: ConfigDict,
    workdir: pathlib.Path,
    dataset: Dataset,
    seed: int,
    *,
    complete: bool = False,
) -> Restored:
    """Restores the newest generator and codes, on one device; see `trained.restore`."""
    cglo = trained.restore(config, workdir, dataset, seed, complete=complete)
    return put_on_device(config, cglo)


def put_on_device(config: ConfigDict, cglo: TrainedCglo) -> Restored:
    """Puts a trained cGLO on one device, to sample from."""
    side, _, channels = cglo.shape
    spec = sampling.create_sample_spec(config, side, channels, axis_name=None)
    num_classes = len(cglo.meta["names"])
    variables, z, labels = cglo.variables, cglo.z, cglo.labels
    sampler = sampling.create_sampler(variables, z, labels, num_classes)
    variables, z = jax.device_put((sampler.variables, sampler.z))
    sampler = sampler._replace(variables=variables, z=z)
    return Restored(sampler, spec, cglo.z, cglo.step)


def generate_uint8(restored: Restored, z: jax.Array, keys: jax.Array) -> np.ndarray:
    """Generates images of codes [B, d] -> uint8 [B, H, W, C]; see `sampling.generate`."""
    variables, spec = restored.sampler.variables, restored.spec
    return np.asarray(to_uint8(sampling.generate(variables, z, keys, spec=spec)))


@functools.partial(jax.jit, static_argnames="spec")
def _synthesize_uint8(
    sampler: Sampler, keys: jax.Array, indices: jax.Array, *, spec: SampleSpec
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes `sampling.synthesize` with images as uint8 in [0, 255]."""
    images, partners, t = sampling.synthesize(sampler, keys, indices, spec=spec)
    return to_uint8(images), partners, t


def synthesize_classes(
    restored: Restored,
    key: jax.Array,
    per_class: int,
    only: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Synthesizes `per_class` images of each class, beside its labelled images in turn.

    Image k is of class k // per_class. A batch has all classes in turn, as G may normalise by it.

    Args:
      only: leave out the images of all other classes; None: none.

    Yields:
      (k int [B], images uint8 [B, H, W, C], positions i of the images that they were made beside, j
      of their partners, t), see `sampling.synthesize`.
    """
    members, counts, _ = restored.sampler.classes
    turn = np.arange(per_class) % counts[:, None]  # [K, per_class]
    sources = np.take_along_axis(members, turn, 1).ravel()
    keys = codes.example_keys(key, jnp.arange(len(sources)))
    of_class = np.arange(len(sources)).reshape(-1, per_class)  # [K, per_class]
    order = of_class.T.ravel() if only is None else of_class[only]
    size = min(len(order), batch_that_fits(restored.spec.generator.size))

    def dispatch(start: int) -> tuple[np.ndarray, tuple[jax.Array, ...]]:
        k = np.take(order, range(start, start + size), mode="wrap")  # of one shape
        return k, _synthesize_uint8(
            restored.sampler, keys[k], sources[k], spec=restored.spec
        )

    starts = range(0, len(order), size)
    waiting = dispatch(0)
    for start in starts:
        k, made = waiting
        if start != starts[-1]:
            waiting = dispatch(start + size)  # computed while others use these
        images, partners, t = map(np.asarray, made)
        parts = (k, images, sources[k], partners, t)
        yield tuple(part[: len(order) - start] for part in parts)
