"""Global batches: equal for any world size and after any resume."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifests.errors import ManifestError, ResumeError, StoreError
from manifests.records import Pack, Segment, record_id
from packing.loader.balance import encoder_cost, llm_cost
from packing.loader.global_batch import GlobalBatch
from packing.loader.loader import Loader, LoaderState
from packing.loader.topology import Topology
from packing.loader.torch_batches import RankBatches, media_to, rows_to
from stores.store import Store
from stores.upkeep.copy import copy
from tests.packing.corpus import MIXTURE, Made, corpus, create, document, make, medium, picture, tiny
from tests.servers.faulty import Faulty

SIZE = MIXTURE.global_batch_packs
Fingerprint = tuple[bytes, ...]
"""Bytes of one token row (5 arrays) or one media item (3 arrays)."""


def fingerprint(batch: GlobalBatch, world: int = 1) -> list[Fingerprint]:
    """Everything in a batch: rows by number, then items by (row, slot), independent of the rank."""
    parts: dict[tuple[int, ...], Fingerprint] = {}
    for rank in range(world):
        rows, media = batch.rows(rank), batch.media(rank)
        for i, row in enumerate(rows.rows.tolist()):
            arrays = (rows.ids[i], rows.labels[i], rows.loss_mask[i], rows.positions[i])
            parts[row, -1] = (*(array.tobytes() for array in arrays), str(rows.segment_lengths[i]).encode())
        start = 0
        for i, grid in enumerate(media.grids):
            count = int(grid.prod())
            address = (int(media.rows[i]), int(media.first_slots[i]))
            assert address not in parts
            parts[address] = (media.patches[start : start + count].tobytes(), grid.tobytes(), bytes(media.slots[i]))
            start += count
        assert start == len(media.patches)
    return [part for _, part in sorted(parts.items())]


def all_batches(made: Made, world: int = 1, state: LoaderState | None = None) -> list[list[Fingerprint]]:
    with Loader(made.packs, SIZE, world, state) as loader:
        return [fingerprint(batch, world) for batch in loader]


@pytest.fixture(scope="module")
def batches(made: Made) -> list[list[Fingerprint]]:
    return all_batches(made)


def test_packs_on_s3_give_the_same_batches_from_the_server_and_from_the_disk_cache(
    made: Made,
    batches: list[list[Fingerprint]],
    s3: Faulty,
    quick_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remote = copy(made.packs, f"s3://mill/{uuid.uuid4().hex}")
    monkeypatch.setenv("MILLRACE_CACHE", str(quick_folder / uuid.uuid4().hex))
    for requested in (True, False):  # shards are requested once, then read from the cache
        s3.reset()
        with Loader(Store.open(remote.url).snapshot(remote.number), SIZE, 2) as loader:
            assert [fingerprint(batch, 2) for batch in loader] == batches
        assert any("/shards/" in request.path for request in s3.seen) == requested


@pytest.mark.parametrize("world", [2, 3, 4, 6, 12])
def test_any_world_size_gives_the_same_global_batches(made: Made, batches: list[list[Fingerprint]], world: int) -> None:
    assert all_batches(made, world) == batches


def test_resume_at_every_batch_gives_the_identical_rest(made: Made, batches: list[list[Fingerprint]]) -> None:
    states = []
    with Loader(made.packs, SIZE) as loader:
        states.append(loader.state)
        for _ in loader:
            states.append(loader.state)
    assert len(states) == len(batches) + 1
    for k, state in enumerate(states):
        restored = json.loads(json.dumps(state))
        assert all_batches(made, 2 if k % 2 else 3, restored) == batches[k:]


def test_the_state_names_plan_packs_and_next_batch(made: Made) -> None:
    with Loader(made.packs, SIZE) as loader:
        next(loader)
        next(loader)
        assert loader.state == {
            "chain": [[0, made.plan.meta["plan"], made.packs.content_root]],
            "global_batch_packs": SIZE,
            "next_batch": 2,
            "stand_ins": "",
        }
        assert len(loader) == made.plan.meta["packs"] // SIZE


def test_labels_are_the_next_targets_of_the_same_segment(made: Made) -> None:
    with Loader(made.packs, SIZE) as loader:
        for batch in loader:
            rows = batch.rows(0)
            packs = made.packs.records(batch.number * SIZE, (batch.number + 1) * SIZE)
            for row, pack in zip(range(SIZE), packs, strict=True):
                expected = np.full(256, -100)
                positions = np.zeros(256, np.int64)
                start = 0
                for segment in pack.segments:
                    for i in range(start, start + segment.length):
                        positions[i] = i - start
                        if i + 1 < start + segment.length and pack.loss_mask[i + 1]:
                            expected[i] = pack.ids[i + 1]
                    start += segment.length
                assert rows.labels[row].tolist() == expected.tolist()
                assert rows.positions[row].tolist() == positions.tolist()
                assert rows.segment_lengths[row] == tuple(segment.length for segment in pack.segments)
                assert rows.loss_mask[row].sum() == pack.loss_mask.sum()
            assert not np.isin(rows.labels, [tiny.media_pad_id, tiny.pad_id]).any()


def test_items_fill_exactly_the_slots_of_the_rows(made: Made) -> None:
    with Loader(made.packs, SIZE, world=4) as loader:
        for batch in loader:
            ids = np.concatenate([batch.ids(rank) for rank in range(4)])
            ids = ids[np.argsort(np.concatenate([batch.rows(rank).rows for rank in range(4)]))]
            filled = np.zeros(ids.shape, np.int64)
            for rank in range(4):
                media = batch.media(rank)
                for row, first, count in zip(media.rows, media.first_slots, media.slots, strict=True):
                    filled[row, first : first + count] += 1
            assert np.array_equal(filled, ids == tiny.media_pad_id)


def test_ranks_get_equal_numbers_of_rows_and_balanced_work(made: Made) -> None:
    with Loader(made.packs, SIZE, world=3) as loader:
        for batch in loader:
            rows = [[llm_cost(lengths) for lengths in batch.rows(rank).segment_lengths] for rank in range(3)]
            items = [[encoder_cost(tuple(grid)) for grid in batch.media(rank).grids.tolist()] for rank in range(3)]
            assert {len(rank_rows) for rank_rows in rows} == {SIZE // 3}
            loads = [sum(rank_items) for rank_items in items]
            assert max(loads) <= sum(loads) / 3 + max(max(rank_items, default=0) for rank_items in items)


def test_tensors_equal_the_arrays(made: Made) -> None:
    with Loader(made.packs, SIZE) as loader:
        batch = next(loader)
        rows, media = batch.rows(0), batch.media(0)
    tensors, encoded = rows_to(rows, "cpu"), media_to(media, 256, "cpu")
    assert tensors.ids.dtype == tensors.labels.dtype == torch.int64
    assert torch.equal(tensors.ids.flatten()[encoded.slots], torch.full((len(encoded.slots),), tiny.media_pad_id))
    assert len(encoded.slots) == int((rows.ids == tiny.media_pad_id).sum()) == len(set(encoded.slots.tolist()))
    assert encoded.patches.dtype == torch.uint8 and len(encoded.patches) == sum(t * h * w for t, h, w in encoded.grids)
    assert tensors.cu_seqlens[0].tolist() == [0, *np.cumsum(rows.segment_lengths[0]).tolist()]


def test_a_batch_without_pictures_has_empty_media(tmp_path: Path) -> None:
    mixture = dataclasses.replace(
        MIXTURE, sources=MIXTURE.sources[1:], vision_share=dataclasses.replace(MIXTURE.vision_share, constant=0.0)
    )
    made = make(tmp_path, [one for one in corpus() if one.domain == "knowledge"], mixture)
    with Loader(made.packs, SIZE) as loader:
        media = next(loader).media(0)
    assert media.patches.shape == (0, 3, 14, 14) and media.grids.shape == (0, 3)
    assert media_to(media, 256, "cpu").slots.shape == (0,)


def test_a_world_size_or_batch_size_that_does_not_divide_is_refused(made: Made) -> None:
    with pytest.raises(ManifestError, match="5 ranks can't share 12 packs"):
        Loader(made.packs, SIZE, world=5)
    with pytest.raises(ManifestError, match="planned for 12"):
        Loader(made.packs, 6)


def test_incomplete_packs_and_other_stores_are_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds samples, not packs"):
        Loader(made.samples, SIZE)
    store = create(tmp_path, "packs")
    writer = store.writer("block 0")
    writer.add(next(made.packs.records()))
    half = store.commit([writer.finish()], node="test", units=["block 0", "block 1"], complete=False)
    with pytest.raises(StoreError, match="not complete"):
        Loader(half, SIZE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chain": [[0, "0" * 64, "0" * 64]]}, "another plan"),
        ({"chain": []}, "not amended there"),
        ({"stand_ins": "0" * 64}, "other decisions about media"),
        ({"global_batch_packs": 6}, "another size"),
        ({"next_batch": 99}, "batch 99 of"),
    ],
)
def test_a_state_of_another_run_is_refused(made: Made, change: dict[str, object], words: str) -> None:
    with Loader(made.packs, SIZE) as loader:
        next(loader)
        state = loader.state
    with pytest.raises(ResumeError, match=words):
        Loader(made.packs, SIZE, state={**state, **change})  # type: ignore[typeddict-item]


def test_an_undecodable_medium_stops_at_its_batch_and_names_its_record(made: Made, tmp_path: Path) -> None:
    """The bytes are intact for the store; they are not an image."""
    no_image = b"GIF89a no picture"
    digest = hashlib.sha256(no_image).hexdigest()
    declared = dataclasses.replace(medium(picture(0, 40, 40, "PNG")), payload=no_image, digest=digest)
    victim = document("victim", "caption", declared)
    broken = make(tmp_path, [*corpus(), victim])
    number = next(
        i for i, pack in enumerate(broken.packs.records()) if victim.id in {segment.sample for segment in pack.segments}
    )
    with Loader(broken.packs, SIZE) as loader:
        for _ in range(number // SIZE):
            next(loader)
        with pytest.raises(StoreError, match=f"record {victim.id} .seen. does not decode") as error:
            next(loader)
        assert f"packs[{number}]" in str(error.value)
        assert loader.state["next_batch"] == number // SIZE


def test_a_damaged_shard_stops_at_the_batch_that_needs_it(made: Made, tmp_path: Path) -> None:
    damaged = make(tmp_path, corpus())
    shard = damaged.packs.shards[-1]
    file = tmp_path / "packs" / "shards" / f"{shard.shard}.tar"
    data = bytearray(file.read_bytes())
    offset = data.index(b".ids.npy") + 512 + 200
    data[offset] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    with Loader(damaged.packs, SIZE) as loader:
        whole_batches = shard.first // SIZE
        for _ in range(whole_batches):
            next(loader)
        with pytest.raises(StoreError, match="bytes changed"):
            next(loader)
        assert loader.state["next_batch"] == whole_batches


def test_reading_rows_imports_no_decoder(tmp_path: Path) -> None:
    """Each of these modules adds 3 to 110 MB to the resident memory of every training process."""
    store = Store.create(str(tmp_path), "packs", "packs")
    writer = store.writer("all")
    for number in range(4):
        segment = Segment(record_id("s", str(number)), "s", 0, 32)
        writer.add(Pack(np.arange(32, dtype=np.uint32), np.ones(32, bool), (segment,)))
    meta = {"plan": "none", "global_batch_packs": 2, "max_pack_tokens": 32}
    store.commit([writer.finish()], node="n", units=["all"], meta=meta)
    code = f"""
