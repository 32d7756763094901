"""Weights become params of the models, and say where they come from."""

import functools
import hashlib
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy as st

from cglo_jax.config.checks import VGG16_LAYERS
from cglo_jax.models import resnet, vgg
from cglo_jax.pretrained import cache, files, networks
from tests.helpers.published_weights import (
    LAYERS,
    TINY_RESNET,
    TINY_WIDTHS,
    assert_needed,
    cached,
    header_of,
    publish,
    random_tensors,
    refusal,
    vgg_shapes,
    vgg_tensors,
    write,
)

CONV5_3_FILE = cache.PINNED["vgg16_conv5_3"].file
VGG_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512)


def test_vgg16_shapes_are_torchvisions(monkeypatch):
    assert networks.vgg16_shapes() == vgg_shapes(TINY_WIDTHS)
    monkeypatch.undo()
    assert networks.vgg16_shapes() == vgg_shapes(VGG_WIDTHS)
    more = networks.SHAPES["vgg16_conv5_3"]()
    last = {"features.28.weight": (512, 512, 3, 3), "features.28.bias": (512,)}
    assert more == networks.vgg16_shapes() | last


def test_only_conv5_3_and_pool5_need_the_last_convolution():
    last = {"conv5_3", "conv5_3_pre", "pool5"}
    for tap in VGG16_LAYERS:
        name = networks.vgg16_with(("conv1_2", tap))
        assert name == ("vgg16_conv5_3" if tap in last else "vgg16"), tap
    assert networks.vgg16_with(()) == "vgg16"


def test_the_last_convolution_is_fetched_only_if_it_is_needed(server, monkeypatch):
    (path,) = [path for path in server.files if "vgg16" in path]
    tensors = vgg_tensors() | {"features.28.bias": np.arange(4, dtype="f")}
    publish(monkeypatch, server, "vgg16_conv5_3", st.save(tensors))
    assert len([p for p in server.files if "vgg16" in p]) == 1  # the same address
    loaded, provenance = networks.load("vgg16_conv5_3", "imagenet")
    extra = {"features.28.weight", "features.28.bias"}
    assert set(loaded) == set(vgg_shapes(TINY_WIDTHS)) | extra
    np.testing.assert_array_equal(
        networks.vgg16_params(loaded)["conv5_3"]["bias"], tensors["features.28.bias"]
    )
    assert provenance.name == "VGG-16"
    assert cached() == [f"{CONV5_3_FILE}{end}" for end in ("", ".sha256")]
    assert CONV5_3_FILE != cache.PINNED["vgg16"].file
    publish(monkeypatch, server, "vgg16", server.files[path])
    less, of_less = networks.load("vgg16", "imagenet")
    assert_needed(less, tensors)
    assert of_less.digest != provenance.digest


def test_a_file_without_the_last_convolution_is_refused_if_it_is_needed(tmp_path):
    path = write(tmp_path / "mine.safetensors", vgg_tensors())
    networks.load("vgg16", str(path))
    assert "mine.safetensors has no tensor features.28.bias" in refusal(
        "vgg16_conv5_3", path
    )


def test_resnet50_shapes_are_torchvisions():
    shapes = networks.resnet50_shapes()
    counts = {True: 0, False: 0}  # running statistics or parameters
    for name, shape in shapes.items():
        counts["running" in name] += int(np.prod(shape))
    assert counts[False] == 25_557_032 - (2048 * 1000 + 1000)  # without fc
    assert counts[True] == 2 * 26_560
    assert len(shapes) == 53 * 5  # convolutions, each with a batch norm
    assert shapes["layer1.0.conv1.weight"] == (64, 64, 1, 1)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer2.0.downsample.1.running_var"] == (512,)
    assert shapes["layer3.5.conv2.weight"] == (256, 256, 3, 3)
    assert shapes["layer4.2.bn3.bias"] == (2048,)
    assert not any(name.startswith(("fc", "layer1.1.down")) for name in shapes)


