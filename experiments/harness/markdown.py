"""The Markdown of a table: the paper's numbers beside ours."""

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cglo_jax.report.verdict import standard_error
from experiments.harness.table import BASELINE, TUNED, Column, Row, Table

METRICS = {"top1": "top-1", "top5": "top-5"}
Results = Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]]


def number(text: str) -> float | None:
    """Returns the 43.84 of "43.84 ± 0.25", None of what does not begin with a number."""
    found = re.match(r"\d+(\.\d+)?", text)
    return float(found[0]) if found else None


def paper_number(row: Row, column: Column, metric: int) -> str:
    """Returns the paper's cell as it is printed there; "ours" for a row of ours."""
    if not row.paper:
        return "ours"
    parts = row.paper.get(column.paper, "").split(" / ")
    return parts[metric] if metric < len(parts) else ""


def spread(values: Sequence[float], sign: str = "") -> str:
    """Returns "mean ± standard error (n)", "mean (1)" for one value, "" for none."""
    if not values:
        return ""
    error = standard_error(values)
    error = "" if error is None else f" ± {error:.2f}"
    return f"{statistics.fmean(values):{sign}.2f}{error} ({len(values)})"


def paired(
    ours: Mapping[int, Mapping[str, Any]],
    other: Mapping[int, Mapping[str, Any]],
    metric: str,
) -> list[float]:
    """Returns ours - other for each seed that both have."""
    seeds = sorted(ours.keys() & other.keys())
    return [ours[seed][metric] - other[seed][metric] for seed in seeds]


