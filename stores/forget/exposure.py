"""Where had it been? Plans, packs, global batches and steps of training that held what is forgotten.

Read from what is left: ids stay in the rows of packs, the order of packs is that of training, and a folder that was
trained in says how far it came and off which packs. The answer is the same before and after the stores are blanked.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from manifests.records import Json
from stores.files.protocol import Files
from stores.forget import redact_shard
from stores.snapshot import Snapshot
from stores.store import Store
from stores.tombstones import Tombstones


@dataclass(frozen=True)
class PackExposure:
    """One packs store that held some of it."""

    packs: str
    """URL."""
    content_root: str
    plan: str
    """Digest of the plan."""
    segments: int
    ordinals: tuple[int, ...]
    """Of the packs, in training order."""
    global_batches: tuple[int, ...]

    def as_json(self, folder: str) -> dict[str, Json]:
        return {
            "store": posixpath.relpath(self.packs, folder),
            "plan": self.plan,
            "segments": self.segments,
            "packs": list(self.ordinals),
            "global_batches": list(self.global_batches),
        }


@dataclass(frozen=True)
class PlanExposure:
    """A plan that ordered some of it, whether or not its packs are there."""

    store: str
    """URL."""
    plan: str
    ordinals: tuple[int, ...]

    def as_json(self, folder: str) -> dict[str, Json]:
        return {"store": posixpath.relpath(self.store, folder), "plan": self.plan, "packs": list(self.ordinals)}


def plan_exposures(stores: Iterable[Store], stones: Tombstones) -> list[PlanExposure]:
    """Every plan with a piece of these samples."""
    heads = [head for store in stores if store.kind == "plan" and (head := store.head()) is not None]
    found = [PlanExposure(head.url, head.meta["plan"], tuple(_planned(head, stones))) for head in heads]
    return [one for one in found if one.ordinals]


def _planned(plan: Snapshot, stones: Tombstones) -> Iterator[int]:
    gone: dict[str, np.ndarray] = {}
    for parent in plan.parents:
        samples = Store.open(parent.url).head()
        assert samples is not None
        names = samples.table(["id"]).column("id").to_pylist()
        gone[samples.name] = np.array([stones.has_name("ids", name) for name in names], bool)
    for block in plan.records():
        hit = np.zeros(len(block.arrays["ordinal"]), bool)
        for number, source in enumerate(block.header["sources"]):
            mine = block.arrays["source"] == number
            hit[mine] = gone[plan.meta["stores"][source]][block.arrays["ordinal"][mine]]
        packs = np.searchsorted(block.arrays["pack_offsets"], np.flatnonzero(hit), side="right") - 1
        yield from (block.header["first_pack"] + np.unique(packs)).tolist()


def pack_exposures(stores: Iterable[Store], stones: Tombstones) -> list[PackExposure]:
    """Of every packs store that held a segment of these samples."""
    found = []
    for store in stores:
        head = store.head() if store.kind == "packs" else None
        if head is not None and (exposure := _exposure(head, stones)).segments:
            found.append(exposure)
    return found


def _exposure(packs: Snapshot, stones: Tombstones) -> PackExposure:
    ordinals: list[int] = []
    segments = first = 0
    for receipt in packs.receipts:
        for entry in receipt.shards:
            known = packs.reader.index(entry)
            for row, line in enumerate(redact_shard.read_lines(packs.files, known)):
                here = sum(stones.has_name("ids", name) for name, *_ in line["segments"])
                segments += here
                ordinals += [first + row] if here else []
            first += entry.records
    size, begin = packs.meta["global_batch_packs"], first_batch(packs)
    batches = sorted({begin + ordinal // size for ordinal in ordinals})
    return PackExposure(packs.url, packs.content_root, packs.meta["plan"], segments, tuple(ordinals), tuple(batches))


def first_batch(packs: Snapshot) -> int:
    """Of a plan or packs store: the global batch of the run at which it begins, or amends the one before."""
    return (packs.meta.get("amends") or {"at_batch": 0})["at_batch"]


def training_exposures(files: Files, found: Sequence[PackExposure]) -> list[dict[str, Json]]:
    """Folders below that were trained in off these packs, with the steps that saw a batch that held some of it.

    Step n takes global batch n - 1. Steps after the last checkpoint of an unfinished run count as well: it may still be
    running on, and metrics were made of them.
    """
    runs = []
    for log in [info.path for info in files.listing("") if posixpath.basename(info.path) == "metrics.jsonl"]:
        folder = posixpath.dirname(log)
        below = [info.path for info in files.listing(folder)]
        states = [path for path in below if posixpath.basename(path) in ("state.json", "done.json")]
        said = " ".join(files.read(path).decode() for path in states)
        for exposure in found:
            if exposure.content_root in said:
                steps = _steps(files.read(log))
                saw = [batch + 1 for batch in exposure.global_batches if batch < steps]
                runs.append({"run": folder, "packs": exposure.packs, "steps_done": steps, "steps_that_saw_it": saw})
    return runs


def _steps(log: bytes) -> int:
    most = 0
    for line in log.splitlines():
        try:
            told = json.loads(line)
        except ValueError:  # torn by a kill
            continue
        most = max(most, told.get("step", 0))
    return most
