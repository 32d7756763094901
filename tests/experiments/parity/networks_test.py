"""VGG-16, ResNet-50 and WRN-28-10 against PyTorch's values (experiments/parity/networks.py).

The golden values are compared with everywhere; what computes new ones needs PyTorch.
"""

import json
import sys
from collections.abc import Mapping

import flax.linen as nn
import jax
import numpy as np
import pytest

from cglo_jax.files import storage
from cglo_jax.models import resnet, vgg
from experiments.parity import flax_networks, networks
from experiments.parity.networks import Case

GRADIENT = "input gradient"
each_golden = pytest.mark.parametrize(
    "case", networks.GOLDEN_CASES, ids=lambda case: case.network
)


def golden_errors(case: Case, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns {tap: largest error of the golden values / the tap's largest magnitude}."""
    text = (networks.GOLDEN / f"{case.network}.json").read_text(encoding="utf-8")
    errors = {}
    for name, golden in json.loads(text)["golden"].items():
        output = outputs[name]
        assert list(output.shape) == golden["shape"]
        positions = np.random.RandomState(2).randint(output.size, size=40)
        ours = [*output.ravel()[positions], np.abs(output).max()]
        theirs = [*golden["values"], golden["largest"]]
        errors[name] = np.abs(np.subtract(ours, theirs)).max() / golden["largest"]
    return errors


@pytest.mark.parametrize(
    "case",
    [
        case if case.network == "vgg16" else pytest.param(case, marks=pytest.mark.slow)
        for case in networks.GOLDEN_CASES
    ],
    ids=lambda case: case.network,
)
def test_float64_gives_the_golden_values_and_gradient(case):
    errors = golden_errors(case, networks.run_flax(case, "float64"))
    assert GRADIENT in errors and len(errors) >= 5
    # What is left is the rounding of the float32 constants of the normalisation.
    assert max(errors.values()) < 1e-6, errors


@each_golden
def test_float32_gives_the_golden_values(case):
    errors = golden_errors(case, networks.run_flax(case))
    # In float32 an activation near zero may switch and move the gradient.
    assert errors.pop(GRADIENT) < 0.05
    assert max(errors.values()) < 1e-4, errors


def test_golden_values_are_many_different_ones_from_torchvision():
    for case in networks.GOLDEN_CASES:
        text = (networks.GOLDEN / f"{case.network}.json").read_text(encoding="utf-8")
        read = json.loads(text)
        origin = "torch_networks" if case.network == "wrn28_10" else "torchvision"
        assert read["oracle"].startswith(origin)
        for golden in read["golden"].values():
            assert len(set(golden["values"])) > 15  # ReLUs leave many zeros
            assert np.abs(golden["values"]).max() > 0.1 * golden["largest"]


def pool_padded_after(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2), "SAME")


def leaky(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, 0.001)


@pytest.mark.parametrize(
    ("network", "owner", "name", "replacement"),
    [
        ("resnet50", resnet, "max_pool_3x3", pool_padded_after),
        ("vgg16", vgg, "normalize_imagenet", lambda x: x),
        ("vgg16", nn, "relu", leaky),
        ("wrn28_10", nn, "relu", leaky),
    ],
)
def test_golden_values_tell_a_changed_network(
    network, owner, name, replacement, monkeypatch
):
    monkeypatch.setattr(owner, name, replacement)
    case = next(case for case in networks.GOLDEN_CASES if case.network == network)
    errors = golden_errors(case, networks.run_flax(case))
    assert max(errors.values()) > 10 * networks.TOLERANCE


@each_golden
def test_torch_networks_give_the_golden_values(case):
    pytest.importorskip("torch")
    errors = golden_errors(case, networks.run_torch(case, own=True, dtype="float64"))
    assert max(errors.values()) < 1e-7, errors


def test_training_agrees_with_torch():
    pytest.importorskip("torch")
    case = Case("resnet50", 40, batch=2, train=True)  # odd maps: 10, 5, 3, 2
    ours = networks.run_flax(case, "float64")
    theirs = networks.run_torch(case, networks.choose_oracle("resnet50").own, "float64")
    running = {"running means", "running variances"}
    assert ours.keys() == theirs.keys() >= {"logits", GRADIENT} | running
    for name in theirs:
        assert networks.relative_error(ours[name], theirs[name]) < 1e-6, name
    # The weights' own running values would be far off.
    tensors = flax_networks.random_tensors("resnet50")
    stats = flax_networks.from_torch("resnet50", tensors)["batch_stats"]
    before = flax_networks.running_values(stats)
    assert before.keys() == running
    for name in running:
        assert networks.relative_error(before[name], theirs[name]) > 0.05


def test_running_variances_of_torch_become_biased():
    torch = pytest.importorskip("torch")
    from experiments.parity import torch_networks

    # Channel 0 of [2, 2, 1, 2]: 0, 2, 4, 6; its variance is 20 / 4, or unbiased 20 / 3.
    x = torch.tensor([[0.0, 2, 9, 9], [4, 6, 9, 9]]).reshape(2, 2, 1, 2)
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(2))
    net[0].running_var[:] = torch.tensor([3.0, 7.0])
    before = {name: t.numpy().copy() for name, t in net.state_dict().items()}
    counts = torch_networks.count_values(net)
    net(x)
    after = {name: t.numpy() for name, t in net.state_dict().items()}
    assert counts == {"0": 4}
    np.testing.assert_allclose(after["0.running_var"], [2.7 + 2 / 3, 6.3], rtol=1e-6)
    biased = torch_networks.with_biased_variances(before, after, counts)
    np.testing.assert_allclose(biased["0.running_var"], [2.7 + 0.5, 6.3], rtol=1e-6)
    np.testing.assert_array_equal(biased["0.running_mean"], after["0.running_mean"])


