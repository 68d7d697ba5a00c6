"""Screenshots of untrusted pages: a headless Chromium (`synthesis/chromium.py`), driven through Playwright.

    with Browser(find_chromium()) as browser:
        shot = browser.screenshot("<h1>Hello</h1>", "html", ScreenshotOptions(width_px=1024, height_px=768))

A screenshot is a function of the page's code, the options, the browser and the fonts. The clock is virtual and begins
at a fixed time, `Math.random` has a fixed seed, frames follow the virtual clock, time zone and language are fixed, and
animations are at their end, endless ones at their beginning.

Nothing is fetched. A content security policy allows the page itself and `data:`; other requests are aborted one by
one; no host name resolves; connections without a host name go to a proxy that does not exist.

Each page has its own context and renderer process. A page that hangs, crashes or needs more memory than allowed is
tried again in a fresh browser, so that the verdict depends on the page alone, and then raises.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from manifests.errors import MillraceError, RecordError
from manifests.load import schema
from pipelines.synthesis.chromium import ENVIRONMENT, FLAGS, START_S, VARIABLE, Chromium

if TYPE_CHECKING:
    from playwright import async_api as playwright

MOST_PAGES = 500
"""Pages of one browser process, because it never frees all memory of a page."""
CLOCK_S = 1_600_000_000.0
"""Unix time at which pages open."""
SETTLE_MS = 2_000
"""Virtual time for scripts and animations; it passes as fast as there is nothing to do."""

PAGE = "https://page.invalid/"
"""Address of the page; the top-level domain exists nowhere (RFC 6761), and the request is answered here."""
POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data: blob:; style-src 'unsafe-inline' data:; "
    "script-src {scripts}; font-src data:; media-src data: blob:"
)
STEADY = """(() => {
  let seed = 1;
  const begin = Date.now();
  Math.random = () => (seed = seed * 48271 % 2147483647) / 2147483647;
  performance.now = () => Date.now() - begin;
  requestAnimationFrame = callback => setTimeout(() => callback(performance.now()), 16);
  cancelAnimationFrame = clearTimeout;
  delete RTCPeerConnection;
  delete webkitRTCPeerConnection;
})()"""
"""Script that runs before the page's. Real frames depend on the machine's load; these depend on the virtual clock. No
policy restricts peer connections, so their constructors are deleted."""
STILL = """(() => {
  for (const animation of document.getAnimations()) {
    try { animation.finish(); } catch { animation.cancel(); }
  }
  for (const svg of document.querySelectorAll('svg')) { svg.pauseAnimations(); svg.setCurrentTime(0); }
  const root = document.documentElement, drawing = root.matches('svg') ? root : document.querySelector('body > svg');
  const alone = drawing && (drawing === root || document.body.children.length === 1);
  const box = alone ? drawing.getBoundingClientRect() : {x: 0, y: 0, width: innerWidth, height: root.scrollHeight};
  return [!!document.querySelector('parsererror'), box.x, box.y, box.width, box.height];
})()"""
"""Script that ends animations and returns whether the XML is malformed, and the box of the page: of a drawing without
anything else around it, the drawing's own box."""

PageLanguage = Literal["html", "svg"]
TYPES: dict[PageLanguage, str] = {"html": "text/html; charset=utf-8", "svg": "image/svg+xml; charset=utf-8"}


@schema
class ScreenshotOptions:
    """Window and scale of a screenshot."""

    width_px: int = 1024
    """Width of the window."""
    height_px: int = 768
    """Height of the window. A screenshot is at least as high; of a lone drawing it has the drawing's size."""
    most_height_px: int = 4096
    """Longer pages are cut off here."""
    scale: float = 1.0
    """Pixels of the screenshot per pixel of the page."""
    scripts: bool = True
    """Whether the page's scripts run."""

    def __post_init__(self) -> None:
        if not 16 <= self.width_px <= 8192:
            raise ValueError(f"width_px is {self.width_px}, expected 16 to 8192")
        if not 16 <= self.height_px <= self.most_height_px <= 16384:
            heights = f"height_px is {self.height_px} and most_height_px {self.most_height_px}"
            raise ValueError(f"{heights}, expected 16 <= height_px <= most_height_px <= 16384")
        if not 0.25 <= self.scale <= 4:
            raise ValueError(f"scale is {self.scale}, expected 0.25 to 4")


