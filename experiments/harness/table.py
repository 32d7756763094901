"""What a table is: its rows, its columns and the paper's numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

CUT_OFF = "cut off in our copy"
NOT_IN_COPY = "not in our copy"


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
      method: one of `cglo_jax.classifier.methods.METHODS`.
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
      name: on the command line, such as "table1".
      data: the paper's, in `scales.DATA`.
      columns: {(scale, data): {name: Column}}; a scale's first data is its default.
      metrics: keys of `markdown.METRICS`.
      note: what readers must know, under it.
      seeds: in place of the scale's.
    """

    name: str
    title: str
    section: str
    data: str
    columns: Mapping[tuple[str, str], Mapping[str, Column]]
    rows: Sequence[Row]
    metrics: Sequence[str] = ("top1",)
    note: str = ""
    seeds: tuple[int, ...] = ()


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