def column_markdown(
    table: Table, scale: str, data: str, name: str, results: Results
) -> str:
    """Returns the part of a table that stands for one of its columns, a line per row.

    Cells are "paper | ours ± STE (n) | ours - paper" for each metric, then of the first the gain
    over the baseline, the paper's and ours, and over the tuned baseline, ours. What a table
    has no rows for is left out, and "ours - paper" where the task is not the paper's.

    Args:
      results: {(row, column): {seed: {"top1": percent, "top5": percent}}}.
    """
    column = table.columns[scale, data][name]
    ours = {row.name: results.get((row.name, name), {}) for row in table.rows}
    parts = [("", [row.shown(scale) for row in table.rows])]
    for position, metric in enumerate(table.metrics):
        paper = [paper_number(row, column, position) for row in table.rows]
        values = [[line[metric] for line in runs.values()] for runs in ours.values()]
        means = [statistics.fmean(v) if v else None for v in values]
        texts = [spread(v) or "not run" for v in values]
        label = METRICS[metric]
        if _has_paper(table):
            printed = [number(text) for text in paper]
            parts.append((f"{label}, paper", _embolden(paper, printed)))
        parts.append((f"{label}, ours", _embolden(texts, means)))
        if _has_paper(table) and _is_comparable(table, scale, data):
            differences = map(_difference, means, printed)
            parts.append(("ours - paper", list(differences)))
    parts += _gains(table, column, ours)
    lines = [[head for head, _ in parts], ["---"] * len(parts)]
    lines += zip(*(cells for _, cells in parts), strict=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _has_paper(table: Table) -> bool:
    return any(row.paper for row in table.rows)


def _gains(table: Table, column: Column, ours: Mapping[str, Mapping]) -> list:
    """Returns (head, cells) of each column of gains over a baseline that the table has."""
    metric, parts = table.metrics[0], []
    paper = {row.name: number(paper_number(row, column, 0)) for row in table.rows}
    for reference in (BASELINE, TUNED):
        if reference not in ours:
            continue
        if paper[reference] is not None:
            gains = [
                "" if row == reference else _difference(value, paper[reference])
                for row, value in paper.items()
            ]
            parts.append((f"minus {reference}, paper", gains))
        gains = [
            ""
            if row == reference
            else spread(paired(runs, ours[reference], metric), "+")
            for row, runs in ours.items()
        ]
        parts.append((f"minus {reference}, ours", gains))
    return parts


def _difference(a: float | None, b: float | None) -> str:
    return "" if a is None or b is None else f"{a - b:+.2f}"


def _embolden(texts: Sequence[str], values: Sequence[float | None]) -> list[str]:
    """Returns the texts with the ones of the largest of several values bold, to two digits."""
    rounded = [None if v is None else round(v, 2) for v in values]
    known = [v for v in rounded if v is not None]
    best = max(known) if len(known) > 1 else None
    return [
        f"**{text}**" if v is not None and v == best else text
        for text, v in zip(texts, rounded, strict=True)
    ]


def _is_comparable(table: Table, scale: str, data: str) -> bool:
    """Whether accuracies are of the paper's task; a CPU has fewer classes at least."""
    return data == table.data and scale != "cpu"


def legend(table: Table, scale: str, data: str) -> str:
    """Returns sentences on what the columns of `column_markdown` are."""
    metric = METRICS[table.metrics[0]]
    sentences = [
        "Accuracy in percent; ours: mean ± standard error (number of seeds); best in bold.",
        f'"minus ...": {metric} less that of the row named; ours is paired: the mean over '
        + "seeds of the difference within a seed ± its standard error.",
    ]
    if _has_paper(table):
        sentences.append(
            '"ours" under "paper": a row that the paper does not have; the paper\'s "minus ..." is '
            "of its printed means."
        )
        if not _is_comparable(table, scale, data):
            sentences.append(
                "This is not the paper's task: gains may be held against the paper's, accuracies not."
            )
    return " ".join(sentences)


def environment_lines(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns sentences on when, where and with what the runs were made."""
    if not lines:
        return []

    def distinct(values: Sequence[str]) -> str:
        return ", ".join(sorted(set(values)))

    dates = sorted(line["date"] for line in lines)
    days = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    used = [line["environment"] for line in lines]
    hardware = [
        f"{u['devices']} x {u['device']} ({line['cores']} cores, {line['platform']})"
        for u, line in zip(used, lines, strict=True)
    ]
    packages = ("python", "jax", "jaxlib", "flax", "optax", "numpy")
    versions = [", ".join(f"{p} {u[p]}" for p in packages) for u in used]
    bodies = [line["classifier_weights"] for line in lines]
    perceptual = [line["perceptual_weights"] for line in lines if "cglo" in line]
    in_loss = distinct(perceptual) or "no cGLO was run"
    return [
        f"Run {days} on {distinct(hardware)}.",
        f"Versions: {distinct(versions)}; commit {distinct([u['commit'] for u in used])}.",
        f"Weights that classifiers start from: {distinct(bodies)}; in cGLO's loss: {in_loss}.",
    ]


def to_markdown(
    table: Table,
    scale: str,
    data: str,
    results: Results,
    notes: Sequence[str],
    tuned: Mapping[str, str],
) -> str:
    """Returns the whole table as Markdown.

    Args:
      results: see `column_markdown`; the lines also hold what `environment_lines` reads.
      notes: paragraphs that go under it, after the table's own.
      tuned: {column: sentence that stands over it}, for those that have one.
    """
    stand_in = "" if data == table.data else f"; {data} stands in for {table.data}"
    heading = f"## {table.title} ({table.section}{stand_in}), --scale={scale}"
    parts = [heading, legend(table, scale, data)]
    for name, column in table.columns[scale, data].items():
        # The paper's column has another name where data or sizes are others.
        held = "" if name == column.paper else f" (paper: {column.paper})"
        parts += [f"### {column.label}{held}"]
        # Without any results it is the paper's table.
        if not results or any(results.get((row.name, name)) for row in table.rows):
            parts += [tuned.get(name, "")]
            parts += [column_markdown(table, scale, data, name, results)]
        else:
            parts += ["Not run yet."]
    lines = [line for runs in results.values() for line in runs.values()]
    parts += [table.note, *notes, *environment_lines(lines)]
    return "\n\n".join(filter(None, parts)) + "\n"
