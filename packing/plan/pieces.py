"""Pieces of samples: every sample of a source as pieces that fit a pack, computed from the index alone.

A samples snapshot feeds it, `supply.py` takes the pieces. A sample that fits a pack is one piece; a longer one is cut
greedily at the split offsets that tokenization stored, each piece as long as a pack allows, and between two tokens only
where a whole pack's length holds no split. Neither a medium nor a sample that is whole (a conversation) is ever cut: if
it alone exceeds a limit of a pack, the sample is refused with a reason and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import StoreError
from manifests.geometry import MediaLimits
from manifests.records import Media
from packing.mixture import Mixture, Source
from packing.navit import lay_out, media_tokens
from stores.commits.lists import ShardRef
from stores.prefetch import prefetch
from stores.shards import index
from stores.store import Snapshot
from tokenization.vocabulary import Vocabulary

TOO_LONG = "medium_longer_than_pack"
"""Reason for refusing a sample: one of its media alone has more tokens than a pack."""
WHOLE_TOO_LONG = "conversation_longer_than_pack"
"""Reason: the sample must not be cut (`Sample.whole`) and is longer than a pack."""
TOO_MANY_PATCHES = "medium_over_patches_of_pack"
"""Reason: one of its media has more patches than `Mixture.pack_limits` allow a whole pack."""
WHOLE_OVER_LIMITS = "conversation_over_pack_limits"
"""Reason: the sample must not be cut and exceeds another limit of a pack."""

UNLIMITED = 2**62
"""Value of a limit that is not set."""
PREFETCHED_SHARDS = 3
"""Shards in work at a time: one is read, the others are cut."""
CORE_COLUMNS = ("id", "domain", "tokens", "splits", "whole")
MEDIA_COLUMNS = ("record", "place", "digest", "kind", "width_px", "height_px", "frame_times_us", "container_fps")

NONE = np.zeros(0, np.int32)
NO_KEYS = np.zeros(0, np.uint64)


@dataclass(frozen=True, slots=True)
class SourcePieces:
    """Pieces of one source as columns of equal length, in no particular order."""

    content_root: str
    """Content root of the samples snapshot."""
    keys: np.ndarray
    """(N,) uint64: identity of each piece, the same however the store is sharded."""
    ordinal: np.ndarray
    """(N,) int64: position of the sample in the snapshot."""
    start: np.ndarray
    """(N,) int32: first expanded token of the piece."""
    length: np.ndarray
    """(N,) int32: expanded tokens."""
    slots: np.ndarray
    """(N,) int32: vision slots among them."""
    samples: int
    """Samples that gave pieces."""
    cut_samples: int
    """Samples among them that were cut."""
    refused: Mapping[str, int]
    """Samples without pieces, by reason."""
    media: int
    """Images and videos of the samples wanted."""
    shrunk_media: int
    """Media that the limits shrink."""
    patches: np.ndarray = field(default_factory=lambda: NONE)
    """(N,) int32: 14-px patches that the encoder sees of each piece; 0 for all unless the mixture limits packs."""
    media_in: np.ndarray = field(default_factory=lambda: NONE)
    """(N,) int32: images and videos in each piece; 0 for all unless the mixture limits packs."""
    media_offsets: np.ndarray = field(default_factory=lambda: NONE)
    """(N + 1,) int64: piece p shows `media_keys[media_offsets[p] : media_offsets[p + 1]]`; empty unless the mixture
    caps exposures."""
    least_refused: int = UNLIMITED
    """Tokens that a pack must hold to take the shortest sample refused for its length."""
    media_keys: np.ndarray = field(default_factory=lambda: NO_KEYS)
    """(M,) uint64: first eight bytes of the digest of each medium."""

    def __post_init__(self) -> None:
        for name in ("patches", "media_in"):
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.broadcast_to(np.int32(0), len(self.length)))


def pieces_by_shard(
    samples: Snapshot, source: Source, mixture: Mixture, vocabulary: Vocabulary
) -> Iterator[SourcePieces]:
    """Pieces of each shard of `samples`, read from the index: filtered by the source, cut to the mixture's limits.

    Raises:
        StoreError: the samples were made with another vocabulary.
    """
    made_with = samples.meta.get("vocabulary", vocabulary.digest)
    if made_with != vocabulary.digest:
        raise StoreError(
            f"samples of vocabulary {made_with[:12]}, the plan is for {vocabulary.digest[:12]}",
            where=samples.name,
            fix="tokenize again, or give the vocabulary that the samples were made with",
        )

    def work(shard: tuple[ShardRef, pa.Table, pa.Table | None]) -> SourcePieces:
        ref, core, media = shard
        kept = samples.kept(ref.first, ref.first + ref.records) - ref.first
        return _pieces_in_shard(samples.content_root, core, media, kept, ref.first, source, mixture, vocabulary)

    return prefetch(work, samples.facts(CORE_COLUMNS, MEDIA_COLUMNS), PREFETCHED_SHARDS)


def _pieces_in_shard(
    content_root: str,
    core: pa.Table,
    media_table: pa.Table | None,
    kept: np.ndarray,
    first: int,
    source: Source,
    mixture: Mixture,
    vocabulary: Vocabulary,
) -> SourcePieces:
    """Pieces of the samples of one shard, in store order.

    Args:
        core, media_table: index of the shard; no media table if no sample shows any.
        kept: rows that a view keeps.
        first: ordinal of the first sample.
    """
    from packing.plan import pieces_loops

    tokens = core["tokens"].to_numpy()
    wanted = np.zeros(len(tokens), bool)
    wanted[kept] = True
    wanted &= tokens > 0  # a forgotten sample leaves an empty row
    if source.domains:
        wanted &= pc.is_in(core["domain"].cast(pa.string()), pa.array(source.domains)).to_numpy()
    media = _Media(media_table, wanted, mixture.media_limits, vocabulary)
    expanded = tokens + media.per_record(media.tokens - 1, len(tokens))
    wanted &= (expanded >= source.min_tokens) & (expanded <= (source.max_tokens or UNLIMITED))
    slots = media.per_record(media.slots, len(tokens))
    patches = media.per_record(media.patches, len(tokens))
    count = media.per_record(np.ones_like(media.slots), len(tokens))

    most, most_patches, most_media = mixture.max_piece_tokens, mixture.pack_limits.patches, mixture.pack_limits.media
    fits = (expanded <= most) & (patches <= (most_patches or UNLIMITED)) & (count <= (most_media or UNLIMITED))
    short = np.flatnonzero(wanted & fits)
    long = np.flatnonzero(wanted & ~fits)
    refused, least_refused = Counter[str](), UNLIMITED
    cuttable = long[~core["whole"].to_numpy()[long]]
    for number in np.setdiff1d(long, cuttable).tolist():
        refused[WHOLE_TOO_LONG if expanded[number] > mixture.max_pack_tokens else WHOLE_OVER_LIMITS] += 1
        least_refused = min(least_refused, int(expanded[number]))
    splits, split_offsets = _lists(core["splits"].take(cuttable))
    outcome = np.zeros(len(cuttable), np.int64)
    groups, group_offsets = media.groups(cuttable)
    cut = pieces_loops.cut_samples(
        tokens[cuttable].astype(np.int64), groups, group_offsets, splits, split_offsets,
        most, most_patches or UNLIMITED, most_media or UNLIMITED, most < mixture.max_pack_tokens, outcome,
    )  # fmt: skip
    for code, reason in ((pieces_loops.TOO_LONG, TOO_LONG), (pieces_loops.TOO_MANY_PATCHES, TOO_MANY_PATCHES)):
        if times := int(np.count_nonzero(outcome == code)):
            refused[reason] += times
    around = groups[pieces_loops.STOP] - groups[pieces_loops.START] + groups[pieces_loops.TOKENS] - 1  # of each medium
    for number in np.flatnonzero(outcome == pieces_loops.TOO_LONG).tolist():
        longest = around[group_offsets[number] : group_offsets[number + 1]].max()
        least_refused = min(least_refused, int(longest))
    cut[:, 0] = cuttable[cut[:, 0]]
    whole = (short, np.zeros_like(short), *(column[short] for column in (expanded, slots, patches, count)))
    columns = [np.concatenate(pair) for pair in zip(whole, cut.T, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    row, start, length, slots, patches, count = (column[order] for column in columns)
    limited, exposed = mixture.pack_limits.any, mixture.max_media_exposures is not None
    return SourcePieces(
        content_root=content_root,
        keys=_keys(core["id"], row, start),
        ordinal=row + first,
        start=start.astype(np.int32),
        length=length.astype(np.int32),
        slots=slots.astype(np.int32),
        samples=int(np.count_nonzero(wanted)) - refused.total(),
        cut_samples=len(long) - refused.total(),
        refused=dict(refused),
        least_refused=least_refused,
        media=int(np.count_nonzero(wanted[media.record])),
        shrunk_media=int(np.count_nonzero(wanted[media.record[media.shrunk]])),
        patches=patches.astype(np.int32) if limited else NONE,
        media_in=count.astype(np.int32) if limited else NONE,
        media_offsets=np.concatenate([[0], np.cumsum(count)]) if exposed else NONE,
        media_keys=_media_keys(media_table, row) if exposed and media_table is not None else NO_KEYS,
    )


def _lists(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A column of integer lists as (values of all lists, (N + 1,) offsets at which each begins)."""
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    values = lists.values.to_numpy()[offsets[0] : offsets[-1]]
    return values.astype(np.int64), offsets - offsets[0]


