"""`millrace explain`: why is this document, image or URL in or out? From where it came from to the steps that saw it.

Reads the stores of a run: documents by their look-up, what every view decided and measured, duplicates and whom they
lost to, quarantine, samples, plans, packs, and the folders that were trained in. Never writes.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import ManifestError, StoreError
from manifests.records import Json
from pipelines.inspect import command, queries
from pipelines.inspect.plan_view import PlannedSegment, PlanView
from stores.files.open import open_files
from stores.forget import exposure
from stores.forget.exposure import PackExposure
from stores.lookup.find import By
from stores.store import RecordRef, Snapshot

DECISIONS = ("keep", "reason", "score", "duplicate_of")
STEPS = 12
"""Steps are named one by one up to here, in words; `--json` names all."""
CHILDREN = 10
"""And what was made of a record up to here."""
ID_DIGITS = 32


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="millrace explain",
        description="Why is this in or out? Every score and limit, whom a duplicate lost to, and where it is seen.",
        epilog="example:\n  millrace explain runs/quickstart https://example.org/page.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("name", help="id of a document, its locator or URL, or the SHA-256 of an image or video")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    options = parser.parse_args(arguments)
    found = explain(options.run, options.name)
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        command.show(_for_display(found))
    return 0


def explain(run: Path, name: str) -> dict[str, Json]:
    """Raises StoreError where no store of the run, nor its quarantine, knows the name."""
    if not run.is_dir():
        raise ManifestError("there is no such run", where=str(run), fix="give the folder of a run, runs/NAME")
    stores, unread = queries.run_stores(run)
    documents = {node: s for node, s in stores.items() if s.kind == "documents"}
    records = [(node, snapshot, place) for node, snapshot in documents.items() for place in _find(snapshot, name)]
    ids = {snapshot.row(place.ordinal)["id"] for _, snapshot, place in records}
    aside = list(quarantined_records(stores, name, ids))
    if not records and not aside:
        where = ", ".join(documents) or "no store of documents"
        fix = "give an id, a locator or URL, or the SHA-256 of an image or video; `millrace inspect STORE` lists them"
        where += "".join(f"; {node} can't be read: {why}" for node, why in unread.items())
        raise StoreError(f"{name!r} is known nowhere in this run ({where})", where=str(run), fix=fix)
    made = _derived_by_parent(documents, ids, unread)
    told = [_record(run, stores, node, snapshot, place, unread) for node, snapshot, place in records]
    return {
        "asked": name,
        "records": [one | {"made of it": made[one["facts"]["id"]]} for one in told],
        "quarantine": aside,
        "can't be read": unread,
    }


def _find(snapshot: Snapshot, name: str) -> list[RecordRef]:
    by: By = "id" if re.fullmatch("[0-9a-f]{32}", name) else "digest" if re.fullmatch("[0-9a-f]{64}", name) else "url"
    return snapshot.find(by, name)


def _derived_by_parent(
    stores: Mapping[str, Snapshot], ids: Set[str], unread: dict[str, str]
) -> dict[str, list[dict[str, Json]]]:
    """By parent. A child that lies in several stores, as `materialise` copies it, is named in the first."""
    found: dict[str, dict[str, dict[str, Json]]] = {one: {} for one in ids}
    for node, documents in stores.items():
        for parent, child in queries.read_or_note(node, unread, derived_records, node, documents, ids) or []:
            found[parent].setdefault(child["id"], child)
    return {parent: list(some.values()) for parent, some in found.items()}


def derived_records(node: str, documents: Snapshot, ids: Collection[str]) -> list[tuple[str, dict[str, Json]]]:
    """What lies in this store and was made of these records, each with its parent."""
    if not documents.parents:  # what was read from raw files was made of no record
        return []
    among, found = pa.array(sorted(ids), pa.string()), []
    for _, table, _ in documents.facts(("id", "locator"), ()):
        begins = pc.utf8_slice_codeunits(table["locator"], 0, ID_DIGITS)
        for row in table.filter(pc.is_in(begins, value_set=among)).to_pylist():
            parent, _, variant = row["locator"].partition("/")
            if parent in ids:
                found.append((parent, {"node": node, "id": row["id"].hex(), "variant": variant}))
    return found


def quarantined_records(stores: Mapping[str, Snapshot], name: str, ids: Collection[str]) -> Iterator[dict[str, Json]]:
    """What is quarantined under this name, and what should have been made of the records with these ids."""
    for node, snapshot in stores.items():
        if snapshot.counts.get("quarantined"):
            for row in snapshot.quarantined().to_pylist():
                locator = row["locator"]
                if locator == name or locator.startswith(f"{name}#") or locator.partition("/")[0] in ids:
                    yield {"node": node} | row


def _record(
    run: Path, stores: Mapping[str, Snapshot], node: str, snapshot: Snapshot, place: RecordRef, unread: dict[str, str]
) -> dict[str, Json]:
    """What can't be told because something is gone is said in `unread`, by node."""
    facts = _facts(snapshot, place)
    decisions = [
        one
        for name, view in stores.items()
        if view.kind == "view" and view.base.content_root == snapshot.content_root
        for one in _decisions(name, view, place)
    ]
    samples = _samples(stores, facts["id"])
    plans = list(_planned(stores, facts["id"], unread))
    seen = []
    for name, packs in stores.items():
        told = queries.read_or_note(name, unread, _seen, packs, facts["id"]) if packs.kind == "packs" else None
        seen += [(name, *told)] if told is not None else []
    training = [
        told
        for _, exposed, _ in seen
        for told in exposure.training_exposures(open_files(str(run)), [exposed] if exposed.global_batches else [])
    ]
    found = {
        "store": node,
        "lies in": {"shard": place.shard, "row": place.row, "unit": place.unit, "ordinal": place.ordinal},
        "facts": facts,
        "decisions": decisions,
        "samples": samples,
        "plans": plans,
        "packs": [
            {"node": name, "packs": list(one.ordinals), "global batches": list(one.global_batches), "shards": shards}
            for name, one, shards in seen
        ],
        "training": training,
    }
    return {"verdict": _verdict(found)} | found


