"""A trained cGLO on disk: where it is, restoring it, and whether it may be used."""

import collections
import functools
import hashlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict

import jax
import msgspec
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo.algorithm import Params, create_generator, init_generator
from cglo_jax.config.checks import SIDES
from cglo_jax.config.fingerprint import check_fingerprint, train_fingerprint
from cglo_jax.data.dataset import Dataset
from cglo_jax.errors import UserError, printable, shorten
from cglo_jax.files import readback
from cglo_jax.files.readback import Count, Fields, Number, Positive, String
from cglo_jax.pretrained.networks import Origin
from cglo_jax.training.checkpoints import (
    fits,
    restore_latest,
    restore_latest_model,
)


class Notes(TypedDict):
    weights: String
    added: Count
    generator_rate: NotRequired[Number]


class Meta(TypedDict):
    """What is saved beside the arrays of a cGLO, see `train.run` and `fit_codes.run`."""

    fingerprint: Fields
    images: String
    names: Annotated[list[String], msgspec.Meta(min_length=1)]
    shape: Annotated[list[Positive], msgspec.Meta(min_length=3, max_length=3)]
    total: Count
    weights: String
    n_labelled: Count
    notes: Notes
    rate: Number


class TrainedCglo(NamedTuple):
    """A trained generator with the codes of its images, as a checkpoint has them.

    Attributes:
      params, batch_stats: the generator's trees of NumPy arrays.
      z: float32 [n, d], the codes of all images, unit rows.
      ids: uint8 [n, 16], the images' `hash_ids`.
      labels: int32 [n], -1 = unlabelled; labelled images first.
      meta: saved beside the arrays.
      step: the checkpoint's step.
      generator_ids: uint8 [m, 16], the images that the generator learnt before codes were fitted to
        the images of `ids`, see `stages.fit_codes`; none if it was trained on them.
    """

    params: Params
    batch_stats: Params
    z: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    meta: Meta
    step: int
    generator_ids: np.ndarray = np.zeros((0, 16), np.uint8)

    @property
    def variables(self) -> Params:
        """`params` and `batch_stats` of the generator."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images."""
        return tuple(self.meta["shape"])


def hash_ids(ids: Sequence[str]) -> np.ndarray:
    """Returns uint8 [n, 16], the ids of n images in a form that is saved beside their codes.

    Copies of an image, for example a test image that is also a training image, have ids of their own.
    """
    seen: collections.Counter[str] = collections.Counter()
    digests = []
    for i in ids:
        digests.append(hashlib.sha256(f"{i}/{seen[i]}".encode()).digest()[:16])
        seen[i] += 1
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def compare_images(saved: np.ndarray, now: np.ndarray) -> str:
    """Describes how the images of a checkpoint differ from the images of a call.

    Args:
      saved, now: uint8 [n, 16], their `hash_ids`.
    """
    old, new = ({row.tobytes() for row in ids} for ids in (saved, now))
    if old == new:
        return "the same images, with other labels or classes or in another order"
    gone, added = len(old - new), len(new - old)
    return f"{gone} of its {len(old)} images are gone, and {added} of the {len(new)} images now are new"


def checkpoint_dir(workdir: pathlib.Path, seed: int) -> pathlib.Path:
    """Returns where the cGLO of `seed` has its checkpoints."""
    return workdir / "checkpoints" / f"seed-{seed}"


def codes_dir(
    workdir: pathlib.Path, seed: int, dataset: Dataset, variables: Params
) -> pathlib.Path:
    """Returns where codes of these images are that were fitted to a generator."""
    return _fitted_dir(workdir, seed, variables) / f"images-{dataset.digest[:16]}"


def _fitted_dir(workdir: pathlib.Path, seed: int, variables: Params) -> pathlib.Path:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((variables["params"], variables["batch_stats"])):
        digest.update(np.ascontiguousarray(leaf))
    generator = f"generator-{digest.hexdigest()[:16]}"
    return workdir / "codes" / f"seed-{seed}" / generator


