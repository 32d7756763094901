"""Tests of cglo_jax/report/fonts.py: every name can be read at its pictures, and no letter is a box."""

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from cglo_jax.report import code_maps, figures, fonts

NAME = "\u540d\u524d"  # which DejaVu Sans has no letters for


def write_font(path, letters: str) -> str:
    """Writes a font in which each of these letters, and of "lp", is a square."""
    letters += "lp"
    glyphs = [".notdef", *(f"u{ord(c):x}" for c in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap(
        {ord(c): glyph for c, glyph in zip(letters, glyphs[1:], strict=True)}
    )
    pen = TTGlyphPen(None)
    for move, *point in ((1, 0, 0), (0, 0, 700), (0, 700, 700), (0, 700, 0)):
        (pen.moveTo if move else pen.lineTo)(tuple(point))
    pen.closePath()
    builder.setupGlyf(dict.fromkeys(glyphs, pen.glyph()))
    builder.setupHorizontalMetrics({glyph: (800, 0) for glyph in glyphs})
    builder.setupHorizontalHeader(ascent=1800, descent=-400)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=1800, usWinAscent=1800, usWinDescent=400)
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture
def install(monkeypatch):
    """Makes these files the fonts of the machine."""

    def forget() -> None:
        fonts._find.cache_clear()
        fonts.drawable.cache_clear()

    def have(*paths: str) -> None:
        monkeypatch.setattr(fonts, "_installed", lambda: paths)
        forget()

    have()
    yield have
    forget()


def test_names_without_a_font_are_numbered_and_listed(install):
    names = ["caf\u00e9", NAME, "cafe\u0301", "\u0416\u0443\u043a", "a\tb", "\udcff"]
    labels = ["caf\u00e9", "#1", "caf\u00e9", "\u0416\u0443\u043a", "a b", "#5"]
    assert fonts.label_classes(names) == labels
    assert fonts.list_numbered(names) == [f"#1 = {NAME}", r"#5 = \udcff"]
    assert fonts.list_numbered(names[:1]) == []


def test_a_number_is_no_other_class(install):
    assert fonts.label_classes(["#1", NAME]) == ["#1", "##1"]


def test_an_installed_font_is_used_if_it_has_all_letters(install, tmp_path):
    half = write_font(tmp_path / "half.ttf", NAME[0])
    whole = write_font(tmp_path / "whole.ttf", NAME + "ab")
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    install(str(tmp_path / "damaged.ttf"), half, whole)
    assert fonts.find(NAME) == whole
    assert fonts.find(f"a {NAME}") == whole
    assert fonts.find("caf\u00e9") == fonts._own()
    assert fonts.label_classes([NAME, f"{NAME}\u00e9"]) == [NAME, "#1"]


def test_what_joins_letters_needs_none(install):
    assert fonts.drawable("\u263a\ufe0f\u200dx") == "\u263ax"


def test_any_text_can_be_drawn(install):
    assert fonts.drawable(f"b\u00e9 {NAME}") == "b\u00e9 \\u540d\\u524d"


def test_a_grid_has_the_letters_and_all_of_them(install, tmp_path):
    images = np.full((1, 1, 8, 8, 1), 255, np.uint8)
    escaped = figures.image_grid(images, [NAME])
    assert escaped.tobytes() == figures.image_grid(images, [r"\u540d\u524d"]).tobytes()
    install(write_font(tmp_path / "whole.ttf", NAME))
    pixels = np.asarray(figures.image_grid(images, [NAME]))
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edge == 255).all()
    ink = (pixels < 100).all(-1)
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    assert 7 <= len(rows) <= 10  # two squares of 0.7 x 13 pixels
    assert 16 <= len(columns) <= 20


@pytest.mark.parametrize("classes", [3, 20])  # with a legend, and names on the map
def test_a_map_warns_of_nothing_and_is_that_of_the_labels(install, tmp_path, classes):
    rng = np.random.default_rng(0)
    labels = np.arange(4 * classes) % classes
    points = 20 * rng.normal(size=(classes, 2))[labels]
    names = [*(f"class {k}" for k in range(classes - 1)), NAME]
    numbered = [*names[:-1], f"#{classes - 1}"]
    drawn = code_maps.code_map(points, labels, names).tobytes()
    assert drawn == code_maps.code_map(points, labels, numbered).tobytes()
    install(write_font(tmp_path / "whole.ttf", NAME))
    squares = code_maps.code_map(points, labels, names)
    assert squares.tobytes() != drawn
