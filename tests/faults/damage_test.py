"""Checkpoints that were damaged on disk: every damage is found, named, and the step before is used."""

import random
import shutil

import numpy as np
import pytest

from cglo_jax.errors import UserError
from cglo_jax.training import manifest
from cglo_jax.training.checkpoints import Checkpoints
from tests.helpers.small_run import digest_step

FLIPS = 1000


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
    directory = tmp_path_factory.mktemp("damage") / "seed-0"
    rng = np.random.default_rng(0)
    with Checkpoints(directory) as saved:
        for step in (5, 10):
            z = rng.standard_normal((24, 8), np.float32)
            saved.save(step, {"z": z}, {"moment": z * 2, "step": np.int32(step)}, {})
    return directory


@pytest.fixture
def directory(saved_once, tmp_path):
    return shutil.copytree(saved_once, tmp_path / "seed-0")


def files_of(directory, step=10):
    root = directory / str(step)
    return sorted(path for path in root.rglob("*") if path.is_file())


def error_of(directory, step=10) -> str:
    with pytest.raises(manifest.Damaged) as error:
        manifest.verify(directory / str(step), step)
    return str(error.value)


def check_fallback(directory, expected, capsys, name) -> None:
    """Step 5 is used, step 10's damaged file named."""
    with Checkpoints(directory, read_only=True) as saved:
        assert saved.latest_step() == 5
        assert digest_step(saved, 5) == expected
    err = capsys.readouterr().err
    assert f"{directory / '10'} is damaged: {name} " in err
    assert "using step 5" in err


@pytest.fixture(scope="module")
def step_5(saved_once):
    with Checkpoints(saved_once, read_only=True) as saved:
        return digest_step(saved, 5)


def test_any_flipped_bit_is_found_and_its_file_named(directory):
    rng = random.Random(0)
    files = files_of(directory)
    sizes = [path.stat().st_size for path in files]
    for _ in range(FLIPS):
        (path,) = rng.choices(files, sizes)
        content = bytearray(path.read_bytes())
        place = rng.randrange(8 * len(content))
        content[place // 8] ^= 1 << place % 8
        original = path.read_bytes()
        path.write_bytes(content)
        name = path.relative_to(directory / "10").as_posix()
        assert error_of(directory).startswith(f"{name} has other content")
        path.write_bytes(original)
    manifest.verify(directory / "10", 10)


def test_a_flipped_bit_in_each_file_leads_to_the_step_before(directory, step_5, capsys):
    for path in files_of(directory):
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        name = path.relative_to(directory / "10").as_posix()
        check_fallback(directory, step_5, capsys, name)
        path.write_bytes(content)


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "last byte lost": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a byte more": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "empty": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "a link to zeros": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_file(directory, step_5, capsys, damage):
    original = directory.with_name("original")
    shutil.copytree(directory, original)
    for path in files_of(original):
        name = path.relative_to(original / "10").as_posix()
        DAMAGES[damage](directory / "10" / name)
        check_fallback(directory, step_5, capsys, name)
        shutil.rmtree(directory)
        shutil.copytree(original, directory)


def test_each_file_swapped_with_another_steps(directory, step_5, capsys):
    own = {path.name: path for path in files_of(directory)}
    others = {path.name: path for path in files_of(directory, 5)}
    same = [name for name in own if name in others]
    pairs = list(zip(sorted(own.values()), sorted(others.values()), strict=True))
    swapped = 0
    for mine, other in pairs:
        content = mine.read_bytes()
        if content == other.read_bytes():
            continue
        mine.write_bytes(other.read_bytes())
        name = mine.relative_to(directory / "10").as_posix()
        check_fallback(directory, step_5, capsys, name)
        mine.write_bytes(content)
        swapped += 1
    assert swapped >= 5
    assert "manifest.json" in same


def test_a_whole_step_under_another_name(directory, step_5, capsys):
    shutil.rmtree(directory / "10")
    shutil.copytree(directory / "5", directory / "10")
    check_fallback(directory, step_5, capsys, "manifest.json is of step 5;")


def test_all_damaged_is_an_error_and_nothing_is_touched(directory):
    for step in (5, 10):
        (directory / str(step) / "manifest.json").write_bytes(b"{}")
    before = sorted(p for p in directory.rglob("*"))
    message = (
        r"no checkpoint in .* can be used \(step 10: manifest.json has other content"
    )
    with pytest.raises(UserError, match=message), Checkpoints(directory) as saved:
        saved.latest_step()
    assert sorted(p for p in directory.rglob("*")) == before
