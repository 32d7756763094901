"""One step of Algorithm 1, as a pure function."""

import functools

import jax

from cglo_jax.cglo import algorithm, codes
from cglo_jax.training import parallel


def train_step(
    state: algorithm.TrainState,
    shared: algorithm.Shared,
    indices: jax.Array,
    *,
    spec: algorithm.StepSpec,
    labelled: bool,
) -> tuple[algorithm.TrainState, dict[str, jax.Array]]:
    """One step of Algorithm 1: updates theta, the codes of the batch and, if labelled, phi.

    Runs inside a `parallel.MappedStep`; all draws depend on (key, step, image) only, so N devices
    compute what one computes.

    Args:
      indices: int32 [B], this device's images, none twice on any device.
      labelled: whether the images have labels: L = L_rec + gamma L_ce, else L = L_rec.

    Returns:
      The new state and scalar metrics, means over the batch of all devices.
    """
    keys = codes.example_keys(jax.random.fold_in(shared.key, state.step), indices)
    rows = codes.gather_codes(state.codes, indices)
    eps = algorithm.draw_noise_for(rows.z, keys, spec=spec)
    use_weak = labelled and spec.gamma > 0
    loss_fn = functools.partial(
        algorithm.compute_loss,
        batch_stats=state.batch_stats,
        shared=shared,
        spec=spec,
        use_weak=use_weak,
    )
    grad_fn = jax.grad(loss_fn, argnums=(0, 1), has_aux=True)
    (grads, code_grads), (batch_stats, metrics) = grad_fn(
        state.params, rows.z, eps, indices
    )
    grads, metrics = jax.lax.pmean((grads, metrics), parallel.AXIS)
    factor = spec.lr_factor(state.step)
    # The mean over the batch is for the networks: a code has its own image's loss, undivided.
    rows = codes.update_codes(
        rows, code_grads * len(indices), factor * spec.code_lr, spec.adam
    )
    indices, rows = jax.lax.all_gather((indices, rows), parallel.AXIS, tiled=True)

    params, opt_state = dict(state.params), dict(state.opt_state)
    rates = {"generator": (spec.adam, factor * spec.generator_lr)}
    if use_weak:
        rates["weak_classifier"] = (spec.weak_tx, spec.weak_lr)
    for name, (tx, lr) in rates.items():
        updates, opt_state[name] = tx.update(grads[name], opt_state[name], params[name])
        params[name] = jax.tree.map(
            lambda p, u, lr=lr: p - lr * u, params[name], updates
        )
    new_state = algorithm.TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        codes=codes.scatter_codes(state.codes, indices, rows),
    )
    return new_state, metrics
