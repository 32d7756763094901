"""MixMatch: one training step of the final classifier with guessed labels and mixed images.

Source: Berthelot et al. (2019), MixMatch: A Holistic Approach to Semi-Supervised Learning,
Algorithm 1 and eqs. (2)-(12); where the paper is silent, what its TensorFlow code does.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cglo_jax.cglo import codes, losses
from cglo_jax.classifier import step as classifier
from cglo_jax.data.dataset import Dataset
from cglo_jax.training import draws, parallel


@dataclasses.dataclass(frozen=True)
class MixMatch:
    """Its constants, plain values.

    Attributes:
      augmentations: K, of each unlabelled image.
      temperature: T of `sharpen`.
      alpha: parameter of `draw_shares`.
      lambda_u: weight of the unlabelled loss after `ramp_steps` steps.
      ema: decay of the averaged parameters.
    """

    augmentations: int
    temperature: float
    alpha: float
    lambda_u: float
    ramp_steps: float
    ema: float

    @classmethod
    def create(cls, config: ConfigDict) -> "MixMatch":
        """Takes the fields of `config.mixmatch`; the ramp is a share of all steps."""
        m, c = config.mixmatch, config.classify
        return cls(
            augmentations=m.augmentations,
            temperature=m.temperature,
            alpha=m.alpha,
            lambda_u=m.lambda_u,
            ramp_steps=m.ramp * c.epochs * c.steps_per_epoch,
            ema=m.ema,
        )


def choose_pool(dataset: Dataset, size: int) -> np.ndarray:
    """Returns the images that MixMatch treats as unlabelled, int [m], m >= size.

    These are the unlabelled images or, if there are none, the labelled images. (The reference code
    always adds the labelled images.) If there are fewer than `size`, the batch size, they are
    repeated, so that batches are as large as with other methods.
    """
    pool = np.flatnonzero(dataset.labels < 0)
    if not len(pool):
        pool = np.arange(dataset.num_labelled)
    return np.resize(pool, max(len(pool), size))


def sharpen(p: jax.Array, temperature: float) -> jax.Array:
    """Computes p^(1/T) / sum p^(1/T) of distributions p [..., K] (eq. 7)."""
    return jax.nn.softmax(jnp.log(p) / temperature)


def guess_labels(logits: jax.Array, temperature: float) -> jax.Array:
    """Sharpens the mean of the predictions for K augmentations; no gradient passes (eq. 6).

    Args:
      logits: [augmentations, B, K].

    Returns:
      float32 [B, K], rows of sum 1.
    """
    mean = jax.nn.softmax(logits).mean(0)
    return jax.lax.stop_gradient(sharpen(mean, temperature))


def draw_shares(keys: jax.Array, alpha: float) -> jax.Array:
    """Draws lambda' = max(l, 1 - l), l ~ Beta(alpha, alpha) (eqs. 8 and 9).

    Args:
      keys: typed keys [...].

    Returns:
      float32 [...] in [1/2, 1], the share of the first of two that are mixed.
    """
    share = jax.vmap(lambda key: jax.random.beta(key, alpha, alpha))(keys.ravel())
    return jnp.maximum(share, 1 - share).reshape(keys.shape)


def mix(x: jax.Array, y: jax.Array, share: jax.Array) -> jax.Array:
    """Computes share x + (1 - share) y (eqs. 10 and 11) of x, y [..., *] and share [...]."""
    share = share.reshape(share.shape + (1,) * (x.ndim - share.ndim))
    return share * x + (1 - share) * y


def interleave(batches: int, size: int) -> np.ndarray:
    """Returns, for each row of equally large batches, the row that replaces it, int [batches, size].

    Rows are numbered consecutively from batch to batch. Every batch is cut into as many parts as there are
    batches (the last parts one larger if need be), and part i of batch 0 is swapped
    with part i of batch i. So batch 0 has a part of every batch, and a part of batch 0 is in
    every batch. Doing it twice undoes it.
    """
    place = np.arange(batches * size).reshape(batches, size)
    source = place.copy()
    edges = np.arange(batches + 1) * (size // batches)
    edges += np.maximum(np.arange(batches + 1) - (batches - size % batches), 0)
    for i in range(1, batches):
        part = slice(edges[i], edges[i + 1])
        source[0, part], source[i, part] = place[i, part], place[0, part]
    return source


def unlabelled_loss(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Computes the mean over classes of (targets - softmax(logits))^2, [..., K] -> [...] (eq. 4)."""
    return jnp.square(targets - jax.nn.softmax(logits)).mean(-1)


