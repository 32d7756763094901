"""Tests of cglo_jax/data/archives.py and prepare.py: made-up archives -> prepared directories."""

import fcntl
import hashlib
import http.server
import io
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cglo_jax import prepare
from cglo_jax.data import archives
from cglo_jax.errors import UserError
from cglo_jax.files import download
from cglo_jax.files.working_folder import MARKER, WorkingFolder
from configs import cifar10 as cifar10_config
from tests.helpers.tiny import error_of

ROOT = Path(__file__).parents[2]
FINE = [f"fine_{i}" for i in range(100)]
COARSE = [f"coarse_{i}" for i in range(20)]
CIFAR_SIZES = {"train": 7, "test": 3}
# index -> (path, in train, bounding box [x, y, width, height], image mode, mask mode)
BIRDS = {
    "1": ("001.Grey_Gull/Grey_Gull_0001_1.jpg", 1, (2, 3, 10, 12), "RGB", "L"),
    "2": ("001.Grey_Gull/Grey_Gull_0002_2.jpg", 0, (0, 0, 24, 16), "RGB", "L"),
    "3": ("200.Old_Wren/Old_Wren_0001_3.jpg", 1, (20, 10, 5.5, 7), "L", "L"),
    "4": ("200.Old_Wren/Old_Wren_0002_4.jpg", 0, (6, 4, 6, 8), "RGB", "LA"),
}
WIDTH, HEIGHT = 24, 16


