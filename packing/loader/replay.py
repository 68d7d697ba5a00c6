"""A loader run from outside: hashes of global batches, and a process of its own that can be killed and goes on.

`loader/certify.py` starts this, kills it and starts it again:

    python -m packing.loader.replay STORE SNAPSHOT FOLDER WORLD THREADS BATCHES

writes `NUMBER HASH` for every batch and then the state that goes on behind it to FOLDER, so that a process killed in
between gives the batch again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path

from packing.loader.batch import MediaBatch, TokenRows
from packing.loader.global_batch import GlobalBatch
from packing.loader.loader import Loader, LoaderState
from packing.loader.stand_ins import StandIns
from stores.snapshot import Snapshot, open_snapshot

Pieces = dict[tuple[int, int], str]


def pieces(batch: GlobalBatch, ranks: Iterable[int]) -> Pieces:
    """Hashes of all that `ranks` get of a batch, in canonical order: rows by (row, -1), media items by (row, slot)."""
    found: Pieces = {}
    for rank in ranks:
        for place, told in (*_rows(batch.rows(rank)), *_items(batch.media(rank))):
            assert place not in found, f"global batch {batch.number} gives {place} to two ranks"
            found[place] = told
    return dict(sorted(found.items()))


def _rows(rows: TokenRows) -> Iterator[tuple[tuple[int, int], str]]:
    for i, row in enumerate(rows.rows.tolist()):
        arrays = (rows.ids[i], rows.labels[i], rows.loss_mask[i], rows.positions[i])
        words = str(rows.segment_lengths[i]).encode()
        yield (row, -1), sha256(b"".join(array.tobytes() for array in arrays) + words).hexdigest()


def _items(media: MediaBatch) -> Iterator[tuple[tuple[int, int], str]]:
    at = 0
    for i, grid in enumerate(media.grids):
        patches = media.patches[at : (at := at + int(grid.prod()))]
        yield (int(media.rows[i]), int(media.first_slots[i])), sha256(grid.tobytes() + patches.tobytes()).hexdigest()
    assert at == len(media.patches)


def hashed(batch: GlobalBatch, world: int) -> str:
    """SHA-256 of a whole global batch: decoded patches, ids, masks, labels and positions, whoever got which."""
    return sha256(repr(pieces(batch, range(world))).encode()).hexdigest()


def replay(packs: Snapshot, folder: Path, world: int, threads: int, batches: int) -> Iterator[tuple[int, str]]:
    """(number, hash) of the first `batches` global batches; goes on from the state that an earlier one left."""
    saved = folder / "state.json"
    state: LoaderState | None = json.loads(saved.read_text()) if saved.exists() else None
    decisions = StandIns(str(folder / "stand_ins"))
    size = packs.meta["global_batch_packs"]
    with Loader(packs, size, world, state, stand_ins=decisions, threads=threads, certified=False) as loader:
        for batch in islice(loader, batches - (state["next_batch"] if state else 0)):
            yield batch.number, hashed(batch, world)
            aside = folder / "state.aside"
            aside.write_text(json.dumps(loader.state))
            os.replace(aside, saved)


def main(arguments: list[str]) -> None:
    url, number, folder, world, threads, batches = arguments
    for batch, found in replay(open_snapshot(url, int(number)), Path(folder), int(world), int(threads), int(batches)):
        print(batch, found, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
