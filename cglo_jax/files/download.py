"""Official archives: downloaded, verified against a pinned sha256, read in memory."""

import contextlib
import hashlib
import http.client
import os
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

from cglo_jax.errors import UserError
from cglo_jax.files import storage

ATTEMPTS = (
    3  # a download gives up after so many failures in a row without a byte gained
)
RETRY_SECONDS = 1.0  # before the next attempt; doubles with each failure in a row
TIMEOUT_SECONDS = 30.0  # without data from the server
MIB = 1 << 20


class Archive(NamedTuple):
    """An official file, with the size and sha256 of TFDS's url_checksums/<data set>.txt."""

    option: str  # the command's option for a copy downloaded by hand
    filename: str
    url: str
    size: int  # bytes
    sha256: str


def size_of(part: Path) -> int:
    """Returns the size in bytes of a download so far, 0 if there is no file.

    Raises:
        UserError: it is not a regular file, or has a second name.
    """
    try:
        status = part.lstat()
    except FileNotFoundError:
        return 0
    _check_file(part, status)
    return status.st_size


def _check_file(part: Path, status: os.stat_result) -> None:
    """Refuses a file whose writing would block, or change a file with another name."""
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise UserError(
            f"{part} is not a file of a download alone, but a link, a folder, a pipe or the like: "
            "move it away"
        )


@contextlib.contextmanager
def _open_part(part: Path, keep: bool) -> Iterator[BinaryIO]:
    """Opens a download to append to it, and empties it first unless `keep`; follows no link.

    `storage.open_to_append` would copy a file that has a second name. Here it is refused, as a download
    may have a gigabyte.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | storage.GUARDED
    with open(os.open(part, flags, 0o644), "wb", buffering=0) as file:
        _check_file(part, os.fstat(file.fileno()))
        if not keep:
            file.truncate(0)
        yield file


@contextlib.contextmanager
def nonsense_is_oserror() -> Iterator[None]:
    """Raises an OSError for any exception that a nonsensical answer of a server causes."""
    try:
        yield
    except (OSError, http.client.HTTPException, UserError):
        raise
    except Exception as error:  # of urllib, the codecs and sockets below
        text = f"the server's answer makes no sense ({type(error).__name__}: {error})"
        raise OSError(text) from error


def fetch(archive: Archive, part: Path) -> None:
    """Appends to `part` the bytes of `archive` that it lacks, over one connection.

    Raises:
        OSError, http.client.HTTPException: the connection failed or ended early, or
            the server has another file.
        UserError: `part` is no file of ours.
    """
    with nonsense_is_oserror():
        _fetch(archive, part)


def _fetch(archive: Archive, part: Path) -> None:
    have = size_of(part)
    if have == archive.size:
        return
    headers = {"User-Agent": "cglo-jax"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(archive.url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # not satisfiable: `part` is not the start of this file
            part.unlink(missing_ok=True)
        raise
    with response:
        if response.status != 206:  # the server knows no ranges and sends everything
            have = 0
        elif f"bytes {have}-" not in response.headers.get("Content-Range", ""):
            raise OSError("the server sent another range")
        size = have + int(response.headers.get("Content-Length", archive.size - have))
        if size != archive.size:
            raise OSError(f"the server has {size} bytes, not {archive.size}")
        progress = {"initial": have, "total": size, "unit": "B", "unit_scale": True}
        bar = tqdm(desc=archive.filename, disable=None, **progress)
        with bar, _open_part(part, keep=have > 0) as file:
            # Into a buffer: `read` takes a chunk of negative length for the end of the answer.
            buffer = memoryview(bytearray(MIB // 4))
            while count := response.readinto(buffer[: size - have]):
                _write_all(file, buffer[:count])
                have += count
                bar.update(count)
    if have < size:
        raise OSError(f"the connection ended after {have} of {size} bytes")


def _write_all(file: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def keep_trying(fetch_more: Callable[[], None], count: Callable[[], int]) -> None:
    """Calls `fetch_more` until it succeeds; each call continues where the last call ended.

    Args:
        fetch_more: fetches what is missing.
        count: returns how many bytes were fetched so far.

    Raises:
        OSError, http.client.HTTPException: the last of ATTEMPTS failures in a row
            without a byte gained.
    """
    best, failures = count(), 0
    while True:
        try:
            return fetch_more()
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it holds the connection
            failures = 0 if count() > best else failures + 1
            best = max(best, count())
            if failures == ATTEMPTS:
                raise
            time.sleep(RETRY_SECONDS * 2**failures)


def download(archive: Archive, folder: Path) -> Path:
    """Downloads `archive` into `folder`, continuing where an earlier run stopped.

    Returns:
        The verified file; until it is verified it is called `<filename>.part`.

    Raises:
        UserError: it cannot be downloaded, or is not the official file (and was removed).
    """
    path, part = folder / archive.filename, folder / f"{archive.filename}.part"
    if size_of(path):  # from a run that was stopped later: it is verified again
        path.replace(part)
    by_hand = f"or download it by hand and pass {archive.option} FILE"
    try:
        keep_trying(lambda: fetch(archive, part), lambda: size_of(part))
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"{archive.url} could not be downloaded ({storage.explain(error)}): "
            f"run this again to continue, {by_hand}"
        ) from error
    try:
        verify(archive, part, archive.url)
    except UserError as error:
        part.unlink()
        raise UserError(f"{error}; removed it: run this again, {by_hand}") from None
    return part.replace(path)


def verify(archive: Archive, path: Path, source: str) -> Path:
    """Returns `path` if it holds `archive`; if not, raises UserError naming `source`."""
    if not path.is_file():
        raise UserError(f"{source}: there is no such file")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != archive.sha256:
        raise UserError(
            f"{source} is not the official {archive.filename} "
            f"(its sha256 is {found[:12]}..., not {archive.sha256[:12]}...)"
        )
    return path


def read_members(
    path: Path, names: Iterable[str], limit: int
) -> Iterator[tuple[str, bytes]]:
    """Yields (name, content) of the named members of a .tar.gz, in the archive's order.

    Raises:
        UserError: the archive is broken, or a named member is absent, longer than
            `limit` bytes or not a plain file. Other members are skipped.
    """
    missing = set(names)
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                if (name := member.name.removeprefix("./")) not in missing:
                    continue
                if not member.isreg() or not 0 <= member.size <= limit:
                    raise UserError(f"{path}: {name} is not a file of <= {limit} bytes")
                yield name, tar.extractfile(member).read()
                missing.remove(name)
                if not missing:
                    return
    except (tarfile.TarError, EOFError, zlib.error, ArithmeticError) as error:
        raise UserError(f"{path} cannot be read as a .tar.gz: {error}") from error
    if missing:
        raise UserError(f"{path} lacks {len(missing)} members, such as {min(missing)}")
