"""Queries over the artifacts of a run, whose results are plain values.

They read snapshots, receipts and run logs. Counts come from the index tables of the stores; payloads are not read. The
overviews, `explain.py` and the pages use them.
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
"""Columns of an index whose values can be added."""
WINDOWS = 64
"""Number of windows in which the vision share is counted."""

T = TypeVar("T")

# ---------------------------------------------------------------------------------------------- stores of a run


def newest_snapshot(url: str) -> Snapshot:
    """Open the newest snapshot of a store. Raises StoreError for a store without a commit."""
    snapshot = Store.open(url).head()
    if snapshot is None:
        raise StoreError("the store is empty: nothing is committed yet", where=url, fix="run the node that fills it")
    return snapshot


def run_stores(run: Path) -> tuple[dict[str, Snapshot], dict[str, str]]:
    """Open every store of a run that has a commit.

    Returns:
        (node -> newest snapshot, in the order in which the nodes first ran; node -> reason, for stores that can't be
        read, for example because the base of a view is deleted)
    """
    log = runlog.read(run / "log.jsonl", "node_start")
    order = {str(row["node"]): i for i, row in reversed(list(enumerate(log)))}
    snapshots, unreadable = {}, {}
    url = stores_url(run)
    for name in sorted(open_files(url).folders(), key=lambda name: (order.get(name, len(order)), name)):
        if not open_files(f"{url}/{name}").exists("store.json"):
            continue
        try:
            snapshot = Store.open(f"{url}/{name}").head()
        except StoreError as error:
            unreadable[name] = error.message
            continue
        if snapshot is not None and (missing := snapshot.base_error) is not None:
            unreadable[name] = error_line(missing)
        elif snapshot is not None:
            snapshots[name] = snapshot
    return snapshots, unreadable


def error_line(error: StoreError) -> str:
    return f"{error.where}: {error.message}"


def read_or_note(node: str, unreadable: dict[str, str], query: Callable[..., T], *arguments: Any) -> T | None:
    """Return the result of a query of a node's store.

    If the query needs an artifact that is missing (a plan, the samples of packs, the vocabulary), write the reason to
    `unreadable` and return None.
    """
    try:
        return query(*arguments)
    except StoreError as error:
        unreadable[node] = error_line(error)
        return None


def last_of_kind(snapshots: dict[str, Snapshot], kind: str) -> Snapshot | None:
    """The last store of a kind in a run."""
    return next((snapshot for snapshot in reversed(snapshots.values()) if snapshot.kind == kind), None)


def read_json(file: Path) -> Json:
    """Content of a JSON file; None if it does not exist."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def source_label(source: str) -> str:
    """Name of a source for people; a placeholder for records that were forgotten."""
    return "(forgotten)" if source == FORGOTTEN else source


# ---------------------------------------------------------------------------------------------- counts of a store


@dataclass(frozen=True)
class RecordGroup:
    """Records of one source and domain."""

    source: str
    domain: str
    records: int
    kept: int
    sums: dict[str, int]
    """Column of `SUMMED` -> sum over the kept records."""


def record_groups(snapshot: Snapshot) -> list[RecordGroup]:
    """Records by source and domain; empty for kinds of records without a domain."""
    table = snapshot.table()
    if "domain" not in table.column_names or not table.num_rows:
        return []
    columns = {name: table[name].to_pylist() for name in ("source", "domain", "keep")}
    values = {name: table[name].to_numpy() for name in SUMMED if name in table.column_names}
    rows: dict[tuple[str, str], list[int]] = {}
    for i, key in enumerate(zip(columns["source"], columns["domain"], strict=True)):
        rows.setdefault(key, []).append(i)
    keep = np.array(columns["keep"], bool)
    groups = []
    for (source, domain), ordinals in sorted(rows.items()):
        kept = np.array(ordinals)[keep[ordinals]]
        sums = {name: int(column[kept].sum()) for name, column in values.items()}
        groups.append(RecordGroup(source_label(source), domain, len(ordinals), len(kept), sums))
    return groups


def drop_counts(snapshot: Snapshot) -> dict[str, int]:
    """Reason -> records dropped by a view or by the views below it, most frequent reason first."""
    if snapshot.kind != "view":
        return {}
    table = snapshot.table(["keep", "reason"])
    pairs = zip(table["keep"].to_pylist(), table["reason"].to_pylist(), strict=True)
    return dict(Counter(str(reason) for keep, reason in pairs if not keep).most_common())


