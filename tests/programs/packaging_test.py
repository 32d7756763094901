"""The sdist and the wheel: what they hold, and that they work without the repository."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "CITATION.cff", ".ci")
SOURCES += ("README.md", "CHANGELOG.md", "LICENSE")
SOURCES += ("cglo_jax", "configs", "docs", "experiments", "tests")
BUILD = "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"


def run(*command: object, cwd: pathlib.Path, **environment: str) -> str:
    """Returns what a command prints that must end well and warn of nothing."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def build(kind: str, source: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Builds as pip does, but with the setuptools there are, so that no network is needed."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(out)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()
    (made,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


def copy_tree(folder: pathlib.Path, names: Iterable[str]) -> pathlib.Path:
    """Copies what `names` name of this tree, without what programs leave in it."""
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", ".*cache", "runs")
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def check_wheel(wheel: pathlib.Path) -> None:
    """Asserts that a wheel holds every file of the package and of configs/, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    metadata = {name for name in contents if ".dist-info/" in name}
    wanted = files_of(ROOT, "cglo_jax")
    for name, content in files_of(ROOT, "configs").items():
        wanted[f"cglo_jax/{name}"] = content
    assert {k: v for k, v in contents.items() if k not in metadata} == wanted
    assert any(name.endswith("report.html.jinja") for name in wanted)
    assert "cglo_jax/configs/digits.py" in wanted
    (licence,) = (name for name in metadata if name.endswith("licenses/LICENSE"))
    assert contents[licence] == (ROOT / "LICENSE").read_bytes()
    (about,) = (name for name in metadata if name.endswith("METADATA"))
    assert contents[about].decode().endswith((ROOT / "README.md").read_text())
    (points,) = (name for name in metadata if name.endswith("entry_points.txt"))
    assert b"cglo-jax = cglo_jax.main:program" in contents[points]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """The wheel that is built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    names = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "cglo_jax")
    return build("wheel", copy_tree(folder / "tree", (*names, "configs")), folder)


@pytest.fixture(scope="module")
def unpacked(wheel) -> pathlib.Path:
    """What the wheel holds, as a directory that programs can import from."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent / "unpacked")
    return wheel.parent / "unpacked"


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> pathlib.Path:
    """The source distribution of a copy of this tree, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    tree = copy_tree(folder / "tree", SOURCES)
    with tarfile.open(build("sdist", tree, folder)) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def sdist_wheel(sdist) -> pathlib.Path:
    """The wheel that is built from the source distribution."""
    return build("wheel", sdist, sdist.parent)


@pytest.fixture(scope="module")
def installed(sdist_wheel, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    run(*pip, "--no-deps", "--no-index", "--target", folder, sdist_wheel, cwd=folder)
    return folder


def files_of(folder: pathlib.Path, *names: str) -> dict[str, bytes]:
    """The content of each file of `folder` that lies in `names`, by its path."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if (
            path.is_file()
            and "__pycache__" not in name.parts
            and name.parts[0] in names
        ):
            found[str(name)] = path.read_bytes()
    return found


def test_the_wheel_holds_the_package_and_its_configurations_only(wheel):
    check_wheel(wheel)


def test_every_module_can_be_imported_from_the_wheel(unpacked, tmp_path):
    """From an empty directory, with the working tree out of reach."""
    program = """
import importlib, pkgutil, cglo_jax
for module in pkgutil.walk_packages(cglo_jax.__path__, "cglo_jax."):
    if not module.name.endswith("__main__"):
        print(importlib.import_module(module.name).__file__)
"""
    printed = run(sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH=str(unpacked))
    files = [pathlib.Path(line) for line in printed.splitlines()]
    held = {
        path
        for path in unpacked.rglob("*.py")
        if path.name != "__main__.py" and path.parent.name != "configs"
    }
    assert {*files, unpacked / "cglo_jax" / "__init__.py"} == held


@pytest.mark.slow
def test_a_run_and_its_report_work_from_the_wheel_alone(unpacked, tmp_path):
    """A module or a template that is left out of the wheel ends this run."""
    words = "--config=digits --config.seeds=0 --config.devices=1 --config.classify.methods=baseline"
    for stage in ("train", "classify"):
        words += f" --config.{stage}.epochs=1 --config.{stage}.steps_per_epoch=1"
    program = "import cglo_jax.main; cglo_jax.main.run()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words.split(), "--workdir=run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "report" in done.stdout
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_the_sdist_holds_what_the_tests_need(sdist):
    tree = files_of(ROOT, *SOURCES)
    assert len(tree) > 200
    held = files_of(sdist, *SOURCES)
    assert held.keys() == tree.keys()
    differing = {name for name in tree if held[name] != tree[name]}
    assert differing == {"setup.cfg"}  # setuptools writes it anew, with a section more


@pytest.mark.slow
def test_the_wheel_of_the_sdist_holds_the_same(sdist_wheel):
    check_wheel(sdist_wheel)


def test_a_packaged_configuration_is_found_from_the_wheel(unpacked, tmp_path):
    words = ("--config=digits", "--stage=help", "train.epochs")
    out = run(
        sys.executable,
        "-m",
        "cglo_jax.main",
        *words,
        cwd=tmp_path,
        PYTHONPATH=str(unpacked),
    )
    assert "  train.epochs = 200  (whole number" in out and "here 20)" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cifar10:25", "cifar100", "cub:10", "digits", "folder"]
)
def test_an_installed_wheel_finds_its_configurations_from_an_empty_directory(
    installed, tmp_path, name
):
    program = installed / "bin" / "cglo-jax"
    for command in ([program], [sys.executable, "-m", "cglo_jax.main"]):
        words = [*command, f"--config={name}", "--stage=help", "train.epochs"]
        out = run(*words, cwd=tmp_path, PYTHONPATH=str(installed))
        assert "  train.epochs = 200  (whole number" in out
        assert ("here 20)" in out) == (name in ("digits", "folder"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_installed_wheel_tells_how_it_is_used(installed, tmp_path):
    out = run(
        installed / "bin" / "cglo-jax",
        "--help",
        cwd=tmp_path,
        PYTHONPATH=str(installed),
    )
    assert "    cglo-jax --config=digits\n" in out
    assert "  cub " in out
