"""Finished runs side by side, compare.md and compare.html: config.report.compare names them."""

import collections
import itertools
import json
import operator
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from PIL import Image

from cglo_jax.config import saved as saved_config
from cglo_jax.config.defaults import flatten
from cglo_jax.errors import UserError, printable
from cglo_jax.files import ownership, readback
from cglo_jax.report import accuracy, figures, verdict
from cglo_jax.report.markdown import to_markdown
from cglo_jax.report.page import Page, Picture, Section, Table, to_html
from cglo_jax.report.provenance import external_weights
from cglo_jax.report.write import read_results
from cglo_jax.training import logged
from cglo_jax.training.logged import Timing
from cglo_jax.workdir.results import Result, find_results

_EQUAL = (
    "Their accuracies can be compared. They have the same training and test images."
)
_OTHER_TRAINING = "Their accuracies are of the same test images. But they differ in training images: see below."
_OTHER_TEST = "Not all of their accuracies can be compared. They differ in test images: see below."
_PAIRED = """
Accuracies are in percent, differences in points of top-1 accuracy, with their {percent} intervals.
Differences to {first} are over the seeds that both runs have; "-" means that the images differ or
that there is no such seed.
"""


class Run(NamedTuple):
    """What is read from the work directory of a finished run.

    Attributes:
      name: how the page calls it.
      flat: every field of its configuration by its dotted name.
      timings: lines of timings.jsonl.
    """

    name: str
    workdir: pathlib.Path
    flat: dict[str, Any]
    results: verdict.Results
    timings: list[Timing]

    @property
    def first_result(self) -> Result:
        """The first of its results, for what is the same in all."""
        return verdict.first_result(self.results)

    def images(self, name: str) -> dict[int, str | None]:
        """Returns the digest of its "images" (to train on) or "test_images" by seed."""
        return {
            seed: result["fingerprint"].get(name)
            for of_method in self.results.values()
            for seed, result in of_method.items()
        }

    def shares(self, name: str, other: "Run") -> bool:
        """Whether both have the same "images" or "test_images", for the seeds that both have."""
        ours, theirs = self.images(name), other.images(name)
        if seeds := ours.keys() & theirs.keys():
            return all(ours[seed] == theirs[seed] for seed in seeds)
        return set(ours.values()) == set(theirs.values())

    def top1(self, method: str) -> dict[int, float]:
        """Returns the accuracies of a method by seed, in percent."""
        return {s: r["top1"] for s, r in self.results.get(method, {}).items()}


def write_comparison(config: ConfigDict, workdir: pathlib.Path) -> str:
    """Writes compare.md and compare.html into `workdir`, which is new, empty or a run's.

    Args:
      config: its `report.compare` names the work directories of the runs.

    Returns:
      Whether the runs can be compared, as a text.

    Raises:
      UserError: fewer than two runs are named, or one is not there, not finished or damaged.
    """
    page = _create_page(read_runs(config.report.compare), config.report.confidence)
    ownership.write(workdir, "compare.md", to_markdown(page))
    ownership.write(workdir, "compare.html", to_html(page))
    return page.verdicts[0][1]


def read_runs(given: str) -> list[Run]:
    """Reads the runs whose work directories `given` names, separated by commas.

    Raises:
      UserError: see `write_comparison`.
    """
    texts = [text.strip() for text in given.split(",") if text.strip()]
    if len(texts) < 2:
        raise UserError(
            f"config.report.compare is {given!r}: it must name two runs or more by their work "
            "directories, such as runs/a,runs/b"
        )
    found = []
    for text in texts:
        try:
            found.append(_read_run(text))
        except UserError as error:
            raise UserError(f"config.report.compare, run {text}: {error}") from None
    places = [run.workdir.resolve() for run in found]
    if len(set(places)) < len(places):
        raise UserError(f"config.report.compare names a run twice: {given}")
    short = [run.workdir.name for run in found]
    names = short if len(set(short)) == len(short) else texts
    pairs = zip(found, names, strict=True)
    return [run._replace(name=printable(name)) for run, name in pairs]


