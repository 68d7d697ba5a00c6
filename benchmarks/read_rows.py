"""How fast do token rows become torch [8, 4096] batches, without worker processes and with two workers?

    python -m benchmarks.read_rows [--quick]

8,192 rows of 4,096 uint32 ids, 128 MiB, in the format of each reader, read in order once per turn. Every reader yields
a uint32 tensor of ids and nothing else. Ours reads packs, which also hold a loss mask, segments and an index, and
verifies the checksum of each row; the peers verify nothing. `copy` is the upper bound: numpy reads the same bytes, one
read per batch into new memory. Warm reads come from the page cache; before cold ones the kernel drops the files. Memory
is measured in new processes: resident after the imports, and the peak of one epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import energon
from benchmarks.contest import Contestant, Round, paired_ratio, peak_rss_mb, rates, serve, spread
from benchmarks.measure import Result, save
from benchmarks.peers import ENVIRONMENTS, run_in

ROWS, ROW_TOKENS, BATCH_ROWS = 8192, 4096, 8
MEGATOKENS = ROWS * ROW_TOKENS / 1e6
BAR = 1.5

Batches = Callable[[str, int], Iterator[Any]]
"""(folder, workers) -> batches, uint32 tensors (8, 4096)."""


def all_ids() -> np.ndarray:
    """(ROWS, ROW_TOKENS) uint32, seeded."""
    return np.random.default_rng(3).integers(0, 163840, (ROWS, ROW_TOKENS), np.uint32)


# ---------------------------------------------------------------------- ours


def write_ours(folder: str) -> None:
    from manifests.records import Pack, Segment, record_id
    from stores.store import Store

    store = Store.create(f"{folder}/packs", "packs", "packs")
    writer = store.writer("all")
    mask = np.ones(ROW_TOKENS, bool)
    for number, ids in enumerate(all_ids()):
        writer.add(Pack(ids, mask, (Segment(record_id("web", f"{number}"), "web", 0, ROW_TOKENS),)))
    meta = {"plan": "none", "global_batch_packs": BATCH_ROWS, "max_pack_tokens": ROW_TOKENS}
    store.commit([writer.finish()], node="bench", units=["all"], meta=meta)


def batches_of_ours(folder: str) -> Iterator[Any]:
    """Global batches of our loader, ids not yet read."""
    from packing.loader.loader import Loader
    from stores.store import Store

    packs = Store.open(f"{folder}/packs").head()
    assert packs is not None
    with Loader(packs, BATCH_ROWS) as loader:
        yield from loader


def read_ours(folder: str, workers: int) -> Iterator[Any]:
    import torch

    if not workers:
        for batch in batches_of_ours(folder):
            yield torch.from_numpy(batch.ids(0))
    else:
        with ThreadPoolExecutor(workers) as pool:
            pending: deque[Future[np.ndarray]] = deque()
            for batch in batches_of_ours(folder):
                pending.append(pool.submit(batch.ids, 0))
                if len(pending) > 2 * workers:
                    yield torch.from_numpy(pending.popleft().result())
            for future in pending:
                yield torch.from_numpy(future.result())


# ---------------------------------------------------------------------- the upper bound


def write_copy(folder: str) -> None:
    all_ids().tofile(f"{folder}/ids.bin")


def read_copy(folder: str, workers: int) -> Iterator[Any]:
    import torch

    size = BATCH_ROWS * ROW_TOKENS * 4
    with open(f"{folder}/ids.bin", "rb") as file:
        for number in range(ROWS // BATCH_ROWS):
            into = np.empty((BATCH_ROWS, ROW_TOKENS), np.uint32)
            os.preadv(file.fileno(), [into.view(np.uint8).data.cast("B", (size,))], number * size)
            yield torch.from_numpy(into)


# ---------------------------------------------------------------------- peers


def write_mds(folder: str) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=folder, columns={"ids": f"ndarray:uint32:{ROW_TOKENS}"}, exist_ok=True) as sink:
        for ids in all_ids():
            sink.write({"ids": ids})


def read_mds(folder: str, workers: int) -> Iterator[Any]:
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    rows = StreamingDataset(local=folder, shuffle=False, batch_size=BATCH_ROWS)
    for batch in DataLoader(rows, batch_size=BATCH_ROWS, num_workers=workers):
        yield batch["ids"]


def write_litdata(folder: str) -> None:
    from litdata.streaming.item_loader import TokensLoader
    from litdata.streaming.writer import BinaryWriter

    sink = BinaryWriter(folder, chunk_bytes="64MB", item_loader=TokensLoader())
    for number, ids in enumerate(all_ids()):
        sink[number] = ids
    sink.done()
    sink.merge(1)


def read_litdata(folder: str, workers: int) -> Iterator[Any]:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.item_loader import TokensLoader

    rows = StreamingDataset(input_dir=folder, item_loader=TokensLoader(block_size=ROW_TOKENS), shuffle=False)
    yield from StreamingDataLoader(rows, batch_size=BATCH_ROWS, num_workers=workers)


def write_webdataset(folder: str) -> None:
    from webdataset import ShardWriter

    with ShardWriter(f"{folder}/%06d.tar", maxsize=64 << 20, verbose=0) as sink:
        for number, ids in enumerate(all_ids()):
            sink.write({"__key__": f"{number:09}", "ids.bin": ids.tobytes()})


def read_webdataset(folder: str, workers: int) -> Iterator[Any]:
    import torch
    import webdataset

    shards = sorted(str(path) for path in Path(folder).glob("*.tar"))
    rows = webdataset.WebDataset(shards, shardshuffle=False).map(_ids_of).batched(BATCH_ROWS, collation_fn=np.stack)
    for batch in webdataset.WebLoader(rows, batch_size=None, num_workers=workers):
        yield batch if isinstance(batch, torch.Tensor) else torch.from_numpy(batch)


def _ids_of(sample: dict[str, bytes]) -> np.ndarray:
    return np.frombuffer(sample["ids.bin"], np.uint32)


def write_energon(folder: str) -> None:
    write_webdataset(folder)
    energon.prepare(folder)


def read_energon(folder: str, workers: int) -> Iterator[Any]:
    import torch

    for batch in energon.loader(folder, BATCH_ROWS, _ids_of, np.stack, workers):
        yield batch if isinstance(batch, torch.Tensor) else torch.from_numpy(batch)


def write_datasets(folder: str) -> None:
    import datasets
    import pyarrow as pa

    flat = pa.array(all_ids().reshape(-1), pa.uint32())
    table = pa.table({"ids": pa.FixedSizeListArray.from_arrays(flat, ROW_TOKENS)})
    datasets.Dataset(table).save_to_disk(folder)


def read_datasets(folder: str, workers: int) -> Iterator[Any]:
    import datasets
    import torch
    from torch.utils.data import DataLoader

    rows = datasets.load_from_disk(folder).with_format("numpy", dtype=np.uint32)
    if not workers:
        for batch in rows.iter(batch_size=BATCH_ROWS):
            yield torch.from_numpy(batch["ids"])
        return
    for batch in DataLoader(rows, BATCH_ROWS, num_workers=workers, collate_fn=_stacked):
        yield torch.from_numpy(batch)


def _stacked(samples: list[dict[str, np.ndarray]]) -> np.ndarray:
    return np.stack([sample["ids"] for sample in samples])


READERS: dict[str, tuple[str | None, Callable[[str], None], Batches]] = {
    "ours": (None, write_ours, read_ours),
    "copy": (None, write_copy, read_copy),
    "litdata": ("lightning", write_litdata, read_litdata),
    "mds": ("mds", write_mds, read_mds),
    "webdataset": ("webdataset", write_webdataset, read_webdataset),
    "energon": ("lightning", write_energon, read_energon),
    "datasets": ("datasets", write_datasets, read_datasets),
}


WITHOUT_TORCH = "ours without torch"
"""Reader of the memory measurement only: yields numpy batches. All peers except `datasets` import torch themselves."""


# ---------------------------------------------------------------------- turns


def one_epoch(name: str, folder: str, workers: int) -> dict[str, float]:
    """Read all rows once. The sum of their first tokens proves that all readers read the same."""
    rows = total = 0
    for batch in READERS[name][2](folder, workers):
        assert tuple(batch.shape) == (BATCH_ROWS, ROW_TOKENS) and batch.element_size() == 4, batch.shape
        rows += len(batch)
        total += int(batch[:, 0].numpy().astype(np.int64).sum())
    assert rows == ROWS, rows
    return {"first_tokens": total}


def drop_from_cache(folder: Path) -> None:
    """Ask the kernel to drop the files of `folder` from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)  # pages that are not yet on disk would stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def turns(
    contestants: list[Contestant], root: Path, repetitions: int, workers: int, cold: bool
) -> dict[str, list[Round]]:
    """Rounds of all contestants, in turns; the warm-up round is left out. `cold`: drop the page cache before each."""
    rounds: dict[str, list[Round]] = {contestant.name: [] for contestant in contestants}
    for repetition in range(repetitions + 1):
        for contestant in contestants if repetition % 2 else contestants[::-1]:
            if cold:
                drop_from_cache(root / contestant.name)
            answer = contestant.ask(folder=str(root / contestant.name), workers=workers)
            if repetition:
                rounds[contestant.name].append(answer)
    return rounds


