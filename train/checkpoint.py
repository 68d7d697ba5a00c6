"""Checkpoints: one atomic commit holds everything that the next step depends on.

    FOLDER/000120/weights.safetensors     official names (model/hf.py), so that any layout or tool loads them
                  optimizer.safetensors   state per canonical parameter, and the random state
                  state.json              step, loader cursor, identity of the run, digests of the files beside it

A checkpoint is written to a temporary folder, synced and renamed, so a folder with a number is whole after any kill.
Nothing is unpickled. A file that differs from its digest and a run of another identity are refused with a ResumeError.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from manifests.errors import ResumeError
from manifests.records import Json, canonical_json
from stores.files.local import fsync_path

WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
FILES = (WEIGHTS, OPTIMIZER)
RANDOM_STATE = "random_state"
PARTIAL = ".partial-"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """State of a run after `step` steps."""

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    """Flat state of the optimizer, `MuonAdamW.state`; its step count is `step`."""
    random_state: Tensor
    """State of torch's CPU generator, (K,) uint8."""
    loader: Json
    """State of the loader, whose next batch is number `step`."""
    last: Json
    """`StepReport` of the last step, as plain values."""
    identity: Mapping[str, str]
    """Name -> digest or value of everything that must be equal for the run to continue: packs, model, settings."""


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Commit a checkpoint under `folder` and delete all but the newest `keep`.

    A step that is already saved is left as it is: a run that was killed while it deleted older checkpoints saves it
    again, with the same values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(leftover)
    final = folder / f"{checkpoint.step:06d}"
    if not final.exists():
        partial = folder / f"{PARTIAL}{checkpoint.step:06d}"
        partial.mkdir()
        optimizer = dict(checkpoint.optimizer) | {RANDOM_STATE: checkpoint.random_state}
        for name, tensors in zip(FILES, (checkpoint.weights, optimizer), strict=True):
            save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, partial / name)
        state = {
            "step": checkpoint.step,
            "loader": checkpoint.loader,
            "last": checkpoint.last,
            "identity": dict(checkpoint.identity),
            "files": {name: file_digest(partial / name) for name in FILES},
        }
        (partial / "state.json").write_text(canonical_json(state) + "\n", encoding="utf-8")
        for name in (*FILES, "state.json", "."):
            fsync_path(partial / name)
        partial.rename(final)
        fsync_path(folder)
    for old in steps(folder)[:-keep]:
        deleted = folder / f"{PARTIAL}{old:06d}"
        (folder / f"{old:06d}").rename(deleted)
        shutil.rmtree(deleted)


def steps(folder: Path) -> list[int]:
    """Return the steps of all complete checkpoints, ascending."""
    return sorted(int(entry.name) for entry in folder.glob("[0-9]*") if entry.name.isdigit())


def load(folder: Path, identity: Mapping[str, str]) -> Checkpoint | None:
    """Load the newest checkpoint; None if there is none yet.

    Raises:
        ResumeError: it belongs to another run, or a file differs from its digest.
    """
    saved = steps(folder)
    if not saved:
        return None
    newest = folder / f"{saved[-1]:06d}"
    state = json.loads((newest / "state.json").read_text(encoding="utf-8"))
    require_same_identity(state["identity"], identity, str(newest))
    for name in FILES:
        if file_digest(newest / name) != state["files"][name]:
            raise ResumeError(
                f"differs from the file that was written (expected SHA-256 {state['files'][name][:12]}...)",
                where=str(newest / name),
                fix=f"delete {newest} to continue from an earlier checkpoint",
            )
    optimizer = load_file(newest / OPTIMIZER)
    return Checkpoint(
        step=state["step"],
        weights=load_file(newest / WEIGHTS),
        random_state=optimizer.pop(RANDOM_STATE),
        optimizer=optimizer,
        loader=state["loader"],
        last=state["last"],
        identity=state["identity"],
    )


def require_same_identity(saved: Mapping[str, str], present: Mapping[str, str], where: str) -> None:
    """Raise ResumeError if a saved run and the present one differ, and name every difference."""
    names = [name for name in sorted(saved.keys() | present.keys()) if saved.get(name) != present.get(name)]
    if names:
        differences = ", ".join(f"{n} (saved {_short(saved.get(n))}, now {_short(present.get(n))})" for n in names)
        raise ResumeError(
            f"belongs to another run; different: {differences}",
            where=where,
            fix="restore what changed, or train into a new folder with --out",
        )


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _short(value: str | None) -> str:
    return "nothing" if value is None else value[:16]
