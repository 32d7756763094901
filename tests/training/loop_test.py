"""Tests of cglo_jax/training/loop.py with a trainer of one number."""

import dataclasses
import io
import signal
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cglo_jax.errors import UserError
from cglo_jax.files import ownership, storage
from cglo_jax.process import interrupts
from cglo_jax.stages import classify, train
from cglo_jax.training import checkpoints, loop, manifest, parallel, progress
from cglo_jax.workdir import directory as workdirs
from tests.helpers.tiny import create_config, create_dataset

DEVICES = jax.local_devices()[:1]
TAGS = {"stage": "train", "seed": 0}


class Trainer:
    """x <- a x + step, its metrics x before the step; remembers which steps were taken."""

    def __init__(self, workdir, **changes):
        self.taken, self.calls, self.per_call, self.rates = [], [], 1, []
        self.factor = 0.5
        self.fail_at = self.signal_at = None
        self.workdir = workdir
        self.arguments = {
            "split_state": lambda s: ({"x": s["x"]}, {"step": s["step"]}),
            "merge_state": lambda model, rest: {**model, **rest},
            "devices": DEVICES,
            "checkpoint_dir": workdir / "checkpoints",
            "meta": {"fingerprint": {"latent.dim": 8}, "images": "abc"},
            "workdir": workdir,
            "tags": TAGS,
            "section": "train",
            "steps_per_call": 1,
            "check_memory": False,
            "total": 10,
            "steps_per_epoch": 4,
            "images_per_step": 8,
            "log_every": 2,
            "save_every": 4,
            "rollbacks": 0,
            "rollback_factor": 0.5,
            **changes,
        }

    def take_step(self, state, step):
        if step == self.fail_at:
            raise KeyboardInterrupt
        if step == self.signal_at:
            interrupts._heard.append(signal.SIGTERM)
        assert int(state["step"]) == step
        self.taken.append(step)
        x = state["x"] * self.factor + step
        return {"x": x, "step": state["step"] + 1}, {"loss": state["x"]}

    def take_steps(self, state, step, most):
        self.calls.append(min(most, self.per_call))
        for i in range(self.calls[-1]):
            state, metrics = self.take_step(state, step + i)
        return state, metrics, self.calls[-1]

    def init(self):
        state = {"x": jnp.ones(()), "step": jnp.zeros((), jnp.int32)}
        return parallel.replicate(state, DEVICES)

    def create(self, job, lr_scale):
        self.rates.append(lr_scale)
        return self.take_steps

    def run(self):
        job = loop.Job(init=self.init, choose=None, shared=None, **self.arguments)
        with mock.patch.object(loop, "_create_take_steps", self.create):
            state, self.rate = loop.run_steps(job)
        return state

    def records(self, name="metrics"):
        return storage.read_records(self.workdir / f"{name}.jsonl")


@pytest.fixture
def heard(monkeypatch):
    """The signals that the loop has heard, in this test only."""
    signals = []
    monkeypatch.setattr(interrupts, "_heard", signals)
    return signals


def saved_steps(directory):
    return {int(p.name) for p in directory.iterdir()}


def test_steps_logs_and_saves(tmp_path):
    trainer = Trainer(tmp_path)
    state = trainer.run()
    xs = [1.0]
    for step in range(10):
        xs.append(xs[-1] * 0.5 + step)
    assert float(state["x"]) == xs[10]
    assert trainer.taken == list(range(10))
    # Every second step, and those that are saved.
    assert trainer.records() == [
        {**TAGS, "step": s, "epoch": s / 4, "loss": xs[s - 1]} for s in (2, 4, 6, 8, 10)
    ]
    assert saved_steps(tmp_path / "checkpoints") == {8, 10}
    (timing,) = trainer.records("timings")
    assert timing["steps"] == 10
    assert timing.items() > TAGS.items()
    assert timing["wall_s"] >= timing["compile_s"] > 0


