"""A folder with a fixed name to work in, where only files that we made ourselves are changed or removed.

A marker file lists what we made in the folder; a name is added before its file is made, so it also lists
the files of a killed run. A folder without the marker, and a file that is not listed, belong to somebody else.
"""

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

from cglo_jax.errors import UserError
from cglo_jax.files import storage

MARKER = ".made-by-cglo_jax"
_FIRST = "What is listed here may be removed by cglo_jax."


class WorkingFolder:
    """Makes a folder, or takes one that an earlier run made.

    Args:
      folder: its path; the parent exists.

    Raises:
      UserError: the path is not a folder, or has files and no marker.
    """

    def __init__(self, folder: Path):
        self.path = folder
        self._marker = folder / MARKER
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        if folder.is_symlink() or not folder.is_dir():
            raise UserError(f"{folder} is not a folder of ours: move it away")
        if not os.listdir(folder):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | storage.GUARDED
            with open(os.open(self._marker, flags, 0o644), "w") as file:
                print(_FIRST, file=file)
        elif self._read()[:1] != [_FIRST]:
            raise UserError(
                f"{folder} has files, and none that says that this program made it: move it away"
            )

    def _read(self) -> list[str]:
        if not _is_regular(self._marker):
            return []
        return self._marker.read_text(encoding="utf-8", errors="replace").splitlines()

    def _names(self) -> list[str]:
        """Returns the names that the marker lists and that lie in this very folder."""
        plain = re.compile(r"(?!\.{1,2}/?$)[^/\0]+/?")
        return [name for name in self._read()[1:] if plain.fullmatch(name)]

    def claim(self, name: str) -> Path:
        """Returns the path of a file, or a folder "name/", that we make or made in an earlier run.

        Raises:
          UserError: somebody else's file has that name.
        """
        path = self.path / name
        if name not in self._names():
            if os.path.lexists(path):
                raise UserError(f"{path} was not made by this program: move it away")
            flags = os.O_WRONLY | os.O_APPEND | storage.GUARDED
            with open(os.open(self._marker, flags), "w") as file:
                print(name, file=file)
        return path

    def make_folder(self, prefix: str) -> Path:
        """Makes a folder of this user alone, with a name that nobody can foresee."""
        path = self.claim(f"{prefix}{secrets.token_hex(8)}/")
        path.mkdir(mode=0o700)
        return path

    def remove_folders(self, files: re.Pattern) -> None:
        """Removes from the folders that we made the files whose names match `files`, then empty folders."""

        def is_made(path: Path) -> bool:
            return files.fullmatch(path.name) is not None and _is_regular(path)

        for name in self._names():
            path = self.path / name
            if name.endswith("/") and path.is_dir() and not path.is_symlink():
                storage.remove_files(path, is_made)

    def remove(self) -> None:
        """Removes the files that we made, then the folder unless it has others."""
        for name in self._names():
            if _is_regular(self.path / name):
                (self.path / name).unlink()
        self.leave()

    def leave(self) -> None:
        """Removes the folder if nothing but the marker is in it."""
        with contextlib.suppress(OSError):
            if os.listdir(self.path) == [MARKER]:
                self._marker.unlink()
                self.path.rmdir()


def _is_regular(path: Path) -> bool:
    """Whether this is a file, no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
