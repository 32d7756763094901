"""A made-up work directory in which every stage has run, and a reader of its report."""

import collections
import html.parser
import json
import shutil

import numpy as np
from PIL import Image

from cglo_jax.config import defaults as config_lib
from cglo_jax.config.fingerprint import classify_fingerprint
from cglo_jax.files import ownership
from cglo_jax.report.write import write_report

NAMES = ["plain", '<b>&"', "a_b|c", "_x_*y*", "long_enough_to_be_broken", "z"]
TESTED = [70, 60, 75, 65, 80, 50]  # test images of each class
NEAREST = {
    "checked": 60,
    "median_synthetic": 12.5,
    "median_held_out": 25.0,
    "ratio": 0.5,
    "copies": 3.25,
    "held_out": 400,
    "parents": 81.5,
}
TOP1 = {"baseline": (80.0, 81.0, 79.5), "cglo": (83.25, 84.0, 83.75)}


def make_config(**changes):
    config = config_lib.get_config()
    config.update_from_flattened_dict({"dataset.shots": 5, **changes})
    return config


def count_tested(n_test):
    """Test images of each class."""
    tested = [round(n_test * n / sum(TESTED)) for n in TESTED[1:]]
    return [n_test - sum(tested), *tested]


def make_confusion(top1, n_test):
    """As many right as `top1` says, most in the first classes; others are taken for the next."""
    tested = count_tested(n_test)
    left, rows = round(top1 * n_test / 100), []
    for label, n in enumerate(tested):
        right = min(n, left)
        left -= right
        other = (label + 1) % len(tested)
        row = [[label, label, right], [label, other, n - right]]
        rows += [r for r in sorted(row) if r[2]]
    return rows


def make_result(config, method, seed, top1, n_test=400, **changes):
    """A result of about `top1`, as near as a share of `n_test` images comes."""
    top1 = 100 * round(top1 * n_test / 100) / n_test
    return {
        "method": method,
        "seed": seed,
        "top1": top1,
        "top5": (100 + top1) / 2,
        "n_test": n_test,
        "confusion": make_confusion(top1, n_test),
        "steps": 1234,
        "fingerprint": {**classify_fingerprint(config), "weights": "none"},
        "classifier_weights": "none",
        "perceptual_weights": "none",
        "perceptual_digest": "none",
        "codes_added_later": 0,
        "rates_times": {"classifier": 1.0, "cglo": 1.0},
        "environment": {"python": "3.11.9", "device": "cpu", "commit": "0123abc"},
        "dataset": {
            "name": "shapes",
            "num_classes": 6,
            "n_labelled": 30,
            "n_unlabelled": 7,
            "transductive": False,
            "test_split": "held out of train",
            "class_weights": False,
            "class_names": NAMES,
            "train_counts": [4, 6, 5, 5, 4, 6],
            "test_counts": count_tested(n_test),
            "near_copies": 0,
            "near_copies_shown": [],
        },
        **changes,
    }


def keep_classes(result, n):
    """Leaves the first `n` classes, the last of which gets the images of all that are left out."""
    data = result["dataset"]
    data["num_classes"], data["class_names"] = n, data["class_names"][:n]
    data["train_counts"] = data["train_counts"][:n]
    counts = data["test_counts"]
    data["test_counts"] = [*counts[: n - 1], sum(counts[n - 1 :])]
    rows = collections.Counter()
    for label, predicted, count in result["confusion"]:
        pair = min(label, n - 1), min(predicted, n - 1)
        if label != predicted and pair[0] == pair[1]:  # a mistake stays one
            pair = pair[0], 0
        rows[pair] += count
    result["confusion"] = [[*pair, count] for pair, count in sorted(rows.items())]


def put_result(workdir, result):
    ownership.claim(workdir)
    folder = workdir / "classifiers" / f"{result['method']}-{result['seed']}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result))


def put_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def put_metrics(workdir):
    lines = []
    for seed in range(3):
        for step in (100, 200, 300):
            common = {"seed": seed, "step": step, "epoch": step / 100, "loss": 1 / step}
            train = {"reconstruction": 20 / step, "cross_entropy": 200 / step}
            lines.append({"stage": "train", **common, **train})
            for method in TOP1:
                tags = {"stage": "classify", "method": method}
                lines.append({**tags, **common, "train_accuracy": step / 4})
    put_lines(workdir / "metrics.jsonl", lines)


def put_timings(workdir):
    common = {"compile_s": 2.0, "steps": 10, "images_per_s": 4321.0}
    train = [
        {"stage": "train", "seed": s, "method": None, "wall_s": 40.0} for s in (0, 0, 1)
    ]
    sample = {"stage": "sample", "seed": 0, "wall_s": 7.5, "images": 60}
    lines = [*({**line, **common} for line in train), sample]
    put_lines(workdir / "timings.jsonl", lines)


def put_workdir(workdir, config):
    """Fills a directory as if every stage had run, three seeds."""
    for method, values in TOP1.items():
        for seed, top1 in enumerate(values):
            put_result(workdir, make_result(config, method, seed, top1))
    put_metrics(workdir)
    put_timings(workdir)
    put_samples(workdir / "samples")


def put_finished_run(workdir, top1=TOP1, images="11", test_images="22", **fields):
    """Fills a directory with a finished run: results, config.json, timings and pictures."""
    config = make_config(**fields)
    workdir.mkdir(parents=True)
    put_workdir(workdir, config)
    shutil.rmtree(workdir / "classifiers")
    for method, values in top1.items():
        for seed, value in enumerate(values):
            result = make_result(config, method, seed, value)
            result["fingerprint"] |= {"images": images, "test_images": test_images}
            put_result(workdir, result)
    (workdir / "config.json").write_text(json.dumps(config_lib.flatten(config)))
    return workdir


def put_samples(samples):
    """Pictures of one colour each; walks of two classes at three t, each tile of another grey."""
    (samples / "images" / "plain").mkdir(parents=True)
    names = ("reconstructions", "interpolations", "nearest", "codes", "images/plain/0")
    for i, name in enumerate(names):
        picture = Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8))
        picture.save(samples / f"{name}.png")
    greys = np.array([[0, 50, 100], [150, 200, 250]], np.uint8)
    tiles = greys.repeat(4, 0).repeat(6, 1)[..., None].repeat(3, 2)
    Image.fromarray(tiles).save(samples / "walks.png")
    walks = {"classes": NAMES[:2], "t": [0.0, 0.5, 1.0], "tile": [4, 6]}
    (samples / "walks.json").write_text(json.dumps(walks))
    (samples / "nearest.json").write_text(json.dumps(NEAREST))
    put_lines(
        samples / "manifest.jsonl",
        [{"file": "images/plain/0.png", "seed": 0, "checkpoint_step": 6}],
    )


class Parsed(html.parser.HTMLParser):
    """Tags with their attributes, headings with their text, and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.headings, self.cells, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.headings.append((tag, ""))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if {"h1", "h2", "h3"} & set(self.open):
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def write_html(workdir, config):
    write_report(config, workdir)
    return (workdir / "report.html").read_text()