def restore_newest(
    config: ConfigDict, directory: pathlib.Path, hint: str
) -> TrainedCglo:
    """Restores the newest generator and codes in `directory`; `hint` says what makes them.

    Raises:
      UserError: there is no checkpoint, it is of another configuration, or it has weights
        of other images in it and `external_weights` is False.
    """
    cglo = _convert(restore_latest_model(directory, hint), directory)
    now = train_fingerprint(config)
    saved = cglo.meta["fingerprint"]
    check_fingerprint(saved, now, str(directory), may_grow=("train",))
    origin = Origin(cglo.meta["weights"], cglo.meta["notes"]["weights"])
    if origin.external and not config.external_weights:
        raise UserError(
            f"{directory} was trained with {origin.text}, but config.external_weights is "
            "False: use another --workdir"
        )
    return cglo


def restore_with_added(workdir: pathlib.Path, seed: int) -> TrainedCglo:
    """Restores the newest generator of a seed with the codes of all images it has any for.

    Images that were added later are among them, if their codes are fitted to the last step.

    Raises:
      UserError: there is no checkpoint, or all are damaged.
    """
    directory = checkpoint_dir(workdir, seed)
    found = restore_latest_model(directory, "run --stage=train first")
    fitted_dir = _fitted_dir(workdir, seed, found[0])
    names = [n for n in readback.list_names(fitted_dir) if n.startswith("images-")]
    # Of several, which a killed `fit_codes` leaves, one is of fewer images.
    if fitted := [f for name in names if (f := restore_finished(fitted_dir / name))]:
        return max(fitted, key=lambda cglo: len(cglo.z))
    return _convert(found, directory)


def _convert(
    found: tuple[dict[str, Any], dict[str, Any], int], directory: pathlib.Path
) -> TrainedCglo:
    """Returns what a checkpoint holds, checked.

    Args:
      found: (model, meta, step), as `checkpoints` restores them.

    Raises:
      UserError: it is not what a checkpoint of a cGLO holds.
    """
    model, meta, step = found
    try:
        readback.convert(meta, Meta)
        cglo = TrainedCglo(**model, meta=meta, step=step)
        n, k, dim = len(cglo.ids), len(meta["names"]), cglo.z.shape[-1]
        shapes = (cglo.z.shape, cglo.ids.shape, cglo.labels.shape)
        if shapes != ((n, dim), (n, 16), (n,)) or cglo.ids.dtype != np.uint8:
            raise ValueError("codes, ids and labels are not of the same images")
        if not np.issubdtype(cglo.labels.dtype, np.integer):
            raise ValueError("labels are no whole numbers")
        known = cglo.labels[cglo.labels >= 0]
        if (
            set(known.tolist()) != set(range(k))
            or (cglo.labels[: len(known)] < 0).any()
        ):
            raise ValueError("labels are not of the classes that are named")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{directory} does not hold a cGLO of this program ({shorten(printable(error))}): name "
            "another --workdir, or use the version that wrote it"
        ) from None
    return cglo


def check_generator(config: ConfigDict, cglo: TrainedCglo, where: pathlib.Path) -> None:
    """Checks that arrays have the shapes of the generator that the configuration describes.

    Raises:
      UserError: they are not; names `where`.
    """
    side, width, channels = cglo.shape
    if side != width or side not in SIDES or channels not in (1, 3):
        raise UserError(f"{where} is of images that no generator here makes")
    generator = create_generator(config, side, channels, axis_name=None)
    dim = config.latent.dim
    init = functools.partial(init_generator, generator, dim=dim)
    expected = jax.eval_shape(init, jax.random.key(0))
    if cglo.z.shape[1] != dim or not fits(cglo.variables, expected):
        raise UserError(
            f"{where} does not hold the generator that config.json describes: put the file back "
            "that was there"
        )