def test_the_last_step_is_logged_and_saved_whatever_the_periods(tmp_path):
    trainer = Trainer(tmp_path, log_every=100, save_every=100, total=7)
    trainer.run()
    assert [r["step"] for r in trainer.records()] == [7]
    assert saved_steps(tmp_path / "checkpoints") == {7}


def test_no_call_takes_steps_past_a_log_or_a_save(tmp_path):
    one, five = Trainer(tmp_path / "one"), Trainer(tmp_path / "five")
    five.per_call = 5
    for trainer in (one, five):
        trainer.workdir.mkdir()
        trainer.arguments.update(log_every=7, save_every=12, total=26)
        trainer.run()
    assert five.calls == [5, 2, 5, 2, 5, 2, 3, 2]
    assert five.taken == one.taken == list(range(26))
    assert five.records() == one.records()
    assert [r["step"] for r in five.records()] == [7, 12, 14, 21, 24, 26]
    assert saved_steps(five.workdir / "checkpoints") == {24, 26}
    assert five.records("timings")[0]["steps"] == 26


def test_an_interrupted_run_goes_on_from_the_checkpoint(tmp_path):
    whole = Trainer(tmp_path / "whole")
    whole.workdir.mkdir()
    cut = Trainer(tmp_path / "cut")
    cut.workdir.mkdir()
    cut.fail_at = 7
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    assert [r["step"] for r in cut.records()] == [2, 4, 6]
    cut.fail_at, cut.taken = None, []
    state = cut.run()
    assert cut.taken == [4, 5, 6, 7, 8, 9]
    assert float(state["x"]) == float(whole.run()["x"])
    metrics = [(t.workdir / "metrics.jsonl").read_bytes() for t in (whole, cut)]
    assert metrics[0] == metrics[1]
    assert [t["steps"] for t in cut.records("timings")] == [6]


def test_a_finished_run_takes_no_step_and_writes_nothing(tmp_path, capsys):
    first = Trainer(tmp_path)
    state = first.run()
    files = {p: p.read_bytes() for p in tmp_path.glob("*.jsonl")}
    capsys.readouterr()
    again = Trainer(tmp_path)
    assert float(again.run()["x"]) == float(state["x"])
    assert again.taken == []
    assert {p: p.read_bytes() for p in tmp_path.glob("*.jsonl")} == files
    assert "train seed 0: done before, at step 10" in capsys.readouterr().err


def test_people_see_that_it_goes_on_between_log_points(tmp_path, monkeypatch, capsys):
    for period in ("_LOOK_EVERY_S", "_PLAIN_EVERY_S"):
        monkeypatch.setattr(progress, period, 0.0)
    trainer = Trainer(tmp_path, log_every=100, save_every=100, total=4)
    take_step = trainer.take_step
    trainer.take_step = lambda *args: jax.block_until_ready(take_step(*args))
    trainer.run()
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if "left" in line]
    assert [line.split(",")[0] for line in told] == [
        "train seed 0: step 2/4",
        "train seed 0: step 3/4",
        "train seed 0: step 4/4",  # before it is logged
        "train seed 0: step 4/4",
    ]
    assert lines[-1].startswith("train seed 0: done, 4 steps in ")
    assert lines[-1].endswith(", saved")


