"""Own images: a folder with one sub-folder per class -> what to train on, what to test on.

An image is used once, and has the same id on every machine, whatever its file is called. The id is a
hash of the pixels. Where the pixels depend on the decoder's version (formats that may be lossy, as JPEG,
and converted colours) it is a hash of the file; for a transparent image, of its colours and transparency.
Copies are found by their pixels, so also in other formats. Which class has which index depends only on
the names of the folders that are used.
"""

import hashlib
import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cglo_jax.config.values import NAMED_COLOURS
from cglo_jax.data import colours, decode, near_copies
from cglo_jax.data.colours import Conversion
from cglo_jax.data.layout import Layout, find_layout, name_some, walk
from cglo_jax.data.sources import Source, Splits, T, draw, hash_image, rank_ids
from cglo_jax.errors import UnusableFiles, UserError, printable

_TWO_LABELS = "labelled in two ways"
_LISTED = 12  # classes in a printed line
_EXAMPLES = 3  # files in a refusal, each with its reason
_DARK = 6  # of 255: mean of an image that is nearly black


class _File(NamedTuple):
    path: Path
    name: str  # printable: the path below the root
    label: int  # -1: in no class folder
    test: bool  # in the test folder


class _Found(NamedTuple):
    """An image without its pixels."""

    id: str
    pixels: str  # hash of the pixels, to find copies by
    side: int  # the short side in pixels
    traits: tuple[str, ...]  # what is special about it, in words
    look: np.ndarray  # see `near_copies.describe`
    transparent: bool
    hidden_on: tuple[str, ...]  # backgrounds on which it cannot be seen
    largest: int  # the largest value of 16 bits


class _Image(NamedTuple):
    file: _File
    found: _Found

    @property
    def id(self) -> str:
        return self.found.id


class _Scan(NamedTuple):
    images: list[_Image]
    conversion: Conversion
    hidden: list[Path]  # hidden files and folders, and the system's
    notes: list[str]


_Why = dict[_File, str]  # "kind" or "kind (details)" for each file that is not used


def read(fields: ConfigDict) -> Splits:
    """Opens the folder `path`, in which `find_layout` finds the classes.

    Every file is decoded once, and its pixels are not kept. Without a test folder about `test_fraction`
    of each class is held out, see `_hold_out`.

    Args:
      fields: `config.dataset`; `path`, `strict`, `test_fraction`, `split_seed`, `background`,
        `bits` and `holdout` are read. With `holdout` > 0, which tests on training
        images, no test images are needed.

    Returns:
      Images to train and to test on, ordered by class, then id; all are read as RGB.

    Raises:
      UserError: a class has no usable image, there is nothing to test on, or a file cannot be used and
        `strict` is set. If files are skipped it is an `UnusableFiles`, which lists them all.
    """
    layout = find_layout(fields.path)
    names = tuple(map(printable, layout.train))
    if layout.test is None and not (fields.test_fraction or fields.holdout):
        raise UserError(
            f"{layout.root} has no test folder and config.dataset.test_fraction is 0: set it to "
            "0.25, say, or put the images into train/<class> and test/<class>"
        )
    scan, why = _scan(layout, fields)
    images = _drop_copies(scan.images, why)
    images.sort(key=lambda image: (image.file.label, image.id))
    groups, near_notes = _find_near_copies(images)
    skipped = tuple(f"{file.name}: {reason}" for file, reason in sorted(why.items()))
    try:
        if fields.strict and skipped:
            raise UserError(_refuse_any(layout, skipped))
        train, test = _split(layout, images, why, fields, groups)
    except UserError as error:
        raise (UnusableFiles(str(error), skipped) if skipped else error) from None
    notes = _describe(layout, scan, fields.test_fraction, names, train, test, why)
    notes += near_notes
    apart = {groups.get(i.id) for i in train}.isdisjoint(
        groups[i.id] for i in test if i.id in groups
    )
    if layout.test is None and test and groups and apart:
        notes += (_describe_groups(images, groups),)
    test_name = "held out of the folder" if layout.test is None else "test"
    near = {i.id: (groups[i.id], i.file.name) for i in images if i.id in groups}
    sources = [_source(part, scan.conversion) for part in (train, test)]
    parts = (tuple(notes), skipped, test_name, scan.conversion, near)
    return Splits(names, *sources, *parts)


