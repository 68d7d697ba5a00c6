"""Whatever changes while a run goes on, global batches stay: ranks, threads, processes, plans, bad media, kills."""

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
from packing.loader.loader import Loader, LoaderState
from packing.loader.stand_ins import StandIns
from packing.loader.torch_batches import RankBatches, agree_over, for_megatron
from stores.store import Store
from tests.packing.corpus import MIXTURE, Made, clip, corpus, document, make, medium, picture

SIZE = MIXTURE.global_batch_packs
WORLDS = (1, 2, 3, 4, 6, 12)
ROOT = Path(__file__).parents[3]
CHANGE = 2
"""The global batch from which on the second plan gives the packs."""

Pieces = dict[tuple[int, ...], str]


def lying(number: int) -> Media:
    """Whole as far as the store knows, and no picture."""
    payload = b"GIF89a no picture %d" % number
    told = medium(picture(number, 40, 40, "PNG"))
    return dataclasses.replace(told, payload=payload, digest=hashlib.sha256(payload).hexdigest())


def pieces(batch: GlobalBatch, ranks: Iterable[int]) -> Pieces:
    """Hashes of all that `ranks` get of a batch: rows by number, items by row and slot."""
    found: Pieces = {}
    for rank in ranks:
        rows, media = batch.rows(rank), batch.media(rank)
        for i, row in enumerate(rows.rows.tolist()):
            arrays = (rows.ids[i], rows.labels[i], rows.loss_mask[i], rows.positions[i])
            words = str(rows.segment_lengths[i]).encode()
            found[row, -1] = hashlib.sha256(b"".join(array.tobytes() for array in arrays) + words).hexdigest()
        at = 0
        for i, grid in enumerate(media.grids):
            count = int(grid.prod())
            place = (int(media.rows[i]), int(media.first_slots[i]))
            assert place not in found
            found[place] = hashlib.sha256(grid.tobytes() + media.patches[at : at + count].tobytes()).hexdigest()
            at += count
        assert at == len(media.patches)
    return dict(sorted(found.items()))


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[ChainLink, ...]:
    """Two plans, one after the other, both with media that don't decode, split documents and ends of epochs."""
    folder = tmp_path_factory.mktemp("chain")
    links = []
    for name, first in (("before", 0), ("after", CHANGE)):
        bad = [document(f"{name} {i}", "caption", lying(i)) for i in range(6)]
        mixture = dataclasses.replace(MIXTURE, seed=first)
        made = make(folder / name, [*corpus(), *bad], mixture)
        links.append((first, made.packs))
        arrays = [block.arrays for block in made.plan.blocks]
        assert max(array["epoch"].max() for array in arrays) > 0 and max(array["start"].max() for array in arrays) > 0
    return tuple(links)


def told(chain: Sequence[ChainLink], stand_ins: Path, world: int = 1, **options: object) -> list[Pieces]:
    with Loader(chain, SIZE, world, stand_ins=StandIns(str(stand_ins)), **options) as loader:  # type: ignore[arg-type]
        return [pieces(batch, range(world)) for batch in loader]


@pytest.fixture(scope="session")
def expected(chain: tuple[ChainLink, ...], tmp_path_factory: pytest.TempPathFactory) -> list[Pieces]:
    """What an undisturbed loader of one rank gives."""
    return told(chain, tmp_path_factory.mktemp("decisions"))


def test_a_chain_gives_the_first_plan_up_to_the_change_and_then_the_second(
    chain: tuple[ChainLink, ...], expected: list[Pieces], tmp_path: Path
) -> None:
    (_, before), (_, after) = chain
    assert expected == told([(0, before)], tmp_path / "a")[:CHANGE] + told([(0, after)], tmp_path / "b")


