"""Stage `report` with config.report.compare: finished runs side by side, compare.md and .html."""

import itertools
import operator
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from cglo_jax.config import saved as saved_config
from cglo_jax.config.defaults import flatten
from cglo_jax.errors import UserError, printable
from cglo_jax.files import ownership
from cglo_jax.report import compare_sections
from cglo_jax.report import write as report
from cglo_jax.report.compare_sections import Run
from cglo_jax.report.markdown import to_markdown
from cglo_jax.report.page import Page, to_html
from cglo_jax.training import logged
from cglo_jax.workdir.results import find_results

_EQUAL = (
    "Their accuracies can be compared. They have the same training and test images."
)
_OTHER_TRAINING = "Their accuracies are of the same test images. But they differ in training images: see below."
_OTHER_TEST = "Not all of their accuracies can be compared. They differ in test images: see below."


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes the comparison and prints where it is."""
    print(write(workdir, config))
    print(f"{workdir / 'compare.md'}\n{workdir / 'compare.html'}")


def write(workdir: pathlib.Path, config: ConfigDict) -> str:
    """Writes compare.md and compare.html into `workdir`, which is new, empty or a run's.

    Returns:
      A sentence that says whether the runs can be compared.

    Raises:
      UserError: fewer than two runs are named, or one is not there, not finished or damaged.
    """
    page = _create_page(read_runs(config.report.compare), config.report.confidence)
    ownership.write(workdir, "compare.md", to_markdown(page))
    ownership.write(workdir, "compare.html", to_html(page))
    return page.verdicts[0][1]


def read_runs(given: str) -> list[Run]:
    """Reads the runs whose work directories `given` names, with commas between them.

    Raises:
      UserError: see `write`.
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
    places = [one.workdir.resolve() for one in found]
    if len(set(places)) < len(places):
        raise UserError(f"config.report.compare names a run twice: {given}")
    short = [one.workdir.name for one in found]
    names = short if len(set(short)) == len(short) else texts
    pairs = zip(found, names, strict=True)
    return [one._replace(name=printable(name)) for one, name in pairs]


def _read_run(text: str) -> Run:
    workdir = saved_config.find_workdir(text)
    read = find_results(workdir)
    # A classifier without cGLO may be of a time when cGLO had fewer epochs.
    epochs = operator.methodcaller("get", "train.epochs", 0)
    saved = max((result["fingerprint"] for result in read), key=epochs, default={})
    config = saved_config.restore_config(workdir, saved)
    results = report.read_results(workdir, config)
    timings = logged.read_timings(workdir)
    return Run("", workdir, flatten(config), results, timings)


def _create_page(runs: Sequence[Run], confidence: float) -> Page:
    title = f"Side by side: {', '.join(one.name for one in runs)}"
    of_test, of_training = _differing_images(runs)
    claim = _OTHER_TEST if of_test else _OTHER_TRAINING if of_training else _EQUAL
    parts = [
        compare_sections.accuracies(runs, confidence, of_test + of_training),
        compare_sections.given(runs),
        compare_sections.settings(runs),
        compare_sections.times(runs),
        compare_sections.reconstructions(runs),
    ]
    return Page(title, [("none", claim)], parts, file="compare.html")


def _differing_images(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """-> sentences for pairs of runs that differ in test images, and in training images only."""
    of_test, of_training = [], []
    for a, b in itertools.combinations(runs, 2):
        if a.images("test_images") != b.images("test_images"):
            of_test.append(
                f"{a.name} and {b.name} differ in test images: their accuracies cannot be compared."
            )
        elif a.images("images") != b.images("images"):
            of_training.append(
                f"{a.name} and {b.name} differ in training images: a difference of their "
                "accuracies may come from these alone."
            )
    return of_test, of_training
