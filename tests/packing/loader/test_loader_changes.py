"""Global batches stay equal through changes during a run: ranks, threads, processes, plans, bad media, kills."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from manifests.errors import ResumeError, StoreError
from manifests.records import Media
from packing.loader.batch import IGNORED, STAND_IN
from packing.loader.global_batch import ChainLink, GlobalBatch
from packing.loader.loader import DecodeOptions, Loader, LoaderState
from packing.loader.stand_ins import StandIns
from packing.loader.torch_batches import RankBatches, agree_over, for_megatron
from stores.store import Store
from tests.packing.corpus import MIXTURE, Made, clip, corpus, document, make, medium, picture

SIZE = MIXTURE.global_batch_packs
WORLDS = (1, 2, 3, 4, 6, 12)
ROOT = Path(__file__).parents[3]
CHANGE = 2
"""First global batch of the second plan."""

PartHashes = dict[tuple[int, ...], str]
"""SHA-256 by address: (row, -1) for a token row, (row, first slot) for a media item."""


def undecodable(number: int) -> Media:
    """A medium that is intact for the store and does not decode."""
    payload = b"GIF89a no picture %d" % number
    declared = medium(picture(number, 40, 40, "PNG"))
    return dataclasses.replace(declared, payload=payload, digest=hashlib.sha256(payload).hexdigest())


def part_hashes(batch: GlobalBatch, ranks: Iterable[int]) -> PartHashes:
    """Hashes of everything that `ranks` get of a batch, ordered by address."""
    hashes: PartHashes = {}
    for rank in ranks:
        rows, media = batch.rows(rank), batch.media(rank)
        for i, row in enumerate(rows.rows.tolist()):
            arrays = (rows.ids[i], rows.labels[i], rows.loss_mask[i], rows.positions[i])
            lengths = str(rows.segment_lengths[i]).encode()
            hashes[row, -1] = hashlib.sha256(b"".join(array.tobytes() for array in arrays) + lengths).hexdigest()
        start = 0
        for i, grid in enumerate(media.grids):
            count = int(grid.prod())
            address = (int(media.rows[i]), int(media.first_slots[i]))
            assert address not in hashes
            patches = media.patches[start : start + count]
            hashes[address] = hashlib.sha256(grid.tobytes() + patches.tobytes()).hexdigest()
            start += count
        assert start == len(media.patches)
    return dict(sorted(hashes.items()))


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[ChainLink, ...]:
    """Packs of two plans, one after the other, with undecodable media, split documents and ends of epochs."""
    folder = tmp_path_factory.mktemp("chain")
    links = []
    for name, first in (("before", 0), ("after", CHANGE)):
        bad = [document(f"{name} {i}", "caption", undecodable(i)) for i in range(6)]
        mixture = dataclasses.replace(MIXTURE, seed=first)
        made = make(folder / name, [*corpus(), *bad], mixture)
        links.append((first, made.packs))
        arrays = [block.arrays for block in made.plan.blocks]
        assert max(array["epoch"].max() for array in arrays) > 0 and max(array["start"].max() for array in arrays) > 0
    return tuple(links)


def batches_of(
    chain: Sequence[ChainLink], stand_ins: Path, world: int = 1, state: LoaderState | None = None
) -> list[PartHashes]:
    with Loader(chain, SIZE, world, state, stand_ins=StandIns(str(stand_ins))) as loader:
        return [part_hashes(batch, range(world)) for batch in loader]


@pytest.fixture(scope="session")
def expected(chain: tuple[ChainLink, ...], tmp_path_factory: pytest.TempPathFactory) -> list[PartHashes]:
    """Batches of an undisturbed loader with one rank."""
    return batches_of(chain, tmp_path_factory.mktemp("decisions"))


def test_a_chain_gives_the_first_plan_up_to_its_end_and_then_the_second(
    chain: tuple[ChainLink, ...], expected: list[PartHashes], tmp_path: Path
) -> None:
    (_, before), (_, after) = chain
    assert expected == batches_of([(0, before)], tmp_path / "a")[:CHANGE] + batches_of([(0, after)], tmp_path / "b")


@pytest.mark.parametrize("world", WORLDS)
def test_resume_at_any_batch_and_world_size_gives_the_identical_rest(
    world: int, chain: tuple[ChainLink, ...], expected: list[PartHashes], tmp_path: Path
) -> None:
    states = []
    with Loader(chain, SIZE, stand_ins=StandIns(str(tmp_path))) as loader:
        states.append(loader.state)
        states += [loader.state for _ in loader]
    assert len(states) == len(expected) + 1
    for k, state in enumerate(states[:: 1 if world == 3 else 2]):
        at = k if world == 3 else 2 * k
        assert batches_of(chain, tmp_path, world, state=json.loads(json.dumps(state))) == expected[at:]


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_ranks_threads_and_memory_may_change_at_any_batch(
    chain: tuple[ChainLink, ...],
    expected: list[PartHashes],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    """This covers kills as well: each change discards the batches that were prepared ahead."""
    decisions = StandIns(str(tmp_path_factory.mktemp("decisions")))
    state: LoaderState | None = None
    loaded: list[PartHashes] = []
    while len(loaded) < len(expected):
        world = data.draw(st.sampled_from(WORLDS))
        decode = DecodeOptions(data.draw(st.integers(1, 4)), data.draw(st.sampled_from([1, 100_000, 1 << 28])))
        with Loader(chain, SIZE, world, state, stand_ins=decisions, decode=decode) as loader:
            for _ in range(data.draw(st.integers(1, 4))):
                batch = next(loader, None)
                if batch is not None:
                    loaded.append(part_hashes(batch, range(world)))
            state = loader.state
    assert loaded == expected


def test_loaders_that_share_the_batches_together_give_all_of_them(
    chain: tuple[ChainLink, ...], expected: list[PartHashes], tmp_path: Path
) -> None:
    loaded = {}
    for k in range(3):
        with Loader(chain, SIZE, part=(k, 3), stand_ins=StandIns(str(tmp_path))) as loader:
            loaded |= {batch.number: part_hashes(batch, [0]) for batch in loader}
    assert [loaded[number] for number in range(len(expected))] == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_torch_worker_processes(
    workers: int, chain: tuple[ChainLink, ...], tmp_path: Path
) -> None:
    def batches(state: LoaderState | None, workers: int) -> list[tuple[int, bytes, bytes, LoaderState]]:
        opened = functools.partial(Loader, chain, SIZE, 2, stand_ins=StandIns(str(tmp_path)))
        data = RankBatches(opened, rank=1)
        data.load_state_dict(state)
        context = "spawn" if workers else None
        with_workers = DataLoader(data, batch_size=None, num_workers=workers, multiprocessing_context=context)
        return [
            (batch.number, batch.rows.labels.numpy().tobytes(), batch.media.patches.numpy().tobytes(), batch.state)
            for batch in with_workers
        ]

    in_process = batches(None, 0)
    assert [number for number, *_ in in_process] == list(range(len(in_process)))
    assert batches(None, workers) == in_process
    assert batches(in_process[1][-1], workers) == in_process[2:]


RANK = """
import json, sys
import torch
from pathlib import Path
from packing.loader.loader import Loader
from packing.loader.stand_ins import StandIns
from packing.loader.torch_batches import agree_over
from stores.store import Store
from tests.packing.loader.test_loader_changes import SIZE, part_hashes
rank, folder, urls, rounds = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
chain = [(first, Store.open(url).head()) for first, url in urls]
state = None
for stop in rounds:
    decisions = StandIns(folder + "/decisions", agree_over())
    with Loader(chain, SIZE, 2, state, ranks=[rank], stand_ins=decisions) as loader:
        for batch in loader:
            hashes = [[list(address), hash_] for address, hash_ in part_hashes(batch, [rank]).items()]
            print(json.dumps([batch.number, len(batch.failures), hashes]), flush=True)
            state = loader.state
            if batch.number == stop:
                break
