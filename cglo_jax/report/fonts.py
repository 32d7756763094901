"""Fonts that have the letters of class names, and what is drawn where no font has them."""

import functools
import pathlib
import unicodedata
from collections.abc import Iterable, Sequence

from PIL import ImageFont

from cglo_jax.errors import printable

# Parts of the file names of fonts that are used only if no other has the letters.
_LAST = ("bold", "italic", "oblique", "mono", "serif", "light", "thin", "black", "cond")


@functools.cache
def _own() -> str:
    # The DejaVu Sans inside matplotlib: Pillow's own font lacks accented letters.
    import matplotlib

    return str(
        pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    )


@functools.cache
def _installed() -> tuple[str, ...]:
    """Returns the files of this machine's fonts, those for plain text first."""
    from matplotlib import font_manager

    def rank(path: str) -> tuple[int, bool, str]:
        name = pathlib.Path(path).stem.lower()
        return sum(part in name for part in _LAST), "sans" not in name, path

    return tuple(sorted(font_manager.findSystemFonts(), key=rank))


def _has(path: str, letters: Iterable[str]) -> bool:
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):  # damaged, or of a kind that FreeType lacks
        return False
    return bool(font.scalable and all(font.get_char_index(ord(c)) for c in letters))


@functools.cache
def _find(letters: frozenset[str]) -> str | None:
    if _has(_own(), letters):
        return _own()
    letters |= {"l", "p"}  # matplotlib measures the height of lines with them
    return next((path for path in _installed() if _has(path, letters)), None)


def find(text: str) -> str:
    """Returns the file of a font that has all letters of a text, or of DejaVu Sans if none has."""
    return _find(frozenset("".join(text.split()))) or _own()


@functools.lru_cache(maxsize=64)
def _open(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def load(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Opens the font that `find` returns; `size` in pixels."""
    return _open(find(text), size)


def _compose(text: str) -> str:
    """Composes letters and their accents, and drops characters that only control drawing."""
    composed = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(
        c
        for c in composed
        if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f"
    )


def _is_drawable(text: str) -> bool:
    letters = frozenset("".join(text.split()))
    return text.isprintable() and _find(letters) is not None


@functools.lru_cache(maxsize=4096)
def drawable(text: str) -> str:
    """Returns a text in one line, with escapes for the letters that no font has."""
    composed = _compose(text)
    if _is_drawable(composed):
        return composed
    escaped = (
        printable(c) if _find(frozenset(c)) == _own() else ascii(c)[1:-1]
        for c in composed
    )
    return "".join(escaped)


def label_classes(names: Sequence[str]) -> list[str]:
    """Returns the label of each class in pictures: its name, or "#3" if no font has its letters.

    Args:
      names: the names of all classes, indexed by label as in samples/manifest.jsonl.
    """
    mark = "#"
    while any(name.startswith(mark) for name in names):
        mark += "#"
    return [
        text if _is_drawable(text) else f"{mark}{k}"
        for k, text in enumerate(map(_compose, names))
    ]


def list_numbered(names: Sequence[str]) -> list[str]:
    """Returns a line like "#3 = name" for each class that `label_classes` numbers."""
    return [
        f"{label} = {printable(name)}"
        for name, label in zip(names, label_classes(names), strict=True)
        if label != _compose(name)
    ]
