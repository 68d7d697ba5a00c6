"""From a plan to packs: `materialise(block, i)` is one function of the plan and the samples, and nothing else.

Before this `plan/planner.py` fixed which pieces share a pack; after it packs are stored in training order with their
media beside them, and `loader/loader.py` reads them. A packs store is a cache of this function: it may be deleted and
made again.
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
"""Expanded samples kept at hand in one unit: pieces of one long document come back often."""

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
    "limits",
    "pixels",
    "pack_limits",
    "segment_align",
)

Expand = Callable[[int, int], tuple[Sample, Expanded]]


def packs_in(block: PlanBlock) -> int:
    return len(block.arrays["pack_offsets"]) - 1


def packs_meta(plan: Mapping[str, Json]) -> dict[str, Json]:
    """What a packs store says of the plan that it was made from (`plan` is that plan's meta)."""
    sources = [source["name"] for source in plan["sources"]]
    return {name: plan[name] for name in PLAN_FACTS} | {"sources": sources}


def materialise(block: PlanBlock, index: int, samples: Mapping[str, Snapshot], vocabulary: Vocabulary) -> Pack:
    """Pack number `index` of `block`; `samples` are the snapshots that the plan was made from, by source name.

    Media come without payload, located where the samples say. Raises StoreError where the samples or the vocabulary
    are not those of the plan.
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
    """All packs of `block`, or those `wanted`, in training order: the work of one unit.

    Their media have the original encoded bytes, unless `payload` is False; these are read where the samples say that
    they lie: in the stores that the samples were made from.
    """
    opened = _expander(block, samples, vocabulary)
    for index in range(packs_in(block)) if wanted is None else wanted:
        pack, sources = _pack(block, index, opened, vocabulary.pad_id)
        if payload:
            media = (
                replace(packed, media=replace(packed.media, payload=_payload(packed.media, samples[source])))
                for packed, source in zip(pack.media, sources, strict=True)
            )
            pack = replace(pack, media=tuple(media))
        yield pack


def samples_of(plan: Snapshot) -> dict[str, Snapshot]:
    """By source name, the snapshots that `plan` was made from. Raises StoreError where one is another now."""
    made_from = {}
    for parent in plan.parents:
        snapshot = Store.open(parent.url).snapshot(parent.number)
        if snapshot.content_root != parent.content_root:
            raise StoreError("is not the store that the plan was made from", where=parent.url, fix="run the plan again")
        made_from[snapshot.name] = snapshot
    return {source: made_from[store] for source, store in plan.meta["stores"].items()}


def _expander(block: PlanBlock, samples: Mapping[str, Snapshot], vocabulary: Vocabulary) -> Expand:
    header = block.header
    if vocabulary.digest != header["vocabulary"]:
        raise StoreError(
            f"the plan was made with vocabulary {header['vocabulary'][:12]}, got {vocabulary.digest[:12]}",
            where=f"plan block {header['block']}",
            fix="compile the plan again, or give the vocabulary it was made with",
        )
    limits = MediaLimits(**header["limits"])
    names = header["sources"]

    @lru_cache(maxsize=EXPANDED_KEPT)
    def opened(source: int, ordinal: int) -> tuple[Sample, Expanded]:
        sample = samples[names[source]].record(ordinal)
        return sample, expand(sample, limits, vocabulary)

    return opened


def _pack(block: PlanBlock, index: int, opened: Expand, pad_id: int) -> tuple[Pack, list[str]]:
    """The pack, and for each of its media the source that it comes from."""
    header, arrays = block.header, block.arrays
    align = header["segment_align"]
    ids = np.full(header["max_pack_tokens"], pad_id, np.uint32)
    loss_mask = np.zeros(header["max_pack_tokens"], bool)
    segments: list[Segment] = []
    media: list[PackedMedia] = []
    origins: list[str] = []
    at = 0
    first, stop = arrays["pack_offsets"][index : index + 2].tolist()
    columns = [arrays[name][first:stop].tolist() for name in ("source", "ordinal", "start", "length", "slots")]
    for source, ordinal, start, length, slots in zip(*columns, strict=True):
        sample, expanded = opened(source, ordinal)
        if sample.source == FORGOTTEN:
            segments.append(Segment(sample.id, FORGOTTEN, start, length, -length % align))
            at += length + segments[-1].padding
            continue
        piece = expanded.ids[start : start + length]
        inside = [packed for packed in expanded.media if start <= packed.items[0].slot < start + length]
        if len(piece) != length or sum(_slots(packed) for packed in inside) != slots:
            raise StoreError(
                f"sample {sample.id} has {len(piece)} tokens from {start}, the plan counts {length} with {slots} slots",
                where=f"plan block {header['block']}, pack {index}",
                fix="the samples are not those that the plan was made from: run the plan again",
            )
        ids[at : at + length] = piece
        loss_mask[at + 1 : at + length] = expanded.targets[start + 1 : start + length]
        media += [_moved(packed, at - start) for packed in inside]
        origins += [header["sources"][source]] * len(inside)
        segments.append(Segment(sample.id, header["sources"][source], start, length, -length % align))
        at += length + segments[-1].padding
    return Pack(ids, loss_mask, tuple(segments), tuple(media)), origins


def _slots(packed: PackedMedia) -> int:
    return sum(item.grid[1] * item.grid[2] // MERGE**2 for item in packed.items)


def _moved(packed: PackedMedia, by: int) -> PackedMedia:
    return replace(packed, items=tuple(Item(item.grid, item.slot + by, item.frames) for item in packed.items))


def _payload(media: Media, samples: Snapshot) -> bytes:
    if media.location is None:
        raise StoreError(f"{media.kind} {media.digest} has no location", where=samples.name, fix="tokenise again")
    return samples.read(media.location)
