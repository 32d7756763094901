"""Learning curves as small SVG drawings that take the text colour of their page."""

import html
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cglo_jax.report.figures import PALETTE

# (stage, key of a record, title)
_PANELS = (
    ("train", "reconstruction", "cGLO: reconstruction loss"),
    ("train", "cross_entropy", "cGLO: cross-entropy of the weak classifier"),
    ("train", "cosine_loss", "cGLO: cosine loss of the weak classifier"),
    ("classify", "loss", "Classifier: training loss"),
    ("classify", "train_accuracy", "Classifier: training accuracy (%)"),
)
_SIZE = (320, 190)  # of a panel, in the units of its text (12 high)
_FRAME = (58, 10, 304, 154)  # left, top, right, bottom of the axes
_LARGEST = 1e100  # value that is drawn
_DASHES = ("none", "6 3", "2 2", "8 2 2 2")  # 4 against 6 colours: 12 different pairs


def learning_curves(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Draws one small panel per logged quantity: a colour per method, a thin line per seed.

    Args:
      records: lines of metrics.jsonl, with stage, seed, method (stage classify), step and values.

    Returns:
      {title: SVG text} of the quantities that were logged. An SVG needs nothing but itself; lines
      have the page's `--series-0`, ... if set, axes and text its text colour. Colours and dashes
      are those of `legend`.
    """
    records = list(records)
    methods, drawn = _methods(records), {}
    for stage, key, title in _PANELS:
        lines = _lines([r for r in records if r["stage"] == stage], key)
        if lines:
            drawn[title] = _panel(title, lines, methods)
    return drawn


def legend(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Returns {method: SVG text of its line}, see `learning_curves`."""
    return {
        method: f'<svg width="28" height="10" aria-hidden="true"><path d="M0 5h28" {_stroke(i)}/></svg>'
        for i, method in enumerate(_methods(records))
    }


def _methods(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The methods in the order in which they were trained first."""
    return list(dict.fromkeys(r["method"] for r in records if r.get("method")))


def _lines(
    records: Sequence[Mapping[str, Any]], key: str
) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """Returns {(method, seed): [(step, value), ...]} in the order of steps, drawable values only."""
    lines: dict[tuple[str, int], dict[float, float]] = {}
    for record in records:
        value = record.get(key)
        if value is not None and abs(value) <= _LARGEST:  # false of NaN
            line = lines.setdefault((record.get("method") or "", record["seed"]), {})
            line[record["step"]] = float(value)
    return {name: sorted(line.items()) for name, line in lines.items()}


def ticks(low: float, high: float) -> list[float]:
    """Returns a few round numbers from `low` or below to `high` or above."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high).tolist()


def _short(value: float) -> str:
    """Writes a tick of at most three digits in at most 7 characters: 0.0015, 1.25e-3."""
    if len(f"{value:g}") <= 6:
        return f"{value:g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _panel(
    title: str,
    lines: Mapping[tuple[str, int], list[tuple[float, float]]],
    methods: Sequence[str],
) -> str:
    left, top, right, bottom = _FRAME
    points = [point for line in lines.values() for point in line]
    last = max(step for step, _ in points) or 1
    values = [value for _, value in points]
    # Percentages have one axis in every report.
    highest = 100.0 if "%" in title else max(values) if max(values) > 0 else 1.0
    written = ticks(min(0.0, *values), highest)

    def place(step: float, value: float) -> tuple[float, float]:
        height = (value - written[0]) / (written[-1] - written[0])
        return left + (right - left) * step / last, bottom - (bottom - top) * height

    parts = [_text((left + right) / 2, bottom + 32, "middle", "step")]
    for tick in written:
        _, y = place(0, tick)
        grid = 'stroke="currentColor" opacity=".15"'
        parts.append(f'<path d="M{left} {y:.1f}H{right}" {grid}/>')
        parts.append(_text(left - 6, y + 4, "end", _short(tick)))
    for tick in ticks(0, last):
        if tick <= last:
            text = f"{tick / 1000:g}k" if tick and last >= 10000 else f"{tick:g}"
            parts.append(_text(place(tick, 0)[0], bottom + 16, "middle", text))
    for (method, _), line in sorted(lines.items()):
        index = methods.index(method) if method else -1
        parts.append(_draw_line([place(*point) for point in line], index))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" fill="currentColor"'
        f' viewBox="0 0 {_SIZE[0]} {_SIZE[1]}" aria-label="{html.escape(_summary(title, lines))}"'
        f' font-family="system-ui, sans-serif" font-size="12">{"".join(parts)}</svg>'
    )


def _summary(
    title: str, lines: Mapping[tuple[str, int], list[tuple[float, float]]]
) -> str:
    """Says where the lines begin and end, for those who do not see them."""
    ends: dict[str, list[tuple[float, float]]] = {}  # of each method: first and last
    for (method, _), line in sorted(lines.items()):
        ends.setdefault(method, []).extend((line[0], line[-1]))
    texts = []
    for method, points in ends.items():
        (first, _), (last, _) = min(points), max(points)
        began, ended = (
            statistics.fmean(v for step, v in points if step == at)
            for at in (first, last)
        )
        text = f"{_short(began)} at step {first:g}"
        if last != first:
            text = f"from {text} to {_short(ended)} at step {last:g}"
        texts.append(f"{method} {text}".strip())
    return f"{title}, mean over seeds: {'; '.join(texts)}"


def _draw_line(places: Sequence[tuple[float, float]], index: int) -> str:
    if len(places) == 1:
        x, y = places[0]
        color = _color(index)
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" style="fill: {color}"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{path}" {_stroke(index)}/>'


def _text(x: float, y: float, anchor: str, text: str) -> str:
    text = html.escape(text)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _color(index: int) -> str:
    if index < 0:  # of no method
        return "currentColor"
    return f"var(--series-{index % len(PALETTE)}, {PALETTE[index % len(PALETTE)]})"


def _stroke(index: int) -> str:
    dash = _DASHES[max(0, index) % len(_DASHES)]
    style = f'fill="none" style="stroke: {_color(index)}"'
    return f'{style} stroke-width="1.6" stroke-dasharray="{dash}"'
