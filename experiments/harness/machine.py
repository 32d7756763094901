"""The machine that a benchmark ran on."""

import datetime
import os
import platform
from typing import Any

import jax

from cglo_jax.workdir.results import environment
from experiments import work


def on_gpu() -> bool:
    """Whether JAX computes on a GPU."""
    return jax.default_backend() == "gpu"


def compute_dtype() -> str:
    """Returns the type that networks compute in: bfloat16 on a GPU."""
    return "bfloat16" if on_gpu() else "float32"


def describe() -> dict[str, Any]:
    """Returns what a line of results says of machine, versions and settings."""
    return {
        "dtype": compute_dtype(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "platform": platform.platform(),
        "cores": work.count_cores(),
        "settings": {
            name: os.environ.get(name)
            for name in ("XLA_FLAGS", "GLIBC_TUNABLES", "NPROC")
        },
        "environment": environment(jax.local_devices()[:1]),
    }
