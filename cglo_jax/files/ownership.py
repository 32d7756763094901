"""Which files are this program's: the one place that replaces, moves or removes files of a run.

A folder is this program's if it was new or empty when the program first wrote to it: since then it holds
a record, `cglo_files.jsonl`. Its first line names the program; each other line names a file that was
written here, with its size and sha256, and is added before the file is written. A file that is not
recorded, or whose content was never recorded, is somebody else's: no stage and no flag changes, moves or
removes it. Checkpoints have manifests of their own (see `training/manifest.py`).

`samples/` and `exports/` have records of their own, and may be links to folders elsewhere. Any folder of
a work directory that a link leads to must have been empty, too, or carry a record of the same work directory:
a prepared link cannot lead to somebody else's folder.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, Self

from cglo_jax import __version__
from cglo_jax.errors import UserError, printable
from cglo_jax.files import readback, storage

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

RECORD = "cglo_files.jsonl"
_PROGRAM = "cglo_jax"
_LOCK = "lock"
# Folders of a work directory; nothing in their sub-folders `_LEAVES` is written again.
_FOLDERS = (
    "checkpoints",
    "codes",
    "classifiers",
    "samples",
    "exports",
    "tensorboard",
    "wandb",
)
_LEAVES = ("images", "model", "train")
_REPLACED = ("samples", "exports")
# What operating systems put into any folder, and file systems into their top folder.
_SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini", "lost+found")
# Folders that are being built, and folders for the files that they replace.
_NEW, _OLD = ".new-", ".old-"
_LONGEST = 1 << 30  # bytes of a record
_NAMED = 3  # files in a message
_STEP = r"\d+(\.saving(-\w+)?|\.damaged|\.removed)*"
# Paths of checkpoints' files.
_CHECKPOINT = re.compile(
    r"(?P<folder>(checkpoints/seed-\d+|codes/seed-\d+/generator-\w+/images-\w+"
    r"|classifiers((\.|/)old-\d+)?/[\w.-]+/checkpoints)"
    rf"/{_STEP})/(?P<name>.+)"
)
# Orbax's names of files, for a checkpoint whose manifest is absent or damaged.
_ORBAX = re.compile(
    r"(model|train)/(_\w+|array_metadatas/process_\d+"
    r"|(ocdbt\.process_\d+/)?(d/[0-9a-f]{32}|manifest\.ocdbt)(\.__lock)?)"
    r"|manifest\.json|\.manifest\.json\.\w+\.tmp"
)
_TEMPORARY = re.compile(r"\.(new|old)-[0-9a-f]{16}|(.+/)?\.[^/]+\.[0-9a-f]{16}\.tmp")
_WANDB = re.compile(
    r"wandb/((offline-)?run-\d+_\d+-[\w-]+/.+|debug[\w-]*\.log|latest-run)"
)


class _Known(NamedTuple):
    """What a record has about one file."""

    contents: set[tuple[int, str]]  # (size in bytes, sha256)
    grows: bool  # whether lines are appended: the recorded content is its beginning


class _Record:
    """The record of one folder, read again each time: other processes may append to it.

    Attributes:
      folder: the folder that the record lies in.
      id: the work directory's.
      inner: whether the folder lies in a work directory.
      of: the path of the work directory that links to the folder.
    """

    def __init__(self, folder: pathlib.Path, id: str, lines: Sequence[dict[str, Any]]):
        self.folder, self.id, self.inner, self.of = folder, id, False, ""
        self.known: dict[str, _Known] = {}
        self.temporary: set[str] = set()
        for line in lines:
            self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        if _is_name(name := line.get("temporary")) and _TEMPORARY.fullmatch(name):
            self.temporary.add(name)
        if type(line.get("of")) is str:
            self.of = line["of"]
        if _is_name(name := line.get("path")):
            known = self.known.get(name, _Known(set(), False))
            content = (line.get("size"), line.get("sha256"))
            if type(content[0]) is int and type(content[1]) is str:
                kept = set() if line.get("grows") == "whole" else known.contents
                known = known._replace(contents={*kept, content})
            self.known[name] = known._replace(grows=known.grows or "grows" in line)

    @classmethod
    def read(cls, folder: pathlib.Path) -> Self | None:
        """Returns the record in a folder, None without one or if its making was cut off."""
        path = folder / RECORD
        storage.check_plain(path)
        try:
            content = readback.read_bytes(path, most=_LONGEST)
        except FileNotFoundError:
            return None
        head, *rest = map(_parse, content.split(b"\n")[:-1] or [b""])
        if b"\n" not in content:
            return None
        if head.get("program") != _PROGRAM or type(head.get("id")) is not str:
            raise UserError(
                f"{path} is not of this program, or damaged: put it back, or use another --workdir"
            )
        record = cls(folder, head["id"], [head, *rest])
        record.inner = bool(head.get("inner"))
        return record

    def append(self, *lines: Mapping[str, Any]) -> None:
        """Appends lines, synced to disk: they stay whatever happens to this process."""
        with storage.open_to_append(self.folder / RECORD) as file, _locked(file):
            storage.append_lines(file, lines)
            file.flush()
            os.fsync(file.fileno())
        for line in lines:
            self._take(dict(line))

    def owns(self, name: str) -> bool:
        """Whether the file of this name, relative to the folder, is as it was written here.

        A file that is not there is nobody's.
        """
        path = self.folder / name
        if name == RECORD:
            return True
        known = self.known.get(name)
        try:
            plain = stat.S_ISREG(path.lstat().st_mode)
        except OSError:
            return False
        if known is None or not plain:
            return False
        if known.grows:
            return not known.contents or _begins(path, known.contents)
        return _content(path) in known.contents

    def check(self, name: str) -> None:
        """Raises UserError if there is a file of this name that was not written here."""
        path = self.folder / name
        if not os.path.lexists(path) or self.owns(name):
            return
        storage.check_plain(path)
        what = "was changed since this program wrote it"
        if name not in self.known:
            what = (
                "was not written by this program, which keeps a file of that name there"
            )
        raise UserError(
            f"{path} {what}: move it away and run this again, or use another --workdir"
        )


def _is_name(name: object) -> bool:
    """Whether a record names a file in its own folder."""
    if type(name) is not str or not name or "\0" in name or "\\" in name:
        return False
    path = pathlib.PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _parse(line: bytes) -> dict[str, Any]:
    """Returns a line of a record; a damaged one as {}, so the file that it named is not ours."""
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return {}


def _content(path: pathlib.Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def _begins(path: pathlib.Path, contents: set[tuple[int, str]]) -> bool:
    """Whether a file begins with one of some contents, given by size and sha256."""
    digest, place = hashlib.sha256(), 0
    with path.open("rb") as file:
        for size, expected in sorted(contents):
            while place < size:
                part = file.read(min(size - place, 1 << 20))
                if not part:
                    return False
                digest.update(part)
                place += len(part)
            if digest.copy().hexdigest() == expected:
                return True
    return False


@contextlib.contextmanager
def _locked(file: BinaryIO) -> Iterator[None]:
    """Lets one process at a time append; the lock ends with the file."""
    if fcntl:
        with contextlib.suppress(OSError):  # a network disk may have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
    yield


# Folders


def claim(folder: pathlib.Path) -> None:
    """Makes a folder this program's, and creates it if there is none.

    Raises:
      UserError: it holds files and no record, so the files are somebody else's.
      OSError: it cannot be written to.
    """
    _claim(folder)


def check_claimable(
    folder: pathlib.Path, find_free: Callable[[], pathlib.Path] | None = None
) -> None:
    """Checks whether `claim` would succeed, and changes nothing.

    Args:
      find_free: returns a directory to suggest instead; called if the folder is refused.

    Raises:
      UserError: see `claim`.
    """
    if not os.path.lexists(folder):
        return
    if not os.path.isdir(folder):
        kind = "a link to nothing" if os.path.islink(folder) else "no folder"
        raise UserError(f"--workdir={folder} is {kind}: use another")
    if record := _Record.read(folder):
        if record.inner:
            raise UserError(
                f"--workdir={folder} is a folder of a run's work directory: use another"
                f"{_suggest(find_free)}"
            )
        return
    if not (others := _list_others(folder)):
        return
    raise UserError(
        f"--workdir={folder} holds files that no run of this program wrote "
        f"({_name_some(others)}), and a run would write among them: use a directory that is new or "
        f"empty{_suggest(find_free)}"
    )


def _suggest(find_free: Callable[[], pathlib.Path] | None) -> str:
    return f", such as --workdir={find_free()}" if find_free else ""


def _name_some(names: Sequence[str]) -> str:
    """Names the first few files, for a message."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(printable, names[:_NAMED])) + more


