"""A page as Markdown: texts and tables; pictures are links to files in samples/."""

import html
import importlib.resources
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jinja2

from cglo_jax.errors import encodable, printable
from cglo_jax.report.page import Block, Page, Table


def escape(text: object) -> str:
    """Returns a text in one line, escaped so that Markdown shows it literally."""
    text = html.escape(" ".join(printable(text).split()), quote=False)
    return re.sub(r"([\\`*\[\]|~#$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)


def render(name: str, **values: Any) -> str:
    """Renders the template `name` of templates/ with `values`; its filter `md` is `escape`."""
    template = importlib.resources.files("cglo_jax.report") / "templates" / name
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = escape
    text = template.read_text(encoding="utf-8")
    return encodable(environment.from_string(text).render(**values))


def to_markdown(page: Page) -> str:
    """Renders a page as Markdown, without charts, curves and sliders."""
    parts = [f"# {escape(page.title)}"]
    parts += [f"**{escape(text)}**" for _, text in page.verdicts]
    for section in page.sections:
        parts.append(f"## {section.heading}")
        parts += _write(section.content, page.file)
    return "\n\n".join(parts) + "\n"


def _write(blocks: Sequence[Block], file: str) -> Iterator[str]:
    for block in blocks:
        match block.kind:
            case "heading":
                yield f"### {escape(block.text)}"
            case "text":
                yield escape(block.text)
            case "items":
                yield "\n".join(f"- {escape(text)}" for text in block.items)
            case "table":
                yield from _table(block)
            case "heat":
                for heat_map in block.maps:
                    yield from _table(heat_map.table)
            case "curves":
                yield f"Drawn in {file}."
            case "picture" if not block.is_file:
                yield f"Drawn in {file}."
            case "picture":
                yield f"![{escape(block.alt)}](samples/{block.name}.png)"
                yield escape(block.caption)
            case "folded":
                yield from _write(block.blocks, file)


def _table(table: Table) -> Iterator[str]:
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    cells = [" | ".join(map(escape, line)) for line in lines]
    yield f"### {escape(table.caption)}"
    yield "\n".join(f"| {line} |" for line in cells)
