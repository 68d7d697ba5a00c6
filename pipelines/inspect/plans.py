"""What a plan says about itself when its own arrays are counted, and any global batch of it, trained or not.

Figures come from the plan's blocks and the indexes of the samples; only the packs of a batch that is looked at are
made, as the `pack` node would make them. What the shards of a packs store really hold, `packing/proof.py` recounts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from manifests.errors import StoreError
from manifests.geometry import MediaLimits
from manifests.records import Json, Pack, PlanBlock
from packing.amend import chain_of
from packing.balance import deal, encoder_cost, least, llm_cost
from packing.materialise import pack_unit, samples_of
from packing.pieces import media_places
from pipelines.inspect.artefacts import examples, spoken_source, vocabulary_of
from stores.exposure import first_batch
from stores.store import Snapshot, Store
from tokenization.vocabulary import Vocabulary

BALANCED_PACKS = 512
"""About so many packs are made to say how evenly batches can be dealt."""
LONGEST_SAMPLE_TOKENS = 1 << 32
"""More than any has, expanded."""
RANKS = 8
"""At most so many numbers of ranks are tried."""


@dataclass(frozen=True)
class Place:
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


class Planned:
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
        done = 0
        for block in self.blocks():
            ends = done + np.cumsum(_per_pack(block, "length"))
            if len(ends) and ends[-1] >= tokens:
                first = int(block.header["first_pack"])
                return self.first_step + (first + int(np.searchsorted(ends, tokens))) // self.batch_packs
            done = int(ends[-1]) if len(ends) else done
        return None

    def batch(self, step: int, *, payload: bool = True) -> list[Pack]:
        """The packs of a global batch, media with their bytes if asked for. Raises StoreError for a step too far."""
        if 0 <= step < self.first_step:
            before = [plan for first, plan in chain_of(self.plan) if first <= step][-1]
            return Planned(before).batch(step, payload=payload)
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

    def places(self, sample: str) -> list[Place]:
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
                    found.append(Place(self.first_step + step, row, source, *told))
        return sorted(found, key=lambda place: (place.step, place.row, place.start))


def figures(planned: Planned) -> dict[str, Json]:
    """Everything about a plan that its arrays and the indexes of its samples say."""
    plan, room = planned.plan, int(planned.plan.meta["max_pack_tokens"])
    tables = {name: samples.table(["id", "domain"]) for name, samples in planned.samples.items()}
    domains = {name: table["domain"].to_pylist() for name, table in tables.items()}
    names = sorted({domain for some in domains.values() for domain in some})
    codes = {name: np.array([names.index(one) for one in some], np.int64) for name, some in domains.items()}
    begun = {name: np.zeros(len(some), np.int64) for name, some in domains.items()}
    limits, vocabulary = MediaLimits(**plan.meta["limits"]), vocabulary_of(plan)
    shown = {name: _Shown(samples, limits, vocabulary) for name, samples in planned.samples.items()}
    by_domain = np.zeros((len(names), 3), np.int64)  # tokens, slots, segments
    by_source = {name: np.zeros(3, np.int64) for name in planned.samples}
    tokens, slots = [], []
    continued = 0
    for block in planned.blocks():
        arrays = block.arrays
        tokens.append(_per_pack(block, "length"))
        slots.append(_per_pack(block, "slots"))
        continued += int(np.count_nonzero(arrays["start"]))
        for index, name in enumerate(block.header["sources"]):
            mine = arrays["source"] == index
            ordinals = arrays["ordinal"][mine]
            shown[name].add(ordinals, arrays["start"][mine], arrays["length"][mine])
            counted = np.stack([arrays["length"][mine], arrays["slots"][mine], np.ones(len(ordinals), np.int64)], 1)
            by_source[name] += counted.sum(0, dtype=np.int64)
            np.add.at(by_domain, codes[name][ordinals], counted)
            np.add.at(begun[name], ordinals[arrays["start"][mine] == 0], 1)
    pack_tokens, pack_slots = np.concatenate(tokens), np.concatenate(slots)
    whole = int(pack_tokens.sum())
    with_media = pack_slots > 0
    return {
        "sources": [_source(planned, told, by_source[told["name"]], whole) for told in plan.meta["sources"]],
        "domains": [
            {"domain": name, "tokens": int(t), "share": t / whole, "slots": int(s), "segments": int(n)}
            for name, (t, s, n) in zip(names, by_domain.tolist(), strict=True)
            if n
        ],
        "room": {
            "text and wrappers": (whole - int(pack_slots.sum())) / (len(pack_tokens) * room),
            "vision slots": int(pack_slots.sum()) / (len(pack_tokens) * room),
            "padding": 1 - whole / (len(pack_tokens) * room),
            "padding in packs with media": _padding(pack_tokens[with_media], room),
            "padding in packs of text": _padding(pack_tokens[~with_media], room),
        },
        "splits": {
            "documents cut": sum(told["cut_samples"] for told in plan.meta["sources"]),
            "segments that continue a document": continued,
        },
        "repetition": _repetition(tables, begun, shown),
        "balance": _balance(planned),
    }


def _source(planned: Planned, told: Json, counted: np.ndarray, whole: int) -> dict[str, Json]:
    given, slots, segments = counted.tolist()
    spent = {kind: planned.step_of(until) for kind, until in told["spent_after_tokens"].items() if until is not None}
    return {
        "source": told["name"],
        "weight": told["weight"],
        "tokens": given,
        "share": given / whole,
        "slots": slots,
        "segments": segments,
        "epochs": given / max(1, told["tokens"]),
        "of at most": told["max_epochs"],
        "text spent at step": spent.get("poor"),
        "vision spent at step": spent.get("rich"),
        "refused": sum(told["refused"].values()),
        "media shrunk": told["shrunk_media"],
    }


def _padding(tokens: np.ndarray, room: int) -> float | None:
    return 1 - float(tokens.sum()) / (len(tokens) * room) if len(tokens) else None


class _Shown:
    """How often a plan shows each medium of a source."""

    def __init__(self, samples: Snapshot, limits: MediaLimits, vocabulary: Vocabulary) -> None:
        self.digests = np.array(samples.media_table(["digest"])["digest"].to_pylist(), "U64")
        ordinals, places = media_places(samples, limits, vocabulary)
        self._at = ordinals * LONGEST_SAMPLE_TOKENS + places
        self._changes = np.zeros(len(self._at) + 1, np.int64)

    def add(self, ordinals: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        """Segments of samples."""
        first = ordinals.astype(np.int64) * LONGEST_SAMPLE_TOKENS + starts
        np.add.at(self._changes, np.searchsorted(self._at, first), 1)
        np.add.at(self._changes, np.searchsorted(self._at, first + lengths), -1)

    @property
    def times(self) -> np.ndarray:
        """(M,) int64, as `digests`."""
        return np.cumsum(self._changes[:-1])


def _repetition(tables: dict[str, Json], begun: dict[str, np.ndarray], shown: dict[str, _Shown]) -> dict[str, Json]:
    """How often documents and media are seen. A document counts as often as its beginning."""
    times = np.concatenate(list(begun.values())) if begun else np.zeros(0, np.int64)
    ids = np.concatenate([np.array(table["id"].to_pylist(), "U32") for table in tables.values()])
    of_document = np.unique(ids[times > 0], return_counts=True)[1]
    digests = np.concatenate([source.digests for source in shown.values()])
    found: dict[str, Json] = {
        "documents seen": int(np.count_nonzero(times)),
        "seen more than once": int(np.count_nonzero(times > 1)),
        "most often": int(times.max(initial=0)),
        "in more than one source": int(np.count_nonzero(of_document > 1)),
    }
    if len(digests):
        _, which = np.unique(digests, return_inverse=True)
        seen = np.bincount(which, np.concatenate([source.times for source in shown.values()])).astype(np.int64)
        found |= {
            "media seen": int(np.count_nonzero(seen)),
            "media seen more than once": int(np.count_nonzero(seen > 1)),
            "one medium most often": int(seen.max()),
        }
    return found


def _balance(planned: Planned) -> list[dict[str, Json]]:
    """For some numbers of ranks: what the busiest has over max(mean, largest item), in the worst batch looked at."""
    size = planned.batch_packs
    ranks = [count for count in range(1, size + 1) if size % count == 0]
    looked_at = examples(planned.steps, max(2, BALANCED_PACKS // size))
    batches = [planned.batch(step, payload=False) for step in looked_at]
    rows = [[llm_cost(segment.length for segment in pack.segments) for pack in batch] for batch in batches]
    items = [[encoder_cost(i.grid) for pack in b for one in pack.media for i in one.items] for b in batches]
    return [
        {
            "ranks": count,
            "rows": max(_busiest(costs, count, equal_counts=True) for costs in rows),
            "media": max(_busiest(costs, count, equal_counts=False) for costs in items),
            "batches looked at": len(looked_at),
        }
        for count in examples(ranks, RANKS)
    ]


def _busiest(costs: Sequence[int], ranks: int, *, equal_counts: bool) -> float:
    dealt = deal(costs, ranks, equal_counts=equal_counts)
    return max(sum(costs[i] for i in mine) for mine in dealt) / max(1, least(costs, ranks, equal_counts=equal_counts))


def _per_pack(block: PlanBlock, name: str) -> np.ndarray:
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


def seen(places: Sequence[Place]) -> list[dict[str, Json]]:
    """Places as rows of a table."""
    return [
        {
            "step": place.step,
            "row": place.row,
            "source": spoken_source(place.source),
            "from token": place.start,
            "tokens": place.length,
            "slots": place.slots,
            "epoch": place.epoch,
        }
        for place in places
    ]
