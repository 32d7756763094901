"""Learning curves as small SVG drawings that take the text colour of their page."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cglo_jax.figures import PALETTE

# (stage, key of a record, title)
_PANELS = (
    ("train", "reconstruction", "cGLO: reconstruction loss"),
    ("train", "cross_entropy", "cGLO: cross-entropy of the weak classifier"),
    ("train", "cosine_loss", "cGLO: cosine loss of the weak classifier"),
    ("classify", "loss", "Classifier: training loss"),
    ("classify", "train_accuracy", "Classifier: training accuracy (%)"),
)
_SIZE = (320, 210)  # of a panel, in the units of its text (12 high)
_FRAME = (58, 32, 304, 174)  # left, top, right, bottom of the axes
_DASHES = ("none", "6 3", "2 2")


def learning_curves(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Draws one small panel per logged quantity: a colour per method, a thin line per seed.

    Args:
      records: lines of metrics.jsonl, with stage, seed, method (stage classify), step and values.

    Returns:
      {title: SVG text} of the quantities that were logged. An SVG needs nothing but itself; lines
      have the page's `--series-0`, ... if set, axes and text its text colour.
    """
    records = list(records)
    drawn = {}
    for stage, key, title in _PANELS:
        lines = _lines([r for r in records if r["stage"] == stage], key)
        if lines:
            drawn[title] = _panel(title, lines)
    return drawn


def _lines(
    records: Sequence[Mapping[str, Any]], key: str
) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """Returns {(method, seed): [(step, value), ...]} in the order of steps, finite values only."""
    lines: dict[tuple[str, int], dict[float, float]] = {}
    for record in records:
        value = record.get(key)
        if value is not None and math.isfinite(value):
            line = lines.setdefault((record.get("method") or "", record["seed"]), {})
            line[record["step"]] = value
    return {name: sorted(line.items()) for name, line in lines.items()}


def _ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high).tolist()


def _short(value: float) -> str:
    """Writes a tick of at most three digits in at most 7 characters: 0.0015, 1.25e-3."""
    if len(f"{value:g}") <= 6:
        return f"{value:g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _panel(
    title: str, lines: Mapping[tuple[str, int], list[tuple[float, float]]]
) -> str:
    left, top, right, bottom = _FRAME
    points = [point for line in lines.values() for point in line]
    last = max(step for step, _ in points) or 1
    values = [value for _, value in points]
    ticks = _ticks(min(0.0, *values), max(values) if max(values) > 0 else 1.0)

    def place(step: float, value: float) -> tuple[float, float]:
        height = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return left + (right - left) * step / last, bottom - (bottom - top) * height

    parts = [_text((left + right) / 2, bottom + 32, "middle", "step")]
    for tick in ticks:
        _, y = place(0, tick)
        grid = 'stroke="currentColor" opacity=".15"'
        parts.append(f'<path d="M{left} {y:.1f}H{right}" {grid}/>')
        parts.append(_text(left - 6, y + 4, "end", _short(tick)))
    for tick in _ticks(0, last):
        if tick <= last:
            text = f"{tick / 1000:g}k" if tick and last >= 10000 else f"{tick:g}"
            parts.append(_text(place(tick, 0)[0], bottom + 16, "middle", text))
    methods = sorted({method for method, _ in lines})
    for (method, _), line in sorted(lines.items()):
        path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in line)
        parts.append(f'<polyline points="{path}" {_stroke(methods.index(method))}/>')
    parts += _panel_legend(methods)
    # Without a legend its row is left out of the view.
    y0 = 0 if any(methods) else 20
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" fill="currentColor"'
        f' viewBox="0 {y0} {_SIZE[0]} {_SIZE[1] - y0}" aria-label="{html.escape(title)}"'
        f' font-family="system-ui, sans-serif" font-size="12">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, anchor: str, text: str) -> str:
    text = html.escape(text)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _stroke(index: int) -> str:
    color = f"var(--series-{index % len(PALETTE)}, {PALETTE[index % len(PALETTE)]})"
    dash = _DASHES[index % len(_DASHES)]
    return f'fill="none" style="stroke: {color}" stroke-width="1.4" stroke-dasharray="{dash}"'


def _panel_legend(methods: Sequence[str]) -> list[str]:
    parts, x = [], float(_FRAME[0])
    for i, method in enumerate(methods):
        if method:
            parts.append(f'<path d="M{x:.0f} 14h22" {_stroke(i)}/>')
            parts.append(_text(x + 27, 18, "start", method))
            x += 46 + 7 * len(method)
    return parts
