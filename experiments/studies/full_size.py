"""Every stage of the paper's configurations at its real network sizes, for a handful of steps.

    python -m experiments.studies.full_size cub --workdir=runs/full
    python -m experiments.studies.full_size cifar100 --data_dir=DIR --workdir=runs/full

Runs `python -m cglo_jax.main` with configs/cub.py:2 or configs/cifar100.py:10, unchanged but for
the fields in `choose_fields`, each stage in a process of its own. It shows that they run, how fast
and in how much memory, and nothing of accuracy: VGG-16 and ResNet-50 have random weights unless
--vgg=FILE and --resnet=FILE give others, and CUB-200's images are made up. These come in archives
as the official ones are and are prepared by `cglo_jax.prepare` itself; only the sha256 that it
expects is theirs.

The first step's time is the program's own (timings.jsonl) and includes compilation. A later step's
is the time between two lines of metrics.jsonl, one a step, watched every `watched.POLL_S` seconds from outside.
Memory is the largest resident set of the process as the kernel counted it, without a GPU's
own memory. More options, such as --config.dtype=bfloat16, are passed on. Prints a Markdown table
and appends its rows to RESULTS; a stage that fails ends this with its output.
"""

import argparse
import collections
import hashlib
import json
import pathlib
import platform
import re
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from cglo_jax.data import archives
from cglo_jax.files import storage
from cglo_jax.training.checkpoints import restore_latest_model
from cglo_jax.workdir import trained
from cglo_jax.workdir.results import read_result, result_path
from experiments.harness import entry, machine, paths, watched

RESULTS = paths.RESULTS / "full_size.jsonl"
CONFIGS = {"cub": "configs/cub.py:2", "cifar100": "configs/cifar100.py:10"}
METHODS = ("baseline", "cglo")
RUNS = ("train", "sample", *(f"classify {method}" for method in METHODS), "report")
CUB = "caltech_birds2011"
CLASSES, TRAIN, TEST = 200, 3, 1  # made-up classes, and images of each
LISTED = 2  # of the TRAIN images, by the split file: as many as configs/cub.py:2 wants
SIDES = (500, 375)  # of a landscape image in pixels, as they are mostly in CUB-200


# A made-up CUB-200 in the official format


