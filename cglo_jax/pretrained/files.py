"""Weights in .safetensors files: read, with every tensor checked, and written."""

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from cglo_jax.errors import UserError

# Stored types that are read; all become float32.
DTYPES = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    # NumPy and safetensors know bfloat16 once JAX is imported.
    "BF16": np.dtype(jnp.bfloat16),
}
_NOT_READ = {
    ".pth": "a pickle, which can run any code when opened",
    ".pt": "a pickle, which can run any code when opened",
    ".bin": "a pickle, which can run any code when opened",
    ".pkl": "a pickle, which can run any code when opened",
    ".ckpt": "a pickle, which can run any code when opened",
    ".h5": "HDF5, where Keras keeps other networks' weights",
    ".keras": "HDF5, where Keras keeps other networks' weights",
}

Shape = tuple[int, ...]
Stamp = tuple[int, int]  # when a file was changed last, in ns, and its size in bytes


def stamp_of(path: Path) -> Stamp | None:
    """Returns what changes with a file's content, None if there is no readable file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def sha256_of(path: Path) -> str:
    """Returns a file's sha256 in hex; an unchanged file is hashed once.

    Raises:
        OSError: it cannot be read.
    """
    return _sha256_of(path.absolute(), stamp_of(path))


@functools.lru_cache(maxsize=8)
def _sha256_of(path: Path, stamp: Stamp | None) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_stored(
    source: object, name: str, dtype: str, shape: list, expected: Shape
) -> None:
    """Raises UserError if a tensor is stored in another type or shape than expected."""
    if dtype not in DTYPES:
        raise UserError(
            f"{source}: {name} is stored as {dtype}, expected {', '.join(DTYPES)}"
        )
    if tuple(shape) != expected:
        raise UserError(
            f"{source}: {name} has shape {list(shape)}, expected {list(expected)}"
        )


def to_float32(source: object, name: str, stored: np.ndarray) -> np.ndarray:
    """Returns a tensor [...] in float32; raises UserError if a value is not finite."""
    tensor = stored.astype(np.float32)
    if not np.isfinite(tensor).all():
        raise UserError(f"{source}: {name} has values that are not finite")
    return tensor


def read(
    path: Path, shapes: Mapping[str, Shape]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the named tensors of a .safetensors file; nothing in it is executed.

    Args:
        path: the file; its other tensors are not read.
        shapes: {name: expected shape}.

    Returns:
        ({name: float32 tensor [shapes[name]]}, the file's own metadata).

    Raises:
        UserError: the file does not exist, is of another kind, is damaged, or lacks a
            tensor of that name and shape with finite values.
    """
    if reason := _NOT_READ.get(path.suffix.lower()):
        raise UserError(
            f"{path} is not read ({reason}): write its tensors as a .safetensors file "
            "with torchvision's names, by safetensors.torch.save_file"
        )
    tensors = {}
    try:
        if not path.is_file():
            raise UserError(
                f"{path}: there is no such file; give 'imagenet' or the path of a "
                ".safetensors file"
            )
        with safe_open(path, framework="numpy") as file:
            stored = set(file.keys())
            for name, shape in shapes.items():
                if name not in stored:
                    raise UserError(
                        f"{path} has no tensor {name}: it must have torchvision's names"
                    )
                view = file.get_slice(name)
                check_stored(path, name, view.get_dtype(), view.get_shape(), shape)
                tensors[name] = to_float32(path, name, file.get_tensor(name))
            return tensors, dict(file.metadata() or {})
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a .safetensors file, or not a complete one "
            f"({' '.join(str(error).split())}): get it again"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def serialize(tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """Returns the bytes of a .safetensors file of tensors [...], which are stored as float32.

    The same content gives the same bytes on every machine, so that the file's digest names the
    weights; safetensors' own writer shuffles the metadata.
    """
    header, offset = {"__metadata__": dict(sorted(metadata.items()))}, 0
    for name in sorted(tensors):
        shape = tensors[name].shape
        stop = offset + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = [tensors[name].astype("<f4").tobytes() for name in sorted(tensors)]
    return b"".join([len(text).to_bytes(8, "little"), text, *data])
