"""How long does a loader take from start to first batch, resumed at 10, 50 or 90 % of a million global batches?

    python -m benchmarks.loader_resume [--quick]

A million records of 16 uint32 ids, one per batch. Peers get twenty thousand, because some take half an hour to reach
the places at which their states are saved. The first id is the record's number, which detects a wrong place. Each
loader saves its own states while it reads up to those places. Measured is everything from files to the first batch:
open, construct, restore. webdataset has no state and reads on from the start. Wall seconds, warm page cache, processes
that have imported everything; no loader uses workers.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import energon
from benchmarks.contest import Contestant, serve
from benchmarks.measure import Result, save
from benchmarks.peers import run_in

TOKENS, SHARD_BYTES = 16, 64 << 20
BAR_S = 1.0
SHARES = (0.1, 0.5, 0.9)

Resume = Callable[[str, Any], int]
"""(folder, state) -> record number in the first batch."""


def rows(count: int) -> Iterator[np.ndarray]:
    """Rows of (TOKENS,) uint32: the row's number, then zeros."""
    for number in range(count):
        ids = np.zeros(TOKENS, np.uint32)
        ids[0] = number
        yield ids


def states_at(places: list[int], loader: Any, state: Callable[[], Any]) -> list[Any]:
    """States of a loader after `places` batches (ascending counts)."""
    batches, done, states = iter(loader), 0, []
    for place in places:
        for _ in islice(batches, place - done):
            pass
        done = place
        states.append(state())
    return states


# ---------------------------------------------------------------------- ours


def write_ours(folder: str, count: int) -> None:
    from manifests.records import Pack, Segment, record_id
    from stores.store import Store

    store = Store.create(f"{folder}/packs", "packs", "packs")
    writer = store.writer("all", SHARD_BYTES)
    mask = np.ones(TOKENS, bool)
    segments = (Segment(record_id("web", "all"), "web", 0, TOKENS),)
    for ids in rows(count):
        writer.add(Pack(ids, mask, segments))
    meta = {"plan": "none", "global_batch_packs": 1, "max_pack_tokens": TOKENS}
    store.commit([writer.finish()], node="bench", units=["all"], meta=meta)


def ours(folder: str, state: Any = None) -> Any:
    """Our loader, one pack per global batch."""
    from packing.loader.loader import Loader
    from stores.store import Store

    packs = Store.open(f"{folder}/packs").head()
    assert packs is not None
    return Loader(packs, 1, state=state)


def states_ours(folder: str, places: list[int]) -> list[Any]:
    with ours(folder) as loader:
        return states_at(places, loader, lambda: loader.state)


def resume_ours(folder: str, state: Any) -> int:
    with ours(folder, state) as loader:
        return int(next(loader).ids(0)[0, 0])


# ---------------------------------------------------------------------- peers


def write_mds(folder: str, count: int) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=folder, columns={"ids": f"ndarray:uint32:{TOKENS}"}, exist_ok=True) as sink:
        for ids in rows(count):
            sink.write({"ids": ids})


def mds(folder: str) -> Any:
    from streaming import StreamingDataLoader, StreamingDataset

    return StreamingDataLoader(
        StreamingDataset(local=folder, shuffle=False, batch_size=1, num_canonical_nodes=1), batch_size=1
    )


def states_mds(folder: str, places: list[int]) -> list[Any]:
    loader = mds(folder)
    return states_at(places, loader, loader.state_dict)


def resume_mds(folder: str, state: Any) -> int:
    loader = mds(folder)
    loader.load_state_dict(state)
    return int(next(iter(loader))["ids"][0, 0])


def write_litdata(folder: str, count: int) -> None:
    from litdata.streaming.item_loader import TokensLoader
    from litdata.streaming.writer import BinaryWriter

    sink = BinaryWriter(folder, chunk_bytes="64MB", item_loader=TokensLoader())
    for number, ids in enumerate(rows(count)):
        sink[number] = ids
    sink.done()
    sink.merge(1)


def litdata(folder: str) -> Any:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.item_loader import TokensLoader

    dataset = StreamingDataset(input_dir=folder, item_loader=TokensLoader(block_size=TOKENS), shuffle=False)
    return StreamingDataLoader(dataset, batch_size=1, num_workers=0)


def states_litdata(folder: str, places: list[int]) -> list[Any]:
    loader = litdata(folder)
    return states_at(places, loader, loader.state_dict)


def resume_litdata(folder: str, state: Any) -> int:
    loader = litdata(folder)
    loader.load_state_dict(state)
    return int(next(iter(loader))[0, 0])


def write_webdataset(folder: str, count: int) -> None:
    from webdataset import ShardWriter

    with ShardWriter(f"{folder}/%06d.tar", maxsize=SHARD_BYTES, maxcount=count, verbose=0) as sink:
        for number, ids in enumerate(rows(count)):
            sink.write({"__key__": f"{number:09}", "ids.bin": ids.tobytes()})


def states_webdataset(folder: str, places: list[int]) -> list[Any]:
    return list(places)


def resume_webdataset(folder: str, state: Any) -> int:
    import webdataset

    shards = sorted(str(path) for path in Path(folder).glob("*.tar"))
    samples = webdataset.WebDataset(shards, shardshuffle=False)
    return int(_ids_of(next(islice(iter(samples), state, None)))[0])


def _ids_of(sample: dict[str, bytes]) -> np.ndarray:
    return np.frombuffer(sample["ids.bin"], np.uint32)


