"""The machine that something ran on, and the day."""

import datetime
import os
import platform
from typing import Any

import jax

from cglo_jax.workdir.results import environment


def today() -> str:
    """Returns the date in UTC, such as "2026-11-30"."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def count_cores() -> int:
    """Returns the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        "date": today(),
        "platform": platform.platform(),
        "cores": count_cores(),
        "settings": {
            name: os.environ.get(name)
            for name in ("XLA_FLAGS", "GLIBC_TUNABLES", "NPROC")
        },
        "environment": environment(jax.local_devices()[:1]),
    }
