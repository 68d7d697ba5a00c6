"""What would a filter keep with other limits? Decided again from the columns that it wrote; nothing is measured.

A filter records in its view's meta which columns are compared with which limits (`pipelines/filters/filter.py`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from manifests.errors import ManifestError, StoreError
from manifests.records import Json
from stores.files.open import open_files
from stores.store import Snapshot, Store

EXAMPLES = 5
"""Documents are shown that come, and as many that go."""


def what_if(view: Snapshot, changes: Sequence[str]) -> dict[str, Json]:
    """`changes`: `OP.PARAMETER=NUMBER` each.

    Raises ManifestError for a change of something that is not there, StoreError for a view that no filter made.
    """
    limits = _limits(view)
    moved = dict(_change(one, limits, view) for one in changes)
    table = view.table()
    below = table["keep"].to_numpy() | _dropped_here(view, table)
    before = below & ~_forbidden(view, table, limits)
    after = below & ~_forbidden(view, table, [limit.moved(moved) for limit in limits])
    tokens = _tokens(view, table)
    found: dict[str, Json] = {
        "limits": [
            {"op": limit.op, "parameter": limit.parameter, "is": limit.at, "what if": moved.get(limit.name, limit.at)}
            for limit in limits
            if limit.name in moved
        ],
        "kept": [_row("all", np.ones(len(table), bool), before, after, table, tokens)],
    }
    for name in ("domain", "language"):
        column = _named(table, name)
        if column is not None:
            words = np.array(column.to_pylist(), object)
            groups = sorted({word for word in words[below].tolist() if word})
            found[f"by {name}"] = [_row(word, words == word, before, after, table, tokens) for word in groups]
    shown = [limit for limit in limits if limit.name in moved]
    found["would come in"] = _examples(table, after & ~before, shown)
    found["would go"] = _examples(table, before & ~after, shown)
    return {name: value for name, value in found.items() if value}


def for_display(found: Mapping[str, Json]) -> dict[str, Json]:
    """For people: without the groups of which nothing is kept either way."""
    groups = ("by domain", "by language")
    return {
        title: [row for row in rows if row["documents"] or row["what if"]] if title in groups else rows
        for title, rows in found.items()
    }


@dataclass(frozen=True)
class _Limit:
    op: str
    parameter: str
    column: str
    drops: str
    at: float | None
    """None where none is set."""
    domains: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.op}.{self.parameter}"

    def moved(self, to: Mapping[str, float]) -> _Limit:
        return _Limit(self.op, self.parameter, self.column, self.drops, to.get(self.name, self.at), self.domains)

    def forbids(self, table: pa.Table) -> np.ndarray:
        """(records,) bool. What was not measured is NaN and passes."""
        if self.at is None:
            return np.zeros(len(table), bool)
        values = table[self.column].to_numpy()
        forbidden = values < self.at if self.drops == "below" else values > self.at
        return forbidden & _concerned(table, self.domains)


def _concerned(table: pa.Table, domains: Sequence[str]) -> np.ndarray:
    """(records,) bool: those of the domains; none given: all."""
    if not domains:
        return np.ones(len(table), bool)
    return np.isin(np.array(table["domain"].to_pylist(), object), domains)


def _limits(view: Snapshot) -> list[_Limit]:
    if view.kind != "view" or "ops" not in view.meta:
        what = "limits belong to views that a filter made, this is not one"
        raise StoreError(what, where=view.url, fix="name the store of a node of kind filter")
    return [
        _Limit(op["kind"], one["parameter"], one["column"], one["drops"], one["at"], tuple(op["domains"]))
        for op in view.meta["ops"]
        for one in op["limits"]
    ]


def _change(words: str, limits: Sequence[_Limit], view: Snapshot) -> tuple[str, float]:
    name, mark, number = words.partition("=")
    known = dict.fromkeys(limit.name for limit in limits)
    try:
        value = float(number)
    except ValueError:
        mark = ""
    if not mark:
        raise ManifestError(f"can't read {words!r}", where="--what-if", fix="write OP.PARAMETER=NUMBER")
    if name not in known:
        raise ManifestError(f"no limit {name!r} here", where=view.name, fix=f"one of {', '.join(known)}")
    return name, value


def _dropped_here(view: Snapshot, table: pa.Table) -> np.ndarray:
    """(records,) bool: what reached this filter and was dropped by it."""
    over = view.parents[0]
    reached = Store.open(over.url).snapshot(over.number).table(["keep"])["keep"].to_numpy()
    return reached & ~table["keep"].to_numpy()


def _forbidden(view: Snapshot, table: pa.Table, limits: Sequence[_Limit]) -> np.ndarray:
    """(records,) bool: what these limits drop, choices that stay as they are, and ops that compare nothing."""
    forbidden = np.isin(np.array(table["reason"].to_pylist(), object), ("unusable", "forgotten"))
    for limit in limits:
        forbidden |= limit.forbids(table)
    for op in view.meta["ops"]:
        if "column" in op:
            forbidden |= ~table[op["column"]].is_null().to_numpy()
        for choice in op.get("choices", ()):
            among = {None, *choice["among"]}
            other = np.array([label not in among for label in table[choice["column"]].to_pylist()], bool)
            if choice["among"]:
                forbidden |= other & _concerned(table, op["domains"])
    return forbidden


def _tokens(view: Snapshot, table: pa.Table) -> np.ndarray | None:
    """(records,) of each document, where samples of the same run know them; estimated by its characters where they only
    know others of its domain. None where there are no samples."""
    known: dict[str, int] = {}
    run = open_files(posixpath.dirname(view.url))
    for name in run.folders():
        if not run.exists(f"{name}/store.json"):
            continue
        head = Store.open(f"{run.url}/{name}").head()
        if head is not None and head.kind == "samples":
            told = head.table(["id", "tokens"])
            known |= dict(zip(told["id"].to_pylist(), told["tokens"].to_pylist(), strict=True))
    if not known:
        return None
    tokens = np.array([known.get(one, -1) for one in table["id"].to_pylist()], np.float64)
    characters = table["characters"].to_numpy()
    seen = tokens >= 0
    if not seen.any():
        return None
    rate = tokens[seen].sum() / max(1, characters[seen].sum())
    return np.where(seen, tokens, characters * rate)


def _row(
    name: str, group: np.ndarray, before: np.ndarray, after: np.ndarray, table: pa.Table, tokens: np.ndarray | None
) -> dict[str, Json]:
    characters = table["characters"].to_numpy()
    row: dict[str, Json] = {
        "which": name,
        "documents": int((before & group).sum()),
        "what if": int((after & group).sum()),
        "characters": int(characters[before & group].sum()),
        "then": int(characters[after & group].sum()),
    }
    if tokens is not None:
        row |= {"tokens": int(tokens[before & group].sum()), "then about": int(tokens[after & group].sum())}
    return row


def _examples(table: pa.Table, which: np.ndarray, limits: Sequence[_Limit]) -> list[dict[str, Json]]:
    places = np.flatnonzero(which)[:EXAMPLES].tolist()
    rows = table.take(pa.array(places, pa.int64())).to_pylist()
    return [
        {"id": row["id"], "locator": row["locator"]}
        | {limit.column.rpartition(".")[2]: row[limit.column] for limit in limits}
        for row in rows
    ]


def _named(table: pa.Table, name: str) -> pa.ChunkedArray | None:
    """A column of that name, or what a filter measured under it."""
    found = next((one for one in table.column_names if one == name or one.endswith(f".{name}")), None)
    return None if found is None else table[found]
