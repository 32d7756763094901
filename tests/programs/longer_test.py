"""Runs trained for more epochs, and what becomes of the results of the shorter runs."""

import functools
import json
import pathlib

import pytest

from cglo_jax.cglo import algorithm
from cglo_jax.classifier import step as classifier
from cglo_jax.classifier.methods import METHODS
from cglo_jax.errors import UserError
from cglo_jax.files import storage
from cglo_jax.inference import classifier as ensemble
from cglo_jax.report import samples
from cglo_jax.report.write import write_report
from cglo_jax.stages import classify, train
from cglo_jax.training.checkpoints import Checkpoints
from cglo_jax.workdir import directory
from cglo_jax.workdir import trained as restoring
from tests.helpers.tiny import (
    Run,
    assert_trees_equal,
    create_config,
    create_dataset,
)

TEST_SET = create_dataset(13, seed=1, split="test")


def test_a_longer_run_is_the_one_that_was_that_long_at_once(trained, tmp_path, capsys):
    config, dataset, cut = trained
    config.train.epochs = 4
    whole = train.run(config, tmp_path / "whole", dataset, 0)
    capsys.readouterr()
    longer = train.run(config, cut, dataset, 0)
    told = capsys.readouterr().err
    assert (
        "train seed 0: was trained for 2 epochs, continues to 4; no fall of the learning rates "
        "lies in the new part\n"
    ) in told
    assert "resumed at step 60 of 120" in told
    assert_trees_equal(whole, longer)
    metrics = [(d / "metrics.jsonl").read_bytes() for d in (tmp_path / "whole", cut)]
    assert metrics[0] == metrics[1]
    config.train.epochs = 2
    with pytest.raises(
        UserError,
        match=r"epochs=4, this call has 2: a run can be trained for more epochs, not",
    ):
        train.run(config, cut, dataset, 0)


def test_learning_rates_do_not_depend_on_the_number_of_epochs():
    specs = set()
    for epochs in (2, 4):
        fields = {"train.epochs": epochs, "train.lr_drop_epochs": (1, 3)}
        fields |= {"classify.epochs": epochs, "classify.lr_drop_epochs": (1, 3)}
        config, dataset = create_config(**fields), create_dataset()
        of_classifier = classifier.create_spec(
            config, *dataset.side_and_channels, dataset.num_classes, METHODS["cglo"]
        )
        specs.add((algorithm.create_spec(config, dataset), of_classifier))
    assert len(specs) == 1


@pytest.fixture
def run(trained: Run):
    """(config, workdir, what trains and tests a method) of a run with a baseline and cglo."""
    config, dataset, workdir = trained
    directory.create(config, workdir)
    call = functools.partial(classify.run, config, workdir, (dataset, TEST_SET), seed=0)
    for method in ("baseline", "cglo"):
        call(method=method)
    return config, workdir, call


def read(workdir: pathlib.Path, method: str) -> dict:
    return json.loads((workdir / f"classifiers/{method}-0/result.json").read_text())


def state(workdir: pathlib.Path, method: str):
    with Checkpoints(
        workdir / f"classifiers/{method}-0/checkpoints", read_only=True
    ) as c:
        return c.restore_model(c.latest_step())


def refused(call, *args, **kwargs) -> str:
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    return str(error.value)


def test_a_longer_classifier_goes_on_and_its_result_is_replaced(run, tmp_path, capsys):
    config, workdir, call = run
    config.classify.epochs = 4
    told = refused(write_report, config, workdir)
    assert told == (
        "classifiers/baseline-0 was trained to epoch 2, the run has 4 now: --stage=classify "
        "--config.classify.methods=baseline --config.seeds=0 continues its training"
    )
    capsys.readouterr()
    for method in ("baseline", "cglo"):
        call(method=method)
        assert "continues to 4" in capsys.readouterr().err
        assert read(workdir, method)["steps"] == 12
    (workdir / "classifiers").rename(workdir / "in-parts")
    call(method="cglo")
    (workdir / "classifiers" / "cglo-0").rename(workdir / "classifiers" / "whole-0")
    (workdir / "in-parts" / "cglo-0").rename(workdir / "classifiers" / "cglo-0")
    assert_trees_equal(state(workdir, "whole"), state(workdir, "cglo"))
    assert read(workdir, "whole") == read(workdir, "cglo")


