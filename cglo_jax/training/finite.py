"""Finds values that are infinite or NaN on the devices, without waiting for any step."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


class NotFinite(Exception):
    """A value is infinite or NaN; the message names it and the step."""


class Watch:
    """Watches the metrics of every call for infinite values and NaN, on the devices."""

    def __init__(self):
        self._seen: tuple[jax.Array, ...] | None = None  # on the devices
        # For each call that was noted: the step after it, the names of its metrics in order.
        self._calls: list[tuple[int, list[str]]] = []

    def note(self, metrics: Mapping[str, jax.Array], step: int) -> None:
        """Adds the metrics, float [] or [n] each, of the call that ended at `step`; waits for no device."""
        self._calls.append((step, sorted(metrics)))
        self._seen = _note(self._seen, dict(metrics))

    def check(self, state: Any, step: int) -> None:
        """Checks what was noted since the last check, and the state after `step`; waits for it.

        Raises:
          NotFinite: a metric, or an array of the state, has an infinite value or NaN.
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
    """Returns int32 (calls noted, the first call with a bad metric or -1, its index by sorted names)."""
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