def test_other_runs_lines_stay(tmp_path):
    others = [
        {"stage": "train", "seed": 1, "step": 9},
        {"stage": "classify", "method": "cglo", "seed": 0, "step": 9},
    ]
    for record in [*others, {**TAGS, "step": 9}]:
        with ownership.Log(tmp_path, "metrics.jsonl") as log:
            log.append(record)
    trainer = Trainer(tmp_path)
    trainer.run()
    records = trainer.records()
    assert records[:2] == others
    assert [r["step"] for r in records[2:]] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fingerprint": {"latent.dim": 16}, "images": "abc"}, "latent.dim=8, .* 16: "),
        ({"fingerprint": {"latent.dim": 8}, "images": "xyz"}, "made with other images"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path, changed, message):
    Trainer(tmp_path).run()
    other = Trainer(tmp_path, meta=changed)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=message):
        other.run()
    assert other.taken == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_metric_that_is_not_finite_stops_the_run(tmp_path, value):
    trainer = Trainer(tmp_path, log_every=3)
    take_step = trainer.take_step

    def spoiled(state, step):
        state, metrics = take_step(state, step)
        return state, {"kl": metrics["loss"] * float(value) if step >= 5 else 0.0}

    trainer.take_step = spoiled
    message = "train seed 0: kl is not finite since step 6; nothing was saved since"
    with pytest.raises(UserError, match=message):
        trainer.run()
    assert saved_steps(tmp_path / "checkpoints") == {4}
    assert [r["step"] for r in trainer.records()] == [3, 4]


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    # x overflows in the last step before a save, whose metric is the x before it.
    trainer = Trainer(tmp_path, save_every=2, total=2)
    trainer.factor = 1e30
    with pytest.raises(UserError) as error:
        trainer.run()
    assert str(error.value) == (
        "train seed 0: the state's x has a inf at step 2; nothing was saved yet: use lower "
        "learning rates, or --config.rollbacks=3 to start over with lower ones"
    )
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_goes_back_to_its_checkpoint_with_lower_rates(tmp_path, capsys):
    trainer = Trainer(tmp_path, rollbacks=2)
    take_step = trainer.take_step

    def spoiled(state, step):
        state, metrics = take_step(state, step)
        if trainer.rates[-1] > 0.3 and step == 5:
            metrics = {"loss": metrics["loss"] * np.nan}
        return state, metrics

    trainer.take_step = spoiled
    trainer.run()
    assert trainer.rates == [1.0, 0.5, 0.25]
    assert trainer.taken == [0, 1, 2, 3, 4, 5, 4, 5, 4, 5, 6, 7, 8, 9]
    assert [r["step"] for r in trainer.records()] == [2, 4, 6, 8, 10]
    said = capsys.readouterr().err
    assert "loss is not finite since step 6" in said
    going_on = (
        "since the last checkpoint: continuing from there with learning rates times"
    )
    assert f"{going_on} 0.25\n" in said
    # A later call continues with the lower rates.
    Trainer.run(again := Trainer(tmp_path))
    assert again.rates == [0.25]
    assert trainer.rate == again.rate == 0.25


def test_a_run_that_stays_bad_ends_after_so_many_rollbacks(tmp_path, capsys):
    trainer = Trainer(tmp_path, rollbacks=2)
    trainer.factor = np.nan
    message = (
        "loss is not finite since step 2; nothing was saved yet: that was after 2 r"
    )
    with pytest.raises(UserError, match=message):
        trainer.run()
    said = capsys.readouterr().err
    assert (
        "nothing was saved yet: starting over with learning rates times 0.5\n" in said
    )
    assert trainer.rates == [1.0, 0.5, 0.25]
    assert not (tmp_path / "checkpoints").exists()
    assert len(trainer.records("timings")) == 3


def test_a_signal_saves_the_step_it_comes_in_and_leaves_no_trace(
    tmp_path, heard, capsys
):
    whole, cut = Trainer(tmp_path / "whole"), Trainer(tmp_path / "cut")
    for trainer in (whole, cut):
        trainer.workdir.mkdir()
    cut.signal_at = 6
    with pytest.raises(interrupts.Interrupted) as stopped:
        cut.run()
    assert stopped.value.status == 143
    assert "train seed 0: saved step 7 of 10\n" in capsys.readouterr().err
    assert saved_steps(cut.workdir / "checkpoints") == {4, 7}
    assert [t["steps"] for t in cut.records("timings")] == [7]
    heard.clear()
    cut.run()
    assert cut.taken == list(range(10))
    whole.run()
    metrics = [(t.workdir / "metrics.jsonl").read_bytes() for t in (whole, cut)]
    assert metrics[0] == metrics[1]


