"""Tests of experiments/harness/runner.py and work.py: a tiny table from end to end."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys

import pytest

from cglo_jax.errors import UserError
from cglo_jax.files import ownership, storage
from cglo_jax.stages import classify, train
from experiments.harness import estimate, machine, runner, runs, scales, work
from experiments.harness.table import BASELINE, Row, Table, baselines, by_shots
from tests.helpers.tiny import create_config

TABLE = Table(
    name="tiny",
    title="Table 0: tiny",
    section="section 9",
    data="digits",
    columns={("cpu", "digits"): by_shots({2: 10, 3: 25})},
    metrics=("top1",),
    rows=(
        *baselines({"10": "20.0", "25": "30.0"}),
        Row("cGLO", "cglo", paper={"10": "21.0 ± 1.0", "25": "31.0"}),
        # The same compiled step, and the same cGLO.
        Row("longer", "cglo", {"classify.steps_per_epoch": 4}),
    ),
)
COUNT_GPUS = runner.count_gpus  # tests put 0 in its place
# As they are: the tuned baseline is the baseline's run.
TUNED = {"lr": 0.1, "weight_decay": 5e-4, "batch_size": 8}


@pytest.fixture(autouse=True)
def _tiny(tmp_path, monkeypatch):
    setting = scales.Setting(
        lambda: create_config(**{"dataset.classes": 3}),
        {},
        seeds=(0, 1),
        own_images=True,
        sentence="Tiny.",
    )
    monkeypatch.setitem(scales.SETTINGS, ("cpu", "digits"), setting)
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "paper.jsonl")
    monkeypatch.setattr(runs, "TUNED", tmp_path / "tuned.jsonl")
    monkeypatch.setattr(runner, "count_gpus", lambda: 0)


def call(tmp_path: pathlib.Path, *more: str) -> int:
    return runner.main(TABLE, [f"--workdir={tmp_path / 'work'}", *more])


def written(tmp_path: pathlib.Path) -> str:
    return (tmp_path / "tiny-cpu-digits-paper.md").read_text(encoding="utf-8")


def test_a_table_from_end_to_end(tmp_path, capsys, monkeypatch):
    trained, classified = [], []
    train_run, classify_run = train.run, classify.run
    monkeypatch.setattr(
        train, "run", lambda *a: (trained.append(a[3]), train_run(*a))[1]
    )
    monkeypatch.setattr(
        classify, "run", lambda *a: (classified.append(a[3:]), classify_run(*a))[1]
    )
    search = {"trials": 3, "folds": 2, "draws": [50.0]}
    tuned = {"setting": runs.setting_digest("cpu", "digits", 2), **TUNED, **search}
    runs.TUNED.write_text(json.dumps(tuned) + "\n")
    assert call(tmp_path, "--columns=2") == 0
    printed = capsys.readouterr().out
    rows = ("Baseline", "cGLO", "longer")
    names = [f"{row} 2 seed {seed}" for seed in (0, 1) for row in rows]
    pattern = r"(\d+)/6 (.*): top-1 (\d+\.\d\d) \(\d+ s\)"
    lines = [re.fullmatch(pattern, line) for line in printed.splitlines()[:6]]
    assert [int(line[1]) for line in lines] == list(range(1, 7))
    assert [line[2] for line in lines] == names
    assert printed.endswith(written(tmp_path) + "\n")
    assert sorted(trained) == [0, 1]  # both rows of cGLO share one
    assert len(classified) == 6
    check_lines(tmp_path)
    check_table(tmp_path)

    before = runs.RESULTS.read_text()
    assert call(tmp_path, "--columns=2") == 0
    assert runs.RESULTS.read_text() == before
    assert (len(trained), len(classified)) == (2, 6)
    check_dry_run(tmp_path, capsys)
    check_what_was_lost_is_run_again(tmp_path, trained, classified)


def check_lines(tmp_path):
    lines = storage.read_records(runs.RESULTS)
    assert len({line["digest"] for line in lines}) == 6
    assert len({line["images"] for line in lines}) == 2  # of the seeds
    assert len({line["test_images"] for line in lines}) == 1
    for line in lines:
        assert (line["table"], line["scale"], line["data"]) == ("tiny", "cpu", "digits")
        assert (line["column"], line["profile"], line["jobs"]) == ("2", "paper", 1)
        assert line["steps"] == (8 if line["row"] == "longer" else 6)
        assert line["fresh"] and line["wall_s"] > 0
        assert line["changes"].get("dataset.split_seed", 0) == line["seed"]
        assert line["changes"]["dataset.shots"] == 2
        assert line["version"] == runs.RESULTS_VERSION == 1
        assert str(tmp_path) not in json.dumps(line)
        assert line["environment"]["backend"] == "cpu"
        assert line["n_test"] == 226  # digits 0, 4 and 9
        assert ("cglo" in line) == (line["method"] == "cglo")
        workdir = tmp_path / "work" / "v1" / line["digest"][:12]
        (result,) = workdir.glob("classifiers/*/result.json")
        result_read = json.loads(result.read_text())
        assert result_read["top1"] == line["top1"]
        for name in ("images", "test_images"):
            assert line[name] == result_read["fingerprint"][name]
        assert not (result.parent / "checkpoints").exists()
        if line["method"] == "cglo":
            assert line["train_steps"] == 6 and line["train_wall_s"] > 0
            shared = (
                tmp_path / "work" / "v1" / f"cglo-{line['cglo'][:12]}" / "checkpoints"
            )
            assert (workdir / "checkpoints").resolve() == shared
            assert any(shared.iterdir())


def check_table(tmp_path):
    top1 = {}
    for line in storage.read_records(runs.RESULTS):
        top1.setdefault(line["row"], []).append(line["top1"])
    text = written(tmp_path)
    part = text.partition("### 2 labelled")[2].partition("###")[0]
    cells = {
        line.split("|")[1].strip(): [c.strip(" *") for c in line.split("|")[2:-1]]
        for line in part.splitlines()
        if line.startswith("|")
    }
    for row, paper in ((BASELINE, 20.0), ("cGLO", 21.0), ("longer", None)):
        a, b = top1[row]
        printed, ours, *gains = cells[row]
        assert ours == f"{(a + b) / 2:.2f} ± {abs(a - b) / 2:.2f} (2)"
        assert printed.startswith(str(paper) if paper else "ours")
        c, d = (x - y for x, y in zip(top1[row], top1[BASELINE], strict=True))
        gain = f"{statistics.mean((c, d)):+.2f} ± {abs(c - d) / 2:.2f} (2)"
        of_paper = "+1.00" if row == "cGLO" else ""
        # Equal runs: over the baseline, over the tuned one.
        both = ["", ""] if row == BASELINE else [of_paper, gain]
        assert gains == [*both, gain]
    assert cells["Baseline, tuned"][1] == cells[BASELINE][1]
    assert "Tiny." in text
    over = part.splitlines()[2]
    assert over == (
        "Tuned: rate 0.1, weight decay 0.0005, batch 8; best of 3 settings by 2 folds of "
        "1 draw of labelled images."
    )
    assert text.count("Tuned:") == 1  # column 3 is not
    (profile,) = (p for p in text.splitlines() if p.startswith("Profile"))
    assert profile.startswith(
        "Profile paper. cGLO (2) differs from the defaults of cglo_jax/config/defaults.py in: "
    )
    fields = profile.partition(": ")[2].removesuffix(".").split(", ")
    assert {"dataset.classes=3", "latent.dim=8", "train.epochs=2"} <= set(fields)
    assert not any("shots" in f or "split_seed" in f or "data_dir" in f for f in fields)
    assert "6 runs are missing." in text  # of column 3
    assert "Baseline, tuned (3) is not tuned yet" in text


def test_the_authors_profile_is_told_as_it_is():
    choice = runs.Choice("cpu", "digits", "authors")
    text = runner.describe_profile(choice, runs.expand(TABLE, choice)[0])
    assert text.startswith("Profile authors. cGLO (2) differs")
    assert "classify.draw_per=batch" in text
    assert "reconstruction.layers=['conv1_2', 'conv2_2', 'conv3_2_pre']" in text
    assert "latent.dim=512" in text
    baselines = [r for r in runs.expand(TABLE, choice)[0] if not r.cglo]
    assert runner.describe_profile(choice, baselines) == "Profile authors."


def test_seeds_choose_what_is_run_not_what_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        work, "run_groups", lambda groups, *_: (str(r) for g in groups for r in g)
    )
    planned, _ = runs.expand(TABLE, runs.Choice("cpu", "digits"))
    baseline = next(r for r in planned if (r.row, r.seed) == ("Baseline", 1))
    versions = ("python", "jax", "jaxlib", "flax", "optax", "numpy", "device", "commit")
    line = {
        "digest": baseline.digest,
        "top1": 47.0,
        "cores": 2,
        "environment": {**dict.fromkeys(versions, "1"), "devices": 1},
    }
    texts = ("date", "platform", "classifier_weights", "perceptual_weights")
    storage.append_record(runs.RESULTS, {**line, **dict.fromkeys(texts, "some")})
    arguments = ("--columns=2", "--rows=Baseline", "--seeds=7,0,7")
    assert call(tmp_path, *arguments) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["1/2 Baseline 2 seed 0", "2/2 Baseline 2 seed 7"]
    assert "| Baseline | 20.0 | 47.00 (1) |" in written(tmp_path)
    # Three seeds of three rows, two columns, less the one that is there.
    assert "17 runs are missing." in written(tmp_path)


def test_a_table_may_have_seeds_of_its_own():
    table = dataclasses.replace(TABLE, seeds=(5, 6))
    options = runner.parse(table, ["--seeds=6"])
    assert (options.seeds, options.choice.seeds) == ([6], (5, 6))
    planned, _ = runs.expand(table, runs.Choice("cpu", "digits"))
    assert {run.config.dataset.split_seed for run in planned} == {5, 6}


def check_dry_run(tmp_path, capsys):
    capsys.readouterr()
    before = runs.RESULTS.read_text()
    assert call(tmp_path, "--dry_run") == 0
    printed = capsys.readouterr().out
    assert "longer 2: 2 done, 0 missing\n" in printed
    assert re.search(r"longer 3: 0 done, 2 missing, \d+\.\d min\n", printed)
    assert (
        "6 runs are done, 6 missing (equal ones counted once), with 2 new cGLOs"
        in printed
    )
    assert "not measured here" not in printed
    assert runs.RESULTS.read_text() == before


def check_what_was_lost_is_run_again(tmp_path, trained, classified):
    """A line that is lost comes back from its work directory, or is run again, and no other."""
    lines = storage.read_records(runs.RESULTS)
    lost = [line for line in lines if line["row"] == "longer"]
    kept = [line for line in lines if line["row"] != "longer"]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    shutil.rmtree(tmp_path / "work" / "v1" / lost[1]["digest"][:12])
    runs.RESULTS.write_text(text)
    assert call(tmp_path, "--columns=2") == 0
    again = storage.read_records(runs.RESULTS)
    assert again[: len(kept)] == kept
    accuracies = [(line["digest"], line["top1"]) for line in lost]
    assert [(line["digest"], line["top1"]) for line in again[4:]] == accuracies
    assert [line["fresh"] for line in again[4:]] == [False, True]
    assert len(classified) == 8
    assert len(trained) == 4  # called, to find both finished


def test_a_run_that_is_cut_off_goes_on(tmp_path, monkeypatch, capsys):
    """Killed in its second epoch, a cGLO and then a classifier."""
    arguments = ("--columns=2", "--rows=cGLO", "--seeds=0")
    append, steps = ownership.Log.append, []

    def die(stage: str) -> None:
        def dying(log, record):
            if record.get("stage") == stage and "loss" in record:
                steps.append((stage, record["step"]))
                if record["step"] == 5:
                    raise KeyboardInterrupt
            append(log, record)

        monkeypatch.setattr(ownership.Log, "append", dying)

    for stage in ("train", "classify"):
        die(stage)
        with pytest.raises(KeyboardInterrupt):
            call(tmp_path, *arguments)
        assert not runs.RESULTS.exists()
    monkeypatch.setattr(ownership.Log, "append", append)
    capsys.readouterr()
    assert call(tmp_path, *arguments) == 0
    (line,) = storage.read_records(runs.RESULTS)
    assert not line["fresh"]
    assert line["train_wall_s"] is None
    assert steps == [(s, k) for s in ("train", "classify") for k in range(1, 6)]
    metrics = storage.read_records(
        tmp_path / "work" / "v1" / line["digest"][:12] / "metrics.jsonl"
    )
    assert [m["step"] for m in metrics] == [1, 2, 3, 4, 5, 6]
    log = (tmp_path / "work" / "v1" / line["digest"][:12] / "log.txt").read_text()
    assert "resumed at step 3 of 6" in log
    log = (
        tmp_path / "work" / "v1" / f"cglo-{line['cglo'][:12]}" / "log.txt"
    ).read_text()
    assert "resumed at step 3 of 6" in log
    check_without_timing(tmp_path, line)


def check_without_timing(tmp_path, line):
    """Killed after cGLO's last checkpoint, before its seconds were written."""
    root = tmp_path / "work" / "v1"
    (root / f"cglo-{line['cglo'][:12]}" / "timings.jsonl").unlink()
    shutil.rmtree(root / line["digest"][:12])
    runs.RESULTS.unlink()
    assert call(tmp_path, "--columns=2", "--rows=cGLO", "--seeds=0") == 0
    (again,) = storage.read_records(runs.RESULTS)
    assert again["train_wall_s"] is None
    assert again["train_steps"] == 6
    assert again["top1"] == line["top1"]


