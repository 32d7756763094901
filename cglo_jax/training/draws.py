"""What random keys are folded with: a name for every purpose, so that no two draws share a key.

One enumeration for each kind of key. A value is never changed: results would be.
"""

import enum

_FAR = 1 << 31  # larger than any image index, as these are folded into the same key


class Run(enum.IntEnum):
    """Data folded into `jax.random.key(seed)`; starts at 3, as `stages.train` splits that key in 3.

    `stages.classify` splits the same key in 4: the draws of a classifier are not independent of the
    draws of the cGLO of the same seed, but no two of them have the same purpose.
    """

    CODES_OF_ADDED_IMAGES = 3


class Init(enum.IntEnum):
    """Data folded into the key of cGLO's initial state."""

    CODES = 0
    GENERATOR = 1
    WEAK_CLASSIFIER = 2
    CODES_FROM_IMAGES = 3


class Order(enum.IntEnum):
    """Data folded into the key of the order in which cGLO's training takes images."""

    LABELLED = 0
    UNLABELLED = 1


class Example(enum.IntEnum):
    """Data folded into an image's key of a step of cGLO; the key itself draws the noise eps."""

    DROPOUT = 0


class Augment(enum.IntEnum):
    """Data folded into an image's augmentation key; starts at 2, as `augment.standard` splits it in 2."""

    CROP_OF_CANVAS = 2
    METHOD = 3


class Erasing(enum.IntEnum):
    """Data folded into the key of Random Erasing; starts at 4, as it splits that key in 4."""

    WHETHER = 4


class Pair(enum.IntEnum):
    """Data folded into an image's replacement key; starts at 3, as `sampling.draw_pairs` splits it in 3."""

    FIRST_CROP = 3
    SECOND_CROP = 4


class Batch(enum.IntEnum):
    """Data folded into the key of a classifier's step, into which image indices are folded, too."""

    REPLACEMENT = _FAR
    UNLABELLED_IMAGES = _FAR + 1
    MIX = _FAR + 2
    DROPOUT = _FAR + 3
