"""What was changed before a run is resumed: refused by name where it matters, else accepted."""

import shutil

import numpy as np
import pytest
from PIL import Image

from cglo_jax.config.defaults import flatten, get_config
from cglo_jax.data import dataset as data
from cglo_jax.errors import UserError
from cglo_jax.stages import train
from cglo_jax.workdir import directory, trained
from tests.helpers.small_run import write_images
from tests.helpers.tiny import create_config, create_dataset

# Another valid value of every field that a cGLO depends on, and that this run uses.
MATTER = {
    "dtype": "bfloat16",
    "latent.dim": 9,
    "latent.noise": "additive",
    "latent.noise_dim": 5,
    "latent.noise_std": 0.3,
    "latent.init": "hypercube",
    "latent.init_noise": 0.2,
    "generator.width": 5,
    "generator.max_width": 16,
    "generator.normalize_codes": True,
    "weak_classifier.input": "latent",
    "weak_classifier.loss": "cosine",
    "weak_classifier.width": 5,
    "weak_classifier.negative_slope": 0.1,
    "weak_classifier.gamma": 0.4,
    "reconstruction.layers": ("conv1_2", "conv2_2", "conv3_2", "conv4_3", "pool5"),
    "reconstruction.layer_weights": (1.0, 1.0, 1.0, 1.0, 0.5),
    "reconstruction.pixel_weight": 0.5,
    "reconstruction.normalize": False,
    "train.epochs": 1,
    "train.steps_per_epoch": 4,
    "train.batch_size": 6,
    "train.generator_lr": 1e-4,
    "train.code_lr": 1e-4,
    "train.adam_b1": 0.6,
    "train.adam_b2": 0.9,
    "train.lr_drop_epochs": (1,),
    "train.lr_drop": 0.25,
    "train.weak_lr": 0.2,
    "train.weak_momentum": 0.8,
    "train.weak_weight_decay": 2e-4,
    "train.epoch_ends_on": "unlabelled",
    "train.unlabelled_steps": 1,
    "weak_classifier.dropout": 0.1,
    "weak_classifier.label_smoothing": 0.1,
    "weak_classifier.scale_gradient": False,
    "dataset.shots": 4,
    "dataset.split_seed": 1,
    "dataset.class_weights": True,
    "dataset.transductive": True,
}
HARMLESS = {
    "devices": 2,
    "steps_per_call": 2,
    "check_memory": False,
    "rollbacks": 2,
    "rollback_factor": 0.9,
    "external_weights": False,
    "reconstruction.cache_gb": 0.0,
    "train.checkpoint_every_epochs": 2,
    "train.log_every_steps": 2,
    "sample.per_class": 3,
    "sample.seed": 3,
    "classify.lr": 0.3,
    "classify.methods": ("cglo",),
    "mixmatch.alpha": 0.5,
    "report.confidence": 0.9,
    "report.compare": "runs/a,runs/b",
    "log.wandb": "cglo",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A work directory in which a cGLO was trained."""
    workdir = tmp_path_factory.mktemp("changes") / "run"
    directory.create(create_config(), workdir)
    train.run(create_config(), workdir, create_dataset(), 0)
    return workdir


@pytest.mark.parametrize("name", MATTER)
def test_a_field_that_matters_is_refused_with_both_values(saved, name):
    old, new = (flatten(create_config(**c))[name] for c in ({}, {name: MATTER[name]}))
    assert old != new
    config = create_config(**{name: MATTER[name]})
    message = f"was made with {name}={old!r}, this call has {new!r}: " + (
        "a run can be trained for more epochs, "
        if name == "train.epochs"
        else "use another --workdir"
    )
    for check in (
        lambda: directory.check(config, saved),
        lambda: train.run(config, saved, create_dataset(), 0),
    ):
        with pytest.raises(UserError) as error:
            check()
        assert message in str(error.value)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_field_that_does_not_matter_is_accepted(saved, name, capsys):
    config = create_config(**{name: HARMLESS[name]})
    directory.check(config, saved)
    train.run(config, saved, create_dataset(), 0)
    assert "done before, at step 6" in capsys.readouterr().err


def test_every_field_is_one_or_the_other():
    """Those not tried here are of other data sets, losses and stages, or name files."""
    tried = MATTER.keys() | HARMLESS.keys()
    assert len(tried) >= 30
    left = [n for n in flatten(get_config()) if n not in tried]
    sections = {name.split(".")[0] for name in left}
    expected = {"seeds", "dataset", "latent", "reconstruction", "train"}
    assert sections == expected | {"sample", "classify", "mixmatch"}
    assert [n for n in left if n.startswith("train.")] == ["train.only_codes"]


# Data


def of_folder(path):
    """The images of a folder as a run reads them."""
    config = create_config(**{"dataset.size": 16})
    config.dataset.update({"name": "folder", "path": str(path), "shots": 0})
    return config, data.load(config.dataset)[0]


@pytest.fixture(scope="module")
def trained_on_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    config, dataset = of_folder(write_images(root / "images"))
    train.run(config, root / "run", dataset, 0)
    return root


@pytest.fixture
def copied(trained_on_folder, tmp_path):
    return shutil.copytree(trained_on_folder, tmp_path / "copy")


def first(root):
    return root / "images" / "train" / "ant" / "0.png"


def repaint(path):
    image = Image.open(path)
    image.putpixel((0, 0), (1, 2, 3))
    image.save(path)


def swap_names(root):
    for old, new in (("ant", "x"), ("bee", "ant"), ("x", "bee")):
        for split in ("train", "test"):
            (root / "images" / split / old).rename(root / "images" / split / new)


OTHER_DATA = {
    "an image more": lambda r: Image.new("RGB", (16, 16), "red").save(
        first(r).with_name("new.png")
    ),
    "an image less": lambda r: first(r).unlink(),
    "another pixel": lambda r: repaint(first(r)),
    "another class of an image": lambda r: first(r).rename(
        r / "images" / "train" / "bee" / "moved.png"
    ),
    "another name of a class": lambda r: [
        (r / "images" / split / "ant").rename(r / "images" / split / "dog")
        for split in ("train", "test")
    ],
    "names of classes swapped": swap_names,
    "a class less": lambda r: [
        shutil.rmtree(r / "images" / split / "ant") for split in ("train", "test")
    ],
}
SAME_DATA = {
    "another place": lambda r: (r / "images").rename(r / "images2"),
    "other names of files": lambda r: [
        path.rename(path.with_name(f"{9 - int(path.stem)}x.png"))
        for path in sorted((r / "images" / "train" / "ant").iterdir())
    ],
    "another format": lambda r: (
        Image.open(first(r)).save(first(r).with_suffix(".bmp")),
        first(r).unlink(),
    ),
    "a copy of an image": lambda r: shutil.copy(first(r), first(r).with_name("c.png")),
    "a file that is no image": lambda r: (
        first(r).with_name("notes.txt").write_text("a")
    ),
    "a folder in the class": lambda r: (
        (first(r).parent / "more").mkdir(),
        first(r).rename(first(r).parent / "more" / "0.png"),
    ),
    "another date": lambda r: first(r).touch(),
}


SAME = "the same images, with other labels or classes or in another order"
TOLD = {
    "an image more": "0 of its 24 images are gone, and 1 of the 25 images now are new",
    "an image less": "1 of its 24 images are gone, and 0 of the 23 images now are new",
    "another pixel": "1 of its 24 images are gone, and 1 of the 24 images now are new",
    "another class of an image": SAME,
    "another name of a class": SAME,
    "names of classes swapped": SAME,
    "a class less": "8 of its 24 images are gone, and 0 of the 16 images now are new",
}


@pytest.mark.parametrize("change", OTHER_DATA)
def test_other_images_or_classes_are_refused(copied, change):
    OTHER_DATA[change](copied)
    config, dataset = of_folder(copied / "images")
    for use in (
        lambda: train.run(config, copied / "run", dataset, 0),
        lambda: trained.restore(config, copied / "run", dataset, 0),
    ):
        with pytest.raises(
            UserError, match="was made with other images than this call"
        ):
            use()


@pytest.mark.parametrize("change", SAME_DATA)
def test_the_same_images_keep_their_codes_whatever_their_files_are_called(
    copied, change
):
    config, before = of_folder(copied / "images")
    codes = trained.restore(config, copied / "run", before, 0).z
    by_content = dict(zip((i.tobytes() for i in before.images), codes, strict=True))
    SAME_DATA[change](copied)
    config, now = of_folder(next(copied.glob("images*")))
    train.run(config, copied / "run", now, 0)
    after = trained.restore(config, copied / "run", now, 0).z
    assert len(by_content) == len(after) == 24
    for image, code in zip(now.images, after, strict=True):
        np.testing.assert_array_equal(by_content[image.tobytes()], code)
