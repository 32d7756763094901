"""The stage sample: writes new images of a trained cGLO and pictures that show what it learnt."""

import hashlib
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cglo_jax.cglo import codes, quality
from cglo_jax.data.dataset import Dataset
from cglo_jax.files import ownership, storage
from cglo_jax.inference import sampler
from cglo_jax.inference.sampler import Restored
from cglo_jax.process import numerics
from cglo_jax.report import code_maps, figures, fonts
from cglo_jax.stages import copies, sample_formats
from cglo_jax.workdir import trained

_GRID_IMAGES = 16  # of the reconstruction grid, and classes of the interpolation grid
_WALK = 7  # images between two reconstructions (Fig. 5)


@numerics.with_ours
def run(
    config: ConfigDict,
    workdir: pathlib.Path,
    data: tuple[Dataset, Dataset],
    seed: int,
) -> pathlib.Path:
    """Writes synthetic images, their manifest and the figures to workdir/samples.

    Only the generator and the codes are restored. `samples/images/<class>/*.png` can be read
    by any reader of image folders; manifest.jsonl has one line per image. `sample.export`
    adds other forms of the same images.

    Args:
      data: training and test images, see `data.dataset.load`; of the latter the pixels are compared
        with, see `copies.write`.

    Returns:
      The directory written.
    """
    began = time.perf_counter()
    dataset, test_set = data
    cglo = trained.restore(config, workdir, dataset, seed)
    model = sampler.put_on_device(config, cglo)
    key_images, key_grids = jax.random.split(jax.random.key(config.sample.seed))
    origin = {
        "seed": seed,
        "checkpoint_step": model.step,
        "sample_seed": config.sample.seed,
    }
    per_class = config.sample.per_class
    with ownership.replacing(workdir, "samples") as new:
        n = write_images(new, dataset, model, key_images, per_class, origin)
        write_figures(new, dataset, model, key_grids, config.sample.projection)
        unseen = trained.find_unseen(test_set, cglo.ids, cglo.generator_ids)
        held_out = test_set.images[unseen]
        copies.write(new, dataset, held_out)
        if forms := config.sample.export:
            sample_formats.write(new, forms, dataset.class_names, config.dataset.name)
    timing = {"wall_s": round(time.perf_counter() - began, 3), "images": n}
    tags = {"stage": "sample", "seed": seed}
    with ownership.Log(workdir, "timings.jsonl") as timings:
        timings.drop(tags, after_step=0)  # of older images
        timings.append({**tags, **timing})
    return workdir / "samples"


def write_figures(
    directory: pathlib.Path,
    dataset: Dataset,
    model: Restored,
    key: jax.Array,
    projection: str,
) -> None:
    """Writes reconstructions.png, interpolations.png, walks.png, walks.json and codes.png.

    walks.png has the images of interpolations.png only, for pages that show one at a time;
    walks.json has the class of each row, t of each column and the size of a tile in pixels.
    class_names.txt is there if the pictures have numbers for names that no font can draw.

    Args:
      key: key of the noise. projection: see `code_maps.project`.
    """
    first, second = (_spread(model.sampler.classes, place) for place in (0, 1))
    grid = draw_reconstructions(dataset, model, key, first)
    grid.save(directory / "reconstructions.png")
    images, t = generate_walks(model, key, first, second)
    names = [dataset.class_names[dataset.labels[i]] for i in first]
    labels = fonts.label_classes(dataset.class_names)
    shown = [labels[dataset.labels[i]] for i in first]
    figures.interpolation_grid(images, t, shown).save(directory / "interpolations.png")
    if numbered := fonts.list_numbered(dataset.class_names):
        text = "".join(f"{line}\n" for line in numbered)
        storage.write_atomically(directory / "class_names.txt", text)
    picture, tile = figures.sprite(images)
    picture.save(directory / "walks.png")
    text = json.dumps({"classes": names, "t": t, "tile": tile})
    (directory / "walks.json").write_text(text + "\n", encoding="utf-8")
    points = code_maps.project(model.z, projection)
    code_map = code_maps.code_map(points, dataset.labels, dataset.class_names)
    code_map.save(directory / "codes.png")


