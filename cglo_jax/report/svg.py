"""The report's drawings as SVG: intervals in the rows of a table, and learning curves.

An SVG needs nothing but itself; colours come from the page that holds it.
"""

import html
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cglo_jax.report.figures import PALETTE
from cglo_jax.report.page import IntervalChart, IntervalRow
from cglo_jax.report.verdict import format_interval, format_signed
from cglo_jax.training.logged import Metrics


def _ticks(low: float, high: float) -> list[float]:
    """Returns a few round numbers from `low` or below to `high` or above."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high).tolist()


# Intervals: one drawing per row of a table. Positions are percentages of a drawing's width, so that
# it fills the width there is while its marks and texts keep their size.

MAX_DIFFERENCE = 100.0  # points: no two percentages differ by more
_HEIGHT = 30  # pixels of a row
_INSET = 4.0  # percent of the width left free at both ends, for marks and numbers
_MARKS = {
    "helped": "M0 -7L7 5H-7Z",
    "hurt": "M0 7L7 -5H-7Z",
    "none": "M0 -5A5 5 0 1 1 0 5A5 5 0 1 1 0 -5Z",
}
_RING = "M0 -3A3 3 0 1 1 0 3A3 3 0 1 1 0 -3Z"


class Interval(NamedTuple):
    """What one row shows, in points.

    Attributes:
      low, high: ends of the interval; None if there is none.
      mark: helped (a triangle that points up), hurt (down) or none (a dot).
      single: values to show as rings, whose mean is `mean`.
    """

    name: str
    mean: float
    low: float | None
    high: float | None
    mark: str = "none"
    note: str = ""
    single: Sequence[float] = ()


class Scale(NamedTuple):
    """The axis of a chart: its ends and the values written at it, in points."""

    low: float
    high: float
    ticks: Sequence[float]

    def place(self, value: float) -> float:
        """Returns the position of a value in percent of the width, clipped to the axis."""
        share = (min(max(value, self.low), self.high) - self.low) / (
            self.high - self.low
        )
        return _INSET + (100 - 2 * _INSET) * share


def choose_scale(intervals: Sequence[Interval]) -> Scale:
    """Returns a scale that contains 0 and all values of `intervals` within ±100 points."""
    ends = [
        e
        for i in intervals
        for e in (i.mean, i.low, i.high, *i.single)
        if e is not None
    ]
    low = max(-MAX_DIFFERENCE, min(0.0, *ends))
    high = min(MAX_DIFFERENCE, max(0.0, *ends))
    if low == high:
        low, high = -1.0, 1.0
    written = [t for t in _ticks(low, high) if abs(t) <= MAX_DIFFERENCE]
    return Scale(written[0], written[-1], written)


def draw_intervals(
    caption: str,
    name: str,
    intervals: Sequence[Interval],
    confidence: float,
    scale: Scale | None = None,
) -> IntervalChart:
    """Draws intervals of differences, one per row.

    Args:
      name: header of the first column: what a row stands for.
      intervals: the intervals, in points.
      confidence: confidence level of the intervals, between 0 and 1.
      scale: None = one that fits.
    """
    scale = scale or choose_scale(intervals)
    rows = [
        IntervalRow(
            i.name,
            _draw_interval(i, scale),
            format_signed(i.mean),
            "" if i.low is None else format_interval(i.low, i.high),
            i.note,
        )
        for i in intervals
    ]
    known = any(i.low is not None for i in intervals)
    header = (name, "Points", f"{100 * confidence:g}% interval" if known else "")
    legend = _describe_marks(intervals)
    return IntervalChart(caption, header, _draw_axis(scale), rows, legend)


def _describe_marks(intervals: Sequence[Interval]) -> str:
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
    if any(
        i.low is not None and max(-i.low, i.high) > MAX_DIFFERENCE for i in intervals
    ):
        texts.append("arrow: the interval continues")
    return "; ".join(texts) + "."


def _draw_row(height: int, parts: Sequence[str]) -> str:
    # The table has the same numbers as text, so screen readers skip the drawing.
    return (
        f'<svg width="100%" height="{height}" aria-hidden="true">{"".join(parts)}</svg>'
    )


def _draw_axis(scale: Scale) -> str:
    parts = []
    for tick in scale.ticks:
        text = html.escape(f"{tick:+g}" if tick else "0")
        x = scale.place(tick)
        parts.append(f'<text x="{x:.2f}%" y="13" text-anchor="middle">{text}</text>')
    return _draw_row(18, parts)


def _line(name: str, x1: float, x2: float, y1: str, y2: str) -> str:
    return f'<line class="{name}" x1="{x1:.2f}%" x2="{x2:.2f}%" y1="{y1}" y2="{y2}"/>'


def _shape(name: str, x: float, path: str) -> str:
    return f'<svg x="{x:.2f}%" y="50%" overflow="visible"><path class="{name}" d="{path}"/></svg>'


def _draw_interval(interval: Interval, scale: Scale) -> str:
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
    parts += [_shape("ring", scale.place(v), _RING) for v in interval.single]
    path = _MARKS[interval.mark]
    parts.append(_shape(f"mark {interval.mark}", scale.place(interval.mean), path))
    return _draw_row(_HEIGHT, parts)


# Learning curves: small panels that take the text colour of their page.

# (stage, key of a record, title)
_PANELS = (
    ("train", "reconstruction", "cGLO: reconstruction loss"),
    ("train", "cross_entropy", "cGLO: cross-entropy of the weak classifier"),
    ("train", "cosine_loss", "cGLO: cosine loss of the weak classifier"),
    ("classify", "loss", "Classifier: training loss"),
    ("classify", "train_accuracy", "Classifier: training accuracy (%)"),
)
_SIZE = (320, 190)  # width, height of a panel; its text is 12 high
_FRAME = (58, 10, 304, 154)  # left, top, right, bottom of the axes
_LARGEST = 1e100  # values beyond it are not drawn
_DASHES = ("none", "6 3", "2 2", "8 2 2 2")  # 4 against 6 colours: 12 different pairs


def draw_curves(records: Iterable[Metrics]) -> dict[str, str]:
    """Draws one small panel per logged quantity: a colour per method, a thin line per seed.

    Args:
      records: lines of metrics.jsonl, with stage, seed, method (stage classify), step and values.

    Returns:
      {title: SVG text} of the quantities that were logged. Lines have the page's `--series-0`, ...
      if set, axes and text its text colour; colours and dashes are those of `draw_legend`.
    """
    records = list(records)
    methods, drawn = _methods(records), {}
    for stage, key, title in _PANELS:
        lines = _group_lines([r for r in records if r["stage"] == stage], key)
        if lines:
            drawn[title] = _draw_panel(title, lines, methods)
    return drawn


def draw_legend(records: Iterable[Metrics]) -> dict[str, str]:
    """Draws a sample of each method's line in `draw_curves` -> {method: SVG text}."""
    return {
        method: f'<svg width="28" height="10" aria-hidden="true"><path d="M0 5h28" {_stroke(i)}/></svg>'
        for i, method in enumerate(_methods(records))
    }


