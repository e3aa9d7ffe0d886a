"""A headless Chromium over its DevTools protocol: as much of it as a test of a page needs."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-dev-shm-usage",
    "--disable-background-networking", "--autoplay-policy=no-user-gesture-required", "--remote-debugging-port=0",
    "--disable-background-timer-throttling", "--disable-renderer-backgrounding",
)  # fmt: skip
_CODES = {"Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, " ": 32}


class Page:
    """A tab: commands, scripts, the `errors` on its console, and those of them that are uncaught `exceptions`."""

    def __init__(self, socket: ClientConnection):
        self._socket, self._number = socket, 0
        self.errors: list[str] = []
        self.exceptions: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def run(self, script: str) -> Any:
        """The value of an expression, awaited."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, script: str, seconds: float = 120) -> Any:
        """Waits until an expression is true; returns its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.run(f"(v => (v && v.nodeType ? true : v))({script})"):
                return value
            time.sleep(0.1)
        raise AssertionError(
            f"it never came: {script}\n{self.run('document.body.innerText')}\n{self.errors}"
        )

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def click(self, text: str, within: str = "body") -> None:
        """Presses the first button or link whose text or label begins with `text`."""
        selector, start = json.dumps(f"{within} :is(button, a, summary)"), json.dumps(text)
        found = self.run(
            f"""(() => {{ const name = (node) => (node.getAttribute('aria-label') || node.innerText).trim();
              const node = [...document.querySelectorAll({selector})].find((one) =>
                name(one).startsWith({start}) && !one.disabled);
              node?.click(); return !!node; }})()"""
        )
        assert found, f"there is no button {text}"

    def write(self, selector: str, text: str, index: int = 0) -> None:
        """Puts text into a field as a keyboard would."""
        self.run(
            f"""(() => {{ const field = document.querySelectorAll({json.dumps(selector)})[{index}]; field.focus();
              field.select(); }})()"""
        )
        self.type(text)

    def press(self, key: str) -> None:
        """Presses a key: a character, or a name such as Escape."""
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key,
                windowsVirtualKeyCode=_CODES.get(key, ord(key[0].upper())),
                **(text if kind == "keyDown" else {}),
            )  # fmt: skip

    def type(self, text: str) -> None:
        """Puts text where the cursor is."""
        self.call("Input.insertText", text=text)

    def size(self, width: int, height: int, mobile: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=mobile,
            deviceScaleFactor=2 if mobile else 1,
        )  # fmt: skip

    def picture(self, path: str | pathlib.Path, whole: bool = False, quality: int = 80) -> None:
        """Saves what is seen, or the `whole` page, as JPEG."""
        content = self.call(
            "Page.captureScreenshot", format="jpeg", quality=quality, captureBeyondViewport=whole
        )
        pathlib.Path(path).write_bytes(base64.b64decode(content["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.exceptions.append(json.dumps(params["exceptionDetails"])[:600])
            self.errors.append(self.exceptions[-1])
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif message.get("method") == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(json.dumps(params["args"])[:600])


@contextlib.contextmanager
def page(profile: pathlib.Path) -> Iterator[Page]:
    """A browser with an empty profile in a folder, and its tab."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    env = {**os.environ, "HOME": str(profile)}
    browser = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env
    )
    try:
        port = profile / "DevToolsActivePort"
        for _ in range(600):
            if port.is_file() and len(port.read_text().splitlines()) > 1:
                break
            assert browser.poll() is None, "Chromium ended"
            time.sleep(0.1)
        number = int(port.read_text().splitlines()[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{number}/json") as answer:
            tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
        with connect(tabs[0]["webSocketDebuggerUrl"], max_size=None) as socket:
            yield Page(socket)
    finally:
        browser.terminate()
        browser.wait(timeout=30)
