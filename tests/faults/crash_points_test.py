"""A save of a checkpoint is stopped at every file operation, by a kill or by a power cut.

Operations are recorded from a real save. After a kill the disk has the first k of them. After a power
cut it has what was synced; of the rest anything: content that is absent, empty, cut or overwritten
with zeros, names that are not there yet. Whatever is on disk, the step before or the new one is loaded.
"""

import os
import pathlib
import random
import shutil

import jax
import numpy as np
import pytest

from cglo_jax.files import storage
from cglo_jax.training.checkpoints import Checkpoints
from tests.helpers.small_run import digest_step

VARIANTS = 500
META = {"fingerprint": {}}


def create_tree(step):
    rng = np.random.default_rng(step)
    return {"z": rng.standard_normal((24, 8), np.float32), "step": np.int32(step)}


def save(directory, step):
    with Checkpoints(directory) as saved:
        saved.save(step, create_tree(step), create_tree(-step % 97), META)


def snapshot(root) -> dict[str, bytes | None]:
    """Every path below root: a file's content, None for a folder."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


class Recorder:
    """Operations of a save, in their order: (what, path, ...), paths below root.

    What Orbax writes it writes in C++ before anything is synced; it is seen then.
    """

    def __init__(self, root: pathlib.Path, monkeypatch):
        self.root, self.operations, self.seen = root, [], snapshot(root)
        for module, name in (
            (storage.os, "fsync"),
            (storage.os, "replace"),
            (storage.os, "unlink"),
            (storage.os, "rmdir"),
        ):
            real = getattr(module, name)
            monkeypatch.setattr(module, name, self.wrap(name, real))

    def wrap(self, name, real):
        def recorded(*args, **kwargs):
            self.look()
            if name == "fsync":
                path = os.readlink(f"/proc/self/fd/{args[0]}")
                self.operations.append(("sync", self.below(path)))
            result = real(*args, **kwargs)
            if name == "replace":
                self.operations.append(("rename", *map(self.below, args)))
            elif name in ("unlink", "rmdir"):
                self.operations.append(("remove", self.below(args[0])))
            if name != "fsync":
                self.seen = snapshot(self.root)
            return result

        return recorded

    def below(self, path) -> str:
        # A checkpoint is written through its folder's descriptor.
        return os.path.relpath(os.path.realpath(path), os.path.realpath(self.root))

    def look(self) -> None:
        """Notes files and folders that were written since."""
        now = snapshot(self.root)
        for path, content in now.items():
            if path not in self.seen or self.seen[path] != content:
                self.operations.append(("write", path, content))
        self.seen = now


def apply(disk: dict, operation) -> None:
    """Applies an operation to {path: content, None for a folder}."""
    what, path, *rest = operation
    if what == "write":
        disk[path] = rest[0]
    elif what == "remove":
        disk.pop(path, None)
    elif what == "rename":
        for p in list(disk):
            disk[move(p, path, rest[0])] = disk.pop(p)


def move(path: str, folder: str, to: str) -> str:
    """The path after a folder (or file) of it was renamed."""
    inside = path == folder or path.startswith(folder + "/")
    return to + path[len(folder) :] if inside else path


def spoil(content: bytes | None, rng: random.Random) -> bytes | None:
    """What may be on disk of a file that was not synced."""
    if content is None:
        return None
    cut = rng.randrange(len(content) + 1)
    return rng.choice(
        [
            b"",
            content[:cut],
            content[:cut] + bytes(len(content) - cut),
            bytes(len(content)),
        ]
    )


def cut_power(before: dict, operations: list, rng: random.Random) -> dict:
    """What may be on disk after these operations and a power cut."""
    if operations and operations[-1][0] == "rename" and rng.random() < 0.5:
        operations = operations[:-1]  # the folder that it is in is not synced yet
    disk, written, named = dict(before), set(), set()
    for operation in operations:
        what, path, *_ = operation
        if what == "write":
            written.add(path)  # neither its content nor its name is synced
            named.add(path)
        elif what == "sync":
            written.discard(path)  # a file's content
            named = {p for p in named if (os.path.dirname(p) or ".") != path}
        elif what == "rename":
            written, named = (
                {move(p, path, operation[2]) for p in paths}
                for paths in (written, named)
            )
        apply(disk, operation)
    for path in sorted(written & disk.keys()):
        disk[path] = spoil(disk[path], rng)
    for path in sorted(named & disk.keys()):
        if rng.random() < 0.5:
            disk = {p: c for p, c in disk.items() if move(p, path, "") == p}
    return disk


def put(disk: dict, root: pathlib.Path) -> pathlib.Path:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for path, content in sorted(disk.items()):
        target = root / path
        if content is None:
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return root


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """(disk before, operations of saving step 15, arrays and manifests by step)."""
    root = tmp_path_factory.mktemp("crash") / "seed-0"
    for step in (5, 10):
        save(root, step)
    before = snapshot(root)
    with pytest.MonkeyPatch.context() as monkeypatch:
        recorder = Recorder(root, monkeypatch)
        save(root, 15)
        recorder.look()
    with Checkpoints(root, read_only=True) as saved:
        expected = {step: digest_step(saved, step) for step in (10, 15)}
    for step in (10, 15):
        expected[step]["manifest"] = (root / str(step) / "manifest.json").read_bytes()
    return before, recorder.operations, expected


def find(root) -> tuple[int, bytes]:
    """The step that is found whole, every byte by its manifest, and that manifest."""
    with Checkpoints(root, read_only=True) as saved:
        step = saved.latest_step()
    return step, (root / str(step) / "manifest.json").read_bytes()


def find_rename(operations) -> int:
    """Where the new step gets its name."""
    return next(
        i for i, o in enumerate(operations) if o[0] == "rename" and o[2] == "15"
    )


def test_the_record_is_of_the_whole_save(recorded):
    before, operations, _ = recorded
    kinds = [operation[0] for operation in operations]
    written = [o[1] for o in operations if o[0] == "write" and o[2] is not None]
    assert len(written) > 10
    first_sync, new = kinds.index("sync"), find_rename(operations)
    manifest = next(i for i, o in enumerate(operations) if "manifest.json" in o[1])
    assert (
        max(i for i, k in enumerate(kinds) if k == "write" and i < first_sync)
        < manifest
    )
    # Every file is synced before the manifest is written, and that before the step has its name.
    synced = {o[1] for o in operations[:manifest] if o[0] == "sync"}
    assert {p for p in written if "manifest.json" not in p} <= synced
    assert manifest < new
    assert operations[new + 1] == ("sync", ".")
    assert kinds.count("remove") > 10  # of step 5
    assert "5" in before


def test_a_kill_after_any_file_operation_loses_one_step_at_most(
    recorded, tmp_path, capsys
):
    before, operations, expected = recorded
    disk, found = dict(before), []
    for operation in [("sync", "."), *operations]:
        apply(disk, operation)
        if operation[0] != "sync" or not found:
            root = put(disk, tmp_path / "disk")
            step, manifest = find(root)
            with Checkpoints(root, read_only=True) as saved:
                arrays = digest_step(saved, step)
            assert {**arrays, "manifest": manifest} == expected[step]
            found.append(step)
    assert found == sorted(found)
    assert set(found) == {10, 15}
    assert len(found) > 30
    assert "damaged" not in capsys.readouterr().err


def test_a_power_cut_at_any_moment_loses_one_step_at_most(recorded, tmp_path):
    before, operations, expected = recorded
    rng, found = random.Random(0), []
    for _ in range(VARIANTS):
        count = rng.randrange(len(operations) + 1)
        disk = cut_power(before, operations[:count], rng)
        step, manifest = find(put(disk, tmp_path / "disk"))
        assert manifest == expected[step]["manifest"]
        renamed = find_rename(operations) < count
        synced = renamed and operations[count - 1][0] != "rename"
        if synced:
            assert step == 15
        found.append(step)
    assert min(found.count(step) for step in (10, 15)) > 50


def test_without_syncing_a_power_cut_would_do_harm(recorded, tmp_path, capsys):
    """The same cuts of a save that syncs nothing: else the test above could not fail."""
    before, operations, _ = recorded
    operations = [o for o in operations if o[0] != "sync"]
    until = find_rename(operations) + 1
    rng = random.Random(0)
    for _ in range(60):
        disk = cut_power(before, operations[:until], rng)
        with Checkpoints(put(disk, tmp_path / "disk"), read_only=True) as saved:
            saved.latest_step()
    assert capsys.readouterr().err.count("is damaged") > 5


def test_the_arrays_that_are_compared_are_those_saved(recorded):
    _, _, expected = recorded
    assert expected[10] != expected[15]
    assert len(expected[10]) == 5
    assert jax.tree.leaves(create_tree(10))[0] == 10