def test_a_failed_run_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    def run(config, workdir, sets, method, seed):
        if seed == 0:
            raise UserError("the dog ate it")
        raise ValueError("one line\nand another")

    monkeypatch.setattr(classify, "run", run)
    monkeypatch.setattr(
        train, "run", lambda *_: (_ for _ in ()).throw(UserError("no generator"))
    )
    assert call(tmp_path, "--columns=2") == 1
    printed = capsys.readouterr()
    assert printed.err == "6 runs failed, see above the table\n"
    lines = printed.out.splitlines()
    assert lines[0] == "1/6 Baseline 2 seed 0: failed: the dog ate it"
    assert lines[1] == "2/6 cGLO 2 seed 0: failed: no generator"
    assert lines[2] == "3/6 longer 2 seed 0: failed: no generator"
    start, _, path = lines[3].partition(" (")
    assert start == "4/6 Baseline 2 seed 1: failed: ValueError: one line"
    assert "and another" in pathlib.Path(path.removesuffix(")")).read_text()
    assert any(line.startswith("| cGLO | **21.0 ± 1.0** | not run |") for line in lines)
    assert not list(tmp_path.glob("*.md"))  # without any result


FAKE_WORKER = """
import json, os, sys
for digest in sys.stdin.read().split():
    line = {"digest": digest, "top1": 1.0, "threads": os.environ["NPROC"]}
    with open(sys.argv[1], "a") as file:
        file.write(json.dumps(line) + "\\n")
    sys.stdout.write(" ".join(["finished", *sys.argv[2:]]) + "\\n")
    sys.stdout.flush()
sys.exit(3 if sys.argv[2] == "break" else 0)
"""


