"""Own images: a folder with one sub-folder per class -> what to train on, what to test on.

An image is used once, and has the same id on every machine, whatever its file is called. The id is
of the pixels; of a format that may be lossy, as JPEG, it is of the file: its pixels depend on the
decoder's version. Copies are found by their pixels, so also in other formats. Which class has
which index depends on the names of the folders alone.
"""

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cglo_jax import class_folders, decode
from cglo_jax.class_folders import Layout
from cglo_jax.errors import UnusableFiles, UserError, printable
from cglo_jax.sources import Source, Splits, T, draw, hash_image, rank_ids

_TWO_LABELS = "labelled in two ways"
_LISTED = 12  # names in a line for people
_EXAMPLES = 3  # files in a refusal, each with its reason


class _File(NamedTuple):
    path: Path
    name: str  # for people: below the root
    label: int  # -1: in no class folder
    test: bool  # in the test folder


class _Image(NamedTuple):
    file: _File
    id: str
    pixels: str  # their hash, to find copies by
    side: int  # pixels, the short one
    traits: tuple[str, ...]  # for people: what is special about it


_Why = dict[_File, str]  # "kind" or "kind (details)" for each file that is not used


def read(fields: ConfigDict) -> Splits:
    """Opens the folder `path`, in which `class_folders` finds the classes.

    Every file is decoded once, and dropped again. Without a test folder about `test_fraction`
    of each class is held out, see `_hold_out`.

    Args:
      fields: `config.dataset`, of which `path`, `strict`, `test_fraction`, `split_seed` and
        `holdout` count. With `holdout` > 0, which tests on training images, there need be no others.

    Returns:
      Images to train and to test on, ordered by class, then id; all are read as RGB.

    Raises:
      UserError: there are no two classes, each with a usable image, or nothing to test on,
        or a file cannot be used and `strict` is set. If files are skipped it is an
        `UnusableFiles`, which lists them all.
    """
    layout = class_folders.find(fields.path)
    names = tuple(map(printable, layout.train))
    if layout.test is None and not (fields.test_fraction or fields.holdout):
        raise UserError(
            f"{layout.root} has no test folder and config.dataset.test_fraction is 0: set it to "
            "0.25, say, or put the images into train/<class> and test/<class>"
        )
    images, why = _scan(layout)
    images = sorted(_drop_copies(images, why), key=lambda i: (i.file.label, i.id))
    skipped = tuple(f"{file.name}: {reason}" for file, reason in sorted(why.items()))
    try:
        if fields.strict and skipped:
            raise UserError(_refuse_any(layout, skipped))
        train, test = _split(layout, images, why, fields)
    except UserError as error:
        raise (UnusableFiles(str(error), skipped) if skipped else error) from None
    notes = _describe(layout, fields.test_fraction, names, train, test, why)
    test_name = "held out of the folder" if layout.test is None else "test"
    return Splits(names, _source(train), _source(test), notes, skipped, test_name)


def _scan(layout: Layout) -> tuple[list[_Image], _Why]:
    """Decodes every file once: -> usable images, training first, and why others are not."""

    def file(path: Path, label: int, test: bool) -> _File:
        name = printable(path.relative_to(layout.root).as_posix())
        return _File(path, name, label, test)

    labels = {name: label for label, name in enumerate(layout.train)}
    files = [
        file(path, labels[name], test)
        for test, classes in ((False, layout.train), (True, layout.test or {}))
        for name, folder in classes.items()
        for path in class_folders.walk(folder)
    ]
    why = {file(path, -1, False): "not in a class folder" for path in layout.loose}
    images = []
    results = decode.decode_each([f.path for f in files], _summarise, "reading images")
    for one, result in zip(files, results, strict=True):
        if isinstance(result, decode.UnusableImage):
            why[one] = str(result)
        else:
            images.append(_Image(one, *result))
    return images, why


def _summarise(decoded: decode.Decoded) -> tuple[str, str, int, tuple[str, ...]]:
    """Keeps of an image what is not its pixels: all of `_Image` but the file."""
    traits = {
        "grey": decoded.grey,
        "partly transparent (white now)": decoded.transparent,
        "turned upright by EXIF data": decoded.turned,
    }
    pixels = hash_image(decoded.image)
    told = tuple(trait for trait, has in traits.items() if has)
    return decoded.file_hash or pixels, pixels, min(decoded.image.size), told


def _drop_copies(images: Iterable[_Image], why: _Why) -> list[_Image]:
    """Keeps the first image of the same pixels, and tells of the others in `why`."""
    first: dict[str, _Image] = {}
    for image in images:
        file, other = image.file, first.setdefault(image.pixels, image).file
        if file is other:
            continue
        if file.label != other.label:
            kind = _TWO_LABELS
        elif file.test != other.test:
            kind = "also a training image"
        else:
            kind = "same pixels as another"
        why[file] = f"{kind} (as {other.name})"
    return list(first.values())


def _tell(files: Sequence[_File], why: _Why) -> str:
    """Why `files` were skipped, by the example of the first."""
    if not files:
        return ""
    return f" (files skipped: {len(files)}, such as {files[0].name}: {why[files[0]]})"


def _refuse_any(layout: Layout, skipped: Sequence[str]) -> str:
    examples = "; ".join(skipped[:_EXAMPLES])
    return (
        f"config.dataset.strict is True, but files of {layout.root} cannot be used, "
        f"{len(skipped)} in all, such as {examples}: mend or remove them, or set "
        "--config.dataset.strict=False to go on without them"
    )


