"""Range requests, to a server that does everything wrong."""

import io
import json
import re
import urllib.error
import urllib.request

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy as st

from cglo_jax.files import download
from cglo_jax.pretrained import cache, networks, remote
from tests.helpers.published_weights import (
    VGG_KEPT,
    assert_needed,
    cached,
    header_of,
    publish,
    refusal,
    vgg_tensors,
)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("404", "HTTP Error 404"),
        ("no range", "the server sends no part of it (status 200)"),
        ("other range", "the server sends ['bytes 1-8/"),
        ("other size", "not ['bytes 0-7/"),
        ("short", "the server sends ['bytes 0-6/"),
        ("nonsense", "could not be fetched (nonsense)"),
        (0, "the connection ended after 0 of 8 bytes"),
    ],
)
def test_only_the_range_asked_for_is_accepted(server, how, message):
    server.plan = [how] * download.ATTEMPTS
    line = refusal("vgg16", "imagenet")
    assert message in line and "--config.reconstruction.weights=FILE" in line
    assert len(server.ranges) == download.ATTEMPTS
    assert cached() == []
    assert_needed(networks.load("vgg16", "imagenet")[0], vgg_tensors())  # later


def test_a_file_that_grew_is_refused(server, monkeypatch):
    pinned = cache.PINNED["vgg16"]
    monkeypatch.setitem(cache.PINNED, "vgg16", pinned._replace(size=pinned.size - 1))
    assert f"not ['bytes 0-7/{pinned.size - 1}'" in refusal("vgg16", "imagenet")


def test_a_dropped_connection_is_resumed(server):
    server.plan = [None, None, 0, 0, 50, "redirect", 0, 0]
    tensors, _ = networks.load("vgg16", "imagenet")
    assert_needed(tensors, vgg_tensors())
    run = server.ranges[2]
    start, stop = re.fullmatch(r"bytes=(\d+)-(\d+)", run).groups()
    rest = f"bytes={int(start) + 50}-{stop}"
    assert server.ranges[2:9] == [run] * 3 + [rest] * 4
    assert len(server.ranges) == 10  # and the other run
    assert cached() == VGG_KEPT


def test_https_is_not_left():
    follow = remote._StayEncrypted()
    request = urllib.request.Request("https://one.example/a", headers={"Range": "x"})
    answer = (io.BytesIO(), 302, "Found", {})
    other = follow.redirect_request(request, *answer, "https://two.example/b")
    assert other.full_url == "https://two.example/b"
    assert other.get_header("Range") == "x"
    with pytest.raises(urllib.error.HTTPError, match="from https to http://two"):
        follow.redirect_request(request, *answer, "http://two.example/b")


def test_redirects_are_watched(server, monkeypatch):
    def refuse(self, req, fp, code, msg, headers, newurl):
        raise urllib.error.HTTPError(newurl, code, "watched", headers, fp)

    monkeypatch.setattr(remote._StayEncrypted, "redirect_request", refuse)
    server.plan = ["redirect"] * download.ATTEMPTS
    assert "HTTP Error 302: watched" in refusal("vgg16", "imagenet")


def tampered(header: object, data: bytes = b"") -> bytes:
    """A .safetensors file with this header, whatever is in it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "text", [b"{ ", b"[1, 2]", b"\xff\xfe{}", b"[" * 100_000, b"null"]
)
def test_a_header_that_is_not_one_is_refused(server, monkeypatch, text):
    publish(monkeypatch, server, "vgg16", tampered(text))
    assert "has a header that is not a JSON object" in refusal("vgg16", "imagenet")
    assert cached() == []


@pytest.mark.parametrize("length", [0, 1, 2**20 + 1, 2**63])
def test_a_header_is_not_read_if_its_length_is_wrong(server, monkeypatch, length):
    data = length.to_bytes(8, "little") + bytes(2**20 + 100)
    publish(monkeypatch, server, "vgg16", data)
    assert f"has a header of {length} bytes" in refusal("vgg16", "imagenet")
    assert server.ranges == ["bytes=0-7"]


def hostile(header: dict) -> dict[str, tuple[dict, str]]:
    """Returns {case: (header, part of the refusal)}."""
    name = "features.5.bias"
    entry = header[name]
    start, stop = entry["data_offsets"]
    end = max(e["data_offsets"][1] for e in header.values())
    cases = {
        "absent": (None, f"has no tensor {name}"),
        "a list": ([], f"has no tensor {name}"),
        "no offsets": ({"dtype": "F32", "shape": [3]}, f"has no tensor {name}"),
        "fractions": ({"data_offsets": [0.5, 12.5]}, f"has no tensor {name}"),
        "shape": ({"shape": [3, 1]}, f"{name} has shape [3, 1], expected [3]"),
        "huge": ({"shape": [2**62]}, f"{name} has shape [{2**62}], expected [3]"),
        "type": ({"dtype": "I32"}, f"{name} is stored as I32"),
        "other type": ({"dtype": "F16"}, f"has {name} at bytes {start} to {stop}"),
        "negative": ({"data_offsets": [-12, 0]}, f"has {name} at bytes -12 to 0"),
        "backwards": ({"data_offsets": [stop, start]}, f"has {name} at bytes {stop} "),
        "too many": ({"data_offsets": [start, 2**62]}, f"to {2**62}"),
        "past the end": ({"data_offsets": [end, end + 12]}, f"to {end + 12}"),
        "overlap": ({"data_offsets": [4, 16]}, "where another tensor is"),
    }
    headers = {}
    for case, (change, message) in cases.items():
        changed = {k: v for k, v in header.items() if k != name}
        if isinstance(change, dict):
            whole = change if case == "no offsets" else entry | change
            changed[name] = whole
        elif change is not None:
            changed[name] = change
        headers[case] = changed, message
    return headers


def test_hostile_entries_are_refused_before_any_tensor_is_fetched(server, monkeypatch):
    header, data = header_of(st.save(vgg_tensors()))
    for case, (changed, message) in hostile(header).items():
        publish(monkeypatch, server, "vgg16", tampered(changed, data))
        server.ranges.clear()
        assert message in refusal("vgg16", "imagenet"), case
        assert len(server.ranges) == 2, case  # the header only
    publish(monkeypatch, server, "vgg16", tampered(header, data))
    assert_needed(networks.load("vgg16", "imagenet")[0], vgg_tensors())


def test_values_that_are_not_finite_are_not_kept(server, monkeypatch):
    tensors = vgg_tensors()
    tensors["features.26.bias"][1] = np.inf
    publish(monkeypatch, server, "vgg16", st.save(tensors))
    assert "features.26.bias has values that are not finite" in refusal(
        "vgg16", "imagenet"
    )
    assert cached() == []


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision_is_fetched_too(server, monkeypatch, dtype):
    tensors = {k: t.astype(dtype) for k, t in vgg_tensors().items()}
    publish(monkeypatch, server, "vgg16", st.save(tensors))
    found, _ = networks.load("vgg16", "imagenet")
    assert_needed(found, {k: np.asarray(t, np.float32) for k, t in tensors.items()})