def _read_run(text: str) -> Run:
    workdir = saved_config.find_workdir(text)
    read = find_results(workdir)
    # A method without cGLO may have been trained when the cGLO had fewer epochs.
    epochs = operator.methodcaller("get", "train.epochs", 0)
    saved = max((result["fingerprint"] for result in read), key=epochs, default={})
    config = saved_config.restore_config(workdir, saved)
    results = read_results(workdir, config)
    timings = logged.read_timings(workdir)
    return Run("", workdir, flatten(config), results, timings)


def _create_page(runs: Sequence[Run], confidence: float) -> Page:
    title = f"Side by side: {', '.join(run.name for run in runs)}"
    of_test, of_training = _differing_images(runs)
    claim = _OTHER_TEST if of_test else _OTHER_TRAINING if of_training else _EQUAL
    sections = [
        _accuracies(runs, confidence, of_test + of_training),
        _priors(runs),
        _settings(runs),
        _times(runs),
        _reconstructions(runs),
    ]
    return Page(title, [("none", claim)], sections, file="compare.html")


def _differing_images(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """Returns a text per pair of runs that differ in test images, and in training images only."""
    of_test, of_training = [], []
    for a, b in itertools.combinations(runs, 2):
        if not a.shares("test_images", b):
            of_test.append(
                f"{a.name} and {b.name} differ in test images: their accuracies cannot be compared."
            )
        elif not a.shares("images", b):
            of_training.append(
                f"{a.name} and {b.name} differ in training images: a difference of their "
                "accuracies may come from these alone."
            )
    return of_test, of_training


# The sections of the page, in their order


def _table(
    caption: str,
    first: str,
    runs: Sequence[Run],
    names: Sequence[str],
    cell: Callable[[Run, str], str],
) -> Table:
    """Returns a table with a row for each of `names` and a column for each run."""
    rows = [[name, *(cell(run, name) for run in runs)] for name in names]
    return Table(caption, [first, *(run.name for run in runs)], rows)


def _accuracies(
    runs: Sequence[Run], confidence: float, differing: Sequence[str]
) -> Section:
    methods = list(dict.fromkeys(m for run in runs for m in run.results))
    others = [m for m in methods if m != verdict.BASELINE]
    percent, first = f"{100 * confidence:g}%", runs[0]
    spread = "mean ± standard error over seeds"
    gain = f"Verdict of each run: difference to its {verdict.BASELINE}"
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
    if all(run.first_result["dataset"]["num_classes"] <= 5 for run in runs):
        del tables[1]  # all of them 100
    shown = [table for table in tables if table.rows]
    return Section("Accuracy", [*differing, " ".join(text.split())], shown)


def _mean(top: str) -> Callable[[Run, str], str]:
    """Returns (run, method) -> the mean accuracy as text; `top` is "top1" or "top5"."""

    def mean(run: Run, method: str) -> str:
        values = [r[top] for r in run.results.get(method, {}).values()]
        return verdict.format_mean(values) if values else "-"

    return mean


def _gain(run: Run, method: str, confidence: float) -> str:
    if method not in run.results:
        return "-"
    c = verdict.compare(run.results, method, confidence)
    return f"{c.verdict}, {_interval(c.mean, c.low, c.high)}" if c else "-"


def _interval(mean: float, low: float | None, high: float | None) -> str:
    values = (mean, low, high)
    text, *ends = (verdict.format_signed(x) for x in values if x is not None)
    return f"{text} ({' to '.join(ends)})" if ends else text


def _paired(run: Run, first: Run, method: str, confidence: float) -> str:
    """Writes the difference of two runs over the seeds that both have."""
    same = all(run.shares(name, first) for name in ("images", "test_images"))
    ours, theirs = run.top1(method), first.top1(method)
    seeds = sorted(ours.keys() & theirs.keys())
    if not (same and seeds):
        return "-"
    values = [[top1[seed] for seed in seeds] for top1 in (ours, theirs)]
    resolution = 100 / run.first_result["n_test"]
    return _interval(*verdict.paired_difference(*values, confidence, resolution))


def _priors(runs: Sequence[Run]) -> Section:
    columns = {run.name: _describe(run) for run in runs}
    names, caption = list(columns[runs[0].name]), "Priors, data and length"
    table = _table(caption, "What", runs, names, lambda r, name: columns[r.name][name])
    return Section("Data and priors", tables=[table])


def _describe(run: Run) -> dict[str, str]:
    """Returns what a run was given and how long it was trained, {name: text}."""
    result, results = run.first_result, run.results.values()
    data, used = result["dataset"], result["environment"]
    added = max(r["codes_added_later"] for of in results for r in of.values())
    classes = accuracy.plural(data["num_classes"], "class")
    return {
        "Data set": data["name"],
        "Labelled images": f"{data['n_labelled']} of {classes}",
        "Images per class": accuracy.images_per_class(data, run.flat) or "all",
        "Unlabelled images": str(data["n_unlabelled"]),
        "Test images among them": "yes" if data["transductive"] else "no",
        "Tested on": f"{result['n_test']} ({data['test_split']})",
        "External weights": "; ".join(external_weights(run.results)) or "none",
        "Images whose codes were fitted alone": str(added),
        "Seeds": ", ".join(map(str, sorted({s for of in results for s in of}))),
        "Steps of a classifier": str(result["steps"]),
        "Commit": used.get("commit", "-"),
        "Device": used.get("device", "-"),
    }


def _settings(runs: Sequence[Run]) -> Section:
    names = [
        name
        for name in runs[0].flat
        if any(run.flat[name] != runs[0].flat[name] for run in runs)
    ]
    if not names:
        return Section("Settings that differ", ["None: every field is the same."])
    table = _table(
        "Fields", "Field", runs, names, lambda run, name: json.dumps(run.flat[name])
    )
    return Section("Settings that differ", tables=[table])


def _times(runs: Sequence[Run]) -> Section:
    sums: list[collections.Counter[str]] = []
    for run in runs:
        sums.append(collections.Counter())
        for line in run.timings:  # several per stage: seeds, and resumed runs
            name = f"{line['stage']} {line.get('method') or ''}".strip()
            sums[-1][name] += line["wall_s"]
    stages = list(dict.fromkeys(name for of_run in sums for name in of_run))
    rows = [
        [name, *(f"{of_run[name]:,.1f}" if name in of_run else "-" for of_run in sums)]
        for name in stages
    ]
    table = Table("Seconds", ["Stage", *(run.name for run in runs)], rows)
    text = "Wall time, all seeds together, compilation included."
    return Section("Time", [text], [table])


def _reconstructions(runs: Sequence[Run]) -> Section:
    heading, shown, missing = "Reconstructions", {}, []
    for run in runs:
        path = run.workdir / "samples" / "reconstructions.png"
        if (picture := _read_picture(path)) is not None:
            shown[run.name] = picture
        else:
            missing.append(run.name)
    text = []
    if missing:
        text.append(f"Not there: {', '.join(missing)}. --stage=sample makes them.")
    if not shown:
        return Section(heading, text)
    drawn = figures.side_by_side(list(shown.values()), list(shown))
    caption = "Training images (upper rows) and the images generated from their codes (lower rows)."
    alt = (
        f"Beside each other, of {', '.join(shown)}: pairs of images, named by class, a training "
        "image and below it the image generated from its code."
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
    """Reads a picture as RGB; None if there is none, or it is being replaced."""

    def read() -> Image.Image | None:
        try:
            advice = "move it away and run --stage=sample again"
            return readback.read_png(path, advice).convert("RGB")
        except FileNotFoundError:
            return None

    return readback.read_steadily(path.parent, read)
