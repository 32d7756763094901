"""Tests of experiments/figure2.py to figure5.py and experiments/quality.py, on tiny networks."""

import json
import math
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from tests.helpers.tiny import create_config, create_dataset

from cglo_jax.cglo import codes, quality, sampling
from cglo_jax.config.validation import validate
from cglo_jax.data import dataset as data
from cglo_jax.errors import UserError
from cglo_jax.stages import classify, sample
from cglo_jax.workdir import directory
from cglo_jax.workdir import trained as restoring
from cglo_jax.workdir.results import read_result, result_path
from experiments import figure2, figure3, figure4, figure5, trained
from experiments import quality as experiment


@pytest.fixture
def finished(trained):
    """The tiny cGLO of conftest.py as figures get it."""
    config, dataset, workdir = trained
    return dataset, sample.restore(config, workdir, dataset, 0)


def paint(model, z, keys):
    images = sampling.generate(model.sampler.variables, z, keys, spec=model.spec)
    return data.to_uint8(images)


def enlarge(image, scale=8):
    return np.kron(np.repeat(image, 3, -1), np.ones((scale, scale, 1), np.uint8))


def find(picture, tile):
    """Returns the places (y, x) where `tile` [64, 64, 3] stands in `picture`."""
    windows = np.lib.stride_tricks.sliding_window_view(
        np.asarray(picture), tile.shape[:2], (0, 1)
    )
    # Sixteen pixels first: the whole tile at each place takes seconds.
    small = windows[..., ::16, ::16] == np.moveaxis(tile[::16, ::16], -1, 0)
    places = np.argwhere(small.all(axis=(2, 3, 4)))
    tile = np.moveaxis(tile, -1, 0)
    return np.array([p for p in places if np.array_equal(windows[*p], tile)])