def _facts(snapshot: Snapshot, place: RecordRef) -> dict[str, Json]:
    told = snapshot.row(place.ordinal)
    return {
        name: value
        for name, value in told.items()
        if name not in (*DECISIONS, "unit", "shard") and ".band_" not in name and value != ""
    }


def _decisions(node: str, view: Snapshot, base: RecordRef) -> Iterator[dict[str, Json]]:
    """What one view decided about a record: a line per op of a filter, one line for any other node."""
    place = next((one for one in view.find("id", base_id(view, base)) if one.shard == base.shard), None)
    if place is None:
        return
    told = view.row(place.ordinal)
    reached = bool(queries.view_input(view).row(place.ordinal)["keep"])
    if not reached:
        yield {"node": node, "decided": "not looked at: dropped before"}
        return
    for op in view.meta.get("ops", ()):
        yield from _op(node, op, told)
    if not view.meta.get("ops"):
        row = {"node": node, "decided": "kept" if told["keep"] else "dropped", "reason": told.get("reason")}
        if told.get("duplicate_of"):
            row["lost to"] = told["duplicate_of"]
        own = {name: value for name, value in told.items() if name.startswith(f"{node}.") and ".band_" not in name}
        yield row | {name: value for name, value in own.items() if not isinstance(value, list)}


def base_id(view: Snapshot, base: RecordRef) -> str:
    return view.base.row(base.ordinal)["id"]


def _op(node: str, op: Json, told: Mapping[str, Json]) -> Iterator[dict[str, Json]]:
    if op["domains"] and told["domain"] not in op["domains"]:
        yield {"node": node, "op": op["kind"], "decided": f"not for {told['domain']}"}
        return
    for choice in op.get("choices", ()):
        label = told.get(choice["column"])
        other = label is not None and choice["among"] and label not in choice["among"]
        yield {
            "node": node,
            "op": op["kind"],
            "score": choice["column"].rpartition(".")[2],
            "value": label,
            "limit": f"one of {', '.join(choice['among'])}" if choice["among"] else "any",
            "decided": f"dropped: {choice['reason']}" if other else "passed",
        }
    for limit in op["limits"]:
        value = told.get(limit["column"])
        if value is None or np.isnan(value):
            score = limit["column"].rpartition(".")[2]
            yield {"node": node, "op": op["kind"], "score": score, "value": None, "decided": "nothing to measure"}
            continue
        at = limit["at"]
        forbidden = at is not None and (value < at if limit["drops"] == "below" else value > at)
        yield {
            "node": node,
            "op": op["kind"],
            "score": limit["column"].rpartition(".")[2],
            "value": value,
            "limit": "none" if at is None else f"{'at least' if limit['drops'] == 'below' else 'at most'} {at:g}",
            "decided": f"dropped: {limit['reason']}" if forbidden else "passed",
        }
    if "column" in op:
        reason = told.get(op["column"])
        yield {"node": node, "op": op["kind"], "decided": f"dropped: {reason}" if reason else "passed"}


def _samples(stores: Mapping[str, Snapshot], name: str) -> list[dict[str, Json]]:
    return [
        {"node": node}
        | {key: told[key] for key in ("tokens", "loss_tokens", "images", "videos")}
        | {"shard": place.shard}
        for node, samples in stores.items()
        if samples.kind == "samples"
        for place in samples.find("id", name)
        for told in [samples.row(place.ordinal)]
    ]


def _planned(stores: Mapping[str, Snapshot], name: str, unread: dict[str, str]) -> Iterator[dict[str, Json]]:
    """Where each plan shows it, up to the batch from which on another plan takes its place."""
    plans = {node: snapshot for node, snapshot in stores.items() if snapshot.kind == "plan"}
    amended = [plan.meta["amends"] for plan in plans.values() if plan.meta["amends"]]
    for node, plan in plans.items():
        stop = min([one["at_batch"] for one in amended if one["plan"] == plan.meta["plan"]], default=None)
        found = queries.read_or_note(node, unread, _shown, plan, name) or []
        places = [place for place in found if stop is None or place.step < stop]
        if places:
            yield {"node": node, "plan": plan.meta["plan"], "seen": [asdict(place) for place in places]}


