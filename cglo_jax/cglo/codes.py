"""Latent codes on the unit sphere: start, projection, per-code optimiser, paths, partners.

The table of codes is an ordinary array z [n, d] of unit rows, and each row has an optimiser
state of its own (`jax.vmap(tx.init)(z)`): eq. (2) is one small minimisation per image inside a
shared one. A step moves only the rows of its batch, so its cost does not depend on n.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

# Below this sine of the angle two codes count as equal: there lerp and slerp differ by less
# than float32 resolves (angle^2 / 8 = 1e-7).
_SIN_EQUAL = 1e-3
# Above 90 degrees the great circle stays well defined much closer to the opposite point.
_SIN_OPPOSITE = 1e-5

# The default precision of GPUs (TF32) has three digits: too few for angles and lengths.
_dot = functools.partial(jnp.vdot, precision=jax.lax.Precision.HIGHEST)


@struct.dataclass
class Codes:
    """The codes of all images with their optimiser states.

    Attributes:
      z: float32 [n, d], rows of length 1.
      opt_state: optax state of every row, each leaf with a leading axis n.
    """

    z: jax.Array
    opt_state: Any


def project_codes(z: jax.Array) -> jax.Array:
    """Projects rows onto the unit sphere, z / ||z|| (constraint of eq. 2); a zero row stays zero.

    Args:
      z: float [..., d].

    Returns:
      float [..., d].
    """
    norm = jnp.linalg.norm(z, axis=-1, keepdims=True)
    return z / jnp.maximum(norm, 1e-12)


def init_codes(
    key: jax.Array, n: int, dim: int, tx: optax.GradientTransformation
) -> Codes:
    """Draws n codes uniformly on the sphere in R^dim (section 3.1); row i depends on (key, i) only."""
    keys = example_keys(key, jnp.arange(n))
    z = project_codes(jax.vmap(lambda k: jax.random.normal(k, (dim,)))(keys))
    return create_codes(z, tx)


def create_codes(z: jax.Array, tx: optax.GradientTransformation) -> Codes:
    """Gives codes z [n, d] their optimiser states before the first step."""
    return Codes(z=z, opt_state=jax.vmap(tx.init)(z))


@functools.partial(jax.jit, static_argnames="dim")
def draw_codes(key: jax.Array, ids: np.ndarray, dim: int) -> jax.Array:
    """Draws a code on the sphere for each image, f(key, id), in whatever order they are.

    Args:
      ids: uint8 [n, 16], see `trained.hash_ids`.

    Returns:
      float32 [n, dim], unit rows.
    """

    def draw(words: jax.Array) -> jax.Array:
        return jax.random.normal(functools.reduce(jax.random.fold_in, words, key), dim)

    words = jax.lax.bitcast_convert_type(ids.reshape(-1, 4, 4), jnp.uint32)  # [n, 4]
    return project_codes(jax.vmap(draw)(words))


def example_keys(key: jax.Array, indices: jax.Array) -> jax.Array:
    """Returns one key per image, f(key, image index): independent of batch and device. [B] -> [B]"""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def gather_codes(codes: Codes, indices: jax.Array) -> Codes:
    """Returns the rows `indices` [B] of the codes and of their optimiser states."""
    return jax.tree.map(lambda leaf: leaf[indices], codes)


def scatter_codes(codes: Codes, indices: jax.Array, rows: Codes) -> Codes:
    """Puts `rows` back at `indices` [B], which must not hold an index twice."""
    return jax.tree.map(
        lambda leaf, row: leaf.at[indices].set(row, unique_indices=True), codes, rows
    )


def update_codes(
    rows: Codes, grads: jax.Array, lr: jax.Array, tx: optax.GradientTransformation
) -> Codes:
    """One step of every row's own optimiser, then projection onto the sphere.

    Args:
      rows: B gathered codes.
      grads: float32 [B, d], gradient of the sum of the batch's losses (each image's own but
        for batch norm).
      lr: scalar learning rate.
      tx: transformation without a learning rate, for example `optax.scale_by_adam()`.
    """
    updates, opt_state = jax.vmap(tx.update)(grads, rows.opt_state, rows.z)
    return Codes(z=project_codes(rows.z - lr * updates), opt_state=opt_state)


def lerp(q1: jax.Array, q2: jax.Array, t: jax.Array) -> jax.Array:
    """Straight line between two codes, (1 - t) q1 + t q2 (Fig. 3, left). [d], [d], [] -> [d]"""
    return (1 - t) * q1 + t * q2


def slerp(q1: jax.Array, q2: jax.Array, t: jax.Array) -> jax.Array:
    """Great circle between two unit codes, eq. (3), finite with finite gradients everywhere.

    Written as q1 cos(t theta) + u sin(t theta), u being the unit vector at right angles to q1
    towards q2: equal to eq. (3) but exact near theta = pi, where eq. (3) divides 0 by 0. Equal
    codes give the straight line; for opposite ones, where every great circle is shortest, an
    arbitrary but fixed one.

    Args:
      q1, q2: float32 [d], length 1. t: scalar in [0, 1].

    Returns:
      float32 [d], length 1; q1 at t = 0, q2 at t = 1.
    """
    cosine = jnp.clip(_dot(q1, q2), -1.0, 1.0)
    towards = q2 - cosine * q1
    # Once more: the first difference cancels digits.
    towards = towards - _dot(q1, towards) * q1
    sine2 = _dot(towards, towards)
    smallest = jnp.where(cosine > 0, _SIN_EQUAL, _SIN_OPPOSITE)
    regular = sine2 > smallest**2
    sine = jnp.sqrt(jnp.where(regular, sine2, 1.0))
    theta = jnp.where(regular, jnp.arctan2(sine, cosine), jnp.pi)
    u = jnp.where(regular, towards / sine, _perpendicular(q1))
    path = q1 * jnp.cos(t * theta) + u * jnp.sin(t * theta)
    return jnp.where(regular | (cosine < 0), path, lerp(q1, q2, t))


def _perpendicular(q: jax.Array) -> jax.Array:
    """A unit vector at right angles to the unit vector q [d], the same every time."""
    axis = jax.nn.one_hot(jnp.argmin(jnp.abs(q)), q.shape[0], dtype=q.dtype)
    p = axis - _dot(axis, q) * q
    return p / jnp.sqrt(_dot(p, p))


INTERPOLATIONS = {"slerp": slerp, "lerp": lerp}


class ClassMembers(NamedTuple):
    """Which images share a class; what `draw_partners` needs.

    Attributes:
      members: int32 [K, m], the images of each class, rows padded with their first image.
      counts: int32 [K], images per class.
      rank: int32 [n], place of each image in its class's row; 0 for unlabelled images.
    """

    members: np.ndarray
    counts: np.ndarray
    rank: np.ndarray


def class_members(labels: np.ndarray, num_classes: int) -> ClassMembers:
    """Groups images by class. labels: int [n], -1 = unlabelled (in no class)."""
    groups = [np.flatnonzero(labels == c) for c in range(num_classes)]
    counts = np.array([len(g) for g in groups], np.int32)
    members = np.zeros((num_classes, max(1, counts.max(initial=0))), np.int32)
    rank = np.zeros(len(labels), np.int32)
    for c, group in enumerate(groups):
        if len(group):
            members[c] = group[0]
            members[c, : len(group)] = group
            rank[group] = np.arange(len(group))
    return ClassMembers(members, counts, rank)


def draw_partners(
    keys: jax.Array, indices: jax.Array, labels: jax.Array, classes: ClassMembers
) -> jax.Array:
    """Draws for each image another image of its class, uniformly, never itself (section 4.2).

    A class with one image has no other: its image is then its own partner.

    Args:
      keys: typed keys [B]. indices: int32 [B], images. labels: int32 [B], their classes, >= 0.
      classes: the classes of the whole training set.

    Returns:
      int32 [B], images.
    """
    classes = jax.tree.map(jnp.asarray, classes)

    def draw(key, index, label):
        count = classes.counts[label]
        hop = jax.random.randint(key, (), 1, jnp.maximum(count, 2))
        return classes.members[label, (classes.rank[index] + hop) % count]

    return jax.vmap(draw)(keys, indices, labels)
