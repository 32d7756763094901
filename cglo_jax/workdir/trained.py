"""A trained cGLO on disk: where it is, restoring it, and whether it may be used."""

import collections
import hashlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NotRequired, TypedDict

import jax
import msgspec
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import sampling
from cglo_jax.config.fingerprint import check_fingerprint, train_fingerprint
from cglo_jax.data.dataset import Dataset
from cglo_jax.errors import UserError, printable, shorten
from cglo_jax.files import readback
from cglo_jax.files.readback import Count, Fields, Number, Positive, String
from cglo_jax.pretrained.networks import Origin
from cglo_jax.training.checkpoints import restore_latest, restore_latest_model


class _Notes(TypedDict):
    weights: String
    added: Count
    generator_rate: NotRequired[Number]


class _Meta(TypedDict):
    """What is saved beside the arrays of a cGLO, see `train.run` and `fit_codes.run`."""

    fingerprint: Fields
    images: String
    names: Annotated[list[String], msgspec.Meta(min_length=1)]
    shape: Annotated[list[Positive], msgspec.Meta(min_length=3, max_length=3)]
    total: Count
    weights: String
    n_labelled: Count
    notes: _Notes
    rate: Number


def hash_ids(ids: Sequence[str]) -> np.ndarray:
    """Returns uint8 [n, 16], the ids of n images in a form that is saved beside their codes.

    Copies of an image, such as a test image that is also a training image, are told apart.
    """
    seen: collections.Counter[str] = collections.Counter()
    digests = []
    for i in ids:
        digests.append(hashlib.sha256(f"{i}/{seen[i]}".encode()).digest()[:16])
        seen[i] += 1
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def compare_images(saved: np.ndarray, now: np.ndarray) -> str:
    """Tells how the images of a checkpoint differ from those of a call.

    Args:
      saved, now: uint8 [n, 16], their `hash_ids`.
    """
    old, new = ({row.tobytes() for row in ids} for ids in (saved, now))
    if old == new:
        return "the same ones, with other labels or classes or in another order"
    gone, added = len(old - new), len(new - old)
    return f"{gone} of its {len(old)} are gone, {added} of {len(new)} now are new to it"


def checkpoint_dir(workdir: pathlib.Path, seed: int) -> pathlib.Path:
    """Returns where the cGLO of `seed` has its checkpoints."""
    return workdir / "checkpoints" / f"seed-{seed}"


def codes_dir(
    workdir: pathlib.Path, seed: int, dataset: Dataset, model: dict[str, Any]
) -> pathlib.Path:
    """Returns where codes of these images are that were fitted to the generator of `model`."""
    return _fitted_dir(workdir, seed, model) / f"images-{dataset.digest[:16]}"


def _fitted_dir(
    workdir: pathlib.Path, seed: int, model: dict[str, Any]
) -> pathlib.Path:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((model["params"], model["batch_stats"])):
        digest.update(np.ascontiguousarray(leaf))
    generator = f"generator-{digest.hexdigest()[:16]}"
    return workdir / "codes" / f"seed-{seed}" / generator


def restore_newest(
    config: ConfigDict, directory: pathlib.Path, hint: str
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Restores the newest generator and codes in `directory`; `hint` says what makes them.

    Returns:
      ({params, batch_stats, z, ids, labels}, meta, step), NumPy arrays.

    Raises:
      UserError: there is no checkpoint, it is of another configuration, or it has weights
        of other images in it and `external_weights` is False.
    """
    model, meta, step = restore_latest_model(directory, hint)
    _check_codes(model, meta, directory)
    now = train_fingerprint(config)
    check_fingerprint(meta["fingerprint"], now, str(directory), may_grow=("train",))
    origin = Origin(meta["weights"], meta["notes"]["weights"])
    if origin.external and not config.external_weights:
        raise UserError(
            f"{directory} was trained with {origin.text}, but config.external_weights is "
            "False: use another --workdir"
        )
    return model, meta, step


def restore_with_added(
    workdir: pathlib.Path, seed: int
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Restores the newest generator of a seed with the codes of all images it has any for.

    Those are the images that were added later too, if their codes are fitted to the last step.

    Returns:
      ({params, batch_stats, z, ids, labels}, meta, step), NumPy arrays.

    Raises:
      UserError: there is no checkpoint, all are damaged, or it is of an older version.
    """
    directory = checkpoint_dir(workdir, seed)
    found = restore_latest_model(directory, "run --stage=train first")
    fitted_dir = _fitted_dir(workdir, seed, found[0])
    names = [n for n in readback.list_names(fitted_dir) if n.startswith("images-")]
    # Of several, which a killed `fit_codes` leaves, one is of fewer images.
    if fitted := [f for name in names if (f := restore_finished(fitted_dir / name))]:
        found = max(fitted, key=lambda one: len(one[0]["z"]))
    if "labels" not in found[0]:
        raise UserError(
            f"{directory} is of an older version, which saved no labels: train anew, with --fresh"
        )
    _check_codes(found[0], found[1], directory)
    return found


def _check_codes(
    model: dict[str, Any], meta: dict[str, Any], directory: pathlib.Path
) -> None:
    """Checks that what a checkpoint has is what one of a cGLO has.

    Raises:
      UserError: it is not.
    """
    try:
        readback.convert(meta, _Meta)
        n, k = len(model["ids"]), len(meta["names"])
        dim = model["z"].shape[-1]
        labels = model.get("labels", np.zeros(n, np.int32))
        shapes = (model["z"].shape, model["ids"].shape, labels.shape)
        if shapes != ((n, dim), (n, 16), (n,)) or model["ids"].dtype != np.uint8:
            raise ValueError("codes, ids and labels are not of the same images")
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError("labels are no whole numbers")
        known = labels[labels >= 0]
        if set(known.tolist()) != set(range(k)) or (labels[: len(known)] < 0).any():
            raise ValueError("labels are not of the classes that are named")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{directory} does not hold a cGLO of this program ({shorten(printable(error))}): name "
            "another --workdir, or use the version that wrote it"
        ) from None


