"""Overview of a run for `millrace inspect RUN`: a table of its nodes, failures, losses, and the next commands.

It reads the run log, the stores and the receipts. A run whose log is deleted is shown as well, without kinds and times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from manifests import runlog
from manifests.errors import StoreError
from manifests.quantities import count_text, duration_text, size_text
from manifests.records import Json
from pipelines.inspect import queries, terminal
from pipelines.inspect.store_overview import rate
from pipelines.inspect.training import training_lines, training_table
from stores.files.open import open_files
from stores.store import Snapshot
from stores.upkeep.run_lock import stores_url

NodeState = Literal["complete", "unfinished", "unreadable", "deleted"]
STATES: dict[NodeState, str] = {"complete": "done"}
"""State -> shorter word of the table."""
MADE = ("plan", "packs", "folder")
"""Products whose records are not those of the input: packs and files are counted, records in are not."""

# ---------------------------------------------------------------------------------------------- for programs


def run_overview(run: Path) -> dict[str, Json]:
    """Stores, work and training of a run as plain values. Raises StoreError for a folder that is no run."""
    stores, unreadable = queries.run_stores(run)
    training = queries.training_folder(run)
    if not stores and not unreadable and training is None:
        raise StoreError("is neither a store nor a run", where=str(run), fix="give runs/NAME or a store in it")
    overview: dict[str, Json] = {
        "stores": [
            {
                "node": name,
                "kind": snapshot.kind,
                "records": snapshot.counts["records"],
                "kept": len(snapshot.kept()),
                "quarantined": snapshot.counts.get("quarantined", 0),
                "complete": snapshot.complete,
                "content_root": snapshot.content_root,
            }
            for name, snapshot in stores.items()
        ],
        "work": list(_work(run, stores)),
        "unreadable": unreadable,
    }
    if training is not None:
        overview |= training_table(training)
    if (run / "report.html").is_file():
        overview["report"] = str(run / "report.html")
    return {key: value for key, value in overview.items() if value not in ([], {})}


def _work(run: Path, stores: Mapping[str, Snapshot]) -> Iterator[dict[str, Json]]:
    """One row per store: records in, kept, dropped and quarantined, and the time of the last work."""
    last_work = queries.last_work(run)
    for name, store in stores.items():
        kept = len(store.kept())
        dropped, quarantined = _dropped(store), queries.quarantine_counts(store)
        row: dict[str, Json] = {
            "node": name,
            "records": kept + sum(dropped.values()) + sum(quarantined.values()),
            "kept": kept,
            "dropped": dropped,
            "quarantined": quarantined,
            "tokens": store.counts.get("tokens"),
            "bytes": store.counts.get("bytes", 0),
        }
        if (last := last_work.get(name)) is not None:
            row |= {"seconds": last["seconds"], "records_per_s": rate(last["worked"] / max(last["seconds"], 1e-3))}
        yield row


def _dropped(store: Snapshot) -> dict[str, int]:
    return queries.own_drop_counts(store) if store.kind == "view" else {}


# ---------------------------------------------------------------------------------------------- for people


@dataclass(frozen=True)
class NodeRow:
    """One node of a run, with the counts of its product."""

    node: str
    kind: str = ""
    """Kind of the node; of its product if the run log is deleted."""
    product: str = "folder"
    """Kind of the store, or `folder`."""
    state: NodeState = "unfinished"
    units: tuple[int, int] | None = None
    """(committed, all) units of an unfinished node."""
    records: int | None = None
    """Records that the node keeps, packs of a plan, or files of a folder."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Reason -> records, most frequent first."""
    quarantined: Mapping[str, int] = field(default_factory=dict)
    """Reason -> records, most frequent first."""
    bytes: int = 0
    seconds: float | None = None
    """Time of the last work on the node."""
    content_root: str = ""
    """Content root of its store."""


