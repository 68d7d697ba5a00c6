"""What the artefacts of a run say, as plain values: `overview.py` tells them, `inspect/run_page.py` draws them.

Everything comes from snapshots, receipts and run logs. Counts are taken from index tables; no payload is read here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from manifests import runlog
from manifests.errors import StoreError
from manifests.records import FORGOTTEN, Json, Pack, segment_ranges
from stores.files.open import open_files
from stores.snapshot import ViewSnapshot
from stores.store import Snapshot, Store
from stores.upkeep.run_lock import stores_url
from tokenization.vocabulary import Vocabulary

SUMMED = ("characters", "tokens", "slots", "loss_tokens", "segments", "images", "videos")
"""Facts of an index that add up."""

WINDOWS = 64
T = TypeVar("T")


def newest_snapshot(url: str) -> Snapshot:
    """Raises StoreError for a store without a commit."""
    snapshot = Store.open(url).head()
    if snapshot is None:
        raise StoreError("nothing is committed here yet", where=url, fix="run the node that fills it")
    return snapshot


def run_stores(run: Path) -> tuple[dict[str, Snapshot], dict[str, str]]:
    """The committed stores of a run by node name, in the order in which their nodes first ran; and of those that can't
    be read, because what they look at is gone, why."""
    order = {str(row["node"]): i for i, row in reversed(list(enumerate(runlog.read(run / "log.jsonl", "node_start"))))}
    found, unread = {}, {}
    where = stores_url(run)
    for name in sorted(open_files(where).folders(), key=lambda name: (order.get(name, len(order)), name)):
        files = open_files(f"{where}/{name}")
        if files.exists("store.json"):
            snapshot = Store.open(f"{where}/{name}").head()
            if snapshot is not None and (base_error := snapshot.base_error) is not None:
                unread[name] = error_line(base_error)
            elif snapshot is not None:
                found[name] = snapshot
    return found, unread


def error_line(error: StoreError) -> str:
    return f"{error.where}: {error.message}"


def read_or_note(node: str, unread: dict[str, str], ask: Callable[..., T], *given: Any) -> T | None:
    """What is asked of a node's store; None, and the reason in `unread`, where what that needs is not there any more:
    a plan, the samples that packs were made from, the vocabulary."""
    try:
        return ask(*given)
    except StoreError as error:
        unread[node] = error_line(error)
        return None


def last_of_kind(found: dict[str, Snapshot], kind: str) -> Snapshot | None:
    """The last store of a kind in a run."""
    return next((snapshot for snapshot in reversed(found.values()) if snapshot.kind == kind), None)


def read_json(file: Path) -> Json:
    """None where there is no such file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def training_folder(run: Path) -> Path | None:
    """The folder that a train node filled."""
    return next((file.parent for file in sorted(run.glob("*/metrics.jsonl"))), None)


def source_label(source: str) -> str:
    return "(forgotten)" if source == FORGOTTEN else source


@dataclass(frozen=True)
class RecordGroup:
    """Records of one source and domain."""

    source: str
    domain: str
    records: int
    kept: int
    sums: dict[str, int]
    """Over the kept ones, of SUMMED."""


def record_groups(snapshot: Snapshot) -> list[RecordGroup]:
    """By source and domain, for kinds whose records have them."""
    table = snapshot.table()
    if "domain" not in table.column_names or not table.num_rows:
        return []
    columns = {name: table[name].to_pylist() for name in ("source", "domain", "keep")}
    sums = {name: table[name].to_numpy() for name in SUMMED if name in table.column_names}
    rows: dict[tuple[str, str], list[int]] = {}
    for i, key in enumerate(zip(columns["source"], columns["domain"], strict=True)):
        rows.setdefault(key, []).append(i)
    keep = np.array(columns["keep"], bool)
    found = []
    for (source, domain), places in sorted(rows.items()):
        kept = np.array(places)[keep[places]]
        counted = {name: int(values[kept].sum()) for name, values in sums.items()}
        found.append(RecordGroup(source_label(source), domain, len(places), len(kept), counted))
    return found


def drop_counts(snapshot: Snapshot) -> dict[str, int]:
    """Records that views dropped, by reason, most frequent first."""
    if snapshot.kind != "view":
        return {}
    table = snapshot.table(["keep", "reason"])
    pairs = zip(table["keep"].to_pylist(), table["reason"].to_pylist(), strict=True)
    return dict(Counter(str(reason) for keep, reason in pairs if not keep).most_common())


