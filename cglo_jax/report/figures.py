"""Grids of images with labels, as Pillow images. Pure functions.

Pixels are exactly those given, enlarged by whole factors (nearest neighbour).
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cglo_jax.report import fonts

_CELL = 64  # pixels: images are enlarged until their longer side has at least so many
_GUTTER = 2  # pixels around every image
_PAD = 6  # pixels around text
_GAP = 24  # pixels between pictures side by side
_FONT_SIZE = 13  # pixels
LABEL_WIDTH = 140  # pixels: row labels are broken into lines of at most so many
_PER_ROW = 8  # columns of a grid of pairs before it wraps
_INK = (34, 34, 34)
# Okabe & Ito's colours, distinct with every kind of colour blindness; without yellow and black.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def _font(text: str) -> ImageFont.FreeTypeFont:
    return fonts.load(text, _FONT_SIZE)


def _line_height(line: str) -> int:
    return max(sum(_font(text).getmetrics()) for text in ("", line))


def wrap(text: str, width: int) -> list[str]:
    """Breaks text into lines of at most `width` pixels, within a word only if it is too long.

    Letters that no font has are replaced by escapes, see `fonts.drawable`.
    """
    text = fonts.drawable(text)
    length = _font(text).getlength
    pieces = "".join(f"{c}\0" if c in " _-" else c for c in text).split("\0")
    lines = [""]
    for piece in pieces:
        if length((lines[-1] + piece).rstrip()) <= width:
            lines[-1] += piece
            continue
        lines.append("")
        for character in piece:
            if lines[-1] and length(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return [line.rstrip() for line in lines if line.strip()]


def _text_size(lines: Sequence[str]) -> tuple[int, int]:
    widths = (math.ceil(_font(line).getlength(line)) for line in lines)
    return max(widths, default=0), sum(map(_line_height, lines))


def _draw_lines(
    draw: ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[str], anchor: str
) -> None:
    for line in lines:
        draw.text((x, y), line, _INK, _font(line), anchor)
        y += _line_height(line)


def _enlarge(images: np.ndarray, scale: int | None) -> np.ndarray:
    """Returns images [rows, columns, H, W, C] as RGB, enlarged as in `image_grid`."""
    scale = scale or max(1, math.ceil(_CELL / max(images.shape[2:4])))
    rgb = np.broadcast_to(images, (*images.shape[:-1], 3))  # grey to RGB
    return rgb.repeat(scale, axis=2).repeat(scale, axis=3)


def sprite(images: np.ndarray) -> tuple[Image.Image, tuple[int, int]]:
    """Lays images out without labels and gutters, for a page that shows one tile at a time.

    Args:
      images: uint8 [rows, columns, H, W, C], C = 1 or 3; enlarged as in `image_grid`.

    Returns:
      (an RGB image of rows x columns equal tiles, (height, width) of a tile in pixels).
    """
    tiles = _enlarge(images, None)
    rows, columns, height, width, _ = tiles.shape
    pixels = tiles.swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    return Image.fromarray(pixels), (height, width)


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
      column_labels: one text per column, broken into lines like the row labels.
      scale: whole factor of the nearest-neighbour enlargement; None = the smallest that brings
        the longer side to 64 pixels.

    Returns:
      An RGB image; each image is `scale * W` pixels wide, with gutters of 2 pixels.

    Raises:
      ValueError: the number of labels is not that of rows or columns.
    """
    tiles = _enlarge(images, scale)
    rows, columns, height, width, _ = tiles.shape
    left = [wrap(text, LABEL_WIDTH) for text in row_labels or [""] * rows]
    most = max(width, _CELL) * 5 // 4  # rather wider than a word broken in two
    top = [wrap(text, most) for text in column_labels or [""] * columns]
    x0 = max(_text_size(lines)[0] for lines in left)
    x0 += 2 * _PAD if x0 else _GUTTER
    y0 = max(_text_size(lines)[1] for lines in top)
    y0 += _PAD if y0 else _GUTTER
    # Where a label is wider or higher than its image, the image is centred on the label.
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