def is_claimed(folder: pathlib.Path) -> bool:
    """Whether a folder carries this program's record."""
    return _Record.read(folder) is not None


def _list_others(folder: pathlib.Path) -> list[str]:
    """Returns the names in a folder without a record, for which it does not count as empty."""
    names = sorted(name for name in os.listdir(folder) if name not in _SYSTEM)
    names = [name for name in names if not _is_link_to_empty(folder / name)]
    if names == [RECORD]:  # cut off before its first line was there
        text = readback.read_bytes(folder / RECORD, most=_LONGEST).decode("latin-1")
        begin = _head("")[: len('{"program": "cglo_jax"')]
        return [] if begin.startswith(text) or text.startswith(begin) else names
    return names


def _is_link_to_empty(path: pathlib.Path) -> bool:
    """Whether a folder that a run would make is a link to an empty folder, perhaps on another disk."""
    is_link = path.name in _FOLDERS and path.is_symlink() and os.path.isdir(path)
    return is_link and not set(os.listdir(path)) - {*_SYSTEM}


def _claim(folder: pathlib.Path, id: str = "", *, inner: bool = False) -> _Record:
    """Returns the record of a folder; makes it if the folder is new or empty.

    Args:
      id: the work directory's id for a new record; "" = a new id.
    """
    if (found := _Record.read(folder)) and found.inner == inner:
        return found
    check_claimable(folder)
    id = id or _draw_id()
    storage.make_folder(folder.absolute())
    with storage.open_to_append(folder / RECORD) as file, _locked(file):
        if not (found := _Record.read(folder)):  # else another process was faster
            file.truncate(0)
            file.write(_head(id, inner).encode())
            file.flush()
            os.fsync(file.fileno())
    storage.sync(folder)
    if not found:
        found = _Record(folder, id, [])
        found.inner = inner
    return found


