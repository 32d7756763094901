"""JAX's settings while our code runs, whatever its user set for other code: precision, draws, promotion.

JAX reads its settings from the environment (JAX_ENABLE_X64, JAX_DEFAULT_PRNG_IMPL, ...), or the program
that uses this package sets them. While our code runs, and only in its thread, our settings are used
instead. XLA's flags cannot be replaced in this way: they are recorded beside the results.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# JAX's own defaults, by the names of its settings. Rank promotion is left to the user: our code needs
# none, and its tests run with numpy_rank_promotion=raise.
SETTINGS = {
    "enable_x64": False,
    "default_prng_impl": "threefry2x32",
    "threefry_partitionable": True,
    "enable_custom_prng": False,
    "debug_key_reuse": False,
    "default_matmul_precision": None,
    "softmax_custom_jvp": False,
    "numpy_dtype_promotion": "standard",
    # `training.finite` finds and reports values that are not finite.
    "debug_nans": False,
    "debug_infs": False,
    "disable_jit": False,
    "transfer_guard": "allow",
}
# Settings without a public name.
_PRIVATE = {"random_seed_offset": 0, "use_high_dynamic_range_gumbel": False}
# Flags of XLA that change no result, or are set by `setup.prepare`.
_IGNORED = ("--xla_force_host_platform_device_count", "--xla_cpu_experimental_ynn")
# Settings of the compiler that only the environment has.
_COMPILER = ("JAX_OPTIMIZATION_LEVEL", "JAX_EXEC_TIME_OPTIMIZATION_EFFORT")


@contextlib.contextmanager
def ours() -> Iterator[None]:
    """Inside, this thread uses our settings."""
    import jax
    from jax._src import config as private

    with contextlib.ExitStack() as stack:
        for module, values in ((jax, SETTINGS), (private, _PRIVATE)):
            for name, value in values.items():
                if hasattr(module, name):  # JAX drops settings in later versions
                    stack.enter_context(getattr(module, name)(value))
        yield


def with_ours(function: Callable[P, T]) -> Callable[P, T]:
    """Returns `function` so wrapped that it runs inside `ours`."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with ours():
            return function(*args, **kwargs)

    return wrapped


def describe_flags() -> str:
    """Returns the compiler's flags and settings in the environment that are not ours, "" if none."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    named = [f"{name}={os.environ[name]}" for name in _COMPILER if name in os.environ]
    return " ".join([*sorted(f for f in flags if not f.startswith(_IGNORED)), *named])
