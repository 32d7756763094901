"""Means and their intervals as SVG drawings, one per line of a table.

Places are in percent of a drawing's width, so that it is as wide as there is room for and its
marks and texts keep their size.
"""

import html
from collections.abc import Sequence
from typing import NamedTuple

from cglo_jax.report.curves import ticks
from cglo_jax.report.page import IntervalChart, IntervalRow
from cglo_jax.report.verdict import signed

MOST = 100.0  # points: no difference of two percentages is larger
_HEIGHT = 30  # pixels of a line
_INSET = 4.0  # percent of the width left free at both ends, for marks and numbers
_MARKS = {
    "helped": "M0 -7L7 5H-7Z",
    "hurt": "M0 7L7 -5H-7Z",
    "none": "M0 -5A5 5 0 1 1 0 5A5 5 0 1 1 0 -5Z",
}


class Interval(NamedTuple):
    """What one line shows, in points.

    Attributes:
      low, high: None if there is no interval.
      mark: helped (a triangle that points up), hurt (down) or none (a dot).
      single: the values that `mean` is of, if they are to be shown.
    """

    name: str
    mean: float
    low: float | None
    high: float | None
    mark: str = "none"
    note: str = ""
    single: Sequence[float] = ()


class Scale(NamedTuple):
    """The values from `low` to `high`, and those that are written."""

    low: float
    high: float
    ticks: Sequence[float]

    def place(self, value: float) -> float:
        """Returns where a value is, in percent of the width; one outside at the nearer end."""
        share = (min(max(value, self.low), self.high) - self.low) / (
            self.high - self.low
        )
        return _INSET + (100 - 2 * _INSET) * share


def choose_scale(intervals: Sequence[Interval]) -> Scale:
    """Returns a scale with 0 in it that shows all, as far as it is within ±100."""
    ends = [
        e
        for i in intervals
        for e in (i.mean, i.low, i.high, *i.single)
        if e is not None
    ]
    low, high = max(-MOST, min(0.0, *ends)), min(MOST, max(0.0, *ends))
    if low == high:
        low, high = -1.0, 1.0
    written = [t for t in ticks(low, high) if -MOST <= t <= MOST]
    return Scale(written[0], written[-1], written)


def draw_chart(
    caption: str,
    name: str,
    intervals: Sequence[Interval],
    confidence: float,
    scale: Scale | None = None,
) -> IntervalChart:
    """Draws intervals of differences, in points.

    Args:
      name: what the lines are of.
      scale: None = one that fits.
    """
    scale = scale or choose_scale(intervals)
    rows = [
        IntervalRow(
            i.name,
            _draw(i, scale),
            signed(i.mean),
            "" if i.low is None else f"{signed(i.low)} to {signed(i.high)}",
            i.note,
        )
        for i in intervals
    ]
    known = any(i.low is not None for i in intervals)
    header = (name, "Points", f"{100 * confidence:g}% interval" if known else "")
    return IntervalChart(caption, header, _draw_axis(scale), rows, _legend(intervals))


def _legend(intervals: Sequence[Interval]) -> str:
    marks = {i.mark for i in intervals}
    texts = ["Dot: mean over seeds"]
    if "helped" in marks:
        texts.append("triangle that points up: mean, clearly higher")
    if "hurt" in marks:
        texts.append("triangle that points down: mean, clearly lower")
    if any(i.low is not None for i in intervals):
        texts.append("bar: interval")
    if any(i.single for i in intervals):
        texts.append("rings: single seeds")
    if any(i.low is not None and max(-i.low, i.high) > MOST for i in intervals):
        texts.append("arrow: the interval goes on")
    return "; ".join(texts) + "."


def _svg(height: int, parts: Sequence[str]) -> str:
    # The numbers stand beside it: a screen reader passes over it.
    return (
        f'<svg width="100%" height="{height}" aria-hidden="true">{"".join(parts)}</svg>'
    )


def _draw_axis(scale: Scale) -> str:
    parts = []
    for tick in scale.ticks:
        text = html.escape(f"{tick:+g}" if tick else "0")
        x = scale.place(tick)
        parts.append(f'<text x="{x:.2f}%" y="13" text-anchor="middle">{text}</text>')
    return _svg(18, parts)


def _line(name: str, x1: float, x2: float, y1: str, y2: str) -> str:
    return f'<line class="{name}" x1="{x1:.2f}%" x2="{x2:.2f}%" y1="{y1}" y2="{y2}"/>'


def _shape(name: str, x: float, path: str) -> str:
    return f'<svg x="{x:.2f}%" y="50%" overflow="visible"><path class="{name}" d="{path}"/></svg>'


def _draw(interval: Interval, scale: Scale) -> str:
    parts = [
        _line("zero" if tick == 0 else "grid", x, x, "0", "100%")
        for tick, x in ((t, scale.place(t)) for t in scale.ticks)
    ]
    if interval.low is not None:
        ends = scale.place(interval.low), scale.place(interval.high)
        parts.append(_line(f"bar {interval.mark}", *ends, "50%", "50%"))
        for value, way in ((interval.low, -1), (interval.high, 1)):
            x = scale.place(value)
            clipped = not scale.low <= value <= scale.high
            path = f"M{-6 * way} -5L{2 * way} 0L{-6 * way} 5" if clipped else "M0 -4V4"
            parts.append(_shape(f"end {interval.mark}", x, path))
    ring = "M0 -3A3 3 0 1 1 0 3A3 3 0 1 1 0 -3Z"
    parts += [_shape("ring", scale.place(v), ring) for v in interval.single]
    path = _MARKS[interval.mark]
    parts.append(_shape(f"mark {interval.mark}", scale.place(interval.mean), path))
    return _svg(_HEIGHT, parts)
