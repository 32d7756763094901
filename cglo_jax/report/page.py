"""What a report is made of, and one self-contained HTML file of it."""

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
    """Short texts of one kind."""

    kind: ClassVar[str] = "items"
    items: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Table:
    """Texts in rows and columns; the first cell of a row names it."""

    kind: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False  # shown on demand in the page

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers only."""
        return [all(map(_NUMBER.fullmatch, c)) for c in zip(*self.rows, strict=True)]


@dataclasses.dataclass(frozen=True)
class IntervalRow:
    """A line of an IntervalChart: the texts say what the drawing shows."""

    name: str
    drawing: str  # SVG
    mean: str
    interval: str
    note: str


@dataclasses.dataclass(frozen=True)
class IntervalChart:
    """Means and their intervals, drawn beside their numbers. Markdown has the numbers elsewhere."""

    kind: ClassVar[str] = "intervals"
    caption: str
    header: tuple[str, str, str]  # over names, means and intervals
    axis: str  # SVG
    rows: Sequence[IntervalRow]
    legend: str


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """Counts of images by class (rows) and what they were taken for (columns)."""

    caption: str
    names: Sequence[str]
    counts: Sequence[Sequence[int]]
    levels: Sequence[Sequence[int]]  # shade of each cell, 0 = none

    @property
    def upright(self) -> bool:
        """Whether names stand upright over their columns."""
        return max(map(len, self.names)) > 3 and sum(map(len, self.names)) > 40

    @property
    def table(self) -> Table:
        """The same as a table."""
        rows = [
            [name, *map(str, row)]
            for name, row in zip(self.names, self.counts, strict=True)
        ]
        return Table(self.caption, ["", *self.names], rows)


@dataclasses.dataclass(frozen=True)
class HeatMaps:
    """Heat maps to be compared."""

    kind: ClassVar[str] = "heat"
    maps: Sequence[HeatMap]
    legend: Sequence[str]  # what each shade from 1 on means


@dataclasses.dataclass(frozen=True)
class Curves:
    """Small drawings of one kind."""

    kind: ClassVar[str] = "curves"
    panels: Mapping[str, str]  # {title: SVG}
    legend: Mapping[str, str]  # {method: SVG of its line}


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image of samples/."""

    kind: ClassVar[str] = "picture"
    name: str
    caption: str
    png: bytes
    size: tuple[int, int]  # width, height in pixels
    alt: str
    is_file: bool = True  # samples/<name>.png; else only the page has it

    @property
    def data_url(self) -> str:
        """The picture itself as an address."""
        return _data_url(self.png)


@dataclasses.dataclass(frozen=True)
class Walks:
    """Images along walks, of which the page shows those of one t at a time. Not in Markdown.

    The picture holds a row for each walk and a column for each t, of equal tiles.
    """

    kind: ClassVar[str] = "walks"
    text: str
    names: Sequence[str]
    t: Sequence[float]
    tile: tuple[int, int]  # height, width in pixels
    png: bytes

    @property
    def data_url(self) -> str:
        """The picture itself as an address."""
        return _data_url(self.png)

    @property
    def width(self) -> int:
        """Pixels of the page that a tile is wide: a whole or half multiple, or one that fits."""
        width = self.tile[1]
        return min(width + width // 2 if width <= 69 else width, 104)  # 8 to a row

    @property
    def columns(self) -> int:
        """Walks side by side: rows of the same length as far as possible, of 8 at most."""
        rows = -(-len(self.names) // 8)
        return -(-len(self.names) // rows)


@dataclasses.dataclass(frozen=True)
class Folded:
    """Blocks that the page shows on demand."""

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
    """A heading and what stands under it, in this order: one content for both files."""

    heading: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    blocks: Sequence[Block] = ()

    @property
    def content(self) -> list[Block]:
        """Everything under the heading."""
        return [*map(Text, self.text), *self.tables, *self.blocks]

    @property
    def anchor(self) -> str:
        """Its name in links."""
        return re.sub(r"[^a-z0-9]+", "-", self.heading.lower()).strip("-")


@dataclasses.dataclass(frozen=True)
class Page:
    """Everything that is told, in its order."""

    title: str
    # (kind: helped, hurt, none, or missing if there was nothing to compare; sentence)
    verdicts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    chart: IntervalChart | None = None  # of what the verdicts rest on
    facts: Sequence[tuple[str, str]] = ()  # (name, number) of the first verdict
    file: str = "report.html"

    @property
    def told(self) -> list[tuple[str, str, str]]:
        """(kind, claim, numbers) of the first verdict and of those that the chart cannot show."""
        lines = []
        for i, (kind, sentence) in enumerate(self.verdicts):
            if i == 0 or kind == "missing":
                claim, dot, numbers = sentence.partition(". ")
                lines.append((kind, claim + dot.strip(), numbers))
        return lines


def _breakable(text: str) -> markupsafe.Markup:
    """Lets long names go on in the next line between their parts."""
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
    """Writes a page as one HTML file that needs no other, no network and no script."""
    return encodable(_environment().get_template("report.html.jinja").render(page=page))