def test_a_classifier_that_is_being_made_longer_is_not_used_meanwhile(run, monkeypatch):
    config, workdir, call = run
    config.classify.epochs = 4

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(classify, "evaluate", stop)  # its last step is saved
    with pytest.raises(KeyboardInterrupt):
        call(method="baseline")
    told = refused(ensemble.load, workdir, "baseline")
    assert told.endswith(
        "is being trained for more epochs (step 12, its result is of step 6): run "
        "--stage=classify to its end first"
    )


def test_what_was_made_of_a_shorter_cglo_is_made_anew_and_never_mixed(run, capsys):
    config, workdir, call = run
    baseline, before = read(workdir, "baseline"), read(workdir, "cglo")
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    config.train.epochs = 3
    dataset = call.args[2][0]
    told = refused(classify.check_cglo, config, workdir, (dataset, TEST_SET), 0)
    assert told.endswith(
        "is at step 60 of 90: run --stage=train first, it continues from there"
    )
    assert restoring.restore(config, workdir, dataset, 0).step == 60  # to look at
    train.run(config, workdir, dataset, 0)
    assert classify.find_old(config, workdir) == ["cglo-0"]
    told = refused(write_report, config, workdir)
    assert told == (
        "classifiers/cglo-0 was trained with images of the cGLO at epoch 2, which is now trained "
        "for 3 epochs: --stage=classify --config.classify.methods=cglo --config.seeds=0 trains it "
        "again"
    )
    capsys.readouterr()
    for method in ("baseline", "cglo"):
        call(method=method)
    printed = capsys.readouterr()
    assert "classify baseline seed 0: done before" in printed.out
    old = workdir / "classifiers.old-1" / "cglo-0"
    assert printed.err.startswith(
        "classify cglo seed 0: the existing classifier was trained with images of the cGLO at epoch "
        "2, which is now trained for 3 epochs: training the classifier again; the old one was moved "
        f"to {old}\n"
    )
    assert "ended before" not in printed.err
    assert read(workdir, "baseline") == baseline
    assert json.loads((old / "result.json").read_text()) == before
    assert read(workdir, "cglo")["fingerprint"]["train.epochs"] == 3
    own = [line for line in lines if '"cglo"' in line]
    assert (old / "metrics.jsonl").read_text().splitlines() == own
    kept = [r for r in storage.read_records(workdir / "metrics.jsonl") if "method" in r]
    assert sum(record["method"] == "cglo" for record in kept) == len(own) == 6
    assert write_report(config, workdir) and classify.find_old(config, workdir) == []


def test_mixmatch_is_not_made_longer_as_its_ramp_is_a_share_of_all_steps(run):
    config, workdir, _ = run
    config.classify.epochs = 4
    classify.check_longer(config, workdir)
    folder = workdir / "classifiers" / "mixmatch-0"
    folder.mkdir()
    result = read(workdir, "baseline") | {"method": "mixmatch"}
    (folder / "result.json").write_text(json.dumps(result))
    told = refused(classify.check_longer, config, workdir)
    assert told.startswith(
        f"{folder} was made with classify.epochs=2, this call has 4: mixmatch "
    )
    config.mixmatch.ramp = 0.0
    classify.check_longer(config, workdir)


def test_samples_of_an_earlier_step_are_said_to_be(tmp_path):
    for step in ("60", "90"):
        (tmp_path / "checkpoints" / "seed-0" / step).mkdir(parents=True)
    (tmp_path / "samples").mkdir()
    manifest = tmp_path / "samples" / "manifest.jsonl"
    line = {"file": "images/0/0.png", "seed": 0}
    told = (
        "They were generated at an earlier step of the cGLO, which is now at step 90: "
        "--stage=sample generates them again."
    )
    for step, said in ((60, True), (90, False)):
        manifest.write_text(json.dumps({**line, "checkpoint_step": step}) + "\n")
        assert (told in samples.samples(tmp_path).text) == said


def test_work_directories_are_made_longer_by_stages_that_do_it(trained):
    config, _, workdir = trained
    directory.create(config, workdir)
    config.train.epochs = 3
    for stage in ("sample", "classify", "report", "export"):
        told = refused(directory.check, config, workdir, stage)
        assert told.endswith("run --stage=train first, which continues to that epoch")
    directory.check(config, workdir, "train")
    directory.check(config, workdir, "all")
    config.train.only_codes = True
    assert "continues to that epoch" in refused(
        directory.check, config, workdir, "train"
    )
