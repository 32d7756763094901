"""The classifiers that a run trained with one method, to classify any images with."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypedDict

import flax.linen as nn
import jax
import msgspec
import numpy as np
from PIL import Image

from cglo_jax.classifier import step as classifier
from cglo_jax.config import saved
from cglo_jax.config.checks import SIDES
from cglo_jax.data import decode, pixels
from cglo_jax.data.colours import Conversion
from cglo_jax.data.dataset import batch_that_fits, to_float
from cglo_jax.errors import UserError, printable, shorten
from cglo_jax.files import readback
from cglo_jax.files.readback import Fields, String
from cglo_jax.process import numerics, setup
from cglo_jax.training import parallel
from cglo_jax.training.checkpoints import fits, restore_latest_model
from cglo_jax.workdir.results import find_results, result_path

_Size = Annotated[int, msgspec.Meta(ge=1, le=SIDES[-1])]
Path = str | os.PathLike


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """Trained classifiers of one method; what `cglo_jax.load_classifier` returns.

    Attributes:
      method, seeds: the method and the seeds of its classifiers, one network per seed.
      class_names: K names, indexed by label.
      image_shape: (H, W, C) that the networks take.
      size: pixels that the short side of a file's image is brought to.
      conversion: how image files become arrays, as in training.
      network: the module; variables: {params, batch_stats} of each seed.
    """

    method: str
    seeds: tuple[int, ...]
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    size: int
    conversion: Conversion
    network: nn.Module = dataclasses.field(repr=False)
    variables: tuple[Mapping[str, Any], ...] = dataclasses.field(repr=False)

    @numerics.with_ours
    def predict(
        self, images: np.ndarray | Path | Iterable[Path]
    ) -> tuple[list[str], np.ndarray]:
        """Classifies images: the mean of the seeds' probabilities.

        Args:
          images: uint8 [n, H, W, C], or image files of any size.

        Returns:
          (the most probable class of each image, probabilities float32 [n, K]).

        Raises:
          UserError: a file cannot be used, or arrays are not of that shape and type.
        """
        setup.check_not_forked()
        if isinstance(images, np.ndarray | jax.Array):
            array = self._check(np.asarray(images))
        else:
            one = isinstance(images, str | os.PathLike)
            array = self._read_all([images] if one else images)
        probabilities = self._compute(array)
        names = [self.class_names[label] for label in probabilities.argmax(-1)]
        return names, probabilities

    def read(self, files: Sequence[Path]) -> list[np.ndarray | decode.UnusableImage]:
        """Decodes image files as in training -> for each uint8 [H, W, C], or why it cannot be used."""
        setup.check_not_forked()
        paths = [pathlib.Path(file) for file in files]
        return decode.decode_each(paths, self._fit, conversion=self.conversion)

    def _fit(self, decoded: decode.Decoded) -> np.ndarray:
        side, _, channels = self.image_shape
        image: Image.Image = pixels.scale(decoded.image, self.size)
        if channels == 1:
            image = image.convert("L")
        return pixels.cut_square(image, side)

    def _read_all(self, files: Iterable[Path]) -> np.ndarray:
        files = list(files)
        images = self.read(files)
        for file, image in zip(files, images, strict=True):
            if isinstance(image, decode.UnusableImage):
                raise UserError(f"{printable(file)} cannot be used: {image}")
        return np.array(images, np.uint8).reshape(-1, *self.image_shape)

    def _check(self, images: np.ndarray) -> np.ndarray:
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            wanted = ", ".join(map(str, self.image_shape))
            raise UserError(
                f"images are {images.dtype} of shape {images.shape}: give uint8 of shape "
                f"(n, {wanted}), or the names of image files"
            )
        return images

    def _compute(self, images: np.ndarray) -> np.ndarray:
        n = len(images)
        if not n:
            return np.zeros((0, len(self.class_names)), np.float32)
        # Few sizes of batches, as each is compiled.
        size = min(batch_that_fits(self.image_shape[0]), 1 << (n - 1).bit_length())
        of_seeds = [
            parallel.map_batches(
                functools.partial(
                    _compute_probabilities, variables, network=self.network
                ),
                images,
                size,
            )
            for variables in self.variables
        ]
        return np.mean(of_seeds, 0, dtype=np.float32)


@functools.partial(jax.jit, static_argnames="network")
def _compute_probabilities(
    variables: Any, images: jax.Array, *, network: nn.Module
) -> jax.Array:
    """Computes probabilities float32 [B, K] of uint8 images [B, H, W, C]."""
    logits, _ = network.apply(variables, to_float(images), train=False)
    return jax.nn.softmax(logits)


@numerics.with_ours
def load(workdir: Path, method: str, seed: int | None = None) -> Classifier:
    """Loads the classifiers of a method, see `cglo_jax.load_classifier`."""
    setup.check_not_forked()
    path = saved.find_workdir(workdir)
    found = find(path)
    seeds = sorted(s for m, s in found if m == method)
    if not seeds:
        methods = ", ".join(sorted({m for m, _ in found})) or "none"
        raise UserError(
            f"{path} has no trained classifier of the method {method!r} (it has {methods}): "
            "name another, or run --stage=classify with it"
        )
    if seed is not None and seed not in seeds:
        raise UserError(
            f"{path} has no {method} classifier of seed {seed}: it has "
            f"{', '.join(map(str, seeds))}"
        )
    chosen = tuple(seeds) if seed is None else (seed,)
    first, *others = (restore(path, method, s, found[method, s]) for s in chosen)
    for other in others:
        if other.conversion != first.conversion:
            raise UserError(
                f"the {method} classifiers in {path} read transparent or 16-bit images otherwise "
                f"for seed {other.seeds[0]} than for {first.seeds[0]}: load one seed"
            )
        if other.class_names != first.class_names:
            raise UserError(
                f"the {method} classifiers in {path} are of other classes for seed "
                f"{other.seeds[0]} than for {first.seeds[0]}: load one seed"
            )
    variables = sum((one.variables for one in others), first.variables)
    return dataclasses.replace(first, seeds=chosen, variables=variables)


class _Conversion(TypedDict):
    """How files became images, see `colours.Conversion`."""

    background: Annotated[str, msgspec.Meta(pattern=r"^#[0-9a-f]{6}\Z")]
    bits: Annotated[int, msgspec.Meta(ge=8, le=16)]
    profiles: bool


class _Meta(TypedDict):
    """What is saved beside the arrays of a classifier, see `classify.run`."""

    fingerprint: Fields
    names: Annotated[list[String], msgspec.Meta(min_length=1)]
    shape: Annotated[list[_Size], msgspec.Meta(min_length=3, max_length=3)]
    conversion: _Conversion


def find(workdir: pathlib.Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Returns the results of all trained classifiers by (method, seed), see `results.find_results`."""
    return {(r["method"], r["seed"]): r for r in find_results(workdir)}


