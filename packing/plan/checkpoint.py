"""What a killed planner leaves to the next one: a file that says where its plan stood at the end of a leg."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from manifests.records import digest


class Progress:
    """Of one plan, in a folder that outlives the process."""

    def __init__(self, folder: str | Path, *identity: str) -> None:
        """`identity`: everything that decides the plan, and where it is written."""
        self._path = Path(folder) / f"millrace-plan-{digest('progress', *identity)[:32]}"

    def save(self, *state: Any) -> None:
        """Durable when it returns."""
        aside = self._path.with_suffix(".new")
        with aside.open("wb") as out:
            pickle.dump(state, out)
            out.flush()
            os.fsync(out.fileno())
        aside.replace(self._path)

    def load(self) -> tuple[Any, ...] | None:
        """What was saved last; None where nothing was, or by code that can't be understood any more."""
        try:
            return tuple(pickle.loads(self._path.read_bytes()))
        except (OSError, EOFError, AttributeError, ImportError, pickle.UnpicklingError):
            return None

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)
