"""Tests of cglo_jax/training/wandb_run.py with a stand-in for W&B, with the signatures of 0.31.0."""

import dataclasses
import inspect
import pathlib
import sys
import types

import numpy as np
import pytest

from cglo_jax import main
from cglo_jax.cli.flags import Command
from cglo_jax.errors import UserError
from cglo_jax.training import parallel, wandb_run
from tests.helpers.tiny import create_config
from tests.training.loop_test import Trainer

NEEDED = ("setup", "login", "init", "Settings", "Image")


class Service:
    """What W&B's servers and its package know, for one test."""

    def __init__(self):
        self.mode, self.key = "online", True
        self.fails: dict[str, Exception] = {}  # by function
        self.asked: list[dict] = []  # arguments of `init`
        self.logged: dict[str, dict[int, dict]] = {}  # {id of a run: {step: values}}
        self.finished: list[str] = []
        self.module = types.ModuleType("wandb")
        for name in NEEDED:
            setattr(self.module, name, getattr(self, name))

    def fail(self, name):
        if name in self.fails:
            raise self.fails[name]

    def setup(self, settings=None):
        return types.SimpleNamespace(settings=types.SimpleNamespace(mode=self.mode))

    def login(self, key=None, *, verify=True, prompt=True):
        assert not verify and not prompt  # nobody is asked
        return self.key

    def init(
        self,
        project=None,
        dir=None,
        id=None,
        name=None,
        config=None,
        allow_val_change=None,
        group=None,
        job_type=None,
        reinit=None,
        resume=None,
        settings=None,
    ):
        self.fail("init")
        self.asked.append(dict(locals()))
        return FakeRun(self, id, dir)

    @dataclasses.dataclass(kw_only=True)
    class Settings:
        silent: bool
        console: str
        finish_timeout: float = 0.0

    @dataclasses.dataclass
    class Image:
        data_or_path: np.ndarray


class FakeRun:
    """A run of `Service`."""

    offline = False

    def __init__(self, service, run_id, folder):
        self.service, self.id, self.dir = service, run_id, f"{folder}/wandb/{run_id}/a"
        self.steps = service.logged.setdefault(run_id, {})
        self.step = max(self.steps, default=-1) + 1  # as of a run that is resumed
        self.url = f"https://wandb/{run_id}"

    def log(self, data, step=None):
        self.service.fail("log")
        assert step >= self.step, "W&B would warn"
        self.step = step
        self.steps.setdefault(step, {}).update(data)

    def finish(self, exit_code=None):
        self.service.fail("finish")
        self.service.finished.append(self.id)


@pytest.fixture
def wandb(monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service.module)
    monkeypatch.setattr(wandb_run, "_failed", False)
    return service


def create(workdir, **changes) -> Trainer:
    workdir.mkdir(exist_ok=True)
    project = wandb_run.Project("cglo", {"latent.dim": 8})
    return Trainer(workdir, wandb=project, **changes)


def test_the_stand_in_is_called_as_the_package_can_be():
    """Against the package where it is installed; written with 0.31.0."""
    real = pytest.importorskip("wandb")
    from wandb.sdk.wandb_run import Run

    pairs = [(getattr(Service, name), getattr(real, name)) for name in NEEDED[:3]]
    pairs += [(FakeRun.log, Run.log), (FakeRun.finish, Run.finish)]
    for fake, genuine in pairs:
        names = inspect.signature(fake).parameters.keys() - {"self"}
        assert names <= inspect.signature(genuine).parameters.keys()
    settings = {field.name for field in dataclasses.fields(Service.Settings)}
    assert settings <= real.Settings.model_fields.keys()
    assert list(inspect.signature(real.Image.__init__).parameters)[1] == "data_or_path"
    for name in ("step", "dir", "url", "offline"):
        assert isinstance(getattr(Run, name), property)


