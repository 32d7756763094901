"""Servers that misbehave: each ends the program with one line and leaves nothing that counts."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cglo_jax.errors import UserError
from cglo_jax.files import download
from cglo_jax.pretrained import __main__, cache
from tests.helpers.published_weights import cached, isolate, serve

OK = b"HTTP/1.1 200 OK\r\n"
PART = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-7/%SIZE%\r\n"
ANY = b"Content-Length: %LENGTH%\r\n\r\n"
MOVED = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
# name: what is sent to whoever connects, before the connection is closed
ANSWERS = {
    "nothing": b"",
    "one byte": b"H",
    "zeros": bytes(3000),
    "random": bytes(range(256)) * 9,
    "a page without headers": b"<html>no</html>\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a negative status": b"HTTP/1.1 -200 OK\r\n\r\n",
    "another version": b"HTTP/9.9 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a long status line": b"HTTP/1.1 200 " + b"O" * 100_000 + b"\r\n\r\n",
    "a long header": OK + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
    "many headers": OK + b"X: y\r\n" * 300 + b"\r\n",
    "a header without a colon": OK + b"Content-Length\r\n\r\n",
    "headers that end early": OK + b"Content-Le",
    "escapes in the reason": b"HTTP/1.1 404 \x1b[31mred\x07\r\nContent-Length: 0\r\n\r\n",
    "no letters in the reason": b"HTTP/1.1 500 \xff\xfe\xe9\r\nContent-Length: 0\r\n\r\n",
    "a reason over two lines": b"HTTP/1.1 500 a\rb\x0bc\x85d\r\nContent-Length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "login": b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: \xff=\r\n\r\n",
    "proxy login": b"HTTP/1.1 407 Proxy\r\nProxy-Authenticate: Digest nonsense\r\n\r\n",
    "range refused": b"HTTP/1.1 416 No\r\nContent-Range: bytes */x\r\n\r\n",
    "unavailable": b"HTTP/1.1 503 Later\r\nRetry-After: never\r\n\r\n",
    "continue, then nothing": b"HTTP/1.1 100 Continue\r\n\r\n",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
}
LENGTHS = {
    "words": b"many",
    "nothing": b"",
    "negative": b"-5",
    "a fraction": b"1.5",
    "hexadecimal": b"0x20",
    "another script's digits": "\u0663".encode(),
    "superscript": "\u00b2".encode("latin-1"),
    "thousands of digits": b"9" * 5000,
    "huge": b"9" * 30,
    "two": b"5, 6",
    "underscores": b"1_0",
}
RANGES = ["", "bytes", "bytes x-y/z", "bytes 0-7/*", "items 0-7/8", "bytes 7-0/8"]
RANGES += ["bytes -1-7/8", "bytes 0-7/-8", "\u00e9", "bytes 0-99999999999999999999/8"]
PLACES = {
    "no address": b"http://",
    "open bracket": b"http://[::1/",
    "bracket with words": b"http://[no]/",
    "a port of words": b"http://127.0.0.1:port/",
    "a port too large": b"http://127.0.0.1:99999999/",
    "a negative port": b"http://127.0.0.1:-1/",
    "port 0": b"http://127.0.0.1:0/",
    "a long name": b"http://" + b"a" * 70 + b".invalid/",
    "empty labels": b"http://a..b.invalid/",
    "other letters": "http://b\u00fccher..invalid/\u2603".encode(),
    "bytes": b"http://127.0.0.1:1/\xff\xfe",
    "a space": b"http://127.0.0.1:1/a b\tc",
    "control characters": b"http://127.0.0.1:1/\x00\x1b",
    "a file": b"file:///etc/passwd",
    "data": b"data:,x",
    "ftp": b"ftp://127.0.0.1:1/x",
    "an unknown scheme": b"gopher://127.0.0.1:1/",
    "script": b"javascript:alert(1)",
    "user and password": b"http://a:b@127.0.0.1:1/",
    "itself": b"/again",
    "nowhere": b"",
    "a question": b"?",
}
BODIES = {
    "no number": b"zz\r\nabc\r\n0\r\n\r\n",
    "a negative number": b"-5\r\nabcdefgh\r\n0\r\n\r\n",
    "a huge number": b"ffffffffffffffffffff\r\nabc",
    "an endless number": b"1" * 100_000,
    "too little": b"50\r\nabc\r\n",
    "no end": b"3\r\nabc\r\n",
    "no line's end": b"3\r\nabcdef\r\n0\r\n\r\n",
    "nothing": b"",
}
ANSWERS |= {
    f"length: {k}": OK + b"Content-Length: " + v + b"\r\n\r\nabc"
    for k, v in LENGTHS.items()
}
ANSWERS |= {
    f"range: {v}": PART.split(b"Content")[0]
    + b"Content-Range: "
    + v.encode()
    + b"\r\n"
    + ANY
    for v in RANGES
}
ANSWERS |= {f"redirect: {k}": MOVED + v + b"\r\n\r\n" for k, v in PLACES.items()}
ANSWERS |= {f"chunk: {k}": OK + CHUNKED + v for k, v in BODIES.items()}
ANSWERS |= {
    f"part, chunk: {k}": PART + b"Content-Length: 8\r\n" + CHUNKED + v
    for k, v in BODIES.items()
}
ANSWERS |= {
    "redirect without a place": b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n",
    "encoding": OK
    + b"Transfer-Encoding: gzip, nonsense\r\nContent-Encoding: x\r\n\r\nabc",
    "closed early": PART + b"Content-Length: 8\r\n\r\nabc",
    "other bytes": PART + b"Content-Length: 8\r\n\r\n" + b"\xff" * 8,
}


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Yields the address of a server that sends these bytes to everybody."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.settimeout(1)
                        connection.recv(65536)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 1.0)


@pytest.mark.parametrize("network", ["resnet50", "vgg16"])
def test_a_server_that_misbehaves_is_one_line(monkeypatch, capfd, network):
    """A file that is fetched whole, and one of which parts are asked for."""
    with serve(monkeypatch):  # for what is pinned; it is not asked
        wrong = []
        size = str(cache.PINNED[network].size).encode()
        for name, answer in ANSWERS.items():
            answer = answer.replace(b"%SIZE%", size).replace(b"%LENGTH%", size)
            with answering(answer) as url:
                monkeypatch.setattr(cache, "HOST", url)
                try:
                    status = __main__.main([network])
                except Exception as error:  # noqa: BLE001 - is what is looked for
                    status = repr(error)
            out, err = capfd.readouterr()
            lines = err.splitlines()
            said = f"error: the weights of {network} could not be fetched ("
            if (status, out, len(lines)) != (2, "", 1) or not err.startswith(said):
                wrong.append((name, status, out, err))
        assert wrong == [] and cached() == []


def test_a_chunk_of_negative_length_does_not_fill_the_memory(tmp_path):
    archive = download.Archive("--archive", "a.tgz", "", 40, "0" * 64)
    endless = OK + CHUNKED + b"-5\r\n" + b"x" * 1_000_000
    refused = pytest.raises(UserError, match=r"removed it|could not be downloaded")
    with answering(endless) as url, refused:
        download.download(archive._replace(url=url), tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 40


def put(kind: str, path: Path, target: Path) -> None:
    path.parent.mkdir()
    if kind == "link":
        path.symlink_to(target)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
@pytest.mark.parametrize("place", [0, 1])
def test_the_cache_has_files_only(monkeypatch, tmp_path, capfd, kind, place):
    """No link is followed, and a pipe is not waited for."""
    pinned = cache.PINNED["vgg16"]
    path = tmp_path / "cache" / pinned.file
    path = [path, cache._digest_path(path)][place]
    precious = tmp_path / "precious"
    precious.write_text("precious")
    put(kind, path, precious)
    with serve(monkeypatch):
        assert __main__.main(["vgg16"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {path} is not a file that was kept there")
    assert "move it away" in line and cached() == [path.name]
    assert precious.read_text() == "precious"