def _draw_id() -> str:
    return secrets.token_hex(6)


def _claim_inner(root: _Record, name: str) -> _Record:
    """Returns the record of a folder of a work directory, which may be a link.

    Raises:
      UserError: a link leads to a folder of another run or of somebody else.
    """
    folder = root.folder / name
    if os.path.islink(folder) and not os.path.isdir(folder):
        raise UserError(f"{folder} is a link to no folder: mend it or move it away")
    if os.path.isdir(folder) and not _is_inside_or_apart(folder, root.folder):
        raise UserError(
            f"{folder} is a link into the work directory itself: move it away"
        )
    if not os.path.lexists(folder) or os.path.isdir(folder):
        try:
            found = _claim(folder, root.id, inner=True)
        except UserError:
            found = None
        if found and found.id == root.id:
            if folder.is_symlink():
                _check_shared(found, root, name)
            return found
    raise UserError(
        f"{folder} holds files that are not of this run, which keeps its own there: move them away, "
        "or use another --workdir"
    )


def _check_shared(found: _Record, root: _Record, name: str) -> None:
    """Raises UserError if a copy of a work directory links to the folder that the original uses."""
    place = os.path.realpath(root.folder)
    if found.of == place:
        return
    other = pathlib.Path(found.of, name) if found.of else None
    if other and os.path.isdir(other) and os.path.samefile(other, found.folder):
        raise UserError(
            f"{root.folder / name} is a link to the folder that --workdir={found.of} uses: make it a "
            "link to one of its own, or a copy"
        )
    found.append({"of": place})  # new, or the work directory was moved


