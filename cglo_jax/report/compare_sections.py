"""What a comparison of runs tells: one function per section, in the order of the page."""

import collections
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from PIL import Image

from cglo_jax.files import readback
from cglo_jax.report import accuracy, figures
from cglo_jax.report import verdict as verdicts
from cglo_jax.report.page import Picture, Section, Table
from cglo_jax.report.provenance import external_weights

_PAIRED = """
Accuracies are in percent, differences in points of top-1 accuracy, with their {percent} intervals.
Those to {first} are over the seeds that both runs have; where no number stands, the images differ
or there is no such seed.
"""


class Run(NamedTuple):
    """What is read of a finished run.

    Attributes:
      flat: every field of its configuration by its dotted name.
      timings: lines of timings.jsonl.
    """

    name: str
    workdir: pathlib.Path
    flat: dict[str, Any]
    results: verdicts.Results
    timings: list[dict[str, Any]]

    @property
    def any_result(self) -> dict[str, Any]:
        """One of the results, for what is the same in all."""
        return verdicts.any_result(self.results)

    def images(self, name: str) -> str | None:
        """Digest of its "images" (to train on) or "test_images"."""
        return self.any_result["fingerprint"].get(name)

    def top1(self, method: str) -> dict[int, float]:
        """Accuracies of a method by seed."""
        return {s: r["top1"] for s, r in self.results.get(method, {}).items()}


def _table(
    caption: str,
    first: str,
    runs: Sequence[Run],
    names: Sequence[str],
    cell: Callable[[Run, str], str],
) -> Table:
    """A row for each of `names` and a column for each run."""
    rows = [[name, *(cell(one, name) for one in runs)] for name in names]
    return Table(caption, [first, *(one.name for one in runs)], rows)


def accuracies(
    runs: Sequence[Run], confidence: float, differing: Sequence[str]
) -> Section:
    """Tells the accuracies of all methods, after what `differing` says of the images."""
    methods = list(dict.fromkeys(m for one in runs for m in one.results))
    others = [m for m in methods if m != verdicts.BASELINE]
    percent, first = f"{100 * confidence:g}%", runs[0]
    spread = "mean ± standard error over seeds"
    gain = f"Verdict of each run: difference to its {verdicts.BASELINE}"
    tables = [
        _table(f"Top-1: {spread}", "Method", runs, methods, _mean("top1")),
        _table(f"Top-5: {spread}", "Method", runs, methods, _mean("top5")),
        _table(gain, "Method", runs, others, lambda r, m: _gain(r, m, confidence)),
        _table(
            f"Difference to {first.name}",
            "Method",
            runs[1:],
            methods,
            lambda r, m: _paired(r, first, m, confidence),
        ),
    ]
    text = _PAIRED.format(first=first.name, percent=percent)
    if all(one.any_result["dataset"]["num_classes"] <= 5 for one in runs):
        del tables[1]  # all of them 100
    shown = [table for table in tables if table.rows]
    return Section("Accuracy", [*differing, " ".join(text.split())], shown)


def _mean(top: str) -> Callable[[Run, str], str]:
    """-> the mean accuracy, "top1" or "top5", of a run and a method."""

    def mean(one: Run, method: str) -> str:
        values = [r[top] for r in one.results.get(method, {}).values()]
        return verdicts.mean_and_error(values) if values else "-"

    return mean


def _gain(one: Run, method: str, confidence: float) -> str:
    """The verdict of a run on a method."""
    if method not in one.results:
        return "-"
    c = verdicts.compare(one.results, method, confidence)
    return f"{c.verdict}, {_interval(c.mean, c.low, c.high)}" if c else "-"


def _interval(mean: float, low: float | None, high: float | None) -> str:
    mean, *ends = (verdicts.signed(x) for x in (mean, low, high) if x is not None)
    return f"{mean} ({' to '.join(ends)})" if ends else mean


def _paired(one: Run, first: Run, method: str, confidence: float) -> str:
    """The difference of two runs of a method over the seeds they share."""
    same = all(one.images(k) == first.images(k) for k in ("images", "test_images"))
    ours, theirs = one.top1(method), first.top1(method)
    seeds = sorted(ours.keys() & theirs.keys())
    if not (same and seeds):
        return "-"
    values = [[top1[seed] for seed in seeds] for top1 in (ours, theirs)]
    resolution = 100 / one.any_result["n_test"]
    return _interval(*verdicts.paired_difference(*values, confidence, resolution))


