"""Devices: the one place that says pmap, shards and replicates.

State has no leading device axis: it goes in replicated (`in_axes=None`) and comes out replicated
(`out_axes=None`), so checkpoints, tests and evaluation see ordinary arrays.

One process or several (`cli.launch`): `devices` are the devices of all processes, arrays lie on the
devices of this process, batches are whole in every process until `shard` takes its part.
"""

import functools
import itertools
import socket
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax._src.distributed import global_state  # JAX has no public way to its barriers
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cglo_jax.errors import UserError

AXIS = "data"
_gathered = itertools.count()  # how often `gather_strings` was called
_A_MONTH_MS = 30 * 24 * 3600 * 1000
_STEPS_PER_CALL = 10  # on accelerators; not measured on one yet
Step = Callable[[Any, Any, jax.Array], tuple[Any, Any]]
# (state, step, most) -> (state, metrics of the last step taken, 1 to `most` steps taken)
TakeSteps = Callable[[Any, int, int], tuple[Any, dict[str, jax.Array], int]]


def is_first_process() -> bool:
    """Whether this process is the one that writes and prints: the only one, or number 0."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits, however long, until all processes have come here; the name is the same in all.

    No device waits. When a process is lost meanwhile, it takes half a minute to be noticed.
    """
    if jax.process_count() > 1:
        global_state.client.wait_at_barrier(name, _A_MONTH_MS)


def gather_strings(name: str, value: str) -> list[str]:
    """Returns the values of all processes, which come here equally often."""
    count = jax.process_count()
    if count == 1:
        return [value]
    client, name = global_state.client, f"{name} {next(_gathered)}"  # a key is set once
    client.key_value_set(f"{name}/{jax.process_index()}", value)
    barrier(name)
    return [
        client.blocking_key_value_get(f"{name}/{i}", _A_MONTH_MS) for i in range(count)
    ]


def choose_devices(count: int) -> list[jax.Device]:
    """Returns the first `count` devices, all of them for 0; with several processes the devices of all.

    Raises:
      UserError: there are fewer, or several processes, which use all of theirs.
    """
    if jax.process_count() > 1:
        if count:
            raise UserError(
                f"config.devices is {count}: several processes use all devices that they see: "
                "leave it at 0 and start fewer, or hide devices (CUDA_VISIBLE_DEVICES)"
            )
        return jax.devices()
    devices = jax.local_devices()
    if count > len(devices):
        raise UserError(
            f"config.devices is {count}, but this machine has {len(devices)} "
            f"{devices[0].platform} device(s): use at most that many, or 0 for all"
        )
    return devices[: count or None]


def one_device() -> list[jax.Device]:
    """Returns a device of this process, for what every process computes by itself."""
    return jax.local_devices()[:1]


