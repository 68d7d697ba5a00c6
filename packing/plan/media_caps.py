"""Cap on exposures of media: no image or video is shown more often than `max_media_exposures`, in any piece or source.

The first pieces show it: epoch by epoch, sources in the order of the mixture, each source in its epoch order;
exposures before the plan count first. So the exposures of a medium are fixed before anything is drawn. Only media that
could exceed the cap are counted, found by partitions of their keys, at 16 bytes of memory each. `planner.py` calls
`cap_media` before `order.py` draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from packing.mixture import Mixture
from packing.plan.pieces import mix_bits
from packing.plan.supply import Supply
from stores.spill import Partitions, Scratch

SHOWN = np.dtype([("medium", np.uint64), ("times", np.uint32)])
PART_BYTES = 32 << 20
NONE = np.zeros(0, np.uint64)


def cap_media(mixture: Mixture, sources: Sequence[Supply], scratch: Scratch) -> None:
    """Remove from the epochs of all sources the pieces that would show a medium more often than the mixture allows."""
    most = mixture.max_media_exposures
    if most is None:
        return
    from packing.plan import order_loops

    media_over, shown = _media_over(sources, most, scratch)
    if not len(media_over):
        return
    for epoch in range(max(source.max_epochs for source in mixture.sources)):
        for source in sources:
            for number in range(len(source.epochs) if epoch < source.source.max_epochs else 0):
                rows, media = source.epochs.part(epoch, number)
                offsets = np.concatenate([[0], np.cumsum(rows["media"], dtype=np.int64)])
                places = np.minimum(np.searchsorted(media_over, media), len(media_over) - 1)
                places[media_over[places] != media] = -1
                kept = np.ones(len(rows), bool)
                order = source.epochs.order(epoch, rows)
                later = source.times_seen(rows) > epoch
                order_loops.cap_exposures(order, offsets, places, later, shown, most, kept)
                source.withhold(epoch, number, rows, media, kept)


def _media_over(sources: Sequence[Supply], most: int, scratch: Scratch) -> tuple[np.ndarray, np.ndarray]:
    """Media that all epochs together would show more than `most` times.

    Returns:
        (M,) uint64 keys, ascending; (M,) int64 exposures of each before this plan.
    """
    size = sum(source.media for source in sources) * SHOWN.itemsize
    parts = Partitions(scratch, "media", 1 + size // PART_BYTES, SHOWN)
    before = Partitions(scratch, "media.before", len(parts), SHOWN)
    for source in sources:
        for rows, media in source.epochs.parts(0):
            numbers = parts.of(mix_bits(media))
            seen = source.times_seen(rows)
            for target, times in ((parts, np.maximum(seen, source.source.max_epochs)), (before, seen)):
                exposures = np.empty(len(media), SHOWN)
                exposures["medium"], exposures["times"] = media, np.repeat(times, rows["media"])
                target.add(exposures[exposures["times"] > 0], numbers[exposures["times"] > 0])
    over, counts = [NONE], [NONE]
    for number in range(len(parts)):
        rows, earlier = parts.read(number), before.read(number)
        media, which = np.unique(rows["medium"], return_inverse=True)
        too_often = np.bincount(which, rows["times"], len(media)) > most
        shown = np.bincount(np.searchsorted(media, earlier["medium"]), earlier["times"], len(media))
        over.append(media[too_often])
        counts.append(shown[too_often].astype(np.uint64))
    parts.close()
    before.close()
    media, shown = np.concatenate(over), np.concatenate(counts)
    order = np.argsort(media)
    return media[order], shown[order].astype(np.int64)
