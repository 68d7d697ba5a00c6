"""Folder of a training run: a lock, a log in which each step appears once, and `done.json` at the end.

FOLDER/metrics.jsonl     run log: step, save, resume, evaluate
       checkpoints/      train/checkpoint.py
       evaluation.json   train/judge/evaluate.py
       done.json         written last; neither of the two holds a time, so equal runs have equal files
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from manifests import runlog
from manifests.files import held_file, write_whole
from manifests.records import Json, canonical_json
from train.checkpoint import require_same_identity

logger = logging.getLogger(__name__)


def locked(folder: Path) -> AbstractContextManager[None]:
    """Lock the folder, and wait for its holder: a child whose parent was killed may still be training in it."""

    def on_wait(holder: str) -> None:
        logger.warning("%s is being trained by process %s; waiting for it", folder, holder)

    return held_file(folder / "lock", on_wait)


def finished(folder: Path, identity: Mapping[str, str], evaluation: str) -> Json | None:
    """Return the content of `done.json`; None if steps or the evaluation are left to do.

    Raises:
        ResumeError: another run was finished in this folder.
    """
    file = folder / "done.json"
    if not file.exists():
        return None
    done = json.loads(file.read_text(encoding="utf-8"))
    require_same_identity(done["identity"], identity, str(file))
    return done if done["evaluation"] == evaluation else None


def drop_steps_after(log: Path, step: int) -> None:
    """Remove from a run log steps after `step`, the evaluation and torn lines: a resumed run writes them again."""
    kept = [row for row in runlog.read(log) if row["event"] != "evaluate" and row.get("step", 0) <= step]
    write_whole(log, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))


def write_json(file: Path, value: Json) -> None:
    """Write a JSON file whole or not at all."""
    write_whole(file, json.dumps(json.loads(canonical_json(value)), indent=1, ensure_ascii=False) + "\n")