def test_resnet18_shapes_are_torchvisions():
    shapes = networks.resnet18_shapes()
    counts = {True: 0, False: 0}  # running statistics or parameters
    for name, shape in shapes.items():
        counts["running" in name] += int(np.prod(shape))
    assert counts[False] == 11_689_512 - (512 * 1000 + 1000)  # without fc
    assert counts[True] == 2 * 4_800
    assert len(shapes) == 20 * 5  # convolutions, each with a batch norm
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert shapes["layer3.1.conv2.weight"] == (256, 256, 3, 3)
    assert not any("conv3" in name or "layer1.0.down" in name for name in shapes)


def test_resnet18_is_of_a_file_as_nothing_else_is_known(tmp_path, monkeypatch):
    assert refusal("resnet18", "imagenet") == (
        "ImageNet's weights of a ResNet-18 are not known here: give a .safetensors file with "
        "torchvision's names in place of imagenet, or random"
    )
    monkeypatch.setitem(networks.SHAPES, "resnet18", lambda: TINY_RESNET)
    path = write(tmp_path / "mine.safetensors", random_tensors(TINY_RESNET))
    tensors, provenance = networks.load("resnet18", str(path))
    assert set(tensors) == set(TINY_RESNET)
    assert provenance.describe().startswith("ResNet-18 from mine.safetensors")


def test_vgg16_params_are_the_transposed_tensors():
    tensors = random_tensors(vgg_shapes(TINY_WIDTHS))
    params = networks.vgg16_params(tensors)
    assert set(params) == set(LAYERS.values())
    for index, layer in LAYERS.items():
        expected = np.einsum("oihw->hwio", tensors[f"features.{index}.weight"])
        np.testing.assert_array_equal(params[layer]["kernel"], expected)
        assert params[layer]["bias"] is tensors[f"features.{index}.bias"]
    o, i, h, w = 2, 1, 0, 2
    kernel = params["conv3_3"]["kernel"]
    assert kernel[h, w, i, o] == tensors["features.14.weight"][o, i, h, w]


def test_vgg16_params_fit_the_model(monkeypatch):
    params = networks.vgg16_params(random_tensors(vgg_shapes(TINY_WIDTHS)))
    image = jnp.zeros((1, 32, 32, 3))
    init = jax.eval_shape(vgg.VGG16().init, jax.random.key(0), image)["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda x: x.shape, init)


def test_resnet50_variables_fit_the_model():
    shapes = networks.resnet50_shapes()
    tensors = {k: np.broadcast_to(np.float32(0), s) for k, s in shapes.items()}
    params, batch_stats = networks.resnet_variables(tensors)
    model = resnet.ResNet50(num_classes=7)
    image = jnp.zeros((1, 32, 32, 3))
    init = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), image
    )
    expected = jax.tree.map(lambda x: x.shape, init)
    del expected["params"]["head"]
    assert jax.tree.map(np.shape, params) == expected["params"]
    assert jax.tree.map(np.shape, batch_stats) == expected["batch_stats"]


def test_resnet50_variables_are_where_they_belong():
    rng = np.random.default_rng(0)
    names = networks.resnet50_shapes()
    tensors = {  # of other sizes, which the conversion does not look at
        k: rng.normal(size=(5, 4, 3, 2) if len(s) == 4 else 5) for k, s in names.items()
    }
    params, stats = networks.resnet_variables(tensors)
    places = {
        "conv1.weight": params["conv1"]["kernel"],
        "bn1.running_mean": stats["bn1"]["mean"],
        "layer1.2.conv3.weight": params["layer1_2"]["conv3"]["kernel"],
        "layer2.3.bn2.weight": params["layer2_3"]["bn2"]["scale"],
        "layer2.3.bn2.bias": params["layer2_3"]["bn2"]["bias"],
        "layer3.0.downsample.0.weight": params["layer3_0"]["downsample_conv"]["kernel"],
        "layer3.0.downsample.1.bias": params["layer3_0"]["downsample_bn"]["bias"],
        "layer3.0.downsample.1.running_mean": stats["layer3_0"]["downsample_bn"][
            "mean"
        ],
        "layer4.1.bn3.running_var": stats["layer4_1"]["bn3"]["var"],
    }
    for name, found in places.items():
        expected = tensors[name]
        if expected.ndim == 4:
            expected = np.einsum("oihw->hwio", expected)
        np.testing.assert_array_equal(found, expected, err_msg=name)
    leaves = jax.tree.leaves((params, stats))
    assert len(leaves) == len(tensors)  # none lost, none twice
    assert sum(map(np.sum, leaves)) == pytest.approx(sum(map(np.sum, tensors.values())))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_a_local_file_is_loaded_in_float32(tmp_path, dtype):
    tensors = {k: t.astype(dtype) for k, t in vgg_tensors().items()}
    path = write(tmp_path / "mine.safetensors", tensors)
    loaded, provenance = networks.load("vgg16", str(path))
    assert_needed(loaded, {k: np.asarray(t, np.float32) for k, t in tensors.items()})
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    digest = networks.digest_of(loaded)
    assert provenance == networks.Provenance(
        "VGG-16", "mine.safetensors", "not stated", "not stated", sha256, digest
    )
    assert "\n" not in provenance.describe() and sha256 in provenance.describe()


