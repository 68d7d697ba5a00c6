"""Global batches of a plan, and the segments of a sample in it.

A batch can be read before or after its packs exist: without a packs store its packs are made on demand, as the `pack`
node makes them. `plan_stats.py` counts the whole plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import numpy as np

from manifests.errors import StoreError
from manifests.records import Json, Pack, PlanBlock
from packing.pack import pack_unit, samples_of
from packing.plan.amend import plan_chain
from pipelines.inspect.queries import source_label, vocabulary_of
from stores.forget.exposure import first_batch
from stores.store import Snapshot, Store


@dataclass(frozen=True)
class PlannedSegment:
    """A segment of a sample at its position in the plan."""

    step: int
    """Global batch, from 0."""
    row: int
    """Row of the batch."""
    source: str
    start: int
    """First token of the sample."""
    length: int
    """Tokens."""
    slots: int
    epoch: int


class PlanView:
    """A plan and its samples. It can be opened from the plan or from a packs store that was made of it."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Open a snapshot of a plan or packs store. Raises StoreError if the samples of the plan are missing."""
        self.packs = snapshot if snapshot.kind == "packs" else None
        self.plan = _plan_of(snapshot) if self.packs is not None else snapshot
        self.samples = samples_of(self.plan)
        self.batch_packs = int(self.plan.meta["global_batch_packs"])
        self.first_step = first_batch(self.plan)
        """Batches are numbered from the beginning of the training; earlier ones belong to the plan that this amends."""
        self._firsts = self.plan.table(["first_pack"])["first_pack"].to_numpy()

    @property
    def steps(self) -> range:
        """Numbers of the global batches of this plan."""
        return range(self.first_step, self.first_step + int(self.plan.meta["packs"]) // self.batch_packs)

    def blocks(self) -> Iterator[PlanBlock]:
        return self.plan.records()

    def step_of(self, tokens: int) -> int | None:
        """The global batch that contains token number `tokens` of this plan; None if the plan has fewer."""
        index = int(np.searchsorted(self._ends, tokens))
        if index == len(self._ends):
            return None
        block: PlanBlock = self.plan.record(index)
        ends = int(self._ends[index - 1] if index else 0) + np.cumsum(per_pack(block, "length"))
        return self.first_step + (int(self._firsts[index]) + int(np.searchsorted(ends, tokens))) // self.batch_packs

    @cached_property
    def _ends(self) -> np.ndarray:
        """(blocks,) int64: tokens of the plan up to the end of each block."""
        return np.cumsum([block.arrays["length"].sum(dtype=np.int64) for block in self.blocks()], dtype=np.int64)

    def batch(self, step: int, *, payload: bool = True) -> list[Pack]:
        """The packs of a global batch; with `payload`, media have their bytes.

        Raises StoreError for a step after the end of the plan.
        """
        if 0 <= step < self.first_step:
            amended = [plan for first, plan in plan_chain(self.plan) if first <= step][-1]
            return PlanView(amended).batch(step, payload=payload)
        if step not in self.steps:
            fix = f"steps are global batches, 0 to {self.steps.stop - 1}"
            raise StoreError(f"the plan has no step {step}", where=self.plan.url, fix=fix)
        index = step - self.first_step
        numbers = range(index * self.batch_packs, (index + 1) * self.batch_packs)
        if self.packs is not None:
            packs = self.packs
            return [_loaded(packs, packs.record(number)) if payload else packs.record(number) for number in numbers]
        made: list[Pack] = []
        vocabulary = vocabulary_of(next(iter(self.samples.values())))
        for ordinal, group in groupby(numbers, lambda number: int(np.searchsorted(self._firsts, number, "right")) - 1):
            inside = [number - int(self._firsts[ordinal]) for number in group]
            block: PlanBlock = self.plan.record(ordinal)
            made += pack_unit(block, self.samples, vocabulary, inside, payload=payload)
        return made

    def segments_of(self, sample: str) -> list[PlannedSegment]:
        """All segments of the sample with this id, in training order."""
        ordinals = {
            source: [record.ordinal for record in snapshot.find("id", sample)]
            for source, snapshot in self.samples.items()
        }
        segments = []
        for block in self.blocks():
            arrays, names = block.arrays, block.header["sources"]
            for index, source in enumerate(names):
                if not ordinals.get(source):
                    continue
                mine = (arrays["source"] == index) & np.isin(arrays["ordinal"], ordinals[source])
                for segment in np.flatnonzero(mine).tolist():
                    pack = int(np.searchsorted(arrays["pack_offsets"], segment, "right")) - 1
                    number = int(block.header["first_pack"]) + pack
                    values = (int(arrays[name][segment]) for name in ("start", "length", "slots", "epoch"))
                    step, row = divmod(number, self.batch_packs)
                    segments.append(PlannedSegment(self.first_step + step, row, source, *values))
        return sorted(segments, key=lambda segment: (segment.step, segment.row, segment.start))


def per_pack(block: PlanBlock, name: str) -> np.ndarray:
    """(packs,) int64: sum of an array of the block over the segments of each pack."""
    return np.add.reduceat(block.arrays[name], block.arrays["pack_offsets"][:-1], dtype=np.int64)


def _plan_of(packs: Snapshot) -> Snapshot:
    parent = packs.parents[0]
    return Store.open(parent.url).snapshot(parent.number)


def _loaded(packs: Snapshot, pack: Pack) -> Pack:
    """The pack with the bytes of its media."""
    media = [
        replace(packed, media=replace(packed.media, payload=packs.read(packed.media.location)))
        for packed in pack.media
        if packed.media.location is not None
    ]
    return replace(pack, media=tuple(media))


def segment_rows(segments: Sequence[PlannedSegment]) -> list[dict[str, Json]]:
    """Segments as rows of a table."""
    return [
        {
            "step": segment.step,
            "row": segment.row,
            "source": source_label(segment.source),
            "first_token": segment.start,
            "tokens": segment.length,
            "slots": segment.slots,
            "epoch": segment.epoch,
        }
        for segment in segments
    ]
