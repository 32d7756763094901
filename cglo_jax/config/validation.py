"""Checks a configuration before anything is read or compiled."""

import math
from typing import Any

from ml_collections import ConfigDict

from cglo_jax.config.checks import POSITIVE, SEEDS, SIDES
from cglo_jax.config.defaults import flatten
from cglo_jax.config.fields import FIELDS, Field
from cglo_jax.errors import UserError, shorten


def validate(config: ConfigDict) -> None:
    """Checks every field's type and range, and fields that depend on each other.

    Raises:
      UserError: names a field, its value and what it must be.
    """
    flat = flatten(config)
    for field in FIELDS.values():
        _validate_type(field, flat[field.name])
    for field in FIELDS.values():
        if field.check:
            value = flat[field.name]
            _check(field.check.holds(value), field.name, value, field.check.want)
    _validate_noise(flat)
    _validate_sides(flat)
    _validate_layers(flat)
    _validate_weights(flat)
    _validate_split(flat)


def _check(ok: bool, config_name: str, value: Any, want: str) -> None:
    if not ok:
        text = shorten(repr(value))
        raise UserError(f"config.{config_name} is {text}: it must be {want}")


def _validate_type(field: Field, value: Any) -> None:
    """Checks what holds for all values of a type."""
    name, kind = field.name, type(field.default)
    kind = list if kind is tuple else kind
    # A bool is an int, too.
    of_kind = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
    _check(of_kind, name, value, field.kind)
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, float):
            _check(math.isfinite(one), name, value, "finite")
        elif isinstance(one, int):
            _check(one < SEEDS, name, value, "below 2**32")
        elif isinstance(one, str):  # as in a path
            _check("\0" not in one, name, value, "without a null character")


def _validate_noise(flat: dict[str, Any]) -> None:
    if flat["latent.noise"] == "concat":
        name = "latent.noise_dim"
        _check(POSITIVE.holds(flat[name]), name, flat[name], POSITIVE.want)


def _validate_sides(flat: dict[str, Any]) -> None:
    """Checks that the generator can make images of the side that networks see."""
    size, crop = flat["dataset.size"], flat["dataset.crop"]
    _check(crop <= size, "dataset.crop", crop, f"at most dataset.size, which is {size}")
    side, name = (crop, "dataset.crop") if crop else (size, "dataset.size")
    near = sorted(sorted(SIDES, key=lambda s: abs(s - side))[:2])
    want = f"4 or 7, doubled at least once, such as {near[0]} or {near[1]}"
    _check(not side or side in SIDES, name, side, want)


def _validate_split(flat: dict[str, Any]) -> None:
    """Checks that seeds can have training images of their own, and be tested on the same images."""
    if not flat["dataset.split_per_seed"]:
        return
    if not flat["dataset.shots"]:
        raise UserError(
            "config.dataset.split_per_seed is True, but dataset.shots is 0, so that every seed has "
            "all images: give --config.dataset.shots a number, or leave split_per_seed out"
        )
    if flat["dataset.holdout"]:
        raise UserError(
            "config.dataset.split_per_seed is True, but dataset.holdout tests on training images, "
            "which would be others for each seed: use one of the two"
        )


def _validate_layers(flat: dict[str, Any]) -> None:
    """Checks that each layer of the perceptual loss has a weight."""
    layers, name = flat["reconstruction.layers"], "reconstruction.layer_weights"
    want = f"{len(layers)} numbers >= 0, one for each of reconstruction.layers"
    _check(len(layers) == len(flat[name]), name, flat[name], want)


def _validate_weights(flat: dict[str, Any]) -> None:
    """Checks weights that were trained on other images, and that none are used if none may be."""
    weights, body = flat["reconstruction.weights"], flat["classify.weights"]
    if body != "random" and flat["classify.network"] != "resnet50":
        raise UserError(
            f"config.classify.weights is {body!r}, but there are none for classify.network="
            "wide_resnet: use random, or --config.classify.network=resnet50"
        )
    if flat["external_weights"]:
        return
    if flat["reconstruction.loss"] == "perceptual" and weights != "random":
        raise UserError(
            f"config.external_weights is False, but reconstruction.weights is {weights!r}: use "
            "--config.reconstruction.loss=laplacian, or the variant ',scratch' of a config"
        )
    start = flat["latent.init_weights"]
    if flat["latent.init"] == "resnet" and start != "random":
        raise UserError(
            f"config.external_weights is False, but latent.init_weights is {start!r}: use "
            "--config.latent.init_weights=random"
        )
    if body != "random":
        raise UserError(
            f"config.external_weights is False, but classify.weights is {body!r}: use "
            "--config.classify.weights=random, or the variant ',scratch' of a config"
        )