def _shown(plan: Snapshot, name: str) -> list[PlannedSegment]:
    return PlanView(plan).places(name)


def _seen(packs: Snapshot, name: str) -> tuple[PackExposure, list[str]]:
    """The packs that hold a segment of it, by the plan that they were made from, and their shards."""
    planned = PlanView(packs)
    places = planned.places(name)
    begin = planned.first_step
    ordinals = sorted({(place.step - begin) * planned.batch_packs + place.row for place in places})
    batches = sorted({place.step for place in places})
    held = [ordinal for ordinal in ordinals if ordinal < packs.counts["records"]]
    shards = list(dict.fromkeys(packs.shard_of(ordinal).shard for ordinal in held))
    told = PackExposure(packs.url, packs.content_root, packs.meta["plan"], len(places), tuple(held), tuple(batches))
    return told, shards


def _verdict(found: Mapping[str, Json]) -> str:
    for one in found["decisions"]:
        if one["decided"].startswith("dropped"):
            lost = f", which duplicates {one['lost to']}" if one.get("lost to") else ""
            value = one.get("value")
            told = f"{value:g}" if isinstance(value, (int, float)) else value
            compared = f" ({one['score']} {told}, {one['limit']})" if "score" in one else ""
            why = one.get("reason") or one["decided"].partition(": ")[2]
            return f"out: {one['node']} dropped it as {why}{compared}{lost}"
    steps = sorted({step for run in found["training"] for step in run["steps_that_saw_it"]})
    if steps:
        return f"in: seen by {len(steps)} steps of training"
    seen = sum(len(one["seen"]) for one in found["plans"])
    if seen:
        return f"in: plans show it in {seen} {'piece' if seen == 1 else 'pieces'}"
    return "in the samples, in no plan" if found["samples"] else "kept, and not tokenised"


def _for_display(found: Mapping[str, Json]) -> dict[str, Json]:
    """For people: one block after the other."""
    told: dict[str, Json] = {}
    for number, record in enumerate(found["records"]):
        mark = f" {number + 1}" if len(found["records"]) > 1 else ""
        told[f"record{mark}"] = record["verdict"]
        told[f"where{mark}"] = {"store": record["store"], **record["lies in"], **record["facts"]}
        told[f"decisions{mark}"] = list(_decision_rows(record["decisions"]))
        if any(record["facts"]["id"] == one["facts"]["id"] for one in found["records"][:number]):
            continue  # a copy, as `compact` makes them: what became of it is said already
        made = record["made of it"]
        first = f", the first {CHILDREN} of {len(made):,}" if len(made) > CHILDREN else ""
        told[f"made of it{mark}{first}"] = made[:CHILDREN]
        told[f"samples{mark}"] = record["samples"]
        for plan in record["plans"]:
            told[f"{plan['node']}{mark}"] = plan["seen"][:STEPS]
        told[f"packs{mark}"] = [
            {
                "node": one["node"],
                "packs": _short_list(one["packs"]),
                "global batches": _short_list(one["global batches"]),
                "shards": ", ".join(shard[:12] for shard in one["shards"][:STEPS]),
            }
            for one in record["packs"]
            if one["packs"]
        ]
        told[f"training{mark}"] = [
            {
                "run": one["run"],
                "steps done": one["steps_done"],
                "steps that saw it": _short_list(one["steps_that_saw_it"]),
            }
            for one in record["training"]
        ]
    told["quarantine"] = found["quarantine"]
    told["can't be read"] = [f"{node}: {why}" for node, why in found["can't be read"].items()]
    return {name: value for name, value in told.items() if value}


def _decision_rows(decisions: Sequence[Mapping[str, Json]]) -> Iterator[dict[str, Json]]:
    """A line each, however many columns a node has: who, what it measured, its limit, what came of it."""
    over = ""
    for one in decisions:
        by = ".".join(one[key] for key in ("node", "op") if key in one)
        if "score" in one:
            if by != over:
                yield {"by": by, "value": "", "limit": "", "decided": ""}
            over = by
            yield {"by": f"  {one['score']}", **{key: one.get(key) for key in ("value", "limit", "decided")}}
            continue
        lost = f" of {one['lost to']}" if one.get("lost to") else ""
        why = f": {one['reason']}{lost}" if one.get("reason") else ""
        more = {name.rpartition(".")[2]: value for name, value in one.items() if "." in name and value is not None}
        measured = ", ".join(f"{name} {value}" for name, value in more.items())
        yield {"by": by, "value": measured, "limit": "", "decided": f"{one['decided']}{why}"}


def _short_list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:STEPS])) + (f" and {len(numbers) - STEPS} more" if len(numbers) > STEPS else "")