def test_a_signal_before_the_first_line_of_metrics_saves_too(tmp_path, heard):
    cut = Trainer(tmp_path, log_every=100, save_every=100, total=200)
    cut.signal_at = 2
    with pytest.raises(interrupts.Interrupted):
        cut.run()
    assert saved_steps(tmp_path / "checkpoints") == {3}
    assert cut.records() == []


def test_a_signal_in_the_last_save_ends_the_run_too(tmp_path, monkeypatch, heard):
    wait = checkpoints.Checkpoints.wait

    def signalled(saved):
        heard.append(signal.SIGTERM)
        wait(saved)

    trainer = Trainer(tmp_path, total=1)
    monkeypatch.setattr(checkpoints.Checkpoints, "save", lambda *_: None)
    monkeypatch.setattr(checkpoints.Checkpoints, "latest_step", lambda _: None)
    monkeypatch.setattr(checkpoints.Checkpoints, "wait", signalled)
    with pytest.raises(interrupts.Interrupted) as stopped:
        trainer.run()
    assert stopped.value.status == 143
    assert trainer.taken == [0]


def test_a_signal_comes_before_a_rollback(tmp_path, heard):
    trainer = Trainer(tmp_path, rollbacks=3)
    trainer.signal_at = 5
    take_step = trainer.take_step

    def spoiled(state, step):
        state, metrics = take_step(state, step)
        return state, {"loss": metrics["loss"] * (np.nan if step == 5 else 1)}

    trainer.take_step = spoiled
    with pytest.raises(interrupts.Interrupted):
        trainer.run()
    assert trainer.rates == [1.0]
    assert saved_steps(tmp_path / "checkpoints") == {4}


def test_no_checkpoint_is_saved_before_its_lines_of_metrics_are_on_disk(
    tmp_path, monkeypatch
):
    done, sync, save = [], storage.sync, checkpoints.Checkpoints.save

    def synced(path):
        sync(path)
        done.append((path.name, len(path.read_bytes()) if path.is_file() else 0))

    def saved(self, step, *args):
        lines = (tmp_path / "metrics.jsonl").read_bytes()
        assert ("metrics.jsonl", len(lines)) in done
        assert (tmp_path.name, 0) in done  # that the file is there
        done.append(step)
        save(self, step, *args)

    monkeypatch.setattr(storage, "sync", synced)
    monkeypatch.setattr(checkpoints.Checkpoints, "save", saved)
    Trainer(tmp_path).run()
    assert [d for d in done if isinstance(d, int)] == [4, 8, 10]


def test_a_checkpoint_of_another_program_is_refused(tmp_path):
    directory = tmp_path / "checkpoints"
    with checkpoints.Checkpoints(directory) as saved:
        saved.save(4, {"x": np.ones(())}, {"step": np.int32(4)}, {})
    with pytest.raises(UserError, match="checkpoints: step 4 was not saved by this"):
        Trainer(tmp_path).run()


def test_a_resumed_run_tells_of_another_environment(tmp_path, monkeypatch, capsys):
    Trainer(tmp_path, total=4).run()
    describe = manifest.describe_environment
    other = {"jaxlib": "9.9", "threads": 77}
    monkeypatch.setattr(
        manifest, "describe_environment", lambda n: {**describe(n), **other}
    )
    capsys.readouterr()
    Trainer(tmp_path).run()
    said = capsys.readouterr().err
    assert "step 4 was saved with jaxlib" in said
    assert "now 9.9; threads" in said
    assert "devices" not in said


def test_a_start_without_a_checkpoint_is_said(tmp_path, capsys):
    cut = Trainer(tmp_path)
    cut.fail_at = 3
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    assert "starting over" not in capsys.readouterr().err
    Trainer(tmp_path).run()
    assert "ended before its first checkpoint: starting over" in capsys.readouterr().err


def test_saved_states_restore_to_what_they_were(tmp_path):
    trainer = Trainer(tmp_path)
    trainer.run()
    model, meta, step = checkpoints.restore_latest_model(tmp_path / "checkpoints", "")
    assert step == 10
    assert meta == {
        **trainer.arguments["meta"],
        "batch_size": trainer.arguments["images_per_step"],
        "rate": 1.0,
    }
    assert float(model["x"]) == float(trainer.run()["x"])