def own_drop_counts(view: Snapshot) -> dict[str, int]:
    """Reason -> records dropped by this view itself, most frequent reason first."""
    below = drop_counts(view_input(view))
    own = {reason: count - below.get(reason, 0) for reason, count in drop_counts(view).items()}
    return {reason: count for reason, count in own.items() if count > 0}


def view_input(view: Snapshot) -> Snapshot:
    """The snapshot over which a view was made."""
    return view.viewed if isinstance(view, ViewSnapshot) else view


def quarantine_counts(snapshot: Snapshot) -> dict[str, int]:
    """Reason -> quarantined records, most frequent reason first."""
    return dict(Counter(snapshot.quarantined()["reason"].to_pylist()).most_common())


def media_counts(snapshot: Snapshot) -> dict[str, tuple[int, int, int]]:
    """Format -> (uses, distinct media, bytes of the distinct media)."""
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
    """Numeric column that a view added -> (lowest, median, highest)."""
    if snapshot.kind != "view":
        return {}
    base_columns = set(snapshot.base.table().column_names) if snapshot.base.shards else set()
    table = snapshot.table()
    ranges = {}
    for name in table.column_names:
        if name not in base_columns and pa.types.is_floating(table[name].type):
            values = table[name].drop_null().to_numpy()
            values = values[np.isfinite(values)]
            if len(values):
                ranges[name] = (float(values.min()), float(np.median(values)), float(values.max()))
    return ranges


# ---------------------------------------------------------------------------------------------- decisions of a view


def op_counts(view: Snapshot) -> list[dict[str, Json]]:
    """Effect of each op of a filter on all documents that reach the filter, as if it were the only op.

    Returns:
        one row per op: `in` documents it examines, `kept`, `dropped` by reason, and `first`: those of `dropped` that no
        earlier op drops.
    """
    if not view.meta.get("ops"):
        return []
    table = view.table()
    reached = np.array(view_input(view).table(["keep"])["keep"].to_pylist(), bool)
    domain, final_reason = (np.array(table[name].to_pylist(), object) for name in ("domain", "reason"))
    rows = []
    for op in view.meta["ops"]:
        examined = reached & (np.isin(domain, op["domains"]) if op["domains"] else True)
        left, reasons = examined.copy(), Counter[str]()
        for reason, violated in _limit_violations(op, table):
            reasons[reason] += int((left & violated).sum())
            left &= ~violated
        row: dict[str, Json] = {"op": op["kind"], "in": int(examined.sum()), "kept": int(left.sum())}
        row["dropped"] = dict(+reasons)
        row["first"] = {reason: int((final_reason[examined & ~left] == reason).sum()) for reason in row["dropped"]}
        rows.append(row)
    return rows


def _limit_violations(op: Json, table: pa.Table) -> Iterator[tuple[str, np.ndarray]]:
    """(reason, (records,) bool: those that violate the limit), in the order in which the op checks its limits."""
    for choice in op.get("choices", ()):
        labels = np.array(table[choice["column"]].to_pylist(), object)
        if choice["among"]:
            yield choice["reason"], ~np.isin(labels, [*choice["among"], None])
    for limit in op["limits"]:
        values = table[limit["column"]].to_numpy().astype(np.float64)
        yield limit["reason"], values < limit["at"] if limit["drops"] == "below" else values > limit["at"]
    if "column" in op:
        reasons = np.array(table[op["column"]].to_pylist(), object)
        yield from ((str(reason), reasons == reason) for reason in sorted({value for value in reasons if value}))


def contaminations(view: Snapshot) -> list[Json]:
    """Documents of a `decontaminate` view that contain an evaluation item, by evaluation and kind of match."""
    names = view.meta.get("contaminated")
    if not names:
        return []
    table = view.table(["id", names["item"], names["evaluation"], names["how"]])
    matches: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for record, item, evaluation, how in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        if item is not None:
            matches.setdefault((evaluation, how), []).append((record, item))
    return [
        {"evaluation": evaluation, "how": how, "documents": len(group), "example": group[0][0], "item": group[0][1]}
        for (evaluation, how), group in sorted(matches.items())
    ]


# ---------------------------------------------------------------------------------------------- packs


@dataclass(frozen=True)
class VisionShares:
    """Vision share of a packs store, counted from its index in consecutive windows of packs."""

    until_tokens: list[int]
    """Tokens up to the end of each window."""
    share: list[float]
    """Share in each window."""
    running: list[float]
    """Share from the beginning to the end of each window."""
    tokens: int
    slots: int
    loss_tokens: int
    fill: float
    """Tokens over token positions."""

    @property
    def total(self) -> float:
        """Share over all packs."""
        return self.slots / max(1, self.tokens)


