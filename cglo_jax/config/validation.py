"""Ranges of the config's fields, checked before anything is read or compiled."""

import math
from typing import Any

from ml_collections import ConfigDict

from cglo_jax.config.defaults import EXPORTS, SIDES, flatten, get_config
from cglo_jax.data.colours import NAMED, parse
from cglo_jax.errors import UserError, shorten


def _check(ok: bool, config_name: str, value: Any, want: str) -> None:
    if not ok:
        text = shorten(repr(value))
        raise UserError(f"config.{config_name} is {text}: it must be {want}")


_POSITIVE = (
    "latent.dim",
    "generator.width",
    "generator.max_width",
    "weak_classifier.width",
    "train.epochs",
    "train.steps_per_epoch",
    "train.batch_size",
    "train.generator_lr",
    "train.code_lr",
    "train.weak_lr",
    "train.lr_drop",
    "train.checkpoint_every_epochs",
    "train.log_every_steps",
    "sample.per_class",
    "classify.epochs",
    "classify.steps_per_epoch",
    "classify.batch_size",
    "classify.width",
    "classify.lr",
    "classify.lr_drop",
    "classify.checkpoint_every_epochs",
    "classify.log_every_steps",
    "classify.cutout_size",
    "classify.mixup_alpha",
    "mixmatch.augmentations",
    "mixmatch.temperature",
    "mixmatch.alpha",
)
_NOT_NEGATIVE = (
    "devices",
    "steps_per_call",
    "rollbacks",
    "dataset.size",
    "dataset.crop",
    "dataset.shots",
    "dataset.split_seed",
    "dataset.classes",
    "dataset.unlabelled",
    "dataset.holdout",
    "latent.noise_std",
    "latent.init_noise",
    "weak_classifier.gamma",
    "reconstruction.pixel_weight",
    "reconstruction.cache_gb",
    "train.weak_weight_decay",
    "sample.seed",
    "classify.weight_decay",
    "classify.pad",
    "mixmatch.lambda_u",
)
_BELOW_ONE = (
    "train.adam_b1",
    "train.adam_b2",
    "train.weak_momentum",
    "classify.momentum",
    "classify.dropout",
    "dataset.test_fraction",
    "mixmatch.ema",
)
_PROBABILITIES = (
    "classify.replace_probability",
    "classify.augment_probability",
    "mixmatch.ramp",
)
_SEEDS = 1 << 32  # `jax.random.key` takes larger ones modulo this: equal runs
# A bool is an int, too: the first that fits counts.
TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
}
_CHOICES = {
    "dtype": ("float32", "bfloat16"),
    "latent.noise": ("concat", "additive", "none"),
    "latent.init": ("sphere", "hypercube", "resnet"),
    "weak_classifier.input": ("image", "latent"),
    "weak_classifier.loss": ("cross_entropy", "cosine", "double_softmax"),
    "reconstruction.loss": ("perceptual", "laplacian"),
    "sample.interpolation": ("slerp", "lerp"),
    "sample.batch_statistics": ("running", "batch"),
    "sample.projection": ("tsne", "pca"),
    "classify.draw_per": ("example", "batch"),
    "classify.network": ("wide_resnet", "resnet50"),
}


def validate(config: ConfigDict) -> None:
    """Checks every field's range, before anything is read or compiled.

    Raises:
      UserError: names the first field that cannot be, its value and what it may be.
    """
    flat = flatten(config)
    for name, default in flatten(get_config()).items():
        _validate_type(name, flat[name], default)
    for name in _POSITIVE:
        _check(flat[name] > 0, name, flat[name], "greater than 0")
    for name in _NOT_NEGATIVE:
        _check(flat[name] >= 0, name, flat[name], "0 or more")
    for name in _BELOW_ONE:
        _check(0 <= flat[name] < 1, name, flat[name], "at least 0 and below 1")
    for name, choices in _CHOICES.items():
        _check(flat[name] in choices, name, flat[name], "one of " + ", ".join(choices))
    _validate_ranges(flat)
    _validate_lists(flat)
    _validate_project(flat["log.wandb"])
    _validate_weights(flat)


def _validate_type(name: str, value: Any, default: Any) -> None:
    """Checks what holds for all values of a type."""
    kind, want = next(item for item in TYPES.items() if isinstance(default, item[0]))
    of_kind = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
    _check(of_kind, name, value, want)
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, float):
            _check(math.isfinite(one), name, value, "finite")
        elif isinstance(one, int):
            _check(one < _SEEDS, name, value, "below 2**32")
        elif isinstance(one, str):  # as in a path
            _check("\0" not in one, name, value, "without a null character")


