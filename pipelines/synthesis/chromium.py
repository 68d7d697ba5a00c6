"""The Chromium of this machine: its program, version and fonts, and the flags that it is started with.

`synthesis/browser.py` starts it. Version and fonts are part of the identity of a `render` node.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

from manifests.errors import MillraceError
from manifests.records import digest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell")
"""Names that are searched in PATH."""
VARIABLE = "MILLRACE_BROWSER"
"""Environment variable with the path of another program."""
START_S = 60.0
"""Time limit for a start of the program."""

ENVIRONMENT = ("PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR", "FONTCONFIG_FILE", "FONTCONFIG_PATH", "XDG_DATA_DIRS")
"""Environment variables that the browser inherits; others may hold secrets."""

FLAGS = (
    "--disable-gpu",
    "--font-render-hinting=none",
    "--disable-lcd-text",
    "--disable-domain-reliability",
    "--no-pings",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=127.0.0.1:1",  # no process listens there; for connections that need no host name
    "--proxy-bypass-list=<-loopback>",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--lang=en-US",
)
"""Flags that Playwright does not set itself: the same pixels on every machine, and no network."""


@dataclass(frozen=True)
class Chromium:
    program: str
    """Path."""
    version: str
    fonts: str
    """Digest of the list of installed fonts; "" if the program `fc-list` is missing."""


@cache
def find_chromium() -> Chromium:
    """Return the browser of this machine, once per process.

    Raises:
        MillraceError: there is none, or it does not start.
    """
    wanted = os.environ.get(VARIABLE)
    program = next(filter(None, map(shutil.which, [wanted] if wanted else PROGRAMS)), None)
    if program is None:
        raise MillraceError(
            f"no browser: {wanted!r} is no program" if wanted else f"no browser: none of {', '.join(PROGRAMS)} in PATH",
            where=VARIABLE,
            fix=f"install Chromium (`apt install chromium`), or set {VARIABLE} to its program",
        )
    version = _output([program, "--version"])
    if not version:
        fix = f"set {VARIABLE} to the program of a Chromium that runs"
        raise MillraceError("prints no version, so it is no browser that runs", where=program, fix=fix)
    fc_list = shutil.which("fc-list")
    fonts = sorted(_output([fc_list, ":", "file", "fontversion"]).splitlines()) if fc_list else []
    return Chromium(program, version, digest("fonts", *fonts) if fonts else "")


def _output(command: list[str]) -> str:
    """Return the output of a command, "" if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=START_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""