def test_the_digest_by_hand():
    b, a = np.array([[1, -2]], "f"), np.array([0.5], "f")
    floats = {1: b"\0\0\x80\x3f", -2: b"\0\0\0\xc0", 0.5: b"\0\0\0\x3f"}
    data = b"a [1]\n" + floats[0.5] + b"b [1, 2]\n" + floats[1] + floats[-2]
    digest = hashlib.sha256(data).hexdigest()
    assert networks.digest_of({"b": b, "a": a}) == digest
    others = [
        {"b": b.T, "a": a},
        {"c": b, "a": a},
        {"b": b[:, ::-1], "a": a},
        {"b": np.nextafter(b, 9), "a": a},
        {"a": a},
    ]
    assert len({digest, *map(networks.digest_of, others)}) == 6


def test_equal_tensors_have_one_digest_whatever_file_they_are_from(server, tmp_path):
    _, part = networks.load("vgg16", "imagenet")
    (data,) = [d for path, d in server.files.items() if "vgg16" in path]
    (tmp_path / "full.safetensors").write_bytes(data)
    (tmp_path / "renamed").write_bytes(data)
    halves = {k: t.astype(np.float16) for k, t in vgg_tensors().items()}
    write(tmp_path / "half.safetensors", halves)
    wide = {k: t.astype(np.float32) for k, t in halves.items()}
    write(tmp_path / "wide.safetensors", wide, {"trained_on": "the same"})

    def load(name: str) -> networks.Provenance:
        return networks.load("vgg16", str(tmp_path / name))[1]

    full, renamed = load("full.safetensors"), load("renamed")
    half, wide = load("half.safetensors"), load("wide.safetensors")
    assert part.digest == full.digest == renamed.digest != half.digest == wide.digest
    assert part.sha256 != full.sha256 == renamed.sha256
    assert half.sha256 != wide.sha256


@pytest.fixture(name="reads")
def _reads(monkeypatch) -> list[str]:
    """Every reading ('read') and hashing ('hash') of a file."""
    done, read = [], files.read
    file_digest = hashlib.file_digest

    def counted_read(*args):
        done.append("read")
        return read(*args)

    def counted_digest(*args):
        done.append("hash")
        return file_digest(*args)

    monkeypatch.setattr(files, "read", counted_read)
    monkeypatch.setattr(hashlib, "file_digest", counted_digest)
    return done


def test_a_file_is_read_and_hashed_once_until_it_changes(tmp_path, reads):
    path = write(tmp_path / "a.safetensors", vgg_tensors())
    before = path.stat().st_mtime_ns
    first = networks.load("vgg16", str(path))
    assert sorted(reads) == ["hash", "read"]
    first[0].clear()  # the caller's own
    again, provenance = networks.load("vgg16", str(path))
    assert sorted(reads) == ["hash", "read"] and provenance == first[1]
    assert_needed(again, vgg_tensors())

    write(path, vgg_tensors(seed=1))  # of the same size
    os.utime(path, ns=(before + 1, before + 1))
    changed, provenance = networks.load("vgg16", str(path))
    assert_needed(changed, vgg_tensors(seed=1))
    assert provenance.digest != first[1].digest
    assert provenance.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    assert "there is no such file" in refusal("vgg16", path)


