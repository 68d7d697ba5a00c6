"""Amended plans: a plan that replaces another one from global batch N on, over pieces that were not yet seen.

The plans of a run are a chain. Each begins at a global batch, and of the one before only the batches up to there count.
That prefix is never changed; it is read once, segment by segment, and its segments are counted per piece. So a source
that stays in the mixture neither repeats nor loses a piece, a document that was cut goes on with its next piece, and
`max_epochs` holds over the whole chain. Tokens, positions of a schedule and global batches count from the beginning of
the run. `supply.py` asks for the counts, `order.py` begins at the prefix's tokens and error.
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
"""Samples per partition of `SeenPieces`, and number of partitions; the last one takes all samples beyond."""
SEGMENT = np.dtype([("ordinal", np.int64), ("start", np.int32), ("length", np.int32)])


class SeenPieces:
    """Number of times that each piece of a source was seen in earlier plans.

    Filled from the segments of those plans, and asked for pieces in store order, partition by partition.
    """

    def __init__(self, source: str, scratch: Scratch) -> None:
        self.source, self.content_root = source, ""
        """Name of the source, and the content root of its samples."""
        self._parts = Partitions(scratch, f"seen {id(self)}", PARTS, SEGMENT)
        self._added = self._matched = 0
        self.tokens = 0
        """Tokens of all segments."""
        self._last_read = (-1, np.zeros(0, SEGMENT))

    def add(self, ordinal: np.ndarray, start: np.ndarray, length: np.ndarray) -> None:
        """Count segments of earlier plans, given as columns of equal length."""
        rows = np.empty(len(ordinal), SEGMENT)
        rows["ordinal"], rows["start"], rows["length"] = ordinal, start, length
        self._parts.add(rows, _part(rows["ordinal"]))
        self._added += len(rows)
        self.tokens += int(length.sum(dtype=np.int64))

    def begin(self, content_root: str) -> None:
        """Start a pass over the pieces of the source. Raises ManifestError if its samples are others now."""
        self._matched = 0
        if content_root != self.content_root:
            raise ManifestError(
                f"source {self.source} has other samples than in the plan that is amended",
                where="mixture",
                fix="keep its samples as they were, and give new ones as a source of another name",
            )

    def times(self, ordinal: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Number of times that each of these pieces was seen, (N,) uint16. A pass asks for each piece once."""
        times = np.zeros(len(ordinal), np.uint16)
        parts = _part(ordinal)
        for part in np.unique(parts).tolist():
            mine = np.flatnonzero(parts == part)
            mine = mine[np.argsort(_key(ordinal[mine], start[mine], part))]
            seen = self._read(part)
            piece_keys = _key(ordinal[mine], start[mine], part)
            seen_keys = _key(seen["ordinal"], seen["start"], part)
            places = np.minimum(np.searchsorted(piece_keys, seen_keys), len(piece_keys) - 1)
            same = (piece_keys[places] == seen_keys) & (length[mine][places] == seen["length"])
            self._matched += int(np.count_nonzero(same))
            times[mine] = np.bincount(places[same], minlength=len(mine))
        return times

    def check_all_matched(self) -> None:
        """Raise ManifestError if a segment of an earlier plan is no piece of the source now."""
        if self._matched != self._added:
            raise ManifestError(
                f"source {self.source} is cut into other pieces than in the plan that is amended",
                where="mixture",
                fix="keep its domains and lengths, `media_limits` and `pack_limits` as they were",
            )

    def _read(self, part: int) -> np.ndarray:
        if self._last_read[0] != part:
            self._last_read = part, self._parts.read(part)
        return self._last_read[1]


def _part(ordinal: np.ndarray) -> np.ndarray:
    return np.minimum(ordinal // PART_SAMPLES, PARTS - 1).astype(np.uint16)


def _key(ordinal: np.ndarray, start: np.ndarray, part: int) -> np.ndarray:
    """(N,) int64 keys of pieces, different for all pieces of a partition."""
    return ((ordinal.astype(np.int64) - part * PART_SAMPLES) << 32) + start


ChainedPlan = tuple[int, Snapshot]
"""(first global batch that is read from a plan, the plan)."""


@dataclass(frozen=True)
class RunPrefix:
    """Totals of a run before a plan begins: everything that the plan needs to know of the plans before it."""

    at_batch: int = 0
    plan: str | None = None
    """Digest of the plan that is amended; None at the beginning of a run."""
    tokens: int = 0
    slots: int = 0
    error: int = 0
    """Slots given minus slots wanted, in half-millionths of a slot, rounded down."""
    bound: int = 0
    """Most slots that a pack held or ought to hold so far, in half-millionths of a slot."""
    seen: Mapping[str, SeenPieces] = field(default_factory=dict)
    """By name, for sources of the new mixture."""

    def as_json(self) -> Json:
        """Value of `amends` in the meta of a plan; None where it amends nothing."""
        if self.plan is None:
            return None
        names = ("at_batch", "plan", "tokens", "slots", "error", "bound")
        return {name: getattr(self, name) for name in names}


NO_PREFIX = RunPrefix()
"""The beginning of a run."""


def plan_chain(plan: Snapshot) -> list[ChainedPlan]:
    """All plans of a run up to `plan`, the first one first. Raises StoreError if a stored plan has another digest
    now."""
    chain: list[ChainedPlan] = []
    while (amends := plan.meta["amends"]) is not None:
        chain.append((amends["at_batch"], plan))
        for parent in plan.parents:
            before = Store.open(parent.url).snapshot(parent.number)
            if before.kind == "plan" and before.meta["plan"] == amends["plan"]:
                break
        else:
            raise StoreError("the plan that it amends is not there", where=plan.name, fix="run the plan again")
        plan = before
    return [(0, plan), *reversed(chain)]


def prefix_at(
    chain: Sequence[ChainedPlan], at_batch: int, mixture: Mixture, vocabulary: str, scratch: Scratch | None = None
) -> RunPrefix:
    """Count a chain of plans up to global batch `at_batch`.

    Args:
        mixture: of the plan that takes over there.
        vocabulary: digest of its vocabulary.
    Raises:
        ManifestError: the plans end before that batch, the mixture's packs or ids differ from theirs, or its horizon
            lies before the batch.
    """
    scratch = scratch or Scratch()
    last_first, last = chain[-1]
    _check_unchanged(last, mixture, vocabulary)
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
    return RunPrefix(at_batch, last.meta["plan"], tokens, slots, error, bound, seen)


def _check_unchanged(plan: Snapshot, mixture: Mixture, vocabulary: str) -> None:
    """Raise ManifestError if the mixture changes a value that a run keeps."""
    values = {
        "max_pack_tokens": mixture.max_pack_tokens,
        "global_batch_packs": mixture.global_batch_packs,
        "vocabulary": vocabulary,
        "pixels": mixture.pixels,
    }
    for name, value in values.items():
        if plan.meta[name] != value:
            raise ManifestError(
                f"{name} is {value}, the plan that is amended has {plan.meta[name]}",
                where=plan.name,
                fix="a run keeps these; begin a new run with a plan of its own",
            )
