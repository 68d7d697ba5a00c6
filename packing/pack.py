"""Packs from a plan: a function of the plan block and the samples alone.

`plan/planner.py` decides which pieces share a pack. The node `pack` (`pipelines/build/samples.py`) calls `pack_unit`
and stores packs in training order with their media; `loader/loader.py` reads them. A packs store is a cache of this
function: it may be deleted and made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np

from manifests.errors import StoreError
from manifests.geometry import MERGE, MediaLimits
from manifests.records import FORGOTTEN, Item, Json, Media, Pack, PackedMedia, PlanBlock, Sample, Segment
from packing.navit import Expanded, expand
from stores.store import Snapshot, Store
from tokenization.vocabulary import Vocabulary

EXPANDED_KEPT = 64
"""Size of the cache of expanded samples in one unit: pieces of one long document recur often."""

PLAN_FACTS = (
    "plan",
    "mixture",
    "vocabulary",
    "seed",
    "max_pack_tokens",
    "global_batch_packs",
    "vision_share",
    "schedule",
    "amends",
    "media_limits",
    "pixels",
    "pack_limits",
    "segment_align",
)
"""Entries of a plan's meta that a packs store repeats."""

Expand = Callable[[int, int], tuple[Sample, Expanded]]
"""(number of the source, number of the sample) -> the sample, unexpanded and expanded."""


def packs_in(block: PlanBlock) -> int:
    """Return the number of packs in a block."""
    return len(block.arrays["pack_offsets"]) - 1


def packs_meta(plan: Mapping[str, Json]) -> dict[str, Json]:
    """Return the meta of a packs store. `plan` is the meta of its plan."""
    sources = [source["name"] for source in plan["sources"]]
    return {name: plan[name] for name in PLAN_FACTS} | {"sources": sources}


def materialize(block: PlanBlock, index: int, samples: Mapping[str, Snapshot], vocabulary: Vocabulary) -> Pack:
    """Return pack number `index` of `block`.

    Args:
        samples: snapshots that the plan was made from, by source name.
    Returns:
        the pack. Its media have the samples' locations and no payload.
    Raises:
        StoreError: the samples or the vocabulary are not those of the plan.
    """
    pack, _ = _pack(block, index, _expander(block, samples, vocabulary), vocabulary.pad_id)
    return pack


def pack_unit(
    block: PlanBlock,
    samples: Mapping[str, Snapshot],
    vocabulary: Vocabulary,
    wanted: Iterable[int] | None = None,
    *,
    payload: bool = True,
) -> Iterator[Pack]:
    """Yield the packs of `block` in training order: the work of one unit.

    Args:
        samples: snapshots that the plan was made from, by source name.
        wanted: numbers of the packs to yield, by default all.
        payload: read the encoded bytes of the media, from the stores that the samples were made from.
    """
    expand_sample = _expander(block, samples, vocabulary)
    for index in range(packs_in(block)) if wanted is None else wanted:
        pack, sources = _pack(block, index, expand_sample, vocabulary.pad_id)
        if payload:
            media = (
                replace(packed, media=replace(packed.media, payload=_payload(packed.media, samples[source])))
                for packed, source in zip(pack.media, sources, strict=True)
            )
            pack = replace(pack, media=tuple(media))
        yield pack


def samples_of(plan: Snapshot) -> dict[str, Snapshot]:
    """Open the samples snapshots of `plan`, by source name.

    Raises:
        StoreError: a snapshot has another content root than when the plan was made.
    """
    by_store = {}
    for parent in plan.parents:
        snapshot = Store.open(parent.url).snapshot(parent.number)
        if snapshot.content_root != parent.content_root:
            raise StoreError(
                f"expected the samples of content root {parent.content_root[:12]}, got {snapshot.content_root[:12]}",
                where=parent.url,
                fix="run the plan again",
            )
        by_store[snapshot.name] = snapshot
    return {source: by_store[store] for source, store in plan.meta["stores"].items()}


def _expander(block: PlanBlock, samples: Mapping[str, Snapshot], vocabulary: Vocabulary) -> Expand:
    header = block.header
    if vocabulary.digest != header["vocabulary"]:
        raise StoreError(
            f"the plan was made with vocabulary {header['vocabulary'][:12]}, got {vocabulary.digest[:12]}",
            where=f"plan block {header['block']}",
            fix="run the plan again, or use the vocabulary that it was made with",
        )
    limits = MediaLimits(**header["media_limits"])
    names = header["sources"]

    @lru_cache(maxsize=EXPANDED_KEPT)
    def expand_sample(source: int, ordinal: int) -> tuple[Sample, Expanded]:
        sample = samples[names[source]].record(ordinal)
        return sample, expand(sample, limits, vocabulary)

    return expand_sample


def _pack(block: PlanBlock, index: int, expand_sample: Expand, pad_id: int) -> tuple[Pack, list[str]]:
    """Return a pack, and the source of each of its media."""
    header, arrays = block.header, block.arrays
    align = header["segment_align"]
    ids = np.full(header["max_pack_tokens"], pad_id, np.uint32)
    loss_mask = np.zeros(header["max_pack_tokens"], bool)
    segments: list[Segment] = []
    media: list[PackedMedia] = []
    media_sources: list[str] = []
    at = 0
    first, stop = arrays["pack_offsets"][index : index + 2].tolist()
    columns = [arrays[name][first:stop].tolist() for name in ("source", "ordinal", "start", "length", "slots")]
    for source, ordinal, start, length, slots in zip(*columns, strict=True):
        sample, expanded = expand_sample(source, ordinal)
        if sample.source == FORGOTTEN:
            segments.append(Segment(sample.id, FORGOTTEN, start, length, -length % align))
            at += length + segments[-1].padding
            continue
        piece = expanded.ids[start : start + length]
        inside = [packed for packed in expanded.media if start <= packed.items[0].slot < start + length]
        if len(piece) != length or sum(_slots(packed) for packed in inside) != slots:
            raise StoreError(
                f"sample {sample.id} has {len(piece)} tokens from {start}, the plan expects {length} and {slots} slots",
                where=f"plan block {header['block']}, pack {index}",
                fix="these are not the samples of the plan: run the plan again",
            )
        ids[at : at + length] = piece
        loss_mask[at + 1 : at + length] = expanded.targets[start + 1 : start + length]
        media += [_shifted(packed, at - start) for packed in inside]
        media_sources += [header["sources"][source]] * len(inside)
        segments.append(Segment(sample.id, header["sources"][source], start, length, -length % align))
        at += length + segments[-1].padding
    return Pack(ids, loss_mask, tuple(segments), tuple(media)), media_sources


def _slots(packed: PackedMedia) -> int:
    return sum(item.grid[1] * item.grid[2] // MERGE**2 for item in packed.items)


def _shifted(packed: PackedMedia, by: int) -> PackedMedia:
    return replace(packed, items=tuple(Item(item.grid, item.slot + by, item.frames) for item in packed.items))


def _payload(media: Media, samples: Snapshot) -> bytes:
    if media.location is None:
        raise StoreError(f"{media.kind} {media.digest} has no location", where=samples.name, fix="tokenize again")
    return samples.read(media.location)
