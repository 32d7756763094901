"""New images from a trained cGLO, in memory: slerp between codes of a class (section 4.2)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import codes
from cglo_jax.cglo.algorithm import Params, create_generator
from cglo_jax.models.generator import Generator
from cglo_jax.training import parallel


class Sampler(NamedTuple):
    """A trained cGLO as arrays: what `synthesize` reads.

    Attributes:
      variables: `params` and `batch_stats` of the generator.
      z: float32 [n, d], codes of the labelled images.
      labels: int32 [n].
      classes: the labelled images of each class.
    """

    variables: Params
    z: jax.Array
    labels: jax.Array
    classes: codes.ClassMembers


class SampleSpec(NamedTuple):
    """How images are sampled: constants of a compiled program.

    Attributes:
      interpolation: a name in `codes.INTERPOLATIONS`.
      t_values: values in [0, 1] from which t is drawn.
      batch_statistics: statistics that the generator's batch norm uses, "running" or "batch".
    """

    generator: Generator
    interpolation: str
    t_values: tuple[float, ...]
    batch_statistics: str


def create_sample_spec(
    config: ConfigDict,
    side: int,
    channels: int,
    axis_name: str | None = parallel.AXIS,
) -> SampleSpec:
    """Takes the fields of the config that change what is sampled.

    Args:
      side, channels, axis_name: see `algorithm.create_generator`.
    """
    return SampleSpec(
        generator=create_generator(config, side, channels, axis_name),
        interpolation=config.sample.interpolation,
        t_values=tuple(config.sample.t_values),
        batch_statistics=config.sample.batch_statistics,
    )


def create_sampler(
    variables: Params, z: np.ndarray, labels: np.ndarray, num_classes: int
) -> Sampler:
    """Puts a trained generator and the codes and labels of its labelled images together.

    Args:
      variables: `params` and `batch_stats` of the generator.
      z: float32 [n, d], codes of all images, labelled images first.
      labels: int32 [n], -1 = unlabelled. num_classes: K.
    """
    n = int((labels >= 0).sum())
    classes = codes.class_members(labels[:n], num_classes)
    return Sampler(variables, z[:n], labels[:n], classes)


def generate(
    variables: Params, z: jax.Array, keys: jax.Array, *, spec: SampleSpec
) -> jax.Array:
    """Generates images of codes with fresh noise for each, G([z, eps]) or G(z + eps).

    Args:
      z: codes float32 [B, d]. keys: typed keys [B], of the noise.

    Returns:
      float32 [B, H, W, C] in [-1, 1].
    """
    eps = spec.generator.draw_noise(keys, z.shape[-1])
    return generate_with(variables, z, eps, spec=spec)


def generate_with(
    variables: Params, z: jax.Array, eps: jax.Array | None, *, spec: SampleSpec
) -> jax.Array:
    """Generates images of codes [B, d] with the given noise, see `Generator.draw_noise`.

    Returns:
      float32 [B, H, W, C] in [-1, 1].
    """
    apply = functools.partial(spec.generator.apply, variables, z, eps)
    if spec.batch_statistics == "running":
        return apply(train=False)
    return apply(train=True, mutable="batch_stats")[0]


def draw_pairs(
    sampler: Sampler,
    keys: jax.Array,
    indices: jax.Array,
    *,
    spec: SampleSpec,
    key_t: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws a partner j of the same class and a t for each image (section 4.2).

    Args:
      keys: typed keys [B]. indices: int32 [B], images i.
      key_t: typed keys [B] that t is drawn from instead; equal keys give equal t.

    Returns:
      (j int32 [B], t float32 [B] from `t_values`, keys [B] for what else is drawn).
    """
    split = jax.vmap(jax.random.split, (0, None), 1)
    key_partner, own_key_t, key_rest = split(keys, 3)
    labels = sampler.labels[indices]
    partners = codes.draw_partners(key_partner, indices, labels, sampler.classes)
    t_values = jnp.asarray(spec.t_values, jnp.float32)
    draw = jax.vmap(jax.random.choice, (0, None))
    t = draw(own_key_t if key_t is None else key_t, t_values)
    return partners, t, key_rest


def synthesize(
    sampler: Sampler,
    keys: jax.Array,
    indices: jax.Array,
    *,
    spec: SampleSpec,
    key_t: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Samples a new image beside each given one: G(slerp(z_i, z_j, t)) (section 4.2).

    Args:
      keys: typed keys [B]. indices: int32 [B], images i.
      key_t: typed keys [B] that t is drawn from instead, see `draw_pairs`.

    Returns:
      (images float32 [B, H, W, C] in [-1, 1], j int32 [B], t float32 [B]).
    """
    partners, t, key_noise = draw_pairs(sampler, keys, indices, spec=spec, key_t=key_t)
    path = jax.vmap(codes.INTERPOLATIONS[spec.interpolation])
    z = path(sampler.z[indices], sampler.z[partners], t)
    return generate(sampler.variables, z, key_noise, spec=spec), partners, t
