"""What a report tells of the results: one function per section, in the order of the page."""

import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from cglo_jax import curves
from cglo_jax.errors import UserError
from cglo_jax.page import Picture, Section, Table
from cglo_jax.verdict import BASELINE, Comparison, Results, any_result, standard_error

_PICTURES = {
    "reconstructions": (
        "Training images (upper rows) and what the generator makes of their codes (lower rows). "
        "What is lost here is missing from every synthetic image."
    ),
    "interpolations": (
        "Each row walks from the code of one training image (left) to that of another of its class "
        "(right). Synthetic training images are such images in between."
    ),
    "codes": (
        "The codes of the training images, brought from the sphere to the plane and coloured by "
        "class. Only nearness has a meaning here, the axes have none."
    ),
}
_ACCURACY = """
In percent, mean ± standard error over seeds. Every classifier was trained for the same {steps} and
measured after the last one, on all of {test_images}; nothing was selected by its test accuracy.
"""
_DIFFERENCE = """
Points of top-1 accuracy, method minus {baseline}, by runs that share a seed.
"""
_INTERVAL = """
The interval is Student's t over these differences, taken to be normally distributed, with {percent}
confidence. A method helped if all of its interval is above 0, hurt if all of it is below.

What the interval covers: the randomness of training (initialisation, order, noise, augmentation).
All seeds share the same training images (dataset.split_seed {split_seed}) and the same test images,
so it does not cover another choice of training images, which with few of them may change more than
a seed does.
"""
_NO_INTERVAL = """
With one seed there is no interval, and so no verdict: nothing tells a difference from chance. Give
--config.seeds more of them.
"""
_LIMITS = """
The size of the test set, {test_images}, gives each accuracy a standard error of up to {error:.2f}
points as an estimate for new images of this kind. No interval here includes it.

The {baseline} has the settings below and the same number of steps as the others. If a better tuned
one exists, that is the one to beat.
"""


def plural(n: int, word: str) -> str:
    """Counts things: 1 class, 2 classes."""
    return f"{n} {word}" + ("" if n == 1 else "es" if word.endswith("s") else "s")


def _mean_and_error(values: Sequence[float]) -> str:
    error = standard_error(values)
    spread = "" if error is None else f" ± {error:.2f}"
    return f"{statistics.fmean(values):.2f}{spread}"


def _paragraphs(text: str, **values: Any) -> list[str]:
    return [" ".join(p.split()) for p in text.format(**values).split("\n\n")]


def accuracy(results: Results, flat: Mapping[str, Any]) -> Section:
    """Tells every accuracy, and which of those that `flat`, the settings, ask for are missing."""
    result = any_result(results)
    text = _paragraphs(
        _ACCURACY,
        steps=plural(result["steps"], "step"),
        test_images=plural(result["n_test"], "test image"),
    )
    if result["dataset"]["num_classes"] <= 5:
        text.append("With five classes or fewer, every top-5 accuracy is 100.")
    missing = [
        f"{method} seed {seed}"
        for method in flat["classify.methods"]
        for seed in flat["seeds"]
        if seed not in results.get(method, {})
    ]
    if missing:
        text.append(
            f"Not there yet: {', '.join(missing)}. --stage=classify makes them."
        )
    means = []
    for method, runs in results.items():
        pairs = zip(*((r["top1"], r["top5"]) for r in runs.values()), strict=True)
        numbers = [str(len(runs)), str(result["steps"])]
        means.append([method, *map(_mean_and_error, pairs), *numbers])
    header = ["Method", "Top-1", "Top-5", "Seeds", "Steps each"]
    tables = [Table("Mean over seeds", header, means), _each_seed(results)]
    return Section("Accuracy", text, tables)


def _each_seed(results: Results) -> Table:
    rows = []
    for seed in sorted({seed for runs in results.values() for seed in runs}):
        found = [runs.get(seed) for runs in results.values()]
        cells = [f"{r['top1']:.2f} / {r['top5']:.2f}" if r else "-" for r in found]
        rows.append([str(seed), *cells])
    return Table("Each seed: top-1 / top-5", ["Seed", *results], rows)


def differences(
    results: Results, comparisons: Sequence[Comparison], flat: Mapping[str, Any]
) -> Section:
    """Tells the comparisons with the baseline and what their intervals mean."""
    heading, n_test = f"Difference to {BASELINE}", any_result(results)["n_test"]
    if not comparisons:
        return Section(heading, ["There is nothing to compare."])
    percent = f"{100 * flat['report.confidence']:g}%"
    top1 = [r["top1"] for runs in results.values() for r in runs.values()]
    intervals = [c for c in comparisons if c.low is not None]
    text = _paragraphs(
        _DIFFERENCE + (_INTERVAL if intervals else _NO_INTERVAL) + _LIMITS,
        baseline=BASELINE,
        percent=percent,
        split_seed=flat["dataset.split_seed"],
        test_images=plural(n_test, "image"),
        error=max(math.sqrt(p * (100 - p) / n_test) for p in top1),
    )
    if len(intervals) > 1:
        text.append(
            f"Each of the {len(intervals)} intervals stands alone: the chance that at least one "
            f"of them errs is higher than {100 * (1 - flat['report.confidence']):.3g}%."
        )
    for c in comparisons:
        if c.widened:
            text.append(
                f"The seeds of {c.method} agree more closely than {n_test} test images can tell: "
                f"half a test image ({50 / n_test:.3f} points) was taken as their standard deviation."
            )
    header = ["Method", "Mean", f"{percent} interval", "Each seed", "Seeds", "Verdict"]
    rows = [
        [
            c.method,
            f"{c.mean:+.2f}",
            c.interval,
            ", ".join(f"{d:+.2f}" for d in c.differences),
            ", ".join(map(str, c.seeds)),
            c.verdict,
        ]
        for c in comparisons
    ]
    return Section(heading, text, [Table("Paired differences", header, rows)])


def learning_curves(metrics: Sequence[Mapping[str, Any]]) -> Section:
    """Draws the lines of metrics.jsonl."""
    drawn = curves.learning_curves(metrics)
    text = "A thin line per seed, a colour per method, over training steps."
    if not drawn:
        text = "There are none: --stage=train and --stage=classify write them."
    return Section("Learning curves", [text], curves=drawn)


def samples(workdir: pathlib.Path) -> Section:
    """Shows the pictures in samples/.

    Raises:
      UserError: one of them is damaged.
    """
    pictures, text, missing = [], [], []
    for name, caption in _PICTURES.items():
        path = workdir / "samples" / f"{name}.png"
        if not path.exists():
            missing.append(path.name)
            continue
        try:
            with Image.open(path) as image:
                pictures.append(Picture(name, caption, path.read_bytes(), image.size))
        except OSError:
            raise UserError(f"{path} is no picture: run --stage=sample again") from None
    n = sum(1 for _ in workdir.glob("samples/images/*/*.png"))
    if n:
        text.append(
            f"{plural(n, 'synthetic image')}: samples/images/<class>/*.png in the work directory, "
            "each described by a line of samples/manifest.jsonl."
        )
    else:
        missing.append("the synthetic images")
    if missing:
        text.append(f"Not there: {', '.join(missing)}. --stage=sample makes them.")
    return Section("What the generator makes", text, pictures=pictures)
