"""Measurement in turns, and the result record of a benchmark.

A script answers one question, prints one table and writes one file, `results/NAME.json`. Tasks run in turns (ours,
peer, ours, peer ...) and are measured by CPU time, because wall time on a shared machine measures other processes too.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def test_data() -> Path:
    """Folder of real photos and clips. Benchmarks that need them exit without it and never use a substitute."""
    folder = os.environ.get("MILLRACE_TEST_DATA")
    if not folder:
        raise SystemExit(
            "this benchmark measures real photos and clips, and MILLRACE_TEST_DATA is not set\n"
            "  fix: MILLRACE_TEST_DATA=FOLDER python -m benchmarks.NAME"
        )
    return Path(folder)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The answer of a benchmark, as saved in `results/NAME.json`."""

    question: str
    unit: str
    """Unit of `ours` and `peers`; larger is better."""
    ours: float
    peers: Mapping[str, float]
    bar: float
    """Smallest `ratio` for which the claim holds."""
    libraries: tuple[str, ...]
    """Distributions whose versions are saved with the result."""
    details: Mapping[str, object]

    @property
    def ratio(self) -> float:
        """`ours` over the best of `peers`."""
        return self.ours / max(self.peers.values())


def paired(
    tasks: Mapping[str, Callable[[], object]], repetitions: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Median seconds of each task, measured in turns. The warm-up round is left out.

    The default clock counts CPU seconds of this process with all its threads.
    """
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for repetition in range(repetitions + 1):
        for name, task in tasks.items():
            start = clock()
            task()
            if repetition:
                taken[name].append(clock() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def save(name: str, result: Result) -> Path:
    """Write `results/NAME.json` and print whether the claim holds."""
    holds = result.ratio >= result.bar
    row = asdict(result) | {
        "ratio": round(result.ratio, 3),
        "holds": holds,
        "versions": {library: metadata.version(library) for library in result.libraries}
        | {"python": platform.python_version()},
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
    }
    del row["libraries"]
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(row, indent=2) + "\n")
    print(f"{result.question} {result.ratio:.2f} (bar {result.bar}): {'holds' if holds else 'DOES NOT HOLD'}")
    return file
