"""The run log: what happened, as JSON lines. Deleting it loses no correctness.

Event names are few: `node_start`, `node_skip`, `node_commit`, `quarantine`, `step`, `save`, `resume`, `evaluate`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from manifests.records import Json


class RunLog:
    """Appends one line per event. Several processes may write to one file: lines are short and written at once."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)

    def write(self, event: str, **fields: Json) -> None:
        line = json.dumps({"time": round(time.time(), 3), "event": event} | fields, ensure_ascii=False)
        with self.file.open("a", encoding="utf-8") as out:
            out.write(line + "\n")


def read(file: Path, event: str | None = None) -> list[dict[str, Json]]:
    """Every whole line, oldest first; a line torn by a kill is left out."""
    found = []
    if file.exists():
        for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if event is None or row.get("event") == event:
                found.append(row)
    return found
