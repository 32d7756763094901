"""Malicious weight files through `networks.load`: one line, nothing executed, nothing huge."""

import ast
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy as st

from cglo_jax.pretrained import cache, networks
from cglo_jax.pretrained import files as weight_files
from cglo_jax.process.setup import cache_dir
from tests.helpers.published_weights import (
    VGG_FILE,
    VGG_KEPT,
    assert_needed,
    cached,
    go_offline,
    header_of,
    isolate,
    refusal,
    serve,
    vgg_tensors,
)

NAME = "features.5.bias"
RAN = "this_ran"


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)


class Payload:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return open, (RAN, "w")


HEADER, DATA = header_of(st.save(vgg_tensors()))
START, STOP = HEADER[NAME]["data_offsets"]


def with_header(header: object, data: bytes = DATA) -> bytes:
    """A .safetensors file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def with_entry(**changes: object) -> bytes:
    return with_header(HEADER | {NAME: HEADER[NAME] | changes})


def with_value(value: float, dtype: type = np.float32) -> bytes:
    tensors = {name: tensor.astype(dtype) for name, tensor in vgg_tensors().items()}
    tensors[NAME][1] = value
    return st.save(tensors)


def torch_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload()))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def numpy_objects() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Payload()], object), allow_pickle=True)
    return file.getvalue()


def twice() -> bytes:
    """The same tensor twice, first as it should be, then elsewhere."""
    text = json.dumps(HEADER).encode()[:-1]
    other = json.dumps(HEADER["head.fc.weight"] | {"shape": [3], "dtype": "F32"})
    return with_header(text + f', "{NAME}": {other}}}'.encode())


NO_FILE = "is not a .safetensors file, or not a complete one"
NOT_FINITE = f"{NAME} has values that are not finite"
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a pickle": (lambda: pickle.dumps(Payload()), NO_FILE),
    "an old pickle": (lambda: pickle.dumps(Payload(), 0), NO_FILE),
    "a zip as torch writes it": (torch_zip, NO_FILE),
    "an array of objects": (numpy_objects, NO_FILE),
    "a table of HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(2000), NO_FILE),
    "a header of 2**63 bytes": (
        lambda: (1 << 63).to_bytes(8, "little") + DATA,
        NO_FILE,
    ),
    "a header of 2**64-1 bytes": (lambda: b"\xff" * 8 + DATA, NO_FILE),
    "a header longer than the file": (
        lambda: (1 << 26).to_bytes(8, "little") + DATA,
        NO_FILE,
    ),
    "no header": (lambda: bytes(8), NO_FILE),
    "a header of lists in lists": (
        lambda: with_header(b"[" * 90_000_000, b""),
        NO_FILE,
    ),
    "objects in objects": (lambda: with_header(b'{"a":' * 10**6, b""), NO_FILE),
    "a header that is no text": (lambda: with_header(b"\xff\xfe" * 50), NO_FILE),
    "overlapping tensors": (
        lambda: with_entry(data_offsets=[START - 4, STOP - 4]),
        NO_FILE,
    ),
    "negative places": (lambda: with_entry(data_offsets=[-12, 0]), NO_FILE),
    "places past the end": (
        lambda: with_entry(data_offsets=[1 << 40, (1 << 40) + 12]),
        NO_FILE,
    ),
    "places backwards": (lambda: with_entry(data_offsets=[STOP, START]), NO_FILE),
    "a shape of terabytes": (lambda: with_entry(shape=[1 << 40]), NO_FILE),
    "a shape that overflows": (lambda: with_entry(shape=[1 << 62, 1 << 62]), NO_FILE),
    "a tensor twice": (twice, NO_FILE),
    "no such type": (lambda: with_entry(dtype="PYOBJECT"), NO_FILE),
    "whole numbers": (lambda: with_entry(dtype="I32"), f"{NAME} is stored as I32"),
    "another shape": (
        lambda: with_entry(shape=[STOP - START >> 2, 1]),
        f"{NAME} has shape",
    ),
    "the beginning only": (lambda: with_header(HEADER, DATA[:-1]), NO_FILE),
    "more than there should be": (lambda: with_header(HEADER, DATA + b"?"), NO_FILE),
    "not a number": (lambda: with_value(np.nan), NOT_FINITE),
    "infinity": (lambda: with_value(np.inf), NOT_FINITE),
    "half an infinity": (lambda: with_value(-np.inf, np.float16), NOT_FINITE),
    "more than float32 holds": (
        lambda: with_value(1e300, np.float64),
        "is stored as F64",
    ),
}


@pytest.mark.parametrize("what", FILES)
@pytest.mark.parametrize("name", ["w.safetensors", "w"])
def test_a_malicious_file_is_refused_in_one_line(tmp_path, capfd, what, name):
    make, message = FILES[what]
    path = tmp_path / name
    path.write_bytes(make())
    line = refusal("vgg16", path)
    assert line.startswith(f"{path}") and message in line
    assert len(line) < 1000 and line.isprintable()
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / RAN).exists()


def test_the_payload_would_have_shown(tmp_path):
    pickle.loads(FILES["a pickle"][0]()).close()
    assert (tmp_path / RAN).exists()
    path = tmp_path / "w.safetensors"
    path.write_bytes(
        with_header(HEADER)
    )  # and what all others are changed from is good
    assert_needed(networks.load("vgg16", str(path))[0], vgg_tensors())


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.safetensors", Path("/dev/zero"), tmp_path):
        assert "there is no such file" in refusal("vgg16", path)


def test_a_kept_file_that_changed_after_it_was_checked_is_not_used(monkeypatch, capfd):
    with serve(monkeypatch):
        networks.load("vgg16", "imagenet")
    assert cached() == VGG_KEPT
    path = cache_dir() / VGG_FILE
    before = path.stat()
    evil = bytearray(path.read_bytes())
    evil[-1] ^= 64
    path.write_bytes(evil)  # of the same size, a moment later
    os.utime(path, ns=(before.st_mtime_ns + 1, before.st_mtime_ns + 1))
    go_offline(monkeypatch)
    assert "could not be fetched" in refusal("vgg16", "imagenet")
    assert "is damaged" in capfd.readouterr().err


def test_a_kept_file_that_is_exchanged_once_it_was_checked_is_not_used(monkeypatch):
    with serve(monkeypatch):
        networks.load("vgg16", "imagenet")
    get = cache.get

    def get_and_exchange(*args):
        path = get(*args)
        path.write_bytes(weight_files.serialize(vgg_tensors(seed=1), {}))
        return path

    monkeypatch.setattr(cache, "get", get_and_exchange)
    assert "changed while it was read" in refusal("vgg16", "imagenet")


@pytest.mark.parametrize("kept", [True, False])
def test_a_file_that_is_exchanged_while_it_is_read_is_not_used(monkeypatch, kept):
    with serve(monkeypatch):
        networks.load("vgg16", "imagenet")
    path, read = cache_dir() / VGG_FILE, weight_files.read
    networks._load.cache_clear()

    def exchange_and_read(*args):
        path.write_bytes(weight_files.serialize(vgg_tensors(seed=1), {}))
        return read(*args)

    monkeypatch.setattr(weight_files, "read", exchange_and_read)
    source = "imagenet" if kept else path
    assert "changed while it was read" in refusal("vgg16", source)


def test_no_source_file_can_unpickle():
    """By each module it imports and each argument it names, in cglo_jax and experiments."""
    root = Path(weight_files.__file__).parents[2]
    files = [
        p
        for folder in ("cglo_jax", "experiments")
        for p in root.glob(f"{folder}/**/*.py")
    ]
    assert len(files) > 60
    forbidden = {
        "pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "joblib",
        "shelve",
        "marshal",
    }
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            roots = {(name or "").split(".")[0] for name in names}
            assert not roots & forbidden, path
            assert not (
                isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load"
            )
            assert not (isinstance(node, ast.keyword) and node.arg == "allow_pickle"), (
                path
            )
