"""What random keys are folded with: a name for every purpose, so that no two draws share a key.

One enumeration for each kind of key. A value is never changed: results would be.
"""

import enum

_FAR = 1 << 31  # from image indices, which the keys of a batch's images are made of


class Run(enum.IntEnum):
    """Of `jax.random.key(seed)`, which `stages.train` splits in 3.

    `stages.classify` splits the same key in 4: the draws of a classifier are not independent of those
    of the cGLO of the same seed, which share no purpose with them.
    """

    CODES_OF_ADDED_IMAGES = 3


class Init(enum.IntEnum):
    """Of the key of the state before the first step of cGLO."""

    CODES = 0
    GENERATOR = 1
    WEAK_CLASSIFIER = 2
    CODES_FROM_IMAGES = 3


class Order(enum.IntEnum):
    """Of the key of the order in which cGLO's training takes images."""

    LABELLED = 0
    UNLABELLED = 1


class Augment(enum.IntEnum):
    """Of an image's key of augmentation in a classifier's step; `augment.standard` splits it in 2."""

    CROP_OF_CANVAS = 2
    METHOD = 3


class Pair(enum.IntEnum):
    """Of an image's key of replacement; `sampling.draw_pairs` splits it in 3."""

    FIRST_CROP = 3
    SECOND_CROP = 4


class Batch(enum.IntEnum):
    """Of the key of a classifier's step, which is folded with image indices, too."""

    REPLACEMENT = _FAR
    UNLABELLED_IMAGES = _FAR + 1
    MIX = _FAR + 2
    DROPOUT = _FAR + 3
