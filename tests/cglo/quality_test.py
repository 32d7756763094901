"""Tests of cglo/quality.py: hand-worked distances and angles, brute force, a small network."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cglo_jax.cglo import quality
from cglo_jax.errors import UserError
from cglo_jax.models.wide_resnet import WideResNet


def make_rows(n, features, seed=0):
    return np.random.default_rng(seed).normal(size=(n, features)).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    """Makes blocks of three rows, so that small arrays need several, the last one shorter."""
    monkeypatch.setattr(quality, "_ROWS", 3)


def test_nearest_by_hand():
    a = np.array([[0.0, 0.0], [3.0, 4.0]])
    b = np.array([[3.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    distance, index = quality.nearest(a, b)
    # sqrt((0 + 1) / 2), and the image itself
    np.testing.assert_allclose(distance, [math.sqrt(0.5), 0])
    assert index.tolist() == [1, 2]


def test_nearest_takes_the_first_of_equals_and_whole_numbers():
    b = np.array([[9, 9], [200, 7], [200, 7]], np.uint8)
    distance, index = quality.nearest(np.array([[205, 7]], np.uint8), b)
    assert index.tolist() == [1]
    np.testing.assert_allclose(distance, math.sqrt(25 / 2))


@pytest.mark.parametrize(("m", "n"), [(1, 1), (7, 8), (3, 10)])
def test_nearest_is_brute_force(m, n, small_blocks):
    a, b = make_rows(m, 5), make_rows(n, 5, seed=1)
    distance, index = quality.nearest(a, b)
    for i in range(m):
        each = [
            math.sqrt(sum((x - y) ** 2 for x, y in zip(a[i], r, strict=True)) / 5)
            for r in b
        ]
        assert index[i] == min(range(n), key=each.__getitem__)
        assert distance[i] == pytest.approx(min(each), rel=1e-6)


def test_copy_far_from_the_origin_is_at_zero():
    # In float32 the norms, 1e8 each, would leave nothing of differences of 1.
    b = 1e4 + make_rows(6, 4)
    distance, index = quality.nearest(b[[4]], b)
    assert distance.tolist() == [0]
    assert index.tolist() == [4]
    distance, index = quality.nearest(b[[4]] + 0.01, b)
    assert index.tolist() == [4]
    np.testing.assert_allclose(distance, 0.01, rtol=0.1)


def test_blocks_stay_small(monkeypatch):
    shapes = []
    exact = quality._squared_distances
    monkeypatch.setattr(quality, "_VALUES", 40)  # 10 rows of 4 values

    def record(a, b):
        shapes.append((*a.shape, *b.shape))
        return exact(a, b)

    monkeypatch.setattr(quality, "_squared_distances", record)
    quality.nearest(make_rows(25, 4), make_rows(12, 4))
    assert len(shapes) == 6
    assert max(max(s[0], s[2]) for s in shapes) == 10


def test_nearest_of_class_looks_at_its_class_only():
    a, a_labels = np.array([[0.0], [0.0], [5.0]]), np.array([0, 1, 2])
    b, b_labels = np.array([[1.0], [2.0], [0.5], [-7.0]]), np.array([0, 0, 1, 1])
    distance = quality.nearest_of_class(a, a_labels, b, b_labels)
    assert distance.tolist() == [1.0, 0.5, math.inf]


def test_copies_by_hand():
    real = np.arange(101.0)  # 1st percentile 1, median 50
    synthetic = np.array([0.0, 0.5, 1.0, 25.0, 30.0, 40.0, 99.0, 200.0])
    check = quality.check_copies(synthetic, real)
    assert check == (27.5, 50.0, 0.55, 25.0)


def test_real_images_are_one_percent_copies():
    rng = np.random.default_rng(0)
    check = quality.check_copies(rng.random(20000), rng.random(20000))
    assert check.copies == pytest.approx(1, abs=0.3)
    assert check.ratio == pytest.approx(1, abs=0.05)


def test_held_out_copies_are_refused():
    with pytest.raises(UserError, match="copies of training images"):
        quality.check_copies(np.ones(3), np.array([0.0, 0.0, 1.0]))


def test_parents_are_source_or_partner():
    parents = np.array([[0, 1], [2, 3], [4, 4], [5, 6]])
    assert quality.parent_share(np.array([1, 2, 5, 0]), parents) == 50


def test_mean_pairwise_by_hand():
    # Of a 3-4-5 triangle, per value: (3 + 4 + 5) / 3 / sqrt(2)
    triangle = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    assert quality.mean_pairwise(triangle) == pytest.approx(4 / math.sqrt(2))


def test_mean_pairwise_is_brute_force(small_blocks):
    x = 100 + make_rows(8, 5)
    pairs = [np.sqrt(((a - b) ** 2).mean()) for a, b in itertools.combinations(x, 2)]
    assert quality.mean_pairwise(x) == pytest.approx(np.mean(pairs), rel=1e-5)


def test_diversity_by_hand():
    real = np.array([[0.0], [4.0], [10.0], [11.0], [50.0], [5.0], [6.0]])
    real_labels = np.array([0, 0, 1, 1, 2, 3, 3])
    synthetic = np.array([[1.0], [2.0], [20.0], [22.0], [0.0], [9.0], [3.0]])
    synthetic_labels = np.array([0, 0, 1, 1, 2, 2, 3])
    # Class 0: 1 / 4; class 1: 2 / 1; 2 has one real image, 3 one new one.
    value = quality.class_diversity(synthetic, synthetic_labels, real, real_labels)
    assert value == pytest.approx((0.25 + 2) / 2)
    same = quality.class_diversity(real, real_labels, real, real_labels)
    assert same == pytest.approx(1)


@pytest.mark.parametrize("real", [[[1.0], [2.0]], [[1.0], [1.0]]])
def test_diversity_needs_pairs(real):
    labels = np.array([0, 1]) if real[0] != real[1] else np.array([0, 0])
    with pytest.raises(UserError, match="two different real images"):
        quality.class_diversity(np.array(real), labels, np.array(real), labels)


def test_angles_by_hand():
    angle = np.radians([0, 30, 90, 180, 45])
    z = np.stack([np.cos(angle), np.sin(angle)], 1)
    z *= np.array([[1], [2], [1], [3], [1]])  # lengths do not matter
    intra, inter = quality.code_angles(z, np.array([0, 0, 1, 1, -1]))
    assert intra == pytest.approx((30 + 90) / 2)
    assert inter == pytest.approx((90 + 180 + 60 + 150) / 4)


def test_angles_are_brute_force_and_leave_codes_alone(small_blocks):
    z = make_rows(10, 6)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    labels = np.array([0, 1, 2, 0, 1, -1, 0, 1, 2, 2])
    before = z.copy()
    values = {True: [], False: []}
    for i, j in itertools.combinations(np.flatnonzero(labels >= 0), 2):
        angle = math.degrees(math.acos(float(z[i].astype(float) @ z[j].astype(float))))
        values[bool(labels[i] == labels[j])].append(angle)
    angles = quality.code_angles(z, labels)
    assert angles == pytest.approx((np.mean(values[True]), np.mean(values[False])))
    np.testing.assert_array_equal(z, before)


def test_angles_without_a_pair_are_nan():
    z = np.eye(2)
    assert quality.code_angles(z, np.array([0, 1])) == pytest.approx(
        (math.nan, 90), nan_ok=True
    )
    assert quality.code_angles(z, np.array([0, 0])) == pytest.approx(
        (90, math.nan), nan_ok=True
    )
    assert np.isnan(quality.code_angles(z, np.array([-1, -1]))).all()


def test_equal_codes_have_no_angle():
    z = np.tile(make_rows(1, 128), (3, 1))
    intra, _ = quality.code_angles(z, np.array([0, 0, 0]))
    assert intra == pytest.approx(0, abs=1e-5)


def test_class_accuracy_by_hand():
    logits = np.eye(4)[[0, 0, 1, 2, 2, 2]]
    accuracy = quality.class_accuracy(logits, np.array([0, 1, 1, 2, 2, 0]))
    np.testing.assert_allclose(accuracy, [50, 50, 100, np.nan])


def test_embedding_times_head_is_logits(compilations):
    model = WideResNet(3, depth=10, width=1, dropout=0.0)
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), np.uint8)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    logits, embeddings = quality.embed(variables, model, images)
    assert logits.shape == (300, 3)
    assert embeddings.shape == (300, 64)
    head = variables["params"]["head"]
    expected = embeddings @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    # An image's row does not depend on the batch it is in, and batches share a program.
    before = len(compilations)
    again, _ = quality.embed(variables, model, images[::-1])
    np.testing.assert_allclose(again[::-1], logits, atol=1e-5)
    assert len(compilations) == before


def test_embed_scales_pixels_and_uses_running_statistics():
    class Mean(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            mean = x.mean((1, 2))
            y = nn.BatchNorm(use_running_average=not train, epsilon=0.0)(mean)
            return y, {"embedding": mean}

    images = np.zeros((2, 2, 2, 1), np.uint8)
    images[1] = 255
    variables = {
        "params": {"BatchNorm_0": {"scale": jnp.ones(1), "bias": jnp.zeros(1)}},
        "batch_stats": {
            "BatchNorm_0": {"mean": jnp.full(1, 3.0), "var": jnp.full(1, 4.0)}
        },
    }
    logits, embeddings = quality.embed(variables, Mean(), images)
    np.testing.assert_allclose(embeddings, [[-1], [1]])
    np.testing.assert_allclose(logits, [[-2], [-1]], rtol=1e-6)


def test_positions_are_spread_over_all():
    assert quality.spread(9, 3).tolist() == [0, 4, 8]
    assert quality.spread(3, 16).tolist() == [0, 1, 2]
    assert quality.spread(100, 1).tolist() == [0]
    assert quality.spread(0, 5).tolist() == []
    assert len(quality.spread(1601, 1600)) == 1600
