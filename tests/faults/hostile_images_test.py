"""A zoo of files through `data.load`: every verdict, the list of them, memory and time."""

import dataclasses
import io
import json
import os
import pickle
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cglo_jax import main
from cglo_jax.cli import flags
from cglo_jax.data import dataset as data
from cglo_jax.errors import UserError
from cglo_jax.files import ownership
from tests.data.decode_test import UNUSABLE, encode
from tests.helpers import image_zoo
from tests.helpers.image_zoo import NAMES, RAN, USED, Animal, fresh
from tests.helpers.tiny import create_config, create_dataset, fields, hash_pixels

ROOT = Path(__file__).parents[2]
SECONDS = 60  # until it counts as hanging
MOST = 10**9  # bytes of memory
ONE, ONLY, GOOD = (encode(fresh(), "PNG") for _ in range(3))
LOAD = """
import json, re, sys
from cglo_jax import config
from cglo_jax.data import dataset as data
from cglo_jax.process import setup as process
process.own()  # as programs do: warnings of Pillow and libtiff are not shown
dataset = config.get_config().dataset
dataset.update(json.loads(sys.argv[1]))
train, test = data.load(dataset)
with open("/proc/self/status") as file:
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", file.read())
print(json.dumps({
    "skipped": train.skipped,
    "names": train.class_names,
    "labels": dict(zip(train.ids + test.ids, [*train.labels.tolist(), *test.labels.tolist()])),
    "peak": 1024 * int(peak[1]),
}))
"""


def animals() -> list[Animal]:
    """The zoo: classes `ant` to `emu`, of which `cat` has one image and `dog` one that is good."""
    good = [(f"ant/{n}", content, USED) for n, content in image_zoo.good()]
    fakes = [(f"bee/{n}", c, image_zoo.NOT_AN_IMAGE) for n, c in image_zoo.fakes()]
    cut = [(f"dog/{n}", content, image_zoo.DAMAGED) for n, content in image_zoo.cut()]
    bad = [(f"dog/{n}", content, why) for n, (content, why) in UNUSABLE.items()]
    named = [(f"emu/{n}.png", encode(fresh(), "PNG"), USED) for n in NAMES]
    nameless = [(f"emu/{n}", b"", "empty file") for n in NAMES]
    others = [
        ("ant/one.png", ONE, USED),
        ("bee/one.png", ONE, "labelled in two ways (as ant/one.png)"),
        ("bee/good.png", encode(fresh(), "PNG"), USED),
        ("cat/only.png", ONLY, USED),
        ("dog/deep/down/good.png", GOOD, USED),
        ("dog/loop", image_zoo.link("../"), ""),
        ("dog/all_classes", image_zoo.link("../../zoo"), ""),
        ("README.md", b"text", "not in a class folder"),
        (".hidden", b"text", ""),
        ("ant/.DS_Store", b"text", ""),
    ]
    hostile = [(f"bee/{n}", make, why) for n, make, why in image_zoo.bombs()]
    linked = [(f"emu/{n}", make, why) for n, make, why in image_zoo.links()]
    rows = [*good, *fakes, *cut, *bad, *named, *nameless, *others, *hostile, *linked]
    return [Animal(*row) for row in rows]


def put(root: Path, zoo: list[Animal]) -> Path:
    away = root.parent / "away"
    away.mkdir(exist_ok=True)
    (away / "there.png").write_bytes(encode(fresh(), "PNG"))
    for name, make, _ in zoo:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make) if isinstance(make, bytes) else make(path)
    return root


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> tuple[Path, list[Animal]]:
    listed = animals()
    return put(tmp_path_factory.mktemp("zoo") / "zoo", listed), listed


def load_apart(root: Path, **changes: object) -> subprocess.CompletedProcess:
    """Runs `data.load` in a process of its own, in an empty directory."""
    dataset = {"name": "folder", "path": str(root), "size": 8, "shots": 0, **changes}
    (root.parent / "empty").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", LOAD, json.dumps(dataset)],
        cwd=root.parent / "empty",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def loaded(zoo) -> dict:
    done = load_apart(zoo[0])  # hangs or prints if it should not
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def escaped(name: str) -> str:
    """A name as people should read it: in one line, whatever it is."""
    return "".join(c if c.isprintable() else ascii(c).strip("'") for c in name)


def expected(zoo: list[Animal]) -> dict[str, str]:
    """The beginning of the reason of each file that should be skipped."""
    return {escaped(a.name): a.verdict for a in zoo if a.verdict not in ("", USED)}


def check(lines: Iterable[str], zoo: list[Animal]) -> None:
    """Fails unless the lines name the files that should be skipped, and why."""
    found = dict(line.split(": ", 1) for line in lines)
    wanted = expected(zoo)
    assert found.keys() == wanted.keys()
    assert {n: w for n, w in found.items() if not w.startswith(wanted[n])} == {}
    assert all(line.isprintable() for line in lines)


def id_of(content: bytes) -> str:
    return hash_pixels(np.asarray(Image.open(io.BytesIO(content))))


def test_the_zoo_is_large(zoo):
    verdicts = [animal.verdict for animal in zoo[1]]
    assert (len(verdicts), verdicts.count(USED)) == (208, 85)