def node_rows(run: Path) -> tuple[list[NodeRow], dict[str, str]]:
    """All nodes of a run in the order in which they first ran, and the reasons why stores are unreadable, by node."""
    stores, unreadable = queries.run_stores(run)
    log = runlog.read(run / "log.jsonl")
    events: dict[str, list[dict[str, Json]]] = {}
    for row in log:
        if "node" in row:
            events.setdefault(str(row["node"]), []).append(row)
    receipts = {file.stem for file in (run / "receipts").glob("*.json") if "." not in file.stem}
    parts = {folder.stem for folder in (run / "receipts").glob("*.parts")}
    names = dict.fromkeys([*events, *stores, *unreadable, *sorted(receipts | parts)])
    return [_node_row(run, name, stores.get(name), unreadable, events.get(name, [])) for name in names], unreadable


def _node_row(
    run: Path, name: str, store: Snapshot | None, unreadable: Mapping[str, str], events: list[dict[str, Json]]
) -> NodeRow:
    kind = next((str(row["kind"]) for row in reversed(events) if "kind" in row), "")
    seconds = next((row["seconds"] for row in reversed(events) if row.get("event") == "node_commit"), None)
    if store is not None:
        return NodeRow(
            name,
            kind or store.kind,
            store.kind,
            "complete" if store.complete else "unfinished",
            None if store.complete else (len(store.units), max(len(store.units), _planned_units(events))),
            int(store.meta["packs"]) if store.kind == "plan" else len(store.kept()),
            _dropped(store),
            queries.quarantine_counts(store),
            store.counts.get("bytes", 0),
            seconds,
            store.content_root,
        )
    if name in unreadable:
        return NodeRow(name, kind, "", "unreadable", seconds=seconds)
    receipt = queries.read_json(run / "receipts" / f"{name}.json")
    if receipt is not None:
        files = receipt["files"]
        exists = all((run / file["path"]).is_file() for file in files)
        size = sum(file["size"] for file in files)
        state: NodeState = "complete" if exists else "deleted"
        return NodeRow(name, kind or "folder", "folder", state, None, len(files), bytes=size, seconds=seconds)
    committed = any(row["event"] in ("node_commit", "node_skip") for row in events)
    if committed and not open_files(f"{stores_url(run)}/{name}").exists("store.json"):
        return NodeRow(name, kind, "", "deleted", seconds=seconds)
    done = len(list((run / "receipts" / f"{name}.parts").glob("*.json")))
    return NodeRow(name, kind, "", "unfinished", (done, max(done, _planned_units(events))), seconds=seconds)


def _planned_units(events: list[dict[str, Json]]) -> int:
    return next((int(row["units"]) for row in reversed(events) if row["event"] == "node_start"), 0)


def print_run(run: Path) -> None:
    """Print the overview of a run. Raises StoreError for a folder that is no run."""
    rows, unreadable = node_rows(run)
    training = queries.training_folder(run)
    if not rows and training is None:
        raise StoreError("is neither a store nor a run", where=str(run), fix="give runs/NAME or a store in it")
    out = terminal.console()
    lines = [_headline(run, rows), ""]
    if rows:
        lines += terminal.table([_cells(row) for row in rows], out.width, optional=("kind", "size", "in"))
    lines += _failures(run, rows, unreadable)
    lines += _proofs(run, rows)
    if training is not None and (losses := training_lines(training)):
        lines += ["", *losses]
    if (run / "report.html").is_file():
        lines += ["", f"report: {run / 'report.html'}"]
    lines += ["", "next:", *_commands(run, rows, training, out.width)]
    terminal.print_lines(out, lines)


def _headline(run: Path, rows: list[NodeRow]) -> str:
    counts = {state: sum(row.state == state for row in rows) for state in ("unfinished", "deleted", "unreadable")}
    exceptions = [f"{count} {state}" for state, count in counts.items() if count]
    nodes = "1 node" if len(rows) == 1 else f"{len(rows)} nodes"
    return f"{run}: {nodes}, {', '.join(exceptions) if exceptions else 'all complete'}"


