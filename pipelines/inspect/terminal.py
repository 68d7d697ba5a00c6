"""`millrace inspect`: what is in a store, a plan or a run, one record of it, one step of training. Never writes.

Results go to stdout, as tables, with `--json` as JSON, a step with `--html` as a page.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from manifests.errors import ManifestError, StoreError
from manifests.geometry import fit
from manifests.records import Document, Json, Media, Pack, PlanBlock, Sample, Text
from pipelines.inspect import artefacts, microscope, plans, whatif
from pipelines.inspect.figures import figures
from pipelines.inspect.plans import Planned
from stores.store import Found, Snapshot
from tokenization.encode import decode_sample

LEAST_WIDTH, FOLDED = 80, 16
"""Characters of a line, and of a column whose words are folded."""
TEXT, LONGEST = 240, 1 << 30
"""Characters of a segment's text that are shown of a step, in tables and in JSON."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="millrace inspect",
        description="Look at a store, a plan, a packs store or a whole run: counts, tokens by modality, vision share "
        "against schedule, fill, reasons for drops, single records.",
        epilog="examples:\n  millrace inspect runs/quickstart\n  millrace inspect runs/quickstart/packs --record 0\n"
        "  millrace inspect runs/quickstart/plan --step 200 --html > step.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", help="a store's folder or URL, or a run's folder")
    parser.add_argument(
        "--record",
        metavar="N|NAME",
        help="one record: a document, a sample, a pack segment by segment. By ordinal, id, URL (locator, origin), or "
        "SHA-256 of an image or video; of a plan, by a sample's id, every step that sees it",
    )
    parser.add_argument("--step", type=int, metavar="N", help="global batch N of a plan or packs store, trained or not")
    parser.add_argument("--html", action="store_true", help="a step as one page with its pictures, on stdout")
    parser.add_argument("--drops", metavar="REASON", nargs="?", const="", help="records that views dropped")
    parser.add_argument(
        "--what-if",
        metavar="OP.PARAMETER=NUMBER",
        action="append",
        help="of a filter's view: what it would keep with another limit; may be given several times",
    )
    parser.add_argument("--quarantine", action="store_true", help="what could not become a record, and why")
    parser.add_argument("--limit", type=_rows, default=20, help="rows of --drops and --quarantine (default 20)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    options = parser.parse_args(arguments)
    if options.html and options.step is None:
        parser.error("--html shows a step: give --step N")

    folder = Path(options.target)
    is_run = folder.is_dir() and not (folder / "store.json").exists()
    of_a_store = (options.record, options.drops, options.step, options.what_if, options.quarantine or None)
    if is_run and any(one is not None for one in of_a_store):
        names = ", ".join(artefacts.stores(folder)[0]) or "none yet"
        raise ManifestError("records are in stores, this is a run", where=str(folder), fix=f"name one of: {names}")
    if is_run:
        found = _run(folder)
    else:
        snapshot = artefacts.newest(options.target)
        if options.step is not None:
            planned = _planned(snapshot)
            if options.html:
                print(microscope.page(planned, options.step))
                return 0
            found = microscope.told(planned, options.step, LONGEST if options.json else TEXT)
        elif options.what_if:
            found = whatif.what_if(snapshot, options.what_if)
            found = found if options.json else whatif.spoken(found)
        elif options.record is not None and snapshot.kind == "plan" and not _ordinal(options.record):
            found = _seen(snapshot, options.record)
        elif options.record is not None:
            found = _named(snapshot, options.record)
        elif options.quarantine:
            found = {"quarantine": snapshot.quarantined().slice(0, options.limit).to_pylist()}
        elif options.drops is not None:
            found = {"dropped": _dropped(snapshot, options.drops, options.limit)}
        else:
            found = _store(snapshot)
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        show(found)
    return 0


def _planned(snapshot: Snapshot) -> Planned:
    if snapshot.kind not in ("plan", "packs"):
        what = f"steps are made of packs, this store holds {snapshot.kind}"
        raise ManifestError(what, where=snapshot.url, fix="name the plan or the packs store")
    return Planned(snapshot)


def _seen(plan: Snapshot, sample: str) -> dict[str, Json]:
    places = plans.seen(Planned(plan).places(sample))
    if not places:
        raise StoreError(f"the plan never shows a sample {sample!r}", where=plan.url, fix="give the id of a document")
    return {"seen in": places}


def _ordinal(wanted: str) -> bool:
    return wanted.isdigit() and len(wanted) < 10


def _rows(given: str) -> int:
    """How many rows to show, as an option's value."""
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {given!r}")
    return int(given)


def _counts(snapshot: Snapshot) -> dict[str, int]:
    """A view counts what it keeps itself; what views below it dropped is not kept either."""
    return dict(snapshot.counts) | ({"kept": len(snapshot.kept())} if snapshot.kind == "view" else {})


def _store(snapshot: Snapshot) -> dict[str, Json]:
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
        for g in artefacts.groups(snapshot)
    ]
    found["media"] = [
        {"format": name, "used": used, "distinct": distinct, "bytes": size}
        for name, (used, distinct, size) in artefacts.media(snapshot).items()
    ]
    found["dropped"] = artefacts.drops(snapshot)
    found["ops"] = _ops(snapshot)
    found["contaminated"] = artefacts.contaminated(snapshot)
    found["scores"] = [
        {"column": name, "lowest": low, "median": middle, "highest": high}
        for name, (low, middle, high) in artefacts.scores(snapshot).items()
    ]
    found["quarantined"] = artefacts.quarantined(snapshot)
    return {key: value for key, value in found.items() if value not in ([], {})}


