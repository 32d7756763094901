"""Checkpoints that somebody prepared: refused in one line, nothing runs, nothing else is read."""

import json
import os
import pathlib
import pickle
import shutil
import tracemalloc

import numpy as np
import pytest
import tensorstore

from cglo_jax.errors import UserError
from cglo_jax.training import manifest
from cglo_jax.training.checkpoints import Checkpoints, restore_latest_model


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (pathlib.Path.touch, (self.path,))


@pytest.fixture
def directory(tmp_path):
    directory = tmp_path / "seed-0"
    with Checkpoints(directory) as saved:
        model = {"z": np.ones((24, 8), np.float32)}
        saved.save(1, model, {"step": np.int32(1)}, {"fingerprint": {}})
    return directory


def sign(directory) -> None:
    """Gives what is there now a manifest of its own, as whoever prepared it would."""
    old = json.loads((directory / "1" / manifest.NAME).read_text())
    (directory / "1" / manifest.NAME).unlink()
    manifest.write(directory / "1", 1, old["meta"], old["environment"])


def rewrite(directory, change) -> None:
    """Changes the manifest itself and signs it."""
    path = directory / "1" / manifest.NAME
    record = json.loads(path.read_text())
    change(record)
    path.write_text(manifest._encode(record))


def put_pickle(directory):
    content = pickle.dumps(Payload(directory.parent / "ran"))
    for path in [p for p in (directory / "1").rglob("*") if p.parent.name == "d"]:
        path.write_bytes(content)
    sign(directory)


def put_pickled_metadata(directory):
    path = directory / "1" / "model" / "_METADATA"
    path.write_bytes(pickle.dumps(Payload(directory.parent / "ran")))
    sign(directory)


def claim_a_type(directory):
    path = directory / "1" / "model" / "_METADATA"
    text = path.read_text().replace("np.ndarray", "os.system")
    assert "os.system" in text
    path.write_text(text)
    sign(directory)


def claim_a_module(directory):
    path = directory / "1" / "model" / "_METADATA"
    record = json.loads(path.read_text())
    record["custom_metadata"] = {"__reduce__": ["os.system", ["touch ran"]]}
    record["tree_metadata"]["('z',)"]["value_metadata"]["value_type"] = (
        "subprocess.Popen"
    )
    path.write_text(json.dumps(record))
    sign(directory)


def claim_a_huge_array(directory):
    """A table of codes of 8 TB, of which nothing is stored."""
    model = directory / "1" / "model"
    metadata = (model / "_METADATA").read_text()
    shutil.rmtree(model)
    base = {"driver": "ocdbt", "base": f"file://{model}/", "path": "z/"}
    shape = [1 << 38, 8]
    array = {"shape": shape, "dtype": "<f4", "chunks": shape, "fill_value": 0.0}
    array |= {"compressor": {"id": "zstd"}, "filters": None, "order": "C"}
    spec = {"driver": "zarr", "kvstore": base, "metadata": array}
    tensorstore.open({**spec, "create": True}).result()
    (model / "_METADATA").write_text(metadata)
    sign(directory)


def nest_deeply(directory):
    text = '{"a":' * 200_000 + "1" + "}" * 200_000
    (directory / "1" / manifest.NAME).write_text(text)


def leave_the_folder(directory):
    secret = directory.parent / "secret"
    secret.write_text("secret")
    described = manifest._describe(secret)

    def change(record):
        record["files"]["../../secret"] = described

    rewrite(directory, change)


def leave_for_an_absolute_path(directory):
    def change(record):
        record["files"]["/etc/passwd"] = manifest._describe(pathlib.Path("/etc/passwd"))

    rewrite(directory, change)


def link_out(directory):
    secret = directory.parent / "secret"
    secret.write_text("secret")
    (directory / "1" / "model" / "linked").symlink_to(secret)
    described = manifest._describe(secret)
    rewrite(
        directory, lambda record: record["files"].update({"model/linked": described})
    )


def put_a_pipe_beside(directory):
    """One that the manifest does not list, of which Orbax may read more than that."""
    os.mkfifo(directory / "1" / "model" / "checkpoint")


def put_a_pipe(directory):
    path = directory / "1" / "model" / "_METADATA"
    path.unlink()
    os.mkfifo(path)


def put_a_pipe_for_the_manifest(directory):
    path = directory / "1" / manifest.NAME
    path.unlink()
    os.mkfifo(path)


def write_nothing(directory):
    path = directory / "1" / manifest.NAME
    path.write_text(manifest._encode({}))


def list_files_otherwise(directory):
    rewrite(directory, lambda record: record.update(files=[]))


def claim_a_step_in_words(directory):
    rewrite(directory, lambda record: record.update(step="1"))


def describe_a_file_otherwise(directory):
    def change(record):
        record["files"]["model/_METADATA"] = 3

    rewrite(directory, change)


def name_no_files(directory):
    """A manifest that lists nothing, of files that were damaged."""
    rewrite(directory, lambda record: record["files"].clear())
    for path in (directory / "1" / "model").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")


PAYLOADS = [
    put_pickle,
    put_pickled_metadata,
    claim_a_type,
    claim_a_module,
    claim_a_huge_array,
    nest_deeply,
    leave_the_folder,
    leave_for_an_absolute_path,
    link_out,
    put_a_pipe,
    put_a_pipe_for_the_manifest,
    put_a_pipe_beside,
    name_no_files,
    write_nothing,
    list_files_otherwise,
    claim_a_step_in_words,
    describe_a_file_otherwise,
]
HARMLESS = (claim_a_type, claim_a_module)  # words that nobody acts on


@pytest.mark.parametrize("prepare", PAYLOADS)
def test_a_prepared_checkpoint(directory, prepare, tmp_path):
    prepare(directory)
    before = sorted(tmp_path.rglob("*"))
    tracemalloc.start()
    try:
        model, _, _ = restore_latest_model(directory, "")
    except UserError as error:
        assert "\n" not in str(error)
        assert str(directory) in str(error)
    else:
        assert prepare in HARMLESS
        np.testing.assert_array_equal(model["z"], np.ones((24, 8)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 28
    assert sorted(tmp_path.rglob("*")) == before  # nothing ran, nothing was written


def test_the_payload_would_be_seen(directory):
    pickle.loads(pickle.dumps(Payload(directory.parent / "ran")))
    assert (directory.parent / "ran").exists()
    sign(directory)
    model, _, _ = restore_latest_model(directory, "")  # what is signed is not refused
    np.testing.assert_array_equal(model["z"], np.ones((24, 8)))