def _cells(row: NodeRow) -> dict[str, Json]:
    """One row of the table. Cells without a value stay empty."""
    quarantined = sum(row.quarantined.values())
    counted = row.records is not None and row.product not in MADE
    done, units = row.units or (0, 0)
    return {
        "node": row.node,
        "kind": row.kind,
        "state": f"{row.state}, {done:,} of {units:,} units" if units else STATES.get(row.state, row.state),
        "in": count_text((row.records or 0) + sum(row.dropped.values()) + quarantined) if counted else "",
        "kept": "" if row.records is None else count_text(row.records),
        "dropped: top reason": _with_top_reason(row.dropped),
        "quarantined": count_text(quarantined) if quarantined else "",
        "size": size_text(row.bytes),
        "time": "" if row.seconds is None else duration_text(row.seconds),
    }


def _with_top_reason(counts: Mapping[str, int]) -> str:
    """Count of all reasons and the most frequent reason: `16: repeated_lines`."""
    return f"{count_text(sum(counts.values()))}: {next(iter(counts))}" if counts else ""


def _failures(run: Path, rows: list[NodeRow], unreadable: Mapping[str, str]) -> list[str]:
    """Lines about unreadable and deleted stores, the error that stopped the run, and the way to complete it."""
    nodes: dict[str, list[str]] = {}
    for node, reason in unreadable.items():
        nodes.setdefault(reason, []).append(node)
    lines = [f"unreadable: {', '.join(names)}: {reason}" for reason, names in nodes.items()]
    deleted = [row.node for row in rows if row.state == "deleted"]
    if deleted:
        lines.append(f"deleted: {', '.join(deleted)}")
    log = runlog.read(run / "log.jsonl")
    if log and log[-1].get("event") == "run_stop":
        error = str(log[-1]["error"]).splitlines() or [""]
        lines.append(f"the last run stopped: {error[0]}")
    if any(row.state in ("unfinished", "deleted") for row in rows):
        lines.append("to complete the run: give `millrace run` the same manifest again; finished units are kept")
    return ["", *lines] if lines else []


def _proofs(run: Path, rows: list[NodeRow]) -> list[str]:
    """One line per packs store that the run recounted from its bytes and compared with the plan."""
    lines = []
    for row in rows:
        proof = queries.read_json(run / "receipts" / f"{row.node}.proof.json")
        if proof is not None and proof["content_root"] == row.content_root and not proof["failed"]:
            command = f"millrace store verify {run}/{row.node}"
            lines.append(f"{row.node}: equal to its plan when last compared; check again: {command}")
    return ["", *lines] if lines else []


def _commands(run: Path, rows: list[NodeRow], training: Path | None, width: int) -> list[str]:
    """Commands that show more about this run, with comments if all fit the width."""
    commands = [(f"millrace inspect {run}/NODE", "more about one node")]
    lost = {
        "--quarantine": max(rows, key=lambda row: sum(row.quarantined.values()), default=None),
        "--drops": max(rows, key=lambda row: sum(row.dropped.values()), default=None),
    }
    for flag, row in lost.items():
        if row is not None and (row.quarantined if flag == "--quarantine" else row.dropped):
            words = "records that could not be read" if flag == "--quarantine" else "records that were dropped"
            commands.append((f"millrace inspect {run}/{row.node} {flag}", words))
    packs = next((row for row in reversed(rows) if row.product == "packs" and row.state == "complete"), None)
    if packs is not None:
        commands.append((f"millrace inspect {run}/{packs.node} --record 0", "one pack, segment by segment"))
    if training is not None:
        commands.append((f"millrace inspect {run}/{training.name}", "losses and evaluation"))
    commands.append((f"millrace inspect {run} --record NAME", "why a record is in or out"))
    longest = max(len(command) for command, _ in commands)
    lines = [f"  {command:{longest}}   {words}" for command, words in commands]
    return lines if max(map(len, lines)) <= width else [f"  {command}" for command, _ in commands]
