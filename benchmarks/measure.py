"""What every benchmark shares: times taken in pairs, and one form for the result.

A script answers one question, prints one table and writes one file, `results/NAME.json`. Tasks are taken in turns
(ours, peer, ours, peer ...) and by CPU time, because wall time on a shared machine measures the neighbours.
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
    """Where real photos and clips lie; a benchmark that is about them measures nothing else in their place."""
    folder = os.environ.get("MILLRACE_TEST_DATA")
    if not folder:
        raise SystemExit("this benchmark is about real photos and clips: MILLRACE_TEST_DATA names no folder of them")
    return Path(folder)


@dataclass(frozen=True, kw_only=True)
class Result:
    question: str
    unit: str
    """Of `ours` and `peers`; larger is better."""
    ours: float
    peers: Mapping[str, float]
    bar: float
    """What `ratio` must reach for the claim to hold."""
    libraries: tuple[str, ...]
    """Whose versions matter here."""
    details: Mapping[str, object]

    @property
    def ratio(self) -> float:
        """Ours over the best peer."""
        return self.ours / max(self.peers.values())


def paired(
    tasks: Mapping[str, Callable[[], object]], repetitions: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Median seconds of each task, all taken in turns; one round to warm up is not counted.

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
    """Write results/NAME.json and print the line that says whether the claim holds."""
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
