"""Tests of code_maps.py: every class can be told on the map."""

import numpy as np
import pytest

from cglo_jax import code_maps, figures


def color_count(picture, color):
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.asarray(picture) == rgb).all(axis=-1).sum())


@pytest.mark.parametrize("num_classes", [1, 2, 12, 13, 100])
def test_code_map_shows_every_number_of_classes(num_classes):
    rng = np.random.default_rng(0)
    labels = np.arange(3 * num_classes) % num_classes
    points = (
        rng.normal(size=(len(labels), 2))
        + 20 * rng.normal(size=(num_classes, 2))[labels]
    )
    names = [
        f"_class ${k}_x$ <b>" for k in range(num_classes)
    ]  # neither hidden nor maths
    picture = code_maps.code_map(points, labels, names)
    assert picture.mode == "RGB"
    assert picture.size == (1200, 960)
    edge = np.asarray(picture)[[0, -1]]
    assert (edge == 255).all()


def test_code_map_colours_classes_and_greys_unlabelled():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    picture = code_maps.code_map(points, np.array([0, 1, -1, -1]), ["a", "b"])
    grey, first, second = "#b3b3b3", *figures.PALETTE[:2]
    assert color_count(picture, first) > 50
    assert color_count(picture, second) > 50
    assert 0 < color_count(picture, grey) < color_count(picture, first)
    without = code_maps.code_map(points[:2], np.array([0, 1]), ["a", "b"])
    assert color_count(without, grey) == 0


def test_code_map_leaves_no_global_figure():
    import matplotlib.pyplot as plt

    code_maps.code_map(np.zeros((1, 2)), np.array([0]), ["a"])
    assert plt.get_fignums() == []


def test_palette_is_told_apart():
    assert len(set(figures.PALETTE)) == len(figures.PALETTE)
    pairs = {(k % len(figures.PALETTE), k % len(code_maps._MARKERS)) for k in range(12)}
    assert len(pairs) == 12


def test_code_panels_share_a_legend_and_mark_unlabelled():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    without = (points[:2], np.array([0, 1]))
    hidden = (points, np.array([0, 1, -1, -1]))
    names = ["first", "second"]
    one = code_maps.code_panels([without], ["a"], ["b"], names)
    two = code_maps.code_panels([without, hidden], ["a", "a"], ["b", "b"], names)
    assert (one.width, two.width) == (900, 1620)
    for color in figures.PALETTE[:2]:
        # A point and its legend entry against two points and one entry.
        assert color_count(two, color) > 1.2 * color_count(one, color) > 0
    black = color_count(two, "#000000") - 2 * color_count(one, "#000000")
    assert black > 0  # question marks and their legend


def test_code_panels_need_a_text_for_each():
    panel = (np.zeros((1, 2)), np.array([0]))
    with pytest.raises(ValueError):
        code_maps.code_panels([panel, panel], ["a"], ["b", "c"], ["d"])


@pytest.mark.parametrize(
    ("n", "method"), [(1, "pca"), (4, "tsne"), (9, "pca"), (9, "tsne")]
)
def test_codes_are_projected_to_the_plane(n, method):
    z = np.random.default_rng(0).standard_normal((n, 6)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    points = code_maps.project(z, method)
    assert points.shape == (n, 2)
    assert np.isfinite(points).all()
    np.testing.assert_array_equal(points, code_maps.project(z, method))