@dataclass(frozen=True)
class Screenshot:
    png: bytes
    blocked: int
    """Number of addresses that the page requested in vain."""


class Browser:
    """A browser that is started at the first page. Use it in one thread, as a context manager."""

    def __init__(self, chromium: Chromium, *, page_s: float = 30.0, memory_bytes: int = 2 << 30) -> None:
        """
        Args:
            page_s: time limit of one page in real time, for pages that hang; the page's own time is virtual.
            memory_bytes: limit of data that each process of the browser may write; a page has one process.
        """
        self.chromium, self.page_s, self.memory_bytes = chromium, page_s, memory_bytes
        self._process: _Process | None = None

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def screenshot(self, code: str, language: PageLanguage, options: ScreenshotOptions) -> Screenshot:
        """Draw a page.

        Raises:
            RecordError: `page_crashed`, `page_hung`, `malformed_svg`, `nothing_drawn`.
        """
        try:
            return self._try(code, language, options)
        except _Failed:
            pass  # an earlier page may have damaged the browser: only the second failure is this page's
        try:
            return self._try(code, language, options)
        except _Failed as failed:
            raise RecordError(failed.reason, str(failed)) from None

    def _try(self, code: str, language: PageLanguage, options: ScreenshotOptions) -> Screenshot:
        if self._process is not None and self._process.pages >= MOST_PAGES:
            self.close()
        if self._process is None:
            self._process = _Process(self.chromium, self.memory_bytes)
        self._process.pages += 1
        try:
            return self._process.run(_Page(self._process.browser, code, language, options).screenshot(self.page_s))
        except _Failed:
            self.close()
            raise