def _scan(layout: Layout, fields: ConfigDict) -> tuple[_Scan, _Why]:
    """Decodes every file once; returns the usable images, training first, and why the others are not.

    Images whose pixels depend on a background or depth that is chosen from all images are decoded again.
    """

    def file(path: Path, label: int, test: bool) -> _File:
        name = printable(path.relative_to(layout.root).as_posix())
        return _File(path, name, label, test)

    labels = {name: label for label, name in enumerate(layout.train)}
    hidden = list(layout.hidden)
    files = [
        file(path, labels[name], test)
        for test, classes in ((False, layout.train), (True, layout.test or {}))
        for name, folder in classes.items()
        for path in walk(folder, hidden)
    ]
    why = {file(path, -1, False): "not in a class folder" for path in layout.loose}
    given = NAMED_COLOURS.get(fields.background, fields.background)
    first = Conversion(
        colours.DEFAULT.background if given == "auto" else given,
        fields.bits or colours.DEFAULT.bits,
        profiles=True,
    )
    results = _decode(files, first, "reading images")
    usable = [
        _Image(one, result)
        for one, result in zip(files, results, strict=True)
        if isinstance(result, _Found)
    ]
    conversion = first
    if given == "auto":
        conversion = conversion._replace(background=_choose_background(usable))
    largest = max((image.found.largest for image in usable), default=0)
    if largest and not fields.bits:
        conversion = conversion._replace(bits=colours.choose_bits(largest))
    again = [
        k
        for k, result in enumerate(results)
        if isinstance(result, _Found)
        and (
            (result.transparent and conversion.background != first.background)
            or (result.largest and conversion.bits != first.bits)
        )
    ]
    changed = _decode([files[k] for k in again], conversion, "reading some again")
    for k, result in zip(again, changed, strict=True):
        results[k] = result
    images = []
    for one, result in zip(files, results, strict=True):
        if isinstance(result, _Found):
            images.append(_Image(one, result))
        else:
            why[one] = str(result)
    notes = [
        *_describe_background(images, conversion, given, layout),
        *_describe_bits(images, conversion, largest),
    ]
    return _Scan(images, conversion, hidden, notes), why


def _decode(
    files: Sequence[_File], conversion: Conversion, name: str
) -> list[_Found | decode.UnusableImage]:
    white = conversion.background == colours.DEFAULT.background
    background = "white" if white else _name_colour(conversion.background)

    def summarise(decoded: decode.Decoded) -> _Found:
        traits = {
            "grey": decoded.grey,
            f"partly transparent ({background} now)": decoded.transparent,
            "turned upright by EXIF data": decoded.turned,
            "with colours converted to sRGB by their profile": decoded.profile
            == "converted",
            "with a colour profile that cannot be used": decoded.profile == "unusable",
        }
        pixels = decoded.content or hash_image(decoded.image)
        id_ = decoded.file_hash or pixels
        if decoded.mark:
            id_ = hashlib.sha256(f"{id_}/{decoded.mark}".encode()).hexdigest()[:32]
        return _Found(
            id_,
            pixels,
            min(decoded.image.size),
            tuple(trait for trait, has in traits.items() if has),
            near_copies.describe(decoded.image),
            decoded.transparent,
            decoded.hidden_on,
            decoded.largest,
        )

    paths = [file.path for file in files]
    return decode.decode_each(paths, summarise, name, conversion)


def _choose_background(images: Sequence[_Image]) -> str:
    hidden_on: dict[int, list[tuple[str, ...]]] = {}
    for image in images:
        hidden_on.setdefault(image.file.label, []).append(image.found.hidden_on)
    return colours.choose_background(hidden_on)


