"""New images from a trained cGLO: in memory for the classifier, on disk for people."""

import functools
import hashlib
import io
import pathlib
import shutil
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cglo_jax import cglo, codes, export, figures, loop, train
from cglo_jax.data import Dataset, batch_that_fits, to_uint8
from cglo_jax.models.generator import Generator

_GRID_IMAGES = 16  # of the reconstruction grid, and classes of the interpolation grid
_TSNE_MOST = 5000  # codes; more would take many minutes
_WALK = 7  # images between two reconstructions (Fig. 5)


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


def create_spec(config: ConfigDict, generator: Generator) -> SampleSpec:
    """Takes the fields of `config.sample` that change images."""
    return SampleSpec(
        generator=generator,
        noise_added=config.latent.noise == "additive",
        noise_std=config.latent.noise_std,
        interpolation=config.sample.interpolation,
        t_values=tuple(config.sample.t_values),
        batch_statistics=config.sample.batch_statistics,
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
    eps = cglo.draw_noise_for(z, keys, spec=spec)
    z, eps = cglo.enter_noise(z, eps, spec=spec)
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


def run(
    config: ConfigDict, workdir: pathlib.Path, dataset: Dataset, seed: int
) -> pathlib.Path:
    """Writes synthetic images, their manifest and the figures to workdir/samples.

    Only the generator and the codes are restored. `samples/images/<class>/*.png` can be read
    by any reader of image folders; manifest.jsonl has one line per image. `sample.export`
    adds other forms of the same images.

    Returns:
      The directory written.
    """
    began = time.perf_counter()
    model, _, step = train.restore_model(config, workdir, dataset, seed)
    generator = cglo.create_spec(config, dataset).generator.clone(axis_name=None)
    spec = create_spec(config, generator)
    sampler = create_sampler(model, dataset)
    temporary, directory = workdir / "samples.tmp", workdir / "samples"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    key_images, key_grids = jax.random.split(jax.random.key(config.sample.seed))
    origin = {"seed": seed, "checkpoint_step": step, "sample_seed": config.sample.seed}
    n = _write_images(config, temporary, dataset, sampler, spec, key_images, origin)
    first, second = (_spread(sampler.classes, place) for place in (0, 1))
    shown = (dataset, sampler, spec, key_grids, first)
    draw_reconstructions(*shown).save(temporary / "reconstructions.png")
    draw_walks(*shown, second).save(temporary / "interpolations.png")
    points = project(model["z"], config.sample.projection)
    code_map = figures.code_map(points, dataset.labels, dataset.class_names)
    code_map.save(temporary / "codes.png")
    if forms := config.sample.export:
        export.write(temporary, forms, dataset.class_names, config.dataset.name)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)
    timing = {"wall_s": round(time.perf_counter() - began, 3), "images": n}
    tags = {"stage": "sample", "seed": seed}
    loop.drop_records(workdir / "timings.jsonl", tags, after_step=0)  # of older images
    loop.append_record(workdir / "timings.jsonl", {**tags, **timing})
    return directory


def project(z: np.ndarray, method: str) -> np.ndarray:
    """Projects codes [n, d] to the plane for Fig. 2 -> float [n, 2].

    Args:
      method: "tsne" or "pca". t-SNE is for 5 to 5000 codes; others get PCA, or for a single
        code its first two coordinates.
    """
    from sklearn.decomposition import PCA  # seconds to import
    from sklearn.manifold import TSNE

    if len(z) < 2:
        return z[:, :2]
    if method == "pca" or not 5 <= len(z) <= _TSNE_MOST:
        return PCA(2, random_state=0).fit_transform(z)
    perplexity = min(30.0, (len(z) - 1) / 3)
    options = {"metric": "cosine", "init": "random", "random_state": 0}
    return TSNE(2, perplexity=perplexity, **options).fit_transform(z)


