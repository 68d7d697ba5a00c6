"""Run log: events of a run as JSON lines. Runs, loaders and trainers write it; inspection reads it.

No correctness depends on it: it may be deleted. Events: `node_start`, `node_skip`, `node_commit`, `quarantine`, `step`,
`save`, `resume`, `evaluate`, `certificate`, `stand_in`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from manifests.records import Json


class RunLog:
    """Writer of one line per event. Several processes may share a file: lines are short and written at once."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)

    def write(self, event: str, **fields: Json) -> None:
        """Append an event with its time (seconds since 1970) and `fields`."""
        line = json.dumps({"time": round(time.time(), 3), "event": event} | fields, ensure_ascii=False)
        with self.file.open("a", encoding="utf-8") as out:
            out.write(line + "\n")


def read(file: Path, event: str | None = None) -> list[dict[str, Json]]:
    """Return the events of a log, or those named `event`, oldest first. A line torn by a kill is left out."""
    rows = []
    if file.exists():
        for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if event is None or row.get("event") == event:
                rows.append(row)
    return rows
