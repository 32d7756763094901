"""What training needs of a device's memory, known before anything of it is allocated."""

import contextlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from cglo_jax.errors import UserError
from cglo_jax.training import parallel

GB = 1e9
_MEMINFO = pathlib.Path("/proc/meminfo")
_OWN_CGROUPS = pathlib.Path("/proc/self/cgroup")
_CGROUP = pathlib.Path("/sys/fs/cgroup")
# What Linux gives back when memory is short, by version 2 or 1.
_RECLAIMABLE = ("active_file", "inactive_file", "slab_reclaimable")


def tree_bytes(tree: Any) -> int:
    """Returns the bytes of a tree's arrays, or of arrays of these shapes and types."""
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))


def project(
    step_fn: parallel.MappedStep,
    state: Any,
    shared: NamedTuple,
    batch: jax.Array,
    *,
    several: bool = False,
) -> dict[str, int]:
    """Returns the bytes that a step needs on each device, by what they are for.

    Args:
      step_fn, state, shared, batch, several: see `parallel.MappedStep.plan_memory`.

    Returns:
      {"state": bytes, a field of `shared`: bytes, ..., "a step": bytes that it allocates, 0 if
      `plan_memory` has no figure}.
    """
    parts = {"state": tree_bytes(state), **_by_field(shared)}
    own = step_fn.plan_memory(state, shared, batch, several=several)
    return parts | {"a step": own or 0}


def _by_field(shared: NamedTuple) -> dict[str, int]:
    """Returns the bytes of each field; a field with fields of its own is split into them."""
    parts: dict[str, int] = {}  # names are distinct in what trainers share
    for name, tree in shared._asdict().items():
        parts |= (
            _by_field(tree) if hasattr(tree, "_asdict") else {name: tree_bytes(tree)}
        )
    return parts


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
    step_fn: parallel.MappedStep,
    state: Any,
    shared: NamedTuple,
    batch: jax.Array,
    *,
    section: str,
    several: bool = False,
) -> None:
    """Checks that what a run needs besides its state fits into what is free on its devices.

    CPU devices share the host's memory, with those of other processes of the run.

    Args:
      step_fn, shared, batch, several: see `project`. state: is on the devices.
      section: of the config that has the batch size, for the message.

    Raises:
      UserError: it does not; the message has the arithmetic.
    """
    devices = batch.sharding.device_set
    device = next(iter(devices))
    free = free_bytes(device)
    if free is None:
        return
    parts = project(step_fn, state, shared, batch, several=several)
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
        "a step": f"lower config.{section}.batch_size or the networks' widths",
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