def _write_images(config, directory, dataset, sampler, spec, key, origin) -> int:
    """Writes `per_class` PNGs of each class and their manifest; returns how many."""
    classes, per_class = sampler.classes, config.sample.per_class
    sources = np.concatenate(
        [
            classes.members[c, np.arange(per_class) % classes.counts[c]]
            for c in range(len(dataset.class_names))
        ]
    )
    keys = codes.example_keys(key, jnp.arange(len(sources)))
    step = jax.jit(functools.partial(synthesize, spec=spec))
    folders = export.folder_names(dataset.class_names)
    for folder in folders:
        (directory / "images" / folder).mkdir(parents=True)
    size = batch_that_fits(spec.generator.size)
    for start in range(0, len(sources), size):
        chunk = slice(start, start + size)
        images, partners, ts = step(sampler, keys[chunk], sources[chunk])
        for k, image in enumerate(to_uint8(images), start):
            i, j, t = int(sources[k]), int(partners[k - start]), float(ts[k - start])
            label = int(sampler.labels[i])
            name = f"images/{folders[label]}/{k % per_class:05d}.png"
            png = encode_png(image)
            (directory / name).write_bytes(png)
            line = {
                "file": name,
                "label": label,
                "class": dataset.class_names[label],
                "source": dataset.ids[i],
                "partner": dataset.ids[j],
                "t": round(t, 6),
                **origin,
                "sha256": hashlib.sha256(png).hexdigest(),
            }
            loop.append_record(directory / "manifest.jsonl", line)
    return len(sources)


def encode_png(image: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 1 or 3] as PNG."""
    buffer = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _spread(classes: codes.ClassMembers, place: int) -> list[int]:
    """One image of each of up to _GRID_IMAGES classes, spread over all of them."""
    k = len(classes.counts)
    chosen = np.unique(np.linspace(0, k - 1, min(k, _GRID_IMAGES)).round().astype(int))
    return [int(classes.members[c, place % classes.counts[c]]) for c in chosen]


def draw_reconstructions(
    dataset: Dataset,
    sampler: Sampler,
    spec: SampleSpec,
    key: jax.Array,
    shown: Sequence[int],
) -> Image.Image:
    """Draws training images above their reconstructions G([z_i, eps]) (Fig. 4).

    Args:
      key: of the noise. shown: positions of labelled images.
    """
    shown = np.asarray(shown)
    keys = codes.example_keys(key, jnp.asarray(shown))
    images = to_uint8(generate(sampler.variables, sampler.z[shown], keys, spec=spec))
    names = [dataset.class_names[dataset.labels[i]] for i in shown]
    return figures.reconstruction_grid(dataset.images[shown], images, names)


def draw_walks(
    dataset: Dataset,
    sampler: Sampler,
    spec: SampleSpec,
    key: jax.Array,
    first: Sequence[int],
    second: Sequence[int],
) -> Image.Image:
    """Draws walks between the codes of two images of a class, a row each (Fig. 5).

    Args:
      key: of the noise, one draw per row. first, second: positions of labelled images.
    """
    first, second = np.asarray(first), np.asarray(second)
    t = np.linspace(0, 1, _WALK + 2).astype(np.float32)
    path = codes.INTERPOLATIONS[spec.interpolation]
    walk = jax.vmap(jax.vmap(path, (None, None, 0)), (0, 0, None))
    z = walk(jnp.asarray(sampler.z[first]), jnp.asarray(sampler.z[second]), t)
    keys = jnp.repeat(codes.example_keys(key, jnp.asarray(first)), len(t))
    flat = z.reshape(-1, z.shape[-1])  # [rows * steps, d]
    images = to_uint8(generate(sampler.variables, flat, keys, spec=spec))
    names = [dataset.class_names[dataset.labels[i]] for i in first]
    images = images.reshape(len(first), len(t), *images.shape[1:])
    return figures.interpolation_grid(images, t.tolist(), names)