@pytest.mark.parametrize("network", ["vgg16", "resnet50"])
def test_published_weights_are_read_and_hashed_once(server, reads, network):
    networks.load(network, "imagenet")
    files._sha256_of.cache_clear()  # as in a new process
    networks._load.cache_clear()
    reads.clear()
    for _ in range(3):
        networks.load(network, "imagenet")
    assert sorted(reads) == ["hash", "read"]


def test_what_is_kept_in_memory_cannot_be_changed(tmp_path):
    path = write(tmp_path / "a.safetensors", vgg_tensors())
    tensors, _ = networks.load("vgg16", str(path))
    for tensor in tensors.values():
        with pytest.raises(ValueError, match="read-only"):
            tensor[...] = 0


def test_resnet50_ignores_its_last_layer_and_counters(tmp_path):
    tensors = random_tensors(TINY_RESNET | {"fc.weight": (4, 2), "fc.bias": (4,)})
    counter = {"bn1.num_batches_tracked": np.array(7)}
    path = write(tmp_path / "r.safetensors", tensors | counter)
    loaded, provenance = networks.load("resnet50", str(path))
    assert set(loaded) == set(TINY_RESNET)
    assert provenance.name == "ResNet-50"


@pytest.mark.parametrize("key", ["licence", "license"])
def test_a_file_may_say_where_it_comes_from(tmp_path, monkeypatch, key):
    said = {"trained_on": "birds\n of \x1b[31mmy garden", key: "CC0", "more": "x"}
    write(tmp_path / "b.safetensors", vgg_tensors(), said)
    monkeypatch.setenv("HOME", str(tmp_path))
    _, provenance = networks.load("vgg16", "~/b.safetensors")
    assert provenance.trained_on == "birds of [31mmy garden"
    assert (provenance.licence, provenance.origin) == ("CC0", "b.safetensors")
    write(tmp_path / "b.safetensors", vgg_tensors(), {key: "x" * 10_000})
    _, provenance = networks.load("vgg16", "~/b.safetensors")
    assert provenance.licence == "x" * 200


def test_the_published_file_is_known_by_its_digest(tmp_path, monkeypatch):
    path = write(tmp_path / "renamed", vgg_tensors(), {"trained_on": "lies"})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    pinned = cache.PINNED["vgg16"]._replace(sha256=digest)
    monkeypatch.setitem(cache.PINNED, "vgg16", pinned)
    _, provenance = networks.load("vgg16", str(path))
    assert provenance.origin == f"timm/vgg16.tv_in1k@{pinned.commit}"
    assert provenance.trained_on == "ImageNet-1k"
    assert (provenance.licence, provenance.sha256) == ("BSD-3-Clause", digest)


def test_the_file_of_shared_data_loads(monkeypatch):
    if not (shared := os.environ.get("CGLO_SHARED")):
        pytest.skip("needs CGLO_SHARED, a directory holding data/vgg16_cifar10")
    monkeypatch.undo()  # the VGG-16 in its true size
    path = Path(shared) / "data" / "vgg16_cifar10.safetensors"
    tensors, provenance = networks.load("vgg16", str(path))
    digest = "50fc672542788ed000ee0bb8a743da388b444b54b3efc1de6b893db2674c2039"
    assert provenance.sha256 == digest
    assert provenance.trained_on.startswith("CIFAR-10 training set")
    assert provenance.licence == "not stated"
    params = networks.vgg16_params(tensors)
    image = jnp.zeros((1, 32, 32, 3))
    init = jax.eval_shape(vgg.VGG16().init, jax.random.key(0), image)["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda x: x.shape, init)
    header, data = header_of(path.read_bytes())
    start, stop = header["features.0.weight"]["data_offsets"]
    kernel = np.frombuffer(data[start:stop], np.float16).reshape(64, 3, 3, 3)
    expected = np.einsum("oihw->hwio", kernel.astype(np.float32))
    np.testing.assert_array_equal(params["conv1_1"]["kernel"], expected)
