"""The blocks that a report consists of, and a page of them as one self-contained HTML file."""

import base64
import dataclasses
import functools
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jinja2
import markupsafe

from cglo_jax.errors import encodable

_NUMBER = re.compile(r"[-+]?[\d.,]+( ± [\d.]+)?%?|-|")


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclasses.dataclass(frozen=True)
class Items:
    """A list of short texts."""

    kind: ClassVar[str] = "items"
    items: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Table:
    """Texts in rows and columns; the first cell of a row is its header."""

    kind: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False  # whether the page shows it on demand only

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether it holds numbers only."""
        return [all(map(_NUMBER.fullmatch, c)) for c in zip(*self.rows, strict=True)]


@dataclasses.dataclass(frozen=True)
class IntervalRow:
    """A row of an IntervalChart: a drawing and the same numbers as texts."""

    name: str
    drawing: str  # SVG
    mean: str
    interval: str
    note: str


@dataclasses.dataclass(frozen=True)
class IntervalChart:
    """Means and their intervals, drawn beside their numbers; not in Markdown, where tables have them."""

    kind: ClassVar[str] = "intervals"
    caption: str
    header: tuple[str, str, str]  # of names, means and intervals
    axis: str  # SVG, above the drawings
    rows: Sequence[IntervalRow]
    legend: str


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """Counts of images by true class (rows) and predicted class (columns)."""

    caption: str
    names: Sequence[str]
    counts: Sequence[Sequence[int]]
    levels: Sequence[Sequence[int]]  # shade of each cell, 0 = none

    @property
    def upright(self) -> bool:
        """Whether the column headers are written vertically, for lack of width."""
        return max(map(len, self.names)) > 3 and sum(map(len, self.names)) > 40

    @property
    def table(self) -> Table:
        """The counts as a table."""
        rows = [
            [name, *map(str, row)]
            for name, row in zip(self.names, self.counts, strict=True)
        ]
        return Table(self.caption, ["", *self.names], rows)


@dataclasses.dataclass(frozen=True)
class HeatMaps:
    """Heat maps side by side."""

    kind: ClassVar[str] = "heat"
    maps: Sequence[HeatMap]
    legend: Sequence[str]  # meaning of each shade from 1 on


@dataclasses.dataclass(frozen=True)
class Curves:
    """Learning curves, one panel per quantity."""

    kind: ClassVar[str] = "curves"
    panels: Mapping[str, str]  # {title: SVG}
    legend: Mapping[str, str]  # {method: SVG of its line}


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture with its caption."""

    kind: ClassVar[str] = "picture"
    name: str
    caption: str
    png: bytes
    size: tuple[int, int]  # width, height in pixels
    alt: str
    is_file: bool = True  # whether there is samples/<name>.png to link to

    @property
    def data_url(self) -> str:
        """The picture as a data: URL."""
        return _data_url(self.png)


@dataclasses.dataclass(frozen=True)
class Walks:
    """Images along interpolations, with a slider for t; not in Markdown.

    The picture is a grid of equal tiles: a row for each interpolation and a column for each t.
    """

    kind: ClassVar[str] = "walks"
    text: str
    names: Sequence[str]
    t: Sequence[float]
    tile: tuple[int, int]  # height, width in pixels
    png: bytes

    @property
    def data_url(self) -> str:
        """The picture as a data: URL."""
        return _data_url(self.png)

    @property
    def width(self) -> int:
        """Width of a tile on the page in pixels: 1 or 1.5 times its own, at most 104."""
        width = self.tile[1]
        return min(width + width // 2 if width <= 69 else width, 104)  # 8 to a row

    @property
    def columns(self) -> int:
        """Number of tiles in a row: at most 8, and about the same in all rows."""
        rows = -(-len(self.names) // 8)
        return -(-len(self.names) // rows)


@dataclasses.dataclass(frozen=True)
class Folded:
    """Blocks that the page shows on demand only."""

    kind: ClassVar[str] = "folded"
    summary: str
    blocks: "Sequence[Block]"


Block = (
    Heading
    | Text
    | Items
    | Table
    | IntervalChart
    | HeatMaps
    | Curves
    | Picture
    | Walks
    | Folded
)


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and the content below it: texts, tables and other blocks, in this order."""

    heading: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    blocks: Sequence[Block] = ()

    @property
    def content(self) -> list[Block]:
        """All blocks below the heading, in order."""
        return [*map(Text, self.text), *self.tables, *self.blocks]

    @property
    def anchor(self) -> str:
        """The id that links to the section use."""
        return re.sub(r"[^a-z0-9]+", "-", self.heading.lower()).strip("-")


@dataclasses.dataclass(frozen=True)
class Page:
    """The content of a report, the same for HTML and Markdown.

    Attributes:
      verdicts: (kind, text) of each method; kind is helped, hurt, none, or missing if there was
        nothing to compare.
      chart: the differences behind the verdicts.
      facts: (name, number) of the first verdict.
      file: name of the HTML file, for links in Markdown.
    """

    title: str
    verdicts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    chart: IntervalChart | None = None
    facts: Sequence[tuple[str, str]] = ()
    file: str = "report.html"

    @property
    def headlines(self) -> list[tuple[str, str, str]]:
        """(kind, claim, numbers) of the first verdict, and of those that the chart cannot show."""
        lines = []
        for i, (kind, text) in enumerate(self.verdicts):
            if i == 0 or kind == "missing":
                claim, dot, numbers = text.partition(". ")
                lines.append((kind, claim + dot.strip(), numbers))
        return lines


def _breakable(text: str) -> markupsafe.Markup:
    """Allows line breaks between the parts of long names."""
    escaped = str(markupsafe.escape(text))
    return markupsafe.Markup(re.sub(r"([_./])(?=[^\W\d])", r"\1<wbr>", escaped))


@functools.cache
def _environment() -> jinja2.Environment:
    here = importlib.resources.files("cglo_jax.report") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda n: here.joinpath(n).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment


def to_html(page: Page) -> str:
    """Renders a page as one HTML file that needs no other file, no network and no script."""
    return encodable(_environment().get_template("report.html.jinja").render(page=page))
