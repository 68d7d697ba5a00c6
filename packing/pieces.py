"""What can be packed? Every sample of a source as pieces that fit a pack, from the index alone.

Before this a samples snapshot, after it `order.py` and `sequence.py`. A sample that fits a pack is one piece; a longer
one is cut greedily at the split offsets it carries, each piece as long as a pack allows. Only where a pack's length
holds no split is it cut between two tokens. Neither a medium nor a sample that is whole (a conversation) is ever cut:
where it alone is more than a pack may hold, the sample is refused with a reason and counted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import ManifestError, StoreError
from manifests.geometry import MediaLimits
from manifests.records import Media
from packing.mixture import Mixture, Source
from packing.navit import lay_out, media_tokens
from stores import index
from stores.store import Snapshot
from tokenization.vocabulary import Vocabulary

TOO_LONG = "medium_longer_than_pack"
"""Why a sample is refused: not even alone does one of its media fit a pack."""
WHOLE_TOO_LONG = "conversation_longer_than_pack"
"""Or it is never cut (`Sample.whole`) and longer than a pack."""
TOO_MANY_PATCHES = "medium_over_patches_of_pack"
"""Or one of its media has more patches than `Mixture.pack_limits` allow a whole pack."""
WHOLE_OVER_LIMITS = "conversation_over_pack_limits"
"""Or it is never cut and more than another limit of a pack."""


@dataclass(frozen=True, slots=True)
class Group:
    """The tokens of one medium in the unexpanded ids: its placeholder and the wrapper around it."""

    start: int
    place: int
    """Of the placeholder, start <= place < stop."""
    stop: int
    tokens: int
    """Expanded tokens in place of the placeholder."""
    slots: int
    patches: int


NEVER = 2**62
"""A limit that nothing reaches."""

Piece = tuple[int, int, int, int, int]
"""(start, length, slots, patches, media): a stretch of the expanded sample, and what the encoder sees of it."""


def cut(
    tokens: int,
    groups: Sequence[Group],
    splits: Sequence[int],
    capacity: int,
    most_patches: int | None = None,
    most_media: int | None = None,
) -> list[Piece] | None:
    """Cut a sample of `tokens` unexpanded ids into pieces of at most `capacity` expanded tokens.

    Args:
        groups: its media, ascending and apart.
        splits: ascending offsets at which it may be cut, none inside a group.
        most_patches: of a piece, as `most_media`, 1 or more.
    Returns:
        pieces that follow each other without gaps, or None where one medium is more than a piece may be.
    """
    starts, stops = [], []  # of the groups, expanded
    grown = 0
    for group in groups:
        starts.append(group.start + grown)
        grown += group.tokens - 1
        stops.append(group.stop + grown)
    total = tokens + grown
    if any(stop - start > capacity for start, stop in zip(starts, stops, strict=True)):
        return None
    if most_patches is not None and any(group.patches > most_patches for group in groups):
        return None
    growth = np.array([0, *np.cumsum([group.tokens - 1 for group in groups], dtype=np.int64)])
    places = np.array([group.place for group in groups], np.int64)
    offsets = np.asarray(splits, np.int64)
    cuts = (offsets + growth[np.searchsorted(places, offsets)]).tolist()  # a split at x comes after places < x
    sums = np.zeros((3, len(groups) + 1), np.int64)  # slots, patches, media before each group
    sums[:, 1:] = np.cumsum([(group.slots, group.patches, 1) for group in groups], axis=0).reshape(-1, 3).T
    patches = sums[1].tolist()
    ends = []
    at = 0
    while True:
        reach = min(total, at + capacity)
        here = bisect_left(starts, at)
        over = len(groups)
        if most_patches is not None:
            over = bisect_right(patches, patches[here] + most_patches) - 1
        if most_media is not None:
            over = min(over, here + most_media)
        if over < len(groups):
            reach = min(reach, starts[over])
        if reach == total:
            break
        best = bisect_right(cuts, reach) - 1
        if best >= 0 and cuts[best] > at:
            at = cuts[best]
        else:
            at = reach
            around = bisect_right(starts, at) - 1
            if around >= 0 and at < stops[around]:
                at = starts[around]
        ends.append(at)
    ends.append(total)
    within = np.diff(sums[:, np.searchsorted(np.array(starts, np.int64), [0, *ends])])
    return [
        (start, end - start, *counts)
        for start, end, counts in zip([0, *ends[:-1]], ends, within.T.tolist(), strict=True)
    ]


NONE = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class SourcePieces:
    """All pieces of one source, as columns of equal length; their order says nothing."""

    content_root: str
    """Of the samples snapshot."""
    keys: np.ndarray
    """(N,) uint64: identity of each piece, the same however the store is sharded."""
    ordinal: np.ndarray
    """(N,) int64: the sample's place in the snapshot."""
    start: np.ndarray
    """(N,) int32: first expanded token of the piece."""
    length: np.ndarray
    """(N,) int32: expanded tokens."""
    slots: np.ndarray
    """(N,) int32: vision slots among them."""
    samples: int
    """Those that gave pieces."""
    cut_samples: int
    refused: Mapping[str, int]
    """Samples without pieces, by reason."""
    media: int
    shrunk_media: int
    """Media that the limits make smaller than they are."""
    patches: np.ndarray = field(default_factory=lambda: NONE)
    """(N,) int32: what the encoder sees of each piece, where a plan limits that; else none is counted."""
    media_in: np.ndarray = field(default_factory=lambda: NONE)
    """(N,) int32: images and videos, as `patches`."""
    media_offsets: np.ndarray = field(default_factory=lambda: NONE)
    """(N + 1,) int64: which of `media_keys` each piece shows; of both only where a mixture limits exposures."""
    media_keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    """(M,) uint64: the first eight bytes of the digest of each medium."""

    def __post_init__(self) -> None:
        for name in ("patches", "media_in"):
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.broadcast_to(np.int32(0), len(self.length)))

    def richer_than(self, share: Fraction) -> np.ndarray:
        """(N,) bool: the rich pieces."""
        return richer(self.slots.astype(np.int64), self.length.astype(np.int64), share)