def _is_inside_or_apart(folder: pathlib.Path, root: pathlib.Path) -> bool:
    """Whether a folder is at its own path, or a link to a place neither in nor around `root`."""
    real, top = os.path.realpath(folder), os.path.realpath(root)
    if real == os.path.join(top, os.path.relpath(folder, root)):
        return True
    return os.path.commonpath([real, top]) not in (real, top)


def check_links(root: pathlib.Path) -> None:
    """Claims the folders elsewhere that a work directory's links lead to, if they are its own.

    Raises:
      UserError: one of the folders holds files of somebody else.
    """
    record = _Record.read(root)
    if not record:
        return
    for folder, folders, names in os.walk(root, followlinks=True):
        if folder == str(root):
            folders[:] = [name for name in folders if name in _FOLDERS]
            names = [name for name in names if name in _FOLDERS]
        for name in [*folders, *names]:  # a link to nothing is no folder
            path = pathlib.Path(folder, name)
            is_folder = name in folders or folder == str(root) or not path.exists()
            if path.is_symlink() and is_folder:
                _claim_inner(record, path.relative_to(root).as_posix())
        folders[:] = [name for name in folders if name not in _LEAVES]


# Files


def write(root: pathlib.Path, name: str, content: str | bytes) -> None:
    """Writes a file into a work directory, whole or not at all; replaces only a file that was written here.

    Args:
      name: relative to `root`; missing folders are made.

    Raises:
      UserError: `root`, or a file of that name in it, is somebody else's.
    """
    record = _claim(root)
    record.check(name)
    data = content.encode() if isinstance(content, str) else content
    storage.make_folder((root / name).parent.absolute())
    _put(record, name, data)


def _put(record: _Record, name: str, data: bytes, **more: str) -> str:
    """Records a file, with `more` in its line, then writes it; returns its sha256."""
    path, digest = record.folder / name, hashlib.sha256(data).hexdigest()
    temporary = storage.temporary_name(path.name)
    beside = pathlib.PurePosixPath(name).with_name(temporary).as_posix()
    line = {"path": name, "size": len(data), "sha256": digest, "temporary": beside}
    record.append({**line, **more})
    storage.write_beside(path, data, temporary)
    return digest


def write_lines(root: pathlib.Path, name: str, lines: Sequence[str]) -> None:
    """Writes a file of these lines; without any lines it removes the file."""
    if lines:
        write(root, name, "".join(f"{line}\n" for line in lines))
    else:
        remove(root, name)


def remove(root: pathlib.Path, name: str) -> None:
    """Removes a file of a work directory; does nothing if there is none.

    Raises:
      UserError: the file is somebody else's.
    """
    if os.path.lexists(root / name):
        _claim(root).check(name)
        storage.remove_file(root / name)


def check(root: pathlib.Path, *names: str) -> None:
    """Checks that a run may write these files, before it takes hours to make them.

    Raises:
      UserError: a file of that name was not written here, or was changed since.
    """
    if record := _Record.read(root):
        for name in names:
            record.check(name)


def check_recorded(root: pathlib.Path, *folders: str) -> None:
    """Checks that the files that were written into `folders` of a work directory are unchanged.

    Raises:
      UserError: one of them was changed, and a run would write it again.
    """
    if record := _Record.read(root):
        for name in sorted(record.known):
            if name.split("/")[0] in folders:
                record.check(name)


def note(root: pathlib.Path, name: str) -> None:
    """Records a file that a library is about to create and to append to."""
    _claim(root).append({"path": name, "grows": "part"})


