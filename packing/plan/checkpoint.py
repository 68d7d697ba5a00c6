"""Checkpoint file of a planner: its state at the end of a whole checkpoint interval, from which a killed one resumes.

`pipelines/build/plan.py` saves the states that `Planner` passes to `on_checkpoint` (`legs.py`: positions of
checkpoints). The file has one header line with version and SHA-256, then an `.npz` archive with arrays and one JSON
text; nothing in it is unpickled. It is kept in a folder of mode 0700 and read only if folder and file belong to this
user, so that nobody else can plant one in a shared scratch folder. A file that is damaged, foreign or of another
version is ignored: the plan is then made from the start."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import stat
import zipfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from manifests.files import write_whole
from manifests.records import Json, canonical_json, digest
from packing.plan.order import OrderState
from packing.plan.planner import PlannerState
from stores.writer import WriterCheckpoint

FORMAT = "millrace-plan-checkpoint-1"
"""Raised with every change of the content."""

log = logging.getLogger(__name__)


class CheckpointFile:
    """Checkpoint of one plan in a scratch folder that outlives the process."""

    def __init__(self, scratch: str | Path, *identity: str) -> None:
        """`identity`: everything that decides the plan, and the store and unit that it is written to."""
        self._folder = Path(scratch) / f"millrace-plan-{digest('checkpoint', *identity)[:32]}"
        self._path = self._folder / "state"

    def save(self, state: PlannerState, written: WriterCheckpoint) -> None:
        """Replace the checkpoint in one step; it is durable when this returns.

        Where the folder belongs to another user nothing is saved, and a warning is logged.

        Args:
            written: the state of the writer of the plan's store.
        """
        with suppress(FileExistsError):  # a file or a link: refused below
            self._folder.mkdir(mode=0o700, exist_ok=True)
        if self._is_ours():
            write_whole(self._path, encode(state, written))

    def load(self) -> tuple[PlannerState, WriterCheckpoint] | None:
        """(state, state of the writer) saved last; None if there is none that can be trusted and understood."""
        if not self._folder.is_symlink() and not self._folder.exists():
            return None
        if not self._is_ours():
            return None
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
                    log.warning("%s: checkpoint of another user, ignored", self._path)
                    return None
                return decode(file.read())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            log.warning("%s: checkpoint ignored, the plan is made from the start: %s", self._path, error)
            return None

    def delete(self) -> None:
        """Remove the checkpoint, once the plan is finished."""
        if self._folder.is_dir() and self._is_ours():
            shutil.rmtree(self._folder, ignore_errors=True)

    def _is_ours(self) -> bool:
        """Whether the folder is a real one, of this user, that nobody else can write to."""
        status = os.lstat(self._folder)
        ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
        if not ours:
            log.warning("%s: not a folder of mode 0700 of this user, no checkpoint is kept there", self._folder)
        return ours


def encode(state: PlannerState, written: WriterCheckpoint) -> bytes:
    """Bytes of a checkpoint file."""
    arrays: list[np.ndarray] = []
    given = _without_arrays(state.given, arrays)
    values = {"order": state.order.as_json(), "given": given, "written": written.as_json()}
    text = np.frombuffer(canonical_json(values).encode(), np.uint8)
    out = io.BytesIO()
    np.savez(out, text=text, **{f"array_{n}": array for n, array in enumerate(arrays)})  # type: ignore[arg-type]
    data = out.getvalue()
    return f"{FORMAT} {sha256(data).hexdigest()}\n".encode() + data


def decode(data: bytes) -> tuple[PlannerState, WriterCheckpoint]:
    """The inverse of `encode`. Raises ValueError for another format or a wrong digest."""
    header, _, data = data.partition(b"\n")
    if header != f"{FORMAT} {sha256(data).hexdigest()}".encode():
        raise ValueError(f"header is {header[:120]!r}, expected {FORMAT!r} and the SHA-256 of the rest")
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        values = json.loads(archive["text"].tobytes())
        given = _with_arrays(values["given"], archive)
    return PlannerState(OrderState.from_json(values["order"]), given), WriterCheckpoint.from_json(values["written"])


def _without_arrays(value: Any, arrays: list[np.ndarray]) -> Json:
    """A nested value in which each array is replaced by its index in `arrays`, to which it is appended."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, dict):
        return {name: _without_arrays(item, arrays) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_arrays(item, arrays) for item in value]
    return value


def _with_arrays(value: Json, archive: Any) -> Any:
    """The inverse of `_without_arrays`."""
    if isinstance(value, dict):
        if list(value) == ["array"]:
            return archive[f"array_{value['array']}"]
        return {name: _with_arrays(item, archive) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_arrays(item, archive) for item in value]
    return value
