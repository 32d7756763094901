"""What a table of the paper is, and its Markdown: the paper's numbers beside ours."""

import dataclasses
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cglo_jax.verdict import standard_error

METRICS = {"top1": "top-1", "top5": "top-5"}
CUT_OFF = "cut off in our copy"
Results = Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      label: what it is, for people.
      paper: the paper's column that it is held against, a key of `Row.paper`.
      overrides: {dotted field: value}.
    """

    label: str
    paper: str
    overrides: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
      method: one of `cglo_jax.methods.METHODS`.
      overrides: {dotted field: value}, after the column's.
      paper: {the paper's column: "top-1" or "top-1 / top-5"} with errors, in percent;
        empty for a row of ours.
      tuned: whether lr, weight decay and batch size of the classifier are those of
        `experiments.tune`.
      cpu_name: its name at --scale=cpu, if that is another.
    """

    name: str
    method: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    paper: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tuned: bool = False
    cpu_name: str = ""

    def shown(self, scale: str) -> str:
        """Returns its name at a scale."""
        return (scale == "cpu" and self.cpu_name) or self.name


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
      name: of its module, such as "table1".
      data: the paper's, in `scales.DATA`.
      columns: {(scale, data): {name: Column}}; a scale's first data is its default.
      metrics: keys of METRICS.
      note: what readers must know, under it.
    """

    name: str
    title: str
    section: str
    data: str
    columns: Mapping[tuple[str, str], Mapping[str, Column]]
    rows: Sequence[Row]
    metrics: Sequence[str] = ("top1",)
    note: str = ""


def by_shots(shots: Mapping[int, int], **more: Any) -> dict[str, Column]:
    """Returns a column per number of labelled images per class.

    Args:
      shots: {number: the paper's number in its place}.
      more: further fields, with "__" for ".": dataset__transductive=True.
    """
    extra = {name.replace("__", "."): value for name, value in more.items()}
    return {
        str(n): Column(
            f"{n} labelled images per class", str(paper), {"dataset.shots": n, **extra}
        )
        for n, paper in shots.items()
    }


BASELINE, TUNED = "Baseline", "Baseline, tuned"


def baselines(paper: Mapping[str, str]) -> tuple[Row, Row]:
    """Returns the two rows that every table has: the paper's baseline and the tuned one."""
    return Row(BASELINE, "baseline", paper=paper), Row(TUNED, "baseline", tuned=True)


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


def _best(values: Mapping[str, float | None]) -> set[str]:
    """Returns the keys of the largest of several values, to two digits."""
    rounded = {k: round(v, 2) for k, v in values.items() if v is not None}
    return {k for k, v in rounded.items() if v == max(rounded.values())} - (
        set(rounded) if len(rounded) < 2 else set()
    )


def column_markdown(
    table: Table, scale: str, name: str, column: Column, results: Results
) -> str:
    """Returns the part of a table that stands for one of its columns.

    A line per row, with cells "paper | ours ± STE (n) | difference" for each metric and the paired
    difference to the tuned baseline for the first.

    Args:
      results: {(row, column): {seed: {"top1": percent, "top5": percent}}}.
    """
    heads, cells = [""], {row.name: [row.shown(scale)] for row in table.rows}
    for position, metric in enumerate(table.metrics):
        label = METRICS[metric]
        heads += [f"{label}: paper", "ours ± STE (n)", "difference"]
        paper = {row.name: paper_number(row, column, position) for row in table.rows}
        ours = {
            row.name: [
                line[metric] for line in results.get((row.name, name), {}).values()
            ]
            for row in table.rows
        }
        means = {k: statistics.fmean(v) if v else None for k, v in ours.items()}
        printed = {k: number(text) for k, text in paper.items()}
        best_ours, best_printed = _best(means), _best(printed)
        for row in (row.name for row in table.rows):
            difference = ""
            if means[row] is not None and printed[row] is not None:
                difference = f"{means[row] - printed[row]:+.2f}"
            cells[row] += [
                _bold(paper[row], row in best_printed),
                _bold(spread(ours[row]) or "not run", row in best_ours),
                difference,
            ]
    heads.append(f"{METRICS[table.metrics[0]]} minus {TUNED}, paired ± STE (n)")
    reference = results.get((TUNED, name), {})
    for row in (row.name for row in table.rows):
        differences = paired(results.get((row, name), {}), reference, table.metrics[0])
        cells[row].append("" if row == TUNED else spread(differences, "+"))
    lines = [heads, ["---"] * len(heads), *cells.values()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bold(text: str, best: bool) -> str:
    return f"**{text}**" if best else text


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
    table: Table, scale: str, data: str, results: Results, notes: Sequence[str]
) -> str:
    """Returns the whole table as Markdown.

    Args:
      results: see `column_markdown`; the lines also hold what `environment_lines` reads.
      notes: paragraphs that go under it, after the table's own.
    """
    stand_in = "" if data == table.data else f"; {data} stands in for {table.data}"
    heading = f"## {table.title} ({table.section}{stand_in}), --scale={scale}"
    parts = [heading]
    for name, column in table.columns[scale, data].items():
        # The paper's column has another name where data or sizes are others.
        held = "" if name == column.paper else f" (paper: {column.paper})"
        parts += [f"### {column.label}{held}"]
        parts += [column_markdown(table, scale, name, column, results)]
    lines = [line for runs in results.values() for line in runs.values()]
    parts.append(
        "Accuracy in percent, mean ± standard error over n seeds; best in bold; "
        '"ours": a row that the paper does not have.'
    )
    parts += filter(None, [table.note, *notes, *environment_lines(lines)])
    return "\n\n".join(parts) + "\n"