def last_work(run: Path) -> dict[str, dict[str, Json]]:
    """What the run log says of the last time that each node did something."""
    return {str(row["node"]): row for row in runlog.read(run / "log.jsonl", "node_commit") if row.get("worked")}


def op_counts(view: Snapshot) -> list[dict[str, Json]]:
    """What each op of a filter, alone, does to the documents that reach it: those it looks at, those it would keep, and
    what it would drop by reason. `first` of a reason are those that no op before it drops."""
    table = view.table()
    reached = np.array(view_input(view).table(["keep"])["keep"].to_pylist(), bool)
    domain, said = (np.array(table[name].to_pylist(), object) for name in ("domain", "reason"))
    found = []
    for op in view.meta.get("ops", ()):
        among = reached & (np.isin(domain, op["domains"]) if op["domains"] else True)
        left, reasons = among.copy(), Counter[str]()
        for reason, broken in _limit_violations(op, table):
            reasons[reason] += int((left & broken).sum())
            left &= ~broken
        row: dict[str, Json] = {"op": op["kind"], "in": int(among.sum()), "kept": int(left.sum())}
        row["dropped"] = dict(+reasons)
        row["first"] = {reason: int((said[among & ~left] == reason).sum()) for reason in row["dropped"]}
        found.append(row)
    return found


def _limit_violations(op: Json, table: pa.Table) -> Iterator[tuple[str, np.ndarray]]:
    """In the order in which the op decides: a reason, and the records of which its limit is broken."""
    for choice in op.get("choices", ()):
        labels = np.array(table[choice["column"]].to_pylist(), object)
        if choice["among"]:
            yield choice["reason"], ~np.isin(labels, [*choice["among"], None])
    for limit in op["limits"]:
        values = table[limit["column"]].to_numpy().astype(np.float64)
        yield limit["reason"], values < limit["at"] if limit["drops"] == "below" else values > limit["at"]
    if "column" in op:
        told = np.array(table[op["column"]].to_pylist(), object)
        yield from ((str(reason), told == reason) for reason in sorted({one for one in told if one}))


def view_input(view: Snapshot) -> Snapshot:
    return view.viewed if isinstance(view, ViewSnapshot) else view


def input_drops(view: Snapshot) -> dict[str, int]:
    """The same for the snapshot that a view looks at."""
    return drop_counts(view_input(view))


def contaminations(view: Snapshot) -> list[Json]:
    """What a view found of evaluations: how many documents by evaluation and by how it was found, with an example."""
    names = view.meta.get("contaminated")
    if not names:
        return []
    table = view.table(["id", names["item"], names["evaluation"], names["how"]])
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for one, item, evaluation, how in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        if item is not None:
            found.setdefault((evaluation, how), []).append((one, item))
    return [
        {"evaluation": evaluation, "how": how, "documents": len(some), "example": some[0][0], "item": some[0][1]}
        for (evaluation, how), some in sorted(found.items())
    ]


def quarantine_counts(snapshot: Snapshot) -> dict[str, int]:
    """What could not become a record, by reason, most frequent first."""
    return dict(Counter(snapshot.quarantined()["reason"].to_pylist()).most_common())


def media_counts(snapshot: Snapshot) -> dict[str, tuple[int, int, int]]:
    """Format -> (times used, distinct, bytes of the distinct ones)."""
    if snapshot.kind == "plan":
        return {}
    table = snapshot.media_table().select(["digest", "format", "length"])
    used: Counter[str] = Counter()
    distinct: dict[str, tuple[str, int]] = {}
    for row in table.to_pylist():
        used[row["format"]] += 1
        distinct[row["digest"]] = (row["format"], row["length"])
    return {
        name: (
            count,
            sum(1 for kind, _ in distinct.values() if kind == name),
            sum(size for kind, size in distinct.values() if kind == name),
        )
        for name, count in sorted(used.items())
    }


