"""Which images a step takes: a function of (key, step), so that any step can be resumed at."""

import functools

import jax
import numpy as np

from cglo_jax.training import parallel


class BatchOrder:
    """Which images a step takes: pass after pass over `members` in an order f(key, pass).

    A pass is cut into whole batches; what is left over has its turn in other passes, so that no
    batch holds an image twice and every batch has one size. Orders are drawn on the host's
    CPU: drawn on a GPU they would wait for all steps before them.
    """

    def __init__(self, key: jax.Array, members: np.ndarray, batch_size: int):
        self._key = jax.device_put(key, parallel.host_device())
        self._members, self.batch_size = members, batch_size
        self._pass, self._order = -1, members

    def __call__(self, step: int) -> np.ndarray:
        """Returns int32 [B], the images of the step-th batch."""
        number, place = divmod(step, len(self._members) // self.batch_size)
        if number != self._pass:
            counter = jax.device_put(np.uint32(number), parallel.host_device())
            order = jax.device_get(_permute(self._key, counter, len(self._members)))
            self._pass, self._order = number, self._members[order]
        return self._order[place * self.batch_size :][: self.batch_size].astype(
            np.int32
        )


@functools.partial(jax.jit, static_argnums=2)
def _permute(key: jax.Array, number: jax.Array, n: int) -> jax.Array:
    return jax.random.permutation(jax.random.fold_in(key, number), n)
