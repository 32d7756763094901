"""A trained cGLO to use without its training images: new images, reconstructions, walks."""

import dataclasses
import difflib
import functools
import operator
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import codes, sampling
from cglo_jax.config import saved
from cglo_jax.data.dataset import batch_that_fits, to_uint8
from cglo_jax.errors import UserError, shorten
from cglo_jax.files import readback
from cglo_jax.inference.sampler import (
    Restored,
    put_on_device,
    synthesize_classes,
)
from cglo_jax.process import numerics, setup
from cglo_jax.training import parallel
from cglo_jax.workdir import trained
from cglo_jax.workdir.trained import TrainedCglo

Key = jax.Array | int  # of `jax.random.key`, or its seed


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """The generator and the codes of one seed of a run; what `cglo_jax.load` returns.

    Images are uint8 [n, H, W, C]. The noise of each is drawn from `key`: equal keys give equal
    images. Training images are named by their ids, as `source` and `partner` in
    samples/manifest.jsonl, or as in `ids`, or by their position in `ids`.

    Attributes:
      seed, step: the run's seed, and the step of its checkpoint.
      class_names: K names, indexed by label.
      image_shape: (H, W, C).
      ids: names of the n training images.
      labels: int32 [n], the training images' labels, -1 = unlabelled.
      config: the configuration of its training.
      restored: the generator and codes that `sample` uses.
    """

    seed: int
    step: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    ids: tuple[str, ...] = dataclasses.field(repr=False)
    labels: np.ndarray = dataclasses.field(repr=False)
    config: ConfigDict = dataclasses.field(repr=False)
    restored: Restored = dataclasses.field(repr=False)

    @property
    def z(self) -> np.ndarray:
        """Codes of the training images, float32 [n, d], unit rows."""
        return self.restored.z

    @numerics.with_ours
    def sample(self, label: str | int, n: int = 1, key: Key = 0) -> np.ndarray:
        """Makes n new images of a class: G(slerp(z_i, z_j, t)), i its images in turn (section 4.2).

        They are the images that `--stage=sample` makes of the class with the same key and n per class.

        Args:
          label: the name of a class, or its number.

        Raises:
          UserError: there is no such class, or n is less than 1.
        """
        setup.check_not_forked()
        _check_at_least("n", n, 1)
        label, made = (
            self._find_class(label),
            np.zeros((n, *self.image_shape), np.uint8),
        )
        # G may normalise by the batch: it has all classes then, as in training.
        only = label if self.config.sample.batch_statistics == "running" else None
        batches = synthesize_classes(self.restored, _as_key(key), n, only)
        for k, images, *_ in batches:
            own = k // n == label
            made[k[own] % n] = images[own]
        return made

    @numerics.with_ours
    def reconstruct(self, ids: Sequence[str | int], key: Key = 0) -> np.ndarray:
        """Makes training images again from their codes, G([z_i, eps]), in the order of `ids`.

        Raises:
          UserError: there is no such training image.
        """
        setup.check_not_forked()
        found = [self._find(i) for i in ([ids] if isinstance(ids, str) else ids)]
        return self._generate(self.z[found], np.array(found, np.int32), key)

    @numerics.with_ours
    def walk(
        self, first: str | int, second: str | int, steps: int = 9, key: Key = 0
    ) -> np.ndarray:
        """Goes from the code of one training image to another's, along `sample.interpolation` (Fig. 5).

        Returns:
          `steps` images with one noise; the ends are the reconstructions of the two.

        Raises:
          UserError: there is no such training image, or steps is less than 2.
        """
        setup.check_not_forked()
        _check_at_least("steps", steps, 2)
        start, end = self._find(first), self._find(second)
        path = codes.INTERPOLATIONS[self.config.sample.interpolation]
        t = np.linspace(0, 1, steps, dtype=np.float32)
        z = _interpolate(self.z[start], self.z[end], t, path=path)
        return self._generate(np.asarray(z), np.full(steps, start, np.int32), key)

    def _generate(self, z: np.ndarray, draws: np.ndarray, key: Key) -> np.ndarray:
        """Generates images of codes [n, d] with the noise number draws [n] of the key."""
        n, typed = len(z), _as_key(key)
        if not n:
            return np.zeros((0, *self.image_shape), np.uint8)
        size = n  # G may normalise by the batch
        if (
            self.config.sample.batch_statistics == "running"
        ):  # few sizes: each is compiled
            size = min(batch_that_fits(self.image_shape[0]), 1 << (n - 1).bit_length())
        sampler, spec = self.restored.sampler, self.restored.spec

        def generate(rows: np.ndarray) -> jax.Array:
            one = sampler.variables, z[rows], draws[rows], typed
            return _generate_uint8(*one, spec=spec)

        return parallel.map_batches(generate, np.arange(n), size)

    def _find_class(self, label: str | int) -> int:
        names = self.class_names
        if isinstance(label, str):
            if label in names:
                return names.index(label)
            raise UserError(f"there is no class {label!r}: {_suggest(label, names)}")
        if 0 <= (label := operator.index(label)) < len(names):
            return label
        raise UserError(f"there is no class {label}: they are 0 to {len(names) - 1}")

    def _find(self, image: str | int) -> int:
        """Returns the position of a training image."""
        n = len(self.ids)
        if not isinstance(image, str):
            if 0 <= (place := operator.index(image)) < n:
                return place
            raise UserError(
                f"there is no training image {place}: they are 0 to {n - 1}"
            )
        # Of two copies (one may be a test image, too) the first has the label.
        hashed = trained.hash_ids([image])[0].tobytes().hex()
        for name in (image, hashed):
            if name in self._places:
                return self._places[name]
        raise UserError(
            f"no training image has the id {shorten(repr(image))}: `ids` has them, and "
            "samples/manifest.jsonl names them as source and partner"
        )

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.ids)}


