"""The report's sections on single classes: their changes and their confusions."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from cglo_jax.report import svg, verdict
from cglo_jax.report.accuracy import plural
from cglo_jax.report.page import (
    Block,
    Folded,
    HeatMap,
    HeatMaps,
    IntervalChart,
    Section,
    Table,
    Text,
)
from cglo_jax.report.verdict import (
    BASELINE,
    ClassChange,
    Confusion,
    Results,
    first_result,
    format_interval,
    format_signed,
)

_NOTHING = "There is nothing to compare."
_FEW = 20  # up to so many classes are shown one by one
_EXTREMES = 10  # of more classes, those that rose most and those that fell most
_PAIRS = 15  # pairs of confused classes that are listed
_SHADES = (
    2,
    5,
    10,
    20,
)  # percent of a class's images, the upper ends of all but the last


def changes(results: Results, flat: Mapping[str, Any]) -> Section:
    """Compares the accuracy on each class with the baseline's, for each method."""
    heading = "Change per class"
    if not _compared(results):
        return Section(heading, [_NOTHING])
    confidence = flat["report.confidence"]
    names = first_result(results)["dataset"]["class_names"]
    blocks: list[Block] = []
    for method in _compared(results):
        changed = verdict.compare_classes(results, method, confidence)
        of_method = _describe_changes(method, changed, names, confidence)
        blocks += _fold(blocks, f"{method} minus {BASELINE}", of_method)
    return Section(heading, blocks=blocks)


def confusions(results: Results) -> Section:
    """Shows the confusions between classes, of the baseline beside each method."""
    heading = "Confusion"
    if not _compared(results):
        return Section(heading, [_NOTHING])
    names = first_result(results)["dataset"]["class_names"]
    blocks: list[Block] = []
    for method in _compared(results):
        seeds = verdict.shared_seeds(results, method)
        pairs = {
            name: verdict.sum_confusion(results, name, seeds)
            for name in (BASELINE, method)
        }
        summed = f"summed over {plural(len(seeds), 'seed')}"
        if len(names) <= _FEW:
            block = _heat_maps(pairs, names, summed)
        else:
            block = _confused(pairs, names, summed)
        blocks += _fold(blocks, f"{BASELINE} and {method}", [block])
    text = (
        "Rows are the true classes, columns the predicted ones: correct predictions on the "
        "diagonal, mistakes beside it."
    )
    if len(names) > _FEW:
        text = f"The {_PAIRS} mistakes that {BASELINE} and method together made most often."
    return Section(heading, [text], blocks=blocks)


def _compared(results: Results) -> list[str]:
    return [
        method
        for method in results
        if method != BASELINE and verdict.shared_seeds(results, method)
    ]


def _fold(before: Sequence[Block], summary: str, blocks: list[Block]) -> list[Block]:
    """Folds the blocks of a method unless it is the first one."""
    return [Folded(summary, blocks)] if before else blocks


def _describe_changes(
    method: str, changed: Sequence[ClassChange], names: Sequence[str], confidence: float
) -> list[Block]:
    texts = [f"Accuracy on each class, {method} minus {BASELINE}, in points."]
    if changed[0].low is None:
        texts.append(
            "With one seed there is no interval: single classes differ by chance."
        )
    else:
        texts.append(_describe_intervals(changed, names, confidence))
        texts.append(
            "The intervals cover what differs between seeds, not the choice of the few test "
            "images of a class."
        )
    few = len(changed) <= _FEW
    if not few:
        texts.append(
            "Of many classes, the largest changes are partly chance: expect them to be smaller "
            "in another run."
        )
    table = _table(method, changed, names, confidence)
    charts = _charts(method, changed, names, confidence)
    return [*map(Text, texts), *charts, table]


