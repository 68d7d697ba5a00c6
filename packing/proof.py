"""The proof of a plan: everything it promised, recounted from the stored packs by code that shares nothing with it.

Before this the packs store stands finished; after it people believe the plan, or `millrace inspect` tells them why
not. Nothing of plan, pieces, sequence or order is imported here, and no number is taken over from the plan: tokens are
ids that are not padding, slots are ids that are the media pad, coverage is the stretches that the shards really hold.
Packs are read once, one after the other; what is counted per sample and per medium goes to files where it is more than
a gibibyte, and 40 bytes a pack stay in memory.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import floor, gcd, prod

import numpy as np

from manifests.errors import StoreError
from manifests.geometry import MERGE
from manifests.records import FORGOTTEN, Json, Pack, starts
from manifests.schedule import MILLION, Curve
from stores.store import Snapshot
from stores.tally import PARTS, Tally
from tokenization.vocabulary import Vocabulary

STRETCH = np.dtype(
    [("name", np.uint64, 2), ("source", np.uint16), ("start", np.int64), ("stop", np.int64), ("earlier", np.bool_)]
)
EXPOSURE = np.dtype([("name", np.uint64, 2)])


class Shown:
    """How often each medium was shown."""

    def __init__(self, before: Shown | None = None) -> None:
        self._tally: Tally = Tally(EXPOSURE, before._tally if before else None)

    def add(self, digest: str) -> None:
        self._tally.add(digest)

    def settle(self) -> None:
        self._tally.settle()

    def times(self) -> Iterator[np.ndarray]:
        """(n,) of some media after the others."""
        for number in range(PARTS):
            yield np.unique(self._tally.part(number)["name"], axis=0, return_counts=True)[1]

    @property
    def most(self) -> int:
        return max(int(some.max(initial=0)) for some in self.times())


class Stretches:
    """Which half-open stretches of the tokens of which samples were seen, one for each time."""

    def __init__(self, before: Stretches | None = None) -> None:
        self._tally: Tally = Tally(STRETCH, before._tally if before else None)
        self._sources: dict[str, int] = before._sources if before else {}

    def add(self, source: str, sample: str, start: int, stop: int) -> None:
        self._tally.add(sample, self._sources.setdefault(source, len(self._sources)), start, stop)

    def settle(self) -> None:
        self._tally.settle()

    def by_sample(self) -> Iterator[tuple[str, list[tuple[int, int]], list[tuple[int, int]]]]:
        """Per sample: its source, what was seen of it in the plans before, and what in this one."""
        sources = list(self._sources)
        for number in range(PARTS):
            rows = self._tally.part(number)
            order = np.lexsort((rows["name"][:, 1], rows["name"][:, 0], rows["source"]))
            rows = rows[order]
            changes = (rows["name"][1:] != rows["name"][:-1]).any(1) | (rows["source"][1:] != rows["source"][:-1])
            ends = [0, *(np.flatnonzero(changes) + 1).tolist(), len(rows)] if len(rows) else [0]
            told = [rows[name].tolist() for name in ("source", "start", "stop", "earlier")]
            for first, stop in pairwise(ends):
                some = list(zip(*(column[first:stop] for column in told), strict=True))
                split: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
                for _, start, end, earlier in some:
                    split[not earlier].append((start, end))
                yield sources[some[0][0]], *split


@dataclass(frozen=True, slots=True)
class Seen:
    """By a run, up to some pack."""

    tokens: int = 0
    error_slots: Fraction = Fraction(0)
    """Slots given - slots wanted."""
    one_pack_slots: Fraction = Fraction(0)
    """What any pack held, or ought to hold if that is more."""
    stretches: Stretches = field(default_factory=Stretches)
    shown: Shown = field(default_factory=Shown)


@dataclass(frozen=True, slots=True)
class Recount:
    """What the shards hold."""

    packs: int
    tokens: int
    """Non-padding tokens."""
    slots: int
    """Vision slots among them."""
    targets: int
    """Tokens that carry loss."""
    fill: float
    """Tokens over room."""
    largest_error_slots: Fraction
    """Of |slots given - slots wanted| after any pack."""
    most_slots: int
    """Of any pack."""
    forgotten: int
    """Tokens of segments whose content was forgotten: padding now, and counted nowhere else."""
    alignment: int
    """Every segment begins, and ends with its padding, at a multiple of this; 0 where there is none."""
    source_tokens: Mapping[str, int]
    source_slots: Mapping[str, int]
    exposures: Mapping[str, Mapping[int, int]]
    """Per source: how many samples have their most seen token in so many packs."""
    pack_tokens: np.ndarray
    """(packs,) int64, in training order."""
    pack_slots: np.ndarray
    """(packs,) int64."""
    pack_patches: np.ndarray
    """(packs,) int64: of all frames that the encoder sees for it."""
    pack_media: np.ndarray
    """(packs,) int64: images and videos."""
    pack_attention: np.ndarray
    """(packs,) int64: sum of the squared lengths of its segments."""
    after: Seen
    """What the run has seen by the end of these packs."""


def recount(packs: Iterable[Pack], curve: Curve, media_pad_id: int, pad_id: int, before: Seen | None = None) -> Recount:
    """Count what `packs` hold, in training order, in a run that has seen `before`.

    Raises StoreError, naming the pack, where its parts contradict each other: padding inside segments, segments that
    don't cover the tokens, media that don't cover the slots, loss on a slot or on a segment's first token, a pack
    longer than the first.
    """
    before = before or Seen()
    source_tokens: Counter[str] = Counter()
    source_slots: Counter[str] = Counter()
    seen, shown = Stretches(before.stretches), Shown(before.shown)
    pack_tokens, pack_slots, pack_patches, pack_media, pack_attention = (array("q") for _ in range(5))
    targets = room = 0
    error, largest = before.error_slots, Fraction(0)
    tokens = slots = forgotten = alignment = 0
    for number, pack in enumerate(packs):
        if problem := _contradiction(pack, media_pad_id, pad_id, room // max(1, number)):
            raise StoreError(problem, where=f"pack {number}", fix="make the packs store again from its plan")
        is_slot = pack.ids == media_pad_id
        for segment, at, end in starts(pack.segments):
            alignment = gcd(alignment, at, segment.length + segment.padding)
            if segment.source == FORGOTTEN:
                forgotten += segment.length
                continue
            source_tokens[segment.source] += segment.length
            source_slots[segment.source] += int(is_slot[at:end].sum())
            seen.add(segment.source, segment.sample, segment.start, segment.start + segment.length)
        pack_tokens.append(int((pack.ids != pad_id).sum()))
        pack_slots.append(int(is_slot.sum()))
        patches = sum(prod(item.grid) for packed in pack.media for item in packed.items)
        pack_patches.append(patches)
        pack_media.append(len(pack.media))
        pack_attention.append(sum(segment.length**2 for segment in pack.segments))
        for packed in pack.media:
            shown.add(packed.media.digest)
        targets += int(pack.loss_mask.sum())
        room += len(pack.ids)
        tokens += pack_tokens[-1]
        slots += pack_slots[-1]
        wanted = curve.slots_until(before.tokens + tokens) - curve.slots_until(before.tokens)
        error = before.error_slots + slots - wanted
        largest = max(largest, abs(error))
    seen.settle()
    shown.settle()
    exposures: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for source, earlier, here in seen.by_sample():
        if here:
            again = [one for one in earlier if any(one[0] < stop and start < one[1] for start, stop in here)]
            exposures[source][_most_seen([*again, *here])] += 1
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
        after=Seen(before.tokens + tokens, error, max(before.one_pack_slots, one_pack), seen, shown),
    )


def prove(packs: Snapshot, plan: Mapping[str, Json], vocabulary: Vocabulary, before: Seen | None = None) -> Recount:
    """Recount a packs store and hold it against what its plan's meta claims.

    Args:
        before: what was recounted of the plans that this one amends; without it, what the plan says of them is taken
            for true, and epochs are counted from here on.
    Raises:
        StoreError: the first claim that the bytes don't bear out. Where records were forgotten, the plan may claim as
            many tokens and slots more as their segments are long, and the share is no longer what it was.
    """
    curve = Curve.of(plan["schedule"])
    amends = plan["amends"] or {"tokens": 0, "error": 0, "bound": 0}
    told = Seen(amends["tokens"], Fraction(amends["error"], 2 * MILLION), Fraction(amends["bound"], 2 * MILLION))
    found = recount(packs.records(), curve, vocabulary.media_pad_id, vocabulary.pad_id, before or told)
    gone = found.forgotten
    # a plan that amends another carries its error in whole half-millionths of a slot
    rounded = Fraction(1, MILLION) if plan["amends"] else 0
    given = [(source["name"], source["given_tokens"], source["given_slots"]) for source in plan["sources"]]
    caps = {source["name"]: source["max_epochs"] for source in plan["sources"]}
    counts: list[tuple[str, int, int]] = [
        ("vision slots", plan["slots"], found.slots),
        *((f"tokens of {name}", tokens, found.source_tokens.get(name, 0)) for name, tokens, _ in given),
        *((f"vision slots of {name}", slots, found.source_slots.get(name, 0)) for name, _, slots in given),
    ]
    claims: list[tuple[str, object, object]] = [
        ("the plan's digest", plan["plan"], packs.meta["plan"]),
        ("packs", plan["packs"], found.packs),
        ("tokens before it", amends["tokens"], (before or told).tokens),
        ("error before it in half-millionths", amends["error"], floor((before or told).error_slots * 2 * MILLION)),
        ("tokens", plan["tokens"], found.tokens + gone),
        ("whole global batches", 0, found.packs % plan["global_batch_packs"]),
        (
            "vision share within one pack's slots of the schedule",
            True,
            gone > 0 or found.largest_error_slots <= found.after.one_pack_slots + rounded,
        ),
        *(
            (f"epochs of {name} within {caps[name]}", True, max(counts) <= caps[name])
            for name, counts in found.exposures.items()
        ),
        *(
            (f"exposures of any medium within {most}", True, found.after.shown.most <= most)
            for most in [plan["max_media_exposures"]]
            if most is not None
        ),
        ("segments out of line", 0, found.alignment % plan["segment_align"]),
        *(
            (f"{name} of every pack within {most}", True, int(getattr(found, f"pack_{name}").max(initial=0)) <= most)
            for name, most in plan["pack_limits"].items()
            if most is not None
        ),
    ]
    claims += [(what, claimed, min(max(claimed, counted), counted + gone)) for what, claimed, counted in counts]
    for what, claimed, counted in claims:
        if claimed != counted:
            raise StoreError(f"{what}: the plan says {claimed}, its packs hold {counted}", where=packs.name)
    return found


def _contradiction(pack: Pack, media_pad_id: int, pad_id: int, row_tokens: int) -> str:
    """What is wrong with one pack, or nothing. `row_tokens` is the length of the packs before, 0 for the first."""
    padding = pack.ids == pad_id
    kept, gone = np.zeros((2, len(pack.ids)), bool)
    for segment, at, end in starts(pack.segments):
        (gone if segment.source == FORGOTTEN else kept)[at:end] = True
    firsts = [at for _, at, _ in starts(pack.segments)]
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
        "tokens left of what was forgotten": not padding[gone].all(),
        "tokens behind its segments": not padding[~kept & ~gone].all(),
        "media do not cover exactly its slots": not np.array_equal(covered, is_slot),
        "loss on a slot or on padding": bool(pack.loss_mask[is_slot | padding].any()),
        "loss on the first token of a segment": bool(pack.loss_mask[firsts].any()),
    }
    return next((problem for problem, holds in checks.items() if holds), "")


def _most_seen(stretches: list[tuple[int, int]]) -> int:
    """In how many of these half-open stretches the most covered token lies."""
    if len(stretches) == 1:
        return 1
    edges = sorted([(start, 1) for start, _ in stretches] + [(stop, -1) for _, stop in stretches])
    depth = most = 0
    for _, change in edges:
        depth += change
        most = max(most, depth)
    return most
