"""Which images a step takes: a function of (key, step), so that any step can be resumed at."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.data.dataset import Dataset
from cglo_jax.training import parallel


def unlabelled_steps_per_epoch(config: ConfigDict, dataset: Dataset) -> int:
    """Returns the steps of the second pass of an epoch: once through the unlabelled images."""
    n = len(dataset.ids) - dataset.num_labelled
    return -(-n // config.train.batch_size)


def total_steps(config: ConfigDict, dataset: Dataset) -> int:
    """Returns the steps of a whole run, labelled and unlabelled ones."""
    t = config.train
    return t.epochs * (t.steps_per_epoch + unlabelled_steps_per_epoch(config, dataset))


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


class Schedule:
    """Maps a global step to (labelled?, images): every epoch a labelled, then an unlabelled pass."""

    def __init__(
        self,
        config: ConfigDict,
        dataset: Dataset,
        key: jax.Array,
        devices: Sequence[jax.Device],
    ):
        labelled = np.flatnonzero(dataset.labels >= 0)
        unlabelled = np.flatnonzero(dataset.labels < 0)
        self.labelled_steps = config.train.steps_per_epoch
        self.unlabelled_steps = unlabelled_steps_per_epoch(config, dataset)
        self.steps_per_epoch = self.labelled_steps + self.unlabelled_steps
        self.total = total_steps(config, dataset)

        def order(purpose: int, members: np.ndarray) -> BatchOrder:
            size = parallel.per_device(
                config.train.batch_size, len(members), devices, "train.batch_size"
            )
            return BatchOrder(jax.random.fold_in(key, purpose), members, size)

        self._labelled = order(0, labelled)
        self.batch_size = self._labelled.batch_size
        self._unlabelled = order(1, unlabelled) if self.unlabelled_steps else None

    def __call__(self, step: int) -> tuple[bool, np.ndarray]:
        """Returns whether the step is of the labelled pass, and its images, int32 [B]."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if place < self.labelled_steps:
            return True, self._labelled(epoch * self.labelled_steps + place)
        return False, self._unlabelled(
            epoch * self.unlabelled_steps + place - self.labelled_steps
        )