def restore(
    workdir: pathlib.Path, method: str, seed: int, result: Mapping[str, Any]
) -> Classifier:
    """Restores one trained classifier; `result` is its result.json.

    Raises:
      UserError: it has no checkpoint after its last step, or files of another program.
    """
    directory = result_path(workdir, method, seed).parent
    hint = "its result.json is all there is; put checkpoints/ back"
    model, meta, step = restore_latest_model(directory / "checkpoints", hint)
    if step > result["steps"]:
        raise UserError(
            f"{directory} is being trained for more epochs (step {step}, its result is of step "
            f"{result['steps']}): run --stage=classify to its end first"
        )
    if step != result["steps"]:
        raise UserError(
            f"{directory} has a checkpoint of step {step}, but {result['steps']} were taken: "
            "put that of the last step back"
        )
    try:
        readback.convert(meta, _Meta)
        params = model.get("averaged", model["params"])
        variables = {"params": params, "batch_stats": model["batch_stats"]}
        conversion = Conversion(**meta["conversion"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{directory} does not hold a classifier of this program "
            f"({shorten(printable(error))}): name another --workdir, or use the version that "
            "wrote it"
        ) from None
    config = saved.restore_config(workdir, meta["fingerprint"])
    names, shape = tuple(meta["names"]), tuple(meta["shape"])
    network = classifier.create_network(config, len(names), axis_name=None)
    outline = jax.eval_shape(
        lambda key: network.init(key, np.zeros((1, *shape), np.float32), train=False),
        jax.random.key(0),
    )
    if not fits(variables, outline):
        raise UserError(
            f"{directory} does not hold the classifier that its settings describe: put the files "
            "back that were there"
        )
    size = config.dataset.size or shape[0]
    return Classifier(
        method,
        (seed,),
        names,
        shape,
        size,
        conversion,
        network,
        (jax.device_put(variables),),
    )
