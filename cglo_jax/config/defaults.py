"""The defaults of all fields as a `ConfigDict`, which configuration files change."""

from typing import Any

from ml_collections import ConfigDict

from cglo_jax.config.fields import ROWS, Field


def get_config() -> ConfigDict:
    """Returns the defaults: the paper's CIFAR-100 protocol on whatever data set is named."""
    config = ConfigDict()
    for row in ROWS:
        if isinstance(row, Field):
            (config[row.section] if row.section else config)[row.leaf] = row.default
        elif row.name:
            config[row.name] = ConfigDict()
    return config.lock()


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Returns {'latent.dim': 128, ...}: every field by its dotted name, tuples as lists."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f"{name}.{key}": leaf for key, leaf in flatten(value).items()})
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat
