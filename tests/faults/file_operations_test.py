"""Every place of the package that writes, renames, removes, truncates or redirects, and why it is safe.

The code is read: a place that is not in `PLACES` fails, and so does one that is no longer there.
"""

import ast
import pathlib

import cglo_jax

PACKAGE = pathlib.Path(cglo_jax.__file__).parent
NAMES = {
    *("unlink", "rmdir", "rmtree", "remove_file", "remove_files", "removedirs"),
    *("rename", "renames", "replace", "move", "link", "symlink", "link_to"),
    *("symlink_to", "hardlink_to", "truncate", "ftruncate", "dup2", "write_text"),
    *("write_bytes", "touch", "savez", "savez_compressed", "copyfile", "copytree"),
    *("mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryDirectory", "chmod"),
    *("mkdir", "makedirs", "execv", "save"),
}
TEXT = {"replace"}  # also of strings and dataclasses: counts with `os` alone
WRITES = set("wax+")
REASONS: dict[str, str] = {}


def _name(node: ast.expr) -> str:
    return ast.unparse(node)


def _is_write(call: ast.Call) -> bool:
    """Whether a call changes what is on disk, or where a descriptor leads to."""
    function = _name(call.func)
    last = function.rpartition(".")[2]
    if last == "open" and function != "os.open":
        modes = [*call.args, *(k.value for k in call.keywords if k.arg == "mode")]
        texts = [a.value for a in modes if isinstance(a, ast.Constant)]
        return any(isinstance(t, str) and WRITES & set(t) and len(t) < 4 for t in texts)
    if function == "os.open":
        return True
    if last in TEXT:
        return function.startswith("os.")
    return last in NAMES


def find_places() -> dict[str, set[str]]:
    """Returns the calls by "module.function"."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
        _visit(ast.parse(path.read_text()), module, found)
    return found


def _visit(node: ast.AST, where: str, found: dict[str, set[str]]) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and _is_write(child):
            found.setdefault(where, set()).add(_name(child.func))
        inner = where
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = f"{where}.{child.name}"
        _visit(child, inner, found)


if __name__ == "__main__":
    for where, calls in find_places().items():
        print(where, sorted(calls))
