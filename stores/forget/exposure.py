"""Report of the plans, packs, global batches and training steps that contained forgotten records.

Used by `forget.py` for its receipt. The ids of samples stay in the rows of redacted packs, packs are in training order,
and a training folder records its steps and the content root of its packs. Therefore the report is the same before and
after redaction.
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
    """A packs store with segments of forgotten samples."""

    packs: str
    """URL of the store."""
    content_root: str
    plan: str
    """Digest of the plan."""
    segments: int
    """Number of such segments."""
    ordinals: tuple[int, ...]
    """Ordinals of the packs with such segments, in training order."""
    global_batches: tuple[int, ...]
    """Numbers of the global batches with such packs."""

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
    """A plan with pieces of forgotten samples, whether or not its packs exist."""

    store: str
    """URL of the store."""
    plan: str
    """Digest of the plan."""
    ordinals: tuple[int, ...]
    """Ordinals of the packs with such pieces."""

    def as_json(self, folder: str) -> dict[str, Json]:
        return {"store": posixpath.relpath(self.store, folder), "plan": self.plan, "packs": list(self.ordinals)}


def plan_exposures(stores: Iterable[Store], deny_list: Tombstones) -> list[PlanExposure]:
    """Return every plan with a piece of a sample on the deny list."""
    heads = [head for store in stores if store.kind == "plan" and (head := store.head()) is not None]
    exposures = [PlanExposure(head.url, head.meta["plan"], tuple(_planned_packs(head, deny_list))) for head in heads]
    return [exposure for exposure in exposures if exposure.ordinals]


def _planned_packs(plan: Snapshot, deny_list: Tombstones) -> Iterator[int]:
    """Yield the ordinals of the packs with a piece of a sample on the deny list."""
    denied: dict[str, np.ndarray] = {}
    """Name of a samples store -> (n,) bool, one per sample."""
    for parent in plan.parents:
        samples = Store.open(parent.url).head()
        assert samples is not None
        ids = samples.table(["id"]).column("id").to_pylist()
        denied[samples.name] = np.array([deny_list.has_name("ids", sample) for sample in ids], bool)
    for block in plan.records():
        pieces = np.zeros(len(block.arrays["ordinal"]), bool)
        for number, source in enumerate(block.header["sources"]):
            own = block.arrays["source"] == number
            pieces[own] = denied[plan.meta["stores"][source]][block.arrays["ordinal"][own]]
        packs = np.searchsorted(block.arrays["pack_offsets"], np.flatnonzero(pieces), side="right") - 1
        yield from (block.header["first_pack"] + np.unique(packs)).tolist()


def pack_exposures(stores: Iterable[Store], deny_list: Tombstones) -> list[PackExposure]:
    """Return every packs store with a segment of a sample on the deny list."""
    heads = [head for store in stores if store.kind == "packs" and (head := store.head()) is not None]
    exposures = [_pack_exposure(head, deny_list) for head in heads]
    return [exposure for exposure in exposures if exposure.segments]


def _pack_exposure(packs: Snapshot, deny_list: Tombstones) -> PackExposure:
    ordinals: list[int] = []
    segments = first = 0
    for receipt in packs.receipts:
        for entry in receipt.shards:
            lines = redact_shard.read_lines(packs.files, packs.reader.index(entry))
            for row, line in enumerate(lines):
                denied = sum(deny_list.has_name("ids", sample) for sample, *_ in line["segments"])
                segments += denied
                ordinals += [first + row] if denied else []
            first += entry.records
    size, begin = packs.meta["global_batch_packs"], first_batch(packs)
    batches = sorted({begin + ordinal // size for ordinal in ordinals})
    return PackExposure(packs.url, packs.content_root, packs.meta["plan"], segments, tuple(ordinals), tuple(batches))


def first_batch(packs: Snapshot) -> int:
    """Return the number of the first global batch of a plan or packs store: not 0 where it amends an earlier plan."""
    return (packs.meta.get("amends") or {"at_batch": 0})["at_batch"]


def training_exposures(files: Files, exposures: Sequence[PackExposure]) -> list[dict[str, Json]]:
    """Return the training runs below a folder that read these packs, with the steps whose batch held a forgotten
    record.

    Step n reads global batch n - 1. Steps after the last checkpoint of an unfinished run count: its process may still
    be running, and metrics were made of them."""
    runs = []
    for log in [info.path for info in files.listing("") if posixpath.basename(info.path) == "metrics.jsonl"]:
        folder = posixpath.dirname(log)
        paths = [info.path for info in files.listing(folder)]
        states = [path for path in paths if posixpath.basename(path) in ("state.json", "done.json")]
        text = " ".join(files.read(path).decode() for path in states)
        for exposure in exposures:
            if exposure.content_root in text:
                steps = _last_step(files.read(log))
                exposed = [batch + 1 for batch in exposure.global_batches if batch < steps]
                runs.append({"run": folder, "packs": exposure.packs, "steps": steps, "exposed_steps": exposed})
    return runs


def _last_step(log: bytes) -> int:
    last = 0
    for line in log.splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # the process was killed while it wrote the line
            continue
        last = max(last, event.get("step", 0))
    return last