def check_complete(
    directory: pathlib.Path, command: str, cglo: TrainedCglo, epochs: int = 0
) -> None:
    """Raises UserError unless the checkpoint is the last one of what `command` makes.

    Args:
      epochs: epochs of training now, which may be more than when the checkpoint was saved; 0: the
        same number.
    """
    meta, step = cglo.meta, cglo.step
    saved = meta["fingerprint"]["train.epochs"]
    total = meta["total"] // saved * epochs if epochs else meta["total"]
    if step < total:
        raise UserError(
            f"{directory} is at step {step} of {total}: run {command} first, it continues from there"
        )


def restore(
    config: ConfigDict,
    workdir: pathlib.Path,
    dataset: Dataset,
    seed: int,
    *,
    complete: bool = False,
) -> TrainedCglo:
    """Restores the newest generator and codes, nothing else.

    The codes come from training or, if the images are others now, from `stages.fit_codes`.

    Args:
      complete: whether to refuse what is not trained or fitted to its last step.

    Returns:
      Code i belongs to image i of `dataset`.

    Raises:
      UserError: there is no checkpoint, or it is of another configuration or other images,
        or see `complete`.
    """
    directory, command = checkpoint_dir(workdir, seed), "--stage=train"
    cglo = restore_newest(config, directory, f"run {command} first")
    if complete:
        check_complete(directory, command, cglo, config.train.epochs)
    if cglo.meta["images"] != dataset.digest:
        fitted = codes_dir(workdir, seed, dataset, cglo.variables)
        command += " --config.train.only_codes=True"
        if not fitted.is_dir():
            difference = compare_images(cglo.ids, hash_ids(dataset.ids))
            raise UserError(
                f"{directory} was made with other images than this call reads ({difference}): use "
                f"another --workdir or the old data, or fit codes for the new images: {command}"
            )
        directory = fitted
        cglo = restore_newest(config, directory, f"run {command} first")
        if complete:
            check_complete(directory, command, cglo)
    check_generator(config, cglo, directory)
    return cglo


def find_unseen(dataset: Dataset, *learnt: np.ndarray) -> np.ndarray:
    """Returns bool [n]: which images of `dataset` are not among `learnt`.

    Args:
      learnt: uint8 [m, 16], `hash_ids` of images.
    """
    known = {row.tobytes() for ids in learnt for row in ids}
    return np.array([row.tobytes() not in known for row in hash_ids(dataset.ids)], bool)


def check_unseen(test_set: Dataset, generator_ids: np.ndarray) -> None:
    """Checks that a generator whose codes were fitted later has not learnt the test images.

    Args:
      generator_ids: uint8 [m, 16], see `TrainedCglo`.

    Raises:
      UserError: it was trained on test images, before other images were added.
    """
    seen = ~find_unseen(test_set, generator_ids)
    if seen.any():
        raise UserError(
            f"{seen.sum()} of the test images are images that the generator was trained on, before "
            "others were added: put the images to test on into a folder test/, or train again in "
            "another --workdir"
        )


def restore_finished(directory: pathlib.Path) -> TrainedCglo | None:
    """Returns the result of a fit that was taken to its last step, else None.

    Raises:
      UserError: its checkpoints are damaged.
    """

    def is_finished(meta: dict[str, Any], step: int) -> bool:
        return isinstance(meta.get("total"), int) and step >= meta["total"]

    try:
        found = restore_latest(directory, is_finished)
    except UserError:
        if (
            not directory.is_dir()
        ):  # `fit_codes` removed it when it had fitted newer ones
            return None
        raise
    return found and _convert(found, directory)


def restore_if_whole(directory: pathlib.Path) -> TrainedCglo | None:
    """Returns the result of an earlier fit, None if it was not finished or is damaged."""
    try:
        return restore_finished(directory)
    except UserError as error:
        print(
            f"warning: {error}; fitting these codes again", file=sys.stderr, flush=True
        )
        return None
