"""What does the same DAG cost on `local`, on Ray and on Dask?

A folder of small texts -> documents -> filter -> tokenise, with two worker processes each; clusters are embedded. Every
run is `millrace run` in a process of its own, timed from outside with all processes that it starts: by the clock, and
by CPU seconds of every descendant. A run over one file says what starting costs; what is above `local` in the other,
starting taken off, divided by units, is the overhead of a unit. All engines must end in the same content roots.
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
    ops: [{kind: no_text}, {kind: too_short}, {kind: repeated_lines}, {kind: garbled}]
  samples: {kind: tokenise, inputs: [filtered]}
"""


def write_texts(folder: Path, files: int) -> None:
    dice = random.Random(1)
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 9))) for _ in range(4000)]
    for i in range(files):
        file = folder / f"{i % 50:02d}" / f"{i:05d}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(" ".join(dice.choices(words, k=12)) + "." for _ in range(30)) + "\n")


def timed(dag: Path, out: Path, engine: str) -> tuple[float, float]:
    """Wall and CPU seconds of one run with all its descendants, which become children of this process if orphaned."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    command = [sys.executable, str(ROOT / "millrace.py"), "run", str(dag), "--out", str(out)]
    command += ["--engine", engine, "--workers", str(WORKERS)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    _, talk = run.communicate()
    wall = time.monotonic() - start
    assert run.returncode == 0, talk
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def contents(out: Path) -> list[tuple[str, int]]:
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
        found: dict[str, list[tuple[str, int]]] = {}
        for _ in range(REPETITIONS):
            for engine in ENGINES:
                for size in ("start", "whole"):
                    out = folder / "out"
                    taken.setdefault((engine, size), []).append(timed(folder / f"{size}.yaml", out, engine))
                    if size == "whole":
                        found[engine] = contents(out)
                    shutil.rmtree(out)
        assert found["local"] == found["ray"] == found["dask"], found
        units = sum(count for _, count in found["local"])
    details = {engine: row(taken, engine, units) for engine in ENGINES}
    print(f"{units} units, {FILES} documents, {WORKERS} workers; medians of {REPETITIONS}; equal content roots")
    print("engine      wall s     CPU s   start: wall     CPU   above local per unit: wall ms    CPU ms")
    for engine, told in details.items():
        numbers = (told["wall_s"], told["cpu_s"], told["start_wall_s"], told["start_cpu_s"])
        above = (told["above_local_wall_ms"], told["above_local_cpu_ms"])
        print("{:8}{:10.1f}{:10.1f}{:14.1f}{:8.1f}{:32.1f}{:10.1f}".format(engine, *numbers, *above))
    result = Result(
        question="The same DAG on `local`, over the quicker of Ray and Dask, start included:",
        unit="units per CPU second",
        ours=units / details["local"]["cpu_s"],
        peers={engine: units / details[engine]["cpu_s"] for engine in ("ray", "dask")},
        bar=0.95,
        libraries=("ray", "distributed", "pyarrow"),
        details=details | {"units": units, "documents": FILES, "workers": WORKERS, "repetitions": REPETITIONS},
    )
    save("engines", result)


def row(taken: dict[tuple[str, str], list[tuple[float, float]]], engine: str, units: int) -> dict[str, float]:
    def median(engine: str, size: str, which: int) -> float:
        return statistics.median(one[which] for one in taken[engine, size])

    told = {}
    for which, word in enumerate(("wall", "cpu")):
        whole, start = median(engine, "whole", which), median(engine, "start", which)
        above = (whole - start) - (median("local", "whole", which) - median("local", "start", which))
        walls = [one[which] for one in taken[engine, "whole"]]
        told |= {
            f"{word}_s": round(whole, 2),
            f"{word}_s_spread": round(max(walls) - min(walls), 2),
            f"start_{word}_s": round(start, 2),
            f"above_local_{word}_ms": round(1000 * above / units, 2),
        }
    return told


if __name__ == "__main__":
    main()
