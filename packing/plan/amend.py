"""A plan that goes on where another one is left: from global batch N on, over what was not yet seen.

The plans of a run are a chain: each begins at a global batch, and of the one before only the batches up to there count.
That prefix is not touched; it is read here, once, as segments. What it gave is counted per piece , so
that a source that is kept neither repeats nor loses anything, a document that was cut goes on with its next piece, and
`max_epochs` holds over the whole chain. Tokens, positions of a schedule and global batches count from the beginning of
the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor

import numpy as np

from manifests.errors import ManifestError, StoreError
from manifests.records import Json
from manifests.schedule import MILLION, Curve
from packing.mixture import Mixture
from stores.spill import Partitions, Scratch
from stores.store import Snapshot, Store

PART_SAMPLES, PARTS = 1 << 20, 1 << 10
"""Samples that are looked at together; the last part has all that is beyond."""
SEGMENT = np.dtype([("ordinal", np.int64), ("start", np.int32), ("length", np.int32)])


class SeenPieces:
    def __init__(self, source: str, scratch: Scratch) -> None:
        self.source, self.content_root = source, ""
        """Of its samples."""
        self._parts = Partitions(scratch, f"seen {id(self)}", PARTS, SEGMENT)
        self._there = self._found = 0
        self.tokens = 0
        """Of all segments."""
        self._at_hand = (-1, np.zeros(0, SEGMENT))

    def add(self, ordinal: np.ndarray, start: np.ndarray, length: np.ndarray) -> None:
        """Segments that were seen."""
        rows = np.empty(len(ordinal), SEGMENT)
        rows["ordinal"], rows["start"], rows["length"] = ordinal, start, length
        self._parts.add(rows, _part(rows["ordinal"]))
        self._there += len(rows)
        self.tokens += int(length.sum(dtype=np.int64))

    def begin(self, content_root: str) -> None:
        """Pieces of the source are asked for. Raises ManifestError where it has other samples now."""
        self._found = 0
        if content_root != self.content_root:
            raise ManifestError(
                f"source {self.source} has other samples than in the plan that is amended",
                where="mixture",
                fix="keep its samples as they were, and give new ones as a source of another name",
            )

    def times(self, ordinal: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        """(N,) uint16: how often each of these pieces was seen. No piece is asked for twice."""
        times = np.zeros(len(ordinal), np.uint16)
        parts = _part(ordinal)
        for part in np.unique(parts).tolist():
            mine = np.flatnonzero(parts == part)
            mine = mine[np.argsort(_key(ordinal[mine], start[mine], part))]
            seen = self._read(part)
            known = _key(ordinal[mine], start[mine], part)
            wanted = _key(seen["ordinal"], seen["start"], part)
            places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            same = (known[places] == wanted) & (length[mine][places] == seen["length"])
            self._found += int(np.count_nonzero(same))
            times[mine] = np.bincount(places[same], minlength=len(mine))
        return times

    def all_found(self) -> None:
        """Raises ManifestError where something was seen that is no piece now."""
        if self._found != self._there:
            raise ManifestError(
                f"source {self.source} is cut into other pieces than in the plan that is amended",
                where="mixture",
                fix="keep its domains and lengths, `limits` and `pack_limits` as they were",
            )

    def _read(self, part: int) -> np.ndarray:
        if self._at_hand[0] != part:
            self._at_hand = part, self._parts.read(part)
        return self._at_hand[1]


def _part(ordinal: np.ndarray) -> np.ndarray:
    return np.minimum(ordinal // PART_SAMPLES, PARTS - 1).astype(np.uint16)


def _key(ordinal: np.ndarray, start: np.ndarray, part: int) -> np.ndarray:
    """(N,) int64: another one for each piece of a part."""
    return ((ordinal.astype(np.int64) - part * PART_SAMPLES) << 32) + start


Link = tuple[int, Snapshot]
"""The first global batch that is read from a plan, and the plan."""


@dataclass(frozen=True)
class Begun:
    """All that a plan has to know of what the run saw before it."""

    at_batch: int = 0
    plan: str | None = None
    """Digest of the plan that it amends."""
    tokens: int = 0
    slots: int = 0
    error: int = 0
    """Slots given - slots wanted at that place, in half-millionths of a slot, rounded down."""
    bound: int = 0
    """What any pack ought to hold before that place, or holds if that is more, in half-millionths of a slot."""
    seen: Mapping[str, SeenPieces] = field(default_factory=dict)
    """By source, of the new mixture."""

    @property
    def told(self) -> Json:
        """For the meta of a plan; None where it amends nothing."""
        if self.plan is None:
            return None
        names = ("at_batch", "plan", "tokens", "slots", "error", "bound")
        return {name: getattr(self, name) for name in names}


BEGINNING = Begun()
"""Of a run."""


def chain_of(plan: Snapshot) -> list[Link]:
    """All plans of the run that `plan` is the last of. Raises StoreError where one is another now."""
    links: list[Link] = []
    while (amends := plan.meta["amends"]) is not None:
        links.append((amends["at_batch"], plan))
        for parent in plan.parents:
            before = Store.open(parent.url).snapshot(parent.number)
            if before.kind == "plan" and before.meta["plan"] == amends["plan"]:
                break
        else:
            raise StoreError("the plan that it amends is not there", where=plan.name, fix="run the plan again")
        plan = before
    return [(0, plan), *reversed(links)]


def begun_at(
    chain: Sequence[Link], at_batch: int, mixture: Mixture, vocabulary: str, scratch: Scratch | None = None
) -> Begun:
    """What was seen before global batch `at_batch` of a chain of plans.

    Raises ManifestError where the plans end before it, or their packs or ids are others than the mixture's.
    """
    scratch = scratch or Scratch()
    last_first, last = chain[-1]
    _compare(last, mixture, vocabulary)
    batches = last.meta["packs"] // mixture.global_batch_packs
    if not last_first < at_batch <= last_first + batches:
        raise ManifestError(
            f"global batch {at_batch} is none of this plan's, which begin at {last_first}",
            where=last.name,
            fix=f"amend at {last_first + 1} to {last_first + batches}; a plan before it can be amended instead",
        )
    ends = [first for first, _ in chain[1:]] + [at_batch]
    tokens = slots = bound = 0
    wanted = Fraction(0)
    kept = {source.name for source in mixture.sources}
    seen: dict[str, SeenPieces] = {}
    for (first, plan), end in zip(chain, ends, strict=True):
        for source in plan.meta["sources"]:
            if (name := source["name"]) in kept:
                seen.setdefault(name, SeenPieces(name, scratch)).content_root = source["content_root"]
        curve = Curve.of(plan.meta["schedule"])
        before, left = tokens, (end - first) * mixture.global_batch_packs
        for block in plan.records():
            packs = min(left, len(block.arrays["pack_offsets"]) - 1)
            if packs == 0:
                break
            left -= packs
            rows = int(block.arrays["pack_offsets"][packs])
            tokens += int(block.arrays["length"][:rows].sum())
            held = np.add.reduceat(block.arrays["slots"], block.arrays["pack_offsets"][:-1], dtype=np.int64)[:packs]
            slots += int(held.sum())
            bound = max(bound, 2 * MILLION * int(held.max()))
            for index, name in enumerate(block.header["sources"]):
                if name in kept and (mine := block.arrays["source"][:rows] == index).any():
                    columns = (block.arrays[column][:rows][mine] for column in ("ordinal", "start", "length"))
                    seen[name].add(*columns)
        wanted += curve.slots_until(tokens) - curve.slots_until(before)
        bound = max(bound, int(2 * MILLION * curve.highest) * mixture.max_pack_tokens)
    if mixture.horizon_tokens is not None and mixture.horizon_tokens <= tokens:
        raise ManifestError(
            f"horizon_tokens is {mixture.horizon_tokens:,}, the run has seen {tokens:,} by global batch {at_batch}",
            where="mixture",
            fix="count the horizon from the beginning of the run",
        )
    error = floor((slots - wanted) * 2 * MILLION)
    return Begun(at_batch, last.meta["plan"], tokens, slots, error, bound, seen)


def _compare(plan: Snapshot, mixture: Mixture, vocabulary: str) -> None:
    here = {
        "max_pack_tokens": mixture.max_pack_tokens,
        "global_batch_packs": mixture.global_batch_packs,
        "vocabulary": vocabulary,
        "pixels": mixture.pixels,
    }
    for name, value in here.items():
        if plan.meta[name] != value:
            raise ManifestError(
                f"{name} is {value}, the plan that is amended has {plan.meta[name]}",
                where=plan.name,
                fix="a run keeps these; begin a new run with a plan of its own",
            )
