"""Malicious archives, pinned as if they were the official ones, through `cglo_jax.prepare`.

Each is prepared in a process of its own, of few bytes of memory, in a folder that is compared
before and after: no byte may be written outside the data directory, whatever the archive says.
"""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.data.archives_test import check_cifar, cifar_members, tar_info

ROOT = Path(__file__).parents[2]
SECONDS = 60  # until it counts as hanging
GOOD = "is prepared in"
FIRST, *_, LAST = cifar_members()  # names
# Prepares each archive of a JSON list in a child process of its own: status and output.
DRIVE = f"""
import json, os, resource, signal, sys
from pathlib import Path
import tensorflow_datasets as tfds
from cglo_jax.files import download
from cglo_jax import prepare
from cglo_jax.data import archives
tfds.builder_cls("cifar100")  # before any child is born
results, listed = {{}}, json.loads(sys.argv[1])
for name, (size, sha256) in listed.items():
    with open(Path(name, "out"), "w+b") as out:
        if not (child := os.fork()):
            for stream in (1, 2):
                os.dup2(out.fileno(), stream)
            os.chdir(Path(name, "work"))
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 26, 1 << 26))
            signal.alarm({SECONDS})
            pinned = archives.ARCHIVES["cifar100"][0]._replace(size=size, sha256=sha256)
            archives.ARCHIVES["cifar100"] = [pinned]
            sys.exit(prepare.main(["cifar100", "--data_dir=data", "--archive=a.tar.gz"]))
        pid, status, usage = os.wait4(child, 0)
        out.seek(0)
        code = os.waitstatus_to_exitcode(status)
        results[name] = [code, out.read().decode(), usage.ru_maxrss * 1024]
print(json.dumps(results))
"""


def tar_of(entries: list[tuple[tarfile.TarInfo, bytes]], **options: object) -> bytes:
    """A .tar.gz of entries; the size of one is its content's."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1, **options) as tar:
        for info, content in entries:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def good() -> list[tuple[tarfile.TarInfo, bytes]]:
    return [(tar_info(name), content) for name, content in cifar_members().items()]


def link(name: str, kind: bytes, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return tar_info(name, kind, target), b""


def changed(name: str, kind: bytes, target: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The good members, of which one is something else."""
    return [
        (link(name, kind, target) if info.name == name else (info, content))
        for info, content in good()
    ]


def with_pax(headers: dict[str, str]) -> bytes:
    entries = good()
    entries[-1][0].pax_headers = headers
    return tar_of(entries, format=tarfile.PAX_FORMAT)


def ending(header: bytes, content: bytes = b"") -> bytes:
    """The good members, of which the last one is this."""
    start = gzip.decompress(tar_of(good()[:-1])).rstrip(b"\0")
    blocks = [start, header, content, bytes(1024)]
    return gzip.compress(b"".join(b + bytes(-len(b) % 512) for b in blocks), 1)


def declared(size: int) -> bytes:
    """The good members, the last of which says to have `size` bytes."""
    info, content = good()[-1]
    info.size = size
    return ending(info.tobuf(tarfile.GNU_FORMAT), content)


def sparse(size: int) -> bytes:
    """The good members, the last of which is a hole of `size` bytes, by GNU's header."""
    info, _ = good()[-1]
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (size, 0)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return ending(bytes(header))


def replaced(name: str, content: bytes) -> bytes:
    return tar_of([(i, content if i.name == name else c) for i, c in good()])