@pytest.mark.parametrize("how", ["work", "break"])
def test_workers_share_the_runs(tmp_path, monkeypatch, capfd, how):
    monkeypatch.delenv("NPROC")
    monkeypatch.setattr(machine, "count_cores", lambda: 6)
    choice = runs.Choice("cpu", "digits")
    missing = runs.missing(runs.expand(TABLE, choice)[0])
    command = [sys.executable, "-c", FAKE_WORKER, str(runs.RESULTS), how]
    runner.run_workers(command, missing, jobs=2, gpus=0)
    lines = storage.read_records(runs.RESULTS)
    assert sorted(line["digest"] for line in lines) == sorted(r.digest for r in missing)
    assert {line["threads"] for line in lines} == {"3"}
    printed = capfd.readouterr().out.splitlines()
    n = len(missing)
    finished = [f"{i}/{n} finished {how} --worker --jobs=2" for i in range(1, n + 1)]
    ended = [f"worker {i} ended with status 3" for i in range(2) if how == "break"]
    assert printed == finished + ended


def test_a_cglo_is_of_one_worker_and_shares_are_even():
    missing = runs.missing(runs.expand(TABLE, runs.Choice("cpu", "digits"))[0])
    groups = work.group(missing)
    assert sorted(map(len, groups)) == [1] * 4 + [2] * 4
    shares = runner.spread_work(groups, 3)
    steps = [sum(estimate.steps_of(group) for group in share) for share in shares]
    # A classifier and a cGLO have 6 steps: four groups of 18, four of 6.
    assert sorted(steps) == [30, 30, 36]
    cglos = [{group[0].cglo for group in share} - {""} for share in shares]
    assert sum(map(len, cglos)) == len(set().union(*cglos)) == 4
    assert len(runner.spread_work(groups[:2], 3)) == 2


