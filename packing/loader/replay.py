"""Replay of a packs store: hashes of its global batches, from a process that may be killed and started again.

`loader/certify.py` starts it, kills it and starts it again:

    python -m packing.loader.replay STORE SNAPSHOT FOLDER WORLD THREADS BATCHES

For every batch it prints `NUMBER HASH`, then writes the position after that batch to FOLDER. A process that is killed
in between gives the batch again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path

from manifests.files import write_whole
from packing.loader.batch import MediaItems, TokenRows
from packing.loader.global_batch import GlobalBatch
from packing.loader.loader import DecodeOptions, Loader, LoaderState
from packing.loader.stand_ins import StandIns
from stores.snapshot import Snapshot, open_snapshot

PartHashes = dict[tuple[int, int], str]
"""SHA-256 by address: (row, -1) for a token row, (row, first slot) for a media item."""


def part_hashes(batch: GlobalBatch, ranks: Iterable[int]) -> PartHashes:
    """Return the hashes of all rows and items that `ranks` get of a batch, ordered by address."""
    hashes: PartHashes = {}
    for rank in ranks:
        for address, hash_ in (*_row_hashes(batch.rows(rank)), *_item_hashes(batch.media(rank))):
            assert address not in hashes, f"global batch {batch.number} gives {address} to two ranks"
            hashes[address] = hash_
    return dict(sorted(hashes.items()))


def _row_hashes(rows: TokenRows) -> Iterator[tuple[tuple[int, int], str]]:
    for i, row in enumerate(rows.rows.tolist()):
        arrays = (rows.ids[i], rows.labels[i], rows.loss_mask[i], rows.positions[i])
        lengths = str(rows.segment_lengths[i]).encode()
        yield (row, -1), sha256(b"".join(array.tobytes() for array in arrays) + lengths).hexdigest()


def _item_hashes(media: MediaItems) -> Iterator[tuple[tuple[int, int], str]]:
    start = 0
    for i, grid in enumerate(media.grids):
        patches = media.patches[start : (start := start + int(grid.prod()))]
        yield (int(media.rows[i]), int(media.first_slots[i])), sha256(grid.tobytes() + patches.tobytes()).hexdigest()
    assert start == len(media.patches)


def batch_hash(batch: GlobalBatch, world: int) -> str:
    """Return the SHA-256 of a global batch over patches, ids, masks, labels and positions; equal for every world."""
    return sha256(repr(part_hashes(batch, range(world))).encode()).hexdigest()


def replay(packs: Snapshot, folder: Path, world: int, threads: int, batches: int) -> Iterator[tuple[int, str]]:
    """Yield (number, hash) of the first `batches` global batches.

    Continues from the position that an earlier replay left in `folder`.
    """
    saved = folder / "state.json"
    state: LoaderState | None = json.loads(saved.read_text()) if saved.exists() else None
    stand_ins = StandIns(str(folder / "stand_ins"))
    size = packs.meta["global_batch_packs"]
    decode = DecodeOptions(threads=threads)
    with Loader(packs, size, world, state, stand_ins=stand_ins, decode=decode, verify_certificate=False) as loader:
        for batch in islice(loader, batches - (state["next_batch"] if state else 0)):
            yield batch.number, batch_hash(batch, world)
            write_whole(saved, json.dumps(loader.state))


def main(arguments: list[str]) -> None:
    """Run a replay and print its hashes."""
    url, number, folder, world, threads, batches = arguments
    packs = open_snapshot(url, int(number))
    for batch, hash_ in replay(packs, Path(folder), int(world), int(threads), int(batches)):
        print(batch, hash_, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
