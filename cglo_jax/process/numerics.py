"""What our code computes with, whatever its user set for other code: precision, draws, promotion.

JAX reads such settings from the shell (JAX_ENABLE_X64, JAX_DEFAULT_PRNG_IMPL, ...) or is given them
by the program that uses this package. They are that program's; while our code runs ours count, in its
thread only. XLA's flags cannot be changed so: they are recorded beside what is computed.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# JAX's own defaults, by the names of its settings. Promotion of ranks is left to the user: our code
# needs none, and its tests run where it raises.
SETTINGS = {
    "enable_x64": False,
    "default_prng_impl": "threefry2x32",
    "threefry_partitionable": True,
    "enable_custom_prng": False,
    "debug_key_reuse": False,
    "default_matmul_precision": None,
    "softmax_custom_jvp": False,
    "numpy_dtype_promotion": "standard",
    # Values that are not finite are found and told by ours, see `finite`.
    "debug_nans": False,
    "debug_infs": False,
    "disable_jit": False,
    "transfer_guard": "allow",
}
# Those that JAX has no public name for.
_PRIVATE = {"random_seed_offset": 0, "use_high_dynamic_range_gumbel": False}
# Flags of XLA that change nothing that is computed, or are set by `process.prepare`.
_IGNORED = ("--xla_force_host_platform_device_count", "--xla_cpu_experimental_ynn")
# Settings of the compiler that reach programs by the environment alone.
_COMPILER = ("JAX_OPTIMIZATION_LEVEL", "JAX_EXEC_TIME_OPTIMIZATION_EFFORT")


@contextlib.contextmanager
def ours() -> Iterator[None]:
    """Lets our settings count in this thread, whatever others count outside."""
    import jax
    from jax._src import config as private

    with contextlib.ExitStack() as stack:
        for module, values in ((jax, SETTINGS), (private, _PRIVATE)):
            for name, value in values.items():
                if hasattr(module, name):  # JAX gives names up
                    stack.enter_context(getattr(module, name)(value))
        yield


def with_ours(function: Callable[P, T]) -> Callable[P, T]:
    """Returns `function` that runs in `ours`."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with ours():
            return function(*args, **kwargs)

    return wrapped


def describe_flags() -> str:
    """Returns what the environment tells the compiler besides ours, "" if nothing."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    named = [f"{name}={os.environ[name]}" for name in _COMPILER if name in os.environ]
    return " ".join([*sorted(f for f in flags if not f.startswith(_IGNORED)), *named])