def test_a_worker_does_its_runs_only(tmp_path, monkeypatch, capsys):
    missing = runs.missing(runs.expand(TABLE, runs.Choice("cpu", "digits"))[0])
    monkeypatch.setattr(runner.sys.stdin, "read", lambda: missing[3].digest)
    done = []
    monkeypatch.setattr(
        work, "run_groups", lambda groups, *_: (done.extend(groups), ["a line"])[1]
    )
    assert call(tmp_path, "--worker", "--jobs=2") == 0
    assert capsys.readouterr().out == "a line\n"
    assert [[run.digest for run in group] for group in done] == [[missing[3].digest]]


@pytest.mark.parametrize(
    ("visible", "jobs", "devices", "memory"),
    [(None, 2, ["0", "1"], None), ("4,7", 4, ["4", "7", "4", "7"], "0.45")],
)
def test_a_worker_has_a_gpu(monkeypatch, visible, jobs, devices, memory):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    envs = [runner.worker_environment(i, jobs, 2) for i in range(jobs)]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in envs] == devices
    assert {env.get("XLA_PYTHON_CLIENT_MEM_FRACTION") for env in envs} == {memory}


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"CUDA_VISIBLE_DEVICES": "4, 7"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "GPU-ab,MIG-cd,1"}, 3),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 0),
        ({"CUDA_VISIBLE_DEVICES": "2,-1,3"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "JAX_PLATFORMS": "cpu"}, 0),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "JAX_PLATFORMS": "cuda,cpu"}, 2),
        ({"JAX_PLATFORMS": "cpu"}, 0),
        ({}, 3),
    ],
)
def test_gpus_that_may_be_used(monkeypatch, environment, count):
    for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    listed = "".join(f"GPU {i}: one (UUID: x)\n  MIG 1g\n" for i in range(3))
    done = subprocess.CompletedProcess([], 0, listed)
    monkeypatch.setattr(runner.shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.setattr(runner.subprocess, "run", lambda *_, **__: done)
    assert COUNT_GPUS() == count


def test_cores_without_linux(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    assert machine.count_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert machine.count_cores() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.count_cores() == 1


def test_names_with_commas():
    names = ["Baseline", "Baseline, tuned", "cGLO"]
    assert runner.select("rows", "", names) == names
    assert runner.select("rows", "cglo,Baseline, tuned", names) == names[:0:-1]
    assert runner.select("rows", "Baseline,cGLO", names) == ["Baseline", "cGLO"]
    with pytest.raises(
        UserError, match="--rows=cGLO,Base: there is no 'Base', there are: Baseline;"
    ):
        runner.select("rows", "cGLO,Base", names)


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--scale=paper", "tiny has no --scale=paper with --data=: use --scale=cpu"),
        ("--data=cub", "tiny has no --scale=cpu with --data=cub: use --scale=cpu"),
        ("--seeds=0,x", "--seeds=0,x: they are whole numbers"),
        ("--jobs=0", "--jobs=0: it must be 1 or more"),
        ("--columns=25", "--columns=25: there is no '25', there are: 2; 3"),
    ],
)
def test_wrong_command_lines(tmp_path, flag, says):
    with pytest.raises(UserError) as error:
        call(tmp_path, flag)
    assert str(error.value).startswith(says)