def _validate_ranges(flat: dict[str, Any]) -> None:
    """Checks numbers with a range of their own."""
    seed = flat["sample.seed"]
    _check(seed < _SEEDS, "sample.seed", seed, "below 2**32")
    if flat["latent.noise"] == "concat":
        _check(
            flat["latent.noise_dim"] > 0,
            "latent.noise_dim",
            flat["latent.noise_dim"],
            "greater than 0",
        )
    _check(flat["latent.dim"] > 1, "latent.dim", flat["latent.dim"], "at least 2")
    size, crop = flat["dataset.size"], flat["dataset.crop"]
    _check(crop <= size, "dataset.crop", crop, f"at most dataset.size, which is {size}")
    side, field = (crop, "crop") if crop else (size, "size")
    near = sorted(sorted(SIDES, key=lambda s: abs(s - side))[:2])
    _check(
        not side or side in SIDES,
        f"dataset.{field}",
        side,
        f"4 or 7, doubled at least once, such as {near[0]} or {near[1]}",
    )
    bits, background = flat["dataset.bits"], flat["dataset.background"]
    _check(bits == 0 or 8 <= bits <= 16, "dataset.bits", bits, "0 or from 8 to 16")
    try:
        known = background in ("auto", *NAMED) or bool(parse(background))
    except ValueError:
        known = False
    want = f"auto, {', '.join(NAMED)} or a colour such as #80c0ff"
    _check(known, "dataset.background", background, want)
    depth = flat["classify.depth"]
    _check(
        depth >= 10 and (depth - 4) % 6 == 0,
        "classify.depth",
        depth,
        "10, 16, 22, 28, ... (6 n + 4)",
    )
    for name in _PROBABILITIES:
        _check(0 <= flat[name] <= 1, name, flat[name], "between 0 and 1")
    fill = flat["classify.pad_value"]
    _check(-1 <= fill <= 1, "classify.pad_value", fill, "between -1 and 1")
    for name in ("report.confidence", "rollback_factor"):
        _check(0 < flat[name] < 1, name, flat[name], "between 0 and 1")


def _validate_lists(flat: dict[str, Any]) -> None:
    """Checks the fields that hold several values."""
    seeds = flat["seeds"]
    _check(
        len(seeds) > 0
        and all(type(s) is int and 0 <= s < _SEEDS for s in seeds)
        and len(set(seeds)) == len(seeds),
        "seeds",
        seeds,
        "a list of different whole numbers from 0 to 2**32 - 1, such as 0,1,2",
    )
    methods = flat["classify.methods"]
    _check(
        len(methods) > 0
        and all(isinstance(m, str) for m in methods)
        and len(set(methods)) == len(methods),
        "classify.methods",
        methods,
        "a list of different names, such as baseline,cglo",
    )
    exports = flat["sample.export"]
    _check(
        all(e in EXPORTS for e in exports) and len(set(exports)) == len(exports),
        "sample.export",
        exports,
        f"a list of some of {', '.join(EXPORTS)}, such as npz",
    )
    for name in ("train.lr_drop_epochs", "classify.lr_drop_epochs"):
        _check(
            all(type(e) is int and e > 0 for e in flat[name])
            and len(set(flat[name])) == len(flat[name]),
            name,
            flat[name],
            "different epochs greater than 0",
        )
    t = flat["sample.t_values"]
    _check(
        len(t) > 0 and all(isinstance(v, int | float) and 0 <= v <= 1 for v in t),
        "sample.t_values",
        t,
        "numbers between 0 and 1",
    )
    weights = flat["reconstruction.layer_weights"]
    _check(
        len(weights) == 5
        and all(isinstance(w, int | float) and w >= 0 for w in weights),
        "reconstruction.layer_weights",
        weights,
        "five numbers >= 0",
    )


def _validate_project(name: str) -> None:
    """Checks what W&B takes as the name of a project."""
    ok = len(name) <= 128 and not set(name) & set("/\\#?%:") and name.isprintable()
    _check(ok, "log.wandb", name, "at most 128 characters without / \\ # ? % :")


def _validate_weights(flat: dict[str, Any]) -> None:
    """Checks which weights of other images are used, and that none are if none may be."""
    for name in ("reconstruction.weights", "classify.weights", "latent.init_weights"):
        _check(bool(flat[name]), name, flat[name], "imagenet, random or a file")
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
