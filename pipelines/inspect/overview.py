"""What `millrace inspect` says of a store, a plan or a run as a whole: counts, shares, reasons, time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from manifests.errors import StoreError
from manifests.records import Json
from pipelines.inspect import queries
from pipelines.inspect.plan_stats import plan_statistics
from pipelines.inspect.plan_view import PlanView
from stores.store import Snapshot


def store_overview(snapshot: Snapshot) -> dict[str, Json]:
    found: dict[str, Json] = {
        "store": f"{snapshot.name} ({snapshot.kind})",
        "snapshot": f"{snapshot.number}{'' if snapshot.complete else ', not complete yet'}",
        "content root": snapshot.content_root,
        "counts": _counts(snapshot),
    }
    if snapshot.kind == "plan":
        return found | _plan(snapshot)
    if snapshot.kind == "packs":
        return found | _packs(snapshot)
    found["by source and domain"] = [
        {"source": g.source, "domain": g.domain, "records": g.records, "kept": g.kept, **g.sums}
        for g in queries.record_groups(snapshot)
    ]
    found["media"] = [
        {"format": name, "used": used, "distinct": distinct, "bytes": size}
        for name, (used, distinct, size) in queries.media_counts(snapshot).items()
    ]
    found["dropped"] = queries.drop_counts(snapshot)
    found["ops"] = _ops(snapshot) if snapshot.kind == "view" else []
    found["contaminated"] = queries.contaminations(snapshot)
    found["scores"] = [
        {"column": name, "lowest": low, "median": middle, "highest": high}
        for name, (low, middle, high) in queries.score_ranges(snapshot).items()
    ]
    found["quarantined"] = queries.quarantine_counts(snapshot)
    return {key: value for key, value in found.items() if value not in ([], {})}


def _counts(snapshot: Snapshot) -> dict[str, int]:
    """A view counts what it keeps itself; what views below it dropped is not kept either."""
    return dict(snapshot.counts) | ({"kept": len(snapshot.kept())} if snapshot.kind == "view" else {})


def _plan(snapshot: Snapshot) -> dict[str, Json]:
    """What the plan's arrays hold, beside what it claims; `packs` recounts the index of what was packed."""
    meta = snapshot.meta
    planned = PlanView(snapshot)
    found: dict[str, Json] = {
        "plan": {key: value for key, value in meta.items() if not isinstance(value, (dict, list))}
        | {
            "global batches": f"{planned.steps.start} to {planned.steps.stop - 1}",
            "vision share": json.dumps(meta["vision_share"]),
        }
    }
    found |= plan_statistics(planned)
    found["refused"] = {s["name"]: s["refused"] for s in meta["sources"] if s.get("refused")}
    found["vision share by window"] = [
        {
            "first step": planned.first_step + w["first_pack"] // planned.batch_packs,
            "tokens": w["tokens"],
            "share": w["slots"] / w["tokens"],
            "schedule": w["wanted_slots"] / w["tokens"],
        }
        for w in queries.evenly_spaced(meta.get("windows", []), 12)
    ]
    return {key: value for key, value in found.items() if value}


def _packs(snapshot: Snapshot) -> dict[str, Json]:
    counted = queries.vision_shares(snapshot)
    return {
        "counted in the index": {
            "tokens": counted.tokens,
            "vision slots": counted.slots,
            "text and wrappers": counted.tokens - counted.slots,
            "tokens with loss": counted.loss_tokens,
            "vision share": counted.slots / counted.tokens,
            "schedule": snapshot.meta["vision_share"],
            "fill": counted.fill,
        },
        "vision share by window": [
            {"until token": until, "share": share, "so far": running}
            for until, share, running in queries.evenly_spaced(
                list(zip(counted.until_tokens, counted.share, counted.running, strict=True)), 12
            )
        ],
    }


def run_overview(folder: Path) -> dict[str, Json]:
    stores, unread = queries.run_stores(folder)
    if not stores and not unread and queries.training_folder(folder) is None:
        raise StoreError("is neither a store nor a run", where=str(folder), fix="give runs/NAME or a store in it")
    found: dict[str, Json] = {
        "stores": [
            {
                "node": name,
                "kind": s.kind,
                "records": s.counts["records"],
                "kept": len(s.kept()),
                "quarantined": s.counts.get("quarantined", 0),
                "complete": "yes" if s.complete else "no",
                "content root": s.content_root[:12],
            }
            for name, s in stores.items()
        ],
        "work": list(_work(folder, stores)),
        "can't be read": [f"{name}: {why}" for name, why in unread.items()],
    }
    training = queries.training_folder(folder)
    if training is not None:
        rows = queries.training_steps(training)
        found["training"] = [
            {key: row[key] for key in ("step", "tokens", "loss", "loss_text", "loss_vision") if key in row}
            for row in queries.evenly_spaced(rows, 10)
        ]
        evaluation = queries.read_json(training / "evaluation.json") or {}
        found["held-out loss, nats per token"] = {
            domain: value["loss"] for domain, value in evaluation.get("held_out", {}).items()
        }
        found["does it see? other image minus own, nats per token"] = [
            {"attribute": name} | {key: one.get(key) for key in ("difference", "low", "high", "tokens", "scenes")}
            for name, one in evaluation.get("grounding", {}).get("attributes", {}).items()
            if one["scenes"]
        ]
    if (folder / "report.html").is_file():
        found["page"] = str(folder / "report.html")
    return {key: value for key, value in found.items() if value not in ([], {})}


def _work(folder: Path, stores: Mapping[str, Snapshot]) -> Iterator[dict[str, Json]]:
    """What each node took in, kept, dropped and set aside, and when it last worked, how long and how fast."""
    worked = queries.last_work(folder)
    for name, store in stores.items():
        kept = len(store.kept())
        gone = queries.drop_counts(store) | queries.quarantine_counts(store)
        if store.kind == "view":
            below = queries.input_drops(store)
            gone = {reason: count - below.get(reason, 0) for reason, count in gone.items()}
        row: dict[str, Json] = {
            "node": name,
            "in": kept + sum(gone.values()),
            "kept": kept,
            "dropped, set aside": ", ".join(f"{reason} {count:,}" for reason, count in gone.items() if count),
            "tokens": store.counts.get("tokens"),
            "MB": round(store.counts.get("bytes", 0) / 1e6, 1),
        }
        if (last := worked.get(name)) is not None:
            row |= {"s": round(last["seconds"], 1), "per s": _rate(last["worked"] / max(last["seconds"], 1e-3))}
        yield row


def _ops(view: Snapshot) -> list[dict[str, Json]]:
    """A line for each op of a filter, with what the run log says of its time."""
    run = Path(view.url).parent
    took = queries.last_work(run).get(view.name, {}).get("parts", {}) if "://" not in view.url else {}
    rows = []
    for row in queries.op_counts(view):
        seen, seconds = took.get(row["op"], (0, 0.0))
        told = {"op": row["op"], "in": row["in"], "kept": row["kept"]}
        told["drops (as the first)"] = ", ".join(
            f"{why} {n:,} ({row['first'][why]:,})" for why, n in row["dropped"].items()
        )
        rows.append(told | ({"s": round(seconds, 3), "per s": _rate(seen / max(seconds, 1e-6))} if seen else {}))
    return rows


def _rate(per_s: float) -> float:
    """Of what is slow, two digits: less than one a second is not none."""
    return round(per_s) if per_s >= 10 else float(f"{per_s:.2g}")