def draw_bird(image_id: int) -> Image.Image:
    """Draws blots with noise, one in three portrait and one in fifty grey."""
    rng = np.random.default_rng(image_id)
    width, height = SIDES if image_id % 3 else SIDES[::-1]
    coarse = rng.integers(0, 256, (height // 25 + 1, width // 25 + 1, 3), np.uint8)
    blots = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.normal(0, 12, (height, width, 3))
    pixels = np.clip(np.asarray(blots) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB" if image_id % 50 else "L")


def write_birds(images: pathlib.Path, masks: pathlib.Path) -> None:
    """Writes what CUB_200_2011.tgz and segmentations.tgz hold, and images/../split.txt."""
    tables = collections.defaultdict(str)
    for number in range(CLASSES * (TRAIN + TEST)):
        label, position = divmod(number, TRAIN + TEST)
        i, bird = number + 1, f"Made_Up_Bird_{label + 1}"
        path = f"{label + 1:03}.{bird}/{bird}_{position + 1:04}_{i}.jpg"
        image = draw_bird(i)
        x, y = (side // 4 for side in image.size)
        mask = Image.new("L", image.size)
        mask.paste(255, (x, y, 3 * x, 3 * y))
        mask_path = (masks / path).with_suffix(".png")
        for file, picture in ((images / path, image), (mask_path, mask)):
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.save(file, quality=90)
        tables["images"] += f"{i} {path}\n"
        tables["train_test_split"] += f"{i} {position < TRAIN:d}\n"
        tables["split"] += f"{i} {position < LISTED:d}\n"
        tables["bounding_boxes"] += f"{i} {x:.1f} {y:.1f} {2 * x:.1f} {2 * y:.1f}\n"
    for name, text in tables.items():
        (images.parent / f"{name}.txt").write_text(text)


def prepare_birds(folder: pathlib.Path) -> None:
    """Makes the archives in `folder` and has them prepared there, in TFDS's format.

    `folder`/CUB_200_2011 keeps split.txt, for `config.dataset.split_file`, and images.txt.
    """
    roots = ("CUB_200_2011", "segmentations")
    write_birds(folder / roots[0] / "images", folder / roots[1])
    official, made_up, copies = archives.ARCHIVES[CUB], [], {}
    for archive, root in zip(official, roots, strict=True):
        path = shutil.make_archive(str(folder / root), "gztar", folder, root)
        content = pathlib.Path(path).read_bytes()
        made_up.append(archive._replace(sha256=hashlib.sha256(content).hexdigest()))
        copies[archive.option] = pathlib.Path(path)
    archives.ARCHIVES[CUB] = made_up
    try:
        archives.prepare(CUB, folder, copies)
    finally:
        archives.ARCHIVES[CUB] = official


# Stages


def run_stage(workdir: pathlib.Path, run: str, options: Sequence[str]) -> watched.Usage:
    """Runs a stage of cglo_jax.main, such as 'train', or 'classify cglo' for one method.

    Raises:
      SystemExit: it failed; with its output.
    """
    stage, _, method = run.partition(" ")
    command = [sys.executable, "-m", "cglo_jax.main", *options]
    command += [f"--workdir={workdir}", f"--stage={stage}"]
    if method:
        command.append(f"--config.classify.methods=('{method}',)")
    log = workdir.with_name(f"{run.replace(' ', '-')}.log")
    usage = watched.run(command, log, workdir / "metrics.jsonl")
    if usage.status:
        output = log.read_text(errors="replace")
        raise SystemExit(f"{output}{run}: exit status {usage.status}")
    print(f"{run}: {usage.wall_s:.1f} s", file=sys.stderr, flush=True)
    return usage


# Rows and table


def create_row(workdir: pathlib.Path, run: str, usage: watched.Usage) -> dict[str, Any]:
    """Puts together what was measured of one run and what it trained, as a JSON object."""
    stage, _, method = run.partition(" ")
    row = {"stage": run, "wall_s": usage.wall_s, "peak_gb": usage.peak_gb}
    if stage not in ("train", "classify"):
        return row
    timing = next(
        line
        for line in storage.read_records(workdir / "timings.jsonl")
        if line["stage"] == stage and line.get("method", "") == method
    )
    directory = trained.checkpoint_dir(workdir, 0)
    if method:
        directory = result_path(workdir, method, 0).parent / "checkpoints"
    model, _, _ = restore_latest_model(directory, "")
    flat = json.loads((workdir / "config.json").read_text())
    batch, median = flat[f"{stage}.batch_size"], statistics.median(usage.intervals_s)
    return row | {
        "network": flat["classify.network"] if method else "generator",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model["params"])),
        "batch_size": batch,
        "first_step_s": timing["compile_s"],
        "later_steps_s": usage.intervals_s,
        "images_per_s": round(batch / max(median, watched.POLL_S), 2),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a Markdown table of the rows of `create_row`."""
    columns = ["stage", "what", "first step, s", "median later step, s (min-max)"]
    columns += ["images/s", "whole process, s", "peak memory, GB"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = ["", "", "", ""]
        if steps := row.get("later_steps_s"):
            millions = f"{row['parameters'] / 1e6:.1f} M parameters"
            cells = [
                f"{row['network']}, {millions}, batch {row['batch_size']}",
                f"{row['first_step_s']:.1f}",
                f"{statistics.median(steps):.2f} ({min(steps):.2f}-{max(steps):.2f})",
                f"{row['images_per_s']:.2f}",
            ]
        cells += [f"{row['wall_s']:.1f}", f"{row['peak_gb']:.2f}"]
        lines.append("| " + " | ".join([row["stage"], *cells]) + " |")
    return "\n".join(lines)


# The command


def choose_fields(args: argparse.Namespace, birds: pathlib.Path) -> dict[str, str]:
    """Returns what differs from the paper's configuration, as on a command line."""
    fields = {"seeds": "(0,)", "sample.per_class": "1", "sample.projection": "pca"}
    for stage in ("train", "classify"):
        fields |= {f"{stage}.epochs": "1", f"{stage}.log_every_steps": "1"}
        fields[f"{stage}.steps_per_epoch"] = str(1 + args.steps)
    fields["reconstruction.weights"] = args.vgg or "random"
    if args.name == "cub":
        fields["classify.weights"] = args.resnet or "random"
        fields["dataset.data_dir"] = str(birds)
        fields["dataset.split_file"] = str(birds / "CUB_200_2011" / "split.txt")
    else:
        fields["dataset.data_dir"] = args.data_dir or ""
        fields["dataset.holdout"] = "256"  # testing on 10000 takes a CPU 20 minutes
    return fields


def _absolute(path: str) -> str:
    return str(pathlib.Path(path).expanduser().absolute())


def main(argv: Sequence[str] | None = None) -> None:
    """Runs all stages of one configuration, prints the table and appends its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=CONFIGS)
    parser.add_argument("--workdir", type=_absolute, required=True)
    parser.add_argument("--data_dir", type=_absolute, help="of a prepared cifar100")
    parser.add_argument("--steps", type=int, default=5, help="timed after the first")
    parser.add_argument("--vgg", type=_absolute, help="VGG-16 as .safetensors")
    parser.add_argument("--resnet", type=_absolute, help="ResNet-50 as .safetensors")
    args, more = parser.parse_known_args(argv)
    root = pathlib.Path(args.workdir) / args.name
    if args.steps < 1 or root.exists():
        parser.error(f"--steps must be 1 or more, and {root} must not exist")
    if args.name == "cub":
        prepare_birds(root / "birds")
    root.mkdir(parents=True, exist_ok=True)
    fields = choose_fields(args, root / "birds")
    options = [f"--config={CONFIGS[args.name]}"]
    options += [f"--config.{name}={value}" for name, value in fields.items()] + more
    usages = [run_stage(root / "run", run, options) for run in RUNS]
    write_results(root / "run", usages, options)


def write_results(
    workdir: pathlib.Path, usages: list[watched.Usage], flags: list[str]
) -> None:
    """Prints the table and appends its rows to RESULTS."""
    result = read_result(result_path(workdir, METHODS[0], 0))
    common = {
        # Files by their names alone: where they lie says nothing to others.
        "options": [re.sub(r"=/.*/", "=", flag) for flag in flags],
        "date": machine.today(),
        "platform": platform.platform(),
        "cores": machine.count_cores(),
        "environment": result["environment"],
    }
    rows = [create_row(workdir, run, u) for run, u in zip(RUNS, usages, strict=True)]
    print(table(rows))
    for row in rows:
        storage.append_record(RESULTS, {**row, **common})


if __name__ == "__main__":
    entry.run(main)
