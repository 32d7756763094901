"""Published weights are fetched once and kept; nothing damaged is ever used."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

from cglo_jax.pretrained import cache, networks
from cglo_jax.process.setup import cache_dir
from tests.helpers.published_weights import (
    LAYERS,
    RESNET_FILE,
    TINY_RESNET,
    VGG_FILE,
    VGG_KEPT,
    assert_needed,
    cached,
    go_offline,
    random_tensors,
    refusal,
    vgg_tensors,
)


def test_pins_agree_with_the_networks_sizes():
    parameters = {"vgg16": 138_357_544, "resnet50": 25_557_032}  # torchvision's tables
    statistics = 2 * 26_560 * 4 + 53 * 8  # running mean and variance, int64 counters
    header = {"vgg16": 8 + 2802, "resnet50": 8 + 28_800 + statistics}
    for network, pinned in cache.PINNED.items():
        assert pinned.network == network
        assert re.fullmatch("[0-9a-f]{64}", pinned.sha256)
        assert re.fullmatch("[0-9a-f]{40}", pinned.commit)
        assert pinned.commit[:8] in pinned.file
        whole = network.removesuffix("_conv5_3")  # another part of the same file
        assert pinned.size == 4 * parameters[whole] + header[whole]
        assert pinned.url.endswith(
            f"/{pinned.repo}/resolve/{pinned.commit}/model.safetensors"
        )


def test_only_what_vgg16_needs_is_fetched_and_once(server, monkeypatch):
    tensors, provenance = networks.load("vgg16", "imagenet")
    assert_needed(tensors, vgg_tensors())
    (data,) = [d for path, d in server.files.items() if "vgg16" in path]
    header = 8 + int.from_bytes(data[:8], "little")
    # By name: features.0 to .26, .28 (not needed), .5 and .7, head. One request per run.
    size = {k: t.nbytes for k, t in vgg_tensors().items()}
    last = sum(size[k] for k in size if re.match(r"features\.[57]\.", k))
    first = sum(size[f"features.{i}.{x}"] for i in LAYERS for x in ("weight", "bias"))
    first -= last
    start = header + first + size["features.28.weight"]
    assert server.ranges == [
        "bytes=0-7",
        f"bytes=8-{header - 1}",
        f"bytes={header}-{header + first - 1}",
        f"bytes={start}-{start + last - 1}",
    ]
    kept = Path(os.environ["CGLO_CACHE"]) / VGG_FILE
    assert provenance == networks.Provenance(
        "VGG-16",
        "timm/vgg16.tv_in1k@3394518cba29aee1ea82a49d971be90d2dd1dab7",
        "ImageNet-1k",
        "BSD-3-Clause",
        hashlib.sha256(kept.read_bytes()).hexdigest(),
        networks.digest_of(tensors),
    )
    assert cached() == VGG_KEPT
    beside = kept.with_name(VGG_KEPT[1]).read_text()
    assert beside == f"{provenance.sha256}  {VGG_FILE}\n"

    server.ranges.clear()
    again, same = networks.load("vgg16", "imagenet")
    assert server.ranges == [] and same == provenance
    assert_needed(again, vgg_tensors())
    copy, known = networks.load("vgg16", str(kept))  # given to somebody else
    assert_needed(copy, vgg_tensors())
    assert known.trained_on == "ImageNet-1k" and known.licence == "BSD-3-Clause"


def test_the_cache_needs_no_network(server, monkeypatch):
    for network in ("vgg16", "resnet50"):
        first = networks.load(network, "imagenet")
        go_offline(monkeypatch)
        later = networks.load(network, "imagenet")
        assert first[1] == later[1]
        jax.tree.map(np.testing.assert_array_equal, first[0], later[0])
        monkeypatch.setattr(cache, "HOST", server.url)


def test_resnet50_is_fetched_whole_and_checked(server):
    tensors, provenance = networks.load("resnet50", "imagenet")
    expected = random_tensors(TINY_RESNET)
    assert set(tensors) == set(TINY_RESNET)
    jax.tree.map(np.testing.assert_array_equal, tensors, expected)
    assert server.ranges == [None]
    assert cached() == [RESNET_FILE]
    assert provenance.sha256 == cache.PINNED["resnet50"].sha256
    assert provenance.origin == (
        "timm/resnet50.tv_in1k@aa6c2d36d56bc0209040c02b5a7b7d7bf11d57b8"
    )


@pytest.mark.parametrize("network", ["vgg16", "resnet50"])
def test_without_network_or_cache_the_line_says_how_to_go_on(network):
    line = refusal(network, "imagenet")
    pinned = cache.PINNED[network]
    assert line.startswith(f"the weights of {network} could not be fetched (")
    assert line.endswith(f", such as {pinned.url}")
    assert "Connection refused" in line
    option = {"vgg16": "reconstruction", "resnet50": "classify"}[network]
    assert f"--config.{option}.weights=FILE" in line
    assert f"python -m cglo_jax.pretrained {network}" in line
    assert f"copy {os.environ['CGLO_CACHE']} from there" in line
    assert cached() == []


def test_a_transfer_cut_short_leaves_nothing(server):
    server.plan = [None, None, 50, 0, 0, 0]
    assert "the connection ended after 50 of" in refusal("vgg16", "imagenet")
    assert cached() == []
    server.plan = [20, "404", "404", "404"]
    assert "HTTP Error 404" in refusal("resnet50", "imagenet")
    assert cached() == []


def damage(kind: str, path: Path) -> None:
    data = path.read_bytes()
    if kind == "a bit":
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    elif kind == "cut":
        path.write_bytes(data[:-1])
    elif kind == "no digest":
        path.with_name(f"{path.name}.sha256").unlink()
    elif kind == "empty digest":
        path.with_name(f"{path.name}.sha256").write_text("")
    else:
        path.with_name(f"{path.name}.sha256").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        ("vgg16", "a bit"),
        ("vgg16", "cut"),
        ("vgg16", "no digest"),
        ("vgg16", "empty digest"),
        ("vgg16", "binary digest"),
        ("resnet50", "a bit"),
        ("resnet50", "cut"),
    ],
)
def test_a_damaged_cache_is_fetched_again(server, monkeypatch, capfd, network, kind):
    first, provenance = networks.load(network, "imagenet")
    files = cached()
    path = cache_dir() / files[0]
    damage(kind, path)
    go_offline(monkeypatch)
    assert "could not be fetched" in refusal(network, "imagenet")  # never used
    assert capfd.readouterr().err == f"{path} is damaged: fetching it again\n"
    monkeypatch.setattr(cache, "HOST", server.url)
    again, same = networks.load(network, "imagenet")
    assert same == provenance and cached() == files
    jax.tree.map(np.testing.assert_array_equal, first, again)
    capfd.readouterr()
    go_offline(monkeypatch)
    networks.load(network, "imagenet")
    assert capfd.readouterr().err == ""


def test_a_cache_that_cannot_be_written(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CGLO_CACHE", str(tmp_path / "file" / "cache"))
    line = refusal("vgg16", "imagenet")
    assert "cannot be written" in line and "set CGLO_CACHE" in line


def test_processes_at_once_do_no_harm(server):
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(networks.load, "vgg16", "imagenet") for _ in range(6)]
        found = [job.result() for job in jobs]
    assert len({provenance for _, provenance in found}) == 1
    for tensors, _ in found:
        assert_needed(tensors, vgg_tensors())
    assert cached() == VGG_KEPT
