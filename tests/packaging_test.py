"""The sdist and the wheel: what they hold, and that they work without the repository."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "CITATION.cff", ".ci")
SOURCES += ("README.md", "CHANGELOG.md", "LICENSE")
SOURCES += ("cglo_jax", "configs", "docs", "experiments", "tests")
BUILD = "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"

pytestmark = pytest.mark.slow


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


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> pathlib.Path:
    """The source distribution of a copy of this tree, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".*cache", "runs")
            shutil.copytree(ROOT / name, folder / "tree" / name, ignore=ignored)
        else:
            (folder / "tree").mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / "tree")
    with tarfile.open(build("sdist", folder / "tree", folder)) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist) -> pathlib.Path:
    """The wheel that is built from the source distribution."""
    return build("wheel", sdist, sdist.parent)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    run(*pip, "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
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


def test_the_sdist_holds_what_the_tests_need(sdist):
    tree = files_of(ROOT, *SOURCES)
    assert len(tree) > 200
    held = files_of(sdist, *SOURCES)
    assert held.keys() == tree.keys()
    differing = {name for name in tree if held[name] != tree[name]}
    assert differing == {"setup.cfg"}  # setuptools writes it anew, with a section more


def test_the_wheel_holds_the_package_and_its_configurations_only(wheel):
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    metadata = {name for name in contents if ".dist-info/" in name}
    wanted = files_of(ROOT, "cglo_jax")
    for name, content in files_of(ROOT, "configs").items():
        wanted[f"cglo_jax/{name}"] = content
    assert {k: v for k, v in contents.items() if k not in metadata} == wanted
    assert {"cglo_jax/report.html.jinja", "cglo_jax/configs/digits.py"} <= set(wanted)
    (licence,) = (name for name in metadata if name.endswith("licenses/LICENSE"))
    assert contents[licence] == (ROOT / "LICENSE").read_bytes()
    (about,) = (name for name in metadata if name.endswith("METADATA"))
    assert contents[about].decode().endswith((ROOT / "README.md").read_text())
    (points,) = (name for name in metadata if name.endswith("entry_points.txt"))
    assert b"cglo-jax = cglo_jax.main:program" in contents[points]


@pytest.mark.parametrize("name", ["cifar100", "cub:10", "digits", "folder"])
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


def test_an_installed_wheel_tells_how_it_is_used(installed, tmp_path):
    out = run(
        installed / "bin" / "cglo-jax",
        "--help",
        cwd=tmp_path,
        PYTHONPATH=str(installed),
    )
    assert "    cglo-jax --config=digits\n" in out
    assert "  cub " in out
