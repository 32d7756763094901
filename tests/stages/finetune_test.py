"""Fine-tuning: a classifier that starts from a file's ResNet, from the file to result.json.

The ResNet has one bottleneck per layer, and no other test has five classes: programs that
are compiled here are not taken for those of the whole ResNet-50.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import safetensors.numpy as st
from flax.traverse_util import flatten_dict

from cglo_jax.errors import UserError
from cglo_jax.models import resnet
from cglo_jax.pretrained import networks
from cglo_jax.stages import classify
from cglo_jax.training import checkpoints
from cglo_jax.training.batches import BatchOrder
from cglo_jax.workdir import results
from experiments.parity import flax_networks
from tests.helpers.tiny import assert_trees_equal, create_config, create_dataset

CLASSES = 5
STEPS = 3
SHAPE = {"size": 32, "channels": 3, "classes": CLASSES}
DATA = (
    create_dataset(20, **SHAPE),
    create_dataset(10, **SHAPE, seed=1, split="test"),
)
RENAMED = {
    "layer1.0": "layer1_0",
    "layer2.0": "layer2_0",
    "layer3.0": "layer3_0",
    "layer4.0": "layer4_0",
    "downsample.0": "downsample_conv",
    "downsample.1": "downsample_bn",
}
RENAMED_LEAVES = {
    "weight": "scale",
    "bias": "bias",
    "running_mean": "mean",
    "running_var": "var",
}


@pytest.fixture(scope="module", autouse=True)
def _small_resnet() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "BLOCKS", (1, 1, 1, 1))
        yield


def write(path: Path, seed: int = 0, dtype: str = "float32") -> Path:
    """Writes a ResNet in torchvision's names, the last layer (1000 classes) among it.

    The values are exact in float16.
    """
    drawn = flax_networks.random_tensors("resnet50", seed)
    tensors = {name: t.astype(np.float16).astype(dtype) for name, t in drawn.items()}
    st.save_file(tensors, path)
    return path


def expected_body(path: Path) -> dict[str, np.ndarray]:
    """Returns {path in our variables: tensor} of all in the file but its last layer."""
    body = {}
    for name, tensor in st.load_file(path).items():
        module, leaf = name.rsplit(".", 1)
        for theirs, ours in RENAMED.items():
            module = module.replace(theirs, ours)
        leaf = "kernel" if tensor.ndim == 4 else RENAMED_LEAVES[leaf]
        if tensor.ndim == 4:
            tensor = np.einsum("oihw->hwio", tensor)
        if module != "fc":
            body[f"{module.replace('.', '/')}/{leaf}"] = tensor
    return body


def body_of(model: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the same of a model's params and batch_stats."""
    flat = {}
    for tree in (model["params"], model["batch_stats"]):
        flat |= flatten_dict(tree, sep="/")
    return {k: np.asarray(v) for k, v in flat.items() if not k.startswith("head/")}


class Finetuned(NamedTuple):
    """A finished run: its weights, where it is, and its model at the start and the end."""

    weights: Path
    workdir: Path
    start: dict[str, Any]
    end: dict[str, Any]


def run(weights: Path, workdir: Path) -> None:
    config = create_config(
        **{
            "check_memory": False,  # the spy cannot be traced
            "classify.network": "resnet50",
            "classify.weights": str(weights),
            "classify.lr": 1e-3,
            "classify.epochs": STEPS,
            "classify.steps_per_epoch": 1,
        }
    )
    classify.run(config, workdir, DATA, "baseline", 0)


def read_model(workdir: Path) -> dict[str, Any]:
    """Returns the model of the newest checkpoint."""
    directory = results.result_path(workdir, "baseline", 0).parent / "checkpoints"
    with checkpoints.Checkpoints(directory, read_only=True) as saved:
        return saved.restore_model(saved.latest_step())


def read_result(workdir: Path) -> dict[str, Any]:
    return results.read_result(results.result_path(workdir, "baseline", 0))


