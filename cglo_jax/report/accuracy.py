"""The report's sections on accuracy and learning curves, one function each."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cglo_jax.report import svg
from cglo_jax.report.page import Curves, IntervalChart, Items, Section, Table, Text
from cglo_jax.report.verdict import (
    BASELINE,
    Comparison,
    Results,
    accuracy_error,
    first_result,
    format_mean,
    format_signed,
)
from cglo_jax.training.logged import Metrics

_TOPS = {"top1": "Top-1", "top5": "Top-5"}
_ACCURACY = """
Percentage of {test_images} that are classified correctly: mean ± standard error over seeds. All
classifiers were trained for the same {steps} and measured after the last one; nothing was selected
by its test accuracy.
"""
_DIFFERENCE = """
Points of top-1 accuracy, method minus {baseline}, over runs that share a seed.
"""
_INTERVAL = """
A method helped if its whole {percent} interval (Student's t over seeds) is above 0, and hurt if
the whole interval is below. The interval covers what differs between seeds: {differing}. It does not
cover:
"""
_NO_INTERVAL = """
With one seed there is no interval, and so no verdict: a difference may be chance alone. Run it
again with three or more, as in --config.seeds="(0,1,2)". Their interval would not cover:
"""
_DIFFERING = "initialisation, order, noise and augmentation"
_DIFFERING_IMAGES = (
    "the choice of the labelled images, which each seed drew anew (dataset.split_per_seed), "
    "initialisation, order, noise and augmentation"
)
_SHARED_IMAGES = """
Other training images. All seeds share those of dataset.split_seed {split_seed}; with few of them,
another choice may change more than a seed does.

"""
_LIMITS = """
Other test images. {test_images} alone give each accuracy a standard error of up to {error:.2f}
points.

A better tuned {baseline}. It has the settings below and as many steps as the others.
"""


def plural(n: int, word: str) -> str:
    """Writes a number of things: 1 class, 2 classes."""
    return f"{n} {word}" + ("" if n == 1 else "es" if word.endswith("s") else "s")


def images_per_class(data: Mapping[str, Any], flat: Mapping[str, Any]) -> str:
    """Writes how many labelled images a class has, such as "10" or "29 to 30"; "" = all there are."""
    shots, fewest = flat["dataset.shots"], min(data["train_counts"])
    if flat.get("dataset.shortfall") and fewest < shots:
        return f"{fewest} to {shots}"
    return str(shots or "")


def _fill(text: str, **values: Any) -> str:
    return " ".join(text.format(**values).split())


def accuracy(results: Results, flat: Mapping[str, Any]) -> Section:
    """Lists every accuracy, and which results are missing.

    Args:
      flat: every field of the configuration by its dotted name.
    """
    result = first_result(results)
    steps, n_test = plural(result["steps"], "step"), result["n_test"]
    text = [_fill(_ACCURACY, steps=steps, test_images=plural(n_test, "test image"))]
    missing = [
        f"{method} seed {seed}"
        for method in flat["classify.methods"]
        for seed in flat["seeds"]
        if seed not in results.get(method, {})
    ]
    if missing:
        text.append(f"Missing: {', '.join(missing)}. --stage=classify trains them.")
    tops = ["top1", "top5"] if result["dataset"]["num_classes"] > 5 else ["top1"]
    means = []
    for method, runs in results.items():
        values = ([r[top] for r in runs.values()] for top in tops)
        numbers = [str(len(runs)), str(result["steps"])]
        means.append([method, *map(format_mean, values), *numbers])
    header = ["Method", *map(_TOPS.get, tops), "Seeds", "Steps each"]
    tables = [Table("Mean over seeds", header, means), _each_seed(results, tops)]
    return Section("Accuracy", text, tables)


def _each_seed(results: Results, tops: Sequence[str]) -> Table:
    rows = []
    for seed in sorted({seed for runs in results.values() for seed in runs}):
        found = [runs.get(seed) for runs in results.values()]
        cells = [" / ".join(f"{r[t]:.2f}" for t in tops) if r else "-" for r in found]
        rows.append([str(seed), *cells])
    caption = f"Each seed: {' / '.join(_TOPS[top].lower() for top in tops)}"
    return Table(caption, ["Seed", *results], rows)


def differences(
    results: Results, comparisons: Sequence[Comparison], flat: Mapping[str, Any]
) -> Section:
    """Lists the comparisons with the baseline and explains their intervals."""
    heading, n_test = f"Difference to {BASELINE}", first_result(results)["n_test"]
    if not comparisons:
        return Section(heading, ["There is nothing to compare."])
    percent = f"{100 * flat['report.confidence']:g}%"
    top1 = [r["top1"] for runs in results.values() for r in runs.values()]
    counted = any(c.low is not None for c in comparisons)
    own_images = flat["dataset.split_per_seed"]
    limits = _LIMITS if own_images else _SHARED_IMAGES + _LIMITS
    values = {
        "baseline": BASELINE,
        "differing": _DIFFERING_IMAGES if own_images else _DIFFERING,
        "percent": percent,
        "split_seed": flat["dataset.split_seed"],
        "test_images": plural(n_test, "image"),
        "error": max(accuracy_error(p, n_test) for p in top1),
    }
    blocks = [
        _paired_differences(comparisons, percent),
        *map(Text, _notes(comparisons, n_test, flat["report.confidence"])),
        Text(_fill(_INTERVAL if counted else _NO_INTERVAL, **values)),
        Items([_fill(limit, **values) for limit in limits.strip().split("\n\n")]),
    ]
    return Section(heading, [_fill(_DIFFERENCE, **values)], blocks=blocks)


def _notes(
    comparisons: Sequence[Comparison], n_test: int, confidence: float
) -> list[str]:
    """Returns the cautions that some of the intervals need."""
    notes = []
    for c in comparisons:
        if c.widened:
            notes.append(
                f"The seeds of {c.method} agree more closely than {n_test} test images can resolve: "
                f"half a test image ({50 / n_test:.3f} points) was taken as their standard deviation."
            )
        if c.low is not None and max(-c.low, c.high) > svg.MAX_DIFFERENCE:
            notes.append(
                f"The interval of {c.method} goes beyond ±100 points, the largest possible "
                f"difference: {plural(len(c.seeds), 'seed')} are too few here. Use more, with "
                "--config.seeds."
            )
    if (n := sum(c.low is not None for c in comparisons)) > 1:
        notes.append(
            f"Each of the {n} intervals is computed by itself: the chance that at least one of "
            f"them is wrong is higher than {100 * (1 - confidence):.3g}%."
        )
    return notes


def _paired_differences(comparisons: Sequence[Comparison], percent: str) -> Table:
    header = ["Method", "Mean", f"{percent} interval", "Each seed", "Seeds", "Verdict"]
    rows = [
        [
            c.method,
            format_signed(c.mean),
            c.interval,
            ", ".join(format_signed(d) for d in c.differences),
            ", ".join(map(str, c.seeds)),
            c.verdict,
        ]
        for c in comparisons
    ]
    return Table("Paired differences", header, rows)


def headline_chart(
    comparisons: Sequence[Comparison], confidence: float
) -> IntervalChart | None:
    """Draws the differences behind the verdicts; None if there are none."""
    if not comparisons:
        return None
    lines = [
        svg.Interval(
            c.method,
            c.mean,
            c.low,
            c.high,
            c.verdict if c.verdict in ("helped", "hurt") else "none",
            c.verdict,
            c.differences if len(c.differences) > 1 else (),
        )
        for c in comparisons
    ]
    caption = f"Top-1 accuracy, method minus {BASELINE}"
    return svg.draw_intervals(caption, "Method", lines, confidence)


def facts(results: Results, c: Comparison) -> list[tuple[str, str]]:
    """Returns (name, number) of the numbers behind a verdict, as texts."""
    runs = {
        name: [results[name][seed]["top1"] for seed in c.seeds]
        for name in (BASELINE, c.method)
    }
    return [
        *((name, f"{statistics.fmean(top1):.2f}%") for name, top1 in runs.items()),
        ("difference", f"{format_signed(c.mean)} points"),
        ("seeds", str(len(c.seeds))),
        ("test images", str(first_result(results)["n_test"])),
    ]


def learning_curves(metrics: Sequence[Metrics]) -> Section:
    """Draws the lines of metrics.jsonl, see `svg.draw_curves`."""
    heading, drawn = "Learning curves", svg.draw_curves(metrics)
    if not drawn:
        text = "There are none: --stage=train and --stage=classify write them."
        return Section(heading, [text])
    text = "One thin line per seed; colours and dashes show the methods of classifiers."
    return Section(heading, [text], blocks=[Curves(drawn, svg.draw_legend(metrics))])
