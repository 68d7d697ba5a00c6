"""`millrace inspect`: what is in a store, a plan or a run, and one record of it. Never writes.

Results go to stdout, as tables or with `--json` as JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from manifests.errors import ManifestError, StoreError
from manifests.geometry import fit
from manifests.records import Document, Json, Media, Pack, PlanBlock, Sample, Text
from pipelines.inspect import artefacts
from stores.store import Snapshot
from tokenization.encode import decode_sample


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="millrace inspect",
        description="Look at a store, a plan, a packs store or a whole run: counts, tokens by modality, vision share "
        "against schedule, fill, reasons for drops, single records.",
        epilog="examples:\n  millrace inspect runs/quickstart\n  millrace inspect runs/quickstart/packs --record 0",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", help="a store's folder or URL, or a run's folder")
    parser.add_argument("--record", metavar="N|ID", help="one record: a document, a sample, a pack segment by segment")
    parser.add_argument("--drops", metavar="REASON", nargs="?", const="", help="records that views dropped")
    parser.add_argument("--quarantine", action="store_true", help="what could not become a record, and why")
    parser.add_argument("--limit", type=_rows, default=20, help="rows of --drops and --quarantine (default 20)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    options = parser.parse_args(arguments)

    folder = Path(options.target)
    is_run = folder.is_dir() and not (folder / "store.json").exists()
    if is_run and (options.record or options.quarantine or options.drops is not None):
        names = ", ".join(artefacts.stores(folder)) or "none yet"
        raise ManifestError("records are in stores, this is a run", where=str(folder), fix=f"name one of: {names}")
    if is_run:
        found = _run(folder)
    else:
        snapshot = artefacts.newest(options.target)
        if options.record is not None:
            found = _record(snapshot, artefacts.find(snapshot, options.record))
        elif options.quarantine:
            found = {"quarantine": snapshot.quarantined().slice(0, options.limit).to_pylist()}
        elif options.drops is not None:
            found = {"dropped": _dropped(snapshot, options.drops, options.limit)}
        else:
            found = _store(snapshot)
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        _show(found)
    return 0


def _rows(given: str) -> int:
    """How many rows to show, as an option's value."""
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {given!r}")
    return int(given)


def _store(snapshot: Snapshot) -> dict[str, Json]:
    found: dict[str, Json] = {
        "store": f"{snapshot.name} ({snapshot.kind})",
        "snapshot": f"{snapshot.number}{'' if snapshot.complete else ', not complete yet'}",
        "content root": snapshot.content_root,
        "counts": dict(snapshot.counts),
    }
    if snapshot.kind == "plan":
        return found | _plan(snapshot)
    if snapshot.kind == "packs":
        return found | _packs(snapshot)
    found["by source and domain"] = [
        {"source": g.source, "domain": g.domain, "records": g.records, "kept": g.kept, **g.sums}
        for g in artefacts.groups(snapshot)
    ]
    found["media"] = [
        {"format": name, "used": used, "distinct": distinct, "bytes": size}
        for name, (used, distinct, size) in artefacts.media(snapshot).items()
    ]
    found["dropped"] = artefacts.drops(snapshot)
    found["scores"] = [
        {"column": name, "lowest": low, "median": middle, "highest": high}
        for name, (low, middle, high) in artefacts.scores(snapshot).items()
    ]
    found["quarantined"] = artefacts.quarantined(snapshot)
    return {key: value for key, value in found.items() if value not in ([], {})}