def per_device(
    batch_size: int, available: int, devices: Sequence[jax.Device], field: str
) -> int:
    """Returns the batch size to use: at most `available` images, divisible by the devices.

    Prints, once, that it is not `batch_size`.

    Raises:
      UserError: there are fewer images than devices, or `batch_size` (named `field`) does not
        divide among them.
    """
    n = len(devices)
    if batch_size % n:
        raise UserError(
            f"config.{field} is {batch_size}: it must be divisible by the {n} devices"
        )
    size = min(batch_size, available // n * n)
    if size == 0:
        fewer = f"--config.devices={available or 1}"
        if jax.process_count() > 1:
            fewer = "fewer processes"
        raise UserError(
            f"{available} images do not fill a batch on {n} devices: use {fewer}"
        )
    if size < batch_size and is_first_process():
        _print_once(
            f"config.{field} is {batch_size}, but there are {available} images for {n} "
            f"device(s): a batch has {size}"
        )
    return size


# Every classifier has the same batches.
_print_once = functools.cache(functools.partial(print, flush=True))


@functools.cache
def processes_here() -> int:
    """Returns how many processes of the run share this host's memory, this one included.

    All processes must call it.
    """
    own = socket.gethostname()
    return gather_strings("host", own).count(own)


def begin_run() -> None:
    """Forgets which notes were printed, so that the next run in this process prints its own."""
    _print_once.cache_clear()


def host_device() -> jax.Device:
    """Returns the CPU, or the first device where JAX_PLATFORMS has no cpu in it (cuda,cpu has)."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def _own(devices: Sequence[jax.Device]) -> list[int]:
    """Returns the places of this process's devices."""
    process = jax.process_index()
    return [i for i, device in enumerate(devices) if device.process_index == process]


def _sharding(devices: Sequence[jax.Device], *axes: str) -> NamedSharding:
    own = np.array([devices[i] for i in _own(devices)])
    mesh = Mesh(own, (AXIS,), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec(*axes))


def create_replicated(
    init: Callable[..., Any],
    devices: Sequence[jax.Device],
    *args: Any,
    **constants: Any,
) -> Any:
    """Runs `init(*args, **constants)`; its result lies on every device and may be donated.

    Calls with the same `init`, a function at module level, and equal constants compile once.
    """
    program = jax.jit(
        init, out_shardings=_sharding(devices), static_argnames=tuple(constants)
    )
    return program(*args, **constants)


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Copies host arrays to every device."""
    return jax.device_put(tree, _sharding(devices))


def shard(batch: np.ndarray, devices: Sequence[jax.Device]) -> jax.Array:
    """Splits a batch [B, ...] among all devices -> [D, B / D, ...] of this process's D."""
    split = batch.reshape(len(devices), -1, *batch.shape[1:])
    return jax.device_put(split[_own(devices)], _sharding(devices, AXIS))


def shard_steps(batches: np.ndarray, devices: Sequence[jax.Device]) -> jax.Array:
    """Splits the batches of several steps [S, B, ...] among all devices -> [D, S, B / D, ...]."""
    split = batches.reshape(len(batches), len(devices), -1, *batches.shape[2:])
    own = split.swapaxes(0, 1)[_own(devices)]
    return jax.device_put(own, _sharding(devices, AXIS))


class MappedStep:
    """`step(state, shared, batch) -> (state, metrics)` mapped over devices.

    `state` and `shared` are replicated, `batch` is a result of `shard`; the step must make its
    results equal on all devices (`pmean` over AXIS). `state` is donated.
    """

    def __init__(self, step: Step, devices: Sequence[jax.Device]):
        pmap = functools.partial(
            jax.pmap,
            axis_name=AXIS,
            in_axes=(None, None, 0),
            out_axes=None,
            donate_argnums=0,
            devices=devices,
        )
        self._devices = devices
        self._once = pmap(step)
        self._several = pmap(functools.partial(_take_several, step))
        self.lower = self._once.lower

    def plan_memory(
        self, state: Any, shared: Any, batch: jax.Array, *, several: bool = False
    ) -> int | None:
        """Returns the bytes that a call allocates on each device; nothing of it is allocated.

        The program is compiled, as it is at the first call, and XLA's plan is read: temporary
        arrays, and results that do not take the place of the old state. Compiling itself may
        allocate memory on an accelerator.

        Args:
          state, shared, batch: see `__call__`; of `shared` shapes and types are enough.
          several: of a call of `several`, whose batches `batch` then is.

        Returns:
          None if the backend has no such plan, or there are several processes.
        """
        if jax.process_count() > 1:  # pmap lowers no shapes then
            return None
        program = self._several if several else self._once
        place = _sharding(self._devices)
        shapes = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), shared
        )
        plan = program.lower(state, shapes, batch).compile().memory_analysis()
        if plan is None:
            return None
        results = plan.output_size_in_bytes - plan.alias_size_in_bytes
        return plan.temp_size_in_bytes + results

    def __call__(self, state: Any, shared: Any, batch: jax.Array) -> tuple[Any, Any]:
        """Takes one step."""
        return self._once(state, shared, batch)

    def several(self, state: Any, shared: Any, batches: jax.Array) -> tuple[Any, Any]:
        """Takes a step for each batch of a result of `shard_steps`; the metrics are the last one's.

        Slow on CPU: inside a loop XLA:CPU runs the weight gradients of convolutions 30-60 times
        slower.
        """
        return self._several(state, shared, batches)


