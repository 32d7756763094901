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
_PRIMITIVE = (
    "a primitive of files/storage.py: asks `check_change` first, follows no link"
)
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
    "training.checkpoints.Checkpoints._put_aside": "a damaged checkpoint is renamed, if it was one",
    "training.checkpoints.Checkpoints._write": "renames what it has just made; " + _NEW,
    "training.checkpoints.remove_all": "an empty folder; " + _CHECKPOINT,
    "training.checkpoints._remove": _CHECKPOINT,
    "training.checkpoints._save_tree": _NEW,
    "stages.classify._set_aside_old": _RECORD,
    "stages.copies.write": _NEW,
    "cli.reference": "the page that whoever develops this names on the command line",
    "cli.launch.start": "descriptor 1 of a program of ours that has one thread, given back",
    "files.download._open_part": _CACHE,
    "files.download._fetch": _CACHE,
    "files.download.download": _CACHE,
    "stages.sample_formats._write_npz": _NEW,
    "stages.sample_formats._write_tfds": _NEW,
    "stages.export.run": _NEW,
    "stages.export.write_generator": _NEW,
    "stages.export.write_classifier": _NEW,
    "stages.export._write_program": _NEW,
    "stages.fit_codes.run": "saving is `Checkpoints._write`",
    "stages.fit_codes._remove_others": "an empty folder generator-*",
    "files.lock.hold": "`lock`, a plain file that holds nothing but what this program writes",
    "training.loop._take_all": "saving is `Checkpoints._write`",
    "files.ownership._claim": "a record that has no whole line yet, in a folder with nothing else",
    "files.ownership.remove": _RECORD,
    "files.ownership.replacing": _RECORD,
    "files.ownership._clean": "in the folder itself, by no link, of names recorded as temporary before they were made",
    "files.ownership.move": _RECORD,
    "files.ownership.set_aside": _RECORD,
    "files.ownership._move": _RECORD,
    "data.archives.prepare": "makes the folder that it was told to prepare in",
    "data.archives._locked": "reads a folder, to lock it",
    "data.archives._build": "renames what it has just made to a name that is free",
    "process.setup._make_own": "makes a folder",
    "process.setup._remove_cut_off": _CACHE,
    "process.setup._remove_oldest": _CACHE,
    "process.setup.use_huge_pages": "starts this program anew, before it has done anything",
    "files.readback.open_own": "reads",
    "files.readback.encode_png": _MEMORY,
    "stages.sample.write_figures": _NEW,
    "stages.sample.write_images": _NEW,
    "stages.sample.write_images.write": _NEW,
    "files.storage.sync": "reads",
    "files.storage.make_folder": _PRIMITIVE,
    "files.storage.make_temporary_folder": _PRIMITIVE,
    "files.storage.opened_folder": "reads",
    "files.storage.rename": _PRIMITIVE,
    "files.storage.remove_file": _PRIMITIVE,
    "files.storage.remove_files": _PRIMITIVE,
    "files.storage.write_beside": _PRIMITIVE,
    "files.storage.open_to_append": _PRIMITIVE,
    "files.storage._cut_to_whole_lines": "half a line, in a file that `open_to_append` opened",
    "process.streams._open_nowhere": "/dev/null on descriptors that are closed",
    "pretrained.cache.get": _CACHE,
    "pretrained.cache._fetch": _NEW,
    "files.working_folder.WorkingFolder.__init__": _CACHE,
    "files.working_folder.WorkingFolder.claim": _CACHE,
    "files.working_folder.WorkingFolder.make_folder": _CACHE,
    "files.working_folder.WorkingFolder.remove_folders": _CACHE,
    "files.working_folder.WorkingFolder.remove": _CACHE,
    "files.working_folder.WorkingFolder.leave": _CACHE,
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
    assert [w for w, c in calls.items() if "os.replace" in c] == [
        "files.storage.rename"
    ]
    redirecting = [w for w, c in calls.items() if "dup2" in c]
    assert redirecting == ["cli.launch.start", "process.streams._open_nowhere"]
    of_people = [w for w, c in calls.items() if "storage.remove_files" in c]
    assert of_people == [
        "files.ownership.replacing",
        "files.ownership._clean",
        "files.working_folder.WorkingFolder.remove_folders",
        "training.checkpoints._remove",
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