def _plan(snapshot: Snapshot) -> dict[str, Json]:
    """What the plan claims of itself; `packs` recounts it."""
    meta = dict(snapshot.meta)
    windows = meta.pop("windows", [])
    sources = meta.pop("sources", [])
    found: dict[str, Json] = {
        "plan": {key: value for key, value in meta.items() if not isinstance(value, (dict, list))}
    }
    found["sources"] = [
        {key: value for key, value in source.items() if not isinstance(value, (dict, list)) and key != "content_root"}
        for source in sources
    ]
    found["refused"] = {s["name"]: s["refused"] for s in sources if s.get("refused")}
    found["vision share by window"] = [
        {
            "first pack": w["first_pack"],
            "tokens": w["tokens"],
            "share": w["slots"] / w["tokens"],
            "schedule": w["wanted_slots"] / w["tokens"],
        }
        for w in artefacts.examples(windows, 12)
    ]
    return {key: value for key, value in found.items() if value}


def _packs(snapshot: Snapshot) -> dict[str, Json]:
    counted = artefacts.shares(snapshot)
    return {
        "counted in the index": {
            "tokens": counted.tokens,
            "vision slots": counted.slots,
            "text and wrappers": counted.tokens - counted.slots,
            "tokens with loss": counted.loss_tokens,
            "vision share": counted.slots / counted.tokens,
            "schedule": snapshot.meta["vision_share"]["constant"],
            "fill": counted.fill,
        },
        "vision share by window": [
            {"until token": until, "share": share, "so far": running}
            for until, share, running in artefacts.examples(
                list(zip(counted.until_tokens, counted.share, counted.running, strict=True)), 12
            )
        ],
    }


def _run(folder: Path) -> dict[str, Json]:
    stores = artefacts.stores(folder)
    if not stores and artefacts.trained(folder) is None:
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
        ]
    }
    training = artefacts.trained(folder)
    if training is not None:
        rows = artefacts.steps(training)
        found["training"] = [
            {key: row[key] for key in ("step", "tokens", "loss", "loss_text", "loss_vision") if key in row}
            for row in artefacts.examples(rows, 10)
        ]
        evaluation = artefacts.read_json(training / "evaluation.json") or {}
        found["held-out loss, nats per token"] = {
            domain: value["loss"] for domain, value in evaluation.get("held_out", {}).items()
        }
        found["does it see? other image minus own, nats per token"] = [
            {"attribute": name} | {key: one.get(key) for key in ("difference", "low", "high", "tokens", "scenes")}
            for name, one in evaluation.get("seeing", {}).get("attributes", {}).items()
            if one["scenes"]
        ]
    if (folder / "report.html").is_file():
        found["page"] = str(folder / "report.html")
    return {key: value for key, value in found.items() if value not in ([], {})}


def _dropped(snapshot: Snapshot, reason: str, limit: int) -> list[Json]:
    table = snapshot.table()
    shown = [
        n for n in ("id", "source", "locator", "domain", "reason", "score", "duplicate_of") if n in table.column_names
    ]
    rows = []
    for row in table.select([*shown, "keep"]).to_pylist():
        if not row.pop("keep") and reason in ("", row.get("reason")):
            rows.append({k: v for k, v in row.items() if v is not None})
            if len(rows) == limit:
                break
    reasons = artefacts.drops(snapshot)
    if reason and reason not in reasons:
        told = ", ".join(reasons) or "none: nothing was dropped here"
        raise ManifestError(f"no record was dropped for {reason!r}", where=snapshot.name, fix=f"the reasons: {told}")
    return rows


def _record(snapshot: Snapshot, ordinal: int) -> dict[str, Json]:
    try:
        record = snapshot.record(ordinal)
    except IndexError as error:
        raise StoreError(str(error), where=snapshot.url, fix="ordinals begin with 0") from None
    head = {"record": f"{snapshot.name}[{ordinal}]", "shard": snapshot.shard_of(ordinal).shard}
    match record:
        case Document():
            return head | _document(record)
        case Sample():
            return head | _sample(snapshot, record)
        case Pack():
            return head | _pack(snapshot, record)
        case PlanBlock():
            arrays = {name: f"{array.dtype}{list(array.shape)}" for name, array in record.arrays.items()}
            return head | {"header": dict(record.header), "arrays": arrays}
    raise AssertionError(f"a store gave a {type(record).__name__}")


