"""Results of a work directory -> verdicts, report.md and report.html."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cglo_jax.classifier.methods import METHODS
from cglo_jax.config import defaults as config_lib
from cglo_jax.config import fingerprint
from cglo_jax.errors import UserError, shorten
from cglo_jax.files import ownership
from cglo_jax.report import accuracy, per_class, provenance, samples
from cglo_jax.report.markdown import to_markdown
from cglo_jax.report.page import Page, to_html
from cglo_jax.report.verdict import (
    BASELINE,
    Comparison,
    Results,
    compare,
    describe,
    first_result,
)
from cglo_jax.training import logged
from cglo_jax.workdir.results import Result, find_results


def write_report(config: ConfigDict, workdir: pathlib.Path) -> list[str]:
    """Writes report.md and report.html into `workdir`, each at once or not at all.

    Returns:
      The verdicts, one text per method.

    Raises:
      UserError: there are no results, a file cannot be used, or results are not comparable.
    """
    page = _create_page(workdir, config)
    ownership.write(workdir, "report.md", to_markdown(page))
    ownership.write(workdir, "report.html", to_html(page))
    return [text for _, text in page.verdicts]


def _create_page(workdir: pathlib.Path, config: ConfigDict) -> Page:
    results, flat = read_results(workdir, config), config_lib.flatten(config)
    metrics = logged.thin(logged.read_metrics(workdir))
    timings = logged.read_timings(workdir)
    if not flat["external_weights"]:
        _check_no_external_weights(results, workdir)
    confidence = flat["report.confidence"]
    methods = [method for method in results if method != BASELINE]
    compared = {method: compare(results, method, confidence) for method in methods}
    comparisons = [c for c in compared.values() if c]
    return Page(
        _title(first_result(results), flat),
        _verdicts(compared, confidence),
        [
            accuracy.accuracy(results, flat),
            accuracy.differences(results, comparisons, flat),
            per_class.changes(results, flat),
            per_class.confusions(results),
            samples.samples(workdir),
            accuracy.learning_curves(metrics),
            provenance.priors(results, flat),
            provenance.settings(flat),
            provenance.environment(results, timings),
            provenance.files(),
        ],
        accuracy.headline_chart(comparisons, confidence),
        accuracy.facts(results, comparisons[0]) if comparisons else (),
    )


def _title(result: Result, flat: dict[str, Any]) -> str:
    data = result["dataset"]
    if shots := accuracy.images_per_class(data, flat):
        images = f"{shots} labelled image{'s' * (shots != '1')} per class"
    else:
        classes = accuracy.plural(data["num_classes"], "class")
        images = f"{accuracy.plural(data['n_labelled'], 'labelled image')} of {classes}"
    title = f"{data['name']}: {images}"
    return title if flat["external_weights"] else f"{title}, no external weights"


def _check_no_external_weights(results: Results, workdir: pathlib.Path) -> None:
    """Raises UserError if a result used weights that external_weights=False forbids."""
    if used := provenance.external_weights(results):
        raise UserError(
            f"config.external_weights is False, but in {workdir / 'classifiers'} "
            f"{used[0]}: use another --workdir, or --config.external_weights=True"
        )


def _verdicts(
    compared: dict[str, Comparison | None], confidence: float
) -> list[tuple[str, str]]:
    lines = []
    for method, c in compared.items():
        if c is None:
            text = f"{method}: no verdict, {BASELINE} has no result with its seeds."
            lines.append(("missing", text))
        else:
            kind = c.verdict if c.verdict in ("helped", "hurt") else "none"
            lines.append((kind, describe(c, confidence)))
    return lines or [("none", f"No verdict: only {BASELINE} has results.")]


def read_results(workdir: pathlib.Path, config: ConfigDict) -> Results:
    """Reads classifiers/*/result.json: the baseline's first, then cglo's.

    Raises:
      UserError: there are none, one is damaged or was made with other settings than `config`, or
        they are not comparable.
    """
    read = find_results(workdir)
    if not read:
        raise UserError(
            f"{workdir / 'classifiers'} holds no result: run --stage=classify first"
        )
    first = (BASELINE, "cglo")
    read.sort(
        key=lambda r: (*(r["method"] != m for m in first), r["method"], r["seed"])
    )
    now = fingerprint.classify_fingerprint(config)
    results: Results = {}
    for result in read:
        _check_settings(result, now)
        _check_comparable(read[0], result)
        for name in ("method", "seed"):
            _check_comparable(next(r for r in read if r[name] == result[name]), result)
        results.setdefault(result["method"], {})[result["seed"]] = result
    return results


def _check_settings(result: Result, now: Mapping[str, Any]) -> None:
    """Raises UserError if a result was made with other settings, or for fewer epochs, than now."""
    method, saved = result["method"], result["fingerprint"]
    parts = {name: saved.get(name) for name in now}, now  # `saved` has digests, too
    again = f"--stage=classify --config.classify.methods={method} --config.seeds={result['seed']}"
    longer = fingerprint.find_longer(*parts)
    if "train" in longer and METHODS[method].from_cglo:
        raise UserError(
            f"{_directory(result)} was trained with images of the cGLO at epoch "
            f"{saved['train.epochs']}, which is now trained for {now['train.epochs']} epochs: "
            f"{again} trains it again"
        )
    if "classify" in longer:
        raise UserError(
            f"{_directory(result)} was trained to epoch {saved['classify.epochs']}, the run has "
            f"{now['classify.epochs']} now: {again} continues its training"
        )
    fingerprint.check_fingerprint(*parts, _directory(result), may_grow=("train",))


def _directory(result: Result) -> str:
    return f"classifiers/{result['method']}-{result['seed']}"


def _check_comparable(a: Result, b: Result) -> None:
    # Fields of the configuration are compared in `_check_settings`; these are not among them.
    names = ["steps", "n_test", "test_images", "weights"]
    own = a["fingerprint"].get("dataset.split_per_seed")  # of each seed
    names += [] if own and a["seed"] != b["seed"] else ["images"]
    names += ["perceptual_digest"] if a["method"] == b["method"] else []
    for name in names:
        values = [r.get(name, r["fingerprint"].get(name)) for r in (a, b)]
        if values[0] != values[1]:
            one, other = (shorten(repr(value)) for value in values)
            raise UserError(
                f"{_directory(a)} and {_directory(b)} differ in {name} ({one} and {other}) "
                "and cannot be compared: move one of the two folders out of the work directory"
                " and run --stage=classify again"
            )