def _methods(records: Iterable[Metrics]) -> list[str]:
    """Returns the methods in the order in which they were trained first."""
    return list(dict.fromkeys(r["method"] for r in records if r.get("method")))


def _group_lines(
    records: Sequence[Metrics], key: str
) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """Returns {(method, seed): [(step, value), ...]} in the order of steps, drawable values only."""
    lines: dict[tuple[str, int], dict[float, float]] = {}
    for record in records:
        value = record.get(key)
        if value is not None and abs(value) <= _LARGEST:  # false for NaN
            line = lines.setdefault((record.get("method") or "", record["seed"]), {})
            line[record["step"]] = float(value)
    return {name: sorted(line.items()) for name, line in lines.items()}


def _format_tick(value: float) -> str:
    """Writes a tick of at most three digits in at most 7 characters: 0.0015, 1.25e-3."""
    if len(f"{value:g}") <= 6:
        return f"{value:g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _draw_panel(
    title: str,
    lines: Mapping[tuple[str, int], list[tuple[float, float]]],
    methods: Sequence[str],
) -> str:
    left, top, right, bottom = _FRAME
    points = [point for line in lines.values() for point in line]
    last = max(step for step, _ in points) or 1
    values = [value for _, value in points]
    # Percentages have the same axis in every report.
    highest = 100.0 if "%" in title else max(values) if max(values) > 0 else 1.0
    written = _ticks(min(0.0, *values), highest)

    def place(step: float, value: float) -> tuple[float, float]:
        height = (value - written[0]) / (written[-1] - written[0])
        return left + (right - left) * step / last, bottom - (bottom - top) * height

    parts = [_text((left + right) / 2, bottom + 32, "middle", "step")]
    for tick in written:
        _, y = place(0, tick)
        grid = 'stroke="currentColor" opacity=".15"'
        parts.append(f'<path d="M{left} {y:.1f}H{right}" {grid}/>')
        parts.append(_text(left - 6, y + 4, "end", _format_tick(tick)))
    for tick in _ticks(0, last):
        if tick <= last:
            text = f"{tick / 1000:g}k" if tick and last >= 10000 else f"{tick:g}"
            parts.append(_text(place(tick, 0)[0], bottom + 16, "middle", text))
    for (method, _), line in sorted(lines.items()):
        index = methods.index(method) if method else -1
        parts.append(_draw_curve([place(*point) for point in line], index))
    label = html.escape(_describe_lines(title, lines))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" fill="currentColor"'
        f' viewBox="0 0 {_SIZE[0]} {_SIZE[1]}" aria-label="{label}"'
        f' font-family="system-ui, sans-serif" font-size="12">{"".join(parts)}</svg>'
    )


def _describe_lines(
    title: str, lines: Mapping[tuple[str, int], list[tuple[float, float]]]
) -> str:
    """Describes where the lines begin and end, for screen readers."""
    ends: dict[str, list[tuple[float, float]]] = {}  # first and last of each method
    for (method, _), line in sorted(lines.items()):
        ends.setdefault(method, []).extend((line[0], line[-1]))
    texts = []
    for method, points in ends.items():
        (first, _), (last, _) = min(points), max(points)
        began, ended = (
            statistics.fmean(v for step, v in points if step == at)
            for at in (first, last)
        )
        text = f"{_format_tick(began)} at step {first:g}"
        if last != first:
            text = f"from {text} to {_format_tick(ended)} at step {last:g}"
        texts.append(f"{method} {text}".strip())
    return f"{title}, mean over seeds: {'; '.join(texts)}"


def _draw_curve(points: Sequence[tuple[float, float]], index: int) -> str:
    if len(points) == 1:
        x, y = points[0]
        color = _color(index)
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" style="fill: {color}"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" {_stroke(index)}/>'


def _text(x: float, y: float, anchor: str, text: str) -> str:
    text = html.escape(text)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _color(index: int) -> str:
    if index < 0:  # the cGLO, which belongs to no method
        return "currentColor"
    return f"var(--series-{index % len(PALETTE)}, {PALETTE[index % len(PALETTE)]})"


def _stroke(index: int) -> str:
    dash = _DASHES[max(0, index) % len(_DASHES)]
    style = f'fill="none" style="stroke: {_color(index)}"'
    return f'{style} stroke-width="1.6" stroke-dasharray="{dash}"'
