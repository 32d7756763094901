"""A made-up work directory in which every stage has run, and a reader of its report."""

import html.parser
import json

import numpy as np
from PIL import Image

from cglo_jax import config as config_lib
from cglo_jax import report
from cglo_jax.fingerprints import classify_fingerprint

NAMES = ["plain", '<b>&"', "a_b|c", "_x_*y*"]
TOP1 = {"baseline": (80.0, 81.0, 79.5), "cglo": (83.25, 84.0, 83.75)}


def make_config(**changes):
    config = config_lib.get_config()
    config.update_from_flattened_dict({"dataset.shots": 5, **changes})
    return config


def make_confusion(top1, n_test):
    """As many right as `top1` says, in turn of the classes; the others are taken for the next."""
    counts = [[0] * len(NAMES) for _ in NAMES]
    right = round(top1 * n_test / 100)
    for i in range(n_test):
        label = i % len(NAMES)
        counts[label][label if i < right else (label + 1) % len(NAMES)] += 1
    return [[i, j, n] for i, row in enumerate(counts) for j, n in enumerate(row) if n]


def make_result(config, method, seed, top1, **changes):
    return {
        "method": method,
        "seed": seed,
        "top1": top1,
        "top5": (100 + top1) / 2,
        "n_test": 400,
        "confusion": make_confusion(top1, changes.get("n_test", 400)),
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
            "train_counts": [7, 8, 7, 8],
            "test_counts": [100, 90, 110, 100],
        },
        **changes,
    }


def put_result(workdir, result):
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
    (workdir / "samples" / "images" / "plain").mkdir(parents=True)
    picture = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    for name in ("reconstructions", "interpolations", "codes", "images/plain/0"):
        picture.save(workdir / "samples" / f"{name}.png")


class Parsed(html.parser.HTMLParser):
    """Tags with their attributes, headings with their text, and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.headings, self.cells, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag in ("h1", "h2"):
            self.headings.append((tag, ""))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if {"h1", "h2"} & set(self.open):
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def write_html(workdir, config):
    report.write(workdir, config)
    return (workdir / "report.html").read_text()