torch.distributed.destroy_process_group()
"""


def test_two_processes_that_decode_their_shares_agree_on_failures(
    chain: tuple[ChainLink, ...], expected: list[PartHashes], tmp_path: Path
) -> None:
    urls = json.dumps([[first, packs.url] for first, packs in chain])
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path), urls, "[2, 10000]"], cwd=ROOT, stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0].splitlines() for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    failures = 0
    for number, lines in enumerate(zip(*outputs, strict=True)):
        hashes: PartHashes = {}
        for line in lines:
            batch, failed, rank_hashes = json.loads(line)
            assert batch == number
            hashes |= {tuple(address): hash_ for address, hash_ in rank_hashes}
        failures += failed
        assert hashes == expected[number]
    assert number == len(expected) - 1 and failures


TRAINER = """
import json, sys, time
from pathlib import Path
from packing.loader.loader import Loader
from packing.loader.stand_ins import StandIns
from stores.store import Store
from tests.packing.loader.test_loader_changes import SIZE, part_hashes
folder, urls, world = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
saved = folder / "state.json"
state = json.loads(saved.read_text()) if saved.exists() else None
chain = [(first, Store.open(url).head()) for first, url in urls]
with Loader(chain, SIZE, world, state, stand_ins=StandIns(str(folder / "decisions"))) as loader:
    for batch in loader:
        hashes = [[list(address), hash_] for address, hash_ in part_hashes(batch, range(world)).items()]
        with (folder / "seen.jsonl").open("a") as log:
            log.write(json.dumps([batch.number, hashes]) + "\\n")
        new = folder / "state.new"
        new.write_text(json.dumps(loader.state))
        new.rename(saved)
        time.sleep(0.02)
