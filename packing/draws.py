"""Which prompts does a step of RL ask, which pairs does a contrastive step compare? An order that resumes anywhere.

Packs are not made here: what a policy answers has no length yet, and a contrastive loss compares all pairs of a step
with each other. Before this a snapshot of documents or samples, after it whoever asks or encodes. Step n is a pure
function of the records' ids, seed and n, so that a run that goes on at n sees what it would have seen; every process
calls `step(n)` and takes its part. How often a prompt is answered within a step is the trainer's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypedDict

import numpy as np

from manifests.errors import ManifestError, ResumeError
from manifests.records import digest
from packing.plan.order import permutation
from stores.store import Snapshot


class DrawsState(TypedDict):
    order: str
    """Digest of everything that decides it."""
    next_step: int


@dataclass(frozen=True, slots=True)
class Draw:
    ordinal: int
    """Of the record in its snapshot."""
    id: str
    epoch: int
    source: str = ""
    """Where several are mixed."""


class Steps:
    """What all orders of steps share: they are iterated, and go on from a state. Subclasses say what a step holds."""

    digest: str
    """Of everything that decides the order."""
    _next = 0

    def __len__(self) -> int:
        """Steps in all."""
        raise NotImplementedError

    def step(self, number: int) -> list[Draw]:
        """The draws of one step, whether or not it is next."""
        raise NotImplementedError

    @property
    def state(self) -> DrawsState:
        return {"order": self.digest, "next_step": self._next}

    def __iter__(self) -> Iterator[list[Draw]]:
        while self._next < len(self):
            self._next += 1
            yield self.step(self._next - 1)

    def _resume(self, state: DrawsState | None, where: str) -> None:
        if state is None:
            return
        if state["order"] != self.digest:
            raise ResumeError(
                f"the saved position belongs to another order: {state['order'][:16]}, here is {self.digest[:16]}",
                where=where,
                fix="give the records, seed and per_step that the run began with, or start a new run",
            )
        self._next = state["next_step"]


class Draws(Steps):
    """Iterates over steps, each a list of draws. An epoch gives as many whole steps as it holds; the few records left
    over are others in every epoch."""

    def __init__(
        self,
        records: Snapshot,
        per_step: int,
        *,
        epochs: int,
        seed: int = 0,
        once: Literal["record", "medium"] = "record",
        state: DrawsState | None = None,
    ) -> None:
        """
        Args:
            records: those that a view dropped are not drawn.
            once: `record`: no record comes twice in a step. `medium`: none that show the same medium do, so that what
                counts as a negative is another picture; they take turns, one in each epoch.
        Raises:
            ManifestError: fewer records, or media, than a step needs.
            ResumeError: a state of another order.
        """
        kept = records.kept()
        table = records.table(["id"]).take(kept)
        ids = table["id"].to_pylist()
        turns = (
            list(turns_of(records, kept, ids).values())
            if once == "medium"
            else [[row] for row in np.argsort(ids).tolist()]
        )
        if len(turns) < per_step or min(per_step, epochs) < 1:
            what = "records" if once == "record" else "media"
            raise ManifestError(
                f"{epochs} epochs of {len(turns)} {what} give no step of {per_step}",
                where=records.name,
                fix="lower per_step, or give more records",
            )
        self._kept, self._ids, self._turns = kept, ids, turns
        self._seed, self._per_step = seed, per_step
        firsts = [ids[rows[0]] for rows in turns]
        self._keys = np.array([int(name[:16], 16) for name in firsts], np.uint64)
        self._steps_per_epoch = len(turns) // per_step
        self._epochs = epochs
        told = [ids[row] for rows in turns for row in rows]
        self.digest = digest("draws", str(seed), str(per_step), once, *told)
        self._order = lru_cache(maxsize=2)(self._order_of)
        self._resume(state, records.name)

    def __len__(self) -> int:
        """Steps in all."""
        return self._epochs * self._steps_per_epoch

    def step(self, number: int) -> list[Draw]:
        """The draws of one step, whether or not it is next."""
        if not 0 <= number < len(self):
            raise IndexError(f"step {number} of {len(self)}")
        epoch, place = divmod(number, self._steps_per_epoch)
        here = self._order(epoch)[place * self._per_step : (place + 1) * self._per_step]
        rows = [self._turns[turn][epoch % len(self._turns[turn])] for turn in here.tolist()]
        return [Draw(int(self._kept[row]), self._ids[row], epoch) for row in rows]

    def _order_of(self, epoch: int) -> np.ndarray:
        return permutation(self._seed, epoch, "draws", self._keys)


def turns_of(records: Snapshot, kept: np.ndarray, ids: list[str]) -> dict[str, list[int]]:
    """Rows of `ids` by the first medium that they show; by id, so that the sharding has no say."""
    media = records.media_table(["record", "digest"])
    shown: dict[int, str] = {}
    for ordinal, medium in zip(media["record"].to_pylist(), media["digest"].to_pylist(), strict=True):
        shown.setdefault(ordinal, medium)
    showing: dict[str, list[int]] = {}
    for row in np.argsort(ids).tolist():
        if (medium := shown.get(int(kept[row]))) is not None:
            showing.setdefault(medium, []).append(row)
    return showing
