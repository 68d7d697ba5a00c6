"""A real browser that draws pages of strangers: one headless Chromium, spoken to through two pipes.

    with Browser(found()) as browser:
        shot = browser.draw("<h1>Hello</h1>", "html", Look(width_px=1024, height_px=768))

The DevTools protocol over `--remote-debugging-pipe` is JSON with zero bytes between messages, so no library and no
port is needed. What a page shows is a function of its code, the look, the browser and the fonts: its clock is virtual
and begins at one moment, `Math.random` at one seed, frames come by that clock, time zone and language are fixed,
animations are at their end or, without one, at their beginning. Nothing is fetched: a content security policy lets
nothing but the page itself and `data:` through, requests that it doesn't see are refused one by one, no host name
resolves, and what needs no name goes to a proxy that is not there.

A page runs in a process of its own. One that hangs, crashes or needs more memory than it may costs itself: it is tried
again in a fresh browser, so that the verdict depends on the page alone, and is then set aside.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from manifests.errors import MillraceError, RecordError
from manifests.load import schema
from manifests.records import Json, digest
from pipelines.tether import tethered

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell")
CHOICE = "MILLRACE_BROWSER"
"""The environment variable that names another one."""

_PASSED_ON = ("PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR", "FONTCONFIG_FILE", "FONTCONFIG_PATH", "XDG_DATA_DIRS")
START_S = 60.0
MOST_PAGES = 500
"""Of one browser process: it never gives back all that pages took."""
MOST_MESSAGE_BYTES = 256 << 20
CLOCK_S = 1_600_000_000.0
"""When pages believe they are opened."""
SETTLE_MS = 2_000
"""Of virtual time after that, for scripts and animations: it passes as fast as there is nothing to do."""

FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--mute-audio",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
    "--disable-lcd-text",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--no-pings",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=127.0.0.1:1",  # where nothing listens; for what is not asked by name
    "--proxy-bypass-list=<-loopback>",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--lang=en-US",
)
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


@dataclass(frozen=True)
class Chromium:
    program: str
    version: str
    fonts: str
    """Digest of the list of installed fonts; "" where `fc-list` is not there to tell."""


@cache
def found() -> Chromium:
    """Raises MillraceError where there is no browser."""
    wanted = os.environ.get(CHOICE)
    program = next(filter(None, map(shutil.which, [wanted] if wanted else NAMES)), None)
    if program is None:
        raise MillraceError(
            f"no browser: {wanted!r} is no program" if wanted else f"no browser: none of {', '.join(NAMES)} in PATH",
            where=CHOICE,
            fix=f"install Chromium (`apt install chromium`), or name its program in {CHOICE}",
        )
    version = _said([program, "--version"])
    if not version:
        fix = f"name a Chromium that runs in {CHOICE}"
        raise MillraceError("this program says no version, so it is no browser that runs", where=program, fix=fix)
    lister = shutil.which("fc-list")
    fonts = sorted(_said([lister, ":", "file", "fontversion"]).splitlines()) if lister else []
    return Chromium(program, version, digest("fonts", *fonts) if fonts else "")


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=START_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


class Browser:
    """Belongs to the thread that made it, and ends with it."""

    def __init__(self, chromium: Chromium, *, page_s: float = 30.0, memory_bytes: int = 2 << 30) -> None:
        """
        Args:
            page_s: for one page, by the clock: for what hangs. The page's own time is virtual.
            memory_bytes: that each of the browser's processes may have for itself; a page has one.
        """
        self.chromium, self.page_s, self.memory_bytes = chromium, page_s, memory_bytes
        self._process: _Process | None = None

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
            self._process = _Process(self.chromium.program, self.memory_bytes)
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


class _Process:
    """A started browser: messages out, messages in."""

    def __init__(self, program: str, memory_bytes: int) -> None:
        self.deadline = time.monotonic() + START_S
        self.pages = 0
        self._folder = tempfile.mkdtemp(prefix="millrace-browser-")
        root = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to start otherwise
        command = [program, *FLAGS, *root, f"--user-data-dir={self._folder}"]
        log = Path(self._folder, "stderr")
        with log.open("wb") as errors:
            # It reads from descriptor 3 and writes to 4.
            shell = ["/bin/sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null', "sh"]
            self._process = subprocess.Popen(
                [*shell, *tethered(command)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={name: value for name, value in os.environ.items() if name in _PASSED_ON},
                bufsize=0,
                start_new_session=True,
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        # What a process writes to: pages of code and what it only reserves don't count, heaps and stacks do.
        resource.prlimit(self._process.pid, resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        resource.prlimit(self._process.pid, resource.RLIMIT_CORE, (0, 0))
        self._came = bytearray()
        self._sent = 0
        try:
            self.call("Browser.getVersion")
        except OSError as error:
            said = log.read_text(errors="replace").strip()[-2000:]
            self.kill()
            fix = f"start it by hand to see what is missing, or name another one in {CHOICE}"
            raise MillraceError(f"the browser does not start: {said or error}", where=program, fix=fix) from error

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def send(self, method: str, session: str | None = None, **parameters: Json) -> int:
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        left = memoryview(json.dumps(message).encode() + b"\0")
        while left:
            self._wait(self._in, select.POLLOUT)
            left = left[os.write(self._in, left) :]
        return self._sent

    def receive(self) -> dict[str, Any]:
        """Raises TimeoutError at the deadline, OSError where the browser has ended."""
        begin = 0
        while (end := self._came.find(b"\0", begin)) < 0:
            begin = len(self._came)
            self._wait(self._out, select.POLLIN)
            some = os.read(self._out, 1 << 20)
            if not some or begin + len(some) > MOST_MESSAGE_BYTES:
                raise BrokenPipeError
            self._came += some
        message = bytes(self._came[:end])
        del self._came[: end + 1]
        said: dict[str, Any] = json.loads(message)
        return said

    def call(self, method: str, **parameters: Json) -> dict[str, Any]:
        """Of the browser, when no page is open."""
        number = self.send(method, **parameters)
        while (said := self.receive()).get("id") != number:
            pass
        result: dict[str, Any] = said["result"]
        return result

    def _wait(self, fd: int, event: int) -> None:
        poll = select.poll()
        poll.register(fd, event)
        if not poll.poll(max(0.0, self.deadline - time.monotonic()) * 1000):
            raise TimeoutError


class _Page:
    """One page in a context of its own: nothing is shared with the one before."""

    def __init__(self, process: _Process, look: Look) -> None:
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
