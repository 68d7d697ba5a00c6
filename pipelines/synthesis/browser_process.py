"""A Chromium of this machine: where it is, what it is, and one that runs, spoken to through two pipes.

The DevTools protocol over `--remote-debugging-pipe` is JSON with zero bytes between messages, so no library and no
port is needed. `browser.py` says what is asked of it.
"""

from __future__ import annotations

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
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from manifests.errors import MillraceError
from manifests.records import Json, digest
from pipelines.engines.tether import tethered

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell")
CHOICE = "MILLRACE_BROWSER"
"""The environment variable that names another one."""

_PASSED_ON = ("PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR", "FONTCONFIG_FILE", "FONTCONFIG_PATH", "XDG_DATA_DIRS")
START_S = 60.0
MOST_MESSAGE_BYTES = 256 << 20

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


class Process:
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
