"""`millrace explain`: why a document, an image or a URL is in or out of a run, from its source to the training steps.

It reads the stores of the run: documents by their lookup index, every decision and score of the views, duplicates,
quarantine, records derived from a document, samples, plans, packs, and the folders of trainings. It never writes.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import ManifestError, StoreError
from manifests.records import Json
from pipelines.inspect import queries, terminal
from pipelines.inspect.plan_view import PlannedSegment, PlanView, segment_rows
from stores.files.open import open_files
from stores.forget import exposure
from stores.forget.exposure import PackExposure
from stores.lookup.find import By
from stores.store import RecordRef, Snapshot

DECISIONS = ("keep", "reason", "score", "duplicate_of")
"""Columns of views that are decisions, not facts of the document."""
STEPS = 12
"""Most steps, packs or segments that the terminal lists; `--json` lists all."""
DERIVED = 10
"""Most derived records that the terminal lists."""
ID_DIGITS = 32
"""Hexadecimal digits of a record id."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="millrace explain",
        description="Explain why a document, an image or a URL is in or out: every score with its limit, the record "
        "that a duplicate lost to, and the packs and training steps that contain it.",
        epilog="example:\n  millrace explain runs/quickstart https://example.org/page.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("name", help="id of a document, its locator or URL, or the SHA-256 of an image or video")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    options = parser.parse_args(arguments)
    print_explanation(options.run, options.name, options.json)
    return 0


def print_explanation(run: Path, name: str, as_json: bool) -> None:
    """Print the explanation of a record to stdout, as text or as JSON."""
    result = explain(run, name)
    if as_json:
        print(json.dumps(result, ensure_ascii=False, indent=1))
    else:
        terminal.show(for_display(result))


def explain(run: Path, name: str) -> dict[str, Json]:
    """Explain all records with this name: documents of any store of the run, and quarantined records.

    Args:
        run: folder of the run.
        name: id of a document, its locator or URL, or the SHA-256 of an image or video.
    Raises:
        StoreError: no store contains a record with this name, and it is not quarantined.
    """
    if not run.is_dir():
        raise ManifestError("there is no such run", where=str(run), fix="give the folder of a run, runs/NAME")
    stores, unreadable = queries.run_stores(run)
    documents = {node: snapshot for node, snapshot in stores.items() if snapshot.kind == "documents"}
    refs = [(node, snapshot, ref) for node, snapshot in documents.items() for ref in _find(snapshot, name)]
    ids = {snapshot.row(ref.ordinal)["id"] for _, snapshot, ref in refs}
    quarantined = list(quarantined_records(stores, name, ids))
    if not refs and not quarantined:
        searched = ", ".join(documents) or "there is no store of documents"
        searched += "".join(f"; {node} can't be read: {reason}" for node, reason in unreadable.items())
        raise StoreError(
            f"no record of this run has the name {name!r} (searched: {searched})",
            where=str(run),
            fix="give an id, a locator or URL, or the SHA-256 of an image or video",
        )
    derived = _derived_by_parent(documents, ids, unreadable)
    records = [_explain_record(run, stores, node, snapshot, ref, unreadable) for node, snapshot, ref in refs]
    return {
        "name": name,
        "records": [record | {"derived": derived[record["facts"]["id"]]} for record in records],
        "quarantine": quarantined,
        "unreadable": unreadable,
    }


def _find(snapshot: Snapshot, name: str) -> list[RecordRef]:
    by: By = "id" if re.fullmatch("[0-9a-f]{32}", name) else "digest" if re.fullmatch("[0-9a-f]{64}", name) else "url"
    return snapshot.find(by, name)


# ---------------------------------------------------------------------------------------------- derived records


def derived_records(node: str, documents: Snapshot, ids: Collection[str]) -> list[tuple[str, dict[str, Json]]]:
    """(parent, record) for each record of a store that was derived from one of these documents.

    A node that derives records (rephrasings, renders, augmented copies) names the parent in their locator, `PARENT` or
    `PARENT/VARIANT`. Therefore the index suffices, and no record is read.
    """
    if not documents.parents:  # a store of raw files has no derived records
        return []
    parents, derived = pa.array(sorted(ids), pa.string()), []
    for _, table, _ in documents.facts(("id", "locator"), ()):
        beginnings = pc.utf8_slice_codeunits(table["locator"], 0, ID_DIGITS)
        for row in table.filter(pc.is_in(beginnings, value_set=parents)).to_pylist():
            parent, _, variant = row["locator"].partition("/")
            if parent in ids:
                derived.append((parent, {"node": node, "id": row["id"].hex(), "variant": variant}))
    return derived