import sys
from packing.loader.loader import Loader
from stores.store import Store
with Loader(Store.open({str(tmp_path)!r}).head(), 2) as loader:
    assert sum(batch.rows(0).ids.sum() for batch in loader) == 4 * sum(range(32))
print(*sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {
        "av",
        "PIL",
        "decord",
        "simplejpeg",
        "numba",
        "pandas",
        "pyarrow.compute",
        "datasets",
        "tiktoken",
    }
    assert not loaded & {"pydantic", "yaml", "fsspec", "torch"}


@pytest.mark.parametrize(
    "sizes", [{"data": 2, "tensor": 2, "context": 2, "pipeline": 2, "expert": 4}, {"data": 1, "pipeline": 3}]
)
def test_the_processes_of_a_large_training_together_take_everything_once(
    sizes: dict[str, int], made: Made, batches: list[list[Fingerprint]]
) -> None:
    """Each process opens its own loader and decodes only its dealt media."""
    topology, length = Topology(**sizes), MIXTURE.max_pack_tokens
    shares = [topology.share(rank, length) for rank in range(topology.world)]
    loaders = [
        Loader(made.packs, SIZE, topology.data, ranks=[share.media_rank], encoders=topology.world) for share in shares
    ]
    for parts in batches:
        given = [next(loader) for loader in loaders]
        ids: dict[tuple[int, int], set[int]] = {}
        labels: dict[tuple[int, int], set[int]] = {}
        items = []
        for share, batch in zip(shares, given, strict=True):
            rows, media = batch.rows(share.data_rank), batch.media(share.media_rank)
            for needed, arrays, values_at in (
                (share.needs_ids, rows.ids, ids),
                (share.needs_labels, rows.labels, labels),
            ):
                for row, values in zip(rows.rows.tolist(), arrays, strict=True) if needed else ():
                    for position in share.positions.tolist():
                        values_at.setdefault((row, position), set()).add(int(values[position]))
            ends = np.cumsum(media.grids.prod(axis=1))
            for i, grid in enumerate(media.grids):
                patches = media.patches[ends[i] - int(grid.prod()) : ends[i]]
                items.append((patches.tobytes(), grid.tobytes(), bytes(media.slots[i])))
        assert ids.keys() == labels.keys() == {(row, at) for row in range(SIZE) for at in range(length)}
        assert all(len(values) == 1 for values in (*ids.values(), *labels.values()))
        rows_expected = [part for part in parts if len(part) == 5]
        for row, part in enumerate(rows_expected):
            assert np.frombuffer(part[0], np.int64).tolist() == [ids[row, at].pop() for at in range(length)]
        assert sorted(items) == sorted(part for part in parts if len(part) == 3)
    for loader in loaders:
        loader.close()


def test_a_process_with_different_row_and_encoder_ranks_decodes_only_for_its_encoder_rank(made: Made) -> None:
    opened: list[Loader] = []

    def open_loader(**given: Any) -> Loader:
        opened.append(Loader(made.packs, SIZE, 2, encoders=6, **given))
        return opened[-1]

    with Loader(made.packs, SIZE, 2, encoders=6) as whole:
        for rank_batch, batch in zip(RankBatches(open_loader, rank=1, encoder=5), whole, strict=True):
            assert torch.equal(rank_batch.rows.ids, torch.from_numpy(batch.rows(1).ids))
            assert torch.equal(rank_batch.media.patches, torch.from_numpy(batch.media(5).patches))
    assert (opened[0]._reader.ranks, opened[0]._reader.row_ranks) == ((5,), (1,))
