"""What `millrace inspect` says of single records: one by any of its names, or all that a view dropped."""

from __future__ import annotations

import re
from dataclasses import asdict

import numpy as np

from manifests.errors import ManifestError, StoreError
from manifests.geometry import fit
from manifests.records import Document, Json, Media, Pack, PlanBlock, Sample, Text
from pipelines.inspect import plan_view, queries, step_view
from pipelines.inspect.plan_view import PlanView
from stores.lookup.find import By
from stores.store import RecordRef, Snapshot
from tokenization.encode import decode_sample


def record_by_name(snapshot: Snapshot, name: str) -> dict[str, Json]:
    """The first record of that name, and where the others lie."""
    try:
        first, *others = _find(snapshot, name)
    except IndexError as error:
        raise StoreError(str(error), where=snapshot.url, fix="ordinals begin with 0") from None
    also = {"the same name": [asdict(other) for other in others]} if others else {}
    return _record(snapshot, first) | also


def plan_occurrences(plan: Snapshot, sample: str) -> dict[str, Json]:
    places = plan_view.segment_rows(PlanView(plan).places(sample))
    if not places:
        raise StoreError(f"the plan never shows a sample {sample!r}", where=plan.url, fix="give the id of a document")
    return {"seen in": places}


def dropped_records(snapshot: Snapshot, reason: str, limit: int) -> list[Json]:
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
    reasons = queries.drop_counts(snapshot)
    if reason and reason not in reasons:
        told = ", ".join(reasons) or "none: nothing was dropped here"
        raise ManifestError(f"no record was dropped for {reason!r}", where=snapshot.name, fix=f"the reasons: {told}")
    return rows


def is_ordinal(wanted: str) -> bool:
    return wanted.isdigit() and len(wanted) < 10


def _find(snapshot: Snapshot, wanted: str) -> list[RecordRef]:
    """Records given as ordinal, id or its beginning, URL or digest of a medium. Raises StoreError where none is."""
    if is_ordinal(wanted):
        return [snapshot.locate(int(wanted))]
    names: tuple[By, ...] = ("id", "url", "digest")
    found = next(filter(None, (snapshot.find(by, wanted) for by in names)), [])
    if not found and re.fullmatch("[0-9a-f]{1,31}", wanted) and snapshot.kind in ("documents", "samples", "view"):
        values = snapshot.table(["id"])["id"].to_pylist()
        found = [snapshot.locate(ordinal) for ordinal, value in enumerate(values) if value.startswith(wanted)][:1]
    if not found:
        fix = "give an ordinal, an id, a URL, or the 64 hex digits of the SHA-256 of an image or video"
        raise StoreError(f"there is no record {wanted!r}", where=snapshot.url, fix=fix)
    return found


def scan_note(snapshot: Snapshot) -> str:
    """Note that a search by name read shards without a lookup index; empty where none was read."""
    lookup = snapshot.base.lookup
    if not lookup.scanned:
        return ""
    why = lookup.error.message if lookup.error is not None else "no lookup index covers them"
    return f"{len(lookup.scanned):,} shards were scanned ({why}); `millrace store repair {snapshot.base.url}` makes one"


def _record(snapshot: Snapshot, place: RecordRef) -> dict[str, Json]:
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
        "from": f"{queries.source_label(document.source)}: {document.locator}",
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
    vocabulary = queries.vocabulary_of(snapshot)
    return {
        "id": sample.id,
        "source": queries.source_label(sample.source),
        "domain": sample.domain,
        "tokens": f"{len(sample.ids)} unexpanded, loss on {int(np.diff(sample.loss_runs).sum())}",
        "media": [_medium(one) for one in sample.media],
        "spans": [{"span": s.name, "text": vocabulary.decode(sample.ids[s.start : s.stop])} for s in sample.spans],
        "text": decode_sample(sample, vocabulary),
    }


def _pack(snapshot: Snapshot, pack: Pack) -> dict[str, Json]:
    vocabulary = queries.vocabulary_of(snapshot)
    used = sum(segment.length for segment in pack.segments)
    return {
        "tokens": f"{used} of {len(pack.ids)}, loss on {int(pack.loss_mask.sum())}",
        "segments": list(step_view.pack_segment_rows(pack, vocabulary, 160)),
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