@pytest.mark.parametrize("world", WORLDS)
def test_restored_at_every_batch_at_any_world_size_the_rest_is_identical(
    world: int, chain: tuple[ChainLink, ...], expected: list[Pieces], tmp_path: Path
) -> None:
    states = []
    with Loader(chain, SIZE, stand_ins=StandIns(str(tmp_path))) as loader:
        states.append(loader.state)
        states += [loader.state for _ in loader]
    assert len(states) == len(expected) + 1
    for k, state in enumerate(states[:: 1 if world == 3 else 2]):
        at = k if world == 3 else 2 * k
        assert told(chain, tmp_path, world, state=json.loads(json.dumps(state))) == expected[at:]


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_ranks_threads_and_memory_may_change_at_any_batch(
    chain: tuple[ChainLink, ...],
    expected: list[Pieces],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    """Also kills: what was loaded ahead is thrown away at each change."""
    decisions = StandIns(str(tmp_path_factory.mktemp("decisions")))
    state: LoaderState | None = None
    found: list[Pieces] = []
    while len(found) < len(expected):
        world = data.draw(st.sampled_from(WORLDS))
        options = {
            "threads": data.draw(st.integers(1, 4)),
            "ahead_bytes": data.draw(st.sampled_from([1, 100_000, 1 << 28])),
        }
        with Loader(chain, SIZE, world, state, stand_ins=decisions, **options) as loader:
            for _ in range(data.draw(st.integers(1, 4))):
                batch = next(loader, None)
                if batch is not None:
                    found.append(pieces(batch, range(world)))
            state = loader.state
    assert found == expected


def test_loaders_that_share_the_batches_give_all_of_them(
    chain: tuple[ChainLink, ...], expected: list[Pieces], tmp_path: Path
) -> None:
    found = {}
    for k in range(3):
        with Loader(chain, SIZE, part=(k, 3), stand_ins=StandIns(str(tmp_path))) as loader:
            found |= {batch.number: pieces(batch, [0]) for batch in loader}
    assert [found[number] for number in range(len(expected))] == expected


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_worker_processes_of_torch_change_nothing(workers: int, chain: tuple[ChainLink, ...], tmp_path: Path) -> None:
    def batches(state: LoaderState | None, workers: int) -> list[tuple[int, bytes, bytes, LoaderState]]:
        opened = functools.partial(Loader, chain, SIZE, 2, stand_ins=StandIns(str(tmp_path)))
        data = RankBatches(opened, rank=1)
        data.load_state_dict(state)
        context = "spawn" if workers else None
        with_workers = DataLoader(data, batch_size=None, num_workers=workers, multiprocessing_context=context)
        return [
            (one.number, one.rows.labels.numpy().tobytes(), one.media.patches.numpy().tobytes(), one.state)
            for one in with_workers
        ]

    alone = batches(None, 0)
    assert [number for number, *_ in alone] == list(range(len(alone)))
    assert batches(None, workers) == alone
    assert batches(alone[1][-1], workers) == alone[2:]


RANK = """
import json, sys
import torch
from pathlib import Path
from packing.loader.loader import Loader
from packing.loader.stand_ins import StandIns
from packing.loader.torch_batches import agree_over
from stores.store import Store
from tests.packing.loader.test_loader_changes import SIZE, pieces
rank, folder, urls, rounds = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
chain = [(first, Store.open(url).head()) for first, url in urls]
state = None
for stop in rounds:
    decisions = StandIns(folder + "/decisions")
    with Loader(chain, SIZE, 2, state, ranks=[rank], stand_ins=decisions, agree=agree_over()) as loader:
        for batch in loader:
            found = [[list(place), word] for place, word in pieces(batch, [rank]).items()]
            print(json.dumps([batch.number, len(batch.failures), found]), flush=True)
            state = loader.state
            if batch.number == stop:
                break
torch.distributed.destroy_process_group()
"""


def test_two_processes_that_each_decode_their_share_agree_about_what_failed(
    chain: tuple[ChainLink, ...], expected: list[Pieces], tmp_path: Path
) -> None:
    urls = json.dumps([[first, packs.url] for first, packs in chain])
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path), urls, "[2, 10000]"], cwd=ROOT, stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    shown = [process.communicate(timeout=120)[0].splitlines() for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    failures = 0
    for number, lines in enumerate(zip(*shown, strict=True)):
        found: Pieces = {}
        for line in lines:
            batch, failed, mine = json.loads(line)
            assert batch == number
            found |= {tuple(place): word for place, word in mine}
        failures += failed
        assert found == expected[number]
    assert number == len(expected) - 1 and failures


TRAINER = """
import json, sys, time
from pathlib import Path
from packing.loader.loader import Loader
from packing.loader.stand_ins import StandIns
from stores.store import Store
from tests.packing.loader.test_loader_changes import SIZE, pieces
folder, urls, world = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
saved = folder / "state.json"
state = json.loads(saved.read_text()) if saved.exists() else None
chain = [(first, Store.open(url).head()) for first, url in urls]
with Loader(chain, SIZE, world, state, stand_ins=StandIns(str(folder / "decisions"))) as loader:
    for batch in loader:
        found = [[list(place), word] for place, word in pieces(batch, range(world)).items()]
        with (folder / "seen.jsonl").open("a") as log:
            log.write(json.dumps([batch.number, found]) + "\\n")
        beside = folder / "state.new"
        beside.write_text(json.dumps(loader.state))
        beside.rename(saved)
        time.sleep(0.02)
"""


def test_killed_at_random_and_started_again_every_batch_is_the_same_each_time_it_is_seen(
    chain: tuple[ChainLink, ...], expected: list[Pieces], tmp_path: Path
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
    for number, found in seen:
        assert {tuple(place): word for place, word in found} == expected[number]
    assert {number for number, _ in seen} == set(range(len(expected)))


def _lines(file: Path) -> list[bytes]:
    return (
        [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")] if file.exists() else []
    )


# -------------------------------------------------------------------- media that do not decode


def victims(batch: GlobalBatch) -> list[tuple[int, int, int]]:
    """(row, first position, end) of the segments whose media failed."""
    found = []
    for failure in batch.failures:
        pack = batch.packs[failure.row]
        slots = [one.items[0].slot for one in pack.media if one.media.digest == failure.digest]
        at = 0
        for segment in pack.segments:
            if any(at <= slot < at + segment.length for slot in slots):
                found.append((failure.row, at, at + segment.length))
            at += segment.length
        assert failure.sample in {segment.sample for segment in pack.segments}
    return found


def test_a_medium_that_does_not_decode_is_grey_and_its_segment_alone_carries_no_loss(
    chain: tuple[ChainLink, ...], tmp_path: Path
) -> None:
    failures = wanted = 0
    bad_digests = {lying(i).digest for i in range(6)}
    with Loader(chain, SIZE, stand_ins=StandIns(str(tmp_path))) as loader:
        for batch in loader:
            wanted += sum(one.media.digest in bad_digests for pack in batch.packs for one in pack.media)
            assert not batch.failures or (tmp_path / f"{batch.number:09d}.json").exists()  # before it is consumed
            failures += len(batch.failures)
            rows, media = batch.rows(0), batch.media(0)
            silent = np.zeros(rows.ids.shape, bool)
            for row, first, end in victims(batch):
                silent[row, first:end] = True
            assert (rows.labels[silent] == IGNORED).all()
            link = chain[0] if batch.number < CHANGE else chain[1]
            first = (batch.number - link[0]) * SIZE
            targets = np.stack([pack.loss_mask for pack in link[1].records(first, first + SIZE)])
            assert np.array_equal(np.roll(rows.loss_mask & ~silent, 1, axis=1), targets & ~np.roll(silent, 1, axis=1))
            bounds = np.cumsum([0, *media.grids.prod(axis=1)])
            grey = [bool((media.patches[a:b] == STAND_IN).all()) for a, b in pairwise(bounds)]
            bad = {(row, slot) for row, at, end in victims(batch) for slot in range(at, end)}
            assert grey == [(row, slot) in bad for row, slot in zip(media.rows, media.first_slots, strict=True)]
    assert failures == wanted > 12


def test_what_was_decided_is_honoured_though_it_would_decode_now(made: Made, tmp_path: Path) -> None:
    """The first run's decoder refused a good picture; the replay's takes it."""
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
        now = replayed.media(0).patches
    count = sum(int(np.prod(item.grid)) for item in pack.media[0].items)
    assert now.shape == patches.shape and (now == STAND_IN).all(axis=(1, 2, 3)).sum() == count
    assert not np.array_equal(now, patches)


def test_a_batch_that_was_decided_about_has_to_decode_otherwise(chain: tuple[ChainLink, ...], tmp_path: Path) -> None:
    with Loader(chain, SIZE, stand_ins=StandIns(str(tmp_path))) as loader:
        number = next(batch.number for batch in loader if batch.failures)
    (tmp_path / f"{number:09d}.json").write_text("[]")
    with (
        Loader(chain, SIZE, stand_ins=StandIns(str(tmp_path))) as loader,
        pytest.raises(StoreError, match="it was used when this batch was first seen"),
    ):
        for _ in loader:
            pass


def test_a_run_whose_decisions_are_gone_is_not_resumed(chain: tuple[ChainLink, ...], tmp_path: Path) -> None:
    with Loader(chain, SIZE, stand_ins=StandIns(str(tmp_path / "here"))) as loader:
        for batch in loader:
            if batch.failures:
                break
        state = loader.state
    with pytest.raises(ResumeError, match="other decisions about media"):
        Loader(chain, SIZE, state=state, stand_ins=StandIns(str(tmp_path / "elsewhere")))


def test_a_decoder_that_is_broken_stops_the_run(tmp_path: Path) -> None:
    bad = [document(f"bad {i}", "caption", lying(i)) for i in range(80)]
    texts = [one for one in corpus() if one.domain == "knowledge"]
    packs = make(tmp_path, [*bad, *texts]).packs
    with (
        Loader(packs, SIZE, stand_ins=StandIns(str(tmp_path / "decisions"))) as loader,
        pytest.raises(StoreError, match=r"of \d+ media of a batch don't decode"),
    ):
        for _ in loader:
            pass


def test_another_amendment_than_the_one_begun_is_refused_and_a_later_one_is_not(chain: tuple[ChainLink, ...]) -> None:
    before = chain[0][1]
    with Loader([(0, before)], SIZE) as loader:
        state = loader.state
    begun: LoaderState = {**state, "next_batch": CHANGE + 1}
    with pytest.raises(ResumeError, match="not amended at that place"):
        Loader(chain, SIZE, state=begun)
    Loader(chain, SIZE, state={**state, "next_batch": CHANGE}).close()
    amended: LoaderState = {**begun, "chain": [[0, before.meta["plan"], before.content_root], [CHANGE, "p", "r"]]}
    with pytest.raises(ResumeError, match="goes on elsewhere"):
        Loader([(0, before)], SIZE, state=amended)


# -------------------------------------------------------------------- memory, time, faces


def test_what_waits_stays_within_its_bytes(made: Made) -> None:

    def most(ahead_bytes: int) -> int:
        used = []
        with Loader(made.packs, SIZE, ahead_bytes=ahead_bytes) as loader:
            for _ in loader:
                time.sleep(0.05)
                used.append(loader._reader.budget._used)
        return max(used)

    assert most(2_600_000) <= 2_600_000 < most(1 << 30)
    with Loader(made.packs, SIZE, ahead_bytes=1) as loader:
        assert sum(1 for _ in loader) == len(loader)


def test_a_loader_that_waits_for_memory_can_be_closed(made: Made) -> None:
    loader = Loader(made.packs, SIZE, ahead_bytes=1)
    next(loader)
    start = time.monotonic()
    loader.close()
    assert time.monotonic() - start < 5


def test_it_says_where_the_time_went(made: Made) -> None:
    with Loader(made.packs, SIZE) as loader:
        for batch in loader:
            batch.rows(0), batch.media(0)
        seconds = loader.stages.seconds
        assert all(seconds[stage] > 0 for stage in ("outline", "read", "decode", "resize", "patch", "collate", "wait"))
        assert "the trainer waited" in loader.stages.in_words()


def test_each_process_decodes_only_what_it_was_dealt(made: Made) -> None:
    with Loader(made.packs, SIZE, 3, ranks=[1]) as loader:
        batch = next(loader)
        assert len(batch.media(1).grids)
        with pytest.raises(ValueError, match="decodes for ranks"):
            batch.media(0)
        dealt = {(one.row, one.medium) for one in (batch._placed[i] for i in batch._dealt_media[1])}
        assert set(batch._pixels) == dealt


def test_a_long_clip_is_shared_out_by_chunk(tmp_path: Path) -> None:
    """Ranks that have some chunks of a clip decode only those, and together all of them."""
    texts = [one for one in corpus() if one.domain == "knowledge"]
    clips = [document(f"clip {i}", "video", medium(clip(40 + i))) for i in range(12)]
    packs = make(tmp_path, [*clips, *texts]).packs
    with Loader(packs, SIZE) as alone, Loader(packs, SIZE, 12) as many:
        for one, other in zip(alone, many, strict=True):
            assert pieces(one, [0]) == pieces(other, range(12))


def test_megatron_is_given_what_its_loops_ask_for(made: Made) -> None:
    opened = functools.partial(Loader, made.packs, SIZE)
    plain, given = list(RankBatches(opened)), list(for_megatron(RankBatches(opened)))
    assert len(plain) == len(given) > 0
    for one, told in zip(plain, given, strict=True):
        assert torch.equal(told["tokens"], one.rows.ids) and told["attention_mask"] is None
        assert told["loss_mask"].dtype == torch.float32 and torch.equal(told["loss_mask"].bool(), one.rows.loss_mask)
        counted = one.rows.loss_mask
        assert torch.equal(told["labels"][counted], one.rows.labels[counted]) and int(told["labels"].min()) >= 0
        assert torch.equal(told["position_ids"], one.rows.positions) and len(told["cu_seqlens"]) == SIZE


def test_a_rank_alone_agrees_with_itself(tmp_path: Path) -> None:
    ours = not torch.distributed.is_initialized()  # else tests of the model left theirs, of one rank as well
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
        assert len(loader) == 1 and pieces(next(loader), [0]) == pieces(next(whole), [0])
        assert next(loader, None) is None
