"""Contestants in processes of their own, each in its own environment, that take turns.

    parent: take_turns([Contestant(...), ...])       child, started with `--serve NAME`: serve(task)

A contestant imports and prepares its data once; then it is asked again and again, ours, peer, ours, peer ..., so that a
busy machine slows all of them alike. CPU seconds are those of the child, its threads and the processes it waited for.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.peers import ROOT, python_of
from stores.files.local import fsync_path

Round = dict[str, float]
"""What one turn took: `cpu_s`, `wall_s`, and whatever else the task said."""


class Contestant:
    def __init__(self, module: str, name: str, environment: str | None) -> None:
        """`environment`: of `peers.ENVIRONMENTS`, None for ours."""
        python = Path(sys.executable) if environment is None else python_of(environment)
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed with the contestant
        command = [python, "-m", module, "--serve", name]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def ask(self, **request: object) -> Round:
        """One turn. Raises RuntimeError with the end of what the child said where it fails."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._errors.seek(0)
            raise RuntimeError(f"{self.name}:\n{self._errors.read()[-3000:]}")
        return json.loads(answer)

    def close(self) -> None:
        self._process.communicate()
        self._errors.close()


def serve(task: Callable[..., Mapping[str, float] | None]) -> None:
    """The child's side: call `task` with every request, time it, answer."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        request = json.loads(line)
        cpu, wall = _cpu_s(), time.perf_counter()
        told = task(**request) or {}
        taken = {"cpu_s": _cpu_s() - cpu, "wall_s": time.perf_counter() - wall}
        answers.write(json.dumps(taken | dict(told)) + "\n")
        answers.flush()


def take_turns(contestants: Sequence[Contestant], repetitions: int, **request: object) -> dict[str, list[Round]]:
    """Rounds of each contestant; the first one warms up and is not counted. Every turn gets an empty `folder`."""
    rounds: dict[str, list[Round]] = {one.name: [] for one in contestants}
    for repetition in range(repetitions + 1):
        turn = contestants if repetition % 2 else contestants[::-1]  # who comes first pays for who came last
        for one in turn:
            with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
                answer = one.ask(folder=folder, **request)
            if repetition:
                rounds[one.name].append(answer)
    return rounds


def rates(rounds: Mapping[str, Sequence[Round]], amount: float, clock: str) -> dict[str, float]:
    """`amount` over the median seconds of each contestant."""
    return {name: round(amount / statistics.median(one[clock] for one in taken), 3) for name, taken in rounds.items()}


def spread(rounds: Mapping[str, Sequence[Round]], amount: float, clock: str) -> dict[str, list[float]]:
    """The slowest and the fastest turn of each, as rates."""
    found = {}
    for name, taken in rounds.items():
        seconds = [one[clock] for one in taken]
        found[name] = [round(amount / max(seconds), 3), round(amount / min(seconds), 3)]
    return found


def paired_ratio(rounds: Mapping[str, Sequence[Round]], ours: str, clock: str) -> float:
    """Median over the rounds of how many times faster ours was than the best other of the same round."""
    others = [taken for name, taken in rounds.items() if not name.startswith(ours)]
    best = [min(one[clock] for one in turn) for turn in zip(*others, strict=True)]
    return statistics.median(b / mine[clock] for b, mine in zip(best, rounds[ours], strict=True))


def make_durable(folder: Path) -> None:
    """What ours does before it commits and the peers leave to the kernel: every file on the disk, and every name."""
    for path in sorted(folder.rglob("*"), reverse=True):
        fsync_path(path)
    fsync_path(folder)


def peak_rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
