"""Weight files of every bad kind are refused in one line, good ones read."""

import pickle
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy as st

from cglo_jax.pretrained import files, networks
from tests.helpers.published_weights import (
    assert_needed,
    header_of,
    random_tensors,
    refusal,
    vgg_tensors,
    write,
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.7.bias": None}, "has no tensor features.7.bias"),
        (
            {"features.7.bias": np.zeros((2, 1), "f")},
            "features.7.bias has shape [2, 1], expected [2]",
        ),
        (
            {"features.0.weight": np.zeros((3, 3, 3, 2), "f")},  # HWIO
            "features.0.weight has shape [3, 3, 3, 2], expected [2, 3, 3, 3]",
        ),
        (
            {"features.7.bias": np.zeros(2, np.float64)},
            "features.7.bias is stored as F64, expected F32, F16, BF16",
        ),
        (
            {"features.7.bias": np.array([0, np.nan], "f")},
            "features.7.bias has values that are not finite",
        ),
        (
            {"features.7.bias": np.array([-np.inf, 0], np.float16)},
            "features.7.bias has values that are not finite",
        ),
    ],
)
def test_a_tensor_that_is_not_as_expected_is_named(tmp_path, change, message):
    tensors = {k: t for k, t in (vgg_tensors() | change).items() if t is not None}
    path = write(tmp_path / "mine.safetensors", tensors)
    assert (line := refusal("vgg16", path)).startswith(str(path))
    assert message in line


def test_a_local_file_of_another_kind_is_refused(tmp_path):
    whole = write(tmp_path / "whole.safetensors", vgg_tensors()).read_bytes()
    path = tmp_path / "weights.safetensors"
    assert "there is no such file; give 'imagenet'" in refusal("vgg16", path)
    assert "there is no such file" in refusal("vgg16", "imagenett")
    assert "there is no such file" in refusal("vgg16", tmp_path)  # a folder
    assert "there is no such file" in refusal("vgg16", "~nobody/weights.safetensors")
    line = refusal("vgg16", tmp_path / ("x" * 300))
    assert line.endswith("xxx cannot be read: File name too long")
    for data in (b"", b"short", whole[:-1], whole[:100], b"\xff" * 500, whole + b"?"):
        path.write_bytes(data)
        line = refusal("vgg16", path)
        assert f"{path} is not a .safetensors file, or not a complete one" in line
    path.write_bytes(whole)
    assert_needed(networks.load("vgg16", str(path))[0], vgg_tensors())


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_is_never_opened(tmp_path):
    ran = tmp_path / "ran"
    for name in ("a.pth", "a.pt", "a.bin", "a.PKL", "a.ckpt", "a.safetensors", "a"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload(ran)))
        line = refusal("vgg16", tmp_path / name)
        if "." in name and not name.endswith(".safetensors"):
            assert "can run any code" in line and "safetensors.torch.save_file" in line
        assert not ran.exists()
    pickle.loads((tmp_path / "a").read_bytes()).close()
    assert ran.exists()  # so it would have shown
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert "HDF5" in refusal("vgg16", tmp_path / "a.h5")


def test_what_is_kept_has_the_same_bytes_everywhere():
    tensors = random_tensors({"b": (3, 2), "a": (1,), "c": (2, 1, 2)})
    about = {"z": "1", "a": 'é "2"'}
    data = files.serialize(tensors, about)
    backwards = dict(reversed(tensors.items())), dict(reversed(about.items()))
    assert files.serialize(*backwards) == data
    assert int.from_bytes(data[:8], "little") % 8 == 0
    read = st.load(data)
    assert set(read) == set(tensors)
    jax.tree.map(np.testing.assert_array_equal, read, tensors)
    assert header_of(data)[0]["__metadata__"] == about
