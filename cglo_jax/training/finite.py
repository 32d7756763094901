"""Finds values that are infinite or NaN on the devices, without waiting for any step."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


class NotFinite(Exception):
    """What is not finite, since which step, in words."""


class Watch:
    """Notes the metrics of every call, and tells of them when it is asked."""

    def __init__(self):
        self._seen: tuple[jax.Array, ...] | None = None  # on the devices
        # Of each call that was noted: the step after it, its metrics in order.
        self._calls: list[tuple[int, list[str]]] = []

    def note(self, metrics: Mapping[str, jax.Array], step: int) -> None:
        """Notes the metrics of the call that ended at `step`."""
        self._calls.append((step, sorted(metrics)))
        self._seen = _note(self._seen, dict(metrics))

    def check(self, state: Any, step: int) -> None:
        """Checks what was noted since the last check, and the state after `step`; waits for it.

        Raises:
          NotFinite: a metric was, or an array of the state is, infinite or NaN.
        """
        (_, first, term), largest = jax.device_get((self._seen, _largest(state)))
        if first >= 0:
            since, names = self._calls[first]
            raise NotFinite(f"{names[term]} is not finite since step {since}")
        paths, _ = jax.tree_util.tree_flatten_with_path(state)
        for (path, _), value in zip(paths, largest, strict=True):
            if not math.isfinite(value):
                name = jax.tree_util.keystr(path, simple=True, separator=".")
                raise NotFinite(f"the state's {name} has a {value} at step {step}")
        self._seen, self._calls = None, []


@jax.jit
def _note(
    seen: tuple[jax.Array, ...] | None, metrics: dict[str, jax.Array]
) -> tuple[jax.Array, ...]:
    """-> (calls noted, the first of them with a bad metric or -1, which of the sorted names)."""
    none = jnp.int32(-1)
    calls, first, term = seen or (jnp.int32(0), none, none)
    bad = jnp.stack([~jnp.isfinite(metrics[name]).all() for name in sorted(metrics)])
    found = (first < 0) & bad.any()
    first = jnp.where(found, calls, first)
    return calls + 1, first, jnp.where(found, bad.argmax().astype(jnp.int32), term)


@jax.jit
def _largest(state: Any) -> list[jax.Array]:
    """Returns the largest absolute value of each array, infinite or NaN if it has one."""
    leaves = jax.tree.leaves(state)
    return [jnp.abs(a).max(initial=0).astype(jnp.float32) for a in leaves]