def _document(document: Document) -> dict[str, Json]:
    return {
        "id": document.id,
        "from": f"{artefacts.spoken_source(document.source)}: {document.locator}",
        "domain": document.domain,
        **{name: said for name in ("licence", "origin", "consent") if (said := getattr(document, name))},
        "parts": [part.text if isinstance(part, Text) else _medium(part) for part in document.parts],
        "facts": [
            {"fact": f.name, "text": part.text[f.start : f.stop]}
            for f in document.facts
            if isinstance(part := document.parts[f.part], Text)
        ],
        "notes": dict(document.notes),
    }


def _sample(snapshot: Snapshot, sample: Sample) -> dict[str, Json]:
    vocabulary = artefacts.vocabulary_of(snapshot)
    return {
        "id": sample.id,
        "source": artefacts.spoken_source(sample.source),
        "domain": sample.domain,
        "tokens": f"{len(sample.ids)} unexpanded, loss on {int(np.diff(sample.loss_runs).sum())}",
        "media": [_medium(one) for one in sample.media],
        "spans": [{"span": s.name, "text": vocabulary.decode(sample.ids[s.start : s.stop])} for s in sample.spans],
        "text": decode_sample(sample, vocabulary),
    }


def _pack(snapshot: Snapshot, pack: Pack) -> dict[str, Json]:
    vocabulary = artefacts.vocabulary_of(snapshot)
    used = sum(segment.length for segment in pack.segments)
    rows = []
    for at, length, source, sample, runs in artefacts.segments(pack):
        rows.append(
            {
                "at": at,
                "tokens": length,
                "slots": sum(count for _, count in runs),
                "loss": int(pack.loss_mask[at : at + length].sum()),
                "source": source,
                "sample": sample[:8],
                "text": artefacts.one_line(artefacts.readable(pack.ids[at : at + length], vocabulary), 160),
            }
        )
    return {
        "tokens": f"{used} of {len(pack.ids)}, loss on {int(pack.loss_mask.sum())}",
        "segments": rows,
        "media": [
            f"{_medium(p.media)} -> {p.size_px[0]}x{p.size_px[1]} px -> "
            + ", ".join(f"{t}x{h}x{w} patches at {i.slot}" for i in p.items for t, h, w in [i.grid])
            for p in pack.media
        ],
    }


def _medium(media: Media) -> str:
    text = f"{media.kind} {media.format} {media.width_px}x{media.height_px} px"
    if media.kind == "video":
        return (
            f"{text}, {len(media.frame_times_us)} frames, {media.frame_times_us[-1] / 1e6:.2f} s, {media.digest[:12]}"
        )
    full = fit(media.width_px, media.height_px, 16384)
    return f"{text} ({full.rows}x{full.cols} patches in full size), {media.digest[:12]}"


def _show(found: Mapping[str, Json]) -> None:
    """Scalars as lines, maps as two columns, lists of maps as tables."""
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    for title, value in found.items():
        if isinstance(value, dict):
            console.print(f"\n{title}")
            grid = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 2))
            for key, inner in value.items():
                grid.add_row(str(key), _cell(inner))
            console.print(grid)
        elif isinstance(value, list):
            console.print(f"\n{title}")
            if value and isinstance(value[0], dict):
                names = list(dict.fromkeys(key for row in value for key in row))
                grid = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
                for name in names:
                    numeric = all(isinstance(row.get(name), (int, float, type(None))) for row in value)
                    grid.add_column(name, justify="right" if numeric else "left", overflow="fold")
                for row in value:
                    grid.add_row(*(_cell(row.get(name)) for name in names))
                console.print(grid)
            else:
                for inner in value:
                    console.print(f"  {_cell(inner)}")
        else:
            console.print(f"{title:14}{_cell(value)}")


def _cell(value: Json) -> str:
    match value:
        case None:
            return ""
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4f}"
    return json.dumps(value, ensure_ascii=False)
