"""A work directory that somebody prepared: no reader waits, leaves it, runs anything or grows."""

import itertools
import json
import os
import pathlib
import signal
import socket
import struct
import tracemalloc
import zlib

import pytest
from PIL import EpsImagePlugin, Image

from cglo_jax.config import saved
from cglo_jax.config.defaults import flatten
from cglo_jax.errors import UserError
from cglo_jax.files import ownership, readback
from cglo_jax.inference import generator
from cglo_jax.report import samples
from cglo_jax.report.compare import write_comparison
from cglo_jax.report.write import write_report
from cglo_jax.stages import sample_formats
from cglo_jax.training import logged
from tests.helpers.report_workdir import Parsed, make_result, put_lines, put_result

FILES = (
    *("config.json", "classifiers/cglo-1/result.json", "metrics.jsonl"),
    *("timings.jsonl", "samples/walks.json", "samples/nearest.json"),
    *("samples/manifest.jsonl", "samples/walks.png", "samples/codes.png"),
    "samples/reconstructions.png",
)


@pytest.fixture(autouse=True)
def _no_hang():
    """A reader that waits for ever fails."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def read_all(workdir) -> tuple[str, str]:
    """Writes the report with the configuration that is there: Markdown, HTML."""
    write_report(saved.restore_config(workdir, {}), workdir)
    return (workdir / "report.md").read_text(), (workdir / "report.html").read_text()


@pytest.fixture
def run(workdir, config):
    (workdir / "config.json").write_text(json.dumps(flatten(config)))
    return workdir


def error_of(function, *args) -> str:
    with pytest.raises(UserError) as error:
        function(*args)
    assert str(error.value).isprintable()
    return str(error.value)


def trace(function):
    """Returns what a function does, and the most memory that it had."""
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def put_a_pipe(path):
    os.mkfifo(path)


def put_a_link(path):
    path.symlink_to(path.with_name("elsewhere"))
    (path.parent / "away").rename(path.with_name("elsewhere"))


def put_a_link_to_a_device(path):
    path.symlink_to("/dev/zero")


def put_a_broken_link(path):
    path.symlink_to("nowhere")


def put_a_folder(path):
    path.mkdir()


def put_a_socket(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)


KINDS = (
    put_a_pipe,
    put_a_link,
    put_a_link_to_a_device,
    put_a_broken_link,
    put_a_folder,
)


@pytest.mark.parametrize("put", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_plain_file_is_refused(run, name, put):
    (run / name).rename((run / name).with_name("away"))
    put(run / name)
    text = error_of(read_all, run)
    assert str(run / name) in text
    assert "it is a link" in text or "it is not a regular file" in text
    assert "move" in text or "put the file back" in text


def test_a_socket_is_refused(run, monkeypatch):
    (run / "metrics.jsonl").unlink()
    put_a_socket(run / "metrics.jsonl", monkeypatch)
    assert "it is not a regular file" in error_of(read_all, run)


def test_folders_may_be_links(run, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("disk")
    before = read_all(run)
    for name in ("samples", "classifiers"):
        (run / name).rename(elsewhere / name)
        (run / name).symlink_to(elsewhere / name)
    assert read_all(run) == before


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 30 20\n%%EndComments\nshowpage\n%%EOF\n"


def test_only_png_is_opened(run, monkeypatch):
    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **_: ran.append(a))
    path = run / "samples" / "codes.png"
    path.write_bytes(EPS)
    assert f"{path} cannot be used (it is not a PNG)" in error_of(read_all, run)
    for kind in ("JPEG", "BMP", "TIFF", "GIF", "PPM"):
        Image.new("RGB", (30, 20)).save(path, kind)
        assert "it is not a PNG" in error_of(read_all, run)
    assert not ran


def claim_size(path: pathlib.Path, size: int) -> None:
    """Makes a PNG say that it has size x size pixels."""
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", size, size)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


@pytest.mark.parametrize("size", [10_000, 60_000])
def test_a_picture_of_too_many_pixels_is_not_decoded(run, size):
    claim_size(run / "samples" / "codes.png", size)
    text, peak = trace(lambda: error_of(read_all, run))
    assert peak < 1 << 24
    assert "codes.png cannot be used (more than 89,478,485 pixels)" in text


def test_a_picture_is_shown_without_what_else_its_file_has(run):
    path = run / "samples" / "codes.png"
    path.write_bytes(path.read_bytes() + b"<script>alert(1)</script>")
    [picture] = [
        block
        for block in samples.samples(run).content
        if getattr(block, "name", "") == "codes"
    ]
    assert b"script" not in picture.png


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "a/../../x.png", "", "."]
)
def test_names_lead_nowhere_else(tmp_path, name):
    line = {"file": name, "label": 0, "source": "a", "partner": "b", "t": 0.5}
    put_lines(tmp_path / "manifest.jsonl", [line])
    records = sample_formats.read_manifest(tmp_path)
    text = error_of(sample_formats.read_images, tmp_path, records)
    assert "cannot be used" in text


def test_folders_of_too_many_entries_are_refused(run, monkeypatch):
    for seed in range(4):
        (run / "checkpoints" / f"seed-{seed}" / "1").mkdir(parents=True)
    assert generator.trained_seeds(run) == [0, 1, 2, 3]
    monkeypatch.setattr(readback, "MOST_ENTRIES", 3)
    for folder, read in (("classifiers", read_all), ("checkpoints", generator.load)):
        text = error_of(read, run)
        assert f"{run / folder} cannot be used (more than 3 entries)" in text


def test_only_seeds_as_we_write_them_are_taken(tmp_path):
    for name in (
        "seed-3",
        "seed-03",
        "seed-999999999999",
        "seed-\u0663",
        "seed--1",
        "x",
    ):
        (tmp_path / "checkpoints" / name / "1").mkdir(parents=True)
    assert generator.trained_seeds(tmp_path) == [3]


HOSTILE = [
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    '" onmouseover="alert(1)',
    "{{ 7 * 7 }}{% raw %}",
    "](data:text/html,x) ![y](//evil/x.png)\n# heading",
    "<img src=x onerror=alert(1)>\ud800",
]


def test_hostile_names_are_shown_and_nothing_else(run, config):
    for method in ("baseline", "cglo"):
        for seed in range(3):
            result = make_result(config, method, seed, 80.0 + seed)
            data = {**result["dataset"], "class_names": HOSTILE, "name": HOSTILE[0]}
            data["test_split"] = HOSTILE[4]
            result |= {
                "dataset": data,
                "classifier_weights": HOSTILE[0],
                "environment": {HOSTILE[0]: HOSTILE[5], "device": HOSTILE[1]},
            }
            result["fingerprint"]["weights"] = HOSTILE[3]
            put_result(run, result)
    walks = json.loads((run / "samples" / "walks.json").read_text())
    walks["classes"] = HOSTILE[-2:]
    (run / "samples" / "walks.json").write_text(json.dumps(walks))
    markdown, html = read_all(run)
    other = run / "other"
    ownership.claim(other)
    for name in ("classifiers", "samples"):
        (other / name).symlink_to(run / name)
    (other / "config.json").write_bytes((run / "config.json").read_bytes())
    config = saved.restore_config(run, {}).unlock()
    config.report.compare = f"{run},{other}"
    write_comparison(config, other)
    for text in (html, (other / "compare.html").read_text()):
        parsed = Parsed(text)
        for tag, attrs in parsed.tags:
            assert tag not in ("script", "iframe", "object", "embed", "form", "base")
            assert not any(name.startswith("on") for name in attrs)
            assert attrs.get("href", "#").startswith(("#", "data:,"))
            assert attrs.get("src", "data:image/png;").startswith("data:image/png;")
    assert any(HOSTILE[0] in cell for cell in Parsed(html).cells)
    assert "<script" not in markdown and "<img" not in markdown
    links = [line for line in markdown.splitlines() if "](" in line.replace("\\](", "")]
    assert all("](samples/" in line for line in links)
    assert "\n# heading" not in markdown


def test_methods_are_words(run, config):
    for method in ("a b", "x\x1b[2J", "<b>", "x\ny"):
        result = make_result(config, method, 0, 80.0)
        put_result(run, result)
        text = error_of(read_all, run)
        assert "method" in text
        path = run / "classifiers" / f"{method}-0"
        path.rename(run / "away")
        (run / "away" / "result.json").unlink()
        (run / "away").rmdir()


def put_long_metrics(workdir, megabytes: float) -> int:
    line = {"stage": "classify", "method": "cglo", "seed": 0, "step": 0, "epoch": 0.5}
    step = 0
    with (workdir / "metrics.jsonl").open("w") as file:
        while file.tell() < megabytes * 1e6:
            lines = []
            for _ in range(1000):
                step += 10
                value = step / 1e6
                lines.append(json.dumps({**line, "step": step, "loss": value}) + "\n")
            file.write("".join(lines))
    return step


@pytest.mark.parametrize("megabytes", [1.5, pytest.param(60, marks=pytest.mark.slow)])
def test_long_metrics_are_thinned_in_little_memory(run, megabytes):
    signal.alarm(300)
    last = put_long_metrics(run, megabytes)
    kept, peak = trace(lambda: logged.thin(logged.read_metrics(run)))
    assert peak < 3 << 20
    steps = [record["step"] for record in kept]
    assert 250 <= len(steps) <= 501
    assert steps[0] == 10 and steps[-1] == last
    gaps = {b - a for a, b in itertools.pairwise(steps[:-1])}
    width = 1 << (max(gaps).bit_length() - 1)
    assert max(gaps) - min(gaps) <= 10 and width > 10  # evenly, whatever the values
    assert all(record["loss"] == record["step"] / 1e6 for record in kept)
    assert logged.last_values(
        run, {"stage": "classify", "seed": 0, "method": "cglo"}
    ) == {"loss": last / 1e6}
    _, html = read_all(run)
    assert len(html) < 300_000


def test_few_lines_are_all_kept():
    records = [
        {"stage": "train", "seed": seed, "step": step, "loss": float(step)}
        for seed in (1, 0)
        for step in (5, 10, 15, 12, 10)
    ]
    records[4]["loss"] = -1.0  # step 10 again
    kept = [(r["seed"], r["step"], r["loss"]) for r in logged.thin(records)]
    assert kept[:4] == [(1, 5, 5.0), (1, 10, -1.0), (1, 12, 12.0), (1, 15, 15.0)]
    assert len(kept) == 8


def test_a_line_without_an_end_is_not_read_to_it(run):
    with (run / "metrics.jsonl").open("w") as file:
        file.write("x" * 10_000_000)
    text, peak = trace(lambda: error_of(lambda: list(logged.read_metrics(run))))
    assert peak < 1 << 20
    assert "line 1: longer than 65,536 bytes" in text