def test_every_file_is_used_or_listed_with_the_reason(zoo, loaded):
    check(loaded["skipped"], zoo[1])
    used = Counter(a.name.split("/")[0] for a in zoo[1] if a.verdict == USED)
    found = Counter(loaded["names"][label] for label in loaded["labels"].values())
    assert found == used


def test_it_takes_less_than_a_gigabyte(loaded):
    assert 50e6 < loaded["peak"] < MOST


def test_classes_do_not_shift(loaded):
    assert loaded["names"] == ["ant", "bee", "cat", "dog", "emu"]
    labels = [loaded["labels"][id_of(content)] for content in (ONE, ONLY, GOOD)]
    assert labels == [0, 2, 3]


def test_nothing_in_the_zoo_is_executed(zoo, loaded):
    del loaded
    for folder in (zoo[0].parent / "empty", ROOT, Path.cwd()):
        assert not (folder / RAN).exists()
    pickle.loads(dict(image_zoo.fakes())["pickle.png"]).close()
    assert Path(RAN).exists()  # so it would have shown
    Path(RAN).unlink()


def command(root: Path, workdir: Path) -> flags.Command:
    """To sample from what is not there: it ends once the images have been read."""
    config = create_config(
        **{"dataset.name": "folder", "dataset.path": str(root), "dataset.size": 8}
    )
    config.dataset.shots = 0
    return flags.Command(config, workdir, "sample")


def test_skipped_txt_lists_them(zoo, loaded, tmp_path, monkeypatch):
    root, listed = zoo
    train = dataclasses.replace(create_dataset(), skipped=tuple(loaded["skipped"]))
    images = types.SimpleNamespace(of=lambda seed: (train, train))
    monkeypatch.setattr(data, "Images", lambda _: images)  # not read once more
    with pytest.raises(UserError, match="--stage=train"):
        main.main(command(root, tmp_path / "run"))
    check(read_lines(tmp_path / "run/skipped.txt"), listed)


def read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


# Smaller folders


SMALL = [
    *(
        Animal(f"{c}/{i}.png", encode(fresh(), "PNG"), USED)
        for c in "pqr"
        for i in "12"
    ),
    Animal("q/text.png", b"text", image_zoo.NOT_AN_IMAGE),
    Animal("q/line\nbreak.png", b"", "empty file"),
]


def run_main(root: Path, workdir: Path, *more: str) -> subprocess.CompletedProcess:
    arguments = [f"--config.dataset.path={root}", f"--workdir={workdir}", *more]
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "cglo_jax.main",
            "--config=configs/folder.py",
            *arguments,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_strict_names_all_files_and_trains_nothing(tmp_path):
    root = put(tmp_path / "zoo", SMALL)
    done = run_main(root, tmp_path / "run", "--config.dataset.strict=True")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: config.dataset.strict is True, but files of ")
    assert (
        ", 2 in all, such as q/line\\nbreak.png: empty file; q/text.png: not " in line
    )
    assert f"(all: {tmp_path / 'run' / 'skipped.txt'})" in line
    names = sorted(os.listdir(tmp_path / "run"))
    assert names == [ownership.RECORD, "lock", "skipped.txt"]
    check(read_lines(tmp_path / "run/skipped.txt"), SMALL)


def test_the_list_is_removed_when_there_is_nothing_to_list(tmp_path):
    root = put(tmp_path / "zoo", SMALL)
    for name in ("q/text.png", "q/line\nbreak.png", ""):
        with pytest.raises(UserError, match="--stage=train"):
            main.main(command(root, tmp_path / "run"))
        assert (tmp_path / "run/skipped.txt").exists() == bool(name)
        (root / name).unlink() if name else None


def test_a_class_without_an_image_is_refused_by_name(tmp_path):
    zoo = [*SMALL, Animal("oa\nb/1.png", b"", "empty file")]
    root = put(tmp_path / "zoo", zoo)
    with pytest.raises(UserError) as error:
        main.main(command(root, tmp_path / "run"))
    assert str(error.value).startswith("class 'oa\\nb' has no usable image in ")
    assert str(error.value).endswith(f"(all: {tmp_path / 'run' / 'skipped.txt'})")
    check(read_lines(tmp_path / "run/skipped.txt"), zoo)


def test_train_and_test_folders_are_read_alike(ours, tmp_path):
    root = tmp_path / "zoo"
    listed = [
        *(Animal(f"train/{a.name}", *a[1:]) for a in SMALL),
        *(Animal(f"test/p/{n}", c, why) for n, (c, why) in UNUSABLE.items()),
        Animal(
            "test/q/seen.png", SMALL[2].make, "also a training image (as train/q/1.png)"
        ),
        Animal(
            "test/r/seen.png", SMALL[0].make, "labelled in two ways (as train/p/1.png)"
        ),
        Animal("test/r/new.png", encode(fresh(), "PNG"), USED),
    ]
    train, test = data.load(
        fields(name="folder", path=str(put(root, listed)), size=8, shots=0)
    )
    check(train.skipped, listed)
    assert train.class_names == test.class_names == ("p", "q", "r")
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.labels.tolist() == [2]