def given(runs: Sequence[Run]) -> Section:
    """Tells what each run had and how long it was trained."""

    def tell(one: Run) -> dict[str, str]:
        result, results = one.any_result, one.results.values()
        data, used = result["dataset"], result["environment"]
        added = max(r["codes_added_later"] for of in results for r in of.values())
        classes = accuracy.plural(data["num_classes"], "class")
        return {
            "Data set": data["name"],
            "Labelled images": f"{data['n_labelled']} of {classes}",
            "Images per class": str(one.flat["dataset.shots"] or "all"),
            "Unlabelled images": str(data["n_unlabelled"]),
            "Test images among them": "yes" if data["transductive"] else "no",
            "Tested on": f"{result['n_test']} ({data['test_split']})",
            "External weights": "; ".join(external_weights(one.results)) or "none",
            "Learnt by codes alone": str(added),
            "Seeds": ", ".join(map(str, sorted({s for of in results for s in of}))),
            "Steps of a classifier": str(result["steps"]),
            "Commit": used.get("commit", "-"),
            "Device": used.get("device", "-"),
        }

    told = {one.name: tell(one) for one in runs}
    names, caption = list(told[runs[0].name]), "Priors, data and length"
    table = _table(caption, "What", runs, names, lambda r, name: told[r.name][name])
    return Section("What they had", tables=[table])


def settings(runs: Sequence[Run]) -> Section:
    """Tells the fields that are not the same in all runs."""
    names = [
        name
        for name in runs[0].flat
        if any(one.flat[name] != runs[0].flat[name] for one in runs)
    ]
    if not names:
        return Section("Settings that differ", ["None: every field is the same."])
    table = _table(
        "Fields", "Field", runs, names, lambda one, name: json.dumps(one.flat[name])
    )
    return Section("Settings that differ", tables=[table])


def times(runs: Sequence[Run]) -> Section:
    """Tells how long the stages took."""
    sums: list[collections.Counter[str]] = []
    for one in runs:
        sums.append(collections.Counter())
        for line in one.timings:  # several per stage: seeds, and calls that went on
            name = f"{line['stage']} {line.get('method') or ''}".strip()
            sums[-1][name] += line["wall_s"]
    stages = list(dict.fromkeys(name for of_run in sums for name in of_run))
    rows = [
        [name, *(f"{of_run[name]:,.1f}" if name in of_run else "-" for of_run in sums)]
        for name in stages
    ]
    table = Table("Seconds", ["Stage", *(one.name for one in runs)], rows)
    text = "Wall time, all seeds together, compilation included."
    return Section("Time", [text], [table])


def reconstructions(runs: Sequence[Run]) -> Section:
    """Shows the pictures that stage sample drew.

    Raises:
      UserError: one of them is damaged.
    """
    heading, shown, missing = "Reconstructions", {}, []
    for one in runs:
        path = one.workdir / "samples" / "reconstructions.png"
        if (picture := _read_picture(path)) is not None:
            shown[one.name] = picture
        else:
            missing.append(one.name)
    text = []
    if missing:
        text.append(f"Not there: {', '.join(missing)}. --stage=sample makes them.")
    if not shown:
        return Section(heading, text)
    drawn = figures.side_by_side(list(shown.values()), list(shown))
    caption = "Training images (upper rows) and what the generators make of their codes (lower rows)."
    alt = (
        f"Beside each other, of {', '.join(shown)}: pairs of images, named by class, a training "
        "image and below it what the generator makes of its code."
    )
    picture = Picture(
        "reconstructions",
        caption,
        readback.encode_png(drawn),
        drawn.size,
        alt,
        is_file=False,
    )
    return Section(heading, text, blocks=[picture])


def _read_picture(path: pathlib.Path) -> Image.Image | None:
    """The picture as RGB; None if there is none, also because it is being replaced."""

    def read() -> Image.Image | None:
        try:
            advice = "move it away and run --stage=sample again"
            return readback.read_png(path, advice).convert("RGB")
        except FileNotFoundError:
            return None

    return readback.read_steadily(path.parent, read)
