"""Records that a filter would keep with other limits, decided again from its columns; nothing is measured.

A filter records in the meta of its view which columns it compares with which limits (`pipelines/filters/filter.py`).
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

TITLES = {
    "kept": "documents that the filter keeps",
    "by_domain": "kept documents by domain",
    "by_language": "kept documents by language",
    "added": "examples of documents that it would keep in addition",
    "removed": "examples of documents that it would drop in addition",
}
"""Section of a result -> title for people."""
EXAMPLES = 5
"""Documents that are shown of those newly kept, and of those newly dropped."""


def what_if(view: Snapshot, changes: Sequence[str]) -> dict[str, Json]:
    """Compare the records that a filter keeps with those it would keep.

    Args:
        view: the view of a filter.
        changes: new limits, each `OP.PARAMETER=NUMBER`.
    Raises:
        ManifestError: the filter has no such limit.
        StoreError: no filter made this view.
    """
    limits = _limits(view)
    moved = dict(_change(change, limits, view) for change in changes)
    table = view.table()
    below = table["keep"].to_numpy() | _dropped_here(view, table)
    before = below & ~_forbidden(view, table, limits)
    after = below & ~_forbidden(view, table, [limit.moved(moved) for limit in limits])
    tokens = _tokens(view, table)
    result: dict[str, Json] = {
        "limits": [
            {
                "op": limit.op,
                "parameter": limit.parameter,
                "limit": limit.at,
                "changed_limit": moved.get(limit.name, limit.at),
            }
            for limit in limits
            if limit.name in moved
        ],
        "kept": [_row("all", np.ones(len(table), bool), before, after, table, tokens)],
    }
    for name in ("domain", "language"):
        column = _named(table, name)
        if column is not None:
            values = np.array(column.to_pylist(), object)
            groups = sorted({value for value in values[below].tolist() if value})
            result[f"by_{name}"] = [_row(group, values == group, before, after, table, tokens) for group in groups]
    changed = [limit for limit in limits if limit.name in moved]
    result["added"] = _examples(table, after & ~before, changed)
    result["removed"] = _examples(table, before & ~after, changed)
    return {name: value for name, value in result.items() if value}


def for_display(result: Mapping[str, Json]) -> dict[str, Json]:
    """The result in words for people, without the groups of which nothing is kept either way."""
    sections: dict[str, Json] = {}
    for key, rows in result.items():
        if key in ("by_domain", "by_language"):
            rows = [row for row in rows if row["documents"] or row["documents_after"]]
        sections[TITLES.get(key, key)] = rows
    return sections


@dataclass(frozen=True)
class _Limit:
    """One limit of one op of the filter."""

    op: str
    parameter: str
    column: str
    drops: str
    """`below` or `above`: the side on which a value is dropped."""
    at: float | None
    """None for a limit that is not set."""
    domains: tuple[str, ...]
    """Domains of the op; empty for all."""

    @property
    def name(self) -> str:
        return f"{self.op}.{self.parameter}"

    def moved(self, to: Mapping[str, float]) -> _Limit:
        return _Limit(self.op, self.parameter, self.column, self.drops, to.get(self.name, self.at), self.domains)

    def forbids(self, table: pa.Table) -> np.ndarray:
        """(records,) bool: records that violate the limit. A value that was not measured is NaN and passes."""
        if self.at is None:
            return np.zeros(len(table), bool)
        values = table[self.column].to_numpy()
        forbidden = values < self.at if self.drops == "below" else values > self.at
        return forbidden & _concerned(table, self.domains)


def _concerned(table: pa.Table, domains: Sequence[str]) -> np.ndarray:
    """(records,) bool: records of these domains; of any domain if there are none."""
    if not domains:
        return np.ones(len(table), bool)
    return np.isin(np.array(table["domain"].to_pylist(), object), domains)


def _limits(view: Snapshot) -> list[_Limit]:
    if view.kind != "view" or "ops" not in view.meta:
        message = f"no filter made this store of kind {view.kind}, so it has no limits"
        raise StoreError(message, where=view.url, fix="give the store of a node of kind filter")
    return [
        _Limit(op["kind"], limit["parameter"], limit["column"], limit["drops"], limit["at"], tuple(op["domains"]))
        for op in view.meta["ops"]
        for limit in op["limits"]
    ]


def _change(text: str, limits: Sequence[_Limit], view: Snapshot) -> tuple[str, float]:
    """Parse `OP.PARAMETER=NUMBER` into (name of the limit, new value)."""
    name, _, number = text.partition("=")
    names = dict.fromkeys(limit.name for limit in limits)
    try:
        value = float(number)
    except ValueError:
        raise ManifestError(f"can't read {text!r}", where="--what-if", fix="write OP.PARAMETER=NUMBER") from None
    if name not in names:
        fix = f"use one of {', '.join(names)}" if names else "look at a filter whose ops have limits"
        raise ManifestError(f"the filter has no limit {name!r}", where=view.name, fix=fix)
    return name, value


def _dropped_here(view: Snapshot, table: pa.Table) -> np.ndarray:
    """(records,) bool: records that reached this filter and that it dropped."""
    over = view.parents[0]
    reached = Store.open(over.url).snapshot(over.number).table(["keep"])["keep"].to_numpy()
    return reached & ~table["keep"].to_numpy()


def _forbidden(view: Snapshot, table: pa.Table, limits: Sequence[_Limit]) -> np.ndarray:
    """(records,) bool: records that these limits drop, or an op without limits, which stays as it is."""
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
    """(records,) tokens of each document, from the samples of the same run; None if the run has no samples.

    Tokens of a document that was never tokenized are estimated from its characters.
    """
    tokens_by_id: dict[str, int] = {}
    run = open_files(posixpath.dirname(view.url))
    for name in run.folders():
        if not run.exists(f"{name}/store.json"):
            continue
        head = Store.open(f"{run.url}/{name}").head()
        if head is not None and head.kind == "samples":
            columns = head.table(["id", "tokens"])
            tokens_by_id |= dict(zip(columns["id"].to_pylist(), columns["tokens"].to_pylist(), strict=True))
    if not tokens_by_id:
        return None
    tokens = np.array([tokens_by_id.get(name, -1) for name in table["id"].to_pylist()], np.float64)
    characters = table["characters"].to_numpy()
    counted = tokens >= 0
    if not counted.any():
        return None
    rate = tokens[counted].sum() / max(1, characters[counted].sum())
    return np.where(counted, tokens, characters * rate)


def _row(
    name: str, group: np.ndarray, before: np.ndarray, after: np.ndarray, table: pa.Table, tokens: np.ndarray | None
) -> dict[str, Json]:
    characters = table["characters"].to_numpy()
    row: dict[str, Json] = {
        "group": name,
        "documents": int((before & group).sum()),
        "documents_after": int((after & group).sum()),
        "characters": int(characters[before & group].sum()),
        "characters_after": int(characters[after & group].sum()),
    }
    if tokens is not None:
        row |= {"tokens": int(tokens[before & group].sum()), "tokens_after": int(tokens[after & group].sum())}
    return row


def _examples(table: pa.Table, which: np.ndarray, limits: Sequence[_Limit]) -> list[dict[str, Json]]:
    ordinals = np.flatnonzero(which)[:EXAMPLES].tolist()
    rows = table.take(pa.array(ordinals, pa.int64())).to_pylist()
    return [
        {"id": row["id"], "locator": row["locator"]}
        | {limit.column.rpartition(".")[2]: row[limit.column] for limit in limits}
        for row in rows
    ]


def _named(table: pa.Table, name: str) -> pa.ChunkedArray | None:
    """The column of this name, or the column `NODE.OP.name` of a filter; None if there is neither."""
    column = next((full for full in table.column_names if full == name or full.endswith(f".{name}")), None)
    return None if column is None else table[column]
