"""The folder of a run: one process at a time, a log in which each step stands once, and when it is finished.

FOLDER/metrics.jsonl     run log: step, save, resume, evaluate
       checkpoints/      train/checkpoint.py
       evaluation.json   train/judge/evaluate.py
       done.json         written last; none of the two holds a time, so equal runs have equal files
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from manifests import runlog
from manifests.records import Json, canonical_json
from train.checkpoint import refuse_other

POLL_S = 0.5


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder, waiting for whoever holds it: a child whose parent was killed may still be training in it.

    The lock is the kernel's and goes with the process, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    print(f"{folder} is being trained by another process; waiting for it", file=sys.stderr)
                told = True
                time.sleep(POLL_S)
        yield


def finished(folder: Path, identity: Mapping[str, str], evaluation: str) -> Json | None:
    """What `done.json` says, or None where there is work left. Raises ResumeError where another run was finished here.

    A run that is to be evaluated in another way is not finished, though it needs no more steps.
    """
    file = folder / "done.json"
    if not file.exists():
        return None
    done = json.loads(file.read_text(encoding="utf-8"))
    refuse_other(done["identity"], identity, str(file))
    return done if done["evaluation"] == evaluation else None


def forget_steps_after(log: Path, step: int) -> None:
    """Take out of a run log what will happen again: steps later than `step`, the evaluation, a line torn by a kill."""
    kept = [row for row in runlog.read(log) if row["event"] != "evaluate" and row.get("step", 0) <= step]
    _replace(log, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))


def write_json(file: Path, value: Json) -> None:
    """All of it or none of it."""
    _replace(file, json.dumps(json.loads(canonical_json(value)), indent=1, ensure_ascii=False) + "\n")


def _replace(file: Path, text: str) -> None:
    aside = file.with_name(f".{file.name}")
    with aside.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    aside.replace(file)
