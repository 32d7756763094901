"""Tests of cglo_jax/cglo/codes.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.spatial
import scipy.stats

from cglo_jax.cglo import codes

DIMS = [2, 3, 16, 128, 512]
T = np.linspace(0, 1, 21)
SMALL_ANGLES = np.logspace(-7, -2, 26)  # across both of slerp's thresholds

# [n, d], [n, d], [T] -> [n, T, d]
slerp_paths = jax.jit(
    jax.vmap(jax.vmap(codes.slerp, (None, None, 0)), (0, 0, None)),
)
slerp_jacobians = jax.jit(jax.jacrev(codes.slerp, (0, 1, 2)))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def random_units(seed: int, *shape: int) -> np.ndarray:
    """Returns unit rows in float64."""
    return unit(np.random.default_rng(seed).normal(size=shape))


def pairs_at(angles: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns q1 [n, d] and v [n, d] at right angles, so that q2 = q1 cos + v sin."""
    q1 = random_units(dim, len(angles), dim)
    v = random_units(dim + 1, len(angles), dim)
    return q1, unit(v - (v * q1).sum(-1, keepdims=True) * q1)


def great_circle(q1, v, angles, t) -> np.ndarray:
    """The path from q1 towards v at the fractions t of the angles. -> [n, T, d]"""
    at = angles[:, None, None] * t[None, :, None]
    return q1[:, None] * np.cos(at) + v[:, None] * np.sin(at)


# Interpolation


@pytest.mark.parametrize("dim", DIMS)
def test_slerp_is_scipys(dim):
    q1, q2 = random_units(1, 50, dim), random_units(2, 50, dim)
    cosine = (q1 * q2).sum(-1)
    q2 = np.where(cosine[:, None] < -0.99, -q2, q2)  # the opposite have a test below
    expected = [
        scipy.spatial.geometric_slerp(a, b, T) for a, b in zip(q1, q2, strict=True)
    ]
    paths = slerp_paths(np.float32(q1), np.float32(q2), np.float32(T))
    np.testing.assert_allclose(paths, expected, atol=2e-6)


@pytest.mark.parametrize("dim", DIMS)
def test_slerp_begins_at_q1_exactly_and_ends_at_q2(dim):
    q1, q2 = np.float32(random_units(1, 50, dim)), np.float32(random_units(2, 50, dim))
    paths = np.asarray(slerp_paths(q1, q2, jnp.array([0.0, 1.0])))
    np.testing.assert_array_equal(paths[:, 0], q1)
    np.testing.assert_allclose(paths[:, 1], q2, atol=1e-6)


@pytest.mark.parametrize("dim", DIMS)
def test_slerp_of_equal_codes_stays(dim):
    q = np.float32(random_units(3, 50, dim))
    paths = np.asarray(slerp_paths(q, q, np.float32(T)))
    np.testing.assert_allclose(paths, q[:, None].repeat(len(T), 1), atol=1e-6)


@pytest.mark.parametrize("dim", DIMS)
def test_slerp_of_nearly_equal_codes(dim):
    q1, v = pairs_at(SMALL_ANGLES, dim)
    expected = great_circle(q1, v, SMALL_ANGLES, T)
    q1, q2 = np.float32(q1), np.float32(expected[:, -1])
    paths = np.asarray(slerp_paths(q1, q2, np.float32(T)))
    np.testing.assert_allclose(paths, expected, atol=5e-7)
    np.testing.assert_allclose(paths[:, -1], q2, atol=5e-7)


@pytest.mark.parametrize("dim", DIMS)
def test_slerp_of_nearly_opposite_codes(dim):
    q1, v = pairs_at(SMALL_ANGLES, dim)
    angles = np.pi - SMALL_ANGLES
    expected = great_circle(q1, v, angles, T)
    q1, q2 = np.float32(q1), np.float32(expected[:, -1])
    paths = np.asarray(slerp_paths(q1, q2, np.float32(T)))
    # Always half a circle from q1 to q2, however little its plane is known ...
    np.testing.assert_array_equal(paths[:, 0], q1)
    np.testing.assert_allclose(paths[:, -1], q2, atol=2e-5)
    cosines = np.einsum("nd,ntd->nt", q1, paths)
    np.testing.assert_allclose(cosines, np.cos(np.outer(angles, T)), atol=2e-5)
    # ... and in the right plane as far as float32 knows it: to eps / angle.
    error = np.abs(paths - expected).max((1, 2))
    known = SMALL_ANGLES > 2e-5
    assert (error[known] < 1e-6 + 4e-7 / SMALL_ANGLES[known]).all()


