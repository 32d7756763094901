"""What training needs of a device's memory, projected before anything is compiled."""

import collections
import contextlib
import math
import pathlib
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal
from ml_collections import ConfigDict

from cglo_jax.errors import UserError
from cglo_jax.training import parallel

GB = 1e9
# What XLA reads where its operand lies, mostly.
_VIEWS = {"broadcast_in_dim", "expand_dims", "pad", "reshape", "slice", "squeeze"}
_MEMINFO = pathlib.Path("/proc/meminfo")
_OWN_CGROUPS = pathlib.Path("/proc/self/cgroup")
_CGROUP = pathlib.Path("/sys/fs/cgroup")
# What Linux gives back when memory is short, by version 2 or 1.
_RECLAIMABLE = ("active_file", "inactive_file", "slab_reclaimable")


def tree_bytes(tree: Any) -> int:
    """Returns the bytes of a tree's arrays, or of arrays of these shapes and types."""
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))


def project(
    step_fn: Callable, state: Any, shared: NamedTuple, batch: Any
) -> dict[str, int]:
    """Projects the bytes that a step needs on each device, by what they are for.

    "a step" are its temporary arrays: those of its operations one after the other, each kept until
    its last use, new state in the place of the old. XLA fuses and reorders operations and adds
    buffers of its own; docs/measurements.md has both figures side by side.

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
    parts: dict[str, int] = {}  # names are distinct in what trainers share
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
    kept = {source.get(v, v) for v in jaxpr.outvars if not isinstance(v, Literal)}
    last |= dict.fromkeys(kept, len(jaxpr.eqns))
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
        inside, results = _peak_inside(equation, in_place), sum(new.values())
        # A loop's results grow beside what its body needs; a call's are among that.
        loops = equation.primitive.name in ("scan", "while")
        most = max(most, live + (inside + results if loops else max(inside, results)))
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
        return free_on_host()
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats["bytes_in_use"]


def free_on_host() -> int | None:
    """Returns the least that Linux and the process's control groups leave; None elsewhere."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":") for line in lines)
    free = [int(fields["MemAvailable"].split()[0]) * 1024]
    for folder, names in _control_groups():
        with contextlib.suppress(OSError, ValueError):  # no limit is "max"
            limit, used = (int((folder / name).read_text()) for name in names)
            rows = (folder / "memory.stat").read_text().splitlines()
            stat = dict(row.split() for row in rows)
            reclaimable = sum(int(stat.get(name, 0)) for name in _RECLAIMABLE)
            free.append(limit - used + reclaimable)
    return max(0, min(free))


def _control_groups() -> Iterator[tuple[pathlib.Path, tuple[str, str]]]:
    """Yields folders of control groups of this process with their files of limit and use."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            root, names = _CGROUP, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root = _CGROUP / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        own = pathlib.PurePosixPath(path.lstrip("/"))
        # In a container the path may be the host's, which is not there.
        for group in (own, *own.parents):
            yield root / group, names


def check(
    config: ConfigDict,
    stage: str,
    shared: NamedTuple,
    step_fn: Callable,
    state: Any,
    batch: jax.Array,
) -> None:
    """Checks that what a run needs besides its state fits into what is free on its devices.

    CPU devices share the host's memory, with those of other processes of the run.

    Args:
      stage: section of the config that has the batch size, for the message.
      shared, step_fn, batch: see `project`. state: is on the devices.

    Raises:
      UserError: it does not; the message has the arithmetic. Never with `check_memory` False.
    """
    devices = batch.sharding.device_set
    device = next(iter(devices))
    free = free_bytes(device) if config.check_memory else None
    if free is None:
        return
    parts = project(step_fn, state, shared, batch)
    del parts["state"]
    on_host = device.platform == "cpu"
    copies = len(devices) * parallel.processes_here() if on_host else 1
    # On the host they are there twice while they are copied, before the first step.
    copied = max(0, parts.get("features", 0) - copies * parts["a step"]) * on_host
    needed = copies * sum(parts.values()) + copied
    if needed <= free:
        return
    largest = max(parts, key=parts.get)
    advice = {
        "a step": f"lower config.{stage}.batch_size or the networks' widths",
        "features": "lower config.reconstruction.cache_gb",
    }.get(largest, "use fewer or smaller images")
    small = {name for name, size in parts.items() if copies * size < needed / 100}
    terms = [f"{k} {v / GB:.2f}" for k, v in parts.items() if k not in small]
    if small:
        terms.append(f"other {sum(parts[name] for name in small) / GB:.2f}")
    text = " + ".join(terms)
    if copies > 1:
        text = f"{copies} devices x ({text})"
    if copied > needed / 100:
        text += f" + a copy of the features {copied / GB:.2f}"
    raise UserError(
        f"training needs about {needed / GB:.2f} GB of memory ({text}), {free / GB:.2f} GB are "
        f"free: {advice}, or try it with --config.check_memory=False"
    )
