"""A checkpoint's manifest: size and sha256 of every file, what was saved, by which program, where."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import stat
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NotRequired, TypedDict

import jax
import msgspec

from cglo_jax.errors import printable, shorten
from cglo_jax.files import readback, storage
from cglo_jax.files.readback import Count, Fields, Number, String
from cglo_jax.process import numerics, setup

NAME = "manifest.json"
_LONGEST = 1 << 26  # bytes
_MOST_FILES = 100_000
_Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Printed = Annotated[str, msgspec.Meta(pattern=r"^[ -~]{0,200}\Z")]


class _File(TypedDict):
    size: Count
    sha256: _Digest


class _Meta(TypedDict):
    """The types of fields that a checkpoint's meta may have."""

    fingerprint: NotRequired[Fields]
    rate: NotRequired[Number]


class Manifest(TypedDict):
    """The content of manifest.json.

    Attributes:
      meta: values that the run saved beside its arrays.
      environment: see `describe_environment`.
      files: path in the folder -> size in bytes and sha256.
      sha256: of all the rest.
    """

    step: Count
    meta: dict[str, Any]
    environment: dict[_Printed, _Printed | Count]
    files: dict[String, _File]
    sha256: _Digest


class Damaged(Exception):
    """A checkpoint is damaged; the message, a few words, names the file."""

    def __init__(self, why: str):
        super().__init__(shorten(printable(why)))


def write(
    folder: pathlib.Path,
    step: int,
    meta: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> None:
    """Writes `folder`/manifest.json about all files in the folder; it must be the last file written."""
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


def verify(folder: pathlib.Path, step: int) -> Manifest:
    """Returns the manifest of an undamaged checkpoint: step, meta, environment, files.

    Every file is read. Files that are not in the manifest are ignored, but must be plain files.

    Raises:
      Damaged: a file is absent or has another size or content, or the manifest is not what `write` wrote
        for this step.
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
    _check_kinds(folder)
    return record


def _check_kinds(folder: pathlib.Path) -> None:
    """Raises `Damaged` if there is a pipe or a device: whoever opens one may wait for ever."""
    found = 0
    for root, _, names in os.walk(folder):
        found += len(names)
        if found > _MOST_FILES:
            raise Damaged(f"it has more than {_MOST_FILES:,} files")
        for path in (pathlib.Path(root, name) for name in names):
            with _explained(path.name):
                if not stat.S_ISREG(path.lstat().st_mode):
                    raise Damaged(f"{path.name} is not a regular file")


def describe_environment(devices: int) -> dict[str, Any]:
    """Returns all that changes how a run rounds: versions, backend, devices, processes, threads, flags."""
    flags = numerics.describe_flags()
    return {
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "backend": jax.default_backend(),
        "devices": devices,
        "processes": jax.process_count(),
        "threads": setup.count_threads(),
        **({"flags": flags} if flags else {}),
    }


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Raises errors of reading a file as `Damaged`."""
    try:
        yield
    except FileNotFoundError:
        raise Damaged(f"{name} is missing") from None
    except OSError as error:
        raise Damaged(f"{name} cannot be read ({error.strerror})") from None
    except readback.Unusable as error:
        raise Damaged(f"{name} cannot be read ({error.reason})") from None


def _describe(path: pathlib.Path) -> dict[str, Any]:
    with readback.open_own(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": file.tell(), "sha256": digest}


def _encode(record: Mapping[str, Any]) -> str:
    """Returns the only text that a manifest of `record` may have; it ends in its own sha256."""
    body = {name: value for name, value in record.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1) + "\n"


def _read(path: pathlib.Path) -> Manifest:
    with _explained(path.name):
        text = readback.read_bytes(path, most=_LONGEST)
    try:
        record = readback.parse(text, dict[str, Any])
        intact = text.decode() == _encode(record)
    except (ValueError, RecursionError):
        intact = False
    if not intact:
        raise Damaged(f"{path.name} has other content than was saved")
    try:
        readback.convert(record.get("meta"), _Meta)
        return readback.convert(record, Manifest)
    except ValueError as error:
        text = f"{path.name} is not what this program writes ({error})"
        raise Damaged(text) from None
