"""The configuration of a run: its fields with default, range, meaning and source; never imports JAX.

`from cglo_jax import config` is what configuration files begin with: `config.get_config()`.
"""

from cglo_jax.config.defaults import flatten, get_config

__all__ = ["flatten", "get_config"]