def vision_shares(packs: Snapshot) -> VisionShares:
    """Count the vision share of a packs store in `WINDOWS` windows."""
    table = packs.table(["tokens", "slots", "loss_tokens"])
    tokens, slots = (table[name].to_numpy() for name in ("tokens", "slots"))
    windows = min(WINDOWS, len(tokens))
    bounds = [len(tokens) * k // windows for k in range(windows + 1)] if windows else [0]
    ends, slot_ends = (np.concatenate([[0], np.cumsum(values)])[bounds] for values in (tokens, slots))
    positions = len(tokens) * int(packs.meta["max_pack_tokens"])
    return VisionShares(
        until_tokens=ends[1:].tolist(),
        share=(np.diff(slot_ends) / np.diff(ends)).tolist(),
        running=(slot_ends[1:] / ends[1:]).tolist(),
        tokens=int(tokens.sum()),
        slots=int(slots.sum()),
        loss_tokens=int(table["loss_tokens"].to_numpy().sum()),
        fill=float(tokens.sum() / positions) if positions else 0.0,
    )


def pack_segments(pack: Pack) -> Iterator[tuple[int, int, str, str, list[tuple[int, int]]]]:
    """(first position, tokens, source, sample, [(first slot, slots)]) of each segment of a pack."""
    runs = [(item.slot, item.grid[1] * item.grid[2] // 4) for packed in pack.media for item in packed.items]
    for segment, at, end in segment_ranges(pack.segments):
        inside = [run for run in runs if at <= run[0] < end]
        yield at, segment.length, source_label(segment.source), segment.sample, inside


# ---------------------------------------------------------------------------------------------- text of tokens


def readable_text(ids: np.ndarray, vocabulary: Vocabulary) -> str:
    """Decode token ids for people; a run of vision slots becomes `[N slots]`."""
    pads = ids == vocabulary.media_pad_id
    edges = [0, *(np.flatnonzero(np.diff(pads)) + 1).tolist(), len(ids)]
    texts = []
    for start, stop in pairwise(edges):
        if stop > start:
            texts.append(f"[{stop - start} slots]" if pads[start] else vocabulary.decode(ids[start:stop]))
    return "".join(texts)


def shorten(text: str, most: int) -> str:
    """Remove line breaks, and cut the middle of a text of more than `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-(most // 4) :]}"


def vocabulary_of(snapshot: Snapshot) -> Vocabulary:
    """The vocabulary with which a store was made. Raises StoreError if its file has another content now."""
    made_with = snapshot.meta.get("vocabulary")
    vocabulary = Vocabulary.load(_vocabulary_file(snapshot) or "tiny")
    if made_with not in (None, vocabulary.digest):
        raise StoreError(
            f"was made with vocabulary {made_with[:12]}, found {vocabulary.digest[:12]}",
            where=snapshot.url,
            fix="restore the vocabulary file that the tokenize node read",
        )
    return vocabulary


def _vocabulary_file(snapshot: Snapshot) -> str | None:
    """The vocabulary file that the `tokenize` node read, found by following the parents to the samples."""
    if "vocabulary_file" in snapshot.meta:
        return snapshot.meta["vocabulary_file"]
    if snapshot.kind not in ("packs", "plan"):
        return None
    parents = (Store.open(parent.url).snapshot(parent.number) for parent in snapshot.parents)
    return next((file for parent in parents if (file := _vocabulary_file(parent)) is not None), None)


# ---------------------------------------------------------------------------------------------- run log and training


def last_work(run: Path) -> dict[str, dict[str, Json]]:
    """Node -> last `node_commit` row of the run log in which the node did any work."""
    return {str(row["node"]): row for row in runlog.read(run / "log.jsonl", "node_commit") if row.get("worked")}


def training_folder(run: Path) -> Path | None:
    """The folder of the train node; None if nothing was trained."""
    return next((file.parent for file in sorted(run.glob("*/metrics.jsonl"))), None)


def training_steps(folder: Path) -> list[dict[str, Json]]:
    """The `step` rows of a training, in order. Of a step that was repeated after a restart, the last row."""
    rows = {row["step"]: row for row in runlog.read(folder / "metrics.jsonl", "step")}
    return [rows[step] for step in sorted(rows)]


def evenly_spaced(values: Sequence[Json], count: int) -> list[Json]:
    """`count` values, evenly spaced over a sequence, the first and the last among them."""
    if len(values) <= count:
        return list(values)
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]
