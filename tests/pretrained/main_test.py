"""Tests of cglo_jax/pretrained/__main__.py: the command that fetches weights ahead of time."""

import hashlib
import runpy

import pytest

from cglo_jax.files import download
from cglo_jax.pretrained import __main__, remote
from cglo_jax.process.setup import cache_dir
from tests.helpers.published_weights import (
    RESNET_FILE,
    VGG_FILE,
    VGG_KEPT,
    cached,
    go_offline,
)


def run(*args: str) -> int:
    return __main__.main(list(args))


def test_the_command_fetches_ahead(server, capfd, monkeypatch):
    assert run("resnet50", "vgg16", "vgg16") == 0
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert err == "" and len(lines) == 4
    folder = cache_dir()
    assert lines[1] == str(folder / RESNET_FILE)
    assert lines[3] == str(folder / VGG_FILE)
    for line, path in ((lines[0], RESNET_FILE), (lines[2], VGG_FILE)):
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() in line
        assert "BSD-3-Clause" in line and "ImageNet-1k" in line
    go_offline(monkeypatch)
    assert run("vgg16", "resnet50") == 0  # there already
    assert cached() == sorted([*VGG_KEPT, RESNET_FILE])


def test_full_checks_all_of_vgg16_and_keeps_the_same_bytes(server, monkeypatch):
    assert run("vgg16") == 0
    kept = {name: (cache_dir() / name).read_bytes() for name in cached()}
    server.ranges.clear()
    server.plan = [100]  # the connection drops once
    assert run("vgg16", "--full") == 0
    assert server.ranges == [None, "bytes=100-"]
    assert kept == {n: (cache_dir() / n).read_bytes() for n in cached()}
    assert run("resnet50", "--full") == 0
    go_offline(monkeypatch)
    assert run("resnet50", "--full") == 0  # was checked whole: nothing to do


def test_full_refuses_what_a_part_cannot_show(server, monkeypatch, capfd):
    (path,) = [path for path in server.files if "vgg16" in path]
    other = bytearray(server.files[path])
    other[-1] ^= 1  # in a tensor that is not fetched
    server.files[path] = bytes(other)
    assert run("vgg16") == 0
    before = {n: (cache_dir() / n).read_bytes() for n in cached()}
    capfd.readouterr()
    assert run("vgg16", "--full") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and "not the official model.safetensors" in line
    assert f"(its sha256 is {hashlib.sha256(other).hexdigest()[:12]}..., not " in line
    assert before == {n: (cache_dir() / n).read_bytes() for n in cached()}


def test_resnet50_with_another_sha256_is_refused(server, capfd):
    (path,) = [path for path in server.files if "resnet50" in path]
    other = bytearray(server.files[path])
    other[-1] ^= 1
    server.files[path] = bytes(other)
    assert run("resnet50") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "error: " in line and hashlib.sha256(other).hexdigest()[:12] in line
    assert cached() == []


def test_an_interruption_leaves_nothing(server, monkeypatch, capfd):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(remote, "to_float32", interrupt)
        assert run("vgg16") == 130
        patch.setattr(download, "verify", interrupt)
        assert run("resnet50") == 130
    out, err = capfd.readouterr()
    assert (
        out == ""
        and err.splitlines() == ["stopped: nothing that is incomplete was kept"] * 2
    )
    assert len(server.ranges) == 4
    assert cached() == []
    assert run("vgg16", "resnet50") == 0


def test_the_command_prints_what_it_takes(capfd, monkeypatch):
    with pytest.raises(SystemExit) as status:
        run("vgg19")
    assert status.value.code == 2 and "resnet50" in capfd.readouterr().err
    monkeypatch.setattr("sys.argv", ["pretrained", "--help"])
    with pytest.raises(SystemExit) as status:
        runpy.run_path(__main__.__file__, run_name="__main__")
    assert status.value.code == 0
    assert "python -m cglo_jax.pretrained" in capfd.readouterr().out
