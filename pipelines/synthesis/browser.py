"""A real browser that draws pages of strangers: one headless Chromium (`synthesis/browser_process.py`).

    with Browser(found()) as browser:
        shot = browser.draw("<h1>Hello</h1>", "html", Look(width_px=1024, height_px=768))

What a page shows is a function of its code, the look, the browser and the fonts: its clock is virtual
and begins at one moment, `Math.random` at one seed, frames come by that clock, time zone and language are fixed,
animations are at their end or, without one, at their beginning. Nothing is fetched: a content security policy lets
nothing but the page itself and `data:` through, requests that it doesn't see are refused one by one, no host name
resolves, and what needs no name goes to a proxy that is not there.

A page runs in a process of its own. One that hangs, crashes or needs more memory than it may costs itself: it is tried
again in a fresh browser, so that the verdict depends on the page alone, and is then set aside.
"""

from __future__ import annotations

import base64
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from manifests.errors import RecordError
from manifests.load import schema
from manifests.records import Json
from pipelines.synthesis.browser_process import Chromium, Process

MOST_PAGES = 500
"""Of one browser process: it never gives back all that pages took."""
CLOCK_S = 1_600_000_000.0
"""When pages believe they are opened."""
SETTLE_MS = 2_000
"""Of virtual time after that, for scripts and animations: it passes as fast as there is nothing to do."""

PAGE = "https://page.invalid/"
"""A name that exists nowhere (RFC 6761): its only request is answered here."""
POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data: blob:; style-src 'unsafe-inline' data:; "
    "script-src {scripts}; font-src data:; media-src data: blob:"
)
STEADY = """(() => {
  let seed = 1;
  const begin = Date.now();
  Math.random = () => (seed = seed * 48271 % 2147483647) / 2147483647;
  performance.now = () => Date.now() - begin;
  requestAnimationFrame = told => setTimeout(() => told(performance.now()), 16);
  cancelAnimationFrame = clearTimeout;
  delete RTCPeerConnection;
  delete webkitRTCPeerConnection;
})()"""
"""Frames come when the machine finds time; these come by the virtual clock. No policy speaks of peer connections."""
STILL = """(() => {
  for (const one of document.getAnimations()) {
    try { one.finish(); } catch { one.cancel(); }
  }
  for (const svg of document.querySelectorAll('svg')) { svg.pauseAnimations(); svg.setCurrentTime(0); }
  const root = document.documentElement, drawing = root.matches('svg') ? root : document.querySelector('body > svg');
  const alone = drawing && (drawing === root || document.body.children.length === 1);
  const box = alone ? drawing.getBoundingClientRect() : {x: 0, y: 0, width: innerWidth, height: root.scrollHeight};
  return [!!document.querySelector('parsererror'), box.x, box.y, box.width, box.height];
})()"""
"""Ends what moves; then whether the XML is broken, and where what is drawn lies: of a lone drawing its own box."""

Language = Literal["html", "svg"]
TYPES: dict[Language, str] = {"html": "text/html; charset=utf-8", "svg": "image/svg+xml; charset=utf-8"}


@schema
class Look:
    """How pages are looked at."""

    width_px: int = 1024
    height_px: int = 768
    """Of the window. A picture is at least as high, of a lone drawing as large as the drawing."""
    most_height_px: int = 4096
    """Longer pages are cut off there."""
    scale: float = 1.0
    """Pixels of the picture for one of the page."""
    scripts: bool = True

    def __post_init__(self) -> None:
        if not 16 <= self.width_px <= 8192 or not 16 <= self.height_px <= self.most_height_px <= 16384:
            raise ValueError("width_px lies in [16, 8192], height_px in [16, most_height_px], at most 16384")
        if not 0.25 <= self.scale <= 4:
            raise ValueError("scale lies in [0.25, 4]")


@dataclass(frozen=True)
class Shot:
    png: bytes
    blocked: int
    """Things that the page asked for and did not get."""


class Browser:
    """Belongs to the thread that made it, and ends with it."""

    def __init__(self, chromium: Chromium, *, page_s: float = 30.0, memory_bytes: int = 2 << 30) -> None:
        """
        Args:
            page_s: for one page, by the clock: for what hangs. The page's own time is virtual.
            memory_bytes: that each of the browser's processes may have for itself; a page has one.
        """
        self.chromium, self.page_s, self.memory_bytes = chromium, page_s, memory_bytes
        self._process: Process | None = None

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def draw(self, code: str, language: Language, look: Look) -> Shot:
        """Raises RecordError: `page_crashed`, `page_hung`, `malformed_svg`, `nothing_drawn`."""
        try:
            return self._draw(code, language, look)
        except _Lost:
            return self._again(code, language, look)

    def _again(self, code: str, language: Language, look: Look) -> Shot:
        """In a fresh browser, whose fault it can't be."""
        try:
            return self._draw(code, language, look)
        except _Lost as lost:
            raise RecordError(lost.reason, str(lost)) from None

    def _draw(self, code: str, language: Language, look: Look) -> Shot:
        if self._process is not None and self._process.pages >= MOST_PAGES:
            self.close()
        if self._process is None:
            self._process = Process(self.chromium.program, self.memory_bytes)
        self._process.deadline = time.monotonic() + self.page_s
        try:
            return _Page(self._process, look).shot(code, language)
        except TimeoutError:
            self.close()
            raise _Lost("page_hung", f"not drawn after {self.page_s:g} s") from None
        except OSError:
            self.close()
            raise _Lost("page_crashed", "the browser ended") from None
        except _Lost:
            self.close()
            raise