def _check_classes(layout: Layout, train: Sequence[_Image], why: _Why) -> None:
    usable = {image.file.label for image in train}
    for label, (name, folder) in enumerate(layout.train.items()):
        if label not in usable:
            refused = [f for f in why if f.label == label and not f.test]
            raise UserError(
                f"class {name!r} has no usable image in {folder}{_tell(refused, why)}: "
                "add images or remove the folder"
            )


def _split(
    layout: Layout, images: Sequence[_Image], why: _Why, fields: ConfigDict
) -> tuple[list[_Image], list[_Image]]:
    """-> images to train on, of every class, and to test on (none if `test_fraction` is 0)."""
    train = [image for image in images if not image.file.test]
    test = [image for image in images if image.file.test]
    _check_classes(layout, train, why)
    if layout.test is None:
        if not fields.test_fraction:
            return train, []
        train, test = _hold_out(train, fields.test_fraction, fields.split_seed)
        if not test:
            raise UserError(
                f"{layout.root} has one usable image of each class, so none to test on: "
                "add images"
            )
    if not test:
        refused = _tell([file for file in why if file.test], why)
        raise UserError(
            f"the test folder of {layout.root} has no usable image{refused}: add some, "
            "or remove it to test on a part of the training images"
        )
    return train, test


def _hold_out(
    images: Sequence[_Image], fraction: float, seed: int
) -> tuple[list[_Image], list[_Image]]:
    """Splits images ordered by class: -> (train, test).

    An image is held out if the number drawn for its id is below `fraction`, whatever else there
    is, so more images do not move those that were there. But a class of one image trains only,
    and one of more has an image in each set: the lowest number's in test, the highest's in train.
    """
    test: set[str] = set()
    for _, members in itertools.groupby(images, lambda image: image.file.label):
        ids = [image.id for image in members]
        below = sum(draw(i, seed, "test") < fraction for i in ids)
        number = min(max(1, below), len(ids) - 1)
        test.update(ids[i] for i in rank_ids(ids, seed, "test")[:number])
    return [i for i in images if i.id not in test], [i for i in images if i.id in test]


def _source(images: Sequence[_Image]) -> Source:
    paths = [image.file.path for image in images]

    def read(positions: Sequence[int], use: Callable[[Image.Image], T]) -> list[T]:
        chosen = [paths[i] for i in positions]
        results = decode.decode_each(chosen, lambda decoded: use(decoded.image))
        for path, result in zip(chosen, results, strict=True):
            if isinstance(result, decode.UnusableImage):
                raise UserError(
                    f"{path} could be read a moment ago, but now: {result}; leave the "
                    "images alone while this runs, and start again"
                )
        return results

    labels = np.array([image.file.label for image in images], np.int32)
    return Source([image.id for image in images], labels, read)


# For people


def _describe(
    layout: Layout,
    fraction: float,
    names: Sequence[str],
    train: Sequence[_Image],
    test: Sequence[_Image],
    why: _Why,
) -> tuple[str, ...]:
    """What was found, what is special about it and what is not used: a few lines."""
    used = [*train, *test]
    lines = [f"folder {printable(str(layout.root))}: {_count_classes(names, used)}"]
    sides = [image.side for image in used]
    median = statistics.median(sides)
    traits = Counter(trait for image in used for trait in image.traits)
    sizes = f"short sides {min(sides)} to {max(sides)} px, median {median:.0f}"
    lines.append("; ".join([sizes, *([_count(traits)] if traits else [])]))
    if layout.test is None and test:
        share = f"each with probability {fraction * 100:.3g} %"
        lines.append(f"held out for testing, {share}: {_count_classes(names, test)}")
        lines.append(f"to train on: {_count_classes(names, train)}")
    elif layout.test is not None:
        lines.append(f"to train on: {_count_classes(names, train)}")
        lines.append(f"to test on: {_count_classes(names, test)}")
    tested = {image.file.label for image in test}
    untested = [name for label, name in enumerate(names) if label not in tested]
    if test and untested:
        lines.append(f"classes without an image to test on: {_name_some(untested)}")
    if layout.unused:
        unused = _name_some([printable(name) for name in layout.unused])
        lines.append(f"folders that are neither to train nor to test on: {unused}")
    if why:
        kinds = Counter(reason.split(" (")[0] for reason in why.values())
        total = len(used) + len(why)
        lines.append(f"skipped {len(why)} of {total} files: {_count(kinds)}")
    if double := [
        f"{f.name}{reason.removeprefix(_TWO_LABELS)}"
        for f, reason in why.items()
        if reason.startswith(_TWO_LABELS)
    ]:
        lines.append(
            f"{_TWO_LABELS}: {_name_some(double)}; the label of the file in brackets "
            "counts: check which is right"
        )
    return tuple(lines)


def _count(kinds: Counter[str]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())


def _count_classes(names: Sequence[str], images: Sequence[_Image]) -> str:
    counts = np.bincount([i.file.label for i in images], minlength=len(names))
    each = f"{counts.min()} to {counts.max()} each"
    if len(names) <= _LISTED:
        each = ", ".join(f"{n} {c}" for n, c in zip(names, counts, strict=True))
    return f"{len(images)} images in {np.count_nonzero(counts)} classes ({each})"


def _name_some(names: Sequence[str]) -> str:
    more = [f"{len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return ", ".join([*names[:_LISTED], *more])