@pytest.fixture(name="finetuned", scope="module")
def _finetuned(tmp_path_factory, _small_resnet) -> Finetuned:
    workdir = tmp_path_factory.mktemp("finetuned") / "run"
    weights = write(workdir.with_name("mine.safetensors"))
    starts = []
    compiled_step = classify.compiled_step

    def spy(*args):
        step = compiled_step(*args)

        def spied(state, *inputs):
            model = {"params": state.params, "batch_stats": state.batch_stats}
            starts.append(jax.tree.map(np.array, model))  # the state is donated
            return step(state, *inputs)

        return spied

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classify, "compiled_step", spy)
        run(weights, workdir)
    assert len(starts) == STEPS
    return Finetuned(weights, workdir, starts[0], read_model(workdir))


def test_it_starts_from_the_files_tensors_and_a_new_head(finetuned):
    expected = expected_body(finetuned.weights)
    assert len(expected) == (1 + 4 * 4) * 5  # convolutions, each with a batch norm
    assert_trees_equal(body_of(finetuned.start), expected)
    head = finetuned.start["params"]["head"]
    assert head["kernel"].shape == (2048, CLASSES)
    assert head["bias"].shape == (CLASSES,)


def test_every_part_is_trained(finetuned):
    start, end = body_of(finetuned.start), body_of(finetuned.end)
    assert start.keys() == end.keys()
    assert [name for name in start if np.array_equal(start[name], end[name])] == []
    heads = (model["params"]["head"]["kernel"] for model in finetuned[2:])
    assert not np.array_equal(*heads)
    # Fine-tuned, not drawn anew: the kernels are still mostly the file's.
    for name in (name for name in start if name.endswith("kernel")):
        moved = np.abs(end[name] - start[name]).max() / np.abs(start[name]).max()
        assert moved < 0.1, name


def test_the_result_names_the_weights(finetuned):
    result = read_result(finetuned.workdir)
    assert result["steps"] == STEPS
    assert result["n_test"] == 10 and result["dataset"]["num_classes"] == CLASSES
    text = result["classifier_weights"]
    assert text.startswith("ResNet-50 from mine.safetensors (trained on: not stated;")
    _, provenance = networks.load("resnet50", str(finetuned.weights))
    assert provenance.sha256 in text
    assert result["fingerprint"]["weights"] == provenance.digest


def test_training_leaves_the_tensors_in_memory_alone(finetuned):
    tensors, provenance = networks.load("resnet50", str(finetuned.weights))
    stored = st.load_file(finetuned.weights)
    assert_trees_equal(tensors, {name: stored[name] for name in tensors})
    assert networks.digest_of(tensors) == provenance.digest


def test_a_cut_off_run_goes_on_from_equal_tensors_only(
    finetuned, tmp_path, monkeypatch, capsys
):
    call = BatchOrder.__call__

    def interrupted(self, step):
        if step == 2:
            raise KeyboardInterrupt
        return call(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(BatchOrder, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(finetuned.weights, tmp_path)
    other = write(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(UserError, match="weights") as error:
        run(other, tmp_path)
    assert "\n" not in str(error.value)

    capsys.readouterr()
    renamed = write(tmp_path / "renamed.safetensors", dtype="float16")
    run(renamed, tmp_path)
    assert f"resumed at step 2 of {STEPS}" in capsys.readouterr().err
    assert_trees_equal(read_model(tmp_path), finetuned.end)
    result, whole = read_result(tmp_path), read_result(finetuned.workdir)
    assert "renamed.safetensors" in result.pop("classifier_weights")
    assert "mine.safetensors" in whole.pop("classifier_weights")
    assert result == whole


def test_a_result_is_taken_from_equal_tensors_only(finetuned, tmp_path, capsys):
    path = results.result_path(finetuned.workdir, "baseline", 0)
    before = path.read_bytes()
    run(write(tmp_path / "renamed.safetensors", dtype="float16"), finetuned.workdir)
    assert "classify baseline seed 0: done before" in capsys.readouterr().out
    with pytest.raises(UserError, match="weights") as error:
        run(write(tmp_path / "other.safetensors", seed=1), finetuned.workdir)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before