def _media_keys(table: pa.Table, rows: np.ndarray) -> np.ndarray:
    """Keys of all media of the samples in these rows, (M,) uint64, in the order of their pieces."""
    return index.uint64_words(table["digest"])[np.isin(table["record"].to_numpy(), rows), 0]


def _keys(ids: pa.ChunkedArray, row: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Keys of pieces, (N,) uint64, from sample id and start. Among 10^9 pieces two are equal once in 37 plans."""
    high, low = index.uint64_words(ids)[row].T
    return mix_bits(low ^ mix_bits(high ^ mix_bits(start.astype(np.uint64))))


def mix_bits(words: np.ndarray) -> np.ndarray:
    """Mix the bits of (N,) uint64 words: a bijection. Source: finalizer of SplitMix64 (Steele et al. 2014)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class _Media:
    """Media of the wanted samples, laid out under the limits: columns by medium, ascending by record."""

    def __init__(self, table: pa.Table | None, wanted: np.ndarray, limits: MediaLimits, vocabulary: Vocabulary) -> None:
        table = index.MEDIA.empty_table().select(MEDIA_COLUMNS) if table is None else table
        table = table.filter(pa.array(wanted[table["record"].to_numpy()]))
        self.record = table["record"].to_numpy()
        """(M,) row of the sample."""
        self.place = table["place"].to_numpy()
        """(M,) index of the placeholder in the unexpanded ids."""
        kinds = table["kind"].combine_chunks()
        self._image = pc.equal(kinds.cast(pa.string()), "image").to_numpy(zero_copy_only=False)
        self._wrapper = len(vocabulary.encode("image")) + 2
        """Tokens around an image before its slots; one token follows them."""
        sizes = np.stack([table[name].to_numpy() for name in ("width_px", "height_px")], 1)
        rows = np.zeros((len(sizes), 4), np.int64)  # by medium: tokens, slots, patches, whether it is shrunk
        areas = sizes[self._image].astype(np.int64) @ [1 << 32, 1]
        sizes_once, same = np.unique(areas, return_inverse=True)
        laid = [
            _laid_out(Media("", "image", "", size >> 32, size & 0xFFFFFFFF), limits, vocabulary)
            for size in sizes_once.tolist()
        ]
        rows[self._image] = np.array(laid, np.int64).reshape(-1, 4)[same]
        clips = np.flatnonzero(~self._image)
        columns = [table[name].take(clips).to_pylist() for name in ("frame_times_us", "container_fps")]
        for row, times, fps in zip(clips.tolist(), *columns, strict=True):
            clip = Media("", "video", "", int(sizes[row, 0]), int(sizes[row, 1]), tuple(times), fps)
            rows[row] = _laid_out(clip, limits, vocabulary)
        self.tokens, self.slots, self.patches, shrunk = rows.T
        self.shrunk = shrunk.astype(bool)
        """(M,) bool: whether the limits shrink it."""

    def per_record(self, column: np.ndarray, records: int) -> np.ndarray:
        """Sum of a column over the media of each record, (records,) int64."""
        until = np.concatenate([[0], np.cumsum(column)])
        places = np.searchsorted(self.record, np.arange(records + 1))
        return until[places[1:]] - until[places[:-1]]

    def groups(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Media of the samples in (N,) rows as `pieces_loops.cut_samples` reads them.

        Returns:
            (6, G) int64 groups of tokens; (N + 1,) offsets at which each sample's begin.
        """
        first, stop = np.searchsorted(self.record, [rows, rows + 1])
        offsets = np.concatenate([[0], np.cumsum(stop - first)])
        mine = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], stop - first)
        image, place = self._image[mine], self.place[mine]
        ends = (place - self._wrapper * image, place, place + 1 + image)
        return np.stack([*ends, *(column[mine] for column in (self.tokens, self.slots, self.patches))]), offsets


def media_positions(
    samples: Snapshot, limits: MediaLimits, vocabulary: Vocabulary
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Positions of all media, shard by shard in store order.

    Yields:
        (M,) int64 each: ordinal of the sample, first token of the medium in the expanded sample, its patches.
    """
    for ref, _, table in samples.facts([], MEDIA_COLUMNS):
        media = _Media(table, np.ones(ref.records, bool), limits, vocabulary)
        before = np.cumsum(media.tokens - 1) - (media.tokens - 1)
        firsts = np.searchsorted(media.record, media.record)
        yield media.record + ref.first, media.place + before - before[firsts], media.patches


def _laid_out(media: Media, limits: MediaLimits, vocabulary: Vocabulary) -> tuple[int, int, int, bool]:
    """(tokens, slots, patches, whether the limits shrink it) of one medium."""
    layout = lay_out(media, limits)
    smaller = layout.size_px != (media.width_px, media.height_px)
    return media_tokens(media, layout, vocabulary), layout.slots, layout.patches, smaller
