"""Tests of cglo_jax/loop.py with a trainer of one number."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import create_config, create_dataset

from cglo_jax import checkpoints, classify, loop, parallel, train
from cglo_jax.config import flatten
from cglo_jax.errors import UserError

DEVICES = jax.local_devices()[:1]
TAGS = {"stage": "train", "seed": 0}


class Trainer:
    """x <- a x + step, its metrics x before the step; remembers which steps were taken."""

    def __init__(self, workdir, **changes):
        self.taken, self.calls, self.per_call = [], [], 1
        self.factor = 0.5
        self.fail_at = None
        self.workdir = workdir
        self.arguments = {
            "split_state": lambda s: ({"x": s["x"]}, {"step": s["step"]}),
            "merge_state": lambda model, rest: {**model, **rest},
            "devices": DEVICES,
            "checkpoint_dir": workdir / "checkpoints",
            "meta": {"fingerprint": {"latent.dim": 8}, "images": "abc"},
            "workdir": workdir,
            "tags": TAGS,
            "total": 10,
            "steps_per_epoch": 4,
            "images_per_step": 8,
            "log_every": 2,
            "save_every": 4,
            **changes,
        }

    def take_step(self, state, step):
        if step == self.fail_at:
            raise KeyboardInterrupt
        assert int(state["step"]) == step
        self.taken.append(step)
        x = state["x"] * self.factor + step
        return {"x": x, "step": state["step"] + 1}, {"loss": state["x"]}

    def take_steps(self, state, step, most):
        self.calls.append(min(most, self.per_call))
        for i in range(self.calls[-1]):
            state, metrics = self.take_step(state, step + i)
        return state, metrics, self.calls[-1]

    def run(self):
        state = {"x": jnp.ones(()), "step": jnp.zeros((), jnp.int32)}
        state = parallel.replicate(state, DEVICES)
        return loop.run_steps(self.take_steps, state, **self.arguments)

    def records(self, name="metrics"):
        return loop.read_records(self.workdir / f"{name}.jsonl")


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


def test_other_runs_lines_stay(tmp_path):
    others = [
        {"stage": "train", "seed": 1, "step": 9},
        {"stage": "classify", "step": 9},
    ]
    for record in [*others, {**TAGS, "step": 9}]:
        loop.append_record(tmp_path / "metrics.jsonl", record)
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
    with pytest.raises(UserError, match=f"train seed 0: kl is {value} at step 6;"):
        trainer.run()
    assert saved_steps(tmp_path / "checkpoints") == {4}
    assert [r["step"] for r in trainer.records()] == [3, 4]


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    # x overflows in the last step before a save, whose metric is the x before it.
    trainer = Trainer(tmp_path, save_every=2, total=2)
    trainer.factor = 1e30
    with pytest.raises(UserError, match="train seed 0: the state is inf at step 2"):
        trainer.run()
    assert saved_steps(tmp_path / "checkpoints") == set()


def test_saved_states_restore_to_what_they_were(tmp_path):
    trainer = Trainer(tmp_path)
    trainer.run()
    model, meta, step = checkpoints.restore_latest_model(tmp_path / "checkpoints", "")
    assert step == 10
    assert meta == {
        **trainer.arguments["meta"],
        "batch_size": trainer.arguments["images_per_step"],
    }
    assert float(model["x"]) == float(trainer.run()["x"])


# Files


def test_records_are_read_as_appended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert loop.read_records(path) == []
    records = [{"step": 1, "loss": 0.1}, {"step": 2, "name": "ä \n line"}]
    for record in records:
        loop.append_record(path, record)
    assert loop.read_records(path) == records
    assert len(path.read_text().splitlines()) == 2


def test_a_half_written_last_line_is_left_out_and_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        loop.append_record(path, {**TAGS, "step": step})
    whole = path.read_text()
    path.write_text(whole + '{"stage": "train", "st')
    assert [r["step"] for r in loop.read_records(path)] == [1, 2]
    loop.drop_records(path, TAGS, after_step=2)
    assert path.read_text() == whole


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged: .* line 2"):
        loop.read_records(path)


def test_drop_records_removes_later_lines_with_these_tags_only(tmp_path):
    path = tmp_path / "metrics.jsonl"
    loop.drop_records(path, TAGS, after_step=0)
    assert not path.exists()
    other = {"stage": "train", "seed": 1}
    records = [{**tags, "step": s} for s in (1, 2, 3) for tags in (TAGS, other)]
    for record in records:
        loop.append_record(path, record)
    loop.drop_records(path, TAGS, after_step=1)
    kept = [r for r in records if r["seed"] == 1 or r["step"] == 1]
    assert loop.read_records(path) == kept
    assert len(kept) == 4


def test_write_atomically_replaces_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    loop.write_atomically(path, "one")
    loop.write_atomically(path, "two")
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        loop.write_atomically(path, "three")
    assert path.read_text() == "two"


def test_open_workdir_writes_the_config(tmp_path):
    config = create_config(**{"latent.dim": 16})
    workdir = tmp_path / "runs" / "a"
    loop.open_workdir(config, workdir)
    fields = json.loads((workdir / "config.json").read_text())
    assert fields == flatten(config)
    assert fields["latent.dim"] == 16
    assert fields["seeds"] == [0]


def test_open_workdir_refuses_another_config_and_keeps_the_old(tmp_path):
    old = create_config()
    loop.open_workdir(old, tmp_path)
    other = create_config(**{"latent.dim": 16})
    loop.open_workdir(other, tmp_path)  # nothing was made yet
    loop.open_workdir(old, tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    (tmp_path / "checkpoints" / "seed-0" / "3").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"latent\.dim=8, this call has 16: use another"
    ):
        loop.open_workdir(other, tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
    # Fields of later stages are free until there is a result, and those of no result always.
    slower = create_config(**{"classify.lr": 0.01, "seeds": (3, 4)})
    loop.open_workdir(slower, tmp_path)
    (tmp_path / "classifiers" / "cglo-0").mkdir(parents=True)
    (tmp_path / "classifiers" / "cglo-0" / "result.json").write_text("{}")
    with pytest.raises(UserError, match=r"classify\.lr=0\.01, this call has 0\.1: "):
        loop.open_workdir(old, tmp_path)
    slower.seeds, slower.sample.per_class = (5,), 3
    loop.open_workdir(slower, tmp_path)
    (tmp_path / "config.json").write_text("{")
    loop.open_workdir(slower, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["seeds"] == [5]


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        with pytest.raises(UserError, match=f"cannot write to --workdir={path}: "):
            loop.open_workdir(create_config(), path)


def test_the_check_of_a_state_sees_every_array():
    state = {"a": jnp.array([1.0, -7.0]), "step": jnp.int32(3), "none": jnp.zeros((0,))}
    assert float(loop._largest(state)) == 7
    for bad in (np.nan, np.inf, -np.inf):
        spoiled = {**state, "b": jnp.array([[0, bad]], jnp.bfloat16)}
        assert not np.isfinite(float(loop._largest(spoiled)))


def read_scalars(directory):
    """[(name, step, value)] of TensorBoard's event files: length, crc, event, crc, ..."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(directory.iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            data = data[16 + length :]
    return found