def test_relative_error_by_hand():
    theirs = np.array([[1.0, -4.0]])
    assert networks.relative_error(np.array([[1.5, -4.0]]), theirs) == 0.125
    assert networks.relative_error(np.array([[1.0, -3.0]]), theirs) == 0.25
    with pytest.raises(ValueError, match=r"\(2,\) is not PyTorch's \(1, 2\)"):
        networks.relative_error(theirs[0], theirs)
    assert not networks.relative_error(theirs * np.nan, theirs) <= 1


@pytest.mark.parametrize(
    ("float32", "float64", "rounding", "expected"),
    [
        (9e-5, 9e-5, 0.0, True),
        (2e-4, 0.0, 1e-6, False),
        (2e-4, 0.0, 1e-4, True),
        (4e-4, 0.0, 1e-4, False),
        (0.0, 2e-4, 1e-2, False),
        (float("nan"), 0.0, 1e-2, False),
        (0.0, float("nan"), 1e-2, False),
    ],
)
def test_bounds(float32, float64, rounding, expected):
    row = {"error_float32": float32, "error_float64": float64}
    assert networks.agrees({**row, "torch_rounding": rounding}) is expected


def test_measure_prints_and_records_and_fails_on_disagreement(
    tmp_path, monkeypatch, capsys
):
    pytest.importorskip("torch")
    monkeypatch.setattr(networks, "RESULTS", tmp_path / "parity.jsonl")
    networks.RESULTS.write_text('{"compared": "by an earlier run"}\n')
    monkeypatch.setattr(networks, "CASES", (Case("vgg16", 16),))
    networks.measure()
    records = storage.read_records(tmp_path / "parity.jsonl")
    assert [r["compared"] for r in records] == [*vgg.TAPS, GRADIENT]
    assert all(
        {"oracle", "date", "platform", "environment"} <= r.keys() for r in records
    )
    assert all(0 < r["error_float32"] for r in records)  # the two sides are not one
    assert records[0]["shape"] == [1, 16, 16, 64]
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + len(records)
    assert {line.count("|") for line in table} == {10}
    assert table[2].startswith("| VGG-16 | 16 | eval | conv1_2 | ")

    rows = [records[0], {**records[1], "error_float64": 2e-4}]
    monkeypatch.setattr(networks, "compare_case", lambda *_: rows)
    with pytest.raises(SystemExit, match=r"^does not agree: VGG-16 16 eval conv2_2$"):
        networks.measure()
    records = storage.read_records(networks.RESULTS)
    assert [r["error_float64"] for r in records] == [r["error_float64"] for r in rows]

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(networks, "compare_case", interrupt)
    with pytest.raises(KeyboardInterrupt):
        networks.measure()
    assert storage.read_records(networks.RESULTS) == records
    assert list(tmp_path.iterdir()) == [networks.RESULTS]


def test_without_pytorch_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(sys, "argv", ["parity"])
    with pytest.raises(SystemExit, match=r"^there is no PyTorch: pip install -e "):
        networks.main()


def test_random_tensors_repeat_and_keep_maps_alive():
    once, again = (flax_networks.random_tensors("vgg16") for _ in range(2))
    for name in once:
        np.testing.assert_array_equal(once[name], again[name])
    assert once["features.0.weight"].dtype == np.float32
    kernel = once["features.2.weight"]
    assert kernel.std() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
