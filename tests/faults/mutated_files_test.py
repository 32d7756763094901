"""Files of a work directory with any value replaced: a page, an object or one line, nothing else."""

import copy
import dataclasses
import functools
import json
import pathlib
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from cglo_jax.config import saved as saved_config
from cglo_jax.errors import UserError
from cglo_jax.inference import classifier, generator
from cglo_jax.report import accuracy, compare, provenance, samples, write
from cglo_jax.report.markdown import to_markdown
from cglo_jax.report.page import Page, to_html
from cglo_jax.stages import sample_formats
from cglo_jax.training import logged, manifest, wandb_run
from cglo_jax.training.checkpoints import Checkpoints
from tests.helpers.report_workdir import make_config, put_workdir
from tests.helpers.saved_run import put_classifier, put_run

HERE = "PUT-IT-HERE"
# JSON, or what Python's reader takes for it.
VALUES = (
    *("null", "true", "false", "0", "1", "-1", "1.5", "-0.0", "1e308", "1e999", "NaN"),
    *("-Infinity", "9" * 30, "-" + "9" * 30, "9" * 400, "9" * 5000, "9007199254740993"),
    *('""', '"x"', '"a\\nb"', '"\\ud800"', '"../../x"', '"/x"', '"<b>&\\u202e"'),
    *("[]", "[[]]", "[1, 2, 3]", "{}", '{"a": 1}', '{"a": 1, "a": 2}', "[" * 100_000),
    *('"' + "x" * 100_000 + '"', "[" * 400 + "]" * 400),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A file and what reads it.

    Attributes:
      read: raises AssertionError if what it reads is not told as it was.
      most: mutations, chosen at random, in the ordinary tests.
      sign: makes the file's text of what is in it.
    """

    path: pathlib.Path
    read: Callable[[], object]
    most: int = 300
    sign: Callable[[str], str] = lambda text: text


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a value: the keys that lead there."""
    yield way
    items = value.items() if isinstance(value, dict) else ()
    items = list(enumerate(value))[:3] if isinstance(value, list) else items
    for key, inner in items:
        yield from places(inner, (*way, key))


def put(value: Any, way: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    value = copy.deepcopy(value)
    functools.reduce(lambda v, key: v[key], way[:-1], value)
    change(functools.reduce(lambda v, key: v[key], way[:-1], value), way[-1])
    return value


def mutate(text: str) -> Iterator[str]:
    """Every mutation of a text of one JSON value."""
    value = json.loads(text)
    for way in places(value):
        if not way:
            yield from VALUES
            continue
        marked = json.dumps(put(value, way, lambda v, k: v.__setitem__(k, HERE)))
        yield from (marked.replace(f'"{HERE}"', new) for new in VALUES)
        yield json.dumps(put(value, way, lambda v, k: v.__delitem__(k)))
        if isinstance(way[-1], str):
            key, whole = json.dumps(way[-1]), json.dumps(value)
            yield whole.replace(f"{key}:", f"{key}: 1, {key}:")
            yield whole.replace(f"{key}:", f'"un\\nknown {way[-1]}":')


def damage(content: bytes) -> Iterator[bytes]:
    """What becomes of a file as a whole."""
    yield from (b"", b" ", b"\0" * 100, b"\n\n", content[: len(content) // 2])
    yield from (b"\xef\xbb\xbf" + content, content.decode().encode("utf-16"))
    yield from (content.replace(b'"', b'"\xff', 1), content + content, content + b"\n{")
    yield content.replace(b'"', b'"\\ud800', 1)


def all_mutations(case: Case) -> Iterator[bytes]:
    content = case.path.read_bytes()
    if case.path.name == "id":
        yield from damage(content)
        yield from (value.encode() for value in VALUES)
        return
    yield from (one for one in damage(content))
    if case.path.suffix == ".json":
        for text in mutate(content.decode()):
            yield case.sign(text).encode("utf-8", "surrogatepass")
        return
    first, *rest = content.decode().splitlines()
    for text in mutate(first):
        yield "\n".join([text, *rest, ""]).encode()


class TooSlow(BaseException):
    """Raised by a signal, through whatever waits."""


@pytest.fixture(autouse=True)
def _no_hang():
    def stop(*_):
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def check(case: Case, contents: list[bytes]) -> None:
    original = case.path.read_bytes()
    try:
        refused = sum(is_refused(case, content) for content in contents)
    finally:
        signal.alarm(0)
        case.path.write_bytes(original)
    case.read()
    assert refused > len(contents) / 4


def is_refused(case: Case, content: bytes) -> bool:
    """Reads a file of this content; whether that is refused in one line."""
    case.path.write_bytes(content)
    signal.alarm(10)
    try:
        case.read()
    except UserError as error:
        text = str(error)
        assert text.isprintable() and len(text) < 2000, text
        return True
    except BaseException as error:
        error.add_note(f"{case.path.name}: {content[:3000]!r}")
        raise
    return False


def read_page(workdir, config, expected=None) -> Any:
    page = write._create_page(workdir, config)
    to_markdown(page).encode()
    to_html(page).encode()
    if expected is not None:
        assert (page.verdicts, page.facts[:4]) == expected
    return page.verdicts, page.facts[:4]


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A work directory with a report, and its configuration; a second one to compare with."""
    root = tmp_path_factory.mktemp("reported")
    config = make_config()
    for name in ("a", "b"):
        put_workdir(root / name, config)
        fields = json.dumps(saved_config.flatten(config))
        (root / name / "config.json").write_text(fields)
        for picture in (root / name / "samples").glob("[!w]*.png"):
            picture.unlink()  # they take time and are another test's
    return root / "a", config


def report_case(reported, name) -> Case:
    workdir, config = reported
    told = read_page(workdir, config)

    def read_result() -> None:
        read_page(workdir, config, told)

    def read_config() -> None:
        restored = saved_config.restore_config(workdir, {})
        read_page(workdir, restored)
        write.read_results(workdir, restored)

    def read_lines() -> None:
        timings = logged.read_timings(workdir)
        metrics = logged.thin(logged.read_metrics(workdir))
        results = write.read_results(workdir, config)
        sections = [
            accuracy.learning_curves(metrics),
            provenance.environment(results, timings),
        ]
        to_html(Page("", [], sections)).encode()
        compare._times([compare.Run("a", workdir, {}, {}, timings)])

    def read_samples() -> None:
        page = Page("", [], [samples.samples(workdir)])
        to_html(page).encode()
        to_markdown(page).encode()

    readers = {
        "classifiers/cglo-1/result.json": (read_result, 250),
        "config.json": (read_config, 150),
        "metrics.jsonl": (read_lines, 200),
        "timings.jsonl": (read_lines, 200),
    }
    read, most = readers.get(name, (read_samples, 300))
    return Case(workdir / name, read, most)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    config, dataset = put_run(workdir)
    put_classifier(workdir, config, dataset, "cglo", 0)
    (workdir / "wandb").mkdir()
    (workdir / "wandb" / "id").write_text("0123456789ab\n")
    line = {"label": 0, "source": "a", "partner": "b", "t": 0.5}
    (workdir / "samples").mkdir()
    image = np.zeros((8, 8, 1), np.uint8)
    (workdir / "samples" / "0.png").write_bytes(sample_formats.encode_png(image))
    text = "".join(json.dumps({"file": "0.png", **line}) + "\n" for _ in range(2))
    (workdir / "samples" / "manifest.jsonl").write_text(text)
    return workdir


def sign(text: str) -> str:
    """A manifest with a sha256 of its own, where it can have one."""
    try:
        return manifest._encode(json.loads(text))
    except (ValueError, RecursionError, AttributeError):
        return text


def checkpoint_case(trained, name, monkeypatch) -> Case:
    of_generator = name.startswith("checkpoints")
    directory = (trained / name).parent.parent
    with Checkpoints(directory, read_only=True) as saved:
        step = saved.latest_step()
        model = saved.restore_model(step)
    # Orbax' part is another test's, and takes time.
    monkeypatch.setattr(Checkpoints, "_load", lambda *_: copy.deepcopy(model))

    def read() -> None:
        if of_generator:
            generator.load(trained)
        else:
            classifier.load(trained, "cglo")

    return Case(trained / name, read, 60, sign)


REPORTED = (
    *("classifiers/cglo-1/result.json", "config.json", "metrics.jsonl"),
    *("timings.jsonl", "samples/walks.json", "samples/nearest.json"),
    "samples/manifest.jsonl",
)
TRAINED = ("checkpoints/seed-0/6/manifest.json",)
TRAINED += ("classifiers/cglo-0/checkpoints/6/manifest.json",)


def choose(case: Case) -> list[bytes]:
    contents = list(all_mutations(case))
    rng = random.Random(0)
    return rng.sample(contents, min(case.most, len(contents)))


@pytest.mark.parametrize("name", REPORTED)
def test_a_report(reported, name):
    case = report_case(reported, name)
    check(case, choose(case))


@pytest.mark.parametrize("name", TRAINED)
def test_loading(trained, name, monkeypatch):
    case = checkpoint_case(trained, name, monkeypatch)
    check(case, choose(case))


def read_exported(workdir) -> None:
    records = sample_formats.read_manifest(workdir / "samples")
    sample_formats.read_images(workdir / "samples", records)


def test_what_samples_are_exported_from(trained):
    read = functools.partial(read_exported, trained)
    case = Case(trained / "samples" / "manifest.jsonl", read)
    check(case, list(all_mutations(case)))


def test_the_id_of_wandb(trained):
    read = functools.partial(wandb_run._read_id, trained)
    case = Case(trained / "wandb" / "id", read)
    check(case, list(all_mutations(case)))


@pytest.mark.slow
@pytest.mark.parametrize("name", REPORTED)
def test_a_report_with_every_mutation(reported, name):
    case = report_case(reported, name)
    check(case, list(all_mutations(case)))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_loading_with_every_mutation(trained, name, monkeypatch):
    case = checkpoint_case(trained, name, monkeypatch)
    check(case, list(all_mutations(case)))
