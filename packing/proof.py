"""Recount of stored packs: every promise of a plan, counted from bytes by code that shares nothing with the planner.

A finished packs store feeds it; `proof_report.py`, tests and `millrace store verify` read the result. No module of
`packing` is imported here, and no number is taken over from the plan: tokens are the ids that are not padding, slots
are the ids that equal the media pad, and coverage is the token ranges that the segments name.

Packs are read once, one after the other. Counts per sample and per medium go to files where they need more than
1 GiB; 40 bytes per pack stay in memory.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import floor, gcd, prod

import numpy as np

from manifests.errors import StoreError
from manifests.geometry import MERGE
from manifests.records import FORGOTTEN, Json, Pack, segment_ranges
from manifests.schedule import MILLION, Curve
from stores.spill import NAME_PARTITIONS, RowsByName
from stores.store import Snapshot
from tokenization.vocabulary import Vocabulary

RANGE_ROW = np.dtype(
    [("name", np.uint64, 2), ("source", np.uint16), ("start", np.int64), ("stop", np.int64), ("earlier", np.bool_)]
)
EXPOSURE_ROW = np.dtype([("name", np.uint64, 2)])


class MediaExposures:
    """Number of times that each medium was shown."""

    def __init__(self, before: MediaExposures | None = None) -> None:
        """`before`: exposures earlier in the run, which count as well."""
        self._rows: RowsByName = RowsByName(EXPOSURE_ROW, before._rows if before else None)

    def add(self, digest: str) -> None:
        """Count one exposure of the medium with this digest."""
        self._rows.add(digest)

    def settle(self) -> None:
        """Move buffered rows to the partitions; needed before reading."""
        self._rows.flush()

    def counts(self) -> Iterator[np.ndarray]:
        """Exposures per medium, (n,) int64 for each partition of the media."""
        for number in range(NAME_PARTITIONS):
            yield np.unique(self._rows.read(number)["name"], axis=0, return_counts=True)[1]

    @property
    def most(self) -> int:
        """Exposures of the medium that was shown most often; 0 without media."""
        return max(int(counts.max(initial=0)) for counts in self.counts())


class TokenRanges:
    """Half-open token ranges of samples that packs contained, one entry per occurrence."""

    def __init__(self, before: TokenRanges | None = None) -> None:
        """`before`: ranges earlier in the run, which `by_sample` returns apart."""
        self._rows: RowsByName = RowsByName(RANGE_ROW, before._rows if before else None)
        self._sources: dict[str, int] = before._sources if before else {}

    def add(self, source: str, sample: str, start: int, stop: int) -> None:
        """Count one occurrence of tokens `start` to `stop` of a sample."""
        self._rows.add(sample, self._sources.setdefault(source, len(self._sources)), start, stop)

    def settle(self) -> None:
        """Move buffered rows to the partitions; needed before reading."""
        self._rows.flush()

    def by_sample(self) -> Iterator[tuple[str, list[tuple[int, int]], list[tuple[int, int]]]]:
        """(source, ranges in earlier plans, ranges in this plan) of each sample, in no particular order."""
        sources = list(self._sources)
        for number in range(NAME_PARTITIONS):
            rows = self._rows.read(number)
            order = np.lexsort((rows["name"][:, 1], rows["name"][:, 0], rows["source"]))
            rows = rows[order]
            changes = (rows["name"][1:] != rows["name"][:-1]).any(1) | (rows["source"][1:] != rows["source"][:-1])
            ends = [0, *(np.flatnonzero(changes) + 1).tolist(), len(rows)] if len(rows) else [0]
            columns = [rows[name].tolist() for name in ("source", "start", "stop", "earlier")]
            for first, stop in pairwise(ends):
                group = list(zip(*(column[first:stop] for column in columns), strict=True))
                split: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
                for _, start, end, earlier in group:
                    split[not earlier].append((start, end))
                yield sources[group[0][0]], *split


@dataclass(frozen=True, slots=True)
class RunTotals:
    """Totals of a run up to some pack."""

    tokens: int = 0
    error_slots: Fraction = Fraction(0)
    """Vision slots given minus slots that the schedule wants."""
    one_pack_slots: Fraction = Fraction(0)
    """Largest number of slots of any pack, or the highest share times the pack length if that is more."""
    ranges: TokenRanges = field(default_factory=TokenRanges)
    media: MediaExposures = field(default_factory=MediaExposures)


@dataclass(frozen=True, slots=True)
class Recount:
    """Counts over the packs of a store."""

    packs: int
    tokens: int
    """Non-padding tokens."""
    slots: int
    """Vision slots among them."""
    targets: int
    """Tokens that carry loss."""
    fill: float
    """Non-padding tokens over the length of all rows."""
    largest_error_slots: Fraction
    """Largest |slots given - slots wanted| after any pack."""
    most_slots: int
    """Slots of the pack that holds most."""
    forgotten: int
    """Tokens of segments whose content was forgotten: padding now, and part of no other count."""
    alignment: int
    """Largest number that divides where every segment begins and where its padding ends; 0 without segments."""
    source_tokens: Mapping[str, int]
    source_slots: Mapping[str, int]
    exposures: Mapping[str, Mapping[int, int]]
    """Per source: n -> number of samples whose most frequent token is in n packs."""
    pack_tokens: np.ndarray
    """(packs,) int64, in training order."""
    pack_slots: np.ndarray
    """(packs,) int64."""
    pack_patches: np.ndarray
    """(packs,) int64: 14-px patches of all frames that the encoder sees for the pack."""
    pack_media: np.ndarray
    """(packs,) int64: images and videos."""
    pack_attention: np.ndarray
    """(packs,) int64: sum of the squared lengths of its segments."""
    after: RunTotals
    """Totals of the run at the end of these packs."""


def recount(
    packs: Iterable[Pack], curve: Curve, media_pad_id: int, pad_id: int, before: RunTotals | None = None
) -> Recount:
    """Count the content of `packs`, which come in training order.

    Args:
        curve: the schedule of the vision share.
        before: totals of the run before the first of these packs; by default none.
    Raises:
        StoreError: the parts of a pack contradict each other: padding inside segments, segments that don't cover the
            tokens, media that don't cover the slots, loss on a slot or on a segment's first token, a pack of another
            length than the first. Names the pack.
    """
    before = before or RunTotals()
    source_tokens: Counter[str] = Counter()
    source_slots: Counter[str] = Counter()
    ranges, media = TokenRanges(before.ranges), MediaExposures(before.media)
    pack_tokens, pack_slots, pack_patches, pack_media, pack_attention = (array("q") for _ in range(5))
    targets = room = 0
    error, largest = before.error_slots, Fraction(0)
    tokens = slots = forgotten = alignment = 0
    for number, pack in enumerate(packs):
        if problem := _contradiction(pack, media_pad_id, pad_id, room // max(1, number)):
            raise StoreError(problem, where=f"pack {number}", fix="make the packs store again from its plan")
        is_slot = pack.ids == media_pad_id
        for segment, at, end in segment_ranges(pack.segments):
            alignment = gcd(alignment, at, segment.length + segment.padding)
            if segment.source == FORGOTTEN:
                forgotten += segment.length
                continue
            source_tokens[segment.source] += segment.length
            source_slots[segment.source] += int(is_slot[at:end].sum())
            ranges.add(segment.source, segment.sample, segment.start, segment.start + segment.length)
        pack_tokens.append(int((pack.ids != pad_id).sum()))
        pack_slots.append(int(is_slot.sum()))
        patches = sum(prod(item.grid) for packed in pack.media for item in packed.items)
        pack_patches.append(patches)
        pack_media.append(len(pack.media))
        pack_attention.append(sum(segment.length**2 for segment in pack.segments))
        for packed in pack.media:
            media.add(packed.media.digest)
        targets += int(pack.loss_mask.sum())
        room += len(pack.ids)
        tokens += pack_tokens[-1]
        slots += pack_slots[-1]
        wanted = curve.slots_until(before.tokens + tokens) - curve.slots_until(before.tokens)
        error = before.error_slots + slots - wanted
        largest = max(largest, abs(error))
    ranges.settle()
    media.settle()
    exposures: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for source, earlier, here in ranges.by_sample():
        if here:
            overlapping = [one for one in earlier if any(one[0] < stop and start < one[1] for start, stop in here)]
            exposures[source][_deepest_overlap([*overlapping, *here])] += 1
    one_pack = max(Fraction(max(pack_slots, default=0)), curve.highest * (room // max(1, len(pack_slots))))
    return Recount(
        packs=len(pack_tokens),
        tokens=tokens,
        slots=slots,
        targets=targets,
        fill=tokens / max(1, room),
        largest_error_slots=largest,
        most_slots=max(pack_slots, default=0),
        forgotten=forgotten,
        alignment=alignment,
        source_tokens=dict(source_tokens),
        source_slots=dict(source_slots),
        exposures={source: dict(sorted(counts.items())) for source, counts in exposures.items()},
        pack_tokens=np.array(pack_tokens, np.int64),
        pack_slots=np.array(pack_slots, np.int64),
        pack_patches=np.array(pack_patches, np.int64),
        pack_media=np.array(pack_media, np.int64),
        pack_attention=np.array(pack_attention, np.int64),
        after=RunTotals(before.tokens + tokens, error, max(before.one_pack_slots, one_pack), ranges, media),
    )


def prove(
    packs: Snapshot,
    plan: Mapping[str, Json],
    vocabulary: Vocabulary,
    before: RunTotals | None = None,
    show: Callable[[int], None] = lambda done: None,
) -> Recount:
    """Recount a packs store and compare the result with the claims in its plan's meta.

    Args:
        plan: meta of the plan.
        before: recount of the plans that this one amends. Without it the plan's own figures about them are used, and
            epochs count from this plan on.
        show: called with the number of packs counted so far.
    Raises:
        StoreError: the first claim that the packs contradict. Where records were forgotten, the plan may claim as many
            tokens and slots more as their segments are long, and the vision share is not checked.
    """
    curve = Curve.of(plan["schedule"])
    amends = plan["amends"] or {"tokens": 0, "error": 0, "bound": 0}
    claimed = RunTotals(
        amends["tokens"], Fraction(amends["error"], 2 * MILLION), Fraction(amends["bound"], 2 * MILLION)
    )
    before = before or claimed
    counted = recount(_shown(packs.records(), show), curve, vocabulary.media_pad_id, vocabulary.pad_id, before)
    forgotten = counted.forgotten
    # a plan that amends another carries its error in whole half-millionths of a slot
    rounding = Fraction(1, MILLION) if plan["amends"] else 0
    caps = {source["name"]: source["max_epochs"] for source in plan["sources"]}
    claims: list[tuple[str, object, object]] = [
        ("the plan's digest", plan["plan"], packs.meta["plan"]),
        ("packs", plan["packs"], counted.packs),
        ("tokens before it", amends["tokens"], before.tokens),
        ("error before it in half-millionths", amends["error"], floor(before.error_slots * 2 * MILLION)),
        ("tokens", plan["tokens"], counted.tokens + forgotten),
        ("packs outside whole global batches", 0, counted.packs % plan["global_batch_packs"]),
        (
            "vision share within one pack's slots of the schedule",
            True,
            forgotten > 0 or counted.largest_error_slots <= counted.after.one_pack_slots + rounding,
        ),
        *(
            (f"epochs of {name} within {caps[name]}", True, max(counts) <= caps[name])
            for name, counts in counted.exposures.items()
        ),
        *(
            (f"exposures of any medium within {most}", True, counted.after.media.most <= most)
            for most in [plan["max_media_exposures"]]
            if most is not None
        ),
        ("segments out of line", 0, counted.alignment % plan["segment_align"]),
        *(
            (f"{name} of every pack within {most}", True, int(getattr(counted, f"pack_{name}").max(initial=0)) <= most)
            for name, most in plan["pack_limits"].items()
            if most is not None
        ),
        *_totals(plan, counted),
    ]
    for name, claim, count in claims:
        if claim != count:
            raise StoreError(f"{name}: the plan claims {claim}, its packs hold {count}", where=packs.name)
    return counted


def _shown(packs: Iterable[Pack], show: Callable[[int], None]) -> Iterator[Pack]:
    for number, pack in enumerate(packs, 1):
        yield pack
        show(number)


def _totals(plan: Mapping[str, Json], counted: Recount) -> Iterator[tuple[str, object, object]]:
    """Claims about sums over all packs: each may be larger than the count by as much as was forgotten."""
    totals: list[tuple[str, int, int]] = [("vision slots", plan["slots"], counted.slots)]
    for source in plan["sources"]:
        name = source["name"]
        totals += [
            (f"tokens of {name}", source["given_tokens"], counted.source_tokens.get(name, 0)),
            (f"vision slots of {name}", source["given_slots"], counted.source_slots.get(name, 0)),
        ]
    for name, claim, count in totals:
        yield name, claim, min(max(claim, count), count + counted.forgotten)


def _contradiction(pack: Pack, media_pad_id: int, pad_id: int, row_tokens: int) -> str:
    """First contradiction between the parts of a pack; empty if there is none.

    Args:
        row_tokens: length of the packs before, 0 for the first.
    """
    padding = pack.ids == pad_id
    kept, forgotten = np.zeros((2, len(pack.ids)), bool)
    for segment, at, end in segment_ranges(pack.segments):
        (forgotten if segment.source == FORGOTTEN else kept)[at:end] = True
    firsts = [at for _, at, _ in segment_ranges(pack.segments)]
    used = sum(segment.length + segment.padding for segment in pack.segments)
    covered = np.zeros(len(pack.ids), bool)
    for packed in pack.media:
        for item in packed.items:
            span = slice(item.slot, item.slot + item.grid[1] * item.grid[2] // MERGE**2)
            if covered[span].any():
                return f"two media fill slot {item.slot}"
            covered[span] = True
    is_slot = pack.ids == media_pad_id
    checks = {
        f"{len(pack.ids)} tokens long, others have {row_tokens}": row_tokens not in (0, len(pack.ids)),
        "no segments": not pack.segments,
        f"segments of {used} tokens in a row of {len(pack.ids)}": used > len(pack.ids),
        "padding inside its segments": bool((padding & kept).any()),
        "tokens left of forgotten segments": not padding[forgotten].all(),
        "tokens behind its segments": not padding[~kept & ~forgotten].all(),
        "media do not cover exactly its slots": not np.array_equal(covered, is_slot),
        "loss on a slot or on padding": bool(pack.loss_mask[is_slot | padding].any()),
        "loss on the first token of a segment": bool(pack.loss_mask[firsts].any()),
    }
    return next((problem for problem, holds in checks.items() if holds), "")


def _deepest_overlap(ranges: list[tuple[int, int]]) -> int:
    """Largest number of these half-open ranges that contain one common token."""
    if len(ranges) == 1:
        return 1
    edges = sorted([(start, 1) for start, _ in ranges] + [(stop, -1) for _, stop in ranges])
    depth = most = 0
    for _, change in edges:
        depth += change
        most = max(most, depth)
    return most
