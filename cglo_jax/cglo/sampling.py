"""New images from a trained cGLO, in memory: slerp between codes of a class (section 4.2)."""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cglo_jax.cglo import algorithm, codes
from cglo_jax.config.checks import SIDES
from cglo_jax.data.dataset import Dataset
from cglo_jax.errors import UserError
from cglo_jax.models.generator import Generator
from cglo_jax.training import checkpoints


class Sampler(NamedTuple):
    """A trained cGLO as arrays: what `synthesize` reads.

    Attributes:
      variables: `params` and `batch_stats` of the generator.
      z: float32 [n, d], codes of the labelled images.
      labels: int32 [n].
      classes: the labelled images of each class.
    """

    variables: dict[str, Any]
    z: jax.Array
    labels: jax.Array
    classes: codes.ClassMembers


class SampleSpec(NamedTuple):
    """How images are sampled: constants of a compiled program."""

    generator: Generator
    noise_added: bool
    noise_std: float
    interpolation: str
    t_values: tuple[float, ...]
    batch_statistics: str


def create_spec(config: ConfigDict, dataset: Dataset) -> SampleSpec:
    """Takes the generator of images of `dataset` and the fields that change what is sampled."""
    return SampleSpec(
        generator=algorithm.create_spec(config, dataset).generator,
        noise_added=config.latent.noise == "additive",
        noise_std=config.latent.noise_std,
        interpolation=config.sample.interpolation,
        t_values=tuple(config.sample.t_values),
        batch_statistics=config.sample.batch_statistics,
    )


def check_generator(
    config: ConfigDict, dataset: Dataset, model: dict[str, Any], where: pathlib.Path
) -> None:
    """Checks that restored arrays are those of the generator that the configuration describes.

    Raises:
      UserError: they are not; names `where`.
    """
    side, width, channels = dataset.images.shape[1:]
    if side != width or side not in SIDES or channels not in (1, 3):
        raise UserError(f"{where} is of images that no generator here makes")
    generator = create_spec(config, dataset).generator.clone(axis_name=None)
    noise = generator.noise_dim

    def init(key: jax.Array) -> Any:
        z = jnp.zeros((1, config.latent.dim))
        return generator.init(
            key, z, jnp.zeros((1, noise)) if noise else None, train=False
        )

    variables = {"params": model["params"], "batch_stats": model["batch_stats"]}
    expected = jax.eval_shape(init, jax.random.key(0))
    if model["z"].shape[1] != config.latent.dim or not checkpoints.fits(
        variables, expected
    ):
        raise UserError(
            f"{where} does not hold the generator that config.json describes: put the file back "
            "that was there"
        )


def create_sampler(model: dict[str, Any], dataset: Dataset) -> Sampler:
    """Puts a restored model and the labels of its images together."""
    n = dataset.num_labelled
    labels = dataset.labels[:n]
    variables = {"params": model["params"], "batch_stats": model["batch_stats"]}
    classes = codes.class_members(labels, len(dataset.class_names))
    return Sampler(variables, model["z"][:n], labels, classes)


def generate(
    variables: dict[str, Any], z: jax.Array, keys: jax.Array, *, spec: SampleSpec
) -> jax.Array:
    """Computes G([z, eps]), or G(z + eps), with fresh noise for each image.

    Args:
      z: codes [B, d]. keys: typed keys [B], of the noise.

    Returns:
      float32 [B, H, W, C] in [-1, 1].
    """
    eps = algorithm.draw_noise_for(z, keys, spec=spec)
    return generate_with(variables, z, eps, spec=spec)


def generate_with(
    variables: dict[str, Any], z: jax.Array, eps: jax.Array | None, *, spec: SampleSpec
) -> jax.Array:
    """Computes `generate` with the given noise, see `algorithm.draw_noise_for`."""
    z, eps = algorithm.enter_noise(z, eps, spec=spec)
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