def _take_several(
    step: Step, state: Any, shared: Any, batches: jax.Array
) -> tuple[Any, Any]:
    state, metrics = jax.lax.scan(
        lambda state, batch: step(state, shared, batch), state, batches
    )
    return state, jax.tree.map(lambda m: m[-1], metrics)


Choose = Callable[[int], tuple[MappedStep, np.ndarray]]


def create_take_steps(
    choose: Choose,
    create_shared: Callable[[MappedStep, Any, jax.Array, bool], Any],
    devices: Sequence[jax.Device],
    per_call: int,
) -> TakeSteps:
    """Returns a function that takes up to `per_call` steps at once, if they share one compiled step.

    Args:
      choose: step -> (compiled step, batch [B, ...]); called once for each step, in order.
      create_shared: returns the arrays that the steps read, on the host; called once, with the first
        compiled step, the state, the batch or batches, and whether there are several.
      per_call: 0: one on CPU, where more are slow, 10 elsewhere.
    """
    if not per_call:
        per_call = 1 if devices[0].platform == "cpu" else _STEPS_PER_CALL
    ahead: dict[int, tuple[MappedStep, np.ndarray]] = {}  # chosen, and not yet taken
    shared = None

    def take_steps(state: Any, step: int, most: int) -> tuple[Any, Any, int]:
        nonlocal shared
        count = per_call if most >= per_call else 1
        for i in range(step, step + count):
            if i not in ahead:
                ahead[i] = choose(i)
            if ahead[i][0] is not ahead[step][0]:
                count = 1
                break
        step_fn = ahead[step][0]
        batches = np.stack([ahead.pop(i)[1] for i in range(step, step + count)])
        several = count > 1
        batch = shard_steps(batches, devices) if several else shard(batches[0], devices)
        if shared is None:
            shared = replicate(create_shared(step_fn, state, batch, several), devices)
        take = step_fn.several if several else step_fn
        return *take(state, shared, batch), count

    return take_steps


def pmap_batch(
    function: Callable[[Any, jax.Array], Any], devices: Sequence[jax.Device]
) -> Callable:
    """Maps `function(shared, batch)`, B / D rows of results on each device, over the devices.

    Returns:
      (shared, result of `shard`) -> the results of all devices, [B, ...], in every process.
    """

    def gathered(shared: Any, batch: jax.Array) -> Any:
        return jax.lax.all_gather(function(shared, batch), AXIS, tiled=True)

    return jax.pmap(
        gathered, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices
    )


def map_batches(
    function: Callable[[np.ndarray], Any], images: np.ndarray, size: int
) -> Any:
    """Applies `function` to images in batches of one shape, which compile once.

    Args:
      function: [size, ...] -> a tree of arrays [size, ...]. The last batch is padded, what
        comes of the padding is cut off.
      images: [n, ...].

    Returns:
      The tree, NumPy arrays [n, ...].
    """
    whole = None
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        padding = [(0, size - len(batch))] + [(0, 0)] * (batch.ndim - 1)
        made = jax.tree.map(np.asarray, function(np.pad(batch, padding)))
        if whole is None:
            whole = jax.tree.map(
                lambda a: np.empty((len(images), *a.shape[1:]), a.dtype), made
            )
        leaves = zip(jax.tree.leaves(whole), jax.tree.leaves(made), strict=True)
        for rows, part in leaves:
            rows[start : start + len(batch)] = part[: len(batch)]
    return whole