def richer(slots: np.ndarray, length: np.ndarray, share: Fraction) -> np.ndarray:
    """(N,) bool: where more than `share` of the tokens are slots; all int64, exact."""
    return slots * share.denominator > length * share.numerator


def pieces_of(samples: Snapshot, source: Source, mixture: Mixture, vocabulary: Vocabulary) -> SourcePieces:
    """Read the index of `samples` and cut what is longer than a pack.

    Raises ManifestError where nothing is left of the source, StoreError for samples of another vocabulary.
    """
    made_with = samples.meta.get("vocabulary", vocabulary.digest)
    if made_with != vocabulary.digest:
        raise StoreError(
            f"samples of vocabulary {made_with[:12]}, the plan is for {vocabulary.digest[:12]}",
            where=samples.name,
            fix="tokenise again, or give the vocabulary that the samples were made with",
        )
    counted = _Counts()
    columns: list[np.ndarray] = []
    shown: list[np.ndarray] = []
    for ref, core, media in samples.facts(FACTS, MEDIA_COLUMNS):
        kept = samples.kept(ref.first, ref.first + ref.records) - ref.first
        found = _pieces_in_shard(core, media, kept, ref.first, source, mixture, vocabulary, counted)
        columns.append(found)
        if mixture.max_media_exposures is not None and media is not None:
            shown.append(_media_keys(media, found["ordinal"] - ref.first))
    rows = np.concatenate(columns or [np.zeros(0, PIECE)])
    columns.clear()
    refused = counted.refused
    if not len(rows):
        raise ManifestError(
            f"source {source.name} has no sample that can be packed: {counted.there} in the store, "
            f"{counted.wanted} of the domains and lengths wanted, refused {dict(refused)}",
            where=samples.name,
            fix="check `domains`, `min_tokens` and `max_tokens`, raise max_pack_tokens, or lower the limits on media",
        )
    some = mixture.pack_limits.any
    offsets = np.concatenate([[0], np.cumsum(rows["media_in"], dtype=np.int64)])
    return SourcePieces(
        content_root=samples.content_root,
        keys=np.ascontiguousarray(rows["key"]),
        ordinal=np.ascontiguousarray(rows["ordinal"]),
        start=np.ascontiguousarray(rows["start"]),
        length=np.ascontiguousarray(rows["length"]),
        slots=np.ascontiguousarray(rows["slots"]),
        samples=counted.wanted - refused.total(),
        cut_samples=counted.long - refused.total(),
        refused=dict(refused),
        media=counted.media,
        shrunk_media=counted.shrunk,
        patches=np.ascontiguousarray(rows["patches"]) if some else NONE,
        media_in=np.ascontiguousarray(rows["media_in"]) if some else NONE,
        media_offsets=offsets if mixture.max_media_exposures is not None else NONE,
        media_keys=np.concatenate(shown) if shown else np.zeros(0, np.uint64),
    )