def _find_near_copies(
    images: Sequence[_Image],
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Returns the group of each image (by its id) that is a near copy of another, and lines to print."""
    if len(images) > near_copies.MOST:
        text = f"near copies were not looked for: there are more than {near_copies.MOST} images"
        return {}, (text,)
    pairs = near_copies.find_pairs([image.found.look for image in images])
    if pairs is None:
        text = "near copies cannot be distinguished from other images here: too many images look alike"
        return {}, (text,)
    groups = near_copies.group(pairs)
    notes = []
    twice = [
        f"{images[j].file.name} (as {images[i].file.name})"
        for i, j in pairs
        if images[i].file.label != images[j].file.label
    ]
    if twice:
        notes.append(
            f"near copies in two classes: {name_some(twice)}; check which label is right"
        )
    return {images[i].id: number for i, number in groups.items()}, tuple(notes)


def _drop_copies(images: Iterable[_Image], why: _Why) -> list[_Image]:
    """Keeps the first image of the same pixels, and adds the others to `why`."""
    first: dict[str, _Image] = {}
    for image in images:
        file, other = image.file, first.setdefault(image.found.pixels, image).file
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


def _describe_skipped(files: Sequence[_File], why: _Why) -> str:
    """Returns how many `files` were skipped, and why the first was; "" without any."""
    if not files:
        return ""
    return f" (files skipped: {len(files)}, such as {files[0].name}: {why[files[0]]})"


def _refuse_any(layout: Layout, skipped: Sequence[str]) -> str:
    examples = "; ".join(skipped[:_EXAMPLES])
    return (
        f"config.dataset.strict is True, but files of {layout.root} cannot be used, "
        f"{len(skipped)} in all, such as {examples}: mend or remove them, or set "
        "--config.dataset.strict=False to continue without them"
    )


def _check_classes(layout: Layout, train: Sequence[_Image], why: _Why) -> None:
    usable = {image.file.label for image in train}
    for label, (name, folder) in enumerate(layout.train.items()):
        if label not in usable:
            refused = [f for f in why if f.label == label and not f.test]
            raise UserError(
                f"class {name!r} has no usable image in {folder}{_describe_skipped(refused, why)}: "
                "add images or remove the folder"
            )


def _split(
    layout: Layout,
    images: Sequence[_Image],
    why: _Why,
    fields: ConfigDict,
    groups: Mapping[str, int],
) -> tuple[list[_Image], list[_Image]]:
    """Returns images to train on, of every class, and to test on (none if `test_fraction` is 0)."""
    train = [image for image in images if not image.file.test]
    test = [image for image in images if image.file.test]
    _check_classes(layout, train, why)
    if layout.test is None:
        if not fields.test_fraction:
            return train, []
        train, test = _hold_out(train, fields.test_fraction, fields.split_seed, groups)
        if not test:  # each class has one image, and perhaps its near copies
            train, test = _hold_out(train, fields.test_fraction, fields.split_seed, {})
        if not test:
            raise UserError(
                f"{layout.root} has one usable image of each class, so none to test on: "
                "add images"
            )
    if not test:
        refused = _describe_skipped([file for file in why if file.test], why)
        raise UserError(
            f"the test folder of {layout.root} has no usable image{refused}: add some, "
            "or remove it to test on a part of the training images"
        )
    return train, test


def _hold_out(
    images: Sequence[_Image], fraction: float, seed: int, groups: Mapping[str, int]
) -> tuple[list[_Image], list[_Image]]:
    """Splits images, which are ordered by class, into (train, test).

    An image is held out if the number drawn for its id is below `fraction`, whatever other images there
    are, so an added image moves no other. But a class of one image is only trained on, and a class of
    more has an image in each set: the one with the lowest number is tested on, the one with the highest trained on.
    Near copies, which have the same number in `groups`, are on the same side.
    """
    test: set[str] = set()
    sides: dict[int | str, bool] = {}  # group -> whether it is tested on
    for _, members in itertools.groupby(images, lambda image: image.file.label):
        ids = [image.id for image in members]
        below = sum(draw(i, seed, "test") < fraction for i in ids)
        number = min(max(1, below), len(ids) - 1)
        units: dict[int | str, list[str]] = {}
        for i in rank_ids(ids, seed, "test"):
            units.setdefault(groups.get(ids[i], ids[i]), []).append(ids[i])
        test.update(_choose_units(units, number, sides))
    return [i for i in images if i.id not in test], [i for i in images if i.id in test]


def _choose_units(
    units: Mapping[int | str, Sequence[str]], number: int, sides: dict[int | str, bool]
) -> list[str]:
    """Chooses units of a class from the first on, with `number` images together if that can be.

    Args:
      units: unit -> ids of its images, which stay together.
      sides: unit -> whether it is tested on, as other classes decided; this class's units are added.
    """
    chosen = [name for name in units if sides.get(name)]
    if len(chosen) == len(units):
        chosen = chosen[:-1]  # something has to be trained on
    free = [name for name in units if name not in sides]
    taken = sum(len(units[name]) for name in chosen)
    for name in free:
        if taken + len(units[name]) <= number:
            chosen.append(name)
            taken += len(units[name])
    if not chosen and len(units) > 1 and free:  # all are larger than that
        chosen = [min(free, key=lambda name: len(units[name]))]
    for name in free:
        sides[name] = name in chosen
    return [id_ for name in chosen for id_ in units[name]]


def _source(images: Sequence[_Image], conversion: Conversion) -> Source:
    paths = [image.file.path for image in images]

    def read(positions: Sequence[int], use: Callable[[Image.Image], T]) -> list[T]:
        chosen = [paths[i] for i in positions]
        results = decode.decode_each(
            chosen, lambda decoded: use(decoded.image), conversion=conversion
        )
        for path, result in zip(chosen, results, strict=True):
            if isinstance(result, decode.UnusableImage):
                raise UserError(
                    f"{path} could be read a moment ago, but now: {result}; leave the "
                    "images alone while this runs, and start again"
                )
        return results

    labels = np.array([image.file.label for image in images], np.int32)
    return Source([image.id for image in images], labels, read)


# Lines to print


def _describe(
    layout: Layout,
    scan: _Scan,
    fraction: float,
    names: Sequence[str],
    train: Sequence[_Image],
    test: Sequence[_Image],
    why: _Why,
) -> tuple[str, ...]:
    """Returns a few lines: what was found, what is special about it and what is not used."""
    used = [*train, *test]
    lines = [f"folder {printable(str(layout.root))}: {_count_classes(names, used)}"]
    lines += layout.notes
    sides = [image.found.side for image in used]
    median = statistics.median(sides)
    traits = Counter(trait for image in used for trait in image.found.traits)
    sizes = f"short sides {min(sides)} to {max(sides)} px, median {median:.0f}"
    lines.append("; ".join([sizes, *([_count(traits)] if traits else [])]))
    lines += scan.notes
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
        lines.append(f"classes without an image to test on: {name_some(untested)}")
    if layout.unused:
        unused = name_some([printable(name) for name in layout.unused])
        lines.append(f"folders that are neither to train nor to test on: {unused}")
    if layout.left_out:
        left_out = [f"{name} ({reason})" for name, reason in layout.left_out.items()]
        lines.append(f"folders left out: {name_some(left_out)}")
    if scan.hidden:
        kinds = Counter(
            "._*" if p.name.startswith("._") else p.name for p in scan.hidden
        )
        kept = [f"{printable(n)}{f' ({c})' if c > 1 else ''}" for n, c in kinds.items()]
        lines.append(f"left out as hidden or the system's: {name_some(kept)}")
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
            f"{_TWO_LABELS}: {name_some(double)}; the label of the file in brackets "
            "counts: check which is right"
        )
    return tuple(lines)


def _name_colour(background: str) -> str:
    names = {value: name for name, value in NAMED_COLOURS.items()}
    return names.get(background, background)


def _describe_background(
    images: Sequence[_Image], conversion: Conversion, given: str, layout: Layout
) -> list[str]:
    """Returns why transparent images are not on white, and which cannot be seen on the background."""
    lines, colour = [], _name_colour(conversion.background)
    white = colours.DEFAULT.background
    if given == "auto" and conversion.background != white:
        lost = [image.file for image in images if white in image.found.hidden_on]
        names = list(layout.train)
        classes = name_some(
            [printable(names[k]) for k in sorted({f.label for f in lost})]
        )
        lines.append(
            f"transparent images are put on {colour}, as {len(lost)} of them ({classes}) cannot "
            "be seen on white; --config.dataset.background=COLOUR sets another"
        )
    lost = [i.file.name for i in images if conversion.background in i.found.hidden_on]
    if lost:
        lines.append(
            f"cannot be seen on {colour}, {len(lost)} in all: {name_some(lost)}"
        )
    return lines


def _describe_groups(images: Sequence[_Image], groups: Mapping[str, int]) -> str:
    found: dict[int, list[str]] = {}
    for image in images:
        if image.id in groups:
            found.setdefault(groups[image.id], []).append(image.file.name)
    some = [" = ".join(map(str, names)) for names in found.values()]
    return (
        f"near copies (saved again, resized, cropped or brightened), {len(groups)} images that "
        f"show {len(found)}, each on one side of the split: {name_some(some)}"
    )


def _describe_bits(
    images: Sequence[_Image], conversion: Conversion, largest: int
) -> list[str]:
    """Returns how values of 16 bits are scaled, and whether that leaves the images dark."""
    deep = [image for image in images if image.found.largest]
    if not deep:
        return []
    bits, white = conversion.bits, (1 << conversion.bits) - 1
    clipped = sum(image.found.largest > white for image in deep)
    clips = f", larger ones in {clipped} of them are white, too" if clipped else ""
    line = (
        f"{len(deep)} images of 16 bits, values up to {largest}: read as {bits} bits, {white} is "
        f"white in all{clips}; --config.dataset.bits=N sets another range"
    )
    if statistics.median(i.found.look[:1024].mean() for i in deep) < _DARK:
        line += "; read in this way, most of them are nearly black"
    return [line]


def _count(kinds: Counter[str]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())


def _count_classes(names: Sequence[str], images: Sequence[_Image]) -> str:
    counts = np.bincount([i.file.label for i in images], minlength=len(names))
    each = f"{counts.min()} to {counts.max()} each"
    if len(names) <= _LISTED:
        each = ", ".join(f"{n} {c}" for n, c in zip(names, counts, strict=True))
    return f"{len(images)} images in {np.count_nonzero(counts)} classes ({each})"
