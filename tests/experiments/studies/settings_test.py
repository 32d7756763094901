"""Tests of experiments/studies/settings.py: every row's configuration, the measures, a tiny question."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from PIL import Image

from cglo_jax.config import validation
from cglo_jax.data import dataset as data
from experiments.studies import settings
from tests.helpers.tiny import create_config, create_dataset


@pytest.mark.parametrize("name", settings.QUESTIONS)
def test_every_row_is_a_configuration_of_its_own(name):
    runs = settings.runs_of(name)
    for run in runs:
        config = run.config
        if config.external_weights:
            config.reconstruction.weights = "random"
        validation.validate(config)
        assert config.dataset.split_seed == run.seed == config.seeds[0]
        # Nothing is chosen on test images.
        assert config.dataset.holdout or not settings.QUESTIONS[name].accuracy
    assert len({run.digest for run in runs}) == len(runs)


def test_questions_share_the_runs_that_are_equal():
    noise, gamma = (
        {run.digest for run in settings.runs_of(name)} for name in ("noise", "gamma")
    )
    assert len(noise & gamma) == 2 * len(settings.FIVE)


def test_vote_is_that_of_the_nearest_other_codes():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 3
    labels[-4:] = -1
    z = rng.normal(size=(40, 6)) + 1.2 * np.eye(6)[labels]
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    right = 0
    for i in range(36):
        others = [j for j in range(36) if j != i]
        near = sorted(others, key=lambda j: -z[i] @ z[j])[: settings.NEIGHBOURS]
        votes = np.bincount(labels[near], minlength=3)
        right += votes.argmax() == labels[i]
    assert settings.vote(z, labels) == pytest.approx(100 * right / 36)
    assert 40 < settings.vote(z, labels) < 100


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A question of two rows and two draws on made-up images; the file of its lines."""
    sets = create_dataset(), create_dataset(30, seed=1, split="test")
    monkeypatch.setattr(data, "load", lambda fields: sets)
    monkeypatch.setattr(settings, "RESULTS", tmp_path / "settings.jsonl")
    rows = {"first": {}, "no f_phi": {"weak_classifier.gamma": 0.0}}
    question = settings.Question(
        "Which? The first.",
        {"made up": (create_config, (1, 2))},
        rows,
        accuracy=True,
        figure=True,
    )
    monkeypatch.setattr(settings.paths, "FIGURES", tmp_path)
    other = dataclasses.replace(question, rows={"also first": {}})
    monkeypatch.setattr(settings, "QUESTIONS", {"tiny": question, "other": other})
    return settings.RESULTS


def call(monkeypatch, *arguments, question="tiny"):
    workdir = f"--workdir={settings.RESULTS.parent / 'pictures'}"
    monkeypatch.setattr(sys, "argv", ["settings", question, workdir, *arguments])
    settings.main()


def test_a_question_is_run_once_and_continued(tiny, monkeypatch, capsys):
    call(monkeypatch, "--only_table")
    assert not tiny.exists()
    call(monkeypatch, "--draws=1")
    lines = [json.loads(line) for line in tiny.read_text().splitlines()]
    assert [line["row"] for line in lines] == ["baseline", "first", "no f_phi"]
    assert all(0 <= line["top1"] <= 100 and line["n_test"] == 30 for line in lines)
    assert "within" not in lines[0]
    assert 60 < lines[1]["within"] < 120
    assert lines[1]["weak_loss"] > 0
    assert lines[2]["weak_loss"] is None
    with Image.open(tiny.parent / "settings_tiny.png") as picture:
        assert picture.height > 3 * 8  # images, and reconstructions of two rows
    call(monkeypatch)
    text = tiny.read_text()
    assert len(text.splitlines()) == 6
    capsys.readouterr()
    call(monkeypatch)
    assert tiny.read_text() == text  # nothing is run twice
    shown = capsys.readouterr().out
    table = [line for line in shown.splitlines() if line.startswith("| no f_phi")]
    top1 = {
        row: [json.loads(x)["top1"] for x in text.splitlines() if f'"{row}"' in x]
        for row in ("first", "no f_phi")
    }
    gain = np.subtract(top1["no f_phi"], top1["first"]).mean()
    assert f"| {gain:+.2f} (" in table[0]
    assert table[0].endswith("| 2 |")


def test_a_run_of_another_question_is_copied_once(tiny, monkeypatch, capsys):
    call(monkeypatch, "--draws=1")
    monkeypatch.setattr(settings.train, "run", None)  # nothing is trained again
    before = tiny.read_text()
    for _ in range(2):
        call(monkeypatch, "--draws=1", question="other")
        call(monkeypatch, "--draws=1")
    lines = [json.loads(line) for line in tiny.read_text().splitlines()]
    assert tiny.read_text().startswith(before)
    assert [(x["question"], x["row"]) for x in lines[3:]] == [
        ("other", "baseline"),
        ("other", "also first"),
    ]
    assert lines[4]["top1"] == lines[1]["top1"]
