"""How much does the same DAG cost on `local`, on Ray and on Dask?

A folder of small texts -> documents -> filter -> tokenize, with two worker processes each. Ray and Dask start their
cluster inside the run. Every run is `millrace run` in a new process. Its wall time and the CPU seconds of all its
descendants are measured from outside. A run over one file measures the cost of starting. The overhead of an engine per
unit is its time above `local`, both without the cost of starting, divided by the number of units. All engines must end
with the same content roots.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Result, save
from stores.store import Store

ENGINES = ("local", "ray", "dask")
NODES = ("documents", "filtered", "samples")
REPETITIONS = 3
FILES = 3000
WORKERS = 2
ROOT = Path(__file__).parents[1]
_PR_SET_CHILD_SUBREAPER = 36

DAG = """
name: engines
nodes:
  documents: {kind: ingest_folder, path: PATH}
  filtered:
    kind: filter
    input: documents
    ops: [{kind: no_text}, {kind: text_length}, {kind: repeated_lines}, {kind: garbled}]
  samples: {kind: tokenize, inputs: [filtered]}
"""


def write_texts(folder: Path, files: int) -> None:
    """Write seeded text files of 30 lines of 12 words, spread over 50 folders."""
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(4000)]
    for i in range(files):
        file = folder / f"{i % 50:02d}" / f"{i:05d}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(" ".join(rng.choices(words, k=12)) + "." for _ in range(30)) + "\n")


def timed(dag: Path, out: Path, engine: str) -> tuple[float, float]:
    """Wall and CPU seconds of one run and all its descendants. Orphans become children of this process, see `main`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    command = [sys.executable, str(ROOT / "millrace.py"), "run", str(dag), "--out", str(out)]
    command += ["--engine", engine, "--workers", str(WORKERS)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    _, errors = run.communicate()
    wall = time.monotonic() - start
    assert run.returncode == 0, errors
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def contents(out: Path) -> list[tuple[str, int]]:
    """(content root, number of units) of the store of each node."""
    heads = [Store.open(str(out / node)).head() for node in NODES]
    return [(head.content_root, len(head.units)) for head in heads if head is not None]


def main() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for size, files in (("start", 1), ("whole", FILES)):
            write_texts(folder / f"{size}-texts", files)
            (folder / f"{size}.yaml").write_text(DAG.replace("PATH", str(folder / f"{size}-texts")))
        results: dict[str, list[tuple[str, int]]] = {}
        for _ in range(REPETITIONS):
            for engine in ENGINES:
                for size in ("start", "whole"):
                    out = folder / "out"
                    taken.setdefault((engine, size), []).append(timed(folder / f"{size}.yaml", out, engine))
                    if size == "whole":
                        results[engine] = contents(out)
                    shutil.rmtree(out)
        assert results["local"] == results["ray"] == results["dask"], results
        units = sum(count for _, count in results["local"])
    details = {engine: row(taken, engine, units) for engine in ENGINES}
    print(f"{units} units, {FILES} documents, {WORKERS} workers; medians of {REPETITIONS}; equal content roots")
    print("engine      wall s     CPU s   start: wall     CPU   above local per unit: wall ms    CPU ms")
    for engine, figures in details.items():
        numbers = (figures["wall_s"], figures["cpu_s"], figures["start_wall_s"], figures["start_cpu_s"])
        above = (figures["above_local_wall_ms"], figures["above_local_cpu_ms"])
        print("{:8}{:10.1f}{:10.1f}{:14.1f}{:8.1f}{:32.1f}{:10.1f}".format(engine, *numbers, *above))
    result = Result(
        question="The same DAG on `local`, over the faster of Ray and Dask, including the start:",
        unit="units per CPU second",
        ours=units / details["local"]["cpu_s"],
        peers={engine: units / details[engine]["cpu_s"] for engine in ("ray", "dask")},
        bar=0.95,
        libraries=("ray", "distributed", "pyarrow"),
        details=details | {"units": units, "documents": FILES, "workers": WORKERS, "repetitions": REPETITIONS},
    )
    save("engines", result)


def row(taken: dict[tuple[str, str], list[tuple[float, float]]], engine: str, units: int) -> dict[str, float]:
    """Median seconds of an engine, their spread, the cost of starting, and the overhead per unit above `local`."""

    def median(engine: str, size: str, clock: int) -> float:
        return statistics.median(seconds[clock] for seconds in taken[engine, size])

    figures = {}
    for clock, word in enumerate(("wall", "cpu")):
        whole, start = median(engine, "whole", clock), median(engine, "start", clock)
        above = (whole - start) - (median("local", "whole", clock) - median("local", "start", clock))
        all_seconds = [seconds[clock] for seconds in taken[engine, "whole"]]
        figures |= {
            f"{word}_s": round(whole, 2),
            f"{word}_s_spread": round(max(all_seconds) - min(all_seconds), 2),
            f"start_{word}_s": round(start, 2),
            f"above_local_{word}_ms": round(1000 * above / units, 2),
        }
    return figures


if __name__ == "__main__":
    main()
