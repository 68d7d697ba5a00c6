"""Overview of one store for `millrace inspect STORE`: counts, groups, decisions, scores, statistics of a plan."""

from __future__ import annotations

from pathlib import Path

from manifests.records import Json
from pipelines.inspect import queries
from pipelines.inspect.plan_stats import plan_statistics
from pipelines.inspect.plan_view import PlanView
from stores.store import Snapshot

WINDOWS = 12
"""Rows of the table of vision shares."""


def store_overview(snapshot: Snapshot) -> dict[str, Json]:
    """Everything about a store except its records; sections without content are left out."""
    overview: dict[str, Json] = {
        "store": f"{snapshot.name} ({snapshot.kind})",
        "snapshot": f"{snapshot.number}{'' if snapshot.complete else ', not complete yet'}",
        "content_root": snapshot.content_root,
        "counts": _counts(snapshot),
    }
    if snapshot.kind == "plan":
        return overview | _plan(snapshot)
    if snapshot.kind == "packs":
        return overview | _packs(snapshot)
    overview["groups"] = [
        {"source": g.source, "domain": g.domain, "records": g.records, "kept": g.kept, **g.sums}
        for g in queries.record_groups(snapshot)
    ]
    overview["media"] = [
        {"format": name, "used": used, "distinct": distinct, "bytes": size}
        for name, (used, distinct, size) in queries.media_counts(snapshot).items()
    ]
    overview["dropped"] = queries.drop_counts(snapshot)
    overview["ops"] = _ops(snapshot)
    overview["contaminated"] = queries.contaminations(snapshot)
    overview["scores"] = [
        {"column": name, "lowest": low, "median": middle, "highest": high}
        for name, (low, middle, high) in queries.score_ranges(snapshot).items()
    ]
    overview["quarantined"] = queries.quarantine_counts(snapshot)
    return {key: value for key, value in overview.items() if value not in ([], {})}


def _counts(snapshot: Snapshot) -> dict[str, int]:
    """Counts of the store; `kept` of a view excludes the records that views below it dropped."""
    return dict(snapshot.counts) | ({"kept": len(snapshot.kept())} if snapshot.kind == "view" else {})


def _plan(snapshot: Snapshot) -> dict[str, Json]:
    """Parameters of the plan, statistics counted from its blocks, and the vision share that it states by window."""
    meta = snapshot.meta
    planned = PlanView(snapshot)
    sections: dict[str, Json] = {
        "plan": {key: value for key, value in meta.items() if not isinstance(value, (dict, list))}
        | {
            "global_batches": f"{planned.steps.start} to {planned.steps.stop - 1}",
            "vision_share": meta["vision_share"],
        }
    }
    sections |= plan_statistics(planned)
    sections["refused"] = {s["name"]: s["refused"] for s in meta["sources"] if s.get("refused")}
    sections["vision_share_windows"] = [
        {
            "first_step": planned.first_step + w["first_pack"] // planned.batch_packs,
            "tokens": w["tokens"],
            "share": w["slots"] / w["tokens"],
            "schedule": w["wanted_slots"] / w["tokens"],
        }
        for w in queries.evenly_spaced(meta.get("windows", []), WINDOWS)
    ]
    return {key: value for key, value in sections.items() if value}


def _packs(snapshot: Snapshot) -> dict[str, Json]:
    shares = queries.vision_shares(snapshot)
    windows = list(zip(shares.until_tokens, shares.share, shares.running, strict=True))
    return {
        "token_counts": {
            "tokens": shares.tokens,
            "vision_slots": shares.slots,
            "text_tokens": shares.tokens - shares.slots,
            "loss_tokens": shares.loss_tokens,
            "vision_share": shares.total,
            "schedule": snapshot.meta["vision_share"],
            "fill": shares.fill,
        },
        "vision_share_windows": [
            {"until_token": until, "share": share, "running_share": running}
            for until, share, running in queries.evenly_spaced(windows, WINDOWS)
        ],
    }


def _ops(view: Snapshot) -> list[dict[str, Json]]:
    """One row per op of a filter: documents examined, kept and dropped, and the time from the run log."""
    if view.kind != "view":
        return []
    last = queries.last_work(Path(view.url).parent).get(view.name, {}) if "://" not in view.url else {}
    rows = []
    for counts in queries.op_counts(view):
        seen, seconds = last.get("parts", {}).get(counts["op"], (0, 0.0))
        row = {"op": counts["op"], "examined": counts["in"], "kept": counts["kept"]}
        row |= {"dropped": counts["dropped"], "dropped_first": counts["first"]}
        times = {"seconds": round(seconds, 3), "documents_per_s": rate(seen / max(seconds, 1e-6))}
        rows.append(row | (times if seen else {}))
    return rows


def rate(per_s: float) -> float:
    """Round a rate for people: integers from 10 per second, else two significant digits."""
    return round(per_s) if per_s >= 10 else float(f"{per_s:.2g}")
