"""Tests of cglo_jax/data/folder.py: made-up folders of small images."""

import hashlib
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cglo_jax.data import dataset as data
from cglo_jax.data import folder
from cglo_jax.data.sources import Splits
from cglo_jax.errors import UnusableFiles, UserError
from tests.helpers import icc
from tests.helpers.tiny import fields, hash_pixels


def pixels_of(seed: int, height: int = 6, width: int = 9) -> np.ndarray:
    """Makes an image of its own for each seed, RGB."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def id_of(seed: int) -> str:
    return hash_pixels(pixels_of(seed))


def put(root: Path, files: dict[str, int | np.ndarray | bytes | None]) -> Path:
    """Writes files: an image by its seed or pixels, bytes as they are, None = a folder."""
    for name, content in files.items():
        path = root / name
        (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            content = pixels_of(content)
        if isinstance(content, np.ndarray):
            kind = Image.registered_extensions()[path.suffix]
            Image.fromarray(content).save(path, kind)
        elif content is not None:
            path.write_bytes(content)
    return root


def read(root: Path, **changes: object) -> Splits:
    return folder.read(fields(name="folder", path=str(root), **changes))


def error_of(root: Path, **changes: object) -> str:
    with pytest.raises(UserError) as error:
        read(root, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


def labels_of(splits: Splits) -> dict[str, str]:
    """Class names by id, of all images."""
    return {
        i: splits.class_names[label]
        for source in (splits.train, splits.test)
        for i, label in zip(source.ids, source.labels, strict=True)
    }


CATS_AND_DOGS = {f"cat/{i}.png": i for i in range(8)} | {
    f"dog/{i}.png": 50 + i for i in range(4)
}
SPLIT = {
    "train/cat/a.png": 1,
    "train/cat/b.png": 2,
    "train/dog/a.png": 3,
    "test/cat/c.png": 4,
    "test/dog/b.png": 5,
}


def test_images_and_labels(tmp_path):
    splits = read(put(tmp_path, CATS_AND_DOGS))
    assert splits.class_names == ("cat", "dog")
    assert labels_of(splits) == {id_of(i): "cat" for i in range(8)} | {
        id_of(50 + i): "dog" for i in range(4)
    }
    assert (len(splits.train.ids), len(splits.test.ids)) == (10, 2)
    assert not set(splits.train.ids) & set(splits.test.ids)
    assert splits.skipped == ()
    by_id = {id_of(i): pixels_of(i) for i in [*range(8), *range(50, 54)]}
    for source in (splits.train, splits.test):
        assert source.labels.dtype.kind == "i" and source.eligible is None
        positions = list(range(len(source.ids)))[::-1]
        images = source.read(positions, lambda image: image)
        for position, image in zip(positions, images, strict=True):
            assert image.mode == "RGB"
            np.testing.assert_array_equal(image, by_id[source.ids[position]])
        assert source.read([], id) == []


def test_train_and_test_folders(tmp_path):
    splits = read(put(tmp_path, SPLIT), test_fraction=0.0)
    assert splits.class_names == ("cat", "dog")
    assert set(splits.train.ids) == {id_of(i) for i in (1, 2, 3)}
    assert set(splits.test.ids) == {id_of(4), id_of(5)}
    assert splits.test_name == "test"
    assert splits.train.labels.tolist() == [0, 0, 1]
    assert splits.test.labels.tolist() == [0, 1]


def test_test_folder_with_some_of_the_classes(tmp_path):
    put(tmp_path, SPLIT)
    shutil.rmtree(tmp_path / "test/cat")
    splits = read(tmp_path)
    assert splits.test.labels.tolist() == [1]
    assert "classes without an image to test on: cat" in splits.notes


def test_what_files_of_one_class_may_be(tmp_path):
    grey = np.arange(54, dtype=np.uint8).reshape(6, 9)
    files = CATS_AND_DOGS | {
        "cat/more/deep.bmp": 20,
        "cat/x.png/in_a_folder.png": 21,
        "cat/grey.png": grey,
        "cat/.DS_Store": b"x",
        "cat/Thumbs.db": b"x",
        ".git/config": b"x",
        "__MACOSX/cat/._0.png": b"x",
    }
    put(tmp_path, files)
    (tmp_path / "cat/link.png").symlink_to(
        put(tmp_path, {".away.png": 22}) / ".away.png"
    )
    splits = read(tmp_path)
    assert splits.skipped == ()
    cats = [i for i, name in labels_of(splits).items() if name == "cat"]
    rgb_of_grey = np.repeat(grey[..., None], 3, 2)
    expected = [*map(id_of, [*range(8), 20, 21, 22]), hash_pixels(rgb_of_grey)]
    assert sorted(cats) == sorted(expected)


def test_skipped_files(tmp_path):
    jpeg = io.BytesIO()
    Image.fromarray(pixels_of(1, 40, 40)).save(jpeg, "JPEG")
    files = CATS_AND_DOGS | {
        "labels.csv": b"1,2",
        "cat/empty.png": b"",
        "cat/line\nbreak.png": b"text",
        "cat/notes.txt": b"text",
        "cat/half.jpg": jpeg.getvalue()[:700],
        "cat/pixel.png": pixels_of(3, 1, 1),
        "dog/z.bmp": 50,
    }
    put(tmp_path, files)
    os.mkfifo(tmp_path / "dog/pipe.png")
    (tmp_path / "dog/lost.png").symlink_to("nowhere")
    not_an_image = "not an image (no valid PNG, JPEG, BMP, GIF, WEBP, TIFF, PPM)"
    splits = read(tmp_path)
    skipped = dict(line.split(": ", 1) for line in splits.skipped)
    assert skipped.pop("cat/half.jpg").startswith("damaged or incomplete (")
    assert skipped == {
        "labels.csv": "not in a class folder",
        "cat/empty.png": "empty file",
        "cat/line\\nbreak.png": not_an_image,
        "cat/notes.txt": not_an_image,
        "cat/pixel.png": "too small (1x1 pixels, 4x4 are needed)",
        "dog/z.bmp": "same pixels as another (as dog/0.png)",
        "dog/pipe.png": "not a regular file",
        "dog/lost.png": "broken link",
    }
    assert labels_of(splits) == labels_of(read(put(tmp_path / "x", CATS_AND_DOGS)))
    assert splits.notes[-1] == (
        "skipped 9 of 21 files: 2 not an image, 1 not in a class folder, "
        "1 empty file, 1 damaged or incomplete, 1 too small, 1 broken link, "
        "1 not a regular file, 1 same pixels as another"
    )


BAD_FILES = {
    "cat/a.txt": b"text",
    "cat/b.png": b"",
    "dog/c.png": 50,  # a copy
    "labels.csv": b"1,2",
}


def test_strict_refuses_every_file_that_would_be_skipped(tmp_path):
    put(tmp_path, CATS_AND_DOGS | BAD_FILES)
    with pytest.raises(UnusableFiles) as error:
        read(tmp_path, strict=True)
    assert str(error.value) == (
        f"config.dataset.strict is True, but files of {tmp_path} cannot be used, 4 in all, "
        "such as cat/a.txt: not an image (no valid PNG, JPEG, BMP, GIF, WEBP, TIFF, PPM); "
        "cat/b.png: empty file; dog/c.png: same pixels as another (as dog/0.png): mend or "
        "remove them, or set --config.dataset.strict=False to continue without them"
    )
    assert error.value.skipped == read(tmp_path).skipped
    assert len(error.value.skipped) == 4


@pytest.mark.parametrize("name", BAD_FILES)
def test_strict_refuses_each_of_them_alone(tmp_path, name):
    put(tmp_path, CATS_AND_DOGS | {name: BAD_FILES[name]})
    assert "1 in all, such as" in error_of(tmp_path, strict=True)


def test_strict_takes_the_same_images_where_all_can_be_used(tmp_path):
    put(tmp_path, CATS_AND_DOGS)
    strict, plain = read(tmp_path, strict=True), read(tmp_path)
    assert (strict.train.ids, strict.test.ids) == (plain.train.ids, plain.test.ids)


def test_a_class_that_is_refused_comes_with_the_list_of_all_skipped_files(tmp_path):
    put(tmp_path, CATS_AND_DOGS | BAD_FILES | {"emu/1.png": b""})
    with pytest.raises(UnusableFiles, match="class 'emu' has no usable image") as error:
        read(tmp_path)
    names = [line.split(": ")[0] for line in error.value.skipped]
    assert sorted(names) == sorted([*BAD_FILES, "emu/1.png"])


def test_name_that_is_not_unicode(tmp_path):
    put(tmp_path, CATS_AND_DOGS)
    for name in (b"cat/\xff.png", b"dog/\xe9\xe8.png"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(b"text")
    splits = read(tmp_path)
    assert [line.split(":")[0] for line in splits.skipped] == [
        "cat/\\udcff.png",
        "dog/\\udce9\\udce8.png",
    ]


# The same pixels several times


def test_copies_in_two_classes(tmp_path):
    files = CATS_AND_DOGS | {"dog/cat.png": 3, "dog/copy.png": 3, "cat/3 (copy).png": 3}
    splits = read(put(tmp_path, files))
    assert labels_of(splits)[id_of(3)] == "cat"
    assert splits.skipped == (
        "cat/3.png: same pixels as another (as cat/3 (copy).png)",
        "dog/cat.png: labelled in two ways (as cat/3 (copy).png)",
        "dog/copy.png: labelled in two ways (as cat/3 (copy).png)",
    )
    assert splits.notes[-1] == (
        "labelled in two ways: dog/cat.png (as cat/3 (copy).png), dog/copy.png (as cat/3 "
        "(copy).png); the label of the file in brackets counts: check which is right"
    )


def test_copies_in_train_and_test(tmp_path):
    files = {
        "test/cat/seen.png": 1,
        "test/cat/d.png": 4,
        "test/dog/cat.png": 2,
        "test/dog/seen.png": 3,
    }
    splits = read(put(tmp_path, SPLIT | files))
    assert set(splits.train.ids) == {id_of(i) for i in (1, 2, 3)}
    assert set(splits.test.ids) == {id_of(4), id_of(5)}
    assert splits.skipped == (
        "test/cat/d.png: same pixels as another (as test/cat/c.png)",
        "test/cat/seen.png: also a training image (as train/cat/a.png)",
        "test/dog/cat.png: labelled in two ways (as train/cat/b.png)",
        "test/dog/seen.png: also a training image (as train/dog/a.png)",
    )


def test_the_same_image_in_another_file_has_the_same_id(tmp_path):
    put(tmp_path / "one", CATS_AND_DOGS)
    other = {}
    for i, (name, seed) in enumerate(sorted(CATS_AND_DOGS.items())):
        suffix = ["bmp", "tif", "ppm"][i % 3]
        other[f"{name[:3]}/{'ab'[i % 2]}/{1000 - i}.{suffix}"] = seed
    put(tmp_path / "two", other)
    turned = Image.Exif()
    turned[274] = 3  # upside down
    upright = Image.fromarray(np.ascontiguousarray(pixels_of(50)[::-1, ::-1]))
    (first,) = (name for name, seed in other.items() if seed == 50)
    (tmp_path / "two" / first).unlink()
    upright.save(tmp_path / "two/dog/turned.png", exif=turned)
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert (one.train.ids, one.test.ids) == (two.train.ids, two.test.ids)
    np.testing.assert_array_equal(one.train.labels, two.train.labels)


def test_id_of_a_jpeg_is_of_its_file(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(pixels_of(9)).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    with Image.open(buffer) as image:
        decoded = np.asarray(image)
    later = jpeg[:2] + b"\xff\xfe\0\4hi" + jpeg[2:]  # the same with a comment
    files = {"cat/p.jpg": jpeg, "cat/q.jpg": later, "cat/r.png": decoded}
    splits = read(put(tmp_path, CATS_AND_DOGS | files))
    assert labels_of(splits)[hashlib.sha256(jpeg).hexdigest()[:32]] == "cat"
    assert len(labels_of(splits)) == 13
    assert splits.skipped == (
        "cat/q.jpg: same pixels as another (as cat/p.jpg)",
        "cat/r.png: same pixels as another (as cat/p.jpg)",
    )


# What is held out


def number_of(id_: str, seed: int = 0) -> float:
    """Returns the number by which an image is held out."""
    return int(hashlib.sha256(f"{seed}/test/{id_}".encode()).hexdigest(), 16) / 2**256


@pytest.mark.parametrize("fraction", [0.25, 0.01, 0.5, 0.99])
def test_held_out(tmp_path, fraction):
    sizes = [1, 2, 3, 4, 5, 6, 7, 10]
    members = {f"{n:02}": range(100 * n, 101 * n) for n in sizes}
    files = {f"{name}/{i}.png": i for name, seeds in members.items() for i in seeds}
    splits = read(put(tmp_path, files), test_fraction=fraction, split_seed=7)
    expected, counts = set(), []
    for seeds in members.values():
        number = {i: number_of(i, 7) for i in map(id_of, seeds)}
        below = {i for i in number if number[i] < fraction}
        if not below:
            below = {min(number, key=number.get)}
        if len(below) == len(number):
            below -= {max(number, key=number.get)}
        expected |= below
        counts.append(len(below))
    assert counts[0] == 0 and min(counts[1:]) > 0
    assert set(splits.test.ids) == expected
    assert len(splits.train.ids) == sum(sizes) - sum(counts)
    assert np.bincount(splits.test.labels, minlength=8).tolist() == counts
    assert splits.notes[2].startswith(
        f"held out for testing, each with probability {fraction * 100:.0f} %: {sum(counts)} "
        "images in 7 classes ("
    )
    assert f", 03 {counts[2]}, " in splits.notes[2]
    assert splits.notes[3].startswith(f"to train on: {38 - sum(counts)} images in 8 ")
    assert splits.notes[4] == "classes without an image to test on: 01"
    assert splits.test_name == "held out of the folder"


def test_images_added_later_do_not_move_others(tmp_path):
    files = {f"{name}/{i}.png": i for i, name in enumerate(["cat", "dog"] * 20)}
    for label in range(2):  # none is in a set only because there was no better one
        assert 0 < sum(number_of(id_of(i)) < 0.25 for i in range(label, 40, 2)) < 20
    before = read(put(tmp_path, files))
    more = {f"{name}/{i}.png": i for i, name in enumerate(["dog", "cat"] * 30, 100)}
    after = read(put(tmp_path, more))
    assert set(before.train.ids) < set(after.train.ids)
    assert set(before.test.ids) < set(after.test.ids)


def test_image_that_was_the_nearest_to_a_test_image_makes_way_for_one(tmp_path):
    numbers = {i: number_of(id_of(i)) for i in [*range(50, 54), 56]}
    assert sorted(numbers, key=numbers.get)[:2] == [56, 51]
    assert numbers[56] < 0.25 < numbers[51]
    before = read(put(tmp_path, CATS_AND_DOGS))
    after = read(put(tmp_path, {"dog/new.png": 56}))
    assert {*before.test.ids} - {*after.test.ids} == {id_of(51)}
    assert {*after.test.ids} - {*before.test.ids} == {id_of(56)}


def test_nothing_is_held_out_of_the_folder_with_a_holdout(tmp_path):
    put(tmp_path, CATS_AND_DOGS)
    splits = read(tmp_path, test_fraction=0.0, holdout=3)
    assert (len(splits.train.ids), len(splits.test.ids)) == (12, 0)
    assert len(splits.notes) == 2
    dataset = fields(
        name="folder",
        path=str(tmp_path),
        size=8,
        shots=2,
        test_fraction=0.0,
        holdout=3,
    )
    train, test = data.load(dataset)
    assert (len(train.ids), len(test.ids)) == (4, 3)
    assert test.split == "held out of train"


def test_other_seeds_hold_out_other_images(tmp_path):
    put(tmp_path, CATS_AND_DOGS)
    chosen = {tuple(read(tmp_path, split_seed=s).test.ids) for s in range(5)}
    assert len(chosen) > 1


def test_unreadable_files_do_not_shift_classes(tmp_path):
    names = ["ant", "bee", "cat", "dog"]
    files = {f"{n}/{i}.png": 10 * k + i for k, n in enumerate(names) for i in range(3)}
    before = labels_of(read(put(tmp_path, files)))
    put(tmp_path, {"ant/0.png": b"", "ant/1.png": b"", "cat/2.png": b"text"})
    splits = read(tmp_path)
    assert splits.class_names == tuple(names)
    after = labels_of(splits)
    lost = {id_of(0), id_of(1), id_of(22)}
    assert after == {i: name for i, name in before.items() if i not in lost}
    put(tmp_path, {"ant/2.png": b""})  # and the class would be gone
    assert error_of(tmp_path).startswith("class 'ant' has no usable image")


def scene(seed: int) -> Image.Image:
    few = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
    return Image.fromarray(few).resize((120, 90), Image.Resampling.BICUBIC)


def put_near_copies(root: Path, name: str, seeds: range, copies: int) -> None:
    """Writes scenes, each also at smaller sizes: <name>/<seed>-<copy>.png."""
    (root / name).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for k in range(copies):
            image = scene(seed).resize((120 - 20 * k, 90 - 15 * k))
            image.save(root / name / f"{seed}-{k}.png")


def test_near_copies_are_on_one_side(tmp_path):
    put_near_copies(tmp_path, "cat", range(4), 3)
    put_near_copies(tmp_path, "cat", range(10, 18), 1)
    put_near_copies(tmp_path, "dog", range(20, 40), 1)
    shutil.copytree(tmp_path, tmp_path / "alone")
    for seed in range(4):
        for k in (1, 2):
            (tmp_path / f"alone/cat/{seed}-{k}.png").unlink()
    alone = read(tmp_path / "alone")
    shutil.rmtree(tmp_path / "alone")
    sizes = set()
    for seed in range(8):
        splits = read(tmp_path, split_seed=seed)
        side = dict.fromkeys(splits.train.ids, "train") | dict.fromkeys(
            splits.test.ids, "test"
        )
        groups: dict[int, set[str]] = {}
        for id_, (group, _) in splits.near.items():
            groups.setdefault(group, set()).add(side[id_])
        assert len(groups) == 4 and all(len(sides) == 1 for sides in groups.values())
        assert len(splits.near) == 12
        # as many as there would be if each image was on its own, or fewer
        below = sum(
            number_of(i, seed) < 0.25 for i in side if i in ids_of(splits, "cat")
        )
        held_out = splits.test.labels.tolist().count(0)
        assert 0 < held_out <= max(1, below)
        sizes.add(held_out)
    assert len(sizes) > 1
    lines = [line for line in splits.notes if line.startswith("near copies")]
    assert lines[0].startswith(
        "near copies (saved again, resized, cropped or brightened), 12 images that show 4, each "
        "on one side of the split: "
    )
    assert "cat/0-0.png" in lines[0] and not alone.near


def ids_of(splits: Splits, name: str) -> set[str]:
    return {i for i, label in labels_of(splits).items() if label == name}


def test_near_copies_in_two_classes_stay_together_and_are_named(tmp_path):
    put_near_copies(tmp_path, "cat", range(4), 1)
    put_near_copies(tmp_path, "dog", range(10, 14), 1)
    (tmp_path / "dog/again.png").write_bytes(b"")
    scene(0).resize((60, 45)).save(tmp_path / "dog/again.png")
    for seed in range(6):
        splits = read(tmp_path, split_seed=seed)
        one, other = splits.near
        assert (one in splits.test.ids) == (other in splits.test.ids)
    assert (
        "near copies in two classes: dog/again.png (as cat/0-0.png); check which label is right"
        in splits.notes
    )


def test_class_of_one_image_and_its_copies_is_trained_on(tmp_path):
    put_near_copies(tmp_path, "cat", range(1), 3)
    put_near_copies(tmp_path, "dog", range(10, 14), 1)
    splits = read(tmp_path)
    assert set(splits.test.labels.tolist()) == {1}
    shutil.rmtree(tmp_path / "dog")
    put_near_copies(tmp_path, "dog", range(10, 11), 2)
    splits = read(tmp_path)  # there is nothing else to test on
    assert (
        set(splits.test.labels.tolist()) == set(splits.train.labels.tolist()) == {0, 1}
    )
    assert not any("one side" in line for line in splits.notes)


def test_near_copies_of_training_images_among_test_images(tmp_path):
    for name, start in (("cat", 0), ("dog", 10)):
        put_near_copies(tmp_path, f"train/{name}", range(start, start + 3), 1)
        put_near_copies(tmp_path, f"test/{name}", range(start + 4, start + 7), 1)
    scene(1).resize((60, 45)).save(tmp_path / "test/cat/small.png")
    scene(11).save(tmp_path / "test/dog/again.jpg", quality=60)
    chosen = fields(name="folder", path=str(tmp_path), size=8, shots=0)
    train, test = data.load(chosen)
    assert test.near_copies == (
        ("test/cat/small.png", "train/cat/1-0.png"),
        ("test/dog/again.jpg", "train/dog/11-0.png"),
    )
    assert data.describe(train, test).splitlines()[-1] == (
        "2 of 8 test images are near copies of training images (saved again, resized, cropped "
        "or brightened), which flatters the accuracy: test/cat/small.png (as "
        "train/cat/1-0.png), test/dog/again.jpg (as train/dog/11-0.png); remove them from one side"
    )
    chosen.transductive = True
    _, transductive = data.load(chosen)
    chosen.transductive = False
    assert transductive.near_copies == test.near_copies
    (tmp_path / "train/cat/1-0.png").unlink()
    (tmp_path / "train/dog/11-0.png").unlink()
    train, test = data.load(chosen)
    assert test.near_copies == () and "near copies" not in data.describe(train, test)


# Transparent images, and images of more than 8 bits


def logo(colour: int, place: int) -> np.ndarray:
    image = np.zeros((32, 32, 4), np.uint8)
    image[..., :3] = colour
    image[place : place + 10, 8:20, 3] = 255
    return image


def test_white_on_transparent_is_put_on_black(tmp_path):
    files = {f"star/{i}.png": logo(255, i) for i in range(5)}
    files |= {f"wave/{i}.png": logo(200, 2 * i + 9) for i in range(5)}
    splits = read(put(tmp_path, files))
    assert splits.skipped == () and len(labels_of(splits)) == 10
    assert splits.conversion.background == "#000000"
    assert splits.notes[1].endswith("10 partly transparent (black now)")
    assert splits.notes[2] == (
        "transparent images are put on black, as 5 of them (star) cannot be seen on white; "
        "--config.dataset.background=COLOUR sets another"
    )
    images = splits.train.read(range(len(splits.train.ids)), np.asarray)
    assert {image[0, 0].tolist() == [0, 0, 0] for image in images} == {True}
    white = read(tmp_path, background="white")
    assert white.skipped == () and len(labels_of(white)) == 10
    assert white.notes[2] == (
        "cannot be seen on white, 5 in all: star/0.png, star/1.png, star/2.png, star/3.png, "
        "star/4.png"
    )
    assert white.conversion.background == "#ffffff"
    assert not {*labels_of(white)} & {*labels_of(splits)}
    assert read(tmp_path, background="#204060").conversion.background == "#204060"


def test_transparent_copies_are_those_of_colours_and_transparency(tmp_path):
    files = {f"star/{i}.png": logo(255, i) for i in range(3)}
    files |= {
        "star/copy.tif": logo(255, 0),
        "wave/1.png": logo(9, 1),
        "wave/2.png": logo(9, 2),
    }
    splits = read(put(tmp_path, files))
    assert splits.skipped == ("star/copy.tif: same pixels as another (as star/0.png)",)


def test_ids_of_ordinary_images_are_of_their_pixels_whatever_the_others_are(tmp_path):
    deep = np.full((20, 20), 4000, np.uint16)
    more = {"cat/logo.png": logo(255, 3), "dog/deep.png": deep}
    splits = read(put(tmp_path, CATS_AND_DOGS | more))
    assert {id_of(i) for i in (*range(8), *range(50, 54))} < {*labels_of(splits)}
    assert (splits.conversion.background, splits.conversion.bits) == ("#000000", 12)


def test_twelve_bits_in_sixteen(tmp_path):
    rng = np.random.default_rng(0)
    values = {
        f"{name}/{i}.{'png' if i % 2 else 'tif'}": rng.integers(
            0, 4096, (20, 20), np.uint16
        )
        for name in ("ill", "well")
        for i in range(4)
    }
    splits = read(put(tmp_path, values))
    assert splits.conversion.bits == 12
    largest = max(int(v.max()) for v in values.values())
    assert splits.notes[2] == (
        f"8 images of 16 bits, values up to {largest}: read as 12 bits, 4095 is white in all; "
        "--config.dataset.bits=N sets another range"
    )
    expected = {
        hash_pixels(
            np.repeat(np.round(v * (255 / 4095)).astype(np.uint8)[..., None], 3, 2)
        )
        for v in values.values()
    }
    assert {*labels_of(splits)} == expected
    wide = read(tmp_path, bits=16)
    assert wide.conversion.bits == 16 and "16 bits, 65535 is white" in wide.notes[2]
    narrow = read(tmp_path, bits=10)
    assert (
        "1023 is white in all, larger ones in 8 of them are white, too"
        in narrow.notes[2]
    )
    put(tmp_path, {"well/dark.png": np.full((20, 20), 60000, np.uint16)})
    assert read(tmp_path).conversion.bits == 16


# For people


def test_notes(tmp_path):
    clear = np.dstack([pixels_of(1), np.full((6, 9), 99, np.uint8)])
    files = CATS_AND_DOGS | {
        "cat/large.png": pixels_of(90, 30, 20),
        "cat/grey.png": pixels_of(91)[..., 0],
        "dog/grey.png": pixels_of(92)[..., 0],
        "dog/clear.png": clear,
        "emu/only.png": 93,
    }
    splits = read(put(tmp_path, files))
    assert splits.notes == (
        f"folder {tmp_path}: 17 images in 3 classes (cat 10, dog 6, emu 1)",
        "short sides 6 to 20 px, median 6; 2 grey, 1 partly transparent (white now)",
        "held out for testing, each with probability 25 %: 2 images in 2 classes "
        + "(cat 1, dog 1, emu 0)",
        "to train on: 15 images in 3 classes (cat 9, dog 5, emu 1)",
        "classes without an image to test on: emu",
    )


def test_notes_on_train_and_test_folders(tmp_path):
    splits = read(put(tmp_path, SPLIT | {"masks/1.png": 1, "train/cat/z.png": b""}))
    assert splits.notes == (
        f"folder {tmp_path}: 5 images in 2 classes (cat 3, dog 2)",
        "understood: train is to train on, test to test on",
        "short sides 6 to 6 px, median 6",
        "to train on: 3 images in 2 classes (cat 2, dog 1)",
        "to test on: 2 images in 2 classes (cat 1, dog 1)",
        "folders that are neither to train nor to test on: masks",
        "skipped 1 of 6 files: 1 empty file",
    )


def test_notes_on_what_is_left_out(tmp_path):
    left_out = {
        "todo": None,
        "annotations/1.xml": b"<x/>",
        "lost+found": None,
        "cat/.DS_Store": b"x",
        "dog/.DS_Store": b"x",
        "dog/._0.png": b"x",
        "dog/._1.png": b"x",
    }
    splits = read(put(tmp_path, CATS_AND_DOGS | left_out))
    assert splits.class_names == ("cat", "dog")
    assert splits.notes[-2:] == (
        "folders left out: annotations (no image in it), todo (empty)",
        "left out as hidden or the system's: lost+found, .DS_Store (2), ._* (2)",
    )
    assert splits.skipped == ()
    assert read(tmp_path, strict=True).class_names == ("cat", "dog")


def test_notes_on_colour_profiles(tmp_path):
    put(tmp_path, CATS_AND_DOGS)
    for name, profile in (
        ("a", icc.rgb_profile()),
        ("b", b"none"),
        ("c", icc.srgb_profile()),
    ):
        image = Image.fromarray(pixels_of(ord(name)))
        image.save(tmp_path / f"cat/{name}.png", icc_profile=profile)
    splits = read(tmp_path)
    assert "1 with colours converted to sRGB by their profile" in splits.notes[1]
    assert "1 with a colour profile that cannot be used" in splits.notes[1]
    ids = {*labels_of(splits)}
    assert {id_of(ord("b")), id_of(ord("c"))} < ids and id_of(ord("a")) not in ids


def test_notes_on_many_classes(tmp_path):
    files = {f"{c:02}/{i}.png": 10 * c + i for c in range(15) for i in range(1 + c % 2)}
    notes = read(put(tmp_path, files)).notes
    assert notes[0] == f"folder {tmp_path}: 22 images in 15 classes (1 to 2 each)"
    assert notes[4] == (
        "classes without an image to test on: 00, 02, 04, 06, 08, 10, 12, 14"
    )
    for i in range(1, 15, 2):
        (tmp_path / f"{i:02}/1.png").rename(tmp_path / f"00/{i}.png")
    assert read(tmp_path).notes[4] == (
        "classes without an image to test on: 01, 02, 03, 04, 05, 06, 07, 08, 09, 10, "
        "11, 12, 2 more"
    )


# Errors


@pytest.mark.parametrize(
    ("files", "changes", "message"),
    [
        (
            CATS_AND_DOGS,
            {"test_fraction": 0.0},
            (
                "@ has no test folder and config.dataset.test_fraction is 0: set it to "
                "0.25, say, or put the images into train/<class> and test/<class>"
            ),
        ),
        (
            {"cat/1.png": 1, "dog/1.png": 2},
            {},
            "@ has one usable image of each class, so none to test on: add images",
        ),
        (
            CATS_AND_DOGS | {"emu/a.png": b"", "emu/b.png": 1},
            {},
            (
                "class 'emu' has no usable image in @/emu (files skipped: 2, such as "
                "emu/a.png: empty file): add images or remove the folder"
            ),
        ),
        (
            SPLIT | {"train/emu/a.png": b"", "test/emu/a.png": b"text"},
            {},
            (
                "class 'emu' has no usable image in @/train/emu (files skipped: 1, such "
                "as train/emu/a.png: empty file): add images or remove the folder"
            ),
        ),
        (
            SPLIT | {"test/cat/c.png": b"", "test/dog/b.png": 3},
            {},
            (
                "the test folder of @ has no usable image (files skipped: 2, such as "
                "test/cat/c.png: empty file): add some, or remove it to test on a part "
                "of the training images"
            ),
        ),
        (
            {"cat/a.png": 1},
            {},
            "@ has one class folder, 'cat', and at least two are needed: add another",
        ),
    ],
)
def test_error(tmp_path, files, changes, message):
    error = error_of(put(tmp_path, files), **changes)
    assert error == message.replace("@", str(tmp_path))


def test_file_that_changes_after_it_was_found(tmp_path):
    splits = read(put(tmp_path, SPLIT))
    (tmp_path / "test/dog/b.png").unlink()
    with pytest.raises(UserError) as error:
        splits.test.read([0, 1], id)
    assert str(error.value) == (
        f"{tmp_path}/test/dog/b.png could be read a moment ago, but now: no longer there; "
        "leave the images alone while this runs, and start again"
    )


def test_load(tmp_path):
    put(tmp_path, CATS_AND_DOGS)
    train, test = data.load(fields(name="folder", path=str(tmp_path), size=8, shots=0))
    assert train.images.shape == (10, 8, 8, 3) and test.images.shape == (2, 8, 8, 3)
    assert train.class_names == ("cat", "dog")
    assert np.bincount(train.labels).tolist() == [7, 3]
    assert np.bincount(test.labels).tolist() == [1, 1]
    assert test.split == "held out of the folder"
