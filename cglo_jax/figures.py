"""Pictures of a run: image grids and the map of the codes. Pure functions.

Grids are Pillow images whose pixels are exactly those given (nearest-neighbour, whole factors);
the map of the codes is drawn by matplotlib without its global state.
"""

import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_CELL = 64  # pixels: the shorter side of an image in a grid is brought to at least this
_GUTTER = 2  # pixels around every image
_PAD = 6  # pixels around text
_FONT_SIZE = 13  # pixels
_LABEL_WIDTH = 140  # pixels: row labels are broken into lines of at most this
_PER_ROW = 8  # columns of a reconstruction grid before it wraps
_INK = (34, 34, 34)
# Okabe & Ito's colours, told apart with every kind of colour blindness; yellow and black left out.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = "os^DvPX"  # 7 of them against 6 colours: 42 different pairs
_LEGEND_CLASSES = 12  # more than these are named on the map instead


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    # The DejaVu Sans inside matplotlib: Pillow's own font has no letters such as e-acute.
    import matplotlib

    path = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), _FONT_SIZE)


def _wrap(text: str, width: int) -> list[str]:
    """Breaks text into lines of at most `width` pixels, within a word only if it is too long."""
    pieces = "".join(
        f"{c}\0" if c in " _-" else c for c in " ".join(text.split())
    ).split("\0")
    lines = [""]
    for piece in pieces:
        if _font().getlength((lines[-1] + piece).rstrip()) <= width:
            lines[-1] += piece
            continue
        lines.append("")
        for character in piece:
            if lines[-1] and _font().getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return [line.rstrip() for line in lines if line.strip()]


def _text_size(lines: Sequence[str]) -> tuple[int, int]:
    width = max((math.ceil(_font().getlength(line)) for line in lines), default=0)
    return width, sum(_font().getmetrics()) * len(lines)


def _draw_lines(
    draw: ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[str], anchor: str
) -> None:
    for i, line in enumerate(lines):
        draw.text((x, y + i * sum(_font().getmetrics())), line, _INK, _font(), anchor)


