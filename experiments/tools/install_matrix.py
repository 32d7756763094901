"""Installs the wheel for every Python given and runs every stage from an empty directory.

    python -m experiments.tools.install_matrix python3.11 python3.12 python3.13
    python -m experiments.tools.install_matrix --jax=0.10.0 python3.11     # another jax than the newest

For each Python: a fresh virtual environment, the wheel of this repository with what pip finds for
it, and configs/digits.py, shrunk, by its name. Prints a line for each; a failure is told with the
end of what was printed. Needs a network or a package index.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from experiments.harness import entry
from experiments.harness.paths import ROOT

VERSIONS = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")
SHRUNK = {
    "seeds": "(0,)",
    "latent.dim": "8",
    "generator.width": "8",
    "train.epochs": "2",
    "train.steps_per_epoch": "5",
    "sample.per_class": "2",
    "sample.export": "('npz','tfds')",
    "classify.methods": "('baseline','cglo')",
    "classify.width": "1",
    "classify.epochs": "2",
    "classify.steps_per_epoch": "5",
}
TELL = """
import json, platform, sys
from importlib import metadata
told = {"Python": platform.python_version()}
print(json.dumps(told | {name: metadata.version(name) for name in sys.argv[1:]}))
"""


def main() -> int:
    """Prints a line for each Python and jax; returns 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", nargs="+", help="interpreters, by name or path")
    parser.add_argument(
        "--jax", help="its version, the newest that is allowed if not given"
    )
    args = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as directory:
        wheel = build_wheel(pathlib.Path(directory))
        for python in args.python:
            try:
                with tempfile.TemporaryDirectory(dir=directory) as work:
                    line = try_one(python, args.jax, wheel, pathlib.Path(work))
            except subprocess.CalledProcessError as error:
                failed += 1
                said = " ".join((error.stderr or error.stdout).split())
                line = f"{python}: FAILED: ... {said[-500:]}"
            print(line, flush=True)
    return int(failed > 0)


def build_wheel(folder: pathlib.Path) -> pathlib.Path:
    """Builds the wheel from a copy, so that nothing of earlier builds gets into it."""
    ignored = shutil.ignore_patterns(
        ".*", "build", "dist", "runs", "*.egg-info", "__pycache__", "experiments"
    )
    shutil.copytree(ROOT, folder / "copy", ignore=ignored)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder)
    run(*pip, folder / "copy", cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def try_one(
    python: str, jax: str | None, wheel: pathlib.Path, work: pathlib.Path
) -> str:
    """Installs the wheel for one Python, runs it and returns a line about it.

    Raises:
      subprocess.CalledProcessError: a command failed; it has what that printed.
    """
    bin_ = work / "venv" / "bin"
    began = time.monotonic()
    run(python, "-m", "venv", work / "venv", cwd=work)
    pins = [f"jax=={jax}"] if jax else []
    run(bin_ / "python", "-m", "pip", "install", wheel, *pins, cwd=work)
    installed = time.monotonic()
    (empty := work / "empty").mkdir()
    changes = [f"--config.{name}={value}" for name, value in SHRUNK.items()]
    out = run(bin_ / "cglo-jax", "--config=digits", *changes, cwd=empty)
    ended = time.monotonic()
    if not (empty / "runs" / "digits" / "report.html").exists():
        raise subprocess.CalledProcessError(
            0, "cglo-jax", out, "there is no report.html"
        )
    versions = json.loads(run(bin_ / "python", "-c", TELL, *VERSIONS, cwd=empty))
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    seconds = (
        f"installed in {installed - began:.0f} s, ran in {ended - installed:.0f} s"
    )
    return f"{told}: {seconds}"


def run(*command: object, cwd: pathlib.Path) -> str:
    """Runs a command in the environment without this repository; returns what it prints."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CGLO_CACHE")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment | {"CGLO_CACHE": str(cwd / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


if __name__ == "__main__":
    entry.run(main)
