"""Headless Chromium, driven by its DevTools protocol over a pipe: what a reader's browser does."""

import base64
import fcntl
import itertools
import json
import os
import pathlib
import shutil
import signal
import threading
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-pipe",
    "--hide-scrollbars",
]
_TIMEOUT = 60  # seconds, of everything together


class Browser:
    """One page of a browser that is killed when its time is over."""

    def __init__(self, folder: pathlib.Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
        # Chromium reads commands from file 3 and writes answers to file 4.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_browser, from_browser)]
        log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY)
        copies = ((log, 1), (log, 2), (ends[0], 3), (ends[1], 4))
        actions = [(os.POSIX_SPAWN_DUP2, *copy) for copy in copies]
        self._pid = os.posix_spawn(
            CHROMIUM, command, os.environ, file_actions=actions, setpgroup=0
        )
        for fd in (to_browser, from_browser, log, *ends):
            os.close(fd)
        self._timer = threading.Timer(_TIMEOUT, self._kill)
        self._timer.start()
        self._numbers, self._buffer, self._session = itertools.count(1), b"", None
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        attach = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attach["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result; events on the way are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not (data := os.read(self._read, 1 << 16)):
                raise RuntimeError("Chromium ended")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path: pathlib.Path, width: int, height: int = 900) -> None:
        """Loads a file into a window of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        mobile = {"mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size, **mobile)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._receive())

    def prefer(self, scheme: str) -> None:
        """Sets whether the reader prefers "dark" or "light"."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def evaluate(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Presses a key and lets it go."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
            )

    def screenshot(self, whole: bool = False) -> bytes:
        """Returns what is seen, or the whole page, as PNG."""
        options = {"captureBeyondViewport": True} if whole else {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {**size, "scale": 1}
        answer = self.call("Page.captureScreenshot", format="png", **options)
        return base64.b64decode(answer["data"])

    def _kill(self) -> None:
        os.killpg(self._pid, signal.SIGKILL)  # its helpers, too

    def close(self) -> None:
        """Ends the browser."""
        self._timer.cancel()
        self._kill()
        os.waitpid(self._pid, 0)
        os.close(self._write)
        os.close(self._read)
