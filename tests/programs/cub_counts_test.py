"""A CUB-200 with the true number of training images of every class: 29 or 30, 5,994 in all."""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from cglo_jax.data import archives
from cglo_jax.data import dataset as data
from cglo_jax.errors import UserError
from configs import cub
from experiments.harness import runs
from experiments.paper_tables import TABLE2
from tests.data.archives_test import bird_files, pin, write_tar

SHORT = (17, 40, 77, 120, 158, 199)  # classes with 29: 200 * 30 - 6 = 5994


def list_images() -> dict[str, tuple[str, int]]:
    """Returns {image_id: (path, whether it is a training image)}."""
    images = {}
    for label in range(200):
        n = 30 - (label in SHORT)
        for i in range(n + 1):
            path = f"{label + 1:03d}.Bird_{label}/Bird_{i:04d}_{len(images)}.jpg"
            images[str(len(images) + 1)] = path, int(i < n)
    return images


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Prepares the made-up archives; a test image per class. Returns the data directory."""
    folder = tmp_path_factory.mktemp("cub")
    birds = {
        number: (path, in_train, (0, 0, 24, 16), "RGB", "L")
        for number, (path, in_train) in list_images().items()
    }
    images, masks = bird_files(birds)
    files = [
        write_tar(folder / "CUB_200_2011.tgz", images),
        write_tar(folder / "segmentations.tgz", masks),
    ]
    with pytest.MonkeyPatch.context() as patch:
        pin(patch, "caltech_birds2011", *files)
        copies = dict(zip(("--archive", "--segmentations"), files, strict=True))
        archives.prepare("caltech_birds2011", folder / "data", copies)
    return folder / "data"


def fields_of(config: ConfigDict, data_dir: Path) -> ConfigDict:
    """Returns `config.dataset` for images of 8 pixels."""
    fields = config.dataset
    fields.update(size=8, crop=0, data_dir=str(data_dir))
    return fields


def table_config(column: str) -> ConfigDict:
    choice = runs.Choice("paper", "cub")
    of_column = TABLE2.columns["paper", "cub"][column]
    return runs.create_config(choice, TABLE2.rows[0], of_column, 0)


@pytest.mark.parametrize("create", [cub.get_config, table_config])
def test_30_per_class_are_all_images(prepared, create):
    train, test = data.load(fields_of(create("30"), prepared))
    counts = np.bincount(train.labels, minlength=200)
    assert (train.num_labelled, len(test.ids)) == (5994, 200)
    assert tuple(np.flatnonzero(counts == 29)) == SHORT
    assert set(counts) == {29, 30}
    np.testing.assert_array_equal(train.labels, np.repeat(np.arange(200), counts))
    assert data.describe(train, test).startswith(
        "6 of 200 classes have fewer than 30 training images (29 or more): all of theirs "
        "are used\ndata: 5994 labelled training images of 200 classes, 200 test images"
    )
    fewer, _ = data.load(fields_of(create("20"), prepared))
    assert (fewer.num_labelled, fewer.notes) == (4000, ())
    assert {*fewer.ids} <= {*train.ids}


@pytest.mark.parametrize(
    ("shots", "changes", "message"),
    [
        (
            31,
            {},
            r"class 'bird_17' has only 29 .*: use 30 or fewer \(.*shortfall is 1\)",
        ),
        (
            31,
            {"shortfall": 2},
            "no class has as many .*: class 'bird_0' has 30, use 30",
        ),
        (
            30,
            {"shortfall": 0},
            "shots is 30, but class 'bird_17' has only 29 .*: use 29",
        ),
        (
            30,
            {"holdout": 1},
            "only 0 training images are left beside the 5994 labelled",
        ),
    ],
)
def test_more_than_there_are_is_refused(prepared, shots, changes, message):
    fields = fields_of(cub.get_config(str(shots)), prepared)
    fields.update(changes)
    with pytest.raises(UserError, match=message) as error:
        data.load(fields)
    assert "\n" not in str(error.value)


def test_a_list_of_fewer_images_is_not_30_per_class(prepared, tmp_path):
    images, few = list_images(), tmp_path / "few.txt"
    rows = [f"{n} {path}\n" for n, (path, _) in images.items()]
    (tmp_path / "images.txt").write_text("".join(rows))
    rows = [f"{n} {int('_0029_' not in p and t)}\n" for n, (p, t) in images.items()]
    few.write_text("".join(rows))
    fields = fields_of(cub.get_config("30"), prepared)
    fields.split_file = str(few)
    with pytest.raises(UserError, match=r"no class has as many .* has 29, use 29"):
        data.load(fields)
    fields.shots = 29
    assert data.load(fields)[0].num_labelled == 200 * 29