def quarantined_records(stores: Mapping[str, Snapshot], name: str, ids: Collection[str]) -> Iterator[dict[str, Json]]:
    """Quarantined records with this locator, and those that should have been derived from records with these ids."""
    for node, snapshot in stores.items():
        if snapshot.counts.get("quarantined"):
            for row in snapshot.quarantined().to_pylist():
                locator = row["locator"]
                if locator == name or locator.startswith(f"{name}#") or locator.partition("/")[0] in ids:
                    yield {"node": node} | row


def _derived_by_parent(
    stores: Mapping[str, Snapshot], ids: Set[str], unreadable: dict[str, str]
) -> dict[str, list[dict[str, Json]]]:
    """Parent -> derived records. A record that several stores contain, as `materialize` copies it, is listed once."""
    derived: dict[str, dict[str, dict[str, Json]]] = {parent: {} for parent in ids}
    for node, documents in stores.items():
        for parent, record in queries.read_or_note(node, unreadable, derived_records, node, documents, ids) or []:
            derived[parent].setdefault(record["id"], record)
    return {parent: list(records.values()) for parent, records in derived.items()}


# ---------------------------------------------------------------------------------------------- one record


def _explain_record(
    run: Path,
    stores: Mapping[str, Snapshot],
    node: str,
    documents: Snapshot,
    ref: RecordRef,
    unreadable: dict[str, str],
) -> dict[str, Json]:
    """Explain one document. Reasons why a store can't be read are written to `unreadable`, by node."""
    facts = _facts(documents, ref)
    plans = list(_plans(stores, facts["id"], unreadable))
    exposures = []
    for name, packs in stores.items():
        if packs.kind == "packs":
            result = queries.read_or_note(name, unreadable, _exposure, packs, facts["id"])
            exposures += [(name, *result)] if result is not None else []
    explanation = {
        "store": node,
        "location": {"shard": ref.shard, "row": ref.row, "unit": ref.unit, "ordinal": ref.ordinal},
        "facts": facts,
        "decisions": [
            decision
            for name, view in stores.items()
            if view.kind == "view" and view.base.content_root == documents.content_root
            for decision in _decisions(name, view, ref)
        ],
        "samples": _samples(stores, facts["id"]),
        "plans": plans,
        "packs": [
            {"node": name, "packs": list(e.ordinals), "global_batches": list(e.global_batches), "shards": shards}
            for name, e, shards in exposures
        ],
        "training": [
            training
            for _, e, _ in exposures
            for training in exposure.training_exposures(open_files(str(run)), [e] if e.global_batches else [])
        ],
    }
    return {"verdict": _verdict(explanation)} | explanation


def _facts(snapshot: Snapshot, ref: RecordRef) -> dict[str, Json]:
    """Columns of a document, without decisions, empty values and MinHash bands."""
    return {
        name: value
        for name, value in snapshot.row(ref.ordinal).items()
        if name not in (*DECISIONS, "unit", "shard") and ".band_" not in name and value != ""
    }


def _decisions(node: str, view: Snapshot, base: RecordRef) -> Iterator[dict[str, Json]]:
    """Decisions of one view about a record of its base: a row per score of a filter, one row for any other node."""
    record = view.base.row(base.ordinal)["id"]
    ref = next((ref for ref in view.find("id", record) if ref.shard == base.shard), None)
    if ref is None:
        return
    row = view.row(ref.ordinal)
    if not queries.view_input(view).row(ref.ordinal)["keep"]:
        yield {"node": node, "decision": "not examined: dropped by an earlier node"}
        return
    for op in view.meta.get("ops", ()):
        yield from _op_decisions(node, op, row)
    if not view.meta.get("ops"):
        decision = {"node": node, "decision": "kept" if row["keep"] else "dropped", "reason": row.get("reason")}
        if row.get("duplicate_of"):
            decision["duplicate_of"] = row["duplicate_of"]
        own = {name: value for name, value in row.items() if name.startswith(f"{node}.") and ".band_" not in name}
        yield decision | {name: value for name, value in own.items() if not isinstance(value, list)}