def unlabelled_weight(step: jax.Array, mixmatch: MixMatch) -> jax.Array:
    """Returns the weight of the unlabelled loss: it grows from 0 at step 0 to lambda_u.

    The reference code's ramp lasts 16,384 of its million steps.
    """
    ramp = mixmatch.ramp_steps
    share = jnp.minimum(step / ramp, 1.0) if ramp else jnp.ones(())
    return mixmatch.lambda_u * share


def update_average(averaged: Any, params: Any, decay: float) -> Any:
    """Returns decay averaged + (1 - decay) params of every leaf."""
    return jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, averaged, params)


def _forward(spec, variables, x, keys):
    """-> (logits [M, B, K], batch_stats) of M batches, each normalised by itself; keys [M]."""

    def one(x, key):
        (logits, _), new = spec.model.apply(
            variables, x, train=True, mutable="batch_stats", rngs={"dropout": key}
        )
        return logits, new["batch_stats"]

    return jax.vmap(one)(x, keys)


def create_batches(
    shared: classifier.Shared,
    key: jax.Array,
    indices: jax.Array,
    *,
    spec: classifier.StepSpec,
    augmentations: int,
) -> tuple[jax.Array, jax.Array]:
    """Makes the labelled images and `augmentations` versions of the unlabelled images.

    Labelled images are augmented as for the baseline. If there is a `shared.canvas`, which holds the
    labelled images only, unlabelled images are cropped from the squares that `shared.images` holds.

    Args:
      indices: int32 [B, 2].

    Returns:
      (images float32 [1 + augmentations, B, H, W, C], targets of the labelled images [B, K]).
    """

    def create(shared, key, members):
        keys = codes.example_keys(key, members)
        # key_batch is of replacements, and there are none.
        return classifier.create_batch(shared, keys, members, spec=spec, key_batch=key)

    x, targets = create(shared, key, indices[:, 0])
    key_pool = jax.random.fold_in(key, draws.Batch.UNLABELLED_IMAGES)
    if len(shared.images) > len(shared.sampler.labels):
        shared = shared._replace(canvas=None)
    # Their targets mean nothing: they have no labels, or those are hidden.
    unlabelled, _ = jax.vmap(lambda k: create(shared, k, indices[:, 1]))(
        jax.random.split(key_pool, augmentations)
    )
    return jnp.concatenate([x[None], unlabelled]), targets


