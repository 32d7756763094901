"""Tests of experiments/tools/readme_figures.py on what is committed."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from experiments.tools import readme_figures


def test_gains_are_those_of_the_table():
    gains = {row: values for row, *values in readme_figures.gains()}
    assert gains["cGLO"] == pytest.approx([1.37, 0.24, 2.49], abs=0.005)
    assert gains["mixup"][0] == pytest.approx(2.17, abs=0.005)
    assert len(gains) == 5
    mean, draws = readme_figures.baseline_mean()
    assert (round(mean, 2), draws) == (30.27, 6)


def test_pictures_are_cut_out_at_their_edges():
    tiles = readme_figures.read_tiles()
    assert tiles.shape == (10, 9, 64, 64, 3)
    enlarged_twice = tiles[:, :, ::2, ::2].repeat(2, 2).repeat(2, 3)
    np.testing.assert_array_equal(tiles, enlarged_twice)
    original, painted = (x.astype(float) for x in readme_figures.read_pair())
    assert original.shape == painted.shape == (64, 64, 3)
    assert 0 < np.abs(original - painted).mean() < 10  # nearly the same image
    assert np.abs(painted - tiles[0, 0]).mean() < 10  # and where its walk begins


def test_method_is_an_image_that_needs_no_other():
    root = ET.fromstring(readme_figures.draw_method())
    assert root.get("aria-label")
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert names.count("image") == 6
    links = [v for e in root.iter() for k, v in e.items() if k.endswith("href")]
    assert all(link.startswith("data:image/png;base64,") for link in links)