FACTS = ("id", "domain", "tokens", "splits", "whole")
PIECE = np.dtype(
    [
        ("key", np.uint64),
        ("ordinal", np.int64),
        ("start", np.int32),
        ("length", np.int32),
        ("slots", np.int32),
        ("patches", np.int32),
        ("media_in", np.int32),
    ]
)


PIECE_COUNTS = ("ordinal", "start", "length", "slots", "patches", "media_in")


@dataclass
class _Counts:
    """Of a whole source."""

    there: int = 0
    wanted: int = 0
    long: int = 0
    media: int = 0
    shrunk: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def _pieces_in_shard(
    core: pa.Table,
    found: pa.Table | None,
    kept: np.ndarray,
    first: int,
    source: Source,
    mixture: Mixture,
    vocabulary: Vocabulary,
    counted: _Counts,
) -> np.ndarray:
    """(N,) PIECE, of the samples of one shard, of which `first` is the ordinal of the first."""
    tokens = core["tokens"].to_numpy()
    wanted = np.zeros(len(tokens), bool)
    wanted[kept] = True
    wanted &= tokens > 0  # what was forgotten leaves an empty row
    if source.domains:
        wanted &= pc.is_in(core["domain"].cast(pa.string()), pa.array(source.domains)).to_numpy()
    media = _Media(found, wanted, mixture.limits, vocabulary)
    expanded = tokens + media.per_record(media.tokens - 1, len(tokens))
    wanted &= (expanded >= source.min_tokens) & (expanded <= (source.max_tokens or NEVER))
    slots = media.per_record(media.slots, len(tokens))
    patches = media.per_record(media.patches, len(tokens))
    count = media.per_record(np.ones_like(media.slots), len(tokens))

    most, most_patches, most_media = mixture.max_piece_tokens, mixture.pack_limits.patches, mixture.pack_limits.media
    fits = (expanded <= most) & (patches <= (most_patches or NEVER)) & (count <= (most_media or NEVER))
    short = np.flatnonzero(wanted & fits)
    long = np.flatnonzero(wanted & ~fits)
    parts = [np.stack([short, 0 * short, expanded[short], slots[short], patches[short], count[short]], 1)]
    cuttable = long[~core["whole"].to_numpy()[long]]
    for number in np.setdiff1d(long, cuttable).tolist():
        counted.refused[WHOLE_TOO_LONG if expanded[number] > mixture.max_pack_tokens else WHOLE_OVER_LIMITS] += 1
    for number, splits in zip(cuttable.tolist(), core["splits"].take(cuttable).to_pylist(), strict=True):
        groups = media.groups(number)
        pieces = cut(int(tokens[number]), groups, splits, most, most_patches, most_media)
        if pieces is None:
            over = max(group.patches for group in groups) > (most_patches or NEVER)
            counted.refused[TOO_MANY_PATCHES if over else TOO_LONG] += 1
        else:
            parts.append(np.array([(number, *piece) for piece in pieces], np.int64))
    counted.there += len(tokens)
    counted.wanted += int(wanted.sum())
    counted.long += len(long)
    counted.media += int(wanted[media.record].sum())
    counted.shrunk += int(wanted[media.record[media.shrunk]].sum())
    columns = np.concatenate(parts)
    columns = columns[np.lexsort((columns[:, 1], columns[:, 0]))].T  # as media lie, sample by sample
    rows = np.empty(columns.shape[1], PIECE)
    for name, column in zip(PIECE_COUNTS, columns, strict=True):
        rows[name] = column
    rows["key"] = _keys(core["id"], columns[0], columns[1])
    rows["ordinal"] += first
    return rows


def _media_keys(table: pa.Table, ordinals: np.ndarray) -> np.ndarray:
    """(M,) uint64, of all media of the samples with these rows, as they follow each other in pieces."""
    digests = table["digest"].filter(pc.is_in(table["record"], pa.array(np.unique(ordinals))))
    return np.frombuffer(b"".join(digests.to_pylist()), "<u8")[::4]


