"""A small run as people start it, in processes that cost little: 24 images, 3 classes, 16 px.

A server imports the package once; every run is a fork of it with `cglo_jax.main.program` in it, its own
standard error and exit status. Programs are compiled by the first run and kept for the others.
"""

import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np
from PIL import Image

from cglo_jax.stages import previews
from cglo_jax.training import checkpoints

STEPS, SAVE_EVERY = 40, 5
FIELDS = {
    "seeds": "(0,)",
    "devices": "1",
    "dataset.name": "folder",
    "dataset.size": "16",
    "latent.dim": "8",
    "latent.noise_dim": "4",
    "generator.width": "4",
    "generator.max_width": "8",
    "weak_classifier.width": "4",
    "weak_classifier.gamma": "0.5",
    "reconstruction.loss": "laplacian",
    "train.epochs": str(STEPS // SAVE_EVERY),
    "train.steps_per_epoch": str(SAVE_EVERY),
    "train.batch_size": "6",
    "train.checkpoint_every_epochs": "1",
    "train.log_every_steps": "2",
    "sample.per_class": "2",
    "sample.projection": "pca",
    "classify.depth": "10",
    "classify.width": "1",
    "classify.epochs": "2",
    "classify.steps_per_epoch": "5",
    "classify.batch_size": "6",
    "classify.pad": "2",
    "classify.cutout_size": "4",
    "classify.checkpoint_every_epochs": "1",
    "classify.log_every_steps": "2",
}
_context = multiprocessing.get_context("forkserver")
_STAGES = ("classify", "export", "fit_codes", "report", "run", "sample", "train")
_PRELOADED = ["cglo_jax.main", "cglo_jax.cli.flags"]
_PRELOADED += [f"cglo_jax.stages.{name}" for name in _STAGES]
for _name in _PRELOADED:  # the server would skip in silence what is not there
    importlib.import_module(_name)
_context.set_forkserver_preload(_PRELOADED)


def write_images(folder: pathlib.Path) -> pathlib.Path:
    """Writes 24 images to train on and 6 to test on, of 3 classes."""
    rng = np.random.default_rng(0)
    for split, per_class in (("train", 8), ("test", 2)):
        for name in ("ant", "bee", "cat"):
            (folder / split / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(4, 0)
                image = Image.fromarray(pixels.repeat(4, 1))
                image.save(folder / split / name / f"{i}.png")
    return folder


class Run:
    """One call of the program, begun.

    Args:
      stage: to run. fields: of the configuration, by dotted names, beside FIELDS.
      before: called in the new process; it may break what it likes.
      told: the file that gets its output, beside the work directory by default.
    """

    def __init__(
        self,
        images: pathlib.Path,
        workdir: pathlib.Path,
        *more: str,
        stage: str = "train",
        before: Callable[[], None] | None = None,
        told: pathlib.Path | None = None,
        **fields: str,
    ):
        given = {**FIELDS, "dataset.path": str(images), **fields}
        argv = ["main.py", "--config=configs/folder.py", f"--workdir={workdir}"]
        argv += [f"--stage={stage}", *[f"--config.{k}={v}" for k, v in given.items()]]
        self.told = told or workdir.with_name(f"{workdir.name}.err")
        programs = images.parent / "programs"
        arguments = ([*argv, *more], self.told, programs, before)
        self.process = _context.Process(target=_run, args=arguments)
        self.process.start()

    def finish(self, timeout: float = 60) -> int:
        """Waits for the end; returns the exit status, the negative signal if one ended it."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(self.error())
        return self.process.exitcode

    def error(self) -> str:
        """Returns what was written to standard error (and output)."""
        return self.told.read_text(errors="replace")


def _run(argv, told, programs, before) -> None:
    with open(told, "w") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    os.chdir(pathlib.Path(__file__).parents[2])
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(programs)
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(programs))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    sys.argv = argv
    previews.draw = lambda *_: {}  # for TensorBoard: a program more
    if before:
        before()
    from cglo_jax import main

    main.program()


def last_step(workdir) -> int:
    """The last step in metrics.jsonl, which may just be written."""
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines(True)
    except FileNotFoundError:
        return 0
    return max((json.loads(x)["step"] for x in lines if x.endswith("\n")), default=0)


def digest_state(directory: pathlib.Path) -> tuple[int, dict[str, str]]:
    """Returns the newest step in a directory of checkpoints, and the sha256 of each of its arrays."""
    with checkpoints.Checkpoints(directory, read_only=True) as saved:
        step = saved.latest_step()
        if step is None:
            return 0, {}
        return step, digest_step(saved, step)


def digest_step(saved: checkpoints.Checkpoints, step: int) -> dict[str, str]:
    """Returns the sha256 of each array of a step."""
    found = {}
    for item in ("model", "train"):
        tree = saved._load(step, item, None)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            content = str((leaf.dtype, leaf.shape)).encode() + leaf.tobytes()
            name = item + jax.tree_util.keystr(path)
            found[name] = hashlib.sha256(content).hexdigest()
    return found


def digest_run(workdir: pathlib.Path) -> dict[str, object]:
    """Returns what must be equal of two runs, whatever happened to them on the way."""
    found = {"metrics": (workdir / "metrics.jsonl").read_bytes()}
    for directory in sorted(workdir.glob("**/checkpoints*")):
        for path in [directory, *directory.glob("seed-*")]:
            with contextlib.suppress(FileNotFoundError):
                step, arrays = digest_state(path)
                found[str(path.relative_to(workdir))] = (step, arrays)
    for path in sorted(workdir.glob("classifiers/*/result.json")):
        found[str(path.relative_to(workdir))] = path.read_bytes()
    return found
