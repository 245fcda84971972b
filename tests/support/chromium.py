"""A page in headless Chromium, driven by the DevTools protocol over a pipe: no port, no library."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-extensions",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
)
# The browser reads commands from descriptor 3 and writes to 4.
_START = """
import fcntl, os, sys
above = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
for fd, place in zip(above, (3, 4)):
    os.dup2(fd, place)
    os.close(fd)
os.execv(sys.argv[3], sys.argv[3:])
"""
_KEYS = {"Tab": 9, "Enter": 13}
_PATIENCE = 60.0  # seconds


class Page:
    """One page. Close it.

    Attributes:
      complaints: errors of its scripts, and what its console printed as errors, the browser's own words included.
    """

    def __init__(self, profile: Path) -> None:
        """`profile`: an empty directory for the browser."""
        to_browser, self._send = os.pipe()
        self._receive, from_browser = os.pipe()
        start = [sys.executable, "-S", "-c", _START, str(to_browser), str(from_browser)]
        self._process = subprocess.Popen(
            [*start, str(CHROMIUM), *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._ids, self._unread, self._session = 0, b"", ""
        self.complaints: list[str] = []
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        target = next(t for t in self.command("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """What a command of the protocol gives."""
        self._ids += 1
        message = {"id": self._ids, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._ids:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            part = os.read(self._receive, 2**20)
            assert part, "the browser has ended"
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        event = json.loads(message)
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(event["params"]["exceptionDetails"])[:500])
        if event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.complaints.append(event["params"]["entry"]["text"])
        return event

    def open(self, url: str) -> None:
        """Goes to a page."""
        self.command("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    def evaluate(self, script: str) -> Any:
        """Value of a JavaScript expression."""
        found = self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> Any:
        """The value of an expression, once it is true."""
        end = time.monotonic() + _PATIENCE
        while not (value := self.evaluate(condition)):
            assert time.monotonic() < end, f"not within {_PATIENCE} s: {condition}; complaints: {self.complaints}"
            time.sleep(0.02)
        return value

    def click(self, selector: str) -> None:
        """A click of the mouse at the middle of an element, once it is there; it must be what is to be seen there."""
        self.wait(f"document.querySelector({json.dumps(selector)}) !== null")
        place = self.evaluate(
            f"""(() => {{
              const e = document.querySelector({json.dumps(selector)});
              e.scrollIntoView({{ block: "center" }});
              const r = e.getBoundingClientRect(), x = r.x + r.width / 2, y = r.y + r.height / 2;
              return {{ x, y, seen: e.contains(document.elementFromPoint(x, y)) }};
            }})()"""
        )
        assert place["seen"], f"{selector} is covered or not shown"
        for kind in ("mousePressed", "mouseReleased"):
            at = {"x": place["x"], "y": place["y"]}
            self.command("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def type(self, text: str) -> None:
        """Types into what has the focus, in place of what stands there."""
        self.evaluate("document.activeElement.select()")
        self.command("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """A key."""
        code = {"key": key, "windowsVirtualKeyCode": _KEYS[key], "text": "\r" if key == "Enter" else ""}
        self.command("Input.dispatchKeyEvent", type="keyDown", **code)
        self.command("Input.dispatchKeyEvent", type="keyUp", **code)

    def look(self, width: int, scheme: str = "light") -> None:
        """A window of that width in CSS pixels, for who prefers a light or a dark page."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self) -> bytes:
        """PNG of the whole page."""
        return base64.b64decode(self.command("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def close(self) -> None:
        """Ends the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._send)
        os.close(self._receive)
