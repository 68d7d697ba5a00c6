"""Statistics of a plan: sources, domains, fill, repetition and balance, counted from its blocks.

The indexes of the samples are read shard by shard; 4 bytes per sample and 12 bytes per medium stay in memory.
`packing/proof.py` recounts the shards of a packs store instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from manifests.geometry import MediaLimits
from manifests.records import Json
from packing.loader.balance import deal, encoder_cost, llm_cost, lower_bound
from packing.plan.pieces import media_positions
from pipelines.inspect.plan_view import PlanView, per_pack
from pipelines.inspect.queries import evenly_spaced, vocabulary_of
from stores.shards import index
from stores.spill import Partitions, Scratch
from stores.store import Snapshot
from tokenization.vocabulary import Vocabulary

BALANCED_PACKS = 512
"""Packs that are made, in about this number, to measure the balance between ranks."""
LONGEST_SAMPLE_TOKENS = 1 << 32
"""More tokens than any sample has with its vision slots."""
RANKS = 8
"""Largest number of rank counts for which the balance is measured."""
MEMORY_BYTES = 1 << 30
"""Memory for counting repetition; the rest spills to disk."""
PARTS = 64
"""Partitions of ids and of media digests, counted one after the other."""
TIMES = np.dtype([("name", np.uint64), ("times", np.uint32)])
"""A row per record or medium: first eight bytes of its id or digest, and the number of exposures."""


def plan_statistics(planned: PlanView) -> dict[str, Json]:
    """Count the blocks of a plan and the indexes of its samples; one section per topic."""
    plan, room = planned.plan, int(planned.plan.meta["max_pack_tokens"])
    limits, vocabulary = MediaLimits(**plan.meta["media_limits"]), vocabulary_of(plan)
    domains: dict[str, int] = {}
    seen = {name: _SourceExposure(samples, limits, vocabulary, domains) for name, samples in planned.samples.items()}
    by_domain = np.zeros((len(domains), 3), np.int64)  # tokens, slots, segments
    by_source = {name: np.zeros(3, np.int64) for name in planned.samples}
    whole = np.zeros(3, np.int64)  # packs, tokens, slots
    with_media = np.zeros(2, np.int64)  # packs, tokens
    limited = np.zeros((2, 4), np.int64)  # sum over packs, and highest: tokens, patches, media, attention
    continued = 0
    for block in planned.blocks():
        arrays = block.arrays
        tokens, slots = per_pack(block, "length"), per_pack(block, "slots")
        whole += len(tokens), tokens.sum(), slots.sum()
        with_media += np.count_nonzero(slots), tokens[slots > 0].sum()
        continued += int(np.count_nonzero(arrays["start"]))
        used = np.zeros((len(arrays["length"]), 4), np.int64)
        used[:, 0], used[:, 3] = arrays["length"], arrays["length"].astype(np.int64) ** 2
        for number, name in enumerate(block.header["sources"]):
            mine = arrays["source"] == number
            ordinals = arrays["ordinal"][mine]
            used[mine, 1:3] = seen[name].add(ordinals, arrays["start"][mine], arrays["length"][mine])
            counted = np.stack([arrays["length"][mine], arrays["slots"][mine], np.ones(len(ordinals), np.int64)], 1)
            by_source[name] += counted.sum(0, dtype=np.int64)
            np.add.at(by_domain, seen[name].domains[ordinals], counted)
        of_pack = np.add.reduceat(used, arrays["pack_offsets"][:-1])
        limited = np.stack([limited[0] + of_pack.sum(0), np.maximum(limited[1], of_pack.max(0))])
    packs, tokens_seen, slots_seen = whole.tolist()
    return {
        "sources": [
            _source(planned, source, by_source[source["name"]], tokens_seen) for source in plan.meta["sources"]
        ],
        "domains": [
            {"domain": name, "tokens": int(t), "share": t / tokens_seen, "slots": int(s), "segments": int(n)}
            for name, (t, s, n) in sorted(zip(domains, by_domain.tolist(), strict=True))
            if n
        ],
        "positions": {
            "text_tokens": (tokens_seen - slots_seen) / (packs * room),
            "vision_slots": slots_seen / (packs * room),
            "padding": 1 - tokens_seen / (packs * room),
            "padding_with_media": _padding(with_media, room),
            "padding_text_only": _padding(whole[:2] - with_media, room),
        },
        "pack_limits": _fill(planned, packs, limited),
        "splits": {
            "split_documents": sum(source["cut_samples"] for source in plan.meta["sources"]),
            "continued_segments": continued,
        },
        "repetition": _repetition(seen),
        "balance": _balance(planned),
    }


def _source(planned: PlanView, source: Json, counted: np.ndarray, whole: int) -> dict[str, Json]:
    given, slots, segments = counted.tolist()
    spent = {kind: planned.step_of(until) for kind, until in source["spent_after_tokens"].items() if until is not None}
    return {
        "source": source["name"],
        "weight": source["weight"],
        "tokens": given,
        "share": given / whole,
        "slots": slots,
        "segments": segments,
        "epochs": (source["seen_before_tokens"] + given) / max(1, source["tokens"]),
        "max_epochs": source["max_epochs"],
        "text_exhausted_step": spent.get("poor"),
        "vision_exhausted_step": spent.get("rich"),
        "refused": sum(source["refused"].values()),
        "shrunk_media": source["shrunk_media"],
    }


def _fill(planned: PlanView, packs: int, limited: np.ndarray) -> list[dict[str, Json]]:
    """Use of each limit of a pack: tokens, patches, media and attention."""
    meta = planned.plan.meta
    limits = {"tokens": meta["max_pack_tokens"], **meta["pack_limits"]}
    return [
        {
            "quantity": name,
            "limit": limits[name],
            "mean": whole / packs,
            "max": most,
            "fill": whole / packs / limits[name] if limits[name] else None,
        }
        for name, whole, most in zip(("tokens", "patches", "media", "attention"), *limited.tolist(), strict=True)
    ]


def _padding(counted: np.ndarray, room: int) -> float | None:
    """Share of padding in `counted` = (packs, tokens); None without packs."""
    packs, tokens = counted.tolist()
    return 1 - tokens / (packs * room) if packs else None


class _SourceExposure:
    """Exposure counts of the samples of one source and of their media."""

    def __init__(self, samples: Snapshot, limits: MediaLimits, vocabulary: Vocabulary, domains: dict[str, int]) -> None:
        """`domains`: domain -> number, shared by all sources; new domains are added to it."""
        self._samples = samples
        self.domains = np.zeros(samples.counts["records"], np.uint16)
        """(samples,) number of each sample's domain."""
        for ref, core, _ in samples.facts(["domain"], []):
            words = core["domain"].cast(pa.string()).fill_null("").combine_chunks().dictionary_encode()
            numbers = [domains.setdefault(word, len(domains)) for word in words.dictionary.to_pylist()]
            here = slice(ref.first, ref.first + ref.records)
            self.domains[here] = np.array(numbers, np.uint16)[words.indices.to_numpy()]
        self._begun = np.zeros(len(self.domains), np.uint16)
        """(samples,) how often the first token of each sample is shown."""
        parts, patches = [np.zeros(0, np.int64)], [np.zeros(1, np.int64)]
        for ordinals, places, seen in media_positions(samples, limits, vocabulary):
            parts.append(ordinals * LONGEST_SAMPLE_TOKENS + places)
            patches.append(seen)
        self._at = np.concatenate(parts)
        self._patches = np.cumsum(np.concatenate(patches))
        """(media + 1,) patches of all media before each."""
        self._changes = np.zeros(len(self._at) + 1, np.int32)

    def add(self, ordinals: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Count segments: sample `ordinals`, first tokens `starts`, `lengths`, each (N,).

        Returns:
            (N, 2) int64: patches and media of each segment.
        """
        np.add.at(self._begun, ordinals[starts == 0], 1)
        first = ordinals.astype(np.int64) * LONGEST_SAMPLE_TOKENS + starts
        begin, end = np.searchsorted(self._at, first), np.searchsorted(self._at, first + lengths)
        np.add.at(self._changes, begin, 1)
        np.add.at(self._changes, end, -1)
        return np.stack([self._patches[end] - self._patches[begin], end - begin], 1)

    @property
    def has_media(self) -> bool:
        return len(self._at) > 0

    def times(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(samples, media) of one shard after the other, as rows of `TIMES`."""
        shown = np.cumsum(self._changes[:-1], dtype=np.int32)
        done = 0
        for ref, core, media in self._samples.facts(["id"], ["digest"]):
            begun = self._begun[ref.first : ref.first + ref.records]
            digests = pa.chunked_array([], pa.binary(32)) if media is None else media["digest"]
            count = len(digests)
            yield _named(core["id"], begun), _named(digests, shown[done : done + count])
            done += count


def _named(column: pa.ChunkedArray, times: np.ndarray) -> np.ndarray:
    """Rows of `TIMES` for all ids or digests with at least one exposure."""
    rows = np.empty(len(times), TIMES)
    rows["name"], rows["times"] = index.uint64_words(column)[:, 0], times
    return rows[rows["times"] > 0]


def _repetition(seen: Mapping[str, _SourceExposure]) -> dict[str, Json]:
    """Exposure counts of documents and media. A document counts as often as its first token is shown."""
    scratch = Scratch(MEMORY_BYTES)
    documents, media = (Partitions(scratch, name, PARTS, TIMES) for name in ("documents", "media"))
    of_documents: dict[str, Json] = dict.fromkeys(
        ("shown_documents", "repeated_documents", "max_document_exposures", "shared_documents"), 0
    )
    of_media: dict[str, Json] = dict.fromkeys(("shown_media", "repeated_media", "max_media_exposures"), 0)
    for source in seen.values():
        for begun, shown in source.times():
            of_documents["shown_documents"] += len(begun)
            of_documents["repeated_documents"] += int(np.count_nonzero(begun["times"] > 1))
            of_documents["max_document_exposures"] = max(
                of_documents["max_document_exposures"], int(begun["times"].max(initial=0))
            )
            documents.add(begun, documents.of(begun["name"]))
            media.add(shown, media.of(shown["name"]))
    for number in range(PARTS):
        of_documents["shared_documents"] += int(
            np.count_nonzero(np.unique(documents.read(number)["name"], return_counts=True)[1] > 1)
        )
        rows = media.read(number)
        names, which = np.unique(rows["name"], return_inverse=True)
        times = np.bincount(which, rows["times"], len(names))
        of_media["shown_media"] += len(names)
        of_media["repeated_media"] += int(np.count_nonzero(times > 1))
        of_media["max_media_exposures"] = max(of_media["max_media_exposures"], int(times.max(initial=0)))
    return of_documents | (of_media if any(source.has_media for source in seen.values()) else {})


def _balance(planned: PlanView) -> list[dict[str, Json]]:
    """Load of the busiest rank over max(mean load, largest item), for several rank counts, in the worst batch sampled.

    `rows` is the load of the language model, `media` that of the encoder.
    """
    size = planned.batch_packs
    ranks = [count for count in range(1, size + 1) if size % count == 0]
    steps = evenly_spaced(planned.steps, max(2, BALANCED_PACKS // size))
    batches = [planned.batch(step, payload=False) for step in steps]
    rows = [[llm_cost(segment.length for segment in pack.segments) for pack in batch] for batch in batches]
    items = [[encoder_cost(i.grid) for pack in b for packed in pack.media for i in packed.items] for b in batches]
    return [
        {
            "ranks": count,
            "rows": max(_busiest(costs, count, equal_counts=True) for costs in rows),
            "media": max(_busiest(costs, count, equal_counts=False) for costs in items),
            "sampled_batches": len(steps),
        }
        for count in evenly_spaced(ranks, RANKS)
    ]


def _busiest(costs: Sequence[int], ranks: int, *, equal_counts: bool) -> float:
    dealt = deal(costs, ranks, equal_counts=equal_counts)
    return max(sum(costs[i] for i in mine) for mine in dealt) / max(
        1, lower_bound(costs, ranks, equal_counts=equal_counts)
    )
