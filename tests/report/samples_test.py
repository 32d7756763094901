"""Tests of report/samples.py: what is shown of samples/, what is missing and what is damaged."""

import json

import pytest
from PIL import Image

from cglo_jax.errors import UserError
from cglo_jax.report import samples
from cglo_jax.report.write import write_report
from tests.helpers.report_workdir import NAMES, NEAREST, Parsed, write_html

FILES = ("reconstructions.png", "walks.png and walks.json", "interpolations.png")
FILES += ("nearest.json", "nearest.png", "codes.png", "the synthetic images")


def text_of(workdir):
    """The text of the section."""
    section = samples.samples(workdir)
    return " ".join(block.text for block in section.content if block.kind == "text")


def test_without_samples_all_are_missing(tmp_path):
    section = samples.samples(tmp_path)
    assert text_of(tmp_path) == (
        f"Not there: {', '.join(FILES)}. --stage=sample makes them."
    )
    assert {block.kind for block in section.content} == {"text"}


def test_where_classes_are_numbered_it_says_where_their_names_are(workdir):
    assert "class_names.txt" not in text_of(workdir)
    (workdir / "samples" / "class_names.txt").write_text("#1 = a\n")
    assert "samples/class_names.txt lists their names." in text_of(workdir)


@pytest.mark.parametrize("name", ["walks.png", "walks.json"])
def test_without_walks_there_is_no_slider(workdir, name):
    (workdir / "samples" / name).unlink()
    assert "Not there: walks.png and walks.json. --stage=sample" in text_of(workdir)
    kinds = [block.kind for block in samples.samples(workdir).content]
    assert "walks" not in kinds
    after = kinds[kinds.index("heading", 1 + kinds.index("heading")) :]
    assert after[:2] == ["heading", "folded"]  # the strip


@pytest.mark.parametrize("name", ["nearest.png", "nearest.json"])
def test_a_missing_check_for_copies_is_named(workdir, name):
    (workdir / "samples" / name).unlink()
    assert f"Not there: {name}. --stage=sample makes them." in text_of(workdir)


@pytest.mark.parametrize(
    "name", ["codes", "walks", "nearest", "reconstructions", "interpolations"]
)
def test_a_damaged_picture_is_named(workdir, config, name):
    path = workdir / "samples" / f"{name}.png"
    for damaged in (b"no picture", path.read_bytes()[:-30], b""):
        path.write_bytes(damaged)
        with pytest.raises(
            UserError, match=rf"{name}\.png.*move it away.*--stage"
        ) as error:
            write_report(config, workdir)
        assert "\n" not in str(error.value)


WALKS = {"classes": NAMES[:2], "t": [0.0, 0.5, 1.0], "tile": [4, 6]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("walks", "{"),
        ("walks", "[]"),
        ("walks", json.dumps({"classes": ["a"]})),
        ("walks", json.dumps({**WALKS, "tile": [4, 7]})),
        ("walks", json.dumps({**WALKS, "t": [0.0, 1.0]})),
        ("walks", json.dumps({**WALKS, "t": [0.0, 0.5, 2.0]})),
        ("walks", json.dumps({**WALKS, "t": ["0", 0.5, 1]})),
        ("walks", json.dumps({**WALKS, "classes": []})),
        ("nearest", ""),
        ("nearest", "3"),
        ("nearest", json.dumps({**NEAREST, "ratio": "1"})),
        ("nearest", json.dumps({**NEAREST, "median_synthetic": None})),
        ("nearest", json.dumps({**NEAREST, "copies": float("nan")})),
        ("nearest", json.dumps({**NEAREST, "parents": -1})),
        ("nearest", json.dumps({"checked": 3})),
    ],
)
def test_damaged_numbers_are_named(workdir, config, name, content):
    (workdir / "samples" / f"{name}.json").write_text(content)
    match = rf"{name}\.json cannot be used \(.*\): move it away and run --stage"
    with pytest.raises(UserError, match=match) as error:
        write_report(config, workdir)
    assert "\n" not in str(error.value)


def test_the_check_for_copies_is_shown(workdir, config):
    text = write_html(workdir, config)
    assert "60 synthetic images are 0.50 times as far" in text
    cells = Parsed(text).cells
    rows = {
        "Median distance to the nearest training image": "12.5",
        "The same for 400 test images": "25",
        "Ratio": "0.50",
        "Closer than 99% of the test images (about 1% if as new as real images)": "3.25%",
        "Nearest to one of the two training images they lie between": "81.5%",
    }
    for name, value in rows.items():
        assert cells[cells.index(name) + 1] == value


def test_without_held_out_images_nothing_is_compared(workdir, config):
    unknown = dict.fromkeys(("median_held_out", "ratio", "copies"))
    text = json.dumps({**NEAREST, **unknown, "held_out": 0})
    (workdir / "samples" / "nearest.json").write_text(text)
    text = write_html(workdir, config)
    assert "it is unknown which distance is small" in text
    assert "None" not in text
    assert "The same for" not in text


def test_the_slider_has_a_stop_for_each_t_and_a_tile_for_each_class(workdir, config):
    tags = Parsed(write_html(workdir, config)).tags
    radios = [a for tag, a in tags if tag == "input"]
    assert [a["type"] for a in radios] == ["radio"] * 3
    assert len({a["name"] for a in radios}) == 1
    assert ["checked" in a for a in radios] == [False, True, False]
    tiles = [a for _, a in tags if a.get("class") == "tile"]
    assert [a["role"] for a in tiles] == ["img", "img"]
    for attrs, name in zip(tiles, NAMES, strict=False):
        assert name in attrs["aria-label"]


@pytest.mark.parametrize(
    ("n", "columns"), [(1, 1), (8, 8), (9, 5), (10, 5), (16, 8), (17, 6)]
)
def test_tiles_stand_in_rows_of_about_the_same_length(n, columns):
    from cglo_jax.report.page import Walks

    assert Walks("", ["a"] * n, [0], (8, 8), b"").columns == columns


def test_small_pictures_are_shown_as_they_are(workdir):
    Image.new("RGB", (30, 20)).save(workdir / "samples" / "codes.png")
    shown = [b for b in samples.samples(workdir).content if b.kind == "picture"]
    assert [block.name for block in shown] == ["reconstructions", "nearest", "codes"]
    assert shown[-1].size == (30, 20)
