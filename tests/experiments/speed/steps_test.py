"""Tests of experiments/speed/steps.py and torch_steps.py: both sides do the same work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.tiny import create_dataset

torch = pytest.importorskip("torch")

from cglo_jax.cglo import algorithm, codes
from configs import cifar100
from experiments.speed import our_steps, steps, torch_steps


def count(tree) -> int:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(tree))


def count_torch(module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def theirs():
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(6) % 3
    return torch_steps.CGLO(images, labels, 100)


def test_networks_are_as_large_as_ours(theirs):
    config = our_steps.prepare(cifar100.get_config("10"))
    dataset = create_dataset(100, classes=100, size=32, channels=3)
    spec = algorithm.create_spec(config, dataset)
    init = jax.eval_shape(
        lambda key: algorithm.init_state(key, spec=spec, n=6, dim=128),
        jax.random.key(0),
    )
    vgg = jax.eval_shape(spec.vgg.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert count_torch(theirs.generator) == count(init.params["generator"])
    assert count_torch(theirs.weak) == count(init.params["weak_classifier"])
    assert count_torch(theirs.vgg) == count(vgg["params"])


def test_codes_are_updated_as_ours(theirs):
    config = our_steps.prepare(cifar100.get_config("10"))
    dataset = create_dataset(100, classes=100, size=32, channels=3)
    spec = algorithm.create_spec(config, dataset)
    table = codes.create_codes(jnp.asarray(theirs.z.numpy()), spec.adam)
    rng, indices = np.random.default_rng(0), np.array([4, 1, 2])
    for _ in range(3):
        gradient = rng.normal(size=(3, 128)).astype(np.float32)
        rows = codes.gather_codes(table, indices)
        rows = codes.update_codes(rows, gradient, spec.code_lr, spec.adam)
        table = codes.scatter_codes(table, indices, rows)
        rows = theirs.z[indices]
        theirs.update_codes(torch.tensor(indices), rows, torch.tensor(gradient))
    np.testing.assert_allclose(theirs.z, table.z, atol=1e-6)


@pytest.mark.parametrize("as_authors", [False, True])
def test_a_step_of_theirs_learns(as_authors):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    model = torch_steps.CGLO(images, torch.arange(4) % 2, 2, as_authors=as_authors)
    vgg = [p.clone() for p in model.vgg.parameters()]
    losses = [float(model.step(torch.arange(4))) for _ in range(8)]
    assert losses[-1] < losses[0]
    assert all(map(torch.equal, vgg, model.vgg.parameters()))
    assert (model.vgg[0].weight.grad is not None) == as_authors


def test_their_cache_is_what_they_compute(theirs):
    indices = torch.tensor([5, 0])
    x = theirs.images[indices].float() / 127.5 - 1
    computed = theirs.targets(x, indices)
    theirs.cache()
    for cached, tap in zip(theirs.targets(x, indices), computed, strict=True):
        np.testing.assert_allclose(cached, tap, atol=1e-4)
    theirs.cached = None


def test_their_augmentation_crops_and_flips():
    image = torch.arange(1, 28, dtype=torch.uint8).view(1, 3, 3, 3)
    torch.manual_seed(0)
    flipped = {
        tuple(torch_steps.augment(image, 0)[0, 0, 0].tolist()) for _ in range(20)
    }
    row = (np.array([1, 2, 3], np.float32) / np.float32(127.5) - 1).tolist()
    assert flipped == {tuple(row), tuple(row[::-1])}
    crops = torch.cat([torch_steps.augment(image, 1) for _ in range(60)])
    corners = (crops[:, 0, 1, 1] + 1) * 127.5  # the middle of a crop
    assert len(torch.unique(torch.round(corners))) == 9


def test_lines_of_the_table_by_hand():
    times = {
        "ours, cached": [0.5, 1.0, 1.0, 1.0, 2.0],
        "ours": [2.0] * 5,
        "PyTorch": [1.0, 2.0, 2.0, 3.0, 4.0],
    }
    text = steps.to_markdown("cglo", times, flops=1e9, peak=1e9)
    assert text.splitlines() == [
        "| cglo | ours, cached | 1000.0 (750.0-1500.0) |  |  |",
        "| cglo | ours | 2000.0 (2000.0-2000.0) | 50 |  |",
        "| cglo | PyTorch | 2000.0 (1500.0-3500.0) |  | 2.00 / 1.00 |",
    ]
