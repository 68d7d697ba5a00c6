"""Sampler of prompts (RL) and pairs (contrastive training): an order of steps over one or several sources.

It needs no packs: the length of an answer is not known before it is sampled, and a contrastive loss compares all pairs
of one step. The sources are snapshots or views of documents or samples; a trainer asks for step n and takes its part of
it. Step n depends only on the records' ids, the weights, the seed and n, so a resumed run sees the steps that an
uninterrupted one would have seen.

Several sources are mixed by weight: draw i of a source of weight w is due at the time (i + 1/2) / w, and the draws of
all sources follow each other by that time (Webster's method for apportioning seats). Over any number of steps the draws
of a source differ from its share by less than one per source.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal, TypedDict

import numpy as np

from manifests.errors import ManifestError, ResumeError
from manifests.records import digest
from packing.plan.order import permutation
from packing.plan.pieces import mix_bits
from stores.store import Snapshot

Distinct = Literal["record", "medium"]
"""Which part of a record is not repeated within a step."""


class DrawsState(TypedDict):
    """Position of a `Draws`, as JSON."""

    order: str
    """Digest of everything that decides the order."""
    next_step: int


@dataclass(frozen=True, slots=True)
class DrawSource:
    """Records of one source, and how often they are drawn."""

    records: Snapshot
    """Records that a view dropped are not drawn."""
    epochs: int
    """Upper bound on the draws of one record. The first source that reaches it ends the order."""
    weight: float = 1.0
    """Draws relative to the other sources."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One record of a step."""

    ordinal: int
    """Number of the record in its snapshot."""
    id: str
    epoch: int
    """Earlier passes over the source."""
    source: str


@dataclass(frozen=True, slots=True)
class _Source:
    """Index of one source; a group is what an epoch draws once: a record, or the records that show one medium."""

    name: str
    ordinals: np.ndarray
    """(N,) int64: numbers of the kept records in their snapshot."""
    ids: list[str]
    """Ids of the kept records."""
    groups: list[list[int]]
    """Rows of `ids`; the records of a group take turns, one per epoch."""
    keys: np.ndarray
    """(groups,) uint64: hash keys for the order of an epoch."""
    late: np.ndarray
    """(groups,) bool: drawn in the second half of every epoch."""
    epoch_draws: int
    """Draws in one epoch."""
    weight: Fraction
    epochs: int