def test_tensorboard_gets_the_metrics(tmp_path):
    pytest.importorskip("tensorboardX")
    trainer = Trainer(tmp_path)
    trainer.run()
    directory = tmp_path / "tensorboard" / "train-0"
    expected = [("loss", r["step"], r["loss"]) for r in trainer.records()]
    assert read_scalars(directory) == [(n, s, pytest.approx(v)) for n, s, v in expected]
    Trainer(tmp_path).run()  # done before: nothing more is written
    assert len(list(directory.iterdir())) == 1


def test_no_trainer_copies_to_devices_but_explicitly(tmp_path, monkeypatch):
    """Every later step of every trainer; what is read back, a guard sees on a GPU only."""
    run_steps, guarded = loop.run_steps, []

    def with_guard(take_steps, *args, **kwargs):
        def take_guarded(state, step, most):
            if step == 0:  # constants of the compiled program
                return take_steps(state, step, most)
            with jax.transfer_guard("disallow"):
                guarded.append(kwargs["tags"]["stage"])
                return take_steps(state, step, most)

        return run_steps(take_guarded, *args, **kwargs)

    monkeypatch.setattr(loop, "run_steps", with_guard)
    config = create_config()
    train_set, test_set = create_dataset(), create_dataset(12, seed=1, split="test")
    loop.open_workdir(config, tmp_path)
    train.run(config, tmp_path, train_set, 0)
    for method in ("baseline", "cglo", "mixmatch"):
        classify.run(config, tmp_path, (train_set, test_set), method, 0)
    assert guarded == ["train"] * 5 + ["classify"] * 15
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed"):
        jnp.ones(3) + np.ones(3, np.float32)  # the guard sees such things on a CPU too
