"""Tests of report/page.py: pages that load nothing and show every name as it is."""

import base64
import html.parser
import itertools
import pathlib
import re

import pytest

from cglo_jax.report import page
from cglo_jax.report.figures import PALETTE
from tests.helpers.report_workdir import NAMES, Parsed, write_html


def test_html_loads_nothing(workdir, config):
    text = write_html(workdir, config)
    parsed = Parsed(text)
    for tag, attrs in parsed.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "data", "poster"):
            assert attrs.get(name, "data:").startswith(("data:", "#"))
        assert not any(name.startswith("on") for name in attrs)
    assert "@import" not in text
    assert text.count("url(") == text.count("url(data:image/png;base64,") == 1
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}


def test_class_names_are_escaped(workdir, config):
    text = write_html(workdir, config)
    assert '<b>&"' not in text
    assert set(NAMES) <= set(Parsed(text).cells)


def test_every_picture_is_in_the_page_once(workdir, config):
    text = write_html(workdir, config)
    for path in workdir.glob("samples/*.png"):
        assert text.count(base64.b64encode(path.read_bytes()).decode()) == 1, path.name


def test_long_names_may_go_on_in_the_next_line(workdir, config):
    text = write_html(workdir, config)
    assert "long_<wbr>enough_<wbr>to_<wbr>be_<wbr>broken" in text
    assert "80.<wbr>" not in text


def test_tables_have_captions_and_headers(workdir, config):
    tables = write_html(workdir, config).split("<table")[1:]
    assert len(tables) > 10
    for table in tables:
        table, _, _ = table.partition("</table>")
        assert table.count("<caption") == 1
        body = table.partition("<tbody")[2]
        assert body.count('<th scope="row"') == body.count("<tr") > 0
        assert '<th scope="col"' in table.partition("<tbody")[0]


VOID = {"meta", "link", "img", "input", "br", "wbr"}


class Checker(html.parser.HTMLParser):
    """Finds tags that are not closed in turn."""

    def __init__(self):
        super().__init__()
        self.open, self.faults = [], []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.faults.append((self.getpos(), tag, attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append((self.getpos(), tag))


def test_html_is_well_formed(workdir, config):
    checker = Checker()
    checker.feed(write_html(workdir, config))
    assert checker.faults == []
    assert checker.open == []


def test_ids_are_unique_and_everything_named_is_there(workdir, config):
    tags = Parsed(write_html(workdir, config)).tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids)) > 10
    for tag, attrs in tags:
        named = [attrs.get("for"), attrs.get("aria-labelledby")]
        named.append(attrs.get("href", "").removeprefix("#") if tag == "a" else None)
        assert {name for name in named if name} <= set(ids)
        if tag == "label":
            assert attrs["for"]
        if tag == "img":
            assert len(attrs["alt"]) > 20
    assert tags[0] == ("html", {"lang": "en"})


def test_headings_are_in_order(workdir, config):
    levels = [int(tag[1]) for tag, _ in Parsed(write_html(workdir, config)).headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


# Colours


def read_colors():
    """The colours of the light and the dark page, by name, as the style sheet has them."""
    here = pathlib.Path(page.__file__).parent
    style = (here / "templates" / "report.css.jinja").read_text()
    light, dark = re.findall(r":root {(.*?)}", style, re.DOTALL)
    pattern = r"--([\w-]+): (#[0-9a-f]{6});"
    light = dict(re.findall(pattern, light))
    return {"light": light, "dark": light | dict(re.findall(pattern, dark))}


def luminance(color):
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values
    ]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_wcags():
    assert contrast("#000000", "#ffffff") == 21
    assert round(contrast("#767676", "#ffffff"), 2) == 4.54


TEXTS = [(name, "page") for name in ("ink", "quiet", "link", "helped", "hurt", "none")]
TEXTS += [("on-right", "right"), ("on-h5", "h5")]
TEXTS += [("on-h", f"h{i}") for i in (1, 2, 3, 4)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_have_enough_contrast(scheme):
    colors = read_colors()[scheme]
    for text, ground in TEXTS:
        assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
    for line in (f"series-{i}" for i in range(len(PALETTE))):
        assert contrast(colors[line], colors["page"]) >= 3, line


def test_the_dark_page_has_its_own_colors():
    light, dark = read_colors().values()
    assert all(light[name] != dark[name] for name in light)
