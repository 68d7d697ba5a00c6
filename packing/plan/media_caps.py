"""No medium is shown more often than the mixture says, whichever pieces and sources it stands in.

Whoever comes first shows it: epoch by epoch, source by source as the mixture names them, each source in its order. What
the run saw before counts first. That fixes a medium's exposures whatever is drawn when. Counted are only media that
could be shown too often; they are found by a hash of their own, part by part, and take 16 bytes of memory each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from packing.mixture import Mixture
from packing.plan.pieces import mixed
from packing.plan.supply import Supply
from stores.spill import Partitions, Scratch

SHOWN = np.dtype([("medium", np.uint64), ("times", np.uint32)])
PART_BYTES = 32 << 20


def withhold(mixture: Mixture, sources: Sequence[Supply], scratch: Scratch) -> None:
    """Take out of the epochs of all sources what would show a medium once more than `max_media_exposures`."""
    most = mixture.max_media_exposures
    if most is None:
        return
    from packing.plan import order_loops

    often, shown = _shown_often(sources, most, scratch)
    if not len(often):
        return
    for epoch in range(max(source.max_epochs for source in mixture.sources)):
        for source in sources:
            for number in range(len(source.epochs) if epoch < source.source.max_epochs else 0):
                rows, media = source.epochs.part(epoch, number)
                offsets = np.concatenate([[0], np.cumsum(rows["media"], dtype=np.int64)])
                places = np.minimum(np.searchsorted(often, media), len(often) - 1)
                places[often[places] != media] = -1
                kept = np.ones(len(rows), bool)
                order = source.epochs.order(epoch, rows)
                later = source.seen(rows) > epoch
                order_loops.show(order, offsets, places, later, shown, most, kept)
                source.withhold(epoch, number, rows, media, kept)


def _shown_often(sources: Sequence[Supply], most: int, scratch: Scratch) -> tuple[np.ndarray, np.ndarray]:
    """(M,) uint64, ascending: media that all epochs together could show more often; and (M,) how often each was."""
    size = sum(source.media for source in sources) * SHOWN.itemsize
    parts = Partitions(scratch, "media", 1 + size // PART_BYTES, SHOWN)
    before = Partitions(scratch, "media.before", len(parts), SHOWN)
    for source in sources:
        for rows, media in source.epochs.parts(0):
            numbers = parts.of(mixed(media))
            seen = source.seen(rows)
            for some, times in ((parts, np.maximum(seen, source.source.max_epochs)), (before, seen)):
                found = np.empty(len(media), SHOWN)
                found["medium"], found["times"] = media, np.repeat(times, rows["media"])
                some.add(found[found["times"] > 0], numbers[found["times"] > 0])
    often, counts = [NONE], [NONE]
    for number in range(len(parts)):
        rows, earlier = parts.read(number), before.read(number)
        known, which = np.unique(rows["medium"], return_inverse=True)
        over = np.bincount(which, rows["times"], len(known)) > most
        shown = np.bincount(np.searchsorted(known, earlier["medium"]), earlier["times"], len(known))
        often.append(known[over])
        counts.append(shown[over].astype(np.uint64))
    parts.close()
    before.close()
    media, shown = np.concatenate(often), np.concatenate(counts)
    order = np.argsort(media)
    return media[order], shown[order].astype(np.int64)


NONE = np.zeros(0, np.uint64)