def memory(name: str, folder: str) -> dict[str, float]:
    """Resident MB after the imports, at the peak of one epoch, and their difference. Run it in a new process.

    Reading one batch imports everything.
    """
    if name == WITHOUT_TORCH:
        batches = batches_of_ours(folder)
        next(batches).ids(0)
        imported = peak_rss_mb()
        for batch in batches:
            batch.ids(0)
        assert "torch" not in sys.modules
    else:
        next(READERS[name][2](folder, 0))
        imported = peak_rss_mb()
        one_epoch(name, folder, 0)
    return {"imported": round(imported), "peak": round(peak_rss_mb()), "growth": round(peak_rss_mb() - imported, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smoke test: one repetition, no result")
    for child in ("--serve", "--write"):
        parser.add_argument(child, choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--memory", choices=[*READERS, WITHOUT_TORCH], help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(lambda folder, workers: one_epoch(options.serve, folder, workers))
    elif options.write:
        READERS[options.write][1](options.folder)
        print("{}")
    elif options.memory:
        print(json.dumps(memory(options.memory, options.folder)))
    else:
        compare(options.quick)


def compare(quick: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        root = Path(folder)
        for name, (environment, _, _) in READERS.items():
            (root / name).mkdir()
            run_in(environment, "benchmarks.read_rows", "--write", name, str(root / name))
        contestants = [
            Contestant("benchmarks.read_rows", name, environment) for name, (environment, _, _) in READERS.items()
        ]
        settings = {"warm": (7, 0, False), "cold": (3, 0, True), "warm, 2 workers": (3, 2, False)}
        details: dict[str, Any] = {}
        for setting, (repetitions, workers, cold) in settings.items():
            rounds = turns(contestants, root, 1 if quick else repetitions, workers, cold)
            assert len({turn["first_tokens"] for taken in rounds.values() for turn in taken}) == 1
            limit = rounds.pop("copy")
            for clock in ("cpu_s", "wall_s"):
                medians = rates(rounds, MEGATOKENS, clock)
                of_limit = medians["ours"] / rates({"copy": limit}, MEGATOKENS, clock)["copy"]
                row = {
                    "median": medians,
                    "spread": spread(rounds, MEGATOKENS, clock),
                    "ratio": round(paired_ratio(rounds, "ours", clock), 2),
                    "of the copy limit": round(of_limit, 3),
                }
                details[f"{setting}, {clock}"] = row
                figures = "".join(f"{reader:>11} {rate:7.1f}" for reader, rate in medians.items())
                print(f"{setting + ', ' + clock:24}{figures}   {row['ratio']} {row['of the copy limit']}")
        for contestant in contestants:
            contestant.close()
        resident = {
            name: run_in(environment, "benchmarks.read_rows", "--memory", name, str(root / name))
            for name, (environment, _, _) in READERS.items()
        }
        resident[WITHOUT_TORCH] = run_in(None, "benchmarks.read_rows", "--memory", WITHOUT_TORCH, str(root / "ours"))
        details["resident MB"] = resident
        print(resident)
    medians = dict(details["warm, cpu_s"]["median"])
    result = Result(
        question="Reading rows into torch [8, 4096], warm, no workers, over the fastest other reader:",
        unit="million tokens per CPU second",
        ours=medians.pop("ours"),
        peers=medians,
        bar=BAR,
        libraries=("numpy", "torch", "xxhash"),
        details=details | {"peers": [pin for pins in ENVIRONMENTS.values() for pin in pins]},
    )
    if not quick:
        save("read_rows", result)


if __name__ == "__main__":
    main()
