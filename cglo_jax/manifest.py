"""A checkpoint's manifest: size and sha256 of every file, what was saved, by which program, where."""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import pathlib
import stat
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import jax

from cglo_jax import numerics, process, storage

NAME = "manifest.json"
_LONGEST = 1 << 26  # bytes
_TYPES = {"step": int, "meta": dict, "environment": dict, "files": dict, "sha256": str}


class Damaged(Exception):
    """What is wrong with a checkpoint, in a few words that name the file."""


def write(
    folder: pathlib.Path,
    step: int,
    meta: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> None:
    """Writes `folder`/manifest.json of all files there; it must be the last file written."""
    files = {
        path.relative_to(folder).as_posix(): _describe(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    record = {
        "step": step,
        "meta": dict(meta),
        "environment": dict(environment),
        "files": files,
    }
    storage.write_atomically(folder / NAME, _encode(record))


def verify(folder: pathlib.Path, step: int) -> dict[str, Any]:
    """Returns the manifest of an undamaged checkpoint: step, meta, environment, files.

    Every file is read. Files beside those of the manifest are left alone.

    Raises:
      Damaged: a file is absent, of another size or content, or the manifest is not `write`'s for
        this step.
    """
    record = _read(folder / NAME)
    if record["step"] != step:
        raise Damaged(f"{NAME} is of step {record['step']}")
    for name, expected in record["files"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise Damaged(f"{name} leads out of the folder")
        with _explained(name):
            found = _describe(path)
        if found != expected:
            raise Damaged(f"{name} has other content than was saved")
    return record


def describe_environment(devices: int) -> dict[str, Any]:
    """Returns what may change how a resumed run rounds: versions, backend, devices, threads, flags."""
    flags = numerics.describe_flags()
    return {
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "backend": jax.default_backend(),
        "devices": devices,
        "processes": jax.process_count(),
        "threads": process.count_threads(),
        **({"flags": flags} if flags else {}),
    }


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turns what reading a file raises into `Damaged`."""
    try:
        yield
    except FileNotFoundError:
        raise Damaged(f"{name} is missing") from None
    except OSError as error:
        raise Damaged(f"{name} cannot be read ({error.strerror})") from None


def _open(path: pathlib.Path) -> BinaryIO:
    """Opens a plain file; anything else might block, or never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no plain file")
    return path.open("rb")


def _describe(path: pathlib.Path) -> dict[str, Any]:
    with _open(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": file.tell(), "sha256": digest}


def _encode(record: Mapping[str, Any]) -> str:
    """Returns the only text that a manifest of `record` may have; it ends in its own sha256."""
    body = {name: value for name, value in record.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1) + "\n"


def _read(path: pathlib.Path) -> dict[str, Any]:
    with _explained(path.name), _open(path) as file:
        text = file.read(_LONGEST)
    try:
        record = json.loads(text)
        intact = text.decode() == _encode(record)
    except (ValueError, AttributeError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise Damaged(f"{path.name} has other content than was saved")
    if {name: type(value) for name, value in record.items()} != _TYPES:
        raise Damaged(f"{path.name} is not what this program writes")
    return record