@pytest.mark.parametrize("dim", DIMS)
def test_slerp_of_opposite_codes_is_a_fixed_half_circle(dim):
    q = np.float32(random_units(4, 50, dim))
    q[0] = np.eye(dim)[0]
    paths = np.asarray(slerp_paths(q, -q, np.float32(T)))
    np.testing.assert_array_equal(paths, slerp_paths(q, -q, np.float32(T)))
    cosines = np.einsum("nd,ntd->nt", q, paths)
    expected = np.tile(np.cos(np.pi * T), (50, 1))
    np.testing.assert_allclose(cosines, expected, atol=1e-6)
    np.testing.assert_allclose(paths[:, -1], -q, atol=1e-6)


def every_kind_of_pair(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Regular, equal, opposite, nearly equal and nearly opposite codes, float32 [n, d]."""
    angles = np.concatenate([SMALL_ANGLES, np.pi - SMALL_ANGLES])
    q1, v = pairs_at(angles, dim)
    q2 = great_circle(q1, v, angles, np.ones(1))[:, 0]
    regular, other = random_units(5, 30, dim), random_units(6, 30, dim)
    axes = np.eye(dim)[:2]
    q1 = np.concatenate([q1, regular, regular, regular, axes, axes])
    q2 = np.concatenate([q2, other, regular, -regular, -axes, axes[::-1]])
    return np.float32(q1), np.float32(q2)


@pytest.mark.parametrize("dim", DIMS)
def test_slerp_has_length_1_everywhere(dim):
    q1, q2 = every_kind_of_pair(dim)
    norms = np.linalg.norm(slerp_paths(q1, q2, np.float32(T)), axis=-1)
    np.testing.assert_allclose(norms, np.ones_like(norms), atol=1e-6)


@pytest.mark.parametrize("dim", [2, 16])
def test_slerp_has_finite_gradients_everywhere(dim):
    q1, q2 = every_kind_of_pair(dim)
    jacobians = jax.jit(jax.vmap(slerp_jacobians, (0, 0, None)))
    for t in (0.0, 0.1, 0.5, 1.0):
        for jacobian in jacobians(q1, q2, t):
            assert np.isfinite(jacobian).all()


@pytest.mark.parametrize("dim", [2, 3, 16])
def test_slerp_has_the_gradients_of_scipys(dim):
    """Central differences in float64 along the sphere, where both functions are defined."""
    rng, h = np.random.default_rng(7), 1e-5
    for _ in range(10):
        q1, q2, v1, v2 = random_units(rng.integers(1 << 30), 4, dim)
        if abs(q1 @ q2) > 0.95:
            continue
        v1, v2 = v1 - (v1 @ q1) * q1, v2 - (v2 @ q2) * q2
        t, dt = rng.uniform(0.05, 0.95), rng.normal()

        def path(s, q1=q1, q2=q2, v1=v1, v2=v2, t=t, dt=dt):
            start, end = unit(q1 + s * v1), unit(q2 + s * v2)
            return scipy.spatial.geometric_slerp(start, end, t + s * dt)

        expected = (path(h) - path(-h)) / (2 * h)
        at, along = (q1, q2, t), (v1, v2, dt)
        jacobians = slerp_jacobians(*map(jnp.float32, at))
        tangent = sum(
            np.asarray(j) @ d if np.ndim(d) else j * np.float32(d)
            for j, d in zip(jacobians, along, strict=True)
        )
        np.testing.assert_allclose(tangent, expected, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 16])
def test_slerp_of_nearly_equal_codes_has_the_gradients_of_lerp(dim):
    q1, v = pairs_at(SMALL_ANGLES, dim)
    q2 = great_circle(q1, v, SMALL_ANGLES, np.ones(1))[:, 0]
    v1, v2 = random_units(10, *q1.shape), random_units(11, *q1.shape)
    v1 -= (v1 * q1).sum(-1, keepdims=True) * q1  # along the sphere
    v2 -= (v2 * q2).sum(-1, keepdims=True) * q2
    jacobians = jax.jit(jax.vmap(slerp_jacobians, (0, 0, None)))
    by_q1, by_q2, _ = jacobians(np.float32(q1), np.float32(q2), 0.3)
    tangents = np.einsum("nij,nj->ni", by_q1, v1) + np.einsum("nij,nj->ni", by_q2, v2)
    error = np.abs(tangents - (0.7 * v1 + 0.3 * v2)).max(-1)
    assert (error < 1e-3 + SMALL_ANGLES).all()


def test_lerp_by_hand():
    q1, q2 = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    np.testing.assert_array_equal(codes.lerp(q1, q2, 0.25), [0.75, 0.25])
    assert codes.INTERPOLATIONS == {"slerp": codes.slerp, "lerp": codes.lerp}


# The table


def test_project_codes_by_hand():
    z = jnp.array([[3.0, 4.0], [0.0, 0.0], [-1e-6, 0.0], [0.6, -0.8]])
    expected = [[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0], [0.6, -0.8]]
    np.testing.assert_allclose(codes.project_codes(z), expected, rtol=1e-6)
    np.testing.assert_allclose(codes.project_codes(z[0]), expected[0], rtol=1e-6)


def test_init_codes_is_uniform_on_the_sphere():
    n, dim = 20000, 6
    table = codes.init_codes(jax.random.key(0), n, dim, optax.scale_by_adam())
    z = np.asarray(table.z, np.float64)
    assert (table.z.shape, table.z.dtype) == ((n, dim), jnp.float32)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), np.ones(n), atol=1e-6)
    # Moments of the uniform distribution on the sphere, within 5 standard errors:
    # E z = 0, E z z' = I / d, E z_i^4 = 3 / (d (d + 2)).
    error = 5 / np.sqrt(n)
    np.testing.assert_allclose(z.mean(0), np.zeros(dim), atol=error * dim**-0.5)
    np.testing.assert_allclose(z.T @ z / n, np.eye(dim) / dim, atol=error / dim)
    fourth = np.full(dim, 3 / (dim * (dim + 2)))
    np.testing.assert_allclose((z**4).mean(0), fourth, atol=error * (z**4).std())
    leaves = jax.tree.leaves(table.opt_state)
    assert [leaf.shape[0] for leaf in leaves] == [n] * len(leaves)


def test_init_codes_row_does_not_depend_on_n():
    tx = optax.scale_by_adam()
    few = codes.init_codes(jax.random.key(3), 4, 8, tx).z
    many = codes.init_codes(jax.random.key(3), 9, 8, tx).z
    other = codes.init_codes(jax.random.key(4), 4, 8, tx).z
    np.testing.assert_array_equal(few, many[:4])
    assert not np.isin(few, other).any()
    assert len(np.unique(many)) == many.size


def test_example_keys_do_not_depend_on_the_batch():
    key = jax.random.key(5)
    data = jax.random.key_data(codes.example_keys(key, jnp.arange(10)))
    batch = jax.random.key_data(codes.example_keys(key, jnp.array([7, 2])))
    np.testing.assert_array_equal(batch, data[jnp.array([7, 2])])
    assert len({tuple(row) for row in np.asarray(data)}) == 10
    alone = jax.random.key_data(jax.random.fold_in(key, 7))
    np.testing.assert_array_equal(batch[0], alone)


OPTIMIZERS = {
    "adam": optax.scale_by_adam(b1=0.5, b2=0.999),
    "momentum": optax.trace(0.9),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam()),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_row_has_an_optimizer_of_its_own(name):
    tx, n, dim, rng = OPTIMIZERS[name], 7, 5, np.random.default_rng(8)
    table = codes.init_codes(jax.random.key(1), n, dim, tx)
    rows = [(table.z[i], tx.init(table.z[i])) for i in range(n)]  # each row alone

    @jax.jit
    def step(table, indices, grads, lr):
        batch = codes.gather_codes(table, indices)
        batch = codes.update_codes(batch, grads, lr, tx)
        return codes.scatter_codes(table, indices, batch)

    for batch, lr in ([4, 0, 2], 0.3), ([2, 5, 4], 0.1), ([6, 4, 0], 0.2):
        grads = rng.normal(size=(3, dim)).astype(np.float32)
        before = table
        table = step(table, jnp.array(batch), grads, lr)
        for i, grad in zip(batch, grads, strict=True):
            z, state = rows[i]
            update, state = tx.update(jnp.asarray(grad), state, z)
            rows[i] = unit(np.float32(z) - np.float32(lr) * np.float32(update)), state
        others = np.setdiff1d(np.arange(n), batch)
        for old, new in zip(
            jax.tree.leaves(before), jax.tree.leaves(table), strict=True
        ):
            np.testing.assert_array_equal(new[others], old[others])
            assert (new.shape, new.dtype) == (old.shape, old.dtype)

    for i, (z, state) in enumerate(rows):
        np.testing.assert_allclose(table.z[i], z, atol=1e-6)
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], table.opt_state)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), mine, state)


def test_update_codes_goes_down_on_the_sphere():
    tx = optax.trace(0.5)
    table = codes.init_codes(jax.random.key(2), 6, 4, tx)
    goal = jnp.float32(random_units(9, 6, 4))

    @jax.jit
    def update(table):  # eq. (2) with the loss |z - goal|^2 / 2
        return codes.update_codes(table, table.z - goal, 0.3, tx)

    for _ in range(60):
        table = update(table)
        norms = np.linalg.norm(table.z, axis=1)
        np.testing.assert_allclose(norms, np.ones(6), atol=1e-6)
    np.testing.assert_allclose(table.z, goal, atol=1e-3)


# Partners


def test_class_members_by_hand():
    labels = np.array([2, 0, -1, 2, 0, 2, -1, 3])
    classes = codes.class_members(labels, 4)
    np.testing.assert_array_equal(
        classes.members, [[1, 4, 1], [0, 0, 0], [0, 3, 5], [7, 7, 7]]
    )
    np.testing.assert_array_equal(classes.counts, [2, 0, 3, 1])
    np.testing.assert_array_equal(classes.rank, [0, 0, 0, 1, 1, 2, 0, 0])


def test_class_members_of_unlabelled_images_only():
    classes = codes.class_members(np.array([-1, -1]), 3)
    np.testing.assert_array_equal(classes.counts, [0, 0, 0])
    assert classes.members.shape == (3, 1)


def test_partners_are_others_of_the_class_uniformly():
    # Sizes 1, 2, 5 and 9, mixed with each other and with unlabelled images.
    labels = np.repeat([0, 1, 2, 3, -1], [1, 2, 5, 9, 6])
    labels = np.random.default_rng(0).permutation(labels)
    classes = codes.class_members(labels, 4)
    draws = 4000
    draw = jax.jit(lambda keys, i, y: codes.draw_partners(keys, i, y, classes))
    for image in np.flatnonzero(labels >= 0):
        keys = codes.example_keys(jax.random.key(image), jnp.arange(draws))
        indices = np.full(draws, image, np.int32)
        drawn = np.asarray(draw(keys, indices, labels[indices]))
        same = np.flatnonzero(labels == labels[image])
        if len(same) == 1:
            assert (drawn == image).all()
            continue
        others = same[same != image]
        counts = np.bincount(drawn, minlength=len(labels))
        assert counts[others].sum() == draws  # neither itself nor of another class
        if len(others) > 1:
            assert scipy.stats.chisquare(counts[others]).pvalue > 1e-3


def test_partners_do_not_depend_on_the_batch():
    labels = np.arange(12) % 3
    classes = codes.class_members(labels, 3)

    def draw(indices):
        keys = codes.example_keys(jax.random.key(0), jnp.array(indices))
        indices = np.array(indices, np.int32)
        return codes.draw_partners(keys, indices, labels[indices], classes)

    together = np.asarray(draw(range(12)))
    np.testing.assert_array_equal(draw([9, 4]), together[[9, 4]])
