"""Single records of a store as plain values: one record by any of its names, or the records that a view dropped.

`command.py` prints them for `millrace inspect STORE --record` and `--drops`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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

SEGMENT_CHARACTERS = 160
"""Most characters of a segment's text in the summary of a pack."""
DROP_COLUMNS = ("id", "source", "locator", "domain", "reason", "score", "duplicate_of")


def record_by_name(snapshot: Snapshot, name: str) -> dict[str, Json]:
    """The first record with this name, and the positions of the others.

    Args:
        name: ordinal, id or the beginning of one, URL, or SHA-256 of an image or video.
    Raises:
        StoreError: no record has this name.
    """
    try:
        first, *others = _find(snapshot, name)
    except IndexError:
        last = snapshot.counts["records"] - 1
        fix = f"ordinals are 0 to {last}" if last >= 0 else "the store has no records"
        raise StoreError(f"there is no record {name}", where=snapshot.url, fix=fix) from None
    duplicates = {"other_matches": [asdict(other) for other in others]} if others else {}
    return _record(snapshot, first) | duplicates


def plan_occurrences(plan: Snapshot, sample: str) -> dict[str, Json]:
    """Every segment of a sample in a plan. Raises StoreError if the plan does not contain the sample."""
    segments = plan_view.segment_rows(PlanView(plan).segments_of(sample))
    if not segments:
        raise StoreError(f"the plan does not contain a sample {sample!r}", where=plan.url, fix="give a document's id")
    return {"segments": segments}


def dropped_records(snapshot: Snapshot, reason: str, limit: int) -> list[Json]:
    """At most `limit` records that a view dropped, for one reason or, if `reason` is empty, for any.

    Raises ManifestError if the view dropped no record for this reason.
    """
    table = snapshot.table()
    columns = [name for name in DROP_COLUMNS if name in table.column_names]
    rows = []
    for row in table.select([*columns, "keep"]).to_pylist():
        if not row.pop("keep") and reason in ("", row.get("reason")):
            rows.append({name: value for name, value in row.items() if value is not None})
            if len(rows) == limit:
                break
    reasons = queries.drop_counts(snapshot)
    if reason and reason not in reasons:
        fix = f"give one of its reasons: {', '.join(reasons)}" if reasons else "look at a view that dropped records"
        raise ManifestError(f"no record was dropped for {reason!r}", where=snapshot.name, fix=fix)
    return rows


def is_ordinal(name: str) -> bool:
    """Return whether a record name is an ordinal: a number of at most nine digits."""
    return name.isdigit() and len(name) < 10


def _find(snapshot: Snapshot, name: str) -> list[RecordRef]:
    """Positions of the records with this name. Raises StoreError if there is none."""
    if is_ordinal(name):
        return [snapshot.locate(int(name))]
    columns: tuple[By, ...] = ("id", "url", "digest")
    matches = next(filter(None, (snapshot.find(by, name) for by in columns)), [])
    if not matches and re.fullmatch("[0-9a-f]{1,31}", name) and snapshot.kind in ("documents", "samples", "view"):
        ids = snapshot.table(["id"])["id"].to_pylist()
        matches = [snapshot.locate(ordinal) for ordinal, value in enumerate(ids) if value.startswith(name)][:1]
    if not matches:
        fix = "give an ordinal, an id, a URL, or the 64 hex digits of the SHA-256 of an image or video"
        raise StoreError(f"there is no record {name!r}", where=snapshot.url, fix=fix)
    return matches


def scan_note(snapshot: Snapshot) -> str:
    """Note that a search by name read shards without a lookup index; empty where none was read."""
    lookup = snapshot.base.lookup
    if not lookup.scanned:
        return ""
    reason = lookup.error.message if lookup.error is not None else "the lookup index does not cover them"
    fix = f"`millrace store repair {snapshot.base.url}` builds it"
    return f"{len(lookup.scanned):,} shards were scanned: {reason}; {fix}"


def for_display(record: Mapping[str, Json]) -> dict[str, Json]:
    """A record without the values that repeat its columns, and without empty sections."""
    columns = record["columns"]
    repeated = {key for key, value in record.items() if columns.get(key) == value}
    if "locator" in columns:
        repeated.add("from")
    return {key: value for key, value in record.items() if value not in ([], {}) and key not in repeated}


def _record(snapshot: Snapshot, ref: RecordRef) -> dict[str, Json]:
    record = snapshot.record(ref.ordinal)
    row = {name: value for name, value in snapshot.row(ref.ordinal).items() if not isinstance(value, list)}
    head = {
        "record": f"{snapshot.name}[{ref.ordinal}]",
        **asdict(ref),
        "columns": {name: value for name, value in row.items() if value is not None},
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
    raise AssertionError(f"a store contains a {type(record).__name__}")


def _document(document: Document) -> dict[str, Json]:
    return {
        "id": document.id,
        "from": f"{queries.source_label(document.source)}: {document.locator}",
        "domain": document.domain,
        **{name: value for name in ("license", "origin", "consent") if (value := getattr(document, name))},
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
    with_loss = int(np.diff(sample.loss_runs).sum())
    return {
        "id": sample.id,
        "source": queries.source_label(sample.source),
        "domain": sample.domain,
        "tokens": f"{len(sample.ids):,} with one token per image or video; {with_loss:,} with loss",
        "media": [_medium(medium) for medium in sample.media],
        "spans": [{"span": s.name, "text": vocabulary.decode(sample.ids[s.start : s.stop])} for s in sample.spans],
        "text": decode_sample(sample, vocabulary),
    }


def _pack(snapshot: Snapshot, pack: Pack) -> dict[str, Json]:
    vocabulary = queries.vocabulary_of(snapshot)
    used = sum(segment.length for segment in pack.segments)
    return {
        "tokens": f"{used:,} of {len(pack.ids):,}; {int(pack.loss_mask.sum()):,} with loss",
        "segments": list(step_view.pack_segment_rows(pack, vocabulary, SEGMENT_CHARACTERS)),
        "media": [
            f"{_medium(p.media)} -> {p.size_px[0]}x{p.size_px[1]} px -> "
            + ", ".join(f"{t}x{h}x{w} patches at {i.slot}" for i in p.items for t, h, w in [i.grid])
            for p in pack.media
        ],
    }


def _medium(media: Media) -> str:
    """One line about an image or video; its patches are those of the full size, without limits of a plan."""
    text = f"{media.kind} {media.format} {media.width_px}x{media.height_px} px"
    if media.kind == "video":
        return f"{text}, {len(media.frame_times_us)} frames, {media.frame_times_us[-1] / 1e6:.2f} s, {media.digest}"
    full = fit(media.width_px, media.height_px, 16384)
    return f"{text} ({full.rows}x{full.cols} patches in full size), {media.digest}"
