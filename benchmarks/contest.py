"""Contestants that take turns, each a child process in its own environment.

    parent: take_turns([Contestant(...), ...])       child, started with `--serve NAME`: serve(task)

A contestant imports its libraries and prepares its data once. Then it gets one request per turn: ours, peer, ours,
peer ..., so that a busy machine slows all of them alike. CPU seconds are those of the child, of its threads and of the
processes that it waited for.
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
"""Measurements of one turn: `cpu_s`, `wall_s`, and the values that the task returned."""


class Contestant:
    """A child process that runs `python -m MODULE --serve NAME` and answers one request at a time."""

    def __init__(self, module: str, name: str, environment: str | None) -> None:
        """`environment`: a key of `peers.ENVIRONMENTS`; None for this project's own environment."""
        python = Path(sys.executable) if environment is None else python_of(environment)
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed with the contestant
        command = [python, "-m", module, "--serve", name]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def ask(self, **request: object) -> Round:
        """Run one turn. Raises RuntimeError with the end of the child's stderr if the turn fails."""
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
    """Child side: call `task` with every request, time the call, send the measurements back."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # prints of libraries must not mix with the answers
    for line in sys.stdin:
        request = json.loads(line)
        cpu, wall = _cpu_s(), time.perf_counter()
        extra = task(**request) or {}
        taken = {"cpu_s": _cpu_s() - cpu, "wall_s": time.perf_counter() - wall}
        answers.write(json.dumps(taken | dict(extra)) + "\n")
        answers.flush()


def take_turns(contestants: Sequence[Contestant], repetitions: int, **request: object) -> dict[str, list[Round]]:
    """Run all contestants in turns. Returns the rounds of each; the warm-up round is left out.

    Every request has a `folder`, which is empty, besides the entries of `request`.
    """
    rounds: dict[str, list[Round]] = {contestant.name: [] for contestant in contestants}
    for repetition in range(repetitions + 1):
        turn = contestants if repetition % 2 else contestants[::-1]  # the first one pays for the page cache of the last
        for contestant in turn:
            with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
                answer = contestant.ask(folder=folder, **request)
            if repetition:
                rounds[contestant.name].append(answer)
    return rounds


def rates(rounds: Mapping[str, Sequence[Round]], amount: float, clock: str) -> dict[str, float]:
    """Rate of each contestant: `amount` over its median seconds by `clock` (`cpu_s` or `wall_s`)."""
    return {name: round(amount / statistics.median(turn[clock] for turn in turns), 3) for name, turns in rounds.items()}


def spread(rounds: Mapping[str, Sequence[Round]], amount: float, clock: str) -> dict[str, list[float]]:
    """Rates of the slowest and of the fastest turn of each contestant."""
    ranges = {}
    for name, turns in rounds.items():
        seconds = [turn[clock] for turn in turns]
        ranges[name] = [round(amount / max(seconds), 3), round(amount / min(seconds), 3)]
    return ranges


def paired_ratio(rounds: Mapping[str, Sequence[Round]], ours: str, clock: str) -> float:
    """Median over the rounds of the speed of `ours` over the best other contestant of the same round."""
    others = [turns for name, turns in rounds.items() if not name.startswith(ours)]
    best = [min(turn[clock] for turn in same_round) for same_round in zip(*others, strict=True)]
    return statistics.median(seconds / mine[clock] for seconds, mine in zip(best, rounds[ours], strict=True))


def make_durable(folder: Path) -> None:
    """Sync all files and folders below `folder` to disk, as a store does before its commit; peers' writers do not."""
    for path in sorted(folder.rglob("*"), reverse=True):
        fsync_path(path)
    fsync_path(folder)


def peak_rss_mb() -> float:
    """Peak resident memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cpu_s() -> float:
    usages = [resource.getrusage(scope) for scope in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