def archives(outside: Path) -> Iterator[tuple[str, bytes, str]]:
    """(what is wrong, .tar.gz, what is said of it); `outside` is what must stay as it is."""
    kinds = {
        "symbolic link": (tarfile.SYMTYPE, str(outside / "secret")),
        "hard link": (tarfile.LNKTYPE, "../../outside/secret"),
        "pipe": (tarfile.FIFOTYPE, ""),
        "character device": (tarfile.CHRTYPE, ""),
        "block device": (tarfile.BLKTYPE, ""),
        "folder": (tarfile.DIRTYPE, ""),
    }
    for what, (kind, target) in kinds.items():
        yield what, tar_of(changed(LAST, kind, target)), f"{LAST} is not a file"
    evil = [
        (tar_info(name), b"evil")
        for name in ("../evil", f"{outside}/evil", "a/../../evil")
    ]
    yield "paths that lead out", tar_of([*evil, *good()]), GOOD
    through = [
        link("cifar-100-binary", tarfile.SYMTYPE, str(outside)),
        (tar_info("cifar-100-binary/secret"), b"evil"),
        link("up", tarfile.SYMTYPE, ".."),
        (tar_info("up/evil"), b"evil"),
    ]
    yield "a link and writing through it", tar_of([*through, *good()]), GOOD
    yield (
        "setuid",
        tar_of([(with_mode(tar_info("evil"), 0o6777), b"evil"), *good()]),
        GOOD,
    )
    yield "a member twice", tar_of([*good(), *((i, b"other") for i, _ in good())]), GOOD
    yield (
        "a member twice, empty first",
        tar_of([(tar_info(FIRST), b""), *good()]),
        "error: ",
    )
    yield "terabytes", declared(1 << 40), f"{LAST} is not a file of <= 268435456 bytes"
    yield "more than there is", declared(200 << 20), "cannot be read as a .tar.gz"
    yield "a negative size", declared(-1024), "error: "
    yield "a hole of gigabytes", sparse(7 << 30), f"{LAST} is not a file of <="
    yield "a hole of megabytes", sparse(200 << 20), "error: "
    yield (
        "a bomb that is not asked for",
        tar_of([(tar_info("z"), bytes(300 << 20)), *good()]),
        GOOD,
    )
    yield "a bomb that is", replaced(LAST, bytes(255 << 20)), "error: "
    yield (
        "a name of a megabyte",
        tar_of([(tar_info("n" * (1 << 20)), b""), *good()]),
        GOOD,
    )
    yield "a name of bytes", tar_of([(tar_info("\udcff\udcfe\n"), b""), *good()]), GOOD
    yield "a path by PAX", with_pax({"path": "../../evil"}), "lacks 1 members"
    yield "a size by PAX", with_pax({"size": "9" * 15}), f"{LAST} is not a file of <="
    yield "no size by PAX", with_pax({"size": "-1"}), "error: "
    yield (
        "no number by PAX",
        with_pax({"GNU.sparse.map": "1,x", "GNU.sparse.size": "x"}),
        "error: ",
    )
    whole = tar_of(good())
    yield "the beginning only", whole[: len(whole) // 2], "cannot be read as a .tar.gz"
    yield "a header only", gzip.compress(gzip.decompress(whole)[:700]), "cannot be read"
    yield "garbage behind", whole + os.urandom(5000), GOOD
    yield (
        "garbage within",
        whole[:3000] + bytes(100) + whole[3100:],
        "error: ",
    )
    yield "nothing", b"", "cannot be read as a .tar.gz"
    yield "no gzip", gzip.decompress(whole), "cannot be read as a .tar.gz"
    yield "no tar", gzip.compress(b"text" * 1000), "cannot be read as a .tar.gz"
    yield "a broken record", replaced(LAST, bytes(3073)), "error: "
    yield "no records", replaced(LAST, b""), "error: "
    yield "labels that are not there", replaced(LAST, b"\xff" * 3074), "error: "
    yield "names that are not text", replaced(FIRST, b"\xff\xfe\n" * 100), "error: "
    paths = "".join(f"../../../evil{i}\n" for i in range(100))
    yield "classes that are paths", replaced(FIRST, paths.encode()), GOOD


def with_mode(info: tarfile.TarInfo, mode: int) -> tarfile.TarInfo:
    info.mode = mode
    return info


def tree(folder: Path) -> dict[str, object]:
    """Everything below a folder but the data directories and what the driver printed."""
    return {
        str(p): (p.lstat().st_mode, p.lstat().st_size, p.is_file() and p.read_bytes())
        for p in sorted(folder.rglob("*"))
        if "data" not in p.parts and p.name not in ("out", "work")
    }


class Outcome(NamedTuple):
    expected: str
    status: int
    text: str
    memory: int
    folder: Path
    before: dict[str, object]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, Outcome]:
    base = tmp_path_factory.mktemp("archives")
    (base / "outside").mkdir()
    (base / "outside/secret").write_bytes(cifar_members()[LAST])
    listed, expected = {}, {}
    for i, (what, content, said) in enumerate(archives(base / "outside")):
        folder = base / str(i)
        (folder / "work").mkdir(parents=True)
        (folder / "work/a.tar.gz").write_bytes(content)
        listed[str(folder)] = len(content), hashlib.sha256(content).hexdigest()
        expected[str(folder)] = what, said
    before = tree(base)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DRIVE, json.dumps(listed)],
        cwd=base,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    results = json.loads(done.stdout)
    return {
        what: Outcome(said, *results[folder], Path(folder), before)
        for folder, (what, said) in expected.items()
    }


def test_nothing_is_written_outside_the_data_directory(outcomes):
    assert len(outcomes) >= 30
    one = next(iter(outcomes.values()))
    assert tree(one.folder.parent) == one.before


def test_each_is_prepared_or_refused_in_one_line(outcomes):
    wrong = {}
    for what, (expected, status, text, *_) in outcomes.items():
        one_line = text.startswith("error: ") and text.find("\n") == len(text) - 1
        fits = (status == 0) if expected == GOOD else (status == 2 and one_line)
        if not fits or expected not in text:
            wrong[what] = status, text[-200:]
    assert wrong == {}


def test_what_is_refused_leaves_nothing(outcomes):
    for what, outcome in outcomes.items():
        data = outcome.folder / "work/data"
        if outcome.expected != GOOD:
            assert [*data.iterdir()] == [], what
        elif what != "classes that are paths":
            check_cifar(data)


def test_it_takes_less_than_a_gigabyte(outcomes):
    peaks = {what: outcome.memory / 1e6 for what, outcome in outcomes.items()}
    assert max(peaks.values()) < 1000, peaks