def _describe_intervals(
    changed: Sequence[ClassChange], names: Sequence[str], confidence: float
) -> str:
    """Describes how many intervals exclude 0, and how many would by chance."""
    n, out = len(changed), sum(c.excludes_zero for c in changed)
    survivors = [names[c.label] for c in changed if c.survives]
    text = (
        f"{out} of {plural(n, 'interval')} {'excludes' if out == 1 else 'exclude'} 0; "
        f"at most about {n * (1 - confidence):.2g} would if nothing had changed. "
    )
    if survivors:
        held = f"one still excludes 0, that of class {survivors[0]}."
        if len(survivors) > 1:
            held = f"{len(survivors)} still exclude 0, those of classes {', '.join(survivors)}."
        text += f"Widened to hold for all classes at once (Bonferroni), {held}"
    else:
        text += (
            "Widened to hold for all classes at once (Bonferroni), none excludes 0: there is no "
            "evidence that any single class changed."
        )
    if wide := sum(max(-c.low, c.high) > svg.MAX_DIFFERENCE for c in changed):
        text += (
            f" Of the intervals, {wide} {'goes' if wide == 1 else 'go'} beyond ±100 points, the "
            "largest possible difference: more seeds make intervals narrower."
        )
    return text


def _charts(
    method: str, changed: Sequence[ClassChange], names: Sequence[str], confidence: float
) -> list[IntervalChart]:
    lines = [
        svg.Interval(
            names[c.label],
            c.mean,
            c.low,
            c.high,
            *(_marks(c) if c.survives else ("none", "")),
        )
        for c in changed
    ]
    if len(lines) <= _FEW:
        caption = f"{method} minus {BASELINE}, class by class"
        return [svg.draw_intervals(caption, "Class", lines, confidence)]
    parts = (lines[:_EXTREMES], lines[-_EXTREMES:])
    scale = svg.choose_scale([*parts[0], *parts[1]])
    return [
        svg.draw_intervals(
            f"{method} minus {BASELINE}: {what}", "Class", part, confidence, scale
        )
        for what, part in zip(
            (f"the {_EXTREMES} best", f"the {_EXTREMES} worst"), parts, strict=True
        )
    ]


def _marks(change: ClassChange) -> tuple[str, str]:
    return ("helped", "rose") if change.mean > 0 else ("hurt", "fell")


def _table(
    method: str, changed: Sequence[ClassChange], names: Sequence[str], confidence: float
) -> Table:
    rows = [
        [
            names[c.label],
            str(c.tested),
            f"{c.baseline:.2f}",
            f"{c.method:.2f}",
            format_signed(c.mean),
            "none" if c.low is None else format_interval(c.low, c.high),
            _marks(c)[1] if c.survives else "",
        ]
        for c in changed
    ]
    interval = f"{100 * confidence:g}% interval"
    header = ["Class", "Tested", BASELINE, method, "Change", interval, "Bonferroni"]
    caption = f"All numbers of {plural(len(changed), 'class')}, {method}"
    return Table(caption, header, rows, folded=True)


def _heat_maps(
    pairs: Mapping[str, Confusion], names: Sequence[str], summed: str
) -> HeatMaps:
    maps = []
    for method, counted in pairs.items():
        k = range(len(names))
        counts = [[counted[i, j] for j in k] for i in k]
        levels = [[_level(row[j], sum(row)) for j in k] for row in counts]
        maps.append(HeatMap(f"{method}, {summed}", names, counts, levels))
    return HeatMaps(maps, _shade_names())


def _level(count: int, total: int) -> int:
    """Returns the shade for `count` of `total` images, 0 for none."""
    if not count:
        return 0
    return 1 + sum(100 * count > end * total for end in _SHADES)


def _shade_names() -> list[str]:
    ends = [0, *_SHADES]
    between = [f"{a}-{b}%" for a, b in itertools.pairwise(ends)]
    return [*between, f"over {_SHADES[-1]}%"]


def _format_count(n: int) -> str:
    return f"{n:+d}" if n else "0"


def _confused(
    pairs: Mapping[str, Confusion], names: Sequence[str], summed: str
) -> Table:
    base, ours = pairs.values()
    tested: dict[int, int] = {}
    for (label, _), n in base.items():
        tested[label] = tested.get(label, 0) + n
    rows = [
        [
            names[label],
            names[predicted],
            str(base[label, predicted]),
            str(ours[label, predicted]),
            _format_count(ours[label, predicted] - base[label, predicted]),
            str(tested[label]),
        ]
        for label, predicted in verdict.most_confused(base, ours, _PAIRS)
    ]
    header = ["Class", "Predicted", *pairs, "Change", "Images of the class"]
    caption = f"Most confused classes, {' and '.join(pairs)}, {summed}"
    return Table(caption, header, rows)
