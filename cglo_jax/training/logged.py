"""Reading logs back, metrics.jsonl and timings.jsonl: line by line, of any length."""

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec

from cglo_jax.errors import UserError
from cglo_jax.files import readback
from cglo_jax.files.readback import Amount, Count, Name, Seed

Metrics = dict[str, int | float | str | None]  # fields of `_Tags` and logged values
_MOST_POINTS = 500  # per curve
_MOST_RUNS = 500  # (stage, method, seed), each with its curves
_MOST_TIMINGS = 100_000  # lines of timings.jsonl
_ADVICE = "move the file away: it is used only for {}"


class _Tags(TypedDict):
    stage: Name
    seed: Seed
    step: Count
    method: NotRequired[Name | None]


_Key = Annotated[str, msgspec.Meta(max_length=64)]
_Values = dict[_Key, float | None]


class Timing(TypedDict):
    """A line of timings.jsonl: the time that a call of a stage took, in seconds."""

    stage: Name
    wall_s: Amount
    seed: NotRequired[Seed | None]
    method: NotRequired[Name | None]
    compile_s: NotRequired[Amount | None]
    images_per_s: NotRequired[Amount | None]


def _check(record: Metrics) -> None:
    readback.convert(record, _Tags)
    values = {k: v for k, v in record.items() if k not in ("stage", "method")}
    readback.convert(values, _Values)


def read_metrics(workdir: pathlib.Path) -> Iterator[Metrics]:
    """Yields the lines of metrics.jsonl.

    Raises:
      UserError: one is damaged.
    """
    advice = _ADVICE.format("drawing learning curves")
    path = workdir / "metrics.jsonl"
    return readback.read_records(path, Metrics, advice, _check)


def read_timings(workdir: pathlib.Path) -> list[Timing]:
    """Reads the lines of timings.jsonl.

    Raises:
      UserError: one is damaged, or there are more than 100,000.
    """
    path, found = workdir / "timings.jsonl", []
    advice = _ADVICE.format("showing times")
    for line in readback.read_records(path, Timing, advice):
        if len(found) == _MOST_TIMINGS:
            reason = f"more than {_MOST_TIMINGS:,} lines"
            raise readback.Unusable(path, reason, advice)
        found.append(line)
    return found


class _Curve:
    """Selects records of one run: the first of each 1, 2, 4, ... steps, and the last one.

    So the selection does not depend on values, and a step that was logged twice has its last record.
    """

    def __init__(self) -> None:
        self._width = 1  # one record is kept of so many steps
        self._kept: dict[int, Metrics] = {}
        self._last: Metrics | None = None

    def add(self, record: Metrics) -> None:
        if self._last is None or record["step"] >= self._last["step"]:
            self._last = record
        self._keep(record)
        while len(self._kept) > _MOST_POINTS:
            self._width *= 2
            records, self._kept = self._kept.values(), {}
            for one in records:
                self._keep(one)

    def _keep(self, record: Metrics) -> None:
        there = self._kept.get(record["step"] // self._width)
        if there is None or record["step"] <= there["step"]:
            self._kept[record["step"] // self._width] = record

    def records(self) -> list[Metrics]:
        records = sorted(self._kept.values(), key=lambda r: r["step"])
        if self._last is not None and records[-1]["step"] != self._last["step"]:
            records.append(self._last)
        return records


def thin(records: Iterable[Metrics]) -> list[Metrics]:
    """Thins records for curves: about 500 per stage, method and seed, chosen by their steps.

    Raises:
      UserError: there are more curves than can be drawn.
    """
    curves: dict[tuple[Any, ...], _Curve] = {}
    for record in records:
        name = record["stage"], record.get("method"), record["seed"]
        curves.setdefault(name, _Curve()).add(record)
        if len(curves) > _MOST_RUNS:
            raise UserError(
                f"metrics.jsonl has lines of more than {_MOST_RUNS:,} runs: move it away"
            )
    return [record for curve in curves.values() for record in curve.records()]


def last_values(workdir: pathlib.Path, tags: Mapping[str, Any]) -> dict[str, float]:
    """Returns the values that the run with these tags logged last, {} if there are none.

    Args:
      tags: values of stage, seed and method that a record must have.

    Raises:
      UserError: a line is damaged.
    """
    last: Metrics = {}
    for record in read_metrics(workdir):
        if all(record.get(name) == value for name, value in tags.items()):
            last = record
    hidden = {*tags, "step", "epoch"}
    return {k: v for k, v in last.items() if k not in hidden and isinstance(v, float)}
