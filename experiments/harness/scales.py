"""The scales that the paper's tables can be run at: what is shrunk, and what a table says of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import cifar10, cifar100, cub, digits

DATA = ("digits", "cifar10", "cifar100", "cub")
SCALES = ("cpu", "hour", "paper")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One scale on one data set.

    Attributes:
      create: makes the configuration that `changes` are applied to.
      seeds: of the runs.
      own_images: whether seed s draws its own labelled images (dataset.split_seed = s); else
        all seeds share those of the configuration, as in the paper.
      sentence: what is smaller than in the paper, for people.
    """

    create: Callable[[], ConfigDict]
    changes: Mapping[str, Any]
    seeds: tuple[int, ...]
    own_images: bool
    sentence: str

    def config(self) -> ConfigDict:
        """Returns the configuration before profile, column and row."""
        config = self.create()
        config.update_from_flattened_dict(dict(self.changes))
        return config


_BFLOAT16 = (
    "what should fit an hour of one modern GPU (not measured): bfloat16, one seed, "
)

# What the tables of digits and CIFAR-100 for two cores were run with, before the defaults changed.
_AS_RUN = {"latent.noise_gain": 0.577, "train.epoch_ends_on": "unlabelled"}
_OLD_DEFAULTS = (
    "Run before the defaults of two fields changed: here the noise's dense layer started uniform, "
    "with the variance that latent.noise_gain=.577 has (which draws from a normal distribution "
    "today), and an epoch ends on unlabelled images where there are any."
)

OWN_IMAGES = "Seed s draws its own labelled images, so the spread includes theirs."
_CIFAR_ON_CPU = {
    "latent.init_weights": "random",
    "train.epochs": 12,
    "train.batch_size": 50,
    "train.lr_drop_epochs": (6, 9),
    "classify.epochs": 6,
    "classify.batch_size": 32,
    "classify.lr_drop_epochs": (4, 5),
}
_OF_CIFAR_ON_CPU = (
    "no external weights (Laplacian loss), generator of half the width and "
    "600 labelled steps of 50 images, WRN-10-2 of 300 steps of 32 images in place of WRN-28-10 "
    "of 78,000 steps of 128. " + OWN_IMAGES
)
_CIFAR_IN_AN_HOUR = {
    "dtype": "bfloat16",
    "train.epochs": 20,
    "train.steps_per_epoch": 100,
    "train.lr_drop_epochs": (7, 14),
    "classify.depth": 16,
    "classify.width": 4,
    "classify.epochs": 40,
    "classify.steps_per_epoch": 100,
    "classify.lr_drop_epochs": (12, 24, 32),
    "mixmatch.ramp": 1.0,
}
_OF_CIFAR_IN_AN_HOUR = (
    f"Shrunk to {_BFLOAT16}cGLO of 2000 labelled steps in place of 78,000, "
    "WRN-16-4 of 4000 steps in place of WRN-28-10 of 78,000."
)

SETTINGS: dict[tuple[str, str], Setting] = {
    ("cpu", "digits"): Setting(
        digits.get_config,
        {
            **_AS_RUN,
            "latent.init_weights": "random",
            "classify.epochs": 12,
            "classify.lr_drop_epochs": (7, 10),
        },
        seeds=(0, 1, 2, 3, 4),
        own_images=True,
        sentence="Shrunk to two cores: scikit-learn's 8x8 digits (10 classes, 797 test "
        "images), no external weights (Laplacian loss), cGLO of 1000 labelled steps of 50 "
        "images, WRN-10-2 of 600 steps of 50 images in place of WRN-28-10 of 78,000 steps of "
        f"128. {OWN_IMAGES} Digits are white "
        "on black: what Cutout, Random Erasing and AutoAugment fill with, mid-grey, is no background "
        f"there. {_OLD_DEFAULTS}",
    ),
    ("cpu", "cifar10"): Setting(
        lambda: cifar10.get_config("10,cpu"),
        _CIFAR_ON_CPU,
        seeds=(0, 1, 2),
        own_images=True,
        sentence=f"Shrunk to two cores: {_OF_CIFAR_ON_CPU}",
    ),
    ("cpu", "cifar100"): Setting(
        lambda: cifar100.get_config("10,cpu"),
        {"dataset.classes": 10, **_CIFAR_ON_CPU, **_AS_RUN},
        seeds=(0, 1, 2),
        own_images=True,
        sentence="Shrunk to two cores: real CIFAR-100 images of 10 of the 100 classes (1000 "
        f"test images), {_OF_CIFAR_ON_CPU} {_OLD_DEFAULTS}",
    ),
    ("hour", "cifar10"): Setting(
        cifar10.get_config,
        _CIFAR_IN_AN_HOUR,
        seeds=(0,),
        own_images=False,
        sentence=_OF_CIFAR_IN_AN_HOUR,
    ),
    ("hour", "cifar100"): Setting(
        cifar100.get_config,
        _CIFAR_IN_AN_HOUR,
        seeds=(0,),
        own_images=False,
        sentence=_OF_CIFAR_IN_AN_HOUR,
    ),
    ("hour", "cub"): Setting(
        cub.get_config,
        {
            "dtype": "bfloat16",
            "dataset.size": 128,
            "dataset.crop": 112,
            "train.epochs": 8,
            "train.steps_per_epoch": 125,
            "train.lr_drop_epochs": (3, 6),
            "classify.epochs": 10,
            "classify.steps_per_epoch": 125,
            "classify.lr_drop_epochs": (2, 4, 6, 8),
            "classify.cutout_size": 56,
            "mixmatch.ema": 0.99,
            "mixmatch.ramp": 1.0,
        },
        seeds=(0,),
        own_images=False,
        sentence=f"Shrunk to {_BFLOAT16}crops of 112 px of images of 128 px in place of 224 of "
        "256, cGLO of 1000 labelled steps and ResNet-50 of 1250 steps in place of 75,000.",
    ),
    ("paper", "cifar10"): Setting(
        cifar10.get_config,
        {},
        seeds=(0, 1, 2),
        own_images=False,
        sentence="As published: configs/cifar10.py, WRN-28-10, 200 epochs of 390 steps.",
    ),
    ("paper", "cifar100"): Setting(
        cifar100.get_config,
        {},
        seeds=(0, 1, 2),
        own_images=False,
        sentence="As printed: configs/cifar100.py, WRN-28-10, 200 epochs of 390 steps.",
    ),
    ("paper", "cub"): Setting(
        cub.get_config,
        {},
        seeds=(0, 1, 2),
        own_images=False,
        sentence="As printed: configs/cub.py, ResNet-50 from ImageNet's weights at 224 px, 200 "
        "epochs of 375 steps. 30 per class is the whole training set, 29 or 30 images of each.",
    ),
}
