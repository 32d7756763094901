"""Tests of report/code_maps.py: every class can be found on the map."""

import numpy as np
import pytest

from cglo_jax.report import code_maps, figures


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


# Machado, Oliveira & Fernandes (2009), severity 1, for linear sRGB.
VISIONS = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# Ottosson (2020): linear sRGB -> LMS -> OKLab.
TO_LMS = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
TO_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def linear(color):
    srgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("vision", VISIONS)
def test_twelve_classes_differ_in_colour_or_marker(vision):
    seen = [np.clip(VISIONS[vision] @ linear(c), 0, 1) for c in code_maps._COLORS]
    lab = 100 * np.array([TO_LAB @ np.cbrt(TO_LMS @ rgb) for rgb in seen])
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1)
    different = apart[np.triu_indices(12, 1)]
    assert len(different) == 66
    assert different.min() > 6
    period = len(code_maps._MARKERS)
    assert [apart[k, k + period] > 18 for k in range(12 - period)] == [True] * 5


def test_classes_stand_out_from_the_page():
    for color in code_maps._COLORS:
        luminance = linear(color) @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (luminance + 0.05) > 2


def test_a_map_of_twelve_classes_has_twelve_colours():
    points = np.stack([np.arange(12.0), np.arange(12.0) % 5], 1)
    picture = code_maps.code_map(points, np.arange(12), list("abcdefghijkl"))
    for color in code_maps._COLORS:
        assert color_count(picture, color) > 30


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
