"""`apply_profile` for configuration files, see `config.profiles`."""

from cglo_jax.config.profiles import PROFILES, apply_profile

__all__ = ["PROFILES", "apply_profile"]