def _plan(snapshot: Snapshot) -> dict[str, Json]:
    """What the plan's arrays hold, beside what it claims; `packs` recounts the index of what was packed."""
    meta = snapshot.meta
    planned = Planned(snapshot)
    found: dict[str, Json] = {
        "plan": {key: value for key, value in meta.items() if not isinstance(value, (dict, list))}
        | {
            "global batches": f"{planned.steps.start} to {planned.steps.stop - 1}",
            "vision share": json.dumps(meta["vision_share"]),
        }
    }
    found |= figures(planned)
    found["refused"] = {s["name"]: s["refused"] for s in meta["sources"] if s.get("refused")}
    found["vision share by window"] = [
        {
            "first step": planned.first_step + w["first_pack"] // planned.batch_packs,
            "tokens": w["tokens"],
            "share": w["slots"] / w["tokens"],
            "schedule": w["wanted_slots"] / w["tokens"],
        }
        for w in artefacts.examples(meta.get("windows", []), 12)
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
            "schedule": snapshot.meta["vision_share"],
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
    stores, unread = artefacts.stores(folder)
    if not stores and not unread and artefacts.trained(folder) is None:
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


def _work(folder: Path, stores: Mapping[str, Snapshot]) -> Iterator[dict[str, Json]]:
    """What each node took in, kept, dropped and set aside, and when it last worked, how long and how fast."""
    worked = artefacts.worked(folder)
    for name, store in stores.items():
        kept = len(store.kept())
        gone = artefacts.drops(store) | artefacts.quarantined(store)
        if store.kind == "view":
            below = artefacts.drops(artefacts.looks_at(store))
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
            row |= {"s": round(last["seconds"], 1), "per s": round(last["worked"] / max(last["seconds"], 1e-3))}
        yield row


def _ops(view: Snapshot) -> list[dict[str, Json]]:
    """A line for each op of a filter, with what the run log says of its time."""
    run = Path(view.url).parent
    took = artefacts.worked(run).get(view.name, {}).get("parts", {}) if "://" not in view.url else {}
    rows = []
    for row in artefacts.ops(view):
        seen, seconds = took.get(row["op"], (0, 0.0))
        told = {"op": row["op"], "in": row["in"], "kept": row["kept"]}
        told["drops (as the first)"] = ", ".join(
            f"{why} {n:,} ({row['first'][why]:,})" for why, n in row["dropped"].items()
        )
        rows.append(told | ({"s": round(seconds, 3), "per s": round(seen / max(seconds, 1e-6))} if seen else {}))
    return rows


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


def _named(snapshot: Snapshot, name: str) -> dict[str, Json]:
    """The first record of that name, and where the others lie."""
    try:
        first, *others = artefacts.find(snapshot, name)
    except IndexError as error:
        raise StoreError(str(error), where=snapshot.url, fix="ordinals begin with 0") from None
    if not _ordinal(name) and (said := artefacts.scanned(snapshot)):
        print(said, file=sys.stderr)
    also = {"the same name": [asdict(other) for other in others]} if others else {}
    return _record(snapshot, first) | also


def _record(snapshot: Snapshot, place: Found) -> dict[str, Json]:
    record = snapshot.record(place.ordinal)
    told = {name: value for name, value in snapshot.row(place.ordinal).items() if not isinstance(value, list)}
    head = {
        "record": f"{snapshot.name}[{place.ordinal}]",
        **asdict(place),
        "columns": {name: value for name, value in told.items() if value is not None},
    }
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
    return {
        "tokens": f"{used} of {len(pack.ids)}, loss on {int(pack.loss_mask.sum())}",
        "segments": list(microscope.segment_rows(pack, vocabulary, 160)),
        "media": [
            f"{_medium(p.media)} -> {p.size_px[0]}x{p.size_px[1]} px -> "
            + ", ".join(f"{t}x{h}x{w} patches at {i.slot}" for i in p.items for t, h, w in [i.grid])
            for p in pack.media
        ],
    }


def _medium(media: Media) -> str:
    text = f"{media.kind} {media.format} {media.width_px}x{media.height_px} px"
    if media.kind == "video":
        return f"{text}, {len(media.frame_times_us)} frames, {media.frame_times_us[-1] / 1e6:.2f} s, {media.digest}"
    full = fit(media.width_px, media.height_px, 16384)
    return f"{text} ({full.rows}x{full.cols} patches in full size), {media.digest}"


def show(found: Mapping[str, Json]) -> None:
    """Scalars as lines, maps as two columns, lists of maps as tables with long words folded, or as one block each where
    they are too wide for that."""
    console = Console(width=max(LEAST_WIDTH, Console().width), highlight=False, markup=False, emoji=False)
    for title, value in found.items():
        if isinstance(value, dict):
            console.print(f"\n{title}")
            console.print(_pairs(value))
        elif isinstance(value, list):
            console.print(f"\n{title}")
            if value and isinstance(value[0], dict):
                _show_rows(console, value)
            else:
                for inner in value:
                    console.print(f"  {_cell(inner)}", soft_wrap=True)
        else:
            console.print(f"{title:14}{_cell(value)}", soft_wrap=True)


def _show_rows(console: Console, rows: Sequence[Mapping[str, Json]]) -> None:
    names = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(name), *(len(row[place]) for row in cells)) for place, name in enumerate(names)]
    folds = [_folds(name, [row[place] for row in cells]) for place, name in enumerate(names)]
    least = sum(min(width, FOLDED) if fold else width for width, fold in zip(widths, folds, strict=True))
    if least + 2 * len(widths) > console.width:
        for row in rows:
            console.print(_pairs({name: row[name] for name in names if row.get(name) not in (None, "")}), "")
        return
    grid = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name, fold in zip(names, folds, strict=True):
        numeric = all(isinstance(row.get(name), (int, float, type(None))) for row in rows)
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=not fold)
    for told in cells:
        grid.add_row(*told)
    console.print(grid)


def _folds(name: str, cells: Sequence[str]) -> bool:
    """Words and sentences may go over several lines; numbers, and what people copy, stay whole."""
    return name == "text" or not any(re.fullmatch(r"[0-9a-f]{12,}|[-\d.,]*", cell) for cell in cells if cell)


def _pairs(values: Mapping[str, Json]) -> Table:
    grid = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 2))
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold")
    for key, inner in values.items():
        grid.add_row(str(key), _cell(inner))
    return grid


def _cell(value: Json) -> str:
    match value:
        case None:
            return ""
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4f}".rstrip("0").rstrip(".")
    return json.dumps(value, ensure_ascii=False)