@functools.partial(jax.jit, static_argnames="path")
def _interpolate(
    start: jax.Array,
    end: jax.Array,
    t: jax.Array,
    *,
    path: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Computes the codes [T, d] between two codes [d] at t [T]."""
    return jax.vmap(path, (None, None, 0))(start, end, t)


@functools.partial(jax.jit, static_argnames="spec")
def _generate_uint8(
    variables: Any,
    z: jax.Array,
    draws: jax.Array,
    key: jax.Array,
    *,
    spec: sampling.SampleSpec,
) -> jax.Array:
    keys = codes.example_keys(key, draws)
    return to_uint8(sampling.generate(variables, z, keys, spec=spec))


@numerics.with_ours
def load(workdir: str | os.PathLike, seed: int | None = None) -> TrainedModel:
    """Loads the newest generator and codes of a run, see `cglo_jax.load`."""
    setup.check_not_forked()
    path = saved.find_workdir(workdir)
    seeds = trained_seeds(path)
    if not seeds:
        raise UserError(f"there is no trained cGLO in {path}: run --stage=train first")
    if seed is None:
        seed = seeds[0]
    if seed not in seeds:
        raise UserError(f"{path} has no cGLO of seed {seed}: it has {_list(seeds)}")
    cglo = trained.restore_with_added(path, seed)
    config = saved.restore_config(path, cglo.meta["fingerprint"])
    return create(config, seed, cglo, path)


def trained_seeds(workdir: pathlib.Path) -> list[int]:
    """Returns the seeds whose cGLO has a checkpoint, in their order."""
    directory, found = workdir / "checkpoints", []
    for name in readback.list_names(directory):
        if re.fullmatch(r"seed-(0|[1-9][0-9]{0,9})", name):
            steps = readback.list_names(directory / name)
            if any((directory / name / step).is_dir() for step in steps):
                found.append(int(name.removeprefix("seed-")))
    return sorted(found)


def create(
    config: ConfigDict, seed: int, cglo: TrainedCglo, where: pathlib.Path
) -> TrainedModel:
    """Puts a trained cGLO on one device.

    Args:
      where: its work directory.

    Raises:
      UserError: it is not of this configuration; names `where`.
    """
    trained.check_generator(config, cglo, where)
    return TrainedModel(
        seed,
        cglo.step,
        tuple(cglo.meta["names"]),
        cglo.shape,
        tuple(row.tobytes().hex() for row in cglo.ids),
        cglo.labels,
        config,
        put_on_device(config, cglo),
    )


def _as_key(key: Key) -> jax.Array:
    if not isinstance(key, jax.Array):
        return jax.random.key(operator.index(key))
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    impl = "threefry2x32" if key.shape == (2,) else "rbg"  # of `jax.random.PRNGKey`
    return jax.random.wrap_key_data(key, impl=impl)


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{name} is {value}: it must be at least {least}")


def _suggest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3) or names[:12]
    listed = " or ".join(map(repr, close))
    return f"did you mean {listed}?" if len(close) < len(names) else f"use {listed}"


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
