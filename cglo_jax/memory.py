"""What training needs of a device's memory, projected before anything is compiled."""

import collections
import math
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from ml_collections import ConfigDict

from cglo_jax.errors import UserError

GB = 1e9
# What XLA reads where its operand lies, mostly.
_VIEWS = {"broadcast_in_dim", "expand_dims", "pad", "reshape", "slice", "squeeze"}
_MEMINFO = pathlib.Path("/proc/meminfo")
_CGROUP = pathlib.Path("/sys/fs/cgroup")  # version 2, as containers see their own


def tree_bytes(tree: Any) -> int:
    """Returns the bytes of a tree's arrays, or of arrays of these shapes and types."""
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))


def project(
    step_fn: Callable, state: Any, shared: NamedTuple, batch: Any
) -> dict[str, int]:
    """Projects the bytes that a step needs on each device, by what they are for.

    "a step" are its temporary arrays: those of its operations one after the other, each kept until
    its last use, new state in the place of the old. XLA fuses and reorders operations and adds
    buffers of its own; experiments/README.md has both figures side by side.

    Args:
      step_fn: a `parallel.MappedStep`.
      state, shared, batch: its arguments, or shapes and types of them.

    Returns:
      {"state": bytes, a field of `shared`: bytes, ..., "a step": bytes}.
    """
    jaxpr = jax.make_jaxpr(step_fn)(state, shared, batch).jaxpr
    in_place = set(jaxpr.outvars[: len(jax.tree.leaves(state))])
    parts = {"state": tree_bytes(state), **_by_field(shared)}
    return parts | {"a step": _peak(jaxpr, in_place)}


def _by_field(shared: NamedTuple) -> dict[str, int]:
    """Returns the bytes of each field; those of a field with fields of its own by them."""
    parts: dict[str, int] = {}
    for name, tree in shared._asdict().items():
        parts |= (
            _by_field(tree) if hasattr(tree, "_asdict") else {name: tree_bytes(tree)}
        )
    return parts


def _peak(jaxpr: Any, in_place: Collection[Any]) -> int:
    """Returns the most bytes that results of a program's operations have at once.

    Args:
      in_place: results that take no memory of their own.
    """
    source = {}  # of what XLA does not store: the variable that it is a view of
    last = {}  # operation that needs a variable last; of a view its source
    for i, equation in enumerate(jaxpr.eqns):
        used = [source.get(v, v) for v in equation.invars if not isinstance(v, Literal)]
        last |= dict.fromkeys(used, i)
        if equation.primitive.name in _VIEWS:
            source |= dict.fromkeys(equation.outvars, used[0] if used else None)
    results = {source.get(v, v) for v in jaxpr.outvars if not isinstance(v, Literal)}
    last |= dict.fromkeys(results, len(jaxpr.eqns))
    ends = collections.defaultdict(list)
    for v, i in last.items():
        ends[i].append(v)

    sizes: dict[Any, int] = {}
    live = most = 0
    for i, equation in enumerate(jaxpr.eqns):
        new = {
            v: _bytes(v)
            for v in equation.outvars
            if v not in source and v not in in_place
        }
        inside = _peak_inside(equation, in_place)
        most = max(most, live + max(sum(new.values()), inside))
        sizes |= {v: size for v, size in new.items() if v in last}
        live += sum(size for v, size in new.items() if v in last)
        live -= sum(sizes.get(v, 0) for v in ends[i])
    return most


def _peak_inside(equation: Any, in_place: Collection[Any]) -> int:
    """Returns the `_peak` of the largest program that an operation runs, 0 if it runs none."""
    return max(
        (
            _peak(
                inner,
                {
                    of_inner
                    for of_inner, v in zip(
                        inner.outvars, equation.outvars, strict=False
                    )
                    if v in in_place and not isinstance(of_inner, Literal)
                },
            )
            for inner in _programs(equation)
        ),
        default=0,
    )


def _programs(equation: Any) -> Iterator[Any]:
    """Yields the programs in an operation's parameters."""
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield inner


def _bytes(variable: Any) -> int:
    aval = variable.aval
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return math.prod(getattr(aval, "shape", ())) * itemsize


def free_bytes(device: jax.Device) -> int | None:
    """Returns the bytes that can still be had on a device; None if it does not say."""
    if device.platform == "cpu":
        return _free_on_host()
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats["bytes_in_use"]


def _free_on_host() -> int | None:
    """Returns the least that Linux and the container leave; None elsewhere."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":") for line in lines)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit = int((_CGROUP / "memory.max").read_text())  # "max" without one
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(
            line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines()
        )
    except (OSError, ValueError):
        return free
    return min(free, limit - used + int(stat.get("inactive_file", 0)))


def check(
    config: ConfigDict,
    step_fn: Callable,
    state: Any,
    shared: NamedTuple,
    batch: tuple[int, ...],
    devices: Sequence[jax.Device],
    advice: str,
) -> None:
    """Checks that a run fits into what is free on the devices; CPU devices share the host's memory.

    Args:
      step_fn, state, shared: see `project`.
      batch: shape of the indices of a step's images [B, ...].
      advice: what can be done, for the message.

    Raises:
      UserError: it does not; the message has the arithmetic. Never with `check_memory` False.
    """
    free = free_bytes(devices[0]) if config.check_memory else None
    if free is None:
        return
    n = len(devices)
    indices = jax.ShapeDtypeStruct((n, batch[0] // n, *batch[1:]), jnp.int32)
    parts = project(step_fn, state, shared, indices)
    copies = n if devices[0].platform == "cpu" else 1
    needed = copies * sum(parts.values())
    if needed <= free:
        return
    large = {name: size for name, size in parts.items() if copies * size > needed / 200}
    terms = ", ".join(f"{name} {size / GB:.2f}" for name, size in large.items())
    times = f"{copies} devices x ({terms})" if copies > 1 else terms
    raise UserError(
        f"training needs about {needed / GB:.2f} GB of memory ({times}), {free / GB:.2f} GB are "
        f"free: {advice}, or try it with --config.check_memory=False"
    )