def _op_decisions(node: str, op: Json, row: Mapping[str, Json]) -> Iterator[dict[str, Json]]:
    """One decision per choice and per limit of an op, from the columns of the filter."""
    if op["domains"] and row["domain"] not in op["domains"]:
        yield {"node": node, "op": op["kind"], "decision": f"not for {row['domain']}"}
        return
    for choice in op.get("choices", ()):
        value = row.get(choice["column"])
        excluded = value is not None and choice["among"] and value not in choice["among"]
        yield {
            "node": node,
            "op": op["kind"],
            "score": choice["column"].rpartition(".")[2],
            "value": value,
            "limit": f"one of {', '.join(choice['among'])}" if choice["among"] else "any",
            "decision": f"dropped: {choice['reason']}" if excluded else "passed",
        }
    for limit in op["limits"]:
        value = row.get(limit["column"])
        score = limit["column"].rpartition(".")[2]
        if value is None or np.isnan(value):
            yield {"node": node, "op": op["kind"], "score": score, "value": None, "decision": "nothing to measure"}
            continue
        at = limit["at"]
        violated = at is not None and (value < at if limit["drops"] == "below" else value > at)
        yield {
            "node": node,
            "op": op["kind"],
            "score": score,
            "value": value,
            "limit": "none" if at is None else f"{'at least' if limit['drops'] == 'below' else 'at most'} {at:g}",
            "decision": f"dropped: {limit['reason']}" if violated else "passed",
        }
    if "column" in op:
        reason = row.get(op["column"])
        yield {"node": node, "op": op["kind"], "decision": f"dropped: {reason}" if reason else "passed"}


def _samples(stores: Mapping[str, Snapshot], record: str) -> list[dict[str, Json]]:
    """The sample of a document in each store of samples."""
    return [
        {"node": node} | {key: row[key] for key in ("tokens", "loss_tokens", "images", "videos")} | {"shard": ref.shard}
        for node, samples in stores.items()
        if samples.kind == "samples"
        for ref in samples.find("id", record)
        for row in [samples.row(ref.ordinal)]
    ]


def _plans(stores: Mapping[str, Snapshot], record: str, unreadable: dict[str, str]) -> Iterator[dict[str, Json]]:
    """Segments of a document in each plan. Of an amended plan, those before the batch at which the amendment begins."""
    plans = {node: snapshot for node, snapshot in stores.items() if snapshot.kind == "plan"}
    amendments = [plan.meta["amends"] for plan in plans.values() if plan.meta["amends"]]
    for node, plan in plans.items():
        stop = min([a["at_batch"] for a in amendments if a["plan"] == plan.meta["plan"]], default=None)
        segments = queries.read_or_note(node, unreadable, _segments, plan, record) or []
        trained = [segment for segment in segments if stop is None or segment.step < stop]
        if trained:
            yield {"node": node, "plan": plan.meta["plan"], "segments": segment_rows(trained)}


def _segments(plan: Snapshot, record: str) -> list[PlannedSegment]:
    return PlanView(plan).segments_of(record)


def _exposure(packs: Snapshot, record: str) -> tuple[PackExposure, list[str]]:
    """(packs and global batches that contain a segment of a document, their shards), found through the plan."""
    planned = PlanView(packs)
    segments = planned.segments_of(record)
    first = planned.first_step
    ordinals = sorted({(segment.step - first) * planned.batch_packs + segment.row for segment in segments})
    batches = sorted({segment.step for segment in segments})
    existing = [ordinal for ordinal in ordinals if ordinal < packs.counts["records"]]
    shards = list(dict.fromkeys(packs.shard_of(ordinal).shard for ordinal in existing))
    plan = packs.meta["plan"]
    return PackExposure(packs.url, packs.content_root, plan, len(segments), tuple(existing), tuple(batches)), shards