def check_complete(
    directory: pathlib.Path,
    command: str,
    meta: dict[str, Any],
    step: int,
    epochs: int = 0,
) -> None:
    """Raises UserError unless `step` is the last one of what `command` makes.

    Args:
      epochs: of training now, which may be more than the checkpoint was made for; 0: as many.
    """
    saved = meta["fingerprint"]["train.epochs"]
    total = meta["total"] // saved * epochs if epochs else meta["total"]
    if step < total:
        raise UserError(
            f"{directory} is at step {step} of {total}: run {command} first, it goes on from there"
        )


def restore_model(
    config: ConfigDict,
    workdir: pathlib.Path,
    dataset: Dataset,
    seed: int,
    *,
    complete: bool = False,
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Restores the newest generator and codes, nothing else.

    The codes are those of training or, if the images are others now, those of `fit_codes`.

    Args:
      complete: whether to refuse what is not trained or fitted to its last step.

    Returns:
      ({params, batch_stats, z, ids, labels}, meta, step): NumPy arrays; code i belongs to image
      i of `dataset`, ids are its `hash_ids`; meta is what was saved beside them.

    Raises:
      UserError: there is no checkpoint, or it is of another configuration or other images,
        or see `complete`.
    """
    directory, command = checkpoint_dir(workdir, seed), "--stage=train"
    model, meta, step = restore_newest(config, directory, f"run {command} first")
    if complete:
        check_complete(directory, command, meta, step, config.train.epochs)
    if meta["images"] != dataset.digest:
        fitted = codes_dir(workdir, seed, dataset, model)
        command += " --config.train.only_codes=True"
        if not fitted.is_dir():
            told = compare_images(model["ids"], hash_ids(dataset.ids))
            raise UserError(
                f"{directory} was made with other images than this call reads ({told}): use "
                f"another --workdir or the old data, or fit codes for the new images: {command}"
            )
        directory = fitted
        model, meta, step = restore_newest(config, directory, f"run {command} first")
        if complete:
            check_complete(directory, command, meta, step)
    sampling.check_generator(config, dataset, model, directory)
    return model, meta, step


def find_unseen(dataset: Dataset, model: dict[str, Any]) -> np.ndarray:
    """Returns bool [n]: the images that the generator of `model` was not trained on.

    Args:
      model: its `ids` and `generator_ids`, of the images that codes and generator were fitted to.
    """
    ids = [row for name in ("ids", "generator_ids") for row in model.get(name, ())]
    learnt = {row.tobytes() for row in ids}
    return np.array(
        [row.tobytes() not in learnt for row in hash_ids(dataset.ids)], bool
    )


def check_unseen(test_set: Dataset, model: dict[str, Any]) -> None:
    """Checks that a generator whose codes were fitted later has not learnt the test images.

    Raises:
      UserError: it has, before other images were added.
    """
    seen = ~find_unseen(test_set, {"generator_ids": model.get("generator_ids", ())})
    if seen.any():
        raise UserError(
            f"{seen.sum()} of the test images are images that the generator was trained on, before "
            "others were added: put what it shall be tested on into a folder test/, or train "
            "anew in another --workdir"
        )


def restore_finished(
    directory: pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any], int] | None:
    """Returns (model, meta, step) of a fit that was taken to its last step, else None.

    Raises:
      UserError: its checkpoints are damaged.
    """

    def is_finished(meta: dict[str, Any], step: int) -> bool:
        return isinstance(meta.get("total"), int) and step >= meta["total"]

    try:
        return restore_latest(directory, is_finished)
    except UserError:
        if (
            not directory.is_dir()
        ):  # `fit_codes` removed it when it had fitted newer ones
            return None
        raise


def restore_if_whole(directory: pathlib.Path) -> dict[str, Any] | None:
    """Returns the model of an earlier fit, None if it was not finished or is damaged."""
    try:
        finished = restore_finished(directory)
    except UserError as error:
        print(
            f"warning: {error}; fitting these codes anew", file=sys.stderr, flush=True
        )
        return None
    return finished and finished[0]