def score_ranges(snapshot: Snapshot) -> dict[str, tuple[float, float, float]]:
    """Columns of numbers that views added: name -> (lowest, median, highest)."""
    if snapshot.kind != "view":
        return {}
    facts = set(snapshot.base.table().column_names) if snapshot.base.shards else set()
    table = snapshot.table()
    found = {}
    for name in table.column_names:
        if name not in facts and pa.types.is_floating(table[name].type):
            values = table[name].drop_null().to_numpy()
            values = values[np.isfinite(values)]
            if len(values):
                found[name] = (float(values.min()), float(np.median(values)), float(values.max()))
    return found


@dataclass(frozen=True)
class VisionShares:
    """The vision share of a packs store, recounted from its index, window by window."""

    until_tokens: list[int]
    share: list[float]
    running: list[float]
    """Over everything up to the end of the window."""
    tokens: int
    slots: int
    loss_tokens: int
    fill: float


def vision_shares(packs: Snapshot) -> VisionShares:
    table = packs.table(["tokens", "slots", "loss_tokens"])
    tokens, slots = (table[name].to_numpy() for name in ("tokens", "slots"))
    pieces = min(WINDOWS, len(tokens))
    bounds = [len(tokens) * k // pieces for k in range(pieces + 1)] if pieces else [0]
    ends, given = (np.concatenate([[0], np.cumsum(values)])[bounds] for values in (tokens, slots))
    room = len(tokens) * int(packs.meta["max_pack_tokens"])
    return VisionShares(
        until_tokens=ends[1:].tolist(),
        share=(np.diff(given) / np.diff(ends)).tolist(),
        running=(given[1:] / ends[1:]).tolist(),
        tokens=int(tokens.sum()),
        slots=int(slots.sum()),
        loss_tokens=int(table["loss_tokens"].to_numpy().sum()),
        fill=float(tokens.sum() / room) if room else 0.0,
    )


def readable_text(ids: np.ndarray, vocabulary: Vocabulary) -> str:
    """Ids as text for people: a run of slots is told by its length, everything else is decoded."""
    pads = ids == vocabulary.media_pad_id
    edges = [0, *(np.flatnonzero(np.diff(pads)) + 1).tolist(), len(ids)]
    pieces = []
    for start, stop in pairwise(edges):
        if stop > start:
            pieces.append(f"[{stop - start} slots]" if pads[start] else vocabulary.decode(ids[start:stop]))
    return "".join(pieces)


def shorten(text: str, most: int) -> str:
    """Without line breaks, and its middle left out where it is longer than `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-(most // 4) :]}"


def pack_segments(pack: Pack) -> Iterator[tuple[int, int, str, str, list[tuple[int, int]]]]:
    """(first position, length, source, sample, [(first slot, slots)]) of each segment of a pack."""
    runs = [(item.slot, item.grid[1] * item.grid[2] // 4) for packed in pack.media for item in packed.items]
    for segment, at, end in segment_ranges(pack.segments):
        inside = [run for run in runs if at <= run[0] < end]
        yield at, segment.length, source_label(segment.source), segment.sample, inside


def vocabulary_of(snapshot: Snapshot) -> Vocabulary:
    """The one that a store was made with, as its samples name it. Raises StoreError where that is another one now."""
    made_with = snapshot.meta.get("vocabulary")
    vocabulary = Vocabulary.load(_vocabulary_file(snapshot) or "tiny")
    if made_with not in (None, vocabulary.digest):
        raise StoreError(
            f"was made with vocabulary {made_with[:12]}, found {vocabulary.digest[:12]}",
            where=snapshot.url,
            fix="put the vocabulary back where the tokenise node found it",
        )
    return vocabulary


def _vocabulary_file(snapshot: Snapshot) -> str | None:
    """What `tokenise` was given, from the samples on the way down to the documents."""
    if "vocabulary_file" in snapshot.meta:
        return snapshot.meta["vocabulary_file"]
    if snapshot.kind not in ("packs", "plan"):
        return None
    below = (Store.open(parent.url).snapshot(parent.number) for parent in snapshot.parents)
    return next((file for one in below if (file := _vocabulary_file(one)) is not None), None)


def training_steps(folder: Path) -> list[dict[str, Json]]:
    """The steps of a training run, in order, each once."""
    found = {row["step"]: row for row in runlog.read(folder / "metrics.jsonl", "step")}
    return [found[step] for step in sorted(found)]


def evenly_spaced(values: Sequence[Json], count: int) -> list[Json]:
    """Evenly spread over a sequence, the first and the last among them."""
    if len(values) <= count:
        return list(values)
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]
