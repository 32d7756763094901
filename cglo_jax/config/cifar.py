"""The protocol of CIFAR-10 and CIFAR-100, which `configs/cifar10.py` and `configs/cifar100.py` have."""

from ml_collections import ConfigDict

from cglo_jax.config.defaults import get_config
from cglo_jax.config.profiles import apply_profile
from cglo_jax.errors import UserError

_VARIANTS = ("", "authors", "scratch", "cpu")


def create(name: str, argument: str) -> ConfigDict:
    """Returns the paper's protocol for 50,000 images of 32 pixels, of which a few per class are used.

    Args:
      name: "cifar10" or "cifar100".
      argument: "SHOTS" images per class as in the paper; "SHOTS,authors" with the settings of the
        authors' code; "SHOTS,scratch" without external weights; "SHOTS,cpu" small, also without.

    Raises:
      UserError: `argument` is none of these.
    """
    shots, _, variant = argument.partition(",")
    if not shots.isdecimal() or int(shots) < 1 or variant not in _VARIANTS:
        raise UserError(
            f"{argument!r} is not 'SHOTS', 'SHOTS,authors', 'SHOTS,scratch' or 'SHOTS,cpu', "
            "such as 10,cpu"
        )
    config = get_config()
    config.dataset.name = name
    config.dataset.shots = int(shots)
    if variant == "authors":
        return apply_profile(config, variant)
    if variant:
        config.external_weights = False
        config.reconstruction.loss = "laplacian"
    return _for_two_cores(config) if variant == "cpu" else config


def _for_two_cores(config: ConfigDict) -> ConfigDict:
    config.generator.width = 32
    config.train.epochs = 16
    config.train.steps_per_epoch = 50
    config.train.batch_size = 100
    config.train.code_lr = 1e-2  # a code moves 80 times only
    config.train.lr_drop_epochs = (8, 12)
    config.classify.depth = 10
    config.classify.width = 2
    config.classify.dropout = 0.0
    config.classify.epochs = 5
    config.classify.steps_per_epoch = 50
    config.classify.batch_size = 100
    config.classify.lr_drop_epochs = (3, 4)
    config.mixmatch.ema = 0.99  # the average of few steps must forget the first ones
    config.mixmatch.ramp = 1.0  # not before the classifier knows anything
    return config
