"""CIFAR-100 with a few images per class, as in the paper; ':10' = 10 images per class."""

from ml_collections import ConfigDict

from cglo_jax import config as defaults
from cglo_jax.errors import UserError


def get_config(argument: str = "10") -> ConfigDict:
    """Returns the paper's protocol for 'SHOTS', or a small one for 'SHOTS,cpu'."""
    shots, _, scale = argument.partition(",")
    if not shots.isdecimal() or int(shots) < 1 or scale not in ("", "cpu"):
        raise UserError(
            f"{argument!r} is not 'SHOTS' or 'SHOTS,cpu', such as 10 or 10,cpu"
        )
    config = defaults.get_config()
    config.dataset.name = "cifar100"
    config.dataset.shots = int(shots)
    return _for_two_cores(config) if scale == "cpu" else config


def _for_two_cores(config: ConfigDict) -> ConfigDict:
    config.reconstruction.loss = "laplacian"  # needs no weights
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
    return config