def _verdict(explanation: Mapping[str, Json]) -> str:
    """One sentence: in or out, and why."""
    for decision in explanation["decisions"]:
        if decision["decision"].startswith("dropped"):
            winner = f", a duplicate of {decision['duplicate_of']}" if decision.get("duplicate_of") else ""
            value = decision.get("value")
            number = f"{value:g}" if isinstance(value, (int, float)) else value
            score = f" ({decision['score']} {number}, limit: {decision['limit']})" if "score" in decision else ""
            reason = decision.get("reason") or decision["decision"].partition(": ")[2]
            return f"out: {decision['node']} dropped it as {reason}{score}{winner}"
    steps = sorted({step for training in explanation["training"] for step in training["exposed_steps"]})
    if steps:
        return f"in: {len(steps)} training {'step' if len(steps) == 1 else 'steps'} contained it"
    segments = sum(len(plan["segments"]) for plan in explanation["plans"])
    if segments:
        return f"in: planned in {segments} {'segment' if segments == 1 else 'segments'}"
    return "tokenized, in no plan" if explanation["samples"] else "kept, not tokenized"


# ---------------------------------------------------------------------------------------------- for people


def for_display(result: Mapping[str, Json]) -> dict[str, Json]:
    """An explanation as sections for the terminal; sections of several records are numbered."""
    sections: dict[str, Json] = {}
    records = result["records"]
    for number, record in enumerate(records):
        mark = f" {number + 1}" if len(records) > 1 else ""
        sections[f"verdict{mark}"] = record["verdict"]
        sections[f"record{mark}"] = {"store": record["store"], **record["location"], **record["facts"]}
        sections[f"decisions{mark}"] = list(_decision_rows(record["decisions"]))
        if any(record["facts"]["id"] == other["facts"]["id"] for other in records[:number]):
            continue  # a copy, as `materialize` makes them: the first one shows samples, plans and packs
        derived = record["derived"]
        first = f", the first {DERIVED} of {len(derived):,}" if len(derived) > DERIVED else ""
        sections[f"derived records{mark}{first}"] = derived[:DERIVED]
        sections[f"samples{mark}"] = record["samples"]
        for plan in record["plans"]:
            sections[f"segments in {plan['node']}{mark}"] = plan["segments"][:STEPS]
        sections[f"packs{mark}"] = [
            {
                "node": packs["node"],
                "packs": _short_list(packs["packs"]),
                "global_batches": _short_list(packs["global_batches"]),
                "shards": ", ".join(shard[:12] for shard in packs["shards"][:STEPS]),
            }
            for packs in record["packs"]
            if packs["packs"]
        ]
        sections[f"training{mark}"] = [
            {
                "run": training["run"],
                "steps": training["steps"],
                "exposed_steps": _short_list(training["exposed_steps"]),
            }
            for training in record["training"]
        ]
    sections["quarantine"] = result["quarantine"]
    sections["unreadable"] = [f"{node}: {reason}" for node, reason in result["unreadable"].items()]
    return {title: value for title, value in sections.items() if value}


def _decision_rows(decisions: Sequence[Mapping[str, Json]]) -> Iterator[dict[str, Json]]:
    """Rows of the table of decisions: one per score of a filter, below the name of its op; one per other node."""
    previous = ""
    for decision in decisions:
        by = ".".join(decision[key] for key in ("node", "op") if key in decision)
        if "score" in decision:
            if by != previous:
                yield {"by": by, "value": "", "limit": "", "decision": ""}
            previous = by
            yield {"by": f"  {decision['score']}", **{key: decision.get(key) for key in ("value", "limit", "decision")}}
            continue
        winner = f" of {decision['duplicate_of']}" if decision.get("duplicate_of") else ""
        reason = f": {decision['reason']}{winner}" if decision.get("reason") else ""
        scores = {key.rpartition(".")[2]: value for key, value in decision.items() if "." in key and value is not None}
        values = ", ".join(f"{name} {value}" for name, value in scores.items())
        yield {"by": by, "value": values, "limit": "", "decision": f"{decision['decision']}{reason}"}


def _short_list(numbers: list[int]) -> str:
    more = f" and {len(numbers) - STEPS} more" if len(numbers) > STEPS else ""
    return ", ".join(map(str, numbers[:STEPS])) + more
