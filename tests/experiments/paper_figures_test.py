"""Tests of experiments/paper_figures.py to paper_figures.py and experiments/studies/quality.py, on tiny networks."""

import math

import jax
import numpy as np
import pytest
from PIL import Image

from cglo_jax.cglo import codes, quality, sampling
from cglo_jax.config.validation import validate
from cglo_jax.data import dataset as data
from cglo_jax.inference import sampler
from experiments import paper_figures


@pytest.fixture
def finished(trained):
    """The tiny cGLO of conftest.py as figures get it."""
    config, dataset, workdir = trained
    return dataset, sampler.restore(config, workdir, dataset, 0)


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

    monkeypatch.setattr(paper_figures, "train_cglo", train_nothing)
    monkeypatch.setattr(paper_figures, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(paper_figures, "ROWS", 3)
    return asked


def test_figure_2_draws_four_runs(commands, finished, tmp_path, monkeypatch):
    drawn, draw = [], paper_figures.code_maps.code_panels
    monkeypatch.setattr(
        paper_figures.code_maps, "code_panels", lambda *a: drawn.append(a) or draw(*a)
    )
    paper_figures.main(["figure2", f"--workdir={tmp_path}"])
    asked = [
        (
            workdir,
            config.weak_classifier.gamma,
            config.weak_classifier.input,
            config.dataset.transductive,
        )
        for config, workdir in commands
    ]
    assert asked == [
        ("cpu/figure2-a", 0.0, "image", False),
        ("cpu/figure2-b", 0.02, "image", False),
        ("cpu/figure2-c", 0.1, "latent", False),
        ("cpu/figure2-d", 0.1, "latent", True),
    ]
    maps, titles, notes, names = drawn[0]
    intra, inter = quality.code_angles(finished[1].z, finished[0].labels)
    note = f"angle within a class {intra:.1f}°, between classes {inter:.1f}°"
    assert notes == [note] * 4
    assert titles[0] == "(a) vanilla GLO"
    assert names == finished[0].class_names
    assert [points.shape for points, _ in maps] == [(24, 2)] * 4
    with Image.open(tmp_path / "figures" / "figure2_cpu.png") as picture:
        assert picture.width == 720 * 4 + 180


@pytest.mark.parametrize(
    ("figure", "scale", "name", "workdir"),
    [
        ("figure3", "cpu", "digits", "digits"),
        ("figure3", "paper", "cifar100", "cifar100"),
        ("figure4", "cpu", "cifar100", "cifar100"),
        ("figure4", "paper", "caltech_birds2011", "cub"),
        ("figure5", "cpu", "cifar100", "cifar100"),
        ("figure5", "paper", "cifar100", "cifar100"),
    ],
)
def test_commands(commands, tmp_path, figure, scale, name, workdir):
    paper_figures.main([figure, f"--workdir={tmp_path}", f"--scale={scale}"])
    [(config, where)] = commands
    assert where == f"{scale}/{workdir}"
    assert config.dataset.name == name
    with Image.open(tmp_path / "figures" / f"{figure}_{scale}.png") as picture:
        assert picture.width > 500


def test_a_finished_run_is_not_trained_again(finished, trained, monkeypatch, capsys):
    config, dataset, workdir = trained
    monkeypatch.setattr(data, "load", lambda fields, seed=0: (dataset, dataset))
    _, model = paper_figures.train_cglo(config, workdir)
    assert "done before" in capsys.readouterr().err
    np.testing.assert_array_equal(model.z, finished[1].z)
    assert (workdir / "config.json").exists()


def test_transductive_panel_hides_what_it_is_tested_on():
    config = paper_figures.figure2_config("cpu", "")
    panel = paper_figures.PANELS["(d) as (c), transductive"]
    config.update_from_flattened_dict(panel)
    config.dataset.update(name="digits", size=8)  # in the place of CIFAR-100
    train_set, test_set = data.load(config.dataset)
    assert train_set.num_labelled == 25 * 6
    assert set(train_set.ids[150:]) == set(test_set.ids)
    assert len(test_set.ids) == 60


def test_paths_have_the_lengths_and_angles_of_the_figure():
    ends = np.stack([np.cos(paper_figures.ENDS), np.sin(paper_figures.ENDS)], 1)
    line, arc = (paper_figures.walk(m, *ends) for m in ("lerp", "slerp"))
    # 120 degrees: the middle of the chord is at cos 60, its quarters are half as far along.
    quarter = math.hypot(0.5, math.sin(math.radians(60)) / 2)
    np.testing.assert_allclose(
        np.linalg.norm(line, axis=1), [1, quarter, 0.5, quarter, 1], rtol=1e-5
    )
    np.testing.assert_allclose(np.linalg.norm(arc, axis=1), 1, rtol=1e-5)
    angles = np.degrees(np.arctan2(arc[:, 1], arc[:, 0]))
    np.testing.assert_allclose(angles, [150, 120, 90, 60, 30], rtol=1e-5)


def test_figure_3_generates_two_images_of_a_class(finished):
    dataset, model = finished
    pair = model.sampler.classes.members[paper_figures.LABEL, :2]
    z = paper_figures.walk("slerp", *model.z[pair])
    np.testing.assert_allclose(z[[0, -1]], model.z[pair], atol=1e-6)
    key = jax.random.key(0)
    keys = jax.numpy.stack([key] * 5)
    images = paper_figures.generate(model, z)
    np.testing.assert_array_equal(images, paint(model, z, keys))
    assert dataset.labels[pair].tolist() == [paper_figures.LABEL] * 2


def test_figure_4_shows_images_above_their_reconstructions(finished):
    dataset, model = finished
    picture = paper_figures.draw_reconstructions(dataset, model)
    shown = [round(i * 23 / 15) for i in range(16)]
    keys = codes.example_keys(jax.random.key(0), np.array(shown))
    images = paint(model, model.z[np.array(shown)], keys)
    for i, reconstruction in zip(shown, images, strict=True):
        above = find(picture, enlarge(dataset.images[i]))
        below = find(picture, enlarge(reconstruction))
        assert [66, 0] in (below[:, None] - above).reshape(-1, 2).tolist()


def test_figure_5_walks_from_one_reconstruction_to_another(finished, monkeypatch):
    monkeypatch.setattr(paper_figures, "ROWS", 3)
    dataset, model = finished
    picture = paper_figures.draw_walks(dataset, model)
    for label in range(3):
        first, second = np.flatnonzero(dataset.labels == label)[:2]
        key = codes.example_keys(jax.random.key(0), np.array([first, first]))
        ends = paint(model, model.z[[first, second]], key)
        (y0, x0), (y1, x1) = (find(picture, enlarge(end))[0] for end in ends)
        assert y0 == y1
        assert x1 - x0 == 8 * 66  # 7 new images between


def test_both_cifar100_figures_share_a_run():
    small = paper_figures.cifar100_config("cpu", "somewhere")
    assert small.dataset.classes == small.dataset.shots == 10
    assert small.dataset.data_dir == "somewhere"
    paper = paper_figures.cifar100_config("paper", "")
    assert (paper.dataset.classes, paper.dataset.shots) == (0, 10)
    assert paper.reconstruction.loss == "perceptual"