@pytest.fixture
def commands(finished, tmp_path, monkeypatch):
    """Puts `finished` in place of training; a list of (config, workdir) asked for."""
    asked = []

    def train_nothing(config, workdir):
        validate(config)
        asked.append((config, workdir.relative_to(tmp_path).as_posix()))
        return finished

    monkeypatch.setattr(trained, "train_cglo", train_nothing)
    monkeypatch.setattr(trained, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(figure5, "ROWS", 3)
    monkeypatch.setattr(sys, "argv", ["figure", f"--workdir={tmp_path}"])
    return asked


def test_figure_2_draws_three_runs(commands, finished, tmp_path, monkeypatch):
    drawn, draw = [], figure2.code_maps.code_panels
    monkeypatch.setattr(
        figure2.code_maps, "code_panels", lambda *a: drawn.append(a) or draw(*a)
    )
    figure2.main()
    told = [
        (workdir, config.weak_classifier.gamma, config.dataset.transductive)
        for config, workdir in commands
    ]
    assert told == [
        ("cpu/figure2-vanilla-GLO", 0.0, False),
        ("cpu/figure2-cGLO", 0.5, False),
        ("cpu/figure2-cGLO-transductive", 0.5, True),
    ]
    maps, titles, notes, names = drawn[0]
    intra, inter = quality.code_angles(finished[1].z, finished[0].labels)
    note = f"angle within a class {intra:.1f}°, between classes {inter:.1f}°"
    assert notes == [note] * 3
    assert titles[0] == "(a) vanilla GLO"
    assert names == finished[0].class_names
    assert [points.shape for points, _ in maps] == [(24, 2)] * 3
    with Image.open(tmp_path / "figures" / "figure2_cpu.png") as picture:
        assert picture.width == 720 * 3 + 180


@pytest.mark.parametrize(
    ("figure", "scale", "name", "workdir"),
    [
        (figure3, "cpu", "digits", "digits"),
        (figure3, "paper", "cifar100", "cifar100"),
        (figure4, "cpu", "cifar100", "cifar100"),
        (figure4, "paper", "caltech_birds2011", "cub"),
        (figure5, "cpu", "cifar100", "cifar100"),
        (figure5, "paper", "cifar100", "cifar100"),
    ],
)
def test_commands(commands, tmp_path, monkeypatch, figure, scale, name, workdir):
    monkeypatch.setattr(sys, "argv", [*sys.argv, f"--scale={scale}"])
    figure.main()
    [(config, where)] = commands
    assert where == f"{scale}/{workdir}"
    assert config.dataset.name == name
    number = figure.__name__[-1]
    with Image.open(tmp_path / "figures" / f"figure{number}_{scale}.png") as picture:
        assert picture.width > 500


def test_a_finished_run_is_not_trained_again(finished, trained, monkeypatch, capsys):
    config, dataset, workdir = trained
    monkeypatch.setattr(data, "load", lambda fields: (dataset, dataset))
    _, model = figure5.trained.train_cglo(config, workdir)
    assert "done before" in capsys.readouterr().err
    np.testing.assert_array_equal(model.z, finished[1].z)
    assert (workdir / "config.json").exists()


def test_transductive_panel_hides_what_it_is_tested_on():
    config = figure2.create_config("cpu", "")
    config.update_from_flattened_dict(figure2.PANELS["(c) cGLO, transductive"])
    train_set, test_set = data.load(config.dataset)
    assert train_set.num_labelled == 20 * 6
    assert set(train_set.ids[120:]) == set(test_set.ids)
    assert len(test_set.ids) == 60


def test_paths_have_the_lengths_and_angles_of_the_figure():
    ends = np.stack([np.cos(figure3.ENDS), np.sin(figure3.ENDS)], 1)
    line, arc = (figure3.walk(m, *ends) for m in ("lerp", "slerp"))
    # 120 degrees: the middle of the chord is at cos 60, its quarters are half as far along.
    quarter = math.hypot(0.5, math.sin(math.radians(60)) / 2)
    np.testing.assert_allclose(
        np.linalg.norm(line, axis=1), [1, quarter, 0.5, quarter, 1], rtol=1e-5
    )
    np.testing.assert_allclose(np.linalg.norm(arc, axis=1), 1, rtol=1e-5)
    angles = np.degrees(np.arctan2(arc[:, 1], arc[:, 0]))
    np.testing.assert_allclose(angles, [150, 120, 90, 60, 30], rtol=1e-5)


def test_figure_3_paints_two_images_of_a_class(finished):
    dataset, model = finished
    pair = model.sampler.classes.members[figure3.LABEL, :2]
    z = figure3.walk("slerp", *model.z[pair])
    np.testing.assert_allclose(z[[0, -1]], model.z[pair], atol=1e-6)
    key = jax.random.key(0)
    keys = jax.numpy.stack([key] * 5)
    images = figure3.paint(model, z)
    np.testing.assert_array_equal(images, paint(model, z, keys))
    assert dataset.labels[pair].tolist() == [figure3.LABEL] * 2


def test_figure_4_shows_images_above_their_reconstructions(finished):
    dataset, model = finished
    picture = figure4.draw(dataset, model)
    shown = [round(i * 23 / 15) for i in range(16)]
    keys = codes.example_keys(jax.random.key(0), np.array(shown))
    images = paint(model, model.z[np.array(shown)], keys)
    for i, reconstruction in zip(shown, images, strict=True):
        above = find(picture, enlarge(dataset.images[i]))
        below = find(picture, enlarge(reconstruction))
        assert [66, 0] in (below[:, None] - above).reshape(-1, 2).tolist()


def test_figure_5_walks_from_one_reconstruction_to_another(finished, monkeypatch):
    monkeypatch.setattr(figure5, "ROWS", 3)
    dataset, model = finished
    picture = figure5.draw(dataset, model)
    for label in range(3):
        first, second = np.flatnonzero(dataset.labels == label)[:2]
        key = codes.example_keys(jax.random.key(0), np.array([first, first]))
        ends = paint(model, model.z[[first, second]], key)
        (y0, x0), (y1, x1) = (find(picture, enlarge(end))[0] for end in ends)
        assert y0 == y1
        assert x1 - x0 == 8 * 66  # 7 new images between


def test_both_cifar100_figures_share_a_run():
    small = trained.cifar100_config("cpu", "somewhere")
    assert small.dataset.classes == small.dataset.shots == 10
    assert small.dataset.data_dir == "somewhere"
    paper = trained.cifar100_config("paper", "")
    assert (paper.dataset.classes, paper.dataset.shots) == (0, 10)
    assert paper.reconstruction.loss == "perceptual"


@pytest.fixture
def run(trained, monkeypatch):
    """A work directory with a cGLO and a baseline classifier: (workdir, datasets)."""
    config, dataset, workdir = trained
    datasets = dataset, create_dataset(30, seed=1, split="test")
    monkeypatch.setattr(data, "load", lambda fields: datasets)
    directory.create(config, workdir)
    classify.run(config, workdir, datasets, "baseline", 0)
    return workdir, datasets


def test_quality_of_a_run(run, tmp_path, monkeypatch, capsys):
    workdir, (train_set, _) = run
    monkeypatch.setattr(experiment, "RESULTS", tmp_path / "quality.jsonl")
    argv = ["quality", f"--workdir={workdir}", "--per_class=4"]
    monkeypatch.setattr(sys, "argv", argv)
    capsys.readouterr()
    experiment.main()
    lines = capsys.readouterr().out.splitlines()
    record = json.loads((tmp_path / "quality.jsonl").read_text())
    checks = record["checks"]
    assert len(lines) == 2 + len(checks) == 18
    assert all(line.count("|") == 5 for line in lines)
    # What classify.evaluate found on the same images by another path.
    top1 = read_result(result_path(workdir, "baseline", 0))["top1"]
    assert checks["seen as their class, %"][1] == pytest.approx(top1)
    model, *_ = restoring.restore_model(
        experiment.read_config(workdir), workdir, train_set, 0
    )
    angles = quality.code_angles(model["z"], train_set.labels)
    names = [
        f"angle of codes {x}, degrees" for x in ("within a class", "between classes")
    ]
    assert [checks[name][0] for name in names] == pytest.approx(angles)
    assert (record["seed"], record["per_class"]) == (0, 4)


def test_synthetic_images_have_parents_of_their_class(run):
    workdir, (train_set, _) = run
    config = experiment.read_config(workdir)
    model = sample.restore(config, workdir, train_set, 0)
    images, labels, parents = experiment.synthesize(model, 10)
    assert images.shape == (30, 8, 8, 1)
    assert images.dtype == np.uint8
    assert labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    np.testing.assert_array_equal(
        train_set.labels[parents], labels[:, None].repeat(2, 1)
    )
    assert (parents[:, 0] != parents[:, 1]).all()
    # The 8 images of class 0 are sources in turn.
    assert parents[:10, 0].tolist() == [*range(0, 24, 3), 0, 3]


def make_images(values, labels):
    values = np.asarray(values, np.uint8)
    logits = np.eye(2, dtype=np.float32)[[int(v > 100) for v in values]]
    embeddings = values[:, None].astype(np.float32) / 10
    return experiment.Images(
        values[:, None, None, None], np.array(labels), logits, embeddings
    )


def test_checks_by_hand():
    known = make_images([0, 20, 200, 220], [0, 0, 1, 1])
    held_out = make_images([30, 40, 190, 120], [0, 0, 1, 1])
    synthetic = make_images([20, 5, 205, 8], [0, 0, 1, 1])
    parents = np.array([[0, 1], [1, 1], [2, 3], [2, 3]])
    rows = {r.name: r for r in experiment.measure(known, held_out, synthetic, parents)}

    def pair(name):
        return rows[name].synthetic, rows[name].real

    # To the nearest of the class: 0, 5, 5, 192 against 10, 20, 10, 80.
    assert pair("pixel distance") == pytest.approx((5 / 127.5, 15 / 127.5))
    assert pair("feature distance") == pytest.approx((0.5, 1.5))
    for space in ("pixel", "feature"):
        assert pair(f"{space} distance, ratio") == pytest.approx((1 / 3, 1))
        assert pair(f"{space} copies, %") == (75, 1)
        # Nearest of all: 1, 0, 2 and 0. Of them 1 and 2 are parents, the last 0 of another
        # class.
        assert pair(f"{space} nearest is a parent, %") == (50, None)
        assert pair(f"{space} nearest is of the class, %") == (75, 100)
        # 15 / 10 in class 0, 197 / 70 in class 1.
        expected = (15 / 10 + 197 / 70) / 2
        assert pair(f"{space} diversity") == pytest.approx((expected, 1))
    assert pair("seen as their class, %") == (75, 100)
    assert pair("the worst class of these, %") == (50, 100)


def test_unfinished_runs_are_refused(run, tmp_path, monkeypatch):
    workdir, (train_set, _) = run
    config = experiment.read_config(workdir)
    with pytest.raises(
        UserError, match="give the --workdir of a finished run"
    ) as error:
        experiment.read_config(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="baseline-1"):
        experiment.run(config, workdir, 1, 2)
    other = train_set, create_dataset(30, seed=2, split="test")
    monkeypatch.setattr(data, "load", lambda fields: other)
    with pytest.raises(UserError, match="other test images"):
        experiment.run(config, workdir, 0, 2)


def test_config_is_read_as_it_was_written(tmp_path):
    config = create_config(**{"sample.t_values": (0.2, 0.3)})
    directory.create(config, tmp_path)
    assert experiment.read_config(tmp_path).to_dict() == config.to_dict()
    (tmp_path / "config.json").write_text('{"no.such": 1}')
    with pytest.raises(UserError, match="cannot be used"):
        experiment.read_config(tmp_path)