def image_grid(
    images: np.ndarray,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: int | None = None,
) -> Image.Image:
    """Lays images out in rows and columns on white, labelled on the left and above.

    Args:
      images: uint8 [rows, columns, H, W, C], C = 1 or 3.
      row_labels: one text per row; long ones are broken into lines, never cut off.
      column_labels: one text per column, likewise.
      scale: whole factor of the nearest-neighbour enlargement; None = the smallest that brings
        the longer side to 64 pixels.

    Returns:
      An RGB image; images stand `scale * W` pixels wide with gutters of 2 pixels.

    Raises:
      ValueError: if a list of labels has another length than there are rows or columns.
    """
    rows, columns, height, width, _ = images.shape
    scale = scale or max(1, math.ceil(_CELL / max(height, width)))
    rgb = np.broadcast_to(images, (*images.shape[:-1], 3))  # grey to RGB
    tiles = rgb.repeat(scale, axis=2).repeat(scale, axis=3)
    height, width = height * scale, width * scale
    left = [_wrap(text, _LABEL_WIDTH) for text in row_labels or [""] * rows]
    most = max(width, _CELL) * 5 // 4  # rather wider than a word broken in two
    top = [_wrap(text, most) for text in column_labels or [""] * columns]
    x0 = max(_text_size(lines)[0] for lines in left)
    x0 += 2 * _PAD if x0 else _GUTTER
    y0 = max(_text_size(lines)[1] for lines in top)
    y0 += _PAD if y0 else _GUTTER
    # Where a label is wider or higher than its image, the image stands in the label's middle.
    cell_x = max(width, *(_text_size(lines)[0] for lines in top))
    cell_y = max(height, *(_text_size(lines)[1] for lines in left))
    xs = [x0 + c * (cell_x + _GUTTER) for c in range(columns)]
    ys = [y0 + r * (cell_y + _GUTTER) for r in range(rows)]
    canvas = np.full(
        (ys[-1] + cell_y + _GUTTER, xs[-1] + cell_x + _GUTTER, 3), 255, np.uint8
    )
    for r, c in np.ndindex(rows, columns):
        y, x = ys[r] + (cell_y - height) // 2, xs[c] + (cell_x - width) // 2
        canvas[y : y + height, x : x + width] = tiles[r, c]
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for y, lines in zip(ys, left, strict=True):
        y += (cell_y - _text_size(lines)[1]) // 2
        _draw_lines(draw, x0 - _PAD, y, lines, "ra")
    for x, lines in zip(xs, top, strict=True):
        y = y0 - _PAD // 2 - _text_size(lines)[1]
        _draw_lines(draw, x + cell_x // 2, y, lines, "ma")
    return picture


def _stack(pictures: Sequence[Image.Image], gap: int) -> Image.Image:
    height = sum(p.height for p in pictures) + gap * (len(pictures) - 1)
    stacked = Image.new("RGB", (max(p.width for p in pictures), height), "white")
    y = 0
    for picture in pictures:
        stacked.paste(picture, (0, y))
        y += picture.height + gap
    return stacked


def reconstruction_grid(
    originals: np.ndarray, reconstructions: np.ndarray, names: Sequence[str]
) -> Image.Image:
    """Shows training images above their reconstructions (Fig. 4), 8 to a row.

    Args:
      originals: uint8 [n, H, W, C], n > 0.
      reconstructions: uint8 [n, H, W, C], in the same order.
      names: the class name of each image, n texts.

    Returns:
      An RGB image with pairs of rows.
    """
    pairs = np.stack([originals, reconstructions])  # [2, n, H, W, C]
    rows = ("original", "reconstruction")
    blocks = [
        image_grid(pairs[:, i : i + _PER_ROW], rows, names[i : i + _PER_ROW])
        for i in range(0, len(originals), _PER_ROW)
    ]
    return _stack(blocks, gap=12)


def interpolation_grid(
    images: np.ndarray, t_values: Sequence[float], names: Sequence[str]
) -> Image.Image:
    """Walks from one reconstruction to another of the same class in every row (Fig. 5).

    Args:
      images: uint8 [rows, steps, H, W, C].
      t_values: place of each step on the arc, from 0 to 1.
      names: the class name of each row.

    Returns:
      An RGB image.
    """
    return image_grid(images, names, [f"t = {t:.3g}" for t in t_values])


def code_map(
    points: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> Image.Image:
    """Draws codes brought to the plane, coloured by class (Fig. 2).

    Up to 12 classes have a legend; of more, those names are written at their class's median for
    which there is room, larger classes first.

    Args:
      points: float [n, 2].
      labels: int [n]; -1 (no label) is drawn small and grey.
      class_names: the name of each class.

    Returns:
      An RGB image, 1200 pixels wide.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.8), dpi=200, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    axes.spines[:].set_color("0.8")
    few = len(class_names) <= _LEGEND_CLASSES
    hidden = axes.scatter(*points[labels < 0].T, s=3, color="#b3b3b3")
    drawn = [
        _scatter_class(axes, points[labels == k], k, len(class_names))
        for k in range(len(class_names))
    ]
    if few and (labels < 0).any():
        _add_legend(figure, [*drawn, hidden], [*class_names, "unlabelled"])
    elif few:
        _add_legend(figure, drawn, class_names)
    else:
        _add_class_names(canvas, axes, points, labels, class_names)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def code_panels(
    panels: Sequence[tuple[np.ndarray, np.ndarray]],
    titles: Sequence[str],
    notes: Sequence[str],
    class_names: Sequence[str],
) -> Image.Image:
    """Draws maps of several runs' codes beside each other with one legend (Fig. 2).

    Args:
      panels: (points float [n, 2], labels int [n]) of each; -1 (no label) is a black "?".
      titles, notes: a text above and one below each panel.
      class_names: the name of each class, at most 12.

    Returns:
      An RGB image, 720 pixels wide for each panel and 180 for the legend.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = 3.6 * len(panels) + 0.9
    figure = Figure(figsize=(width, 3.9), dpi=200, layout="constrained")
    canvas, drawn = FigureCanvasAgg(figure), {}
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    texts = zip(panels, titles, notes, strict=True)
    for axes, ((points, labels), title, note) in zip(all_axes, texts, strict=True):
        axes.set(xticks=[], yticks=[], box_aspect=1)
        axes.set_title(title, fontsize=11, parse_math=False)
        axes.set_xlabel(note, fontsize=9, labelpad=6, parse_math=False)
        axes.spines[:].set_color("0.8")
        hidden = axes.scatter(
            *points[labels < 0].T, s=36, marker="$?$", color="black", linewidths=0.2
        )
        drawn |= {"unlabelled": hidden} if (labels < 0).any() else {}
        for k, name in enumerate(class_names):
            of_class = points[labels == k]
            drawn[name] = _scatter_class(axes, of_class, k, len(class_names))
    names = [*class_names, *(["unlabelled"] if "unlabelled" in drawn else [])]
    _add_legend(figure, [drawn[name] for name in names], names)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _scatter_class(axes: Any, points: np.ndarray, k: int, num_classes: int) -> Any:
    from matplotlib import colormaps

    few = num_classes <= _LEGEND_CLASSES
    color = PALETTE[k % len(PALETTE)] if few else colormaps["viridis"](k / num_classes)
    style = {"marker": _MARKERS[k % len(_MARKERS)], "linewidths": 0.4}
    style |= {"s": 26 if few else 14, "color": [color], "edgecolors": "white"}
    return axes.scatter(*points.T, **style)


def _add_legend(figure: Any, handles: Sequence[Any], names: Sequence[str]) -> None:
    style = {"loc": "outside right upper", "frameon": False, "fontsize": 11}
    legend = figure.legend(handles, [" "] * len(handles), **style)
    # Set afterwards: matplotlib leaves names that start with "_" out and reads "$" as maths.
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text="\n".join(_wrap(name, _LABEL_WIDTH)), parse_math=False)


def _add_class_names(
    canvas: Any, axes: Any, points: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> None:
    from matplotlib.patheffects import withStroke

    canvas.draw()  # text extents need the final layout
    placed = []
    outline = [withStroke(linewidth=2, foreground="white")]
    sizes = np.bincount(labels[labels >= 0], minlength=len(names))
    for k in [k for k in np.argsort(-sizes, kind="stable") if sizes[k]]:
        x, y = np.median(points[labels == k], axis=0)
        text = axes.text(x, y, names[k], fontsize=7, ha="center", va="center")
        text.set(parse_math=False, path_effects=outline)
        box = text.get_window_extent(canvas.get_renderer())
        inside = axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1
        if inside and not any(box.overlaps(other) for other in placed):
            placed.append(box)
        else:
            text.remove()
