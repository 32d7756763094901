"""The report's sections on where its results come from: priors, settings, environment, files."""

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cglo_jax.config import defaults as config_lib
from cglo_jax.pretrained.networks import Origin
from cglo_jax.report.accuracy import plural
from cglo_jax.report.page import Section, Table
from cglo_jax.report.verdict import Results, first_result
from cglo_jax.training.logged import Timing


def external_weights(results: Results) -> list[str]:
    """Returns a text for each network in the results that was trained on other images."""
    used = {}  # each once, in the order found
    for runs in results.values():
        for result in runs.values():
            for what, digest, text in (
                (
                    "classifiers start from",
                    result["fingerprint"]["weights"],
                    result["classifier_weights"],
                ),
                (
                    "cglo uses",
                    result["perceptual_digest"],
                    result["perceptual_weights"],
                ),
            ):
                if Origin(digest, text).external:
                    used[f"{what} {text}"] = None
    return list(used)


def _lowered_rates(results: Results) -> str:
    """Names the runs that were rolled back and continued with lower rates (config.rollbacks)."""
    return ", ".join(
        f"{method} seed {seed}, its {what}: times {rate:g}"
        for method, of_seeds in results.items()
        for seed, result in of_seeds.items()
        for what, rate in result["rates_times"].items()
        if rate != 1
    )


def priors(results: Results, flat: Mapping[str, Any]) -> Section:
    """Lists the images and the priors that the methods had.

    Args:
      flat: every field of the configuration by its dotted name.
    """
    result = first_result(results)
    weights = "; ".join(external_weights(results)) or "none"
    if not flat["external_weights"]:
        weights = "none: no-external-weights mode (external_weights=False)"
    data, n_test = result["dataset"], result["n_test"]
    test = f"{plural(n_test, 'image')} ({data['test_split']})"
    added = max(r["codes_added_later"] for x in results.values() for r in x.values())
    among, seen = "", "no: test images are never seen"
    if data["transductive"]:
        among = ", the test images among them"
        seen = "yes: cglo reconstructs the test images too, without labels"
    labelled = f"{plural(data['n_labelled'], 'image')} of {plural(data['num_classes'], 'class')}"
    if flat["dataset.split_per_seed"]:
        labelled += ", others for each seed"
    rows = [
        ["Labelled images", labelled],
        ["Unlabelled images", f"{data['n_unlabelled']}{among}"],
        ["Transductive", seen],
        ["External weights", weights],
        ["Tested on", test],
        ["Labels of test images", "used only to compute the accuracies above"],
    ]
    if near := data["near_copies"]:
        of_seed = (
            f" for seed {result['seed']}" if flat["dataset.split_per_seed"] else ""
        )
        text = f"{near} of {n_test}{of_seed}: included in the accuracies, listed below"
        rows.append(["Test images that are near copies of training images", text])
    if added:
        text = f"{plural(added, 'image')}: added after the generator was trained"
        rows.append(["Images whose codes were fitted alone", text])
    if lowered := _lowered_rates(results):
        rows.append(["Learning rates lowered after a value was not finite", lowered])
    weighed = "the same for all classes"
    if data["class_weights"]:
        weighed = "1 / (labelled images of the class)"
    rows.append(["Weight of a class in cross-entropies", weighed])
    columns = (data[k] for k in ("class_names", "train_counts", "test_counts"))
    names = [list(map(str, row)) for row in zip(itertools.count(), *columns)]
    tables = [
        Table("What the methods were given", ["What", "Used"], rows),
        Table("Classes", ["Label", "Name", "Labelled", "Tested"], names, folded=True),
    ]
    if shown := data["near_copies_shown"]:
        header = ["Test image", "Training image"]
        caption = "Near copies (saved again, resized, cropped or brightened)"
        tables.append(Table(caption, header, shown, folded=True))
    return Section("Data and priors", tables=tables)


def settings(flat: Mapping[str, Any]) -> Section:
    """Lists the fields that are not the defaults, then all fields."""
    defaults = config_lib.flatten(config_lib.get_config())
    rows = []
    for name, value in flat.items():
        default = defaults.get(name)
        mark = "" if value == default else "changed"
        rows.append([name, json.dumps(value), json.dumps(default), mark])
    header = ["Field", "Value", "Default"]
    every = Table("All fields", [*header, ""], rows, folded=True)
    changed = [row[:3] for row in rows if row[3]]
    if not changed:
        return Section("Settings", ["Every field has its default."], [every])
    return Section("Settings", tables=[Table("Changed fields", header, changed), every])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def environment(results: Results, timings: Sequence[Timing]) -> Section:
    """Lists versions, hardware and the times in timings.jsonl."""
    used: dict[str, dict[str, None]] = {}  # {name: its values, each once}
    for runs in results.values():
        for result in runs.values():
            for name, value in result["environment"].items():
                used.setdefault(name, {})[str(value)] = None
    rows = [[name, ", ".join(values)] for name, values in used.items()]
    caption = "Versions and hardware of the classifiers"
    tables = [Table(caption, ["What", "Value"], rows)]
    text = "No times were logged."
    if timings:
        text = "Only calls that finished are timed; compilation is included."
        tables.append(_times(timings))
    return Section("How it was run", [text], tables)


def _times(timings: Sequence[Timing]) -> Table:
    groups: dict[str, list[Timing]] = {}
    for line in timings:  # several per run: seeds, and resumed runs
        name = f"{line['stage']} {line.get('method') or ''}".strip()
        groups.setdefault(name, []).append(line)
    rows = []
    for name, lines in groups.items():
        wall = _duration(sum(x["wall_s"] for x in lines))
        compiling = [x["compile_s"] for x in lines if x.get("compile_s") is not None]
        compiling = _duration(sum(compiling)) if compiling else "-"
        rates = [x["images_per_s"] for x in lines if x.get("images_per_s")]
        rate = f"{statistics.median(rates):,.0f}" if rates else "-"
        seeds = str(len({line.get("seed") for line in lines}))
        rows.append([name, seeds, wall, compiling, rate])
    header = ["Stage", "Seeds", "Wall time", "Compiling", "Images/s"]
    return Table("Time, all seeds together", header, rows)


def files() -> Section:
    """Lists the files of a work directory."""
    rows = [
        ["samples/images/<class>/", "synthetic images"],
        ["samples/manifest.jsonl", "where each synthetic image comes from"],
        ["samples/nearest.json", "how far synthetic images are from training images"],
        ["checkpoints/seed-N/", "generator, codes, weak classifier; a model card"],
        [
            "classifiers/<method>-<seed>/",
            "final classifier, its result.json and model card",
        ],
        [
            "exports/",
            "generator and classifiers for other programs (if --stage=export was run)",
        ],
        ["metrics.jsonl, timings.jsonl", "what was logged"],
        [
            "tensorboard/",
            "what was logged, and pictures over time (if TensorBoard is installed)",
        ],
        ["config.json", "the settings"],
        ["skipped.txt", "files of a folder that were not used, and why (if any)"],
    ]
    table = Table("Files", ["Path", "What"], rows)
    return Section("Files of the work directory", tables=[table])