class _Lost(Exception):
    """With its page, or with the browser."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _Page:
    """One page in a context of its own: nothing is shared with the one before."""

    def __init__(self, process: Process, look: Look) -> None:
        self._process, self._look = process, look
        self._events: deque[dict[str, Any]] = deque()
        self._body = self._type = ""
        self._blocked: set[str] = set()

    def shot(self, code: str, language: Language) -> Shot:
        self._body, self._type = base64.b64encode(code.encode(errors="replace")).decode(), TYPES[language]
        self._process.pages += 1
        self._session: str | None = None
        context = self._call("Target.createBrowserContext", disposeOnDetach=True)["browserContextId"]
        target = self._call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._prepare()
        png = self._drawn()
        self._process.send("Target.disposeBrowserContext", browserContextId=context)
        return Shot(png, len(self._blocked))

    def _prepare(self) -> None:
        look = self._look
        for domain in ("Page", "Audits", "Inspector"):
            self._call(f"{domain}.enable")
        self._call("Fetch.enable", patterns=[{"urlPattern": "*"}])
        size = {"width": look.width_px, "height": look.height_px, "deviceScaleFactor": look.scale}
        self._call("Emulation.setDeviceMetricsOverride", mobile=False, **size)
        self._call("Emulation.setTimezoneOverride", timezoneId="UTC")
        self._call("Emulation.setLocaleOverride", locale="en-US")
        still = [
            {"name": "prefers-reduced-motion", "value": "reduce"},
            {"name": "prefers-color-scheme", "value": "light"},
        ]
        self._call("Emulation.setEmulatedMedia", media="screen", features=still)
        self._call("Page.addScriptToEvaluateOnNewDocument", source=STEADY)
        self._call("Emulation.setVirtualTimePolicy", policy="pause", initialVirtualTime=CLOCK_S)

    def _drawn(self) -> bytes:
        look = self._look
        frame = self._call("Page.navigate", url=PAGE)["frameId"]
        self._event("Page.frameNavigated")
        # Not before: the time of the empty page that was there would count.
        self._call("Emulation.setVirtualTimePolicy", policy="pauseIfNetworkFetchesPending", budget=SETTLE_MS)
        self._event("Emulation.virtualTimeBudgetExpired")
        world = self._call("Page.createIsolatedWorld", frameId=frame)["executionContextId"]
        told = self._call("Runtime.evaluate", expression=STILL, contextId=world, returnByValue=True)["result"]
        broken, x, y, width, height = told["value"]
        if broken:
            raise RecordError("malformed_svg")
        width, height = min(width, look.width_px), min(height, look.most_height_px)
        if width < 1 or height < 1:
            raise RecordError("nothing_drawn", f"{width:g} x {height:g} pixels")
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        shot = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    def _call(self, method: str, **parameters: Json) -> dict[str, Any]:
        number = self._process.send(method, self._session, **parameters)
        while (said := self._process.receive()).get("id") != number:
            self._happened(said)
        if "error" in said:
            raise _Lost("page_crashed", f"{method}: {said['error'].get('message')}")
        result: dict[str, Any] = said["result"]
        return result

    def _event(self, method: str) -> None:
        """Wait for it, unless it has come already."""
        while True:
            while self._events:
                if self._events.popleft()["method"] == method:
                    return
            self._happened(self._process.receive())

    def _happened(self, said: dict[str, Any]) -> None:
        if self._session is None or said.get("sessionId") != self._session or "method" not in said:
            return
        told = said.get("params", {})
        match said["method"]:
            case "Inspector.targetCrashed":
                raise _Lost("page_crashed", "it crashed, or needed more memory than it may have")
            case "Fetch.requestPaused":
                self._answer(told)
            case "Audits.issueAdded":
                url = told["issue"]["details"].get("contentSecurityPolicyIssueDetails", {}).get("blockedURL")
                if url:
                    self._blocked.add(url)
            case _:
                self._events.append(said)

    def _answer(self, request: dict[str, Any]) -> None:
        if request["request"]["url"] == PAGE and self._body:
            policy = POLICY.format(
                scripts="'unsafe-inline' 'unsafe-eval' data: blob:" if self._look.scripts else "'none'"
            )
            headers = {"Content-Type": self._type, "Content-Security-Policy": policy}
            self._process.send(
                "Fetch.fulfillRequest",
                self._session,
                requestId=request["requestId"],
                responseCode=200,
                responseHeaders=[{"name": name, "value": value} for name, value in headers.items()],
                body=self._body,
            )
            self._body = ""  # a page that opens itself again is what it is
        else:
            self._blocked.add(request["request"]["url"])
            told = {"requestId": request["requestId"], "errorReason": "Aborted"}
            self._process.send("Fetch.failRequest", self._session, **told)