def test_metrics_and_pictures_go_to_the_project(tmp_path, wandb, capsys):
    picture = np.zeros((2, 3, 3), np.uint8)
    trainer = create(tmp_path / "digits", draw=lambda _: {"samples": picture})
    trainer.run()
    (asked,) = wandb.asked
    run_id = asked["id"]
    assert run_id.endswith("-train-0")
    assert asked["project"] == "cglo" and asked["dir"] == str(tmp_path / "digits")
    assert (asked["name"], asked["group"]) == ("digits train-0", "digits")
    assert asked["config"] == {"latent.dim": 8}
    assert asked["resume"] == "allow"
    logged = wandb.logged[run_id]
    lines = {r["step"]: r["loss"] for r in trainer.records()}
    assert {step: values["loss"] for step, values in logged.items()} == lines
    shown = {step: v["samples"] for step, v in logged.items() if "samples" in v}
    assert list(shown) == [4, 8, 10]
    assert all(image.data_or_path is picture for image in shown.values())
    assert wandb.finished == [run_id]
    assert f"train seed 0: W&B: https://wandb/{run_id}\n" in capsys.readouterr().err


def test_a_resumed_run_goes_on_in_the_same_run_of_wandb(tmp_path, wandb):
    cut = create(tmp_path)
    cut.fail_at = 7  # 6 was logged, the checkpoint is at 4
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    cut.fail_at = None
    cut.run()
    one, other = (asked["id"] for asked in wandb.asked)
    assert one == other
    assert wandb.finished == [one, one]
    assert list(wandb.logged[one]) == [2, 4, 6, 8, 10]


def test_a_moved_work_directory_keeps_its_runs_and_a_fresh_one_has_others(
    tmp_path, wandb
):
    project = wandb_run.Project("cglo")
    tags = {"stage": "classify", "method": "cglo", "seed": 3}
    (tmp_path / "a").mkdir()
    wandb_run.WandbRun.open(project, tmp_path / "a", tags)
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").mkdir()
    for name in ("b", "a"):
        wandb_run.WandbRun.open(project, tmp_path / name, tags)
    first, moved, fresh = (asked["id"] for asked in wandb.asked)
    assert first == moved != fresh
    assert first.endswith("-classify-cglo-3")


@pytest.mark.parametrize("name", ["init", "log", "finish"])
def test_an_error_of_wandb_is_one_line_and_ends_no_run(tmp_path, wandb, capsys, name):
    wandb.fails[name] = RuntimeError("no such\nhost")
    for folder in ("one", "two"):
        trainer = create(tmp_path / folder, total=4, save_every=100)
        trainer.run()
        assert [r["step"] for r in trainer.records()] == [2, 4]
    said = capsys.readouterr().err
    line = "warning: W&B: no such host; continuing without it\n"
    assert said.count("warning") == said.count(line) == 1
    assert len(wandb.asked) == (name != "init")  # not again


def test_a_signal_in_wandb_is_no_error_of_it(tmp_path, wandb):
    wandb.fails["init"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        create(tmp_path).run()


def test_only_the_first_process_tells(tmp_path, wandb, monkeypatch):
    monkeypatch.setattr(parallel, "is_first_process", lambda: False)
    create(tmp_path).run()
    assert wandb.asked == []


def test_nothing_is_asked_without_a_project(tmp_path, wandb):
    Trainer(tmp_path).run()
    wandb.key = False
    wandb_run.check(create_config())
    assert wandb.asked == []
    assert not (tmp_path / "wandb").exists()


def error_of_check() -> str:
    with pytest.raises(UserError) as error:
        wandb_run.check(create_config(**{"log.wandb": "cglo"}))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("found", [None, types.ModuleType("wandb")])
def test_a_missing_package_is_refused_and_a_folder_of_its_name_is_none(
    wandb, monkeypatch, found
):
    monkeypatch.setitem(sys.modules, "wandb", found)
    assert error_of_check() == (
        "config.log.wandb is 'cglo', but W&B is not installed, or older than 0.31: pip install "
        "'wandb>=0.31'"
    )


def test_a_missing_key_is_refused_but_where_nothing_is_sent(wandb):
    wandb_run.check(create_config(**{"log.wandb": "cglo"}))
    wandb.key = False
    assert error_of_check().startswith("config.log.wandb: W&B has no key: run wandb lo")
    for wandb.mode in ("offline", "dryrun", "disabled"):
        wandb_run.check(create_config(**{"log.wandb": "cglo"}))


def test_it_is_refused_before_anything_is_read_or_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = create_config(**{"log.wandb": "cglo", "dataset.name": "no such"})
    with pytest.raises(UserError, match=r"config\.log\.wandb is 'cglo', but W&B is"):
        main.main(Command(config, pathlib.Path(tmp_path / "run"), "train"))
    assert not (tmp_path / "run").exists()