def picture_of(state):
    return {"samples": np.full((2, 3, 3), int(state["step"]), np.uint8)}


def read_board(workdir):
    """What TensorBoard shows of the run."""
    pytest.importorskip("tensorboardX")
    from tests.helpers.event_files import read_shown

    return read_shown(workdir / "tensorboard" / "train-0")


def assert_shown(workdir, records):
    """Fails unless the board has the metrics of all lines, and a picture of each save."""
    scalars, pictures = read_board(workdir)
    assert scalars == {"loss": {r["step"]: pytest.approx(r["loss"]) for r in records}}
    assert [r["step"] for r in records] == [2, 4, 6, 8, 10]
    assert pictures.keys() == {"samples"}
    assert list(pictures["samples"]) == [4, 8, 10]
    for step, content in pictures["samples"].items():
        with Image.open(io.BytesIO(content)) as png:
            assert (png.format, png.size) == ("PNG", (3, 2))
            assert set(png.tobytes()) == {step}


def test_tensorboard_gets_the_metrics_and_pictures_of_what_is_saved(tmp_path):
    trainer = Trainer(tmp_path, draw=picture_of)
    trainer.run()
    assert_shown(tmp_path, trainer.records())
    Trainer(tmp_path, draw=picture_of).run()  # done before: nothing more is written
    assert len(list((tmp_path / "tensorboard" / "train-0").iterdir())) == 1


@pytest.mark.parametrize(("at", "signalled"), [(3, False), (8, False), (7, True)])
def test_tensorboard_shows_no_step_of_an_interrupted_run_twice(
    tmp_path, heard, at, signalled
):
    trainer = Trainer(tmp_path, draw=picture_of)
    if signalled:
        trainer.signal_at = at
    else:
        trainer.fail_at = at
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    heard.clear()
    trainer.fail_at = trainer.signal_at = None
    trainer.run()
    assert_shown(tmp_path, trainer.records())


def test_nothing_is_drawn_where_nothing_shows_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    drawn = []
    Trainer(tmp_path, draw=drawn.append).run()
    assert drawn == []


def test_pictures_that_cannot_be_drawn_are_one_line(tmp_path, capsys):
    pytest.importorskip("tensorboardX")

    def draw(state):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    trainer = Trainer(tmp_path, draw=draw)
    trainer.run()
    said = capsys.readouterr().err
    told = "warning: train seed 0: no pictures: RESOURCE_EXHAUSTED: Out of memory\n"
    assert said.count("warning") == said.count(told) == 1
    scalars, pictures = read_board(tmp_path)
    assert len(scalars["loss"]) == 5 and not pictures


@pytest.mark.slow
def test_no_trainer_copies_to_devices_but_explicitly(tmp_path, monkeypatch):
    """Every later step of every trainer; what is read back, a guard sees on a GPU only."""
    run_steps, guarded = loop.run_steps, []

    def with_guard(job):
        def create(rate):
            take_steps, state = job.create(rate)

            def take_guarded(state, step, most):
                if step == 0:  # constants of the compiled program
                    return take_steps(state, step, most)
                with jax.transfer_guard("disallow"):
                    guarded.append(job.tags["stage"])
                    return take_steps(state, step, most)

            return take_guarded, state

        return run_steps(dataclasses.replace(job, create=create))

    monkeypatch.setattr(loop, "run_steps", with_guard)
    config = create_config()
    train_set, test_set = create_dataset(), create_dataset(12, seed=1, split="test")
    workdirs.create(config, tmp_path)
    train.run(config, tmp_path, train_set, 0)
    for method in ("baseline", "cglo", "mixmatch"):
        classify.run(config, tmp_path, (train_set, test_set), method, 0)
    assert guarded == ["train"] * 5 + ["classify"] * 15
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed"):
        jnp.ones(3) + np.ones(3, np.float32)  # the guard sees such things on a CPU too
