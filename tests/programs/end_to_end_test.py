"""One tiny run of every stage on digits, as a person starts it: python -m cglo_jax.main."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.usefixtures("kept_programs")
ROOT = pathlib.Path(__file__).parents[2]
FIELDS = {
    "seeds": "(0,1)",
    "devices": "1",
    "dataset.shots": "2",
    "latent.dim": "8",
    "generator.width": "8",
    "weak_classifier.width": "4",
    "train.epochs": "20",
    "train.steps_per_epoch": "5",
    "train.batch_size": "10",
    "train.checkpoint_every_epochs": "1",
    "train.log_every_steps": "5",
    "sample.per_class": "2",
    "sample.projection": "pca",
    "classify.methods": "('baseline','cglo')",
    "classify.width": "1",
    "classify.epochs": "2",
    "classify.steps_per_epoch": "5",
    "classify.batch_size": "10",
}


def command(workdir, *more, **fields) -> list[str]:
    changes = [f"--config.{k}={v}" for k, v in {**FIELDS, **fields}.items()]
    program = [sys.executable, "-m", "cglo_jax.main", "--config=configs/digits.py"]
    return [*program, f"--workdir={workdir}", *changes, *more]


def start(*args, **fields) -> subprocess.Popen:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command(*args, **fields), cwd=ROOT, stdout=pipe, stderr=pipe, text=True
    )


def finish(process, status=0) -> tuple[str, str]:
    """Waits for the end; returns what was printed and told on standard error."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == status, err
    assert "Traceback" not in err
    return out, err


def read_lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(workdir, *patterns) -> dict[pathlib.Path, bytes]:
    files = [f for pattern in patterns for f in workdir.glob(pattern) if f.is_file()]
    assert files
    return {file.relative_to(workdir): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def interrupted(kept_programs, tmp_path_factory):
    """(workdir, standard error) of a run that Ctrl-C ended while it trained."""
    workdir = tmp_path_factory.mktemp("end_to_end") / "run"
    process = start(workdir)
    deadline = time.monotonic() + 200
    metrics = workdir / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = finish(process, status=130)
    return workdir, err


@pytest.fixture(scope="module")
def finished(interrupted):
    """(workdir, printed, standard error) of the same command, run to its end."""
    workdir, _ = interrupted
    return workdir, *finish(start(workdir))


def test_an_interrupted_run_says_how_to_go_on(interrupted):
    workdir, err = interrupted
    last = err.strip().splitlines()[-1]
    assert last == "interrupted: the same command continues from the last checkpoint"
    assert not list(workdir.glob("classifiers/*/result.json"))
    assert not (workdir / "report.md").exists()


def test_the_same_command_goes_on_to_the_end_and_reports(finished):
    workdir, out, err = finished
    assert "train seed 0: resumed at step " in err
    assert "train seed 1: resumed" not in err
    assert "20 labelled training images of 10 classes, 797 test images" in out
    for method in ("baseline", "cglo"):
        for seed in (0, 1):
            assert f"classify {method} seed {seed}: top-1 " in out
    (verdict,) = [line for line in out.splitlines() if line.startswith("cglo: ")]
    assert "baseline" in verdict
    assert verdict in (workdir / "report.md").read_text()
    assert str(workdir / "report.html") in out
    names = {p.name for p in workdir.iterdir()}
    assert names >= {"config.json", "metrics.jsonl", "timings.jsonl", "samples"}
    assert names >= {"report.md", "report.html", "checkpoints", "classifiers"}
    assert not [name for name in names if "tmp" in name]
    assert len(list(workdir.glob("samples/images/*/*.png"))) == 20
    assert len(read_lines(workdir / "samples" / "manifest.jsonl")) == 20
    assert json.loads((workdir / "config.json").read_text())["latent.dim"] == 8
    results = [
        json.loads(p.read_text()) for p in workdir.glob("classifiers/*/result.json")
    ]
    assert len(results) == 4
    for result in results:
        assert (result["steps"], result["n_test"]) == (10, 797)
        assert 0 <= result["top1"] <= result["top5"] <= 100
        assert (workdir / "report.md").read_text().count(f"{result['top1']:.2f}")


def test_interruption_leaves_no_trace_in_the_metrics(finished):
    lines = read_lines(finished[0] / "metrics.jsonl")
    for seed in (0, 1):
        of_seed = [r for r in lines if r["stage"] == "train" and r["seed"] == seed]
        assert [r["step"] for r in of_seed] == list(range(5, 101, 5))
        first, last = of_seed[0], of_seed[-1]
        assert last["reconstruction"] < first["reconstruction"]


def test_the_same_command_again_trains_nothing(finished):
    workdir = finished[0]
    kept = ("checkpoints/**/*", "classifiers/**/*", "samples/**/*", "metrics.jsonl")
    before = contents(workdir, *kept)
    timings = read_lines(workdir / "timings.jsonl")
    out, err = finish(start(workdir))
    assert contents(workdir, *kept) == before
    for seed in (0, 1):
        assert f"train seed {seed}: done before, at step 100" in err
        assert f"classify baseline seed {seed}: done before" in out
    assert "compiled" not in err
    new = read_lines(workdir / "timings.jsonl")[len(timings) :]
    assert [t for t in new if t["stage"] != "sample"] == []


def test_a_stage_alone_needs_only_what_it_reads(finished, tmp_path):
    others = shutil.ignore_patterns("classifiers", "samples", "report.*")
    workdir = shutil.copytree(finished[0], tmp_path / "run", ignore=others)
    out, err = finish(start(workdir, "--stage=sample", **{"sample.per_class": "1"}))
    assert len(list(workdir.glob("samples/images/*/*.png"))) == 10
    assert str(workdir / "samples") in out
    assert "compiled" not in err
    assert not (workdir / "classifiers").exists()


def test_another_config_on_the_same_workdir_is_one_line_and_status_2(finished):
    workdir = finished[0]
    kept = ("checkpoints/**/*", "classifiers/**/*", "*.jsonl")
    before = contents(workdir, *kept)
    _, err = finish(start(workdir, **{"latent.dim": "16"}), status=2)
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    assert "latent.dim=8" in line
    assert "16" in line
    assert contents(workdir, *kept) == before


@pytest.mark.slow
def test_what_was_trained_is_exported_by_a_command_without_the_images(finished):
    out, err = finish(start(finished[0], "--stage=export"))
    assert out == f"exported: {finished[0] / 'exports'}\n"
    assert err == ""
    programs = finished[0].glob("exports/*/*.jax_export")
    assert sorted(path.parent.name for path in programs) == [
        *("baseline-0", "baseline-1", "cglo-0", "cglo-1"),
        *("seed-0", "seed-1"),
    ]
