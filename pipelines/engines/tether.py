"""A process that ends when the one that started it does, however that ends.

Workers call `die_with_parent` themselves; commands are started through this file, which does so and then becomes the
command: `python tether.py PARENT_PID COMMAND ...`. Only the standard library is imported here.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when the thread that started it ends; end at once if that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def tethered(command: list[str]) -> list[str]:
    """The command line that runs `command` tied to this process."""
    return [sys.executable, "-I", os.path.abspath(__file__), str(os.getpid()), *command]


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