def mix_batches(
    key: jax.Array, x: jax.Array, targets: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mixes each image with a random image of any device and interleaves the batches.

    Each device gathers all images and computes only its own rows of the result, so that N devices
    compute what one computes.

    Args:
      x: this device's [M, B, H, W, C], labelled images first. targets: [M, B, K].

    Returns:
      (x, targets, labelled bool [M, B]), this device's rows.
    """
    count, size = targets.shape[:2]
    key_partners, key_shares = jax.random.split(key)

    def gather(a):
        a = jax.lax.all_gather(a, parallel.AXIS, axis=1, tiled=True)
        return a.reshape(-1, *a.shape[2:])

    x, targets = gather(x), gather(targets)
    total = len(targets) // count
    start = jax.lax.axis_index(parallel.AXIS) * size
    rows = jnp.asarray(interleave(count, total))
    rows = jax.lax.dynamic_slice_in_dim(rows, start, size, axis=1)
    partners = jax.random.permutation(key_partners, len(targets))[rows]
    keys = codes.example_keys(key_shares, rows.ravel()).reshape(rows.shape)
    shares = draw_shares(keys, alpha)
    x, targets = (mix(a[rows], a[partners], shares) for a in (x, targets))
    return x, targets, rows < total


def _losses(logits, targets, labelled, class_weights):
    """-> (labelled, unlabelled) losses and accuracy, means over [M, B] places of either kind."""
    count = labelled.shape[0]
    weights = targets @ class_weights
    cross_entropy = weights * losses.soft_cross_entropy(logits, targets)
    square = unlabelled_loss(logits, targets)
    right = 100.0 * (logits.argmax(-1) == targets.argmax(-1))

    def mean(values, places, of_all):
        # The number of labelled rows differs between devices; over all devices it is this share.
        return jnp.where(places, values, 0).mean() / of_all

    return (
        mean(cross_entropy, labelled, 1 / count),
        mean(square, ~labelled, 1 - 1 / count),
        mean(right, labelled, 1 / count),
    )


def train_step(
    state: classifier.ClassifierState,
    shared: classifier.Shared,
    indices: jax.Array,
    *,
    spec: classifier.StepSpec,
    mixmatch: MixMatch,
) -> tuple[classifier.ClassifierState, dict[str, jax.Array]]:
    """One step of MixMatch (Algorithm 1); runs inside a `parallel.MappedStep`.

    As in the reference code, labels are guessed with batch statistics, each of the 1 + K
    interleaved batches is normalised by itself, and only the first updates the running
    statistics. Testing uses the averaged parameters with these running statistics, which are not
    averaged themselves. The average starts at the initial parameters. The optimiser is SGD, as
    for every other method; the reference code uses Adam with a constant learning rate and
    decoupled weight decay.

    Args:
      shared: its images are the labelled images first, then the unlabelled images if there are any.
      indices: int32 [B, 2], for each of this device's rows a labelled image and an image that is
        treated as unlabelled.
    """
    count = mixmatch.augmentations
    key = jax.random.fold_in(shared.key, state.step)
    key_dropout = jax.random.fold_in(key, draws.Batch.DROPOUT)
    device = jax.lax.axis_index(parallel.AXIS)
    key_guess, key_train = jax.random.split(jax.random.fold_in(key_dropout, device))
    x, targets = create_batches(shared, key, indices, spec=spec, augmentations=count)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits, _ = _forward(spec, variables, x[1:], jax.random.split(key_guess, count))
    guesses = guess_labels(logits, mixmatch.temperature)
    targets = jnp.stack([targets] + [guesses] * count)
    key_mix = jax.random.fold_in(key, draws.Batch.MIX)
    x, targets, labelled = mix_batches(key_mix, x, targets, mixmatch.alpha)
    lambda_u = unlabelled_weight(state.step, mixmatch)
    keys = jax.random.split(key_train, 1 + count)

    def loss_fn(params):
        logits, batch_stats = _forward(spec, {**variables, "params": params}, x, keys)
        of_labelled, of_unlabelled, accuracy = _losses(
            logits, targets, labelled, shared.class_weights
        )
        loss = of_labelled + lambda_u * of_unlabelled
        metrics = {
            "loss": loss,
            "labelled_loss": of_labelled,
            "unlabelled_loss": of_unlabelled,
            "train_accuracy": accuracy,
        }
        return loss, (jax.tree.map(lambda a: a[0], batch_stats), metrics)

    grads, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, metrics = jax.lax.pmean((grads, metrics), parallel.AXIS)
    new_state = classifier.apply_gradients(state, grads, batch_stats, spec)
    averaged = update_average(state.averaged, new_state.params, mixmatch.ema)
    return new_state.replace(averaged=averaged), metrics