"""


def test_resume_after_random_kills_repeats_equal_batches(
    chain: tuple[ChainLink, ...], expected: list[PartHashes], tmp_path: Path
) -> None:
    urls = json.dumps([[first, packs.url] for first, packs in chain])
    rng = random.Random(3)
    kills = 0
    while True:
        world = str(rng.choice(WORLDS))
        process = subprocess.Popen([sys.executable, "-c", TRAINER, str(tmp_path), urls, world], cwd=ROOT)
        wanted = len(_lines(tmp_path / "seen.jsonl")) + rng.randint(1, 3)
        while process.poll() is None and len(_lines(tmp_path / "seen.jsonl")) < wanted:
            time.sleep(0.005)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert process.returncode == 0 and kills > 2
    seen = [json.loads(line) for line in _lines(tmp_path / "seen.jsonl")]
    for number, hashes in seen:
        assert {tuple(address): hash_ for address, hash_ in hashes} == expected[number]
    assert {number for number, _ in seen} == set(range(len(expected)))


def _lines(file: Path) -> list[bytes]:
    return (
        [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")] if file.exists() else []
    )


# -------------------------------------------------------------------- media that do not decode


def failed_segments(batch: GlobalBatch) -> list[tuple[int, int, int]]:
    """(row, first position, end) of the segments whose media failed."""
    segments = []
    for failure in batch.failures:
        pack = batch.packs[failure.row]
        slots = [packed.items[0].slot for packed in pack.media if packed.media.digest == failure.digest]
        start = 0
        for segment in pack.segments:
            if any(start <= slot < start + segment.length for slot in slots):
                segments.append((failure.row, start, start + segment.length))
            start += segment.length
        assert failure.sample in {segment.sample for segment in pack.segments}
    return segments


def test_an_undecodable_medium_is_gray_and_only_its_segment_carries_no_loss(
    chain: tuple[ChainLink, ...], tmp_path: Path
) -> None:
    failures = wanted = 0
    bad_digests = {undecodable(i).digest for i in range(6)}
    with Loader(chain, SIZE, stand_ins=StandIns(str(tmp_path))) as loader:
        for batch in loader:
            wanted += sum(packed.media.digest in bad_digests for pack in batch.packs for packed in pack.media)
            assert not batch.failures or (tmp_path / f"{batch.number:09d}.json").exists()  # before it is consumed
            failures += len(batch.failures)
            rows, media = batch.rows(0), batch.media(0)
            muted = np.zeros(rows.ids.shape, bool)
            for row, first, end in failed_segments(batch):
                muted[row, first:end] = True
            assert (rows.labels[muted] == IGNORED).all()
            link = chain[0] if batch.number < CHANGE else chain[1]
            first = (batch.number - link[0]) * SIZE
            targets = np.stack([pack.loss_mask for pack in link[1].records(first, first + SIZE)])
            assert np.array_equal(np.roll(rows.loss_mask & ~muted, 1, axis=1), targets & ~np.roll(muted, 1, axis=1))
            bounds = np.cumsum([0, *media.grids.prod(axis=1)])
            gray = [bool((media.patches[a:b] == STAND_IN).all()) for a, b in pairwise(bounds)]
            bad = {(row, slot) for row, at, end in failed_segments(batch) for slot in range(at, end)}
            assert gray == [(row, slot) in bad for row, slot in zip(media.rows, media.first_slots, strict=True)]
    assert failures == wanted > 12


def test_a_stored_decision_holds_although_the_medium_would_decode_now(made: Made, tmp_path: Path) -> None:
    """The decoder of the first run refused a good picture; the decoder of the replay accepts it."""
    with Loader(made.packs, SIZE) as loader:
        batch = next(loader)
        row = next(number for number, pack in enumerate(batch.packs) if pack.media)
        pack = batch.packs[row]
        patches = batch.media(0).patches
    decision = {
        "row": row,
        "digest": pack.media[0].media.digest,
        "sample": "",
        "source": "",
        "reason": "x",
    }
    (tmp_path / "000000000.json").write_text(json.dumps([decision]))
    with Loader(made.packs, SIZE, stand_ins=StandIns(str(tmp_path))) as loader:
        replayed = next(loader)
        assert [failure.row for failure in replayed.failures] == [row]
        new_patches = replayed.media(0).patches
    count = sum(int(np.prod(item.grid)) for item in pack.media[0].items)
    assert new_patches.shape == patches.shape and (new_patches == STAND_IN).all(axis=(1, 2, 3)).sum() == count
    assert not np.array_equal(new_patches, patches)


def test_media_that_a_decision_does_not_list_have_to_decode(chain: tuple[ChainLink, ...], tmp_path: Path) -> None:
    with Loader(chain, SIZE, stand_ins=StandIns(str(tmp_path))) as loader:
        number = next(batch.number for batch in loader if batch.failures)
    (tmp_path / f"{number:09d}.json").write_text("[]")
    with (
        Loader(chain, SIZE, stand_ins=StandIns(str(tmp_path))) as loader,
        pytest.raises(StoreError, match="but it decoded when this batch was first loaded"),
    ):
        for _ in loader:
            pass


def test_a_run_without_its_decisions_is_not_resumed(chain: tuple[ChainLink, ...], tmp_path: Path) -> None:
    with Loader(chain, SIZE, stand_ins=StandIns(str(tmp_path / "here"))) as loader:
        for batch in loader:
            if batch.failures:
                break
        state = loader.state
    with pytest.raises(ResumeError, match="other decisions about media"):
        Loader(chain, SIZE, state=state, stand_ins=StandIns(str(tmp_path / "elsewhere")))


def test_a_broken_decoder_stops_the_run(tmp_path: Path) -> None:
    bad = [document(f"bad {i}", "caption", undecodable(i)) for i in range(80)]
    texts = [one for one in corpus() if one.domain == "knowledge"]
    packs = make(tmp_path, [*bad, *texts]).packs
    with (
        Loader(packs, SIZE, stand_ins=StandIns(str(tmp_path / "decisions"))) as loader,
        pytest.raises(StoreError, match=r"of \d+ media of a batch don't decode"),
    ):
        for _ in loader:
            pass


def test_an_amendment_before_the_saved_batch_is_refused_and_a_later_one_is_not(chain: tuple[ChainLink, ...]) -> None:
    before = chain[0][1]
    with Loader([(0, before)], SIZE) as loader:
        state = loader.state
    begun: LoaderState = {**state, "next_batch": CHANGE + 1}
    with pytest.raises(ResumeError, match="not amended there"):
        Loader(chain, SIZE, state=begun)
    Loader(chain, SIZE, state={**state, "next_batch": CHANGE}).close()
    amended: LoaderState = {**begun, "chain": [[0, before.meta["plan"], before.content_root], [CHANGE, "p", "r"]]}
    with pytest.raises(ResumeError, match="a chain with another link"):
        Loader([(0, before)], SIZE, state=amended)


# -------------------------------------------------------------------- memory, time, interfaces


def test_waiting_media_stay_within_their_byte_limit(made: Made) -> None:
    def most_used(ahead_bytes: int) -> int:
        used = []
        with Loader(made.packs, SIZE, decode=DecodeOptions(ahead_bytes=ahead_bytes)) as loader:
            for _ in loader:
                time.sleep(0.05)
                used.append(loader._reader.budget._used)
        return max(used)

    assert most_used(2_600_000) <= 2_600_000 < most_used(1 << 30)
    with Loader(made.packs, SIZE, decode=DecodeOptions(ahead_bytes=1)) as loader:
        assert sum(1 for _ in loader) == len(loader)


def test_a_loader_that_waits_for_memory_can_be_closed(made: Made) -> None:
    loader = Loader(made.packs, SIZE, decode=DecodeOptions(ahead_bytes=1))
    next(loader)
    start = time.monotonic()
    loader.close()
    assert time.monotonic() - start < 5


def test_the_timer_has_seconds_for_every_phase(made: Made) -> None:
    with Loader(made.packs, SIZE) as loader:
        for batch in loader:
            batch.rows(0), batch.media(0)
        seconds = loader.timer.seconds
        assert all(seconds[phase] > 0 for phase in ("outline", "read", "decode", "resize", "patch", "collate", "wait"))
        assert "the trainer waited" in loader.timer.summary()


def test_a_process_decodes_only_its_dealt_media(made: Made) -> None:
    with Loader(made.packs, SIZE, 3, ranks=[1]) as loader:
        batch = next(loader)
        assert len(batch.media(1).grids)
        with pytest.raises(ValueError, match="decodes for ranks"):
            batch.media(0)
        dealt = {(placed.row, placed.medium) for placed in (batch._items[i] for i in batch._dealt_items[1])}
        assert set(batch._decoding) == dealt


def test_a_long_clip_is_dealt_by_chunk(tmp_path: Path) -> None:
    """Ranks decode only their chunks of a clip, and together all of them."""
    texts = [one for one in corpus() if one.domain == "knowledge"]
    clips = [document(f"clip {i}", "video", medium(clip(40 + i))) for i in range(12)]
    packs = make(tmp_path, [*clips, *texts]).packs
    with Loader(packs, SIZE) as alone, Loader(packs, SIZE, 12) as many:
        for one, other in zip(alone, many, strict=True):
            assert part_hashes(one, [0]) == part_hashes(other, range(12))


def test_for_megatron_gives_the_keys_of_its_loops(made: Made) -> None:
    opened = functools.partial(Loader, made.packs, SIZE)
    plain, given = list(RankBatches(opened)), list(for_megatron(RankBatches(opened)))
    assert len(plain) == len(given) > 0
    for batch, tensors in zip(plain, given, strict=True):
        rows = batch.rows
        assert torch.equal(tensors["tokens"], rows.ids) and tensors["attention_mask"] is None
        assert tensors["loss_mask"].dtype == torch.float32 and torch.equal(tensors["loss_mask"].bool(), rows.loss_mask)
        targets = rows.loss_mask
        assert torch.equal(tensors["labels"][targets], rows.labels[targets]) and int(tensors["labels"].min()) >= 0
        assert torch.equal(tensors["position_ids"], rows.positions) and len(tensors["cu_seqlens"]) == SIZE


def test_agree_over_a_group_of_one_rank_returns_its_failures(tmp_path: Path) -> None:
    ours = not torch.distributed.is_initialized()  # tests of the model may have left a group, of one rank as well
    if ours:
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert agree_over()(0, []) == []
    finally:
        if ours:
            torch.distributed.destroy_process_group()


def test_packs_beyond_the_last_whole_batch_are_left_out(made: Made, tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "packs"), "packs", "packs")
    writer = store.writer("all")
    for pack in made.packs.records(0, SIZE + 5):
        media = tuple(
            dataclasses.replace(
                one,
                media=dataclasses.replace(one.media, payload=made.packs.read(one.media.location)),  # type: ignore[arg-type]
            )
            for one in pack.media
        )
        writer.add(dataclasses.replace(pack, media=media))
    short = store.commit([writer.finish()], node="n", units=["all"], meta=made.packs.meta)
    with Loader(short, SIZE) as loader, Loader(made.packs, SIZE) as whole:
        assert len(loader) == 1 and part_hashes(next(loader), [0]) == part_hashes(next(whole), [0])
        assert next(loader, None) is None