@pytest.fixture(autouse=True)
def _quick_and_alone(monkeypatch):
    monkeypatch.setattr(download, "RETRY_SECONDS", 0.0)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def write_tar(path: Path, members: dict[str, bytes], extra=()) -> Path:
    """Writes a .tar.gz of `members`, after the TarInfos of `extra`."""
    with tarfile.open(path, "w:gz") as tar:
        for info in extra:
            tar.addfile(info, io.BytesIO(b"x" * info.size))
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def encode(image: np.ndarray | Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def cifar_examples(split: str):
    """Returns (images [n, 32, 32, 3], fine labels, coarse labels), made up."""
    rng = np.random.default_rng(len(split))
    n = CIFAR_SIZES[split]
    images = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
    return images, rng.integers(0, 100, n), rng.integers(0, 20, n)


def cifar_members() -> dict[str, bytes]:
    members = {
        "cifar-100-binary/fine_label_names.txt": "\n".join(FINE).encode() + b"\n\n",
        "cifar-100-binary/coarse_label_names.txt": "\n".join(COARSE).encode() + b"\n",
    }
    for split in CIFAR_SIZES:
        records = b""
        for image, fine, coarse in zip(*cifar_examples(split), strict=True):
            planes = [image[:, :, channel].tobytes() for channel in range(3)]
            records += bytes([coarse, fine]) + b"".join(planes)
        members[f"cifar-100-binary/{split}.bin"] = records
    return members


CIFAR10_NAMES = [f"class_{i}" for i in range(10)]
CIFAR10_BATCHES = (2, 1, 2, 1, 1)  # images in each of the five files of training images


def cifar10_members() -> dict[str, bytes]:
    """The images of `cifar_examples`, whose labels are the fine ones modulo 10."""
    records = {
        split: [
            bytes([fine % 10]) + image.transpose(2, 0, 1).tobytes()
            for image, fine, _ in zip(*cifar_examples(split), strict=True)
        ]
        for split in CIFAR_SIZES
    }
    left, members = iter(records["train"]), {}
    names = "\n".join(CIFAR10_NAMES).encode()
    members["cifar-10-batches-bin/batches.meta.txt"] = names + b"\n\n"
    for i, n in enumerate(CIFAR10_BATCHES, 1):
        batch = b"".join(next(left) for _ in range(n))
        members[f"cifar-10-batches-bin/data_batch_{i}.bin"] = batch
    members["cifar-10-batches-bin/readme.html"] = b"<html></html>"
    members["cifar-10-batches-bin/test_batch.bin"] = b"".join(records["test"])
    return members


def bird_files(birds=BIRDS) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Returns the members of CUB_200_2011.tgz and of segmentations.tgz."""
    rng = np.random.default_rng(0)
    images, masks, tables = {}, {}, {"images": "", "train_test_split": ""}
    tables["bounding_boxes"] = ""
    for index, (path, train, box, mode, mask_mode) in birds.items():
        shape = (HEIGHT, WIDTH, 3) if mode == "RGB" else (HEIGHT, WIDTH)
        folder, name = path.split("/")
        image = encode(rng.integers(0, 256, shape, np.uint8), "JPEG")
        images[f"CUB_200_2011/images/{path}"] = image
        images[f"CUB_200_2011/images/{folder}/._{name}"] = b"left by a Mac"
        mask = rng.integers(0, 256, (HEIGHT, WIDTH, len(mask_mode)), np.uint8)
        mask = mask[:, :, 0] if mask_mode == "L" else mask
        masks[f"segmentations/{path[:-4]}.png"] = encode(mask, "PNG")
        tables["images"] += f"{index} {path}\n"
        tables["train_test_split"] += f"{index} {train}\n"
        tables["bounding_boxes"] += f"{index} {' '.join(f'{v:.1f}' for v in box)}\n"
    for name, text in tables.items():
        images[f"CUB_200_2011/{name}.txt"] = text.encode()
    return images, masks


def pin(monkeypatch, name: str, *paths: Path, url: str = "http://127.0.0.1:9/") -> None:
    """Makes `paths` the official archives of data set `name`, at `url`<file name>."""
    pinned = [
        archive._replace(
            url=f"{url}{path.name}",
            size=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for archive, path in zip(archives.ARCHIVES[name], paths, strict=True)
    ]
    monkeypatch.setitem(archives.ARCHIVES, name, pinned)


@pytest.fixture
def cifar(tmp_path, monkeypatch) -> Path:
    """A made-up cifar-100-binary.tar.gz, taken for the official one."""
    path = write_tar(tmp_path / "cifar-100-binary.tar.gz", cifar_members())
    pin(monkeypatch, "cifar100", path)
    return path


def run(*args) -> int:
    return prepare.main([str(arg) for arg in args])


def run_apart(args, before: str = "", path: Path = ROOT) -> subprocess.CompletedProcess:
    """Runs the command in a process of its own, after the statements `before`."""
    (archive,) = archives.ARCHIVES["cifar100"]
    code = (
        "import sys\n"
        "from cglo_jax.files import download; from cglo_jax import prepare\n"
        "from cglo_jax.data import archives\n"
        f"archives.ARCHIVES['cifar100'] = [download.Archive(*{tuple(archive)!r})]\n"
        f"{before}\n"
        "sys.exit(prepare.main(sys.argv[1:]))\n"
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, args)],
        env=os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


def error_line(capfd) -> str:
    """Returns what is on stderr, which must be one line beginning 'error: '."""
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def check_cifar(data_dir: Path) -> None:
    """Asserts that the prepared cifar100 is the made-up one, and nothing else is there."""
    assert os.listdir(data_dir) == ["cifar100"]
    assert os.listdir(data_dir / "cifar100") == ["3.0.2"]
    for split, n in CIFAR_SIZES.items():
        source = tfds.data_source("cifar100", split=split, data_dir=data_dir)
        images, fine, coarse = cifar_examples(split)
        seen = set()
        for example in source:
            name, index = example["id"].decode().split("_")
            seen.add(int(index))
            assert (name, len(index)) == (split, 5)
            np.testing.assert_array_equal(example["image"], images[int(index)])
            assert example["label"] == fine[int(index)]
            assert example["coarse_label"] == coarse[int(index)]
        assert (len(source), seen) == (n, set(range(n)))
    features = tfds.builder("cifar100", data_dir=data_dir).info.features
    assert features["label"].names == FINE
    assert features["coarse_label"].names == COARSE


def test_pins_are_those_of_tfds():
    for name, official in archives.ARCHIVES.items():
        known = tfds.builder_cls(name).url_infos
        for archive in official:
            info = known[archive.url]
            pinned = (info.checksum, info.size, info.filename)
            assert (archive.sha256, archive.size, archive.filename) == pinned


def test_cifar100_reads_back(tmp_path, cifar, capfd):
    data_dir = tmp_path / "my data"
    assert run("cifar100", "--data_dir", data_dir, "--archive", cifar) == 0
    check_cifar(data_dir)
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 2  # nothing of TFDS's
    assert err == ""  # no "OpenCV is not installed", no bars in a log
    assert f"{data_dir / 'cifar100' / '3.0.2'} (7 train, 3 test images)" in out
    command = shlex.split(out.splitlines()[-1])
    assert command[:4] == [
        "python",
        "-m",
        "cglo_jax.main",
        "--config=cifar100:10",
    ]
    assert command[-1] == f"--config.dataset.data_dir={data_dir}"


@pytest.fixture
def cifar10(tmp_path, monkeypatch) -> Path:
    """A made-up cifar-10-binary.tar.gz, taken for the official one."""
    path = write_tar(tmp_path / "cifar-10-binary.tar.gz", cifar10_members())
    pin(monkeypatch, "cifar10", path)
    return path


def test_cifar10_reads_back(tmp_path, cifar10, capfd):
    data_dir = tmp_path / "data"
    assert run("cifar10", "--data_dir", data_dir, "--archive", cifar10) == 0
    assert os.listdir(data_dir) == ["cifar10"]
    out, err = capfd.readouterr()
    assert "(7 train, 3 test images)" in out and err == ""
    assert "--config=cifar10:10 --workdir=runs/cifar10-10 " in out
    features = tfds.builder("cifar10", data_dir=data_dir).info.features
    assert features["label"].names == CIFAR10_NAMES
    for split, n in CIFAR_SIZES.items():
        images, fine, _ = cifar_examples(split)
        source = tfds.data_source("cifar10", split=split, data_dir=data_dir)
        found = {example["id"].decode(): example for example in source}
        assert sorted(found) == [f"{split}_{i:05d}" for i in range(n)]
        for name, example in found.items():
            index = int(name[-5:])
            np.testing.assert_array_equal(example["image"], images[index])
            assert example["label"] == fine[index] % 10
    fields = cifar10_config.get_config("1").dataset
    fields.update(data_dir=str(data_dir), shots=0)
    labels = set(cifar_examples("train")[1] % 10)
    missing = next(name for i, name in enumerate(CIFAR10_NAMES) if i not in labels)
    assert error_of(fields).startswith(f"class {missing!r} (label {missing[-1]}) has")


def _cut(members: dict[str, bytes]) -> dict[str, bytes]:
    """Moves ten bytes from one file to another: the records of both together are as many."""
    one, other = (f"cifar-10-batches-bin/data_batch_{i}.bin" for i in (1, 2))
    return members | {one: members[one][:-10], other: members[other] + bytes(10)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_batch_3.bin": None}, "lacks 1 members"),
        ({"data_batch_3.bin": b"\x0a" + bytes(3072)}, "cannot be read as cifar10"),
        ({"test_batch.bin": bytes(3074)}, "cannot be read as cifar10"),
        ({"test_batch.bin": b""}, "cannot be read as cifar10"),
        ({"batches.meta.txt": b"a\nb\n"}, "cannot be read as cifar10"),
        ({"batches.meta.txt": b"\xff\xfe\n"}, "cannot be read as cifar10"),
        (_cut, "cannot be read as cifar10"),
    ],
    ids=["missing", "label", "long", "empty", "names", "bytes", "moved"],
)
def test_a_cifar10_that_lies_is_refused(tmp_path, monkeypatch, capfd, change, said):
    members = cifar10_members()
    if callable(change):
        members = change(members)
    else:
        changed = {f"cifar-10-batches-bin/{k}": v for k, v in change.items()}
        members = {k: v for k, v in (members | changed).items() if v is not None}
    path = write_tar(tmp_path / "cifar-10-binary.tar.gz", members)
    pin(monkeypatch, "cifar10", path)
    data_dir = tmp_path / "data"
    assert run("cifar10", "--data_dir", data_dir, "--archive", path) == 2
    assert said in error_line(capfd)
    assert list(data_dir.iterdir()) == []


def test_hostile_members_of_a_cifar10(tmp_path, monkeypatch, capfd):
    folder, evil = "cifar-10-batches-bin", [tar_info("../../evil", size=4)]
    evil.append(tar_info(folder, tarfile.SYMTYPE, link=str(tmp_path)))
    (tmp_path / "work").mkdir()
    path = write_tar(tmp_path / "work/a.tar.gz", cifar10_members(), evil)
    pin(monkeypatch, "cifar10", path)
    before = tree(tmp_path)
    data_dir = tmp_path / "work/data"
    assert run("cifar10", "--data_dir", data_dir, "--archive", path) == 0
    new = set(tree(tmp_path)) - set(before)
    assert all(Path(p).is_relative_to(data_dir) for p in new)
    members = cifar10_members()
    del members[f"{folder}/data_batch_5.bin"]
    link = tar_info(f"{folder}/data_batch_5.bin", tarfile.SYMTYPE, link="/etc/passwd")
    pin(monkeypatch, "cifar10", write_tar(path, members, [link]))
    assert run("cifar10", "--data_dir", tmp_path / "two", "--archive", path) == 2
    assert "data_batch_5.bin is not a file" in error_line(capfd)


def test_a_second_run_says_so_and_touches_nothing(tmp_path, cifar, capfd):
    data_dir = tmp_path / "data"
    assert run("cifar100", "--data_dir", data_dir, "--archive", cifar) == 0
    files = {p: p.stat().st_mtime_ns for p in data_dir.rglob("*")}
    capfd.readouterr()
    assert run("cifar100", "--data_dir", data_dir) == 0  # there is no network here
    assert "Nothing to do: cifar100 was prepared before." in capfd.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in data_dir.rglob("*")} == files


@pytest.mark.parametrize("prefix", ["", "./"])
def test_cub_reads_back(tmp_path, monkeypatch, capfd, prefix):
    images, masks = bird_files()
    archive = write_tar(
        tmp_path / "CUB_200_2011.tgz", {prefix + k: v for k, v in images.items()}
    )
    segmentations = write_tar(tmp_path / "segmentations.tgz", masks)
    pin(monkeypatch, "caltech_birds2011", archive, segmentations)
    data_dir = tmp_path / "data"
    options = ["--archive", archive, "--segmentations", segmentations]
    assert run("caltech_birds2011", "--data_dir", data_dir, *options) == 0
    assert "is prepared in" in (out := capfd.readouterr().out)
    assert "--config=cub:10" in out

    expected = {f"CUB_200_2011/images/{bird[0]}": bird for bird in BIRDS.values()}
    for split, in_train in (("train", 1), ("test", 0)):
        source = tfds.data_source("caltech_birds2011", split=split, data_dir=data_dir)
        found = {example["image/filename"].decode(): example for example in source}
        assert set(found) == {k for k, bird in expected.items() if bird[1] == in_train}
        for name, example in found.items():
            with Image.open(io.BytesIO(images[name])) as image:
                pixels = np.asarray(image.convert("RGB"))
            np.testing.assert_array_equal(example["image"], pixels)
            mask_name = name.replace("CUB_200_2011/images", "segmentations")[:-4]
            with Image.open(io.BytesIO(masks[f"{mask_name}.png"])) as mask:
                grey = np.asarray(mask).reshape(HEIGHT, WIDTH, -1)[:, :, :1]
            np.testing.assert_array_equal(example["segmentation_mask"], grey)
            number, label_name = name.split("/")[2].split(".")
            assert example["label"] == int(number) - 1
            assert example["label_name"].decode() == label_name.lower()
            x, y, w, h = expected[name][2]  # 20 + 5.5 is past the width: clipped to 1
            corners = [y / 16, x / 24, (y + h) / 16, min((x + w) / 24, 1)]
            corners[2] = min(corners[2], 1)
            np.testing.assert_allclose(example["bbox"], corners, rtol=1e-6)


def test_tensorflow_is_never_imported(tmp_path, cifar):
    trap = tmp_path / "trap" / "tensorflow"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text("import os; os._exit(77)\n")
    options = ["cifar100", "--data_dir", tmp_path / "data", "--archive", cifar]
    done = run_apart(
        options, before=f"assert sys.path[1] == {str(trap.parent)!r}", path=trap.parent
    )
    assert (done.returncode, done.stderr) == (0, "")
    check_cifar(tmp_path / "data")


def test_default_data_dir_is_that_of_tfds(tmp_path, cifar, monkeypatch, capfd):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "from_env"))
    assert run("cifar100", "--archive", cifar) == 0
    check_cifar(tmp_path / "from_env")
    assert (
        "--config.dataset" not in capfd.readouterr().out
    )  # training looks there by itself
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert run("cifar100", "--archive", cifar) == 0
    check_cifar(tmp_path / "home" / "tensorflow_datasets")


# Downloads, from a server of our own


class Server:
    """Serves files by HTTP with ranges; `plan` says how each request goes, then well.

    A number is how many bytes are sent before the connection drops; "404" and
    "no range" are what they say; "other range" is a range not asked for. `ranges` records each request's Range header.
    """

    def __init__(self, files: dict[str, bytes], plan=()):
        self.plan, self.ranges = list(plan), []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self, files[self.path.split("/")[-1].split("?")[0]])

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"

    def answer(self, handler, data: bytes) -> None:
        asked = handler.headers["Range"]
        self.ranges.append(asked)
        how = self.plan.pop(0) if self.plan else None
        start = int(asked[len("bytes=") : -1]) if asked and how != "no range" else 0
        if how == "404" or start >= len(data):
            handler.send_error(404 if how == "404" else 416)
            return
        handler.send_response(206 if start else 200)
        if start:
            first = 0 if how == "other range" else start
            answer = f"bytes {first}-{len(data) - 1}/{len(data)}"
            handler.send_header("Content-Range", answer)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.wfile.write(data[start:][: how if isinstance(how, int) else None])

    def __enter__(self):
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


def part_of(data_dir: Path) -> Path:
    return data_dir / "incomplete.cglo_jax_cifar100" / "cifar-100-binary.tar.gz.part"


def test_a_dropped_connection_is_resumed_to_the_same_bytes(
    tmp_path, cifar, monkeypatch
):
    data = cifar.read_bytes()
    half = len(data) // 2
    with Server({cifar.name: data}, [half]) as server:
        pin(monkeypatch, "cifar100", cifar, url=server.url)
        (tmp_path / "new").mkdir()
        path = download.download(archives.ARCHIVES["cifar100"][0], tmp_path / "new")
        assert server.ranges == [None, f"bytes={half}-"]
    assert path.read_bytes() == data
    assert os.listdir(tmp_path / "new") == [cifar.name]


def test_a_download_goes_on_in_the_next_run(tmp_path, cifar, monkeypatch, capfd):
    data, data_dir = cifar.read_bytes(), tmp_path / "data"
    half = len(data) // 2
    with Server({cifar.name: data}, [half, 0, 0, 0]) as server:
        pin(monkeypatch, "cifar100", cifar, url=server.url)
        assert run("cifar100", "--data_dir", data_dir) == 2
        line = error_line(capfd)
        assert f"{server.url}{cifar.name} could not be downloaded" in line
        assert f"ended after {half} of {len(data)} bytes" in line
        assert "run this again" in line and "pass --archive FILE" in line
        assert part_of(data_dir).read_bytes() == data[:half]
        assert len(server.ranges) == 1 + download.ATTEMPTS
        server.plan.clear()
        assert run("cifar100", "--data_dir", data_dir) == 0
        assert server.ranges[-1] == f"bytes={half}-"
    check_cifar(data_dir)


@pytest.mark.parametrize(
    "how", ["no range", "other range", "longer than the file", "complete"]
)
def test_what_an_earlier_run_left(tmp_path, cifar, monkeypatch, how):
    data, data_dir = cifar.read_bytes(), tmp_path / "data"
    left, requests = {
        "no range": (b"?" * 100, ["bytes=100-"]),
        "other range": (data[:100], ["bytes=100-"] * 2),
        "longer than the file": (data + b"?", [f"bytes={len(data) + 1}-", None]),
        "complete": (data, []),
    }[how]
    data_dir.mkdir()
    WorkingFolder(part_of(data_dir).parent).claim(part_of(data_dir).name)
    part_of(data_dir).write_bytes(left)
    with Server({cifar.name: data}, [how]) as server:
        pin(monkeypatch, "cifar100", cifar, url=server.url)
        assert run("cifar100", "--data_dir", data_dir) == 0
        assert server.ranges == requests
    check_cifar(data_dir)


def test_a_download_with_another_sha256_is_refused(tmp_path, cifar, monkeypatch, capfd):
    data, data_dir = cifar.read_bytes(), tmp_path / "data"
    other = bytes([data[0] ^ 1]) + data[1:]
    with Server({cifar.name: other}) as server:
        pin(monkeypatch, "cifar100", cifar, url=server.url)
        assert run("cifar100", "--data_dir", data_dir) == 2
    line = error_line(capfd)
    assert hashlib.sha256(other).hexdigest()[:12] in line
    assert hashlib.sha256(data).hexdigest()[:12] in line
    assert "removed" in line
    assert list(data_dir.iterdir()) == []


def test_a_server_without_the_file(tmp_path, cifar, monkeypatch, capfd):
    files = {cifar.name: b"<html>log in first</html>"}
    with Server(files, ["404"] * download.ATTEMPTS) as server:
        pin(monkeypatch, "cifar100", cifar, url=server.url)
        assert run("cifar100", "--data_dir", tmp_path / "data") == 2
        assert "(HTTP Error 404: Not Found)" in error_line(capfd)
        assert run("cifar100", "--data_dir", tmp_path / "data") == 2
        size = cifar.stat().st_size
        assert f"(the server has 25 bytes, not {size})" in error_line(capfd)
    assert run("cifar100", "--data_dir", tmp_path / "data") == 2  # no server at all
    line = error_line(capfd)
    assert "Connection refused" in line and "pass --archive FILE" in line
    assert list((tmp_path / "data").iterdir()) == []


def test_cub_takes_what_is_given_and_downloads_the_rest(tmp_path, monkeypatch, capfd):
    images, masks = bird_files()
    archive = write_tar(tmp_path / "CUB_200_2011.tgz", images)
    segmentations = write_tar(tmp_path / "segmentations.tgz", masks)
    with Server(
        {segmentations.name: segmentations.read_bytes()}, ["404"] * 3
    ) as server:
        pin(monkeypatch, "caltech_birds2011", archive, segmentations, url=server.url)
        options = ["--data_dir", tmp_path / "data", "--archive", archive]
        assert run("caltech_birds2011", *options) == 2
        assert "pass --segmentations FILE" in error_line(capfd)
        assert run("caltech_birds2011", *options) == 0
    assert os.listdir(tmp_path / "data") == ["caltech_birds2011"]
    assert archive.exists()  # a person's own file is theirs


# Archives not to be trusted


def test_a_copy_with_another_sha256_is_refused_and_kept(tmp_path, cifar, capfd):
    cifar.write_bytes(cifar.read_bytes() + b"?")
    assert run("cifar100", "--data_dir", tmp_path / "data", "--archive", cifar) == 2
    assert f"--archive {cifar} is not the official" in error_line(capfd)
    assert list((tmp_path / "data").iterdir()) == []
    assert cifar.exists()


def tar_info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def tree(folder: Path) -> dict[str, int]:
    return {str(p): p.lstat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_hostile_members_write_nothing(tmp_path, monkeypatch):
    evil = tmp_path / "evil"
    hostile = [
        tar_info("../../evil", size=4),
        tar_info(f"{evil}", size=4),
        tar_info("cifar-100-binary/../../evil", size=4),
        tar_info("cifar-100-binary", tarfile.SYMTYPE, link=f"{tmp_path}"),
        tar_info("cifar-100-binary/device", tarfile.CHRTYPE),
        tar_info("evil", tarfile.LNKTYPE, link="../evil"),
    ]
    work = tmp_path / "work"
    work.mkdir()
    archive = write_tar(work / "cifar-100-binary.tar.gz", cifar_members(), hostile)
    pin(monkeypatch, "cifar100", archive)
    monkeypatch.chdir(work)
    before = tree(tmp_path)
    assert run("cifar100", "--data_dir", "data", "--archive", archive.name) == 0
    check_cifar(work / "data")
    new = set(tree(tmp_path)) - set(before)
    assert {Path(p).relative_to(work).parts[0] for p in new} == {"data"}


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_a_member_that_is_no_plain_file_is_refused(tmp_path, monkeypatch, capfd, kind):
    secret = tmp_path / "secret"
    secret.write_bytes(cifar_members()["cifar-100-binary/train.bin"])
    extra = [tar_info("cifar-100-binary/train.bin", kind, link=str(secret))]
    archive = write_tar(tmp_path / "c.tar.gz", cifar_members(), extra)
    pin(monkeypatch, "cifar100", archive)
    assert run("cifar100", "--data_dir", tmp_path / "data", "--archive", archive) == 2
    assert "cifar-100-binary/train.bin is not a file" in error_line(capfd)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_huge_member_is_refused_unread(tmp_path, cifar, monkeypatch, capfd):
    monkeypatch.setattr(archives, "MIB", 40)  # the limit is 256 of them: 10240 bytes
    assert run("cifar100", "--data_dir", tmp_path / "data", "--archive", cifar) == 2
    assert "train.bin is not a file of <= 10240 bytes" in error_line(capfd)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("cut", [0.5, 0.0])
def test_a_broken_archive_is_one_line(tmp_path, cifar, monkeypatch, capfd, cut):
    data = cifar.read_bytes()
    cifar.write_bytes(data[: int(cut * len(data))] or b"<html>")
    pin(monkeypatch, "cifar100", cifar)
    assert run("cifar100", "--data_dir", tmp_path / "data", "--archive", cifar) == 2
    assert f"{cifar} cannot be read as a .tar.gz" in error_line(capfd)


def test_absent_members_are_named(tmp_path, monkeypatch, capfd):
    images, masks = bird_files()
    lost = f"CUB_200_2011/images/{BIRDS['3'][0]}"
    del images[lost]
    archive = write_tar(tmp_path / "CUB_200_2011.tgz", images)
    segmentations = write_tar(tmp_path / "segmentations.tgz", masks)
    pin(monkeypatch, "caltech_birds2011", archive, segmentations)
    options = ["--archive", archive, "--segmentations", segmentations]
    assert run("caltech_birds2011", "--data_dir", tmp_path / "data", *options) == 2
    assert f"lacks 1 members, such as {lost}" in error_line(capfd)
    assert list((tmp_path / "data").iterdir()) == []


def test_read_members_gives_the_first_of_two_and_stops(tmp_path):
    archive = write_tar(
        tmp_path / "a.tar.gz", {"./a": b"1", "b": b"2"}, [tar_info("b")]
    )
    assert list(download.read_members(archive, ["a", "b"], limit=1)) == [
        ("b", b""),
        ("a", b"1"),
    ]
    assert list(download.read_members(archive, [], limit=1)) == []
    tail = np.random.default_rng(0).bytes(1 << 20)
    archive = write_tar(tmp_path / "b.tar.gz", {"a": b"1", "z": tail})
    archive.write_bytes(archive.read_bytes()[: 1 << 19])
    assert list(download.read_members(archive, ["a"], limit=1)) == [("a", b"1")]


def test_read_members_names_what_is_absent(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz", {"a": b"1"})
    with pytest.raises(UserError, match="lacks 2 members, such as c"):
        list(download.read_members(archive, ["d", "c"], limit=1))


# Interruptions, and what may lie in the data directory


def test_a_stopped_preparation_leaves_nothing(tmp_path, cifar, monkeypatch, capfd):
    examples = archives.cifar_examples

    def stop_half_way(split, *args):
        yield from list(examples(split, *args))[: CIFAR_SIZES[split] // 2]
        raise KeyboardInterrupt

    options = ["cifar100", "--data_dir", tmp_path / "data", "--archive", cifar]
    with monkeypatch.context() as patch:
        patch.setattr(archives, "cifar_examples", stop_half_way)
        assert run(*options) == 130
    assert capfd.readouterr().err == "stopped: run this again to continue\n"
    assert not (tmp_path / "data" / "cifar100").exists()
    assert run(*options) == 0
    check_cifar(tmp_path / "data")


def test_a_finished_download_is_kept_until_it_is_prepared(
    tmp_path, cifar, monkeypatch, capfd
):
    def fill_the_disk(*args):
        raise OSError(28, "No space left on device")

    options = ["cifar100", "--data_dir", tmp_path / "data"]
    with Server({cifar.name: cifar.read_bytes()}) as server:
        pin(monkeypatch, "cifar100", cifar, url=server.url)
        with monkeypatch.context() as patch:
            patch.setattr(archives, "cifar_examples", fill_the_disk)
            assert run(*options) == 2
        assert "No space left on device" in error_line(capfd)
        assert run(*options) == 0
        assert server.ranges == [None]
    check_cifar(tmp_path / "data")


def test_a_killed_preparation_is_not_read_as_complete(tmp_path, cifar):
    options = ["cifar100", "--data_dir", tmp_path / "data", "--archive", cifar]
    die = (
        "import os\n"
        "def die(split, *args, examples=archives.cifar_examples):\n"
        "    yield from examples(split, *args)\n"
        "    if split == 'test': os._exit(9)\n"
        "archives.cifar_examples = die\n"
    )
    assert run_apart(options, before=die).returncode == 9
    left = [p for p in (tmp_path / "data").rglob("*.array_record*") if p.is_file()]
    assert left  # it did die in the middle, with the training images written
    # Or it died between TFDS's rename and ours: that directory is not trusted either.
    (between,) = (tmp_path / "data/incomplete.cglo_jax_cifar100").glob(
        "prepared-*/cifar100"
    )
    (between / "3.0.2").mkdir()
    assert not (tmp_path / "data" / "cifar100").exists()
    assert run(*options) == 0
    check_cifar(tmp_path / "data")


def everything(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def put_something(kind: str, path: Path, precious: Path) -> None:
    """Puts something at `path` that is no download of ours; `precious` is somebody's file."""
    precious.write_text("precious")
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        path.symlink_to(precious)
    elif kind == "lost link":
        path.symlink_to(path.parent / "nowhere")
    elif kind == "hard link":
        os.link(precious, path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("their own")


NOT_OURS = ["link", "lost link", "hard link", "pipe", "folder"]


@pytest.mark.parametrize(
    ("kind", "claimed"),
    [("file", False), *itertools.product(NOT_OURS, (True, False))],
)
@pytest.mark.parametrize("suffix", [".part", ""])
def test_nothing_is_written_to_what_is_no_download_of_ours(
    tmp_path, cifar, monkeypatch, capfd, kind, claimed, suffix
):
    data_dir, precious = tmp_path / "data", tmp_path / "precious"
    data_dir.mkdir()
    part = part_of(data_dir).with_suffix(suffix)
    staging = WorkingFolder(part.parent)
    if claimed:
        staging.claim(part.name)
    put_something(kind, part, precious)
    before = everything(data_dir)
    with Server({cifar.name: cifar.read_bytes()}) as server:
        pin(monkeypatch, "cifar100", cifar, url=server.url)
        assert run("cifar100", "--data_dir", data_dir) == 2
    line = error_line(capfd)
    assert f"{part} " in line and "move it away" in line
    assert precious.read_text() == "precious"
    assert everything(data_dir) == before


@pytest.mark.parametrize("kind", ["link", "file", "pipe", "notes in it", "marker"])
def test_a_working_folder_of_somebody_else_is_refused(tmp_path, cifar, capfd, kind):
    folder = part_of(tmp_path / "data").parent
    if kind == "notes in it":
        put_something("file", folder / "prepared" / "notes.txt", tmp_path / "precious")
    elif kind == "marker":
        put_something("link", folder / MARKER, tmp_path / "precious")
    else:
        put_something(kind, folder, tmp_path / "precious")
    before = everything(tmp_path)
    options = ["cifar100", "--data_dir", tmp_path / "data", "--archive", cifar]
    assert run(*options) == 2
    assert f"{folder} " in (line := error_line(capfd)) and "move it away" in line
    assert everything(tmp_path) == before
    assert (tmp_path / "precious").read_text() == "precious"


def test_what_somebody_puts_beside_our_files_stays(tmp_path, cifar):
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    staging = WorkingFolder(part_of(data_dir).parent)
    killed = staging.make_folder("prepared-")
    written = ["bucket_a_001.tmp", "cifar100-train.array_record-0", "notes.txt"]
    for name in written:
        (killed / name).write_text("x")
    (killed / "dataset_info.json").symlink_to(tmp_path)
    (staging.path / "prepared").mkdir()
    (staging.path / "prepared" / "notes.txt").write_text("x")
    assert run("cifar100", "--data_dir", data_dir, "--archive", cifar) == 0
    assert (data_dir / "cifar100" / "3.0.2").is_dir()
    assert sorted(os.listdir(killed)) == ["dataset_info.json", "notes.txt"]
    assert (staging.path / "prepared" / "notes.txt").read_text() == "x"


def test_a_second_process_waits(tmp_path, cifar):
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    handle = os.open(data_dir, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    codes = []
    options = ["cifar100", "--data_dir", data_dir, "--archive", cifar]
    thread = threading.Thread(target=lambda: codes.append(run(*options)))
    thread.start()
    try:
        thread.join(0.5)
        assert (codes, list(data_dir.iterdir())) == ([], [])
    finally:
        os.close(handle)
        thread.join()
    assert codes == [0]
    check_cifar(data_dir)


@pytest.mark.parametrize("kind", ["tfrecord", None])
def test_a_tfrecord_preparation_is_reported(tmp_path, cifar, capfd, kind):
    path = tmp_path / "data" / "cifar100" / "3.0.2"
    path.mkdir(parents=True)
    splits = [{"name": s, "shardLengths": ["1"]} for s in ("train", "test")]
    info = {"splits": splits} | ({"fileFormat": kind} if kind else {})
    (path / "dataset_info.json").write_text(json.dumps(info))
    options = ["cifar100", "--data_dir", tmp_path / "data", "--archive", cifar]
    assert run(*options) == 2
    line = error_line(capfd)
    assert "prepared as tfrecord" in line and "pass another --data_dir" in line
    assert os.listdir(path) == ["dataset_info.json"]


@pytest.mark.parametrize(
    "lost", ["dataset_info.json", "cifar100-test", "cifar100-train", ""]
)
def test_an_incomplete_preparation_is_reported(tmp_path, cifar, capfd, lost):
    options = ["cifar100", "--data_dir", tmp_path / "my data", "--archive", cifar]
    assert run(*options) == 0
    path = tmp_path / "my data" / "cifar100" / "3.0.2"
    for file in path.glob(f"{lost}*"):  # "": all
        file.unlink()
    assert run(*options) == 2
    line = error_line(capfd)
    command = shlex.split(re.search(r"\((mv .*)\)", line)[1])
    assert command == ["mv", str(path), f"{path}.incomplete"]
    subprocess.run(command, check=True)
    assert run(*options) == 0
    Path(command[2]).rename(tmp_path / "away")
    check_cifar(tmp_path / "my data")


# The command line


def test_prepare_command(tmp_path, cifar, monkeypatch):
    assert archives.prepare_command("digits") is None
    assert set(archives.READERS) == set(archives.ARCHIVES)
    configs = Path(__file__).parents[2] / "configs"
    for name, config in prepare.CONFIGS.items():
        assert name in archives.ARCHIVES
        assert (configs / f"{config}.py").is_file()
    command = shlex.split(archives.prepare_command("cifar100"))
    assert command[:3] == ["python", "-m", "cglo_jax.prepare"]
    assert run(*command[3:], "--data_dir", tmp_path / "data", "--archive", cifar) == 0
    check_cifar(tmp_path / "data")


def test_it_runs_as_a_module():
    command = [sys.executable, "-W", "error", "-m", "cglo_jax.prepare", "--help"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "usage: python -m cglo_jax.prepare" in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["cifar11"], "invalid choice: 'cifar11'"),
        ([], "required: name"),
        (["cifar100", "--segmentations", "s.tgz"], "goes with caltech_birds2011 only"),
    ],
)
def test_wrong_command_lines(capfd, args, message):
    with pytest.raises(SystemExit) as stopped:
        run(*args)
    assert stopped.value.code == 2
    assert message in capfd.readouterr().err.splitlines()[-1]


def test_paths_that_are_wrong(tmp_path, cifar, capfd):
    data_dir = tmp_path / "data"
    for archive in (tmp_path / "none.tar.gz", tmp_path):
        assert run("cifar100", "--data_dir", data_dir, "--archive", archive) == 2
        assert f"--archive {archive}: there is no such file" in error_line(capfd)
    assert list(data_dir.iterdir()) == []
    assert run("cifar100", "--data_dir", cifar, "--archive", cifar) == 2
    assert str(cifar) in error_line(capfd)
