"""Codes for images that are added later: eq. (2) over the codes alone.

The generator and the weak classifier stay as Algorithm 1 left them and normalise by running
statistics, as they do when sampling.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from ml_collections import ConfigDict

from cglo_jax.cglo import algorithm, codes
from cglo_jax.cglo.algorithm import Params
from cglo_jax.training import parallel


@struct.dataclass
class FitState:
    """Everything that fitting changes: steps taken, int32 [], and the codes of all images."""

    step: jax.Array
    codes: codes.Codes


class Frozen(NamedTuple):
    """The constants of a fitting step: the constants of training, and both trained networks."""

    training: algorithm.Shared
    params: Params
    batch_stats: Params


def fit_step(
    state: FitState,
    frozen: Frozen,
    indices: jax.Array,
    *,
    spec: algorithm.StepSpec,
    use_weak: bool,
) -> tuple[FitState, dict[str, jax.Array]]:
    """One step of eq. (2) over the codes of the batch: L_rec + gamma L_ce, G and phi frozen.

    Only labelled images contribute to L_ce. Runs inside a `parallel.MappedStep`; all draws depend on
    (key, step, image) only, so N devices compute what one computes.

    Args:
      indices: int32 [B], this device's images, none twice on any device.
      use_weak: whether the loss includes L_ce.

    Returns:
      The new state and scalar metrics, means over the batch of all devices; metrics of
      f_phi are means over the batch's labelled images, 0 without any.
    """
    shared = frozen.training
    keys = codes.example_keys(jax.random.fold_in(shared.key, state.step), indices)
    rows = codes.gather_codes(state.codes, indices)
    eps = spec.generator.draw_noise(keys, rows.z.shape[-1])

    def loss_fn(z: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        loss, (_, metrics) = algorithm.compute_loss(
            frozen.params,
            z,
            eps,
            indices,
            batch_stats=frozen.batch_stats,
            shared=shared,
            spec=spec,
            use_weak=use_weak,
            train=False,
        )
        return loss, metrics

    grads, metrics = jax.grad(loss_fn, has_aux=True)(rows.z)
    lr = spec.lr_schedule(state.step) * spec.code_lr
    # As in training, a code has its own image's loss, undivided by the batch.
    rows = codes.update_codes(rows, grads * len(indices), lr, spec.adam)
    labelled = (shared.labels[indices] >= 0).mean()
    metrics, labelled = jax.lax.pmean((metrics, labelled), parallel.AXIS)
    for name in metrics.keys() - {"loss", "reconstruction"}:
        metrics[name] = jnp.where(labelled > 0, metrics[name] / labelled, 0)
    indices, rows = jax.lax.all_gather((indices, rows), parallel.AXIS, tiled=True)
    new_codes = codes.scatter_codes(state.codes, indices, rows)
    return FitState(step=state.step + 1, codes=new_codes), metrics


def keep_codes(
    drawn: np.ndarray,
    ids: np.ndarray,
    known: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a code for each image: from the first table of `known` that has one, else from `drawn`.

    Args:
      drawn: float32 [n, d], codes for images that no table has. ids: uint8 [n, 16].
      known: tables (ids uint8 [m, 16], codes float32 [m, d]).

    Returns:
      (codes float32 [n, d], int64 [m], positions of the images that no table has).
    """
    table = {}
    for known_ids, z in reversed(known):
        table.update(zip((row.tobytes() for row in known_ids), z, strict=True))
    names = [row.tobytes() for row in ids]
    z = [table.get(name, row) for name, row in zip(names, drawn, strict=True)]
    new = [i for i, name in enumerate(names) if name not in table]
    return np.stack(z), np.array(new, np.int64)


def scale_drops(config: ConfigDict, total: int) -> tuple[tuple[int, float], ...]:
    """Returns (step, factor) of each learning-rate drop, at the same fractions of `total` as in training."""
    t = config.train
    return tuple((round(e / t.epochs * total), t.lr_drop) for e in t.lr_drop_epochs)
