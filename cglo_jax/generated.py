"""What a report tells of samples/: pictures of what the generator makes, and whether it copies."""

import json
import math
import pathlib
from typing import Any

from PIL import Image

from cglo_jax.errors import UserError
from cglo_jax.page import Block, Folded, Heading, Picture, Section, Table, Text, Walks
from cglo_jax.sections import plural

_CAPTIONS = {
    "reconstructions": (
        "Training images (upper rows) and what the generator makes of their codes (lower rows). "
        "What is lost here is missing from every synthetic image."
    ),
    "interpolations": (
        "Each row walks from the code of one training image (left) to that of another of its class "
        "(right). Synthetic training images are such images in between."
    ),
    "nearest": (
        "Synthetic images (upper rows), of each class the one that comes closest to a training "
        "image, and that training image (lower rows)."
    ),
    "codes": (
        "The codes of the training images, brought from the sphere to the plane. Only nearness has "
        "a meaning here, the axes have none."
    ),
}
_ALTS = {
    "reconstructions": (
        "Pairs of images, named by class: a training image, and below it what the generator makes "
        "of its code."
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
        "tell the classes."
    ),
}


def samples(workdir: pathlib.Path) -> Section:
    """Shows the pictures in samples/ and tells what was measured of the images.

    Raises:
      UserError: a file is damaged.
    """
    directory, between = workdir / "samples", "Between two images"
    walks = _walks(directory)
    parts: list[tuple[str, str, list[Block]]] = [  # file, heading, blocks
        ("reconstructions.png", "Reconstructions", _picture(directory, "reconstructions")),
        ("walks.png and walks.json", between, walks),
        ("interpolations.png", "" if walks else between, _strip(directory, bool(walks))),
        ("nearest.json", "Nearest training images", _nearest(directory / "nearest.json")),
        ("nearest.png", "", _picture(directory, "nearest")),
        ("codes.png", "Map of the codes", _picture(directory, "codes")),
    ]  # fmt: skip
    text, missing = [], [name for name, _, blocks in parts if not blocks]
    n = sum(1 for _ in directory.glob("images/*/*.png"))
    if n:
        text.append(
            f"{plural(n, 'synthetic image')}: samples/images/<class>/*.png in the work directory, "
            "each described by a line of samples/manifest.jsonl."
        )
    else:
        missing.append("the synthetic images")
    if step := _find_newer_step(workdir):
        text.append(
            f"They are of an earlier step of the cGLO, which is at step {step:,} now: "
            "--stage=sample makes them anew."
        )
    if missing:
        text.append(f"Not there: {', '.join(missing)}. --stage=sample makes them.")
    if (directory / "class_names.txt").exists():
        text.append(
            "Classes whose letters no font had are numbered in the pictures: "
            "samples/class_names.txt lists them."
        )
    shown: list[Block] = []
    for _, heading, blocks in parts:
        if heading and blocks:
            shown.append(Heading(heading))
        shown += blocks
    return Section("What the generator makes", text, blocks=shown)


def _find_newer_step(workdir: pathlib.Path) -> int:
    """Returns the newest step of the cGLO if the samples are of an earlier one, else 0."""
    try:
        with (workdir / "samples" / "manifest.jsonl").open(encoding="utf-8") as file:
            line = json.loads(file.readline(1 << 20))
        seed, step = int(line["seed"]), int(line["checkpoint_step"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return 0
    names = [path.name for path in workdir.glob(f"checkpoints/seed-{seed}/*/")]
    newest = max([int(name) for name in names if name.isdecimal()], default=0)
    return newest if newest > step else 0


def _read_png(path: pathlib.Path) -> tuple[bytes, tuple[int, int]]:
    """Reads a picture that can be shown, and its width and height."""
    try:
        png = path.read_bytes()
        with Image.open(path) as image:
            image.load()
            return png, image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UserError(f"{path} is no picture: run --stage=sample again") from None


def _picture(directory: pathlib.Path, name: str) -> list[Block]:
    path = directory / f"{name}.png"
    if not path.exists():
        return []
    png, size = _read_png(path)
    return [Picture(name, _CAPTIONS[name], png, size, _ALTS[name])]


def _strip(directory: pathlib.Path, folded: bool) -> list[Block]:
    """The walks without a slider."""
    picture = _picture(directory, "interpolations")
    return (
        [Folded("All of the walks at once", picture)] if picture and folded else picture
    )


def _read_json(path: pathlib.Path, check: Any) -> Any:
    """Reads what `check` raises nothing about."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        check(told)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} cannot be used ({type(error).__name__}: {error}): "
            "run --stage=sample again"
        ) from error
    return told


def _walks(directory: pathlib.Path) -> list[Block]:
    paths = directory / "walks.png", directory / "walks.json"
    if not all(path.exists() for path in paths):
        return []
    png, size = _read_png(paths[0])

    def check(told: dict[str, Any]) -> None:
        height, width = told["tile"]
        rows, columns = len(told["classes"]), len(told["t"])
        if not rows * columns or size != (columns * width, rows * height):
            raise ValueError(f"{rows} x {columns} tiles are not what walks.png holds")
        if not all(0 <= t <= 1 for t in told["t"]):
            raise ValueError("t must be from 0 to 1")

    told = _read_json(paths[1], check)
    text = (
        "Choose a place on the way from the code of one training image (t = 0) to that of another "
        "of its class (t = 1). Synthetic training images are such images in between."
    )
    names = [str(name) for name in told["classes"]]
    return [Walks(text, names, told["t"], tuple(told["tile"]), png)]


def _check_nearest(told: dict[str, Any]) -> None:
    for name in ("checked", "median_synthetic", "held_out", "parents"):
        if not (math.isfinite(told[name]) and told[name] >= 0):
            raise ValueError(f"{name} must be a number")
    for name in ("median_held_out", "ratio", "copies"):  # None: could not be told
        if told[name] is not None and not (
            math.isfinite(told[name]) and told[name] >= 0
        ):
            raise ValueError(f"{name} must be a number or null")


def _nearest(path: pathlib.Path) -> list[Block]:
    if not path.exists():
        return []
    told = _read_json(path, _check_nearest)
    checked = plural(told["checked"], "synthetic image")
    rows = [
        [
            "Median distance to the nearest training image",
            f"{told['median_synthetic']:.3g}",
        ],
    ]
    if told["median_held_out"] is not None:
        real = f"The same of {plural(told['held_out'], 'test image')}"
        rows.append([real, f"{told['median_held_out']:.3g}"])
    texts = []
    if told["ratio"] is None:
        texts.append(
            f"{checked} compared, pixel by pixel, with all training images. There are no test "
            "images to compare with that are not training images themselves, so nothing says "
            "which distance is small."
        )
    else:
        texts.append(
            f"Are they copies? At the median, {checked} are {told['ratio']:.2f} times as far from "
            "the nearest training image as test images are, which nothing was trained on. Near 1 "
            "they are as new as real images; near 0 they repeat the training images. Being made "
            "between two of these, they come out below 1."
        )
        rows.append(["Ratio", f"{told['ratio']:.2f}"])
    if told["copies"] is not None:
        name = "Closer than 99% of test images are (1% if as new as those)"
        rows.append([name, f"{told['copies']:.3g}%"])
    parents = "Nearest to one of the two images they lie between"
    rows.append([parents, f"{told['parents']:.3g}%"])
    header = ["What", "Value"]
    return [*map(Text, texts), Table("Distances, in pixel values", header, rows)]