class Draws:
    """Iterator over the steps of an order, each a list of `Draw`.

    With one source every epoch gives as many whole steps as it can; the few records left over differ from epoch to
    epoch. With several, epochs end in the middle of steps. Each half of a source's records, divided by hash, then keeps
    its own half of every epoch, so that no record is repeated within a step where one epoch follows another.
    """

    def __init__(
        self,
        sources: Mapping[str, DrawSource],
        per_step: int,
        *,
        seed: int = 0,
        distinct: Distinct = "record",
        state: DrawsState | None = None,
    ) -> None:
        """
        Args:
            sources: by name.
            per_step: draws in one step.
            distinct: `record`: no record is repeated within a step. `medium`: no medium is, so that the negatives of a
                contrastive step are other pictures. A medium of several sources is drawn from the first of them.
            state: `state` of an earlier `Draws` over the same records, to continue from.
        Raises:
            ManifestError: a weight or a count is out of range, or a source is too small for its part of a step.
            ResumeError: the state belongs to another order.
        """
        if not sources or per_step < 1 or any(not 0 < source.weight < float("inf") for source in sources.values()):
            raise ManifestError(
                "expected at least one source, weights above 0 and per_step of at least 1",
                where="draws",
                fix="give at least one source, finite weights above 0 and per_step of at least 1",
            )
        self._seed, self._per_step = seed, per_step
        self._single = len(sources) == 1
        seen: set[str] = set()
        self._sources = [self._indexed(name, source, distinct, seen) for name, source in sources.items()]
        self._total_weight = sum((source.weight for source in self._sources), Fraction(0))
        for source in self._sources:
            self._check_size(source, distinct)
        self.digest = digest(
            "draws" if self._single else "mixed draws", str(seed), str(per_step), distinct,
            *(word for source in self._sources for word in self._identity(source)),
        )  # fmt: skip
        """Digest of everything that decides the order."""
        self._order = lru_cache(maxsize=2 * len(sources))(self._epoch_order)
        self._steps = self._count_steps()
        self._next_step = 0
        if state is not None:
            self._resume(state, ", ".join(sources))

    def __len__(self) -> int:
        """Number of steps in all."""
        return self._steps

    def __iter__(self) -> Iterator[list[Draw]]:
        while self._next_step < len(self):
            self._next_step += 1
            yield self.step(self._next_step - 1)

    @property
    def state(self) -> DrawsState:
        return {"order": self.digest, "next_step": self._next_step}

    def step(self, number: int) -> list[Draw]:
        """Return the draws of any one step, source after source. The position does not move.

        Raises:
            IndexError: the order has no such step.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"step {number} of {len(self)}")
        first, last = self._counts(number * self._per_step), self._counts((number + 1) * self._per_step)
        draws = []
        for index, source in enumerate(self._sources):
            for count in range(first[index], last[index]):
                epoch, place = divmod(count, source.epoch_draws)
                group = source.groups[int(self._order(index, epoch)[place])]
                row = group[epoch % len(group)]
                draws.append(Draw(int(source.ordinals[row]), source.ids[row], epoch, source.name))
        return draws

    def _indexed(self, name: str, source: DrawSource, distinct: Distinct, seen: set[str]) -> _Source:
        """Read the ids, and for `medium` the media, of one source. `seen`: media of earlier sources; extended here."""
        ordinals = source.records.kept()
        ids = source.records.table(["id"]).take(ordinals)["id"].to_pylist()
        if distinct == "medium":
            by_medium = _rows_by_medium(source.records, ordinals, ids)
            groups = [rows for medium, rows in by_medium.items() if medium not in seen]
            seen.update(by_medium)
        else:
            groups = [[row] for row in np.argsort(ids).tolist()]
        keys = np.array([int(ids[rows[0]][:16], 16) for rows in groups], np.uint64)
        late = np.zeros(len(groups), bool)
        if not self._single:
            late[np.argsort(mix_bits(keys), kind="stable")[len(groups) // 2 :]] = True
        epoch_draws = len(groups) // self._per_step * self._per_step if self._single else len(groups)
        weight = Fraction(str(source.weight))
        return _Source(name, ordinals, ids, groups, keys, late, epoch_draws, weight, source.epochs)

    def _check_size(self, source: _Source, distinct: Distinct) -> None:
        share = int(self._per_step * source.weight / self._total_weight)
        most = min(self._per_step, share + len(self._sources) + 1)
        enough = len(source.groups) if self._single else len(source.groups) // 2
        if enough < most or source.epochs < 1:
            unit = "records" if distinct == "record" else "media"
            more = "" if self._single else ": about twice as many as a step draws of this source"
            raise ManifestError(
                f"{source.epochs} epochs of {len(source.groups)} {unit} are too few for steps of up to {most}",
                where=source.name,
                fix=f"lower per_step or the weight of the source, or give more {unit}{more}",
            )

    def _identity(self, source: _Source) -> list[str]:
        ids = [source.ids[row] for group in source.groups for row in group]
        return ids if self._single else [source.name, str(source.weight), *ids]

    def _counts(self, draws: int) -> list[int]:
        """Return how many of the first `draws` draws belong to each source."""
        time = max(Fraction(0), (draws - len(self._sources)) / self._total_weight)
        counts = [int(time * source.weight + Fraction(1, 2)) for source in self._sources]
        due = [
            ((count + Fraction(1, 2)) / source.weight, index)
            for index, (count, source) in enumerate(zip(counts, self._sources, strict=True))
        ]
        heapq.heapify(due)
        for _ in range(draws - sum(counts)):
            _, index = due[0]
            counts[index] += 1
            heapq.heapreplace(due, ((counts[index] + Fraction(1, 2)) / self._sources[index].weight, index))
        return counts

    def _count_steps(self) -> int:
        """Return the number of steps before a source would exceed its epochs."""
        most = [source.epoch_draws * source.epochs for source in self._sources]
        low, high = 0, sum(most) // self._per_step + 1
        while high - low > 1:
            middle = (low + high) // 2
            fits = all(n <= m for n, m in zip(self._counts(middle * self._per_step), most, strict=True))
            low, high = (middle, high) if fits else (low, middle)
        return low

    def _epoch_order(self, index: int, epoch: int) -> np.ndarray:
        """(groups,) int64: the groups of one source in the order of one epoch."""
        source = self._sources[index]
        order = permutation(self._seed, epoch, "draws" if self._single else f"draws {source.name}", source.keys)
        return np.concatenate([order[~source.late[order]], order[source.late[order]]])

    def _resume(self, state: DrawsState, where: str) -> None:
        if state["order"] != self.digest:
            raise ResumeError(
                f"the saved position belongs to another order: {state['order'][:16]}, expected {self.digest[:16]}",
                where=where,
                fix="give the records, seed and per_step that the run began with, or start a new run",
            )
        self._next_step = state["next_step"]


def _rows_by_medium(records: Snapshot, ordinals: np.ndarray, ids: list[str]) -> dict[str, list[int]]:
    """Group the rows of `ids` by the digest of the first medium that each record shows.

    Records without media are left out. Rows are in the order of ids, which does not depend on the shards.
    """
    media = records.media_table(["record", "digest"])
    first_medium: dict[int, str] = {}
    for ordinal, medium in zip(media["record"].to_pylist(), media["digest"].to_pylist(), strict=True):
        first_medium.setdefault(ordinal, medium)
    rows: dict[str, list[int]] = {}
    for row in np.argsort(ids).tolist():
        if (medium := first_medium.get(int(ordinals[row]))) is not None:
            rows.setdefault(medium, []).append(row)
    return rows
