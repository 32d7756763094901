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
# What makes a place safe.
_PRIMITIVE = "a primitive of storage.py: asks `check_change` first, follows no link"
_RECORD = "only what the work directory's record lists, with the content recorded"
_NEW = (
    "in a folder of a name that nobody can foresee, made by this call and empty before"
)
_CHECKPOINT = "folders named by a step whose files all have names of a checkpoint's"
_MEMORY = "into memory"
_CACHE = (
    "names of ours in a folder of ours, which carries a marker or is this user's alone"
)
PLACES = {
    "checkpoints.Checkpoints._tell_of": "a damaged checkpoint is renamed, if it was one",
    "checkpoints.Checkpoints._write": "renames what it has just made; " + _NEW,
    "checkpoints.remove_all": "an empty folder; " + _CHECKPOINT,
    "checkpoints._remove": _CHECKPOINT,
    "checkpoints._save_tree": _NEW,
    "classify._set_aside_old": _RECORD,
    "copies.write": _NEW,
    "distributed.start": "descriptor 1 of a program of ours that has one thread, given back",
    "download._open_part": _CACHE,
    "download._fetch": _CACHE,
    "download.download": _CACHE,
    "export._write_npz": _NEW,
    "export._write_tfds": _NEW,
    "export_model.run": _NEW,
    "export_model.write_generator": _NEW,
    "export_model.write_classifier": _NEW,
    "export_model._write_program": _NEW,
    "fit_codes.run": "an empty folder generator-*; saving is `Checkpoints._write`",
    "lock.hold": "`lock`, a plain file that holds nothing but what this program writes",
    "loop._take_all": "saving is `Checkpoints._write`",
    "ownership._claim": "a record that has no whole line yet, in a folder with nothing else",
    "ownership.remove": _RECORD,
    "ownership.replacing": _RECORD,
    "ownership._clean": "in the folder itself, by no link, of names recorded as temporary before they were made",
    "ownership.move": _RECORD,
    "ownership.set_aside": _RECORD,
    "ownership._move": _RECORD,
    "prepare.prepare": "makes the folder that it was told to prepare in",
    "prepare.locked": "reads a folder, to lock it",
    "prepare.build": "renames what it has just made to a name that is free",
    "process._make_own": "makes a folder",
    "process._remove_cut_off": _CACHE,
    "process._remove_oldest": _CACHE,
    "process.use_huge_pages": "starts this program anew, before it has done anything",
    "readback.open_own": "reads",
    "readback.encode_png": _MEMORY,
    "sample.write_figures": _NEW,
    "sample.write_images": _NEW,
    "sample.write_images.write": _NEW,
    "storage.sync": "reads",
    "storage.make_folder": _PRIMITIVE,
    "storage.make_temporary_folder": _PRIMITIVE,
    "storage.opened_folder": "reads",
    "storage.rename": _PRIMITIVE,
    "storage.remove_file": _PRIMITIVE,
    "storage.remove_files": _PRIMITIVE,
    "storage.write_beside": _PRIMITIVE,
    "storage.open_to_append": _PRIMITIVE,
    "storage._cut_to_whole_lines": "half a line, in a file that `open_to_append` opened",
    "streams._open_nowhere": "/dev/null on descriptors that are closed",
    "weights_cache.get": _CACHE,
    "weights_cache.fetch": _NEW,
    "working_folder.WorkingFolder.__init__": _CACHE,
    "working_folder.WorkingFolder.claim": _CACHE,
    "working_folder.WorkingFolder.make_folder": _CACHE,
    "working_folder.WorkingFolder.remove": _CACHE,
    "working_folder.WorkingFolder.leave": _CACHE,
    "working_folder._remove_tree": _CACHE,
}


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


def test_every_place_that_changes_files_is_listed_with_the_reason_why_it_is_safe():
    assert find_places().keys() == PLACES.keys()


def test_no_tree_is_removed_and_only_the_primitives_replace_and_redirect():
    calls = {where: " ".join(sorted(c)) for where, c in find_places().items()}
    assert not [w for w, c in calls.items() if "rmtree" in c or "shutil" in c]
    assert [w for w, c in calls.items() if "os.replace" in c] == ["storage.rename"]
    redirecting = [w for w, c in calls.items() if "dup2" in c]
    assert redirecting == ["distributed.start", "streams._open_nowhere"]
    of_people = [w for w, c in calls.items() if "storage.remove_files" in c]
    assert of_people == [
        "checkpoints._remove",
        "ownership.replacing",
        "ownership._clean",
    ]


def test_the_search_finds_what_it_is_for(tmp_path):
    code = """
def f(path, text):
    path.unlink(); shutil.rmtree(path); os.replace(path, path); text.replace("a", "b")
    open(path, "w"); path.open(mode="ab"); open(path); open(path, "rb"); os.dup2(1, 2)
"""
    found: dict[str, set[str]] = {}
    _visit(ast.parse(code), "m", found)
    calls = {
        "path.unlink",
        "shutil.rmtree",
        "os.replace",
        "open",
        "path.open",
        "os.dup2",
    }
    assert found == {"m.f": calls}
