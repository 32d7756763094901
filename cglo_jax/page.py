"""A page of texts, tables and pictures -> Markdown and one self-contained HTML file."""

import base64
import dataclasses
import html
import importlib.resources
import re
from collections.abc import Mapping, Sequence

import jinja2

from cglo_jax.figures import PALETTE


@dataclasses.dataclass(frozen=True)
class Table:
    """Texts in rows and columns."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False  # shown on demand in the page


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image of samples/."""

    name: str
    caption: str
    png: bytes
    size: tuple[int, int]  # width, height in pixels

    @property
    def data_url(self) -> str:
        """The picture itself as an address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in this order: one content for both files."""

    heading: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    curves: Mapping[str, str] = dataclasses.field(default_factory=dict)  # {title: SVG}
    pictures: Sequence[Picture] = ()


@dataclasses.dataclass(frozen=True)
class Page:
    """Everything that is told, in its order."""

    title: str
    verdicts: Sequence[tuple[str, str]]  # (kind: helped, hurt or none; sentence)
    sections: Sequence[Section]


def _escape_markdown(text: str) -> str:
    text = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)


def to_markdown(page: Page) -> str:
    """Writes a page as Markdown; pictures are links into samples/, curves are left to HTML."""
    blocks = [f"# {_escape_markdown(page.title)}"]
    blocks += [f"**{_escape_markdown(text)}**" for _, text in page.verdicts]
    for section in page.sections:
        blocks.append(f"## {section.heading}")
        blocks += [_escape_markdown(text) for text in section.text]
        if section.curves:
            blocks.append("They are drawn in report.html.")
        for table in section.tables:
            lines = [table.header, ["---"] * len(table.header), *table.rows]
            cells = [" | ".join(map(_escape_markdown, line)) for line in lines]
            blocks.append(f"### {table.caption}")
            blocks.append("\n".join(f"| {line} |" for line in cells))
        for picture in section.pictures:
            blocks.append(
                f"![{picture.name}](samples/{picture.name}.png)\n\n{picture.caption}"
            )
    return "\n\n".join(blocks) + "\n"


def to_html(page: Page) -> str:
    """Writes a page as one HTML file that needs no other, no network and no script."""
    template = importlib.resources.files("cglo_jax").joinpath("report.html.jinja")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = template.read_text(encoding="utf-8")
    return environment.from_string(text).render(page=page, palette=PALETTE)