def _stack(
    pictures: Sequence[Image.Image], gap: int, *, across: bool = False
) -> Image.Image:
    """Puts pictures one below the other, or side by side if `across`, on white."""
    sizes = np.array([p.size for p in pictures])
    along = 0 if across else 1
    size = sizes.max(0)
    size[along] = sizes[:, along].sum() + gap * (len(pictures) - 1)
    stacked, place = Image.new("RGB", tuple(size.tolist()), "white"), [0, 0]
    for picture in pictures:
        stacked.paste(picture, tuple(place))
        place[along] += picture.size[along] + gap
    return stacked


def side_by_side(
    pictures: Sequence[Image.Image], titles: Sequence[str], width: int = 1000
) -> Image.Image:
    """Puts pictures side by side, in as many rows as a width of `width` pixels needs.

    Args:
      titles: one text per picture, written above it.

    Returns:
      An RGB image; wider than `width` only if one of the pictures is.
    """
    lines: list[list[Image.Image]] = []
    for picture, title in zip(pictures, titles, strict=True):
        titled = _add_title(picture, title)
        if lines and sum(p.width + _GAP for p in (*lines[-1], titled)) - _GAP <= width:
            lines[-1].append(titled)
        else:
            lines.append([titled])
    return _stack([_stack(line, _GAP, across=True) for line in lines], _GAP)


def _add_title(picture: Image.Image, title: str) -> Image.Image:
    lines = wrap(title, picture.width)
    band = Image.new("RGB", (picture.width, _text_size(lines)[1] + _PAD), "white")
    _draw_lines(ImageDraw.Draw(band), picture.width // 2, 0, lines, "ma")
    return _stack([band, picture.convert("RGB")], 0)


def reconstruction_grid(
    originals: np.ndarray, reconstructions: np.ndarray, names: Sequence[str]
) -> Image.Image:
    """Shows training images above their reconstructions (Fig. 4), at most 8 in a row.

    Args:
      originals: uint8 [n, H, W, C], n > 0.
      reconstructions: uint8 [n, H, W, C], in the same order.
      names: the class name of each image, n texts.

    Returns:
      An RGB image with pairs of rows.
    """
    pairs = np.stack([originals, reconstructions])
    return _pair_grid(pairs, ("original", "reconstruction"), names)


def nearest_grid(
    synthetic: np.ndarray, nearest: np.ndarray, names: Sequence[str]
) -> Image.Image:
    """Shows synthetic images above the training images nearest to them, at most 8 in a row.

    Args:
      synthetic: uint8 [n, H, W, C], n > 0.
      nearest: uint8 [n, H, W, C], in the same order.
      names: n texts, one above each pair.

    Returns:
      An RGB image with pairs of rows.
    """
    pairs = np.stack([synthetic, nearest])
    return _pair_grid(pairs, ("synthetic", "nearest training image"), names)


def _pair_grid(
    pairs: np.ndarray, rows: Sequence[str], names: Sequence[str]
) -> Image.Image:
    """Lays out pairs uint8 [2, n, H, W, C], one image of each above the other."""
    size = math.ceil(
        len(names) / math.ceil(len(names) / _PER_ROW)
    )  # 5 and 5, not 8 and 2
    blocks = [
        image_grid(pairs[:, i : i + size], rows, names[i : i + size])
        for i in range(0, len(names), size)
    ]
    return _stack(blocks, 12)


def interpolation_grid(
    images: np.ndarray, t_values: Sequence[float], names: Sequence[str]
) -> Image.Image:
    """Shows interpolations between two reconstructions of a class, one per row (Fig. 5).

    Args:
      images: uint8 [rows, steps, H, W, C].
      t_values: position of each step on the arc, from 0 to 1.
      names: the class name of each row.

    Returns:
      An RGB image.
    """
    return image_grid(images, names, [f"t = {t:.3g}" for t in t_values])