def write_images(
    directory: pathlib.Path,
    dataset: Dataset,
    model: Restored,
    key: jax.Array,
    per_class: int,
    origin: Mapping[str, Any],
) -> int:
    """Writes `per_class` PNGs of each class and their manifest; returns how many.

    Args:
      directory: where manifest.jsonl and images/<class>/*.png will be.
      key: see `sampler.synthesize_classes`. origin: put into every line of the manifest.
    """
    lines: dict[int, dict[str, Any]] = {}
    folders = sample_formats.folder_names(dataset.class_names)
    for folder in folders:
        (directory / "images" / folder).mkdir(parents=True)

    def write(k, image, i, j, t) -> tuple[int, dict[str, Any]]:
        label = int(dataset.labels[i])
        name = f"images/{folders[label]}/{k % per_class:05d}.png"
        png = sample_formats.encode_png(image)
        (directory / name).write_bytes(png)
        return int(k), {
            "file": name,
            "label": label,
            "class": dataset.class_names[label],
            "source": dataset.ids[i],
            "partner": dataset.ids[j],
            "t": round(float(t), 6),
            **origin,
            "sha256": hashlib.sha256(png).hexdigest(),
        }

    with ThreadPoolExecutor() as threads:  # encoding lets others compute
        for batch in sampler.synthesize_classes(model, key, per_class):
            lines.update(threads.map(write, *batch))
    ordered = [json.dumps(lines[k]) for k in sorted(lines)]
    text = "".join(f"{line}\n" for line in ordered)
    storage.write_atomically(directory / "manifest.jsonl", text)
    return len(lines)


def _spread(classes: codes.ClassMembers, place: int) -> list[int]:
    """One image of each of up to _GRID_IMAGES classes, spread over all of them."""
    chosen = quality.spread(len(classes.counts), _GRID_IMAGES)
    return [int(classes.members[c, place % classes.counts[c]]) for c in chosen]


def draw_reconstructions(
    dataset: Dataset,
    model: Restored,
    key: jax.Array,
    shown: Sequence[int],
) -> Image.Image:
    """Draws training images above their reconstructions G([z_i, eps]) (Fig. 4).

    Args:
      key: key of the noise. shown: positions of labelled images.
    """
    shown = np.asarray(shown)
    keys = codes.example_keys(key, jnp.asarray(shown))
    images = sampler.generate_uint8(model, model.sampler.z[shown], keys)
    labels = fonts.label_classes(dataset.class_names)
    names = [labels[dataset.labels[i]] for i in shown]
    return figures.reconstruction_grid(dataset.images[shown], images, names)


def generate_walks(
    model: Restored, key: jax.Array, first: Sequence[int], second: Sequence[int]
) -> tuple[np.ndarray, list[float]]:
    """Computes walks between the codes of two images of a class (Fig. 5).

    Args:
      key: key of the noise, one draw per walk. first, second: positions of labelled images.

    Returns:
      (images uint8 [walks, steps, H, W, C], t of each step from 0 to 1).
    """
    t = np.linspace(0, 1, _WALK + 2).astype(np.float32)
    path = codes.INTERPOLATIONS[model.spec.interpolation]
    walk = jax.vmap(jax.vmap(path, (None, None, 0)), (0, 0, None))
    ends = (jnp.asarray(model.sampler.z[np.asarray(i)]) for i in (first, second))
    z = walk(*ends, t)
    keys = jnp.repeat(codes.example_keys(key, jnp.asarray(first)), len(t))
    images = sampler.generate_uint8(model, z.reshape(-1, z.shape[-1]), keys)
    return images.reshape(*z.shape[:2], *images.shape[1:]), t.tolist()
