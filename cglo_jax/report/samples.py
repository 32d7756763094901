"""The report's section on samples/: pictures of generated images, and whether they are copies."""

import pathlib
from typing import Annotated, TypedDict

import msgspec

from cglo_jax.files import readback
from cglo_jax.files.readback import (
    Amount,
    Count,
    Percent,
    Positive,
    Seed,
    Share,
    String,
)
from cglo_jax.report.accuracy import plural
from cglo_jax.report.page import (
    Block,
    Folded,
    Heading,
    Picture,
    Section,
    Table,
    Text,
    Walks,
)

_HEADING = "Generated images"
_CAPTIONS = {
    "reconstructions": (
        "Training images (upper rows) and the images generated from their codes (lower rows). "
        "Details that are lost here are missing from every synthetic image."
    ),
    "interpolations": (
        "Each row goes from the code of one training image (left) to that of another one of its "
        "class (right). Synthetic training images are generated from codes in between."
    ),
    "nearest": (
        "The synthetic image of each class that is closest to a training image (upper rows), and "
        "that training image (lower rows)."
    ),
    "codes": (
        "The codes of the training images, projected from the sphere to the plane. Neighbours are "
        "similar codes; the axes and large distances have no meaning."
    ),
}
_ALTS = {
    "reconstructions": (
        "Pairs of images, named by class: a training image, and below it the image generated from "
        "its code."
    ),
    "interpolations": (
        "A row of images for each class: generated on the way from one training image's code, on "
        "the left, to another's, on the right."
    ),
    "nearest": (
        "Pairs of images, named by class: a synthetic image, and below it the training image that "
        "is nearest to it."
    ),
    "codes": (
        "Scatter plot with a point for each training image's code; colours, and shapes or names, "
        "show the classes."
    ),
}
_ADVICE = "move it away and run --stage=sample again"
_BUSY = (
    "Samples are being made at this moment, or a process that made some was killed: run "
    "--stage=report again when --stage=sample has ended."
)


class _Walks(TypedDict):
    """walks.json: class of each row of walks.png, t of each column, tile's height and width in pixels."""

    classes: Annotated[list[String], msgspec.Meta(min_length=1, max_length=1000)]
    t: Annotated[list[Share], msgspec.Meta(min_length=1, max_length=100)]
    tile: tuple[Positive, Positive]


class _Nearest(TypedDict):
    """nearest.json, see `copies.write`; None: could not be computed."""

    checked: Count
    held_out: Count
    median_synthetic: Amount
    parents: Percent
    median_held_out: Amount | None
    ratio: Amount | None
    copies: Percent | None


class _Line(TypedDict):
    """What is read from a line of manifest.jsonl."""

    file: String
    seed: Seed
    checkpoint_step: Count


def samples(workdir: pathlib.Path) -> Section:
    """Shows the pictures in samples/ and the measurements of the images.

    Everything comes from one run of --stage=sample, even if another one replaces it meanwhile.

    Raises:
      UserError: a file is damaged.
    """
    directory = workdir / "samples"
    section = readback.read_steadily(directory, lambda: _read_samples(directory))
    return section or Section(_HEADING, [_BUSY])


def _read_samples(directory: pathlib.Path) -> Section:
    parts: dict[str, dict[str, list[Block]]] = {  # heading, file, blocks
        "Reconstructions": {
            "reconstructions.png": _picture(directory, "reconstructions")
        },
        "Interpolations": {
            "walks.png and walks.json": _walks(directory),
            "interpolations.png": _strip(directory),
        },
        "Nearest training images": {
            "nearest.json": _nearest(directory / "nearest.json"),
            "nearest.png": _picture(directory, "nearest"),
        },
        "Map of the codes": {"codes.png": _picture(directory, "codes")},
    }
    text = []
    missing = [
        name for files in parts.values() for name, blocks in files.items() if not blocks
    ]
    lines = readback.read_records(directory / "manifest.jsonl", _Line, _ADVICE)
    n = sum(1 for _ in lines)
    if n:
        text.append(
            f"{plural(n, 'synthetic image')}: samples/images/<class>/*.png in the work directory, "
            "each described by a line of samples/manifest.jsonl."
        )
    else:
        missing.append("the synthetic images")
    if step := _find_newer_step(directory):
        text.append(
            f"They were generated at an earlier step of the cGLO, which is now at step {step:,}: "
            "--stage=sample generates them again."
        )
    if missing:
        text.append(f"Not there: {', '.join(missing)}. --stage=sample makes them.")
    if (directory / "class_names.txt").exists():
        text.append(
            "Classes with letters that no font has are numbered in the pictures: "
            "samples/class_names.txt lists their names."
        )
    shown: list[Block] = []
    for heading, files in parts.items():
        if blocks := [block for of_file in files.values() for block in of_file]:
            shown += [Heading(heading), *blocks]
    return Section(_HEADING, text, blocks=shown)


