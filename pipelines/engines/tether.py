"""Child processes that end when their parent ends, however it ends.

Worker processes (`child.py`) call `die_with_parent` themselves. Other commands are started through this file: `python
tether.py PARENT_PID COMMAND ...` calls it and then replaces itself by the command. Imports the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when the thread that started it ends; exit at once if it has ended already.

    Args:
        parent: expected process id of the parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def tethered(command: list[str]) -> list[str]:
    """Return the command line that runs `command` and kills it when this process ends."""
    return [sys.executable, "-I", os.path.abspath(__file__), str(os.getpid()), *command]


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
