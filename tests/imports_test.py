"""The floor plan: a package imports only from those before it in the list, and JAX only where it may."""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import cglo_jax

PACKAGE = pathlib.Path(cglo_jax.__file__).parent
# From the bottom up; docs/developing.md describes each.
ORDER = (
    "errors",
    "files",
    "process",
    "config",
    "profiles",
    "data",
    "models",
    "pretrained",
    "training",
    "cglo",
    "classifier",
    "workdir",
    "inference",
    "report",
    "stages",
    "cli",
    "predict",
    "prepare",
    "main",
    "__init__",
)


def find_imports(source: str) -> Iterator[str]:
    """Yields the modules of ours that a file imports: lazily and for type checkers, too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "cglo_jax":
                yield rest


def room(module: str) -> str:
    """Returns the package, or the module on the top floor, that a dotted name lies in."""
    name = module.split(".")[0]
    if name == "__version__":  # a constant, there before anything else is
        return ORDER[0]
    return name if name in ORDER else "__init__"


def find_upward() -> list[str]:
    """Returns a line for every import that goes up."""
    upward = []
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).with_suffix("")
        for module in find_imports(path.read_text()):
            if ORDER.index(room(module)) > ORDER.index(where.parts[0]):
                upward.append(f"{'.'.join(where.parts)} imports {module}")
    return upward


def test_every_package_has_its_place():
    found = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert found - {"__pycache__"} == set(ORDER)


def test_no_import_goes_up():
    assert find_upward() == []


def test_lazy_imports_and_those_of_type_checkers_are_found():
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from cglo_jax.stages import train
def f():
    import cglo_jax.report.page
    from cglo_jax import main as m
"""
    assert [*find_imports(source)] == ["stages.train", "report.page", "main"]


def test_modules_that_must_start_fast_do_not_import_jax():
    """Errors, files, configuration, process and command line: `--help` is there at once."""
    fast = [
        "errors",
        "files",
        "process",
        "config",
        "cli",
        "profiles",
        "predict",
        "prepare",
        "main",
    ]
    program = """
import importlib, pkgutil, sys, cglo_jax
for name in sys.argv[1:]:
    module = importlib.import_module(f"cglo_jax.{name}")
    for below in pkgutil.walk_packages(getattr(module, "__path__", []), f"cglo_jax.{name}."):
        importlib.import_module(below.name)
print(*sorted({"jax", "tensorflow", "tensorflow_datasets"} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *fast],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert done.stdout.split() == []
