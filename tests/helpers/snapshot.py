"""What lies in a folder, to compare it with what lay there before."""

import os
import pathlib


def snapshot(folder: pathlib.Path) -> dict[str, object]:
    """Every path below a folder: a file's content, a link's target, None for a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found
