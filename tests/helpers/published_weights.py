"""Made-up weights in the true formats, and a server that publishes them."""

import contextlib
import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy as st

from cglo_jax.errors import UserError
from cglo_jax.files import download
from cglo_jax.models import vgg
from cglo_jax.pretrained import cache, networks

# torchvision's `vgg16().features`: index of each convolution -> its name in models.vgg
LAYERS = {
    0: "conv1_1",
    2: "conv1_2",
    5: "conv2_1",
    7: "conv2_2",
    10: "conv3_1",
    12: "conv3_2",
    14: "conv3_3",
    17: "conv4_1",
    19: "conv4_2",
    21: "conv4_3",
    24: "conv5_1",
    26: "conv5_2",
}
TINY_BLOCKS = {1: (2, 3), 2: (3, 2), 3: (2, 2, 4), 4: (2, 3, 2), 5: (5, 4, 4)}
TINY_WIDTHS = [width for block in TINY_BLOCKS.values() for width in block][:-1]
TINY_RESNET = {"conv1.weight": (2, 3, 7, 7), "bn1.running_var": (2,)}
VGG_FILE = cache.PINNED["vgg16"].file
VGG_KEPT = [VGG_FILE, f"{VGG_FILE}.sha256"]
RESNET_FILE = cache.PINNED["resnet50"].file


def isolate(monkeypatch, tmp_path: Path) -> None:
    """No pauses, no network, an empty cache, and a VGG-16 of few channels."""
    monkeypatch.setattr(download, "RETRY_SECONDS", 0.0)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("CGLO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(vgg, "BLOCK_WIDTHS", TINY_BLOCKS)
    monkeypatch.setitem(networks.SHAPES, "resnet50", lambda: TINY_RESNET)
    go_offline(monkeypatch)


def vgg_shapes(widths) -> dict[str, tuple]:
    shapes, channels = {}, 3
    for index, width in zip(LAYERS, widths, strict=True):
        shapes[f"features.{index}.weight"] = (width, channels, 3, 3)
        shapes[f"features.{index}.bias"] = (width,)
        channels = width
    return shapes


def random_tensors(shapes: dict[str, tuple], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


def vgg_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """What is needed, and what such files hold besides."""
    extra = {"features.28.weight": (4, 4, 3, 3), "head.fc.weight": (9, 99)}
    return random_tensors(vgg_shapes(TINY_WIDTHS) | extra, seed)


def assert_needed(tensors: dict, stored: dict) -> None:
    """Fails unless `tensors` are exactly those of `stored` that the VGG-16 needs."""
    assert set(tensors) == set(vgg_shapes(TINY_WIDTHS))
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, stored[name])


def refusal(network: str, source: object) -> str:
    """Returns the one line with which weights are refused."""
    with pytest.raises(UserError) as error:
        networks.load(network, str(source))
    assert "\n" not in str(error.value)
    return str(error.value)


def write(path: Path, tensors: dict, metadata: dict | None = None) -> Path:
    st.save_file(tensors, path, metadata)
    return path


def header_of(data: bytes) -> tuple[dict, bytes]:
    n = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + n]), data[8 + n :]


def cached() -> list[str]:
    """Names of the files in the cache."""
    folder = Path(os.environ["CGLO_CACHE"])
    return sorted(os.listdir(folder)) if folder.exists() else []


class Server:
    """Serves the pinned files by HTTP with ranges; `plan` says how each request goes.

    After the plan all goes well. A number is how many bytes are sent before the
    connection drops; "404", "no range" (all of the file), "other range", "other size",
    "short" (a part of the range, said so), "nonsense" and "redirect" are what they say. `ranges`
    records each request's Range header.
    """

    def __init__(self):
        self.files, self.plan, self.ranges = {}, [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, handler) -> None:
        asked = handler.headers["Range"]
        self.ranges.append(asked)
        how = self.plan.pop(0) if self.plan else None
        data = self.files.get(handler.path.removeprefix("/moved"))
        if how == "404" or data is None:
            handler.send_error(404)
            return
        if how == "redirect":
            handler.send_response(302)
            handler.send_header("Location", f"{self.url}/moved{handler.path}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if how == "nonsense":
            handler.wfile.write(b"nonsense\r\n\r\n")
            return
        ranged = asked and how != "no range"
        first, _, last = (asked if ranged else "bytes=0-")[len("bytes=") :].partition(
            "-"
        )
        start, stop = int(first), int(last) + 1 if last else len(data)
        handler.send_response(206 if ranged else 200)
        if ranged:
            shift = how == "other range"
            size = len(data) + (how == "other size")
            stop -= how == "short"
            said = f"bytes {start + shift}-{stop - 1 + shift}/{size}"
            handler.send_header("Content-Range", said)
        handler.send_header("Content-Length", str(stop - start))
        handler.end_headers()
        sent = data[start:stop]
        handler.wfile.write(sent[: how if isinstance(how, int) else None])

    def __enter__(self):
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


def publish(monkeypatch, server: Server, network: str, data: bytes) -> None:
    """Makes `data` the pinned file of a network, and serves it."""
    pinned = cache.PINNED[network]._replace(
        size=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    monkeypatch.setattr(cache, "HOST", server.url)
    monkeypatch.setitem(cache.PINNED, network, pinned)
    path = f"/{pinned.repo}/resolve/{pinned.commit}/model.safetensors"
    server.files[path] = data


@contextlib.contextmanager
def serve(monkeypatch) -> Iterator[Server]:
    """A server with a VGG-16 and a ResNet-50, taken for the published ones."""
    with Server() as server:
        publish(monkeypatch, server, "vgg16", st.save(vgg_tensors()))
        resnet50 = random_tensors(TINY_RESNET | {"fc.weight": (4, 2)})
        publish(monkeypatch, server, "resnet50", st.save(resnet50))
        yield server


def go_offline(monkeypatch) -> None:
    monkeypatch.setattr(cache, "HOST", "http://127.0.0.1:9")
