"""Any global batch of a plan, trained or not, and the places of a sample in it.

Only the packs of a batch that is looked at are made, as the `pack` node would make them. What all of a plan says about
itself when it is counted, `inspect/plan_stats.py` tells.
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
    """A piece of a sample where the plan puts it."""

    step: int
    """The global batch, from 0."""
    row: int
    """Of the batch."""
    source: str
    start: int
    length: int
    slots: int
    epoch: int


class PlanView:
    """A plan with the samples that it was made from; a packs store stands for the plan that it was made from."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Raises StoreError where the samples are not those of the plan."""
        self.packs = snapshot if snapshot.kind == "packs" else None
        self.plan = _plan_of(snapshot) if self.packs is not None else snapshot
        self.samples = samples_of(self.plan)
        self.batch_packs = int(self.plan.meta["global_batch_packs"])
        self.first_step = first_batch(self.plan)
        """Batches are counted from the beginning of the run; those before this one are of the plan that it amends."""
        self._firsts = self.plan.table(["first_pack"])["first_pack"].to_numpy()

    @property
    def steps(self) -> range:
        """Its global batches."""
        return range(self.first_step, self.first_step + int(self.plan.meta["packs"]) // self.batch_packs)

    def blocks(self) -> Iterator[PlanBlock]:
        return self.plan.records()

    def step_of(self, tokens: int) -> int | None:
        """The global batch in which so many tokens of this plan were seen; None where there are fewer."""
        place = int(np.searchsorted(self._ends, tokens))
        if place == len(self._ends):
            return None
        block: PlanBlock = self.plan.record(place)
        ends = int(self._ends[place - 1] if place else 0) + np.cumsum(per_pack(block, "length"))
        return self.first_step + (int(self._firsts[place]) + int(np.searchsorted(ends, tokens))) // self.batch_packs

    @cached_property
    def _ends(self) -> np.ndarray:
        """(blocks,) int64: tokens by the end of each."""
        return np.cumsum([block.arrays["length"].sum(dtype=np.int64) for block in self.blocks()], dtype=np.int64)

    def batch(self, step: int, *, payload: bool = True) -> list[Pack]:
        """The packs of a global batch, media with their bytes if asked for. Raises StoreError for a step too far."""
        if 0 <= step < self.first_step:
            before = [plan for first, plan in plan_chain(self.plan) if first <= step][-1]
            return PlanView(before).batch(step, payload=payload)
        if step not in self.steps:
            fix = f"steps are global batches, 0 to {self.steps.stop - 1}"
            raise StoreError(f"the plan has no step {step}", where=self.plan.url, fix=fix)
        here = step - self.first_step
        wanted = range(here * self.batch_packs, (here + 1) * self.batch_packs)
        if self.packs is not None:
            packs = self.packs
            return [_loaded(packs, packs.record(number)) if payload else packs.record(number) for number in wanted]
        made: list[Pack] = []
        vocabulary = vocabulary_of(next(iter(self.samples.values())))
        for place, numbers in groupby(wanted, lambda number: int(np.searchsorted(self._firsts, number, "right")) - 1):
            inside = [number - int(self._firsts[place]) for number in numbers]
            block: PlanBlock = self.plan.record(place)
            made += pack_unit(block, self.samples, vocabulary, inside, payload=payload)
        return made

    def places(self, sample: str) -> list[PlannedSegment]:
        """Everywhere this plan shows a sample, in training order, by its id."""
        ordinals = {
            source: [place.ordinal for place in snapshot.find("id", sample)]
            for source, snapshot in self.samples.items()
        }
        found = []
        for block in self.blocks():
            arrays, names = block.arrays, block.header["sources"]
            for index, source in enumerate(names):
                if not ordinals.get(source):
                    continue
                mine = (arrays["source"] == index) & np.isin(arrays["ordinal"], ordinals[source])
                for segment in np.flatnonzero(mine).tolist():
                    pack = int(np.searchsorted(arrays["pack_offsets"], segment, "right")) - 1
                    number = int(block.header["first_pack"]) + pack
                    told = (int(arrays[name][segment]) for name in ("start", "length", "slots", "epoch"))
                    step, row = divmod(number, self.batch_packs)
                    found.append(PlannedSegment(self.first_step + step, row, source, *told))
        return sorted(found, key=lambda place: (place.step, place.row, place.start))


def per_pack(block: PlanBlock, name: str) -> np.ndarray:
    return np.add.reduceat(block.arrays[name], block.arrays["pack_offsets"][:-1], dtype=np.int64)


def _plan_of(packs: Snapshot) -> Snapshot:
    parent = packs.parents[0]
    return Store.open(parent.url).snapshot(parent.number)


def _loaded(packs: Snapshot, pack: Pack) -> Pack:
    media = [
        replace(one, media=replace(one.media, payload=packs.read(one.media.location)))
        for one in pack.media
        if one.media.location is not None
    ]
    return replace(pack, media=tuple(media))


def segment_rows(places: Sequence[PlannedSegment]) -> list[dict[str, Json]]:
    """Places as rows of a table."""
    return [
        {
            "step": place.step,
            "row": place.row,
            "source": source_label(place.source),
            "from token": place.start,
            "tokens": place.length,
            "slots": place.slots,
            "epoch": place.epoch,
        }
        for place in places
    ]