def _find_newer_step(directory: pathlib.Path) -> int:
    """Returns the newest step of the cGLO if the samples are of an earlier one, else 0."""
    path = directory / "manifest.jsonl"
    line = next(iter(readback.read_records(path, _Line, _ADVICE)), None)
    if line is None:
        return 0
    checkpoints = directory.parent / "checkpoints" / f"seed-{line['seed']}"
    names = [path.name for path in checkpoints.glob("*/")]
    newest = max([int(name) for name in names if name.isdecimal()], default=0)
    return newest if newest > line["checkpoint_step"] else 0


def _picture(directory: pathlib.Path, name: str) -> list[Block]:
    try:
        image = readback.read_png(directory / f"{name}.png", _ADVICE)
    except FileNotFoundError:
        return []
    png = readback.encode_png(image)
    return [Picture(name, _CAPTIONS[name], png, image.size, _ALTS[name])]


def _strip(directory: pathlib.Path) -> list[Block]:
    """Shows the walks without a slider, for Markdown and on demand."""
    picture = _picture(directory, "interpolations")
    return [Folded("All interpolations at once", picture)] if picture else []


def _walks(directory: pathlib.Path) -> list[Block]:
    try:
        image = readback.read_png(directory / "walks.png", _ADVICE)

        def check(walks: _Walks) -> None:
            height, width = walks["tile"]
            rows, columns = len(walks["classes"]), len(walks["t"])
            if image.size != (columns * width, rows * height):
                raise ValueError(f"{rows} x {columns} tiles are not what walks.png has")

        walks = readback.read_json(directory / "walks.json", _Walks, _ADVICE, check)
    except FileNotFoundError:
        return []
    text = (
        "Choose a position t between the code of one training image (t = 0) and that of another "
        "one of its class (t = 1). Synthetic training images are generated from codes in between."
    )
    png = readback.encode_png(image)
    return [Walks(text, walks["classes"], walks["t"], walks["tile"], png)]


def _nearest(path: pathlib.Path) -> list[Block]:
    try:
        measured = readback.read_json(path, _Nearest, _ADVICE)
    except FileNotFoundError:
        return []
    checked = plural(measured["checked"], "synthetic image")
    rows = [
        [
            "Median distance to the nearest training image",
            f"{measured['median_synthetic']:.3g}",
        ],
    ]
    if measured["median_held_out"] is not None:
        real = f"The same for {plural(measured['held_out'], 'test image')}"
        rows.append([real, f"{measured['median_held_out']:.3g}"])
    texts = []
    if measured["ratio"] is None:
        texts.append(
            f"{checked} compared, pixel by pixel, with all training images. There are no test "
            "images to compare with that are not training images themselves, so it is unknown "
            "which distance is small."
        )
    else:
        texts.append(
            f"Are they copies? At the median, {checked} are {measured['ratio']:.2f} times as far from "
            "the nearest training image as test images are, which nothing was trained on. A ratio "
            "near 1 means that they are as new as real images, near 0 that they repeat training "
            "images. As each is generated between two training images, it is usually below 1."
        )
        rows.append(["Ratio", f"{measured['ratio']:.2f}"])
    if measured["copies"] is not None:
        name = "Closer than 99% of the test images (about 1% if as new as real images)"
        rows.append([name, f"{measured['copies']:.3g}%"])
    parents = "Nearest to one of the two training images they lie between"
    rows.append([parents, f"{measured['parents']:.3g}%"])
    header = ["What", "Value"]
    return [
        *map(Text, texts),
        Table(
            "Distances: root mean square of pixel differences, 0 to 255", header, rows
        ),
    ]