def write_energon(folder: str, count: int) -> None:
    write_webdataset(folder, count)
    energon.prepare(folder)


def states_energon(folder: str, places: list[int]) -> list[Any]:
    loader = energon.loader(folder, 1, _ids_of, np.stack, savable=True)
    return states_at(places, loader, loader.save_state_rank)


def resume_energon(folder: str, state: Any) -> int:
    loader = energon.loader(folder, 1, _ids_of, np.stack, savable=True)
    loader.restore_state_rank(state)
    return int(next(iter(loader))[0, 0])


def write_datasets(folder: str, count: int) -> None:
    import datasets
    import pyarrow as pa

    flat = pa.array(np.concatenate(list(rows(count))), pa.uint32())
    datasets.Dataset(pa.table({"ids": pa.FixedSizeListArray.from_arrays(flat, TOKENS)})).save_to_disk(folder)


def states_datasets(folder: str, places: list[int]) -> list[Any]:
    import datasets

    dataset = datasets.load_from_disk(folder).with_format("numpy").to_iterable_dataset()
    return states_at(places, dataset, dataset.state_dict)


def resume_datasets(folder: str, state: Any) -> int:
    import datasets

    dataset = datasets.load_from_disk(folder).with_format("numpy").to_iterable_dataset()
    dataset.load_state_dict(state)
    return int(next(iter(dataset))["ids"][0])


LOADERS: dict[str, tuple[str | None, Callable[[str, int], None], Callable[[str, list[int]], list[Any]], Resume]] = {
    "ours": (None, write_ours, states_ours, resume_ours),
    "litdata": ("lightning", write_litdata, states_litdata, resume_litdata),
    "mds": ("mds", write_mds, states_mds, resume_mds),
    "energon": ("lightning", write_energon, states_energon, resume_energon),
    "datasets": ("datasets", write_datasets, states_datasets, resume_datasets),
    "webdataset, reading on": ("webdataset", write_webdataset, states_webdataset, resume_webdataset),
}


# ---------------------------------------------------------------------- turns


def prepare(name: str, folder: str, count: int) -> None:
    """Write the data of a loader, read up to each place, and save the states there."""
    _, write, states, _ = LOADERS[name]
    (Path(folder) / "data").mkdir()
    write(f"{folder}/data", count)
    saved = states(f"{folder}/data", [int(share * count) for share in SHARES])
    (Path(folder) / "states").write_bytes(pickle.dumps(saved))


def resumed(name: str, folder: str, place: int) -> dict[str, float]:
    """Resume a loader at the place numbered `place`. Returns the number in its first batch."""
    state = pickle.loads((Path(folder) / "states").read_bytes())[place]
    return {"number": LOADERS[name][3](f"{folder}/data", state)}


def compare(quick: bool) -> None:
    def count_of(name: str) -> int:
        return 20_000 if quick else 1_000_000 if name == "ours" else 20_000

    seconds: dict[str, list[float]] = {}
    lost: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as root:
        contestants = []
        for name, (environment, *_) in LOADERS.items():
            folder = Path(root) / name.partition(",")[0]
            folder.mkdir()
            run_in(environment, "benchmarks.loader_resume", "--prepare", name, str(folder), str(count_of(name)))
            contestants.append((Contestant("benchmarks.loader_resume", name, environment), str(folder)))
        for place, share in enumerate(SHARES):
            turns: dict[str, list[float]] = {}
            for repetition in range(2 if quick else 4):  # the first one warms up
                for contestant, folder in contestants:
                    if contestant.name.endswith("reading on") and repetition > 1:
                        continue  # one turn takes minutes
                    answer = contestant.ask(folder=folder, place=place)
                    expected = int(share * count_of(contestant.name))
                    if answer["number"] != expected:
                        lost[contestant.name] = f"batch {answer['number']:.0f} instead of {expected}"
                    if repetition:
                        turns.setdefault(contestant.name, []).append(answer["wall_s"])
            for name, taken in turns.items():
                seconds.setdefault(name, []).append(round(statistics.median(taken), 4))
        for contestant, _ in contestants:
            contestant.close()
    for name, taken in seconds.items():
        print(f"{name:24}" + "".join(f"{duration:>10.4f} s" for duration in taken) + f"   {lost.get(name, '')}")
    if quick:
        return
    per_second = {name: round(1 / max(taken), 3) for name, taken in seconds.items()}
    ours_s = seconds["ours"]
    save(
        "loader_resume",
        Result(
            question="First batch of a loader resumed at 10, 50 and 90 % of 10^6 batches, over the bar of 1 second:",
            unit="first batches per second, at the slowest of the three places",
            ours=per_second.pop("ours"),
            peers={"the bar": 1 / BAR_S},
            bar=1.0,
            libraries=("numpy", "pyarrow"),
            details={
                "seconds at 10, 50, 90 %": seconds,
                "ours, slowest place over fastest": round(max(ours_s) / min(ours_s), 2),
                "peers, of 20,000 batches": per_second,
                "lost their place": lost,
            },
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smoke test: few batches, no result")
    parser.add_argument("--serve", choices=LOADERS, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", choices=LOADERS, help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("count", nargs="?", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(lambda folder, place: resumed(options.serve, folder, place))
    elif options.prepare:
        prepare(options.prepare, options.folder, options.count)
        print(json.dumps({}))
    else:
        compare(options.quick)


if __name__ == "__main__":
    main()
