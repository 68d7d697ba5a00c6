"""Prompts or pairs of several sources, mixed by weight: an order of steps that resumes anywhere, as in `draws.py`.

Draw i of a source with weight w is due at the time (i + 1/2) / w; all draws of all sources follow each other by that
time (Webster's method, as in apportioning seats), and cut into steps. Over any number of steps a source's draws differ
from its part by less than one for each source. What a source gives is again a permutation for each epoch. Each half of
its records, divided by hash, comes in its own half of every epoch: so no record comes twice in a step where one epoch
follows another.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import numpy as np

from manifests.errors import ManifestError
from manifests.records import digest
from packing.draws import Draw, DrawsState, Steps, turns_of
from packing.plan.order import permutation
from packing.plan.pieces import mixed
from stores.store import Snapshot


@dataclass(frozen=True, slots=True)
class Weighed:
    records: Snapshot
    """Those that a view dropped are not drawn."""
    weight: float
    """Draws relative to the other sources'."""
    epochs: int
    """At most so often every record is drawn; the first source that would be drawn more often ends the order."""


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    kept: np.ndarray
    ids: list[str]
    turns: list[list[int]]
    """Rows of `ids` that take turns, one in each epoch."""
    keys: np.ndarray
    """(turns,) uint64."""
    late: np.ndarray
    """(turns,) bool: comes in the second half of an epoch."""
    weight: Fraction
    epochs: int


class MixedDraws(Steps):
    def __init__(
        self,
        sources: Mapping[str, Weighed],
        per_step: int,
        *,
        seed: int = 0,
        once: Literal["record", "medium"] = "record",
        state: DrawsState | None = None,
    ) -> None:
        """
        Args:
            once: as for `Draws`. A medium that several sources show is drawn from the first of them.
        Raises:
            ManifestError: a source that is too small for its part of a step.
            ResumeError: a state of another order.
        """
        if not sources or per_step < 1 or any(not 0 < one.weight < float("inf") for one in sources.values()):
            raise ManifestError(
                "expected sources with weights > 0, and per_step from 1", where="draws", fix="give both"
            )
        self._seed, self._per_step = seed, per_step
        taken: set[str] = set()
        self._sources = [_read(name, one, once, taken) for name, one in sources.items()]
        whole = sum(source.weight for source in self._sources)
        for source in self._sources:
            most = int(per_step * source.weight / whole) + len(self._sources) + 1
            half = int(min(source.late.sum(), (~source.late).sum()))
            if half < min(most, per_step) or source.epochs < 1:
                raise ManifestError(
                    f"{source.epochs} epochs of {len(source.turns)} records of {source.name} are too few for steps "
                    f"that hold up to {min(most, per_step)} of them",
                    where=source.name,
                    fix="lower per_step or its weight, or give more records: about twice as many as a step draws of it",
                )
        self.digest = digest(
            "mixed draws", str(seed), str(per_step), once,
            *(word for s in self._sources for word in (s.name, str(s.weight), *(s.ids[r] for t in s.turns for r in t))),
        )  # fmt: skip
        self._order = lru_cache(maxsize=2 * len(self._sources))(self._order_of)
        self._steps = self._count()
        self._resume(state, ", ".join(sources))

    def __len__(self) -> int:
        return self._steps

    def step(self, number: int) -> list[Draw]:
        """Source by source; who wants them mixed shuffles them."""
        if not 0 <= number < len(self):
            raise IndexError(f"step {number} of {len(self)}")
        first, last = self._drawn(number * self._per_step), self._drawn((number + 1) * self._per_step)
        found = []
        for index, source in enumerate(self._sources):
            for draw in range(first[index], last[index]):
                epoch, place = divmod(draw, len(source.turns))
                turns = source.turns[int(self._order(index, epoch)[place])]
                row = turns[epoch % len(turns)]
                found.append(Draw(int(source.kept[row]), source.ids[row], epoch, source.name))
        return found

    def _drawn(self, draws: int) -> list[int]:
        """Of the first so many draws, how many are each source's."""
        whole = sum(source.weight for source in self._sources)
        time = max(Fraction(0), (draws - len(self._sources)) / whole)
        counts = [int(time * source.weight + Fraction(1, 2)) for source in self._sources]
        due = [
            ((count + Fraction(1, 2)) / s.weight, i)
            for i, (count, s) in enumerate(zip(counts, self._sources, strict=True))
        ]
        heapq.heapify(due)
        for _ in range(draws - sum(counts)):
            _, i = due[0]
            counts[i] += 1
            heapq.heapreplace(due, ((counts[i] + Fraction(1, 2)) / self._sources[i].weight, i))
        return counts

    def _count(self) -> int:
        """Steps until a source would be drawn more often than it may."""
        most = [len(source.turns) * source.epochs for source in self._sources]
        low, high = 0, sum(most) // self._per_step + 1
        while high - low > 1:
            middle = (low + high) // 2
            fits = all(n <= m for n, m in zip(self._drawn(middle * self._per_step), most, strict=True))
            low, high = (middle, high) if fits else (low, middle)
        return low

    def _order_of(self, index: int, epoch: int) -> np.ndarray:
        source = self._sources[index]
        order = permutation(self._seed, epoch, f"draws {source.name}", source.keys)
        return np.concatenate([order[~source.late[order]], order[source.late[order]]])


def _read(name: str, one: Weighed, once: str, taken: set[str]) -> _Source:
    """`taken`: media of the sources before, and then of this one, too."""
    kept = one.records.kept()
    ids = one.records.table(["id"]).take(kept)["id"].to_pylist()
    if once == "medium":
        by_medium = {medium: rows for medium, rows in turns_of(one.records, kept, ids).items() if medium not in taken}
        taken.update(by_medium)
        turns = list(by_medium.values())
    else:
        turns = [[row] for row in np.argsort(ids).tolist()]
    keys = np.array([int(ids[rows[0]][:16], 16) for rows in turns], np.uint64)
    late = np.zeros(len(turns), bool)
    late[np.argsort(mixed(keys), kind="stable")[len(turns) // 2 :]] = True
    return _Source(name, kept, ids, turns, keys, late, Fraction(str(one.weight)), one.epochs)
