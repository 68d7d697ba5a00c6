"""CPU time and peak memory of a piece of work, measured inside the process that does it.

Workers measure each unit (`unit.py`), the driver measures itself per node (`execute.py`). CPU time is a difference of
`getrusage`. Peak memory is `VmHWM` of /proc/self/status, which Linux lets a process reset; elsewhere, and if the reset
is forbidden, it is the peak since the process began.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

PROCESS = uuid.uuid4().hex
"""Name of this process, unique over all machines of a cluster."""

_RESET_PEAK = "5"
"""Written to /proc/self/clear_refs: sets `VmHWM` to the present memory."""


@dataclass(frozen=True)
class Usage:
    cpu_s: float = 0.0
    peak_bytes: int = 0
    """Largest resident memory of one process; 0 if not known."""
    process: str = ""
    """`PROCESS` of the one that was measured."""

    def plus(self, other: Usage) -> Usage:
        """Return the sum of CPU times, and the memory of the larger one."""
        return Usage(self.cpu_s + other.cpu_s, max(self.peak_bytes, other.peak_bytes))


class UsageMeter:
    """Measurement that begins when it is made."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        self._own_s, self._children_s = _cpu_s(resource.RUSAGE_SELF), _cpu_s(resource.RUSAGE_CHILDREN)
        self._children_peak = _children_peak_bytes()

    def own(self, children: bool = False) -> Usage:
        """Return the usage of this process; with `children`, plus the CPU time of its children that have ended."""
        cpu_s = _cpu_s(resource.RUSAGE_SELF) - self._own_s
        if children:
            cpu_s += _cpu_s(resource.RUSAGE_CHILDREN) - self._children_s
        return Usage(cpu_s, _peak_bytes(), PROCESS)

    def ended_child(self) -> Usage:
        """Return the usage of children that have ended since; their memory only if it is the largest of all so far."""
        peak = _children_peak_bytes()
        cpu_s = _cpu_s(resource.RUSAGE_CHILDREN) - self._children_s
        return Usage(cpu_s, peak if peak > self._children_peak else 0)


def _cpu_s(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def _peak_bytes() -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return _bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _children_peak_bytes() -> int:
    return _bytes(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _bytes(maxrss: int) -> int:
    """`ru_maxrss` counts KiB on Linux, bytes on macOS."""
    return maxrss if sys.platform == "darwin" else maxrss << 10
