"""Writes the fields into the reference: python -m cglo_jax.cli.reference docs/reference.md"""

import pathlib
import re
import sys

from cglo_jax.cli.help import format_value
from cglo_jax.config.fields import ROWS, Field, Section


def describe_fields() -> str:
    """Returns every section and field as Markdown, with default, range, meaning and source."""
    lines = []
    for row in ROWS:
        if isinstance(row, Section):
            heading = f"`{row.name}`" if row.name else "The run"
            lines += ["", f"### {heading}", "", row.title, ""]
            lines += ["| field | default | may be | meaning |", "|---|---|---|---|"]
        else:
            cells = _escape(_describe_range(row)), _escape(row.description)
            default = format_value(row.default)
            lines.append(f"| `{row.name}` | `{default}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def update(page: str) -> str:
    """Returns a page with the fields between its two comments."""
    between = r"(?s)(<!-- fields: .*? -->\n).*(?=<!-- end of fields -->)"
    return re.sub(between, lambda match: f"{match[1]}{describe_fields()}\n", page)


def _describe_range(field: Field) -> str:
    kind = field.kind.removeprefix("a ")
    if not field.check:
        return kind
    want = field.check.want.removeprefix("a ")
    return want if kind in ("text", "list") else f"{kind}, {want}"


def _escape(text: str) -> str:
    return re.sub(r"[\\*|]", r"\\\g<0>", text)


if __name__ == "__main__":
    path = pathlib.Path(sys.argv[1])
    path.write_text(update(path.read_text("utf-8")), "utf-8")
