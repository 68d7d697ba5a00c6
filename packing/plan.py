"""The plan: which pieces share which pack, and which pack is seen when. Made from the index; no payload is read.

    samples snapshots -> pieces.py -> one order of pieces (order.py) -> blocks -> sequence.py -> packs in order

1. Each source's pieces are permuted by hash, epoch by epoch. Two merged orders, of rich and of poor pieces, follow the
   weights (`mixture.py` says what is rich, and what the weights mean).
2. One pass merges the two: a rich piece where fewer slots were given than the schedule wants, else a poor one. When
   one kind is used up, the other goes on while the error stays within share * max_pack_tokens. The result is cut into
   blocks of about equally many tokens. That fixes what is in a block.
3. Blocks are filled independently of each other, by any mapper, on any number of workers.
4. One pass carries the exact integer error from block to block and orders the packs inside each by the same rule:
   a pack richer than the share where slots are missing, else a poorer one, each kind in seeded order.

**The bound.** After every pack the vision slots given so far differ from the schedule's by at most one pack's: by at
most M = max(slots of any pack, share * max_pack_tokens), what a pack holds or what it ought to hold. Proof. Let E =
slots - share * tokens. *At block boundaries* step 2 gives -M <= E <= M: a rich piece comes at E < 0 and adds at most
its slots, a poor one at E >= 0 and takes at most share * max_pack_tokens, and what comes otherwise keeps within that,
too. Filling moves pieces inside a block only, so E at its end stays the same. *Inside a block*, while both kinds of
packs are left, a rich one comes at E < 0 and adds at most its slots, a poor one at E >= 0 and takes at most share *
max_pack_tokens: |E| <= M. Once one kind is used up, E moves in one direction to its value at the block's end, so it
lies between two values that keep the bound. *At the end* whole packs are cut off, and M loses theirs. That matters only
where E rises to its end beyond share * max_pack_tokens, and the pack of the last rich piece, of s slots, is among those
cut off. E would have ended below s and gained at least s - share * max_pack_tokens with that pack, so before it E is
below share * max_pack_tokens. `proof.py` recounts all this.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np

from manifests.errors import ManifestError
from manifests.records import Json, PlanBlock, canonical_json, digest
from packing.account import account, by_source, per_pack
from packing.mixture import Mixture
from packing.order import interleave, permutation
from packing.pieces import SourcePieces, pieces_of
from packing.refusal import refusal
from packing.sequence import fill_limited
from stores.store import Snapshot
from tokenization.vocabulary import Vocabulary

VERSION = 2
"""Raised when the same mixture and snapshots would give another plan."""

COLUMNS = {
    "source": np.int32,
    "ordinal": np.int64,
    "start": np.int64,
    "length": np.int32,
    "slots": np.int32,
    "epoch": np.int32,
}
"""Of segments, and of pieces before they share a pack."""

FOR_LIMITS = {"patches": np.int32, "media_in": np.int32}
"""Of pieces only: what `Mixture.pack_limits` count."""

Fill = Callable[["Segments"], list[list[int]]]
Mapper = Callable[[Fill, Iterable["Segments"]], Iterable[list[list[int]]]]


@dataclass(frozen=True)
class Plan:
    blocks: tuple[PlanBlock, ...]
    """In training order. Arrays: `pack_offsets` (packs + 1,) into the segments, and per segment `source` (index into
    the header's `sources`), `ordinal` (of the sample in that source's snapshot), `start` and `length` (in expanded
    tokens), `slots` (vision slots in it), `epoch`."""
    meta: Json
    """What it was made from, what is in it and how well promises are kept. `plan` is its digest."""


def compile_plan(
    mixture: Mixture, samples: Mapping[str, Snapshot], vocabulary: Vocabulary, mapper: Mapper = map
) -> Plan:
    """Compile `mixture` over samples snapshots, given by source name.

    Args:
        mapper: like `map`, e.g. that of a process pool; has no influence on the plan.
    Raises:
        ManifestError: within their epochs the sources can't give what schedule and horizon want. Says where the plan
            would fail and what can be changed.
    """
    sources = [pieces_of(samples[source.name], source, mixture, vocabulary) for source in mixture.sources]
    return arrange(mixture, sources, vocabulary.digest, mapper)


def arrange(mixture: Mixture, sources: Sequence[SourcePieces], vocabulary: str, mapper: Mapper = map) -> Plan:
    """The plan over pieces, one entry of `sources` per source of the mixture; `vocabulary` is its digest."""
    order, missing = _one_order(mixture, sources)
    if missing is not None and (mixture.horizon_tokens is not None or not _both_sides(mixture, sources)):
        raise refusal(mixture, sources, int(order["length"].sum()), rich_missing=missing)
    parts = _cut_into_blocks(order, mixture)
    blocks = list(_in_sequence(mixture, parts, mapper(partial(fill_block, mixture), parts)))
    kept = _whole_batches(mixture, blocks)
    if not kept:
        raise ManifestError(
            f"the sources fill {sum(map(_packs, blocks))} packs, one global batch needs {mixture.global_batch_packs}",
            where="mixture",
            fix="lower global_batch_packs or max_pack_tokens, or add data",
        )
    constants = {
        "sources": [source.name for source in mixture.sources],
        "max_pack_tokens": mixture.max_pack_tokens,
        "limits": dataclasses.asdict(mixture.limits),
        "segment_align": mixture.segment_align,
        "vocabulary": vocabulary,
    }
    records: list[PlanBlock] = []
    first = 0
    for number, arrays in enumerate(kept):
        records.append(PlanBlock({"block": number, "first_pack": first, **constants}, arrays))
        first += _packs(arrays)
    meta = {
        "plan": plan_digest(records),
        "version": VERSION,
        "mixture": mixture.digest,
        "vocabulary": vocabulary,
        "seed": mixture.seed,
        "max_pack_tokens": mixture.max_pack_tokens,
        "global_batch_packs": mixture.global_batch_packs,
        "horizon_tokens": mixture.horizon_tokens,
        "vision_share": dataclasses.asdict(mixture.vision_share),
        "limits": constants["limits"],
        "pack_limits": dataclasses.asdict(mixture.pack_limits),
        "segment_align": mixture.segment_align,
        **account(mixture, kept),
        "sources": by_source(mixture, sources, order, kept),
    }
    return Plan(tuple(records), meta)


def fill_block(mixture: Mixture, part: Segments) -> list[list[int]]:
    """Step 3: the packs of one block, as rows of `part`."""
    length = part["length"].astype(np.int64)
    limits = mixture.pack_limits
    costs = [
        (length + -length % mixture.segment_align, mixture.max_pack_tokens),
        (part["patches"], limits.patches),
        (part["media_in"], limits.media),
        (length**2, limits.attention),
    ]
    kept = [(cost, most) for cost, most in costs if most is not None]
    return fill_limited(np.stack([cost for cost, _ in kept], 1), [most for _, most in kept])


def plan_digest(blocks: Iterable[PlanBlock]) -> str:
    """Over headers and arrays of all blocks: equal digests, equal packs in equal order."""
    parts: list[str | bytes] = ["plan", str(VERSION)]
    for block in blocks:
        parts.append(canonical_json(dict(block.header)))
        for name, array in sorted(block.arrays.items()):
            parts += [name, array.dtype.str, array.tobytes()]
    return digest(*parts)


Segments = dict[str, np.ndarray]
"""Equally long columns, see COLUMNS; a block of packs also has `pack_offsets`."""


def _one_order(mixture: Mixture, sources: Sequence[SourcePieces]) -> tuple[Segments, bool | None]:
    """Steps 1 and 2: all pieces of the plan in one order. With it comes what ran out early, if anything did: True for
    rich pieces, False for poor ones.

    One global batch more than the horizon is ordered, so that whole packs can reach it.
    """
    numerator, denominator = mixture.vision_share.at(0).as_integer_ratio()
    goal = math.inf
    if mixture.horizon_tokens is not None:
        goal = mixture.horizon_tokens + mixture.global_batch_packs * mixture.max_pack_tokens
    sides = {rich: _side(mixture, sources, rich) for rich in (True, False)}
    sizes = [list(zip(p.length.tolist(), p.slots.tolist(), strict=True)) for p in sources]
    chosen: list[tuple[int, int, int]] = []
    tokens = error = 0
    missing = None
    while tokens < goal:
        wanted = error < 0
        following = next(sides[wanted], None) or next(sides[not wanted], None)
        if following is None:
            missing = wanted if math.isfinite(goal) else None
            break
        index, piece, _ = following
        length, slots = sizes[index][piece]
        gain = slots * denominator - length * numerator
        if (gain > 0) != wanted and abs(error + gain) > numerator * mixture.max_pack_tokens:
            missing = wanted
            break
        tokens += length
        error += gain
        chosen.append(following)
    source, piece_of, epoch = np.array(chosen, np.int64).reshape(-1, 3).T
    order = {name: np.zeros(len(source), kind) for name, kind in (COLUMNS | FOR_LIMITS).items()}
    order["source"][:], order["epoch"][:] = source, epoch
    for index, pieces in enumerate(sources):
        mine = source == index
        for name in ("ordinal", "start", "length", "slots", *FOR_LIMITS):
            order[name][mine] = getattr(pieces, name)[piece_of[mine]]
    return order, missing


def _both_sides(mixture: Mixture, sources: Sequence[SourcePieces]) -> bool:
    """Whether there are pieces to give and to take vision with; a share of 0 needs none that give."""
    share = mixture.vision_share.at(0)
    rich = np.concatenate([pieces.richer_than(share) for pieces in sources])
    return bool((rich.any() or share == 0) and (~rich).any())


def _side(mixture: Mixture, sources: Sequence[SourcePieces], rich: bool) -> Iterator[tuple[int, int, int]]:
    """(source, piece, epoch) of all rich or of all poor pieces, epoch after epoch, sources following their weights."""
    share = mixture.vision_share.at(0)
    streams, weights = [], []
    for index, (source, pieces) in enumerate(zip(mixture.sources, sources, strict=True)):
        mine = np.flatnonzero(pieces.richer_than(share) == rich)
        if len(mine):
            part = Fraction(int(pieces.length[mine].sum()), int(pieces.length.sum()))
            weights.append(Fraction(str(source.weight)) * part)
            streams.append(_epochs(mixture, index, pieces, mine))
    whole = math.lcm(*(weight.denominator for weight in weights))
    return interleave(streams, [int(weight * whole) for weight in weights])


def _epochs(
    mixture: Mixture, index: int, pieces: SourcePieces, mine: np.ndarray
) -> Iterator[tuple[int, tuple[int, int, int]]]:
    source = mixture.sources[index]
    for epoch in range(source.max_epochs):
        names = (pieces.name(piece) for piece in mine.tolist())
        for piece in mine[permutation(mixture.seed, epoch, source.name, names)].tolist():
            yield int(pieces.length[piece]), (index, piece, epoch)


def _cut_into_blocks(order: Segments, mixture: Mixture) -> list[Segments]:
    """Stretches of about equally many tokens, as near to `block_packs` full packs as that gives."""
    ends = np.cumsum(order["length"], dtype=np.int64)
    total = int(ends[-1])
    count = max(1, round(total / (mixture.block_packs * mixture.max_pack_tokens)))
    bounds = np.searchsorted(ends, [total * k // count for k in range(count)], side="right").tolist()
    pairs = zip(bounds, [*bounds[1:], len(ends)], strict=True)
    return [{name: column[a:b] for name, column in order.items()} for a, b in pairs if a < b]


def _in_sequence(mixture: Mixture, parts: Sequence[Segments], filled: Iterable[list[list[int]]]) -> Iterator[Segments]:
    """Step 4: the packs of each block in the order in which they are seen."""
    numerator, denominator = mixture.vision_share.at(0).as_integer_ratio()
    error = 0
    for number, (part, packs) in enumerate(zip(parts, filled, strict=True)):
        lengths, slots = part["length"].tolist(), part["slots"].tolist()
        gains = [sum(slots[i] * denominator - lengths[i] * numerator for i in pack) for pack in packs]
        shuffled = permutation(mixture.seed, 0, f"block {number}", map(str, range(len(packs)))).tolist()
        waiting = {
            True: [p for p in reversed(shuffled) if gains[p] > 0],
            False: [p for p in reversed(shuffled) if gains[p] <= 0],
        }
        seen: list[int] = []
        while len(seen) < len(packs):
            kind = error < 0
            chosen = (waiting[kind] or waiting[not kind]).pop()
            error += gains[chosen]
            seen.append(chosen)
        rows = np.array([i for p in seen for i in packs[p]], np.int64)
        offsets = np.cumsum([0, *(len(packs[p]) for p in seen)], dtype=np.int64)
        yield {"pack_offsets": offsets} | {name: part[name][rows] for name in COLUMNS}


def _whole_batches(mixture: Mixture, blocks: Sequence[Segments]) -> list[Segments]:
    """The blocks up to the first whole global batch that reaches the horizon, or up to the last whole one."""
    ends = np.cumsum(np.concatenate([per_pack(block, "length") for block in blocks]))
    batch = mixture.global_batch_packs
    keep = len(ends) // batch * batch
    if mixture.horizon_tokens is not None:
        enough = int(np.searchsorted(ends, mixture.horizon_tokens)) + 1
        keep = min(keep, -(-enough // batch) * batch)
    kept = []
    for block in blocks:
        packs = min(keep, _packs(block))
        if packs:
            offsets = block["pack_offsets"][: packs + 1]
            kept.append(
                {"pack_offsets": offsets}
                | {name: column[: offsets[-1]] for name, column in block.items() if name != "pack_offsets"}
            )
        keep -= packs
    return kept


def _packs(block: Segments) -> int:
    return len(block["pack_offsets"]) - 1