def _keys(ids: pa.ChunkedArray, row: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(N,) uint64: of each piece's sample and start; two pieces of 10^9 share one once in 37 plans."""
    words = np.frombuffer(b"".join(chunk.buffers()[1][16 * chunk.offset : 16 * (chunk.offset + len(chunk))]
                                   for chunk in ids.chunks), "<u8").reshape(-1, 2)  # fmt: skip
    high, low = words[row].T
    return mixed(low ^ mixed(high ^ mixed(start.astype(np.uint64))))


def mixed(words: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit words in which every bit depends on all. Source: the finaliser of SplitMix64."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


MEDIA_COLUMNS = ("record", "place", "digest", "kind", "width_px", "height_px", "frame_times_us")


class _Media:
    """The media of the wanted samples, laid out under the limits; columns by medium, ascending by record."""

    def __init__(self, table: pa.Table | None, wanted: np.ndarray, limits: MediaLimits, vocabulary: Vocabulary) -> None:
        table = index.MEDIA.empty_table().select(MEDIA_COLUMNS) if table is None else table
        table = table.filter(pa.array(wanted[table["record"].to_numpy()]))
        self.record = table["record"].to_numpy()
        """Row of the sample of each."""
        self.place = table["place"].to_numpy()
        """Of its placeholder, in the unexpanded ids."""
        kinds = table["kind"].combine_chunks()
        self._image = pc.equal(kinds.cast(pa.string()), "image").to_numpy(zero_copy_only=False)
        self._wrapper = len(vocabulary.encode("image")) + 2
        """Tokens before an image's slots; one follows them."""
        sizes = np.stack([table[name].to_numpy() for name in ("width_px", "height_px")], 1)
        rows = np.zeros((len(sizes), 4), np.int64)  # by medium: tokens, slots, patches, whether it is made smaller
        pictures, same = np.unique(sizes[self._image], axis=0, return_inverse=True)
        laid = [_laid_out(Media("", "image", "", size[0], size[1]), limits, vocabulary) for size in pictures.tolist()]
        rows[self._image] = np.array(laid, np.int64).reshape(-1, 4)[same.ravel()]
        clips = np.flatnonzero(~self._image)
        for row, times in zip(clips.tolist(), table["frame_times_us"].take(clips).to_pylist(), strict=True):
            rows[row] = _laid_out(
                Media("", "video", "", int(sizes[row, 0]), int(sizes[row, 1]), tuple(times)), limits, vocabulary
            )
        self.tokens, self.slots, self.patches, shrunk = rows.T
        self.shrunk = shrunk.astype(bool)
        """Whether the limits make it smaller than it is."""

    def per_record(self, column: np.ndarray, records: int) -> np.ndarray:
        """(records,) int64: sum over the media of each."""
        sums = np.zeros(records, np.int64)
        np.add.at(sums, self.record, column)
        return sums

    def groups(self, ordinal: int) -> list[Group]:
        """The media of one sample."""
        rows = range(*np.searchsorted(self.record, [ordinal, ordinal + 1]).tolist())
        found = []
        for row in rows:
            place = int(self.place[row])
            before, after = (self._wrapper, 1) if self._image[row] else (0, 0)
            counts = (int(column[row]) for column in (self.tokens, self.slots, self.patches))
            found.append(Group(place - before, place, place + 1 + after, *counts))
        return found


def media_places(samples: Snapshot, limits: MediaLimits, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """(M,) int64 each, for the rows of `samples.media_table()`: the sample's ordinal, and the medium's first token in
    the expanded sample."""
    media = _Media(samples.media_table(MEDIA_COLUMNS), np.ones(samples.counts["records"], bool), limits, vocabulary)
    before = np.cumsum(media.tokens - 1) - (media.tokens - 1)
    firsts = np.searchsorted(media.record, media.record)
    return media.record, media.place + before - before[firsts]


def _laid_out(media: Media, limits: MediaLimits, vocabulary: Vocabulary) -> tuple[int, int, int, bool]:
    layout = lay_out(media, limits)
    smaller = layout.size_px != (media.width_px, media.height_px)
    return media_tokens(media, layout, vocabulary), layout.slots, layout.patches, smaller