class _Failed(Exception):
    """The page or the browser failed; `reason` is a code of `Browser.screenshot`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _Process:
    """A running browser and the event loop of its Playwright driver."""

    browser: playwright.Browser

    def __init__(self, chromium: Chromium, memory_bytes: int) -> None:
        self.pages = 0
        self._folder = tempfile.mkdtemp(prefix="millrace-browser-")
        self._loop = asyncio.new_event_loop()
        self._driver: playwright.Playwright | None = None
        from playwright.async_api import Error

        try:
            self.run(self._start(chromium, memory_bytes))
        except (Error, OSError) as error:
            self.close()
            fix = f"start it by hand to see what is missing, or set {VARIABLE} to another one"
            message = str(error).strip()[-2000:]
            raise MillraceError(f"the browser does not start: {message}", where=chromium.program, fix=fix) from error

    async def _start(self, chromium: Chromium, memory_bytes: int) -> None:
        from playwright.async_api import async_playwright

        # The limit counts data that a process writes, heaps and stacks; it does not count code and reserved memory.
        program = Path(self._folder, "chromium")
        program.write_text(
            f'#!/bin/sh\nulimit -d {memory_bytes >> 10}\nulimit -c 0\nexec {shlex.quote(chromium.program)} "$@"\n'
        )
        program.chmod(0o700)
        self._driver = await async_playwright().start()
        self.browser = await self._driver.chromium.launch(
            executable_path=program,
            args=FLAGS,
            chromium_sandbox=os.geteuid() != 0,  # as root it refuses to start with its sandbox
            env={name: value for name, value in os.environ.items() if name in ENVIRONMENT},
            timeout=START_S * 1000,
            handle_sigint=False,
            handle_sigterm=False,
            handle_sighup=False,
        )

    def run(self, work: Awaitable[Any]) -> Any:
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        """Stop the driver, which kills the browser."""
        if self._driver is not None:
            from playwright.async_api import Error

            with contextlib.suppress(Error, TimeoutError):  # a browser that has ended already
                self.run(asyncio.wait_for(self._driver.stop(), START_S))
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Page:
    """One page in a context of its own, which shares nothing with other pages."""

    def __init__(
        self, browser: playwright.Browser, code: str, language: PageLanguage, options: ScreenshotOptions
    ) -> None:
        self._browser, self._options = browser, options
        self._body, self._type = code.encode(errors="replace"), TYPES[language]
        self._served = False
        self._blocked: set[str] = set()
        self._crashed = asyncio.Event()

    async def screenshot(self, page_s: float) -> Screenshot:
        from playwright.async_api import Error

        drawing = asyncio.ensure_future(self._draw())
        crash = asyncio.ensure_future(self._crashed.wait())
        done, pending = await asyncio.wait({drawing, crash}, timeout=page_s, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if not done:
            raise _Failed("page_hung", f"not drawn after {page_s:g} s")
        if crash in done:
            raise _Failed("page_crashed", "it crashed, or needed more memory than allowed")
        try:
            return Screenshot(drawing.result(), len(self._blocked))
        except Error as error:
            raise _Failed("page_crashed", f"the browser ended: {error}") from None

    async def _draw(self) -> bytes:
        context = await self._browser.new_context(
            timezone_id="UTC",
            locale="en-US",
            reduced_motion="reduce",
            color_scheme="light",
            service_workers="block",
            accept_downloads=False,
        )
        await context.route("**/*", self._answer)
        await context.add_init_script(STEADY)
        page = await context.new_page()
        page.on("crash", lambda _: self._crashed.set())
        png = await self._draw_in(await context.new_cdp_session(page))
        await context.close()
        return png

    async def _draw_in(self, devtools: playwright.CDPSession) -> bytes:
        """Open the page, let its virtual time pass and take the screenshot, by the DevTools protocol."""
        options = self._options
        window = {"width": options.width_px, "height": options.height_px, "deviceScaleFactor": options.scale}
        await devtools.send("Emulation.setDeviceMetricsOverride", {**window, "mobile": False})
        devtools.on("Audits.issueAdded", self._issue)
        await devtools.send("Audits.enable")
        await devtools.send("Page.enable")
        await devtools.send("Emulation.setVirtualTimePolicy", {"policy": "pause", "initialVirtualTime": CLOCK_S})
        navigated, settled = asyncio.Event(), asyncio.Event()
        devtools.on("Page.frameNavigated", lambda _: navigated.set())
        devtools.on("Emulation.virtualTimeBudgetExpired", lambda _: settled.set())
        frame = (await devtools.send("Page.navigate", {"url": PAGE}))["frameId"]
        await navigated.wait()  # before it, the time would pass on the empty page
        budget = {"policy": "pauseIfNetworkFetchesPending", "budget": SETTLE_MS}
        await devtools.send("Emulation.setVirtualTimePolicy", budget)
        await settled.wait()
        world = (await devtools.send("Page.createIsolatedWorld", {"frameId": frame}))["executionContextId"]
        script = {"expression": STILL, "contextId": world, "returnByValue": True}
        malformed, x, y, width, height = (await devtools.send("Runtime.evaluate", script))["result"]["value"]
        if malformed:
            raise RecordError("malformed_svg")
        width, height = min(width, options.width_px), min(height, options.most_height_px)
        if width < 1 or height < 1:
            raise RecordError("nothing_drawn", f"{width:g} x {height:g} pixels")
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        shot = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        return base64.b64decode((await devtools.send("Page.captureScreenshot", shot))["data"])

    def _issue(self, event: dict[str, Any]) -> None:
        """Count an address that the content security policy blocked."""
        url = event["issue"]["details"].get("contentSecurityPolicyIssueDetails", {}).get("blockedURL")
        if url:
            self._blocked.add(url)

    async def _answer(self, route: playwright.Route) -> None:
        """Serve the page once; abort every other request, also a second one for the page."""
        if route.request.url != PAGE or self._served:
            self._blocked.add(route.request.url)
            await route.abort("aborted")
            return
        self._served = True
        scripts = "'unsafe-inline' 'unsafe-eval' data: blob:" if self._options.scripts else "'none'"
        headers = {"Content-Type": self._type, "Content-Security-Policy": POLICY.format(scripts=scripts)}
        await route.fulfill(status=200, headers=headers, body=self._body)
