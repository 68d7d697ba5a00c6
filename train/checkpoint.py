"""Checkpoints: one atomic commit holds everything that the next step depends on.

    FOLDER/000120/weights.safetensors     official names (model/hf.py), so that any layout or tool loads them
                  optimizer.safetensors   state per canonical parameter, and the random state
                  state.json              step, loader cursor, identity of the run, digests of the files beside it

Written aside, synced, renamed: a folder with a number is whole, whatever was killed when. Nothing is unpickled.
Restoring tolerates nothing: a file that differs from its digest and a run of another identity are refused by name.
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
    """What stands after `step` steps."""

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    """Flat state of the optimizer; its step count is `step`."""
    random_state: Tensor
    """(K,) uint8, of the tensor library's CPU generator."""
    loader: Json
    """Cursor of the loader: the next batch it gives is number `step`."""
    last: Json
    """Report of the last step."""
    identity: Mapping[str, str]
    """Name -> digest of everything that must be the same for the run to continue: packs, model, stage, versions."""


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Commit a checkpoint under `folder` and drop all but the newest `keep`.

    Saving a step that is already there, as a run does that was killed while deleting older ones, leaves what is there:
    both hold the same values.
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
        doomed = folder / f"{PARTIAL}{old:06d}"
        (folder / f"{old:06d}").rename(doomed)
        shutil.rmtree(doomed)


def steps(folder: Path) -> list[int]:
    """Steps of all whole checkpoints, ascending."""
    return sorted(int(entry.name) for entry in folder.glob("[0-9]*") if entry.name.isdigit())


def load(folder: Path, identity: Mapping[str, str]) -> Checkpoint | None:
    """The newest checkpoint, or None where there is none yet.

    Raises ResumeError when it belongs to another run or its bytes are not those that were written.
    """
    found = steps(folder)
    if not found:
        return None
    here = folder / f"{found[-1]:06d}"
    state = json.loads((here / "state.json").read_text(encoding="utf-8"))
    refuse_other(state["identity"], identity, str(here))
    for name in FILES:
        if file_digest(here / name) != state["files"][name]:
            raise ResumeError(
                f"does not have the bytes that were written (expected digest {state['files'][name][:12]})",
                where=str(here / name),
                fix=f"delete {here} to continue from an earlier checkpoint",
            )
    optimizer = load_file(here / OPTIMIZER)
    return Checkpoint(
        step=state["step"],
        weights=load_file(here / WEIGHTS),
        random_state=optimizer.pop(RANDOM_STATE),
        optimizer=optimizer,
        loader=state["loader"],
        last=state["last"],
        identity=state["identity"],
    )


def refuse_other(saved: Mapping[str, str], present: Mapping[str, str], where: str) -> None:
    """Raise ResumeError naming everything in which a saved run and the present one differ."""
    names = [name for name in sorted(saved.keys() | present.keys()) if saved.get(name) != present.get(name)]
    if names:
        differences = ", ".join(f"{n} (saved {_short(saved.get(n))}, now {_short(present.get(n))})" for n in names)
        raise ResumeError(
            f"was saved by another run: it differs in {differences}",
            where=where,
            fix="restore what changed, or train into a new folder with --out",
        )


def file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _short(value: str | None) -> str:
    return "nothing" if value is None else value[:16]