class Log:
    """A file of JSON lines in a work directory, to which a run appends; a context manager.

    Args:
      name: relative to `root`.

    Raises:
      UserError: a file of that name was not written here, or was changed since.
    """

    def __init__(self, root: pathlib.Path, name: str):
        self._record = _claim(root)
        self._record.check(name)
        self.path, self._name = root / name, name
        if not self.path.exists():
            self._record.append({"path": name, "grows": "part"})
        storage.make_folder(self.path.parent.absolute())
        with storage.open_to_append(self.path) as file:
            self._seen = _identity(file)
        storage.sync(self.path.parent)
        self._record_content(*_content(self.path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Records its content."""
        # Without this line of the record, the file is still recognised by its beginning.
        with contextlib.suppress(OSError, UserError):
            self._record_content(*_content(self.path))

    def append(self, record: Mapping[str, Any]) -> None:
        """Appends a line.

        Raises:
          UserError: somebody changed the file since the last line was appended.
        """
        with storage.open_to_append(self.path) as file:
            if _identity(file) != self._seen:
                raise UserError(
                    f"{self.path} was changed while this run appends to it: move it away, and the same "
                    "command continues from the last checkpoint"
                )
            storage.append_lines(file, [record])
            file.flush()
            self._seen = _identity(file)

    def sync(self) -> None:
        """Returns when all lines are on disk."""
        storage.sync(self.path)

    def drop(self, tags: Mapping[str, Any], after_step: int) -> None:
        """Removes the lines with these tags past a step, or without a step: they are written again."""
        kept, dropped = self._split(tags, after_step)
        if not dropped:
            return
        data = b"".join(kept)
        # "part": until the rename the file is the old one, perhaps with lines appended.
        digest = _put(self._record, self._name, data, grows="part")
        self._record_content(len(data), digest)
        with storage.open_to_append(self.path) as file:
            self._seen = _identity(file)

    def find(self, tags: Mapping[str, Any]) -> list[str]:
        """Returns the lines with these tags."""
        _, found = self._split(tags, after_step=-1)
        return [line.decode().rstrip("\n") for line in found]

    def _split(
        self, tags: Mapping[str, Any], after_step: int
    ) -> tuple[list[bytes], list[bytes]]:
        """Returns (all other lines, the lines with these tags past a step or without a step)."""
        kept: list[bytes] = []
        found: list[bytes] = []
        advice = "move it away and run this again: it is used only for learning curves"
        for line, record in readback.read_lines(self.path, dict[str, Any], advice):
            has_tags = all(record.get(k) == v for k, v in tags.items())
            step = record.get("step", float("inf"))
            (found if has_tags and step > after_step else kept).append(line)
        return kept, found

    def _record_content(self, size: int, digest: str) -> None:
        if self._record.known[self._name].contents != {(size, digest)}:
            line = {"path": self._name, "size": size, "sha256": digest}
            self._record.append({**line, "grows": "whole"})


def _identity(file: BinaryIO) -> tuple[int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size


# Folders that are replaced as a whole


def check_replaceable(root: pathlib.Path, name: str) -> None:
    """Checks that `replacing` may replace a folder, before it takes hours to make its content.

    Raises:
      UserError: there are files in it that were not written here, or were changed since.
    """
    if (record := _Record.read(root)) and os.path.lexists(root / name):
        _check_whole(_claim_inner(record, name))


def _check_whole(record: _Record) -> None:
    if others := list_others(record.folder):
        raise UserError(
            f"{record.folder} has files that this program did not write, or that were changed since "
            f"({_name_some(others)}), and would be replaced as a whole: "
            "move them away and run this again, or use another --workdir"
        )


@contextlib.contextmanager
def replacing(root: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """Yields a new empty folder, whose content then replaces the content of root/name.

    It is written and renamed inside root/name, which may lie on another disk. While old and new
    are exchanged there is a folder `.old-...` in it; readers wait until it is gone.

    Raises:
      UserError: see `check_replaceable`.
    """
    record = _claim_inner(_claim(root), name)
    _check_whole(record)
    _clean(record)
    folder = record.folder
    new = _make_temporary(record, _NEW)
    try:
        yield new
        lines = []
        for path in sorted(p for p in new.rglob("*") if not os.path.isdir(p)):
            size, digest = _content(path)
            name = path.relative_to(new).as_posix()
            lines.append({"path": name, "size": size, "sha256": digest})
        storage.sync_tree(new)
    except BaseException:
        storage.remove_files(new, lambda _: True)
        raise
    record.append(*lines)
    _check_whole(record)  # nobody put anything there meanwhile
    old = _make_temporary(record, _OLD)
    for path in _entries(folder):
        storage.rename(path, old / path.name)
    for path in list(new.iterdir()):
        storage.rename(path, folder / path.name)
    _clean(record)
    _begin_anew(record, record.id, lines)


def _make_temporary(record: _Record, prefix: str) -> pathlib.Path:
    path = record.folder / f"{prefix}{secrets.token_hex(8)}"
    record.append({"temporary": path.name})
    storage.make_folder(path)
    return path


def _begin_anew(record: _Record, id: str, lines: Sequence[dict[str, Any]]) -> None:
    """Replaces a record by one with only these lines; nobody else may write to its folder meanwhile."""
    temporary = storage.temporary_name(RECORD)
    record.append({"temporary": temporary})
    lines = [*([{"of": record.of}] if record.of else []), *lines]
    text = _head(id, record.inner) + "".join(json.dumps(line) + "\n" for line in lines)
    storage.write_beside(record.folder / RECORD, text, temporary)


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the paths in a folder that `replacing` replaces."""
    kept = (RECORD, *_SYSTEM)
    return [
        path
        for path in sorted(folder.iterdir())
        if path.name not in kept and not path.name.startswith((_NEW, _OLD))
    ]


def _clean(record: _Record) -> None:
    """Removes files that were replaced, and files that a killed process was writing.

    A file that somebody put into the folder at the last moment is put back.
    """
    for name in sorted(record.temporary):
        path = record.folder / name
        # Not if a link on the way leads elsewhere.
        real = os.path.join(os.path.realpath(record.folder), name)
        if os.path.realpath(path) != real:
            continue
        if path.is_symlink() or not os.path.isdir(path):
            if os.path.isfile(path) and not path.is_symlink():
                storage.remove_file(path)
            continue
        building = name.startswith(_NEW)

        def is_ours(file: pathlib.Path, top=path, building=building) -> bool:
            known = record.known.get(file.relative_to(top).as_posix())
            plain = not file.is_symlink() and os.path.isfile(file)
            return building or bool(
                plain and known and _content(file) in known.contents
            )

        for file in storage.remove_files(path, is_ours):
            back = record.folder / file.relative_to(path)
            if not os.path.lexists(back):
                storage.make_folder(back.parent)
                storage.rename(file, back)
        storage.remove_files(path, lambda _: False)  # folders that are empty now


def clean(root: pathlib.Path) -> None:
    """Removes temporary files that a killed process left; the caller holds the work directory."""
    if record := _Record.read(root):
        _clean(record)


# Moving a run away


def list_others(root: pathlib.Path) -> list[str]:
    """Returns the files below a claimed folder that are not this program's, relative to it.

    Raises:
      ValueError: the folder is not claimed.
    """
    record = _Record.read(root)
    if record is None:
        raise ValueError(f"{root} is not claimed")
    return [name for name, ours in _walk(record) if not ours]


def _walk(record: _Record) -> Iterator[tuple[str, bool]]:
    """Yields the name of every file below a folder, and whether it is this program's."""
    top = record.folder
    temporary = [top / name for name in record.temporary]
    for folder, folders, names in os.walk(top):
        here = pathlib.Path(folder)
        if here.parent == top and here.name in _REPLACED:
            inner = None
            with contextlib.suppress(UserError):
                inner = _Record.read(here)
            if inner and inner.inner and inner.id == record.id:
                below = here.relative_to(top).as_posix()
                yield from ((f"{below}/{name}", ours) for name, ours in _walk(inner))
                folders.clear()
                continue
        for name in sorted([*names, *(n for n in folders if (here / n).is_symlink())]):
            path = here / name
            below = path.relative_to(top).as_posix()
            inside = any(path.is_relative_to(t) for t in temporary)
            system = name in _SYSTEM
            yield below, inside or system or _is_ours(record, below)


def _is_ours(record: _Record, name: str) -> bool:
    if name == _LOCK or _WANDB.fullmatch(name):
        return True
    if found := _CHECKPOINT.fullmatch(name):
        return is_of_checkpoint(record.folder / found["folder"], found["name"])
    return record.owns(name)


def is_of_checkpoint(folder: pathlib.Path, name: str) -> bool:
    """Whether a file in a checkpoint was written by this program: the manifest lists it.

    Without a readable manifest, as after a killed save, files with Orbax's names count.
    """
    path = folder / name
    if path.is_symlink() or not os.path.isfile(path):
        return False
    return bool(_ORBAX.fullmatch(name)) or name in _list_manifest(folder)


def _list_manifest(folder: pathlib.Path) -> frozenset[str]:
    """Returns the names of files in a checkpoint's manifest, none if it is damaged."""
    try:
        content = readback.read_bytes(folder / "manifest.json")
        return frozenset(readback.parse(content, dict[str, Any])["files"])
    except (OSError, UserError, ValueError, KeyError, TypeError):
        return frozenset()


def move(root: pathlib.Path, folder: pathlib.Path, to: pathlib.Path) -> None:
    """Moves a folder of a work directory to another place in it.

    Args:
      to: nothing exists at this path; its parents are made.

    Raises:
      UserError: a file in the folder is somebody else's.
    """
    record = _claim(root)
    lines = []
    for path in (
        p for p in sorted(folder.rglob("*")) if p.is_symlink() or not os.path.isdir(p)
    ):
        name = path.relative_to(root).as_posix()
        if not _is_ours(record, name):
            raise UserError(
                f"{folder} is to be moved to {to}, and {path.name} in it was not written by this "
                "program, or was changed since: move that away and run this again"
            )
        for size, digest in record.known[name].contents if name in record.known else ():
            new = (to / path.relative_to(folder)).relative_to(root).as_posix()
            lines.append({"path": new, "size": size, "sha256": digest})
    record.append(*lines)
    storage.make_folder(to.parent.absolute())
    storage.rename(folder, to)


def set_aside(root: pathlib.Path, to: pathlib.Path) -> list[str]:
    """Moves this program's files from a work directory to a new one; other files stay.

    Args:
      to: nothing exists at this path.

    Returns:
      The files that stay, relative to `root`.

    Raises:
      UserError: a file that stays lies where a new run would write.
      OSError: a file cannot be moved.
    """
    record = _Record.read(root)
    if record is None:
        raise ValueError(f"{root} is not claimed")
    others = [name for name, ours in _walk(record) if not ours]
    for name in others:
        if name in _FOLDERS and (root / name).is_symlink():
            raise UserError(
                f"--fresh does not move what a link leads to, as {root / name} is one: use another "
                "--workdir"
            )
        if name in record.known or name.split("/")[0] in _FOLDERS:
            raise UserError(
                f"--fresh moves only what this program wrote, and {root / name} is in its way, which it "
                "did not write or which was changed since: move that away, or use another --workdir"
            )
    if not others and not root.is_symlink():
        storage.rename(root, to)
        return []
    to.mkdir()
    storage.sync(to.parent)
    # First the record, so that both count as work directories of a run while files are moved.
    with storage.open_to_append(to / RECORD) as file:
        file.write((root / RECORD).read_bytes())
        file.flush()
        os.fsync(file.fileno())
    stay = {
        root / parent
        for name in others
        for parent in [name, *map(str, pathlib.PurePosixPath(name).parents)]
    }
    kept = (RECORD, _LOCK, *_SYSTEM)  # the lock is held
    _move(root, to, stay, {root / name for name in kept})
    _begin_anew(record, _draw_id(), [])
    return others


def _head(id: str, inner: bool = False) -> str:
    """Returns the first line of a record."""
    head = {"program": _PROGRAM, "version": __version__, "id": id}
    return json.dumps({**head, **({"inner": True} if inner else {})}) + "\n"


def _move(
    folder: pathlib.Path,
    to: pathlib.Path,
    stay: set[pathlib.Path],
    kept: set[pathlib.Path],
) -> None:
    """Moves the entries of a folder, except `kept`; folders in `stay` are moved entry by entry."""
    for path in sorted(folder.iterdir()):
        if path in kept:
            continue
        if path not in stay:
            storage.make_folder(to)
            storage.rename(path, to / path.name)
        elif os.path.isdir(path) and not path.is_symlink():
            _move(path, to / path.name, stay, kept)
