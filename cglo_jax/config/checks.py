"""Checks of one field's value, with the words for people; the rows of `fields` name them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cglo_jax.config.values import NAMED_COLOURS, parse_colour

SEEDS = 1 << 32  # `jax.random.key` takes larger ones modulo this: equal runs
EXPORTS = ("npz", "tfds")
# Sides in pixels that the generator can make: 4 or 7, doubled at least once.
SIDES = tuple(sorted(start << k for start in (4, 7) for k in range(1, 12)))

# What the perceptual loss can compare, the taps of `models.vgg.VGG16`.
_CONVOLUTIONS = [f"conv{b}_{i}" for b in range(1, 6) for i in range(1, 3 + (b > 2))]
VGG16_LAYERS = (
    *_CONVOLUTIONS,
    *(f"{name}_pre" for name in _CONVOLUTIONS),
    *(f"pool{b}" for b in range(1, 6)),
)


class Check(NamedTuple):
    """A range or a choice.

    Attributes:
      want: completes "it must be ...".
      holds: takes a value of the field's type, a list for a tuple, and returns whether it may be.
    """

    want: str
    holds: Callable[[Any], bool]


def at_least(least: int) -> Check:
    """Returns the check of a lower bound, which is allowed itself."""
    return Check(f"at least {least}", lambda value: value >= least)


def between(low: float, high: float) -> Check:
    """Returns the check of a closed interval."""
    return Check(f"between {low} and {high}", lambda value: low <= value <= high)


def one_of(*choices: str) -> Check:
    """Returns the check of a choice between texts."""
    return Check("one of " + ", ".join(choices), lambda value: value in choices)


def _differ(values: Sequence[Any]) -> bool:
    return len(set(values)) == len(values)


def _are_numbers(values: Sequence[Any], low: float, high: float) -> bool:
    return all(isinstance(v, int | float) and low <= v <= high for v in values)


def _are_seeds(values: Sequence[Any]) -> bool:
    return all(type(v) is int and 0 <= v < SEEDS for v in values) and _differ(values)


def _are_epochs(values: Sequence[Any]) -> bool:
    return all(type(v) is int and v > 0 for v in values) and _differ(values)


def _are_names(values: Sequence[Any]) -> bool:
    return all(isinstance(v, str) for v in values) and _differ(values)


def _is_background(text: str) -> bool:
    try:
        return text in ("auto", *NAMED_COLOURS) or bool(parse_colour(text))
    except ValueError:
        return False


def _is_project(name: str) -> bool:
    return len(name) <= 128 and not set(name) & set("/\\#?%:") and name.isprintable()


POSITIVE = Check("greater than 0", lambda value: value > 0)
NOT_NEGATIVE = Check("0 or more", lambda value: value >= 0)
BELOW_1 = Check("at least 0 and below 1", lambda value: 0 <= value < 1)
INSIDE_0_1 = Check("between 0 and 1", lambda value: 0 < value < 1)
BITS = Check("0 or from 8 to 16", lambda value: value == 0 or 8 <= value <= 16)
DEPTH = Check(
    "10, 16, 22, 28, ... (6 n + 4)", lambda value: value >= 10 and value % 6 == 4
)
BACKGROUND = Check(
    f"auto, {', '.join(NAMED_COLOURS)} or a colour such as #80c0ff", _is_background
)
WEIGHTS = Check("imagenet, random or a file", bool)
WANDB_PROJECT = Check("at most 128 characters without / \\ # ? % :", _is_project)
SEED_LIST = Check(
    "a list of different whole numbers from 0 to 2**32 - 1, such as 0,1,2",
    lambda seeds: len(seeds) > 0 and _are_seeds(seeds),
)
METHOD_LIST = Check(
    "a list of different names, such as baseline,cglo",
    lambda methods: len(methods) > 0 and _are_names(methods),
)
EXPORT_LIST = Check(
    f"a list of some of {', '.join(EXPORTS)}, such as npz",
    lambda exports: _are_names(exports) and set(exports) <= set(EXPORTS),
)
EPOCH_LIST = Check("different epochs greater than 0", _are_epochs)
SHARE_LIST = Check(
    "numbers between 0 and 1",
    lambda shares: len(shares) > 0 and _are_numbers(shares, 0, 1),
)
COLOUR = Check(
    "one or three numbers from -1 to 1, such as 0.0",
    lambda values: len(values) in (1, 3) and _are_numbers(values, -1, 1),
)
LAYER_WEIGHTS = Check(
    "numbers >= 0, one for each of reconstruction.layers",
    lambda weights: _are_numbers(weights, 0, float("inf")),
)
LAYER_LIST = Check(
    "a list of different layers of VGG-16, conv1_1 to conv5_3 (conv1_1_pre: before its ReLU) "
    "and pool1 to pool5, such as conv1_2,pool5",
    lambda names: (
        len(names) > 0 and _are_names(names) and set(names) <= set(VGG16_LAYERS)
    ),
)
