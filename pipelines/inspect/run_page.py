"""`report.html`: one self-contained page about a whole run, for people who would rather look than read.

Reads the stores, receipts and logs of a run; pictures are drawn by `panels.py`.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from manifests import runlog
from manifests.files import write_whole
from manifests.geometry import MediaLimits, fit
from manifests.records import Document, Json, Media, Pack, Text
from pipelines.inspect import panels, queries
from pipelines.inspect.panels import BarSegment, ChartLine
from stores.media.image import decode_rgb, resize
from stores.store import Snapshot

PICTURES = 12
PACKS = 6


def write(run: Path, file: Path) -> None:
    """Write the page about `run` to `file`, whole or not at all. Parts that a run has not reached are left out, and
    what can't be drawn because a store that it needs is gone is named in a line."""
    stores, unread = queries.run_stores(run)
    parts: list[str | None] = []
    documents = next((s for s in stores.values() if s.kind == "documents" and s.counts.get("images", 0)), None)
    packs = queries.last_of_kind(stores, "packs")
    if documents is not None and packs is not None:
        limits = MediaLimits(**packs.meta["limits"])
        parts.append(queries.read_or_note(documents.name, unread, _pictures, documents, limits))
    if packs is not None:
        parts.append(queries.read_or_note(packs.name, unread, _pack_bars, packs, unread))
        parts.append(queries.read_or_note(packs.name, unread, _shares, packs))
    training = queries.training_folder(run)
    if training is not None:
        parts += [_losses(training), *_evaluation(training)]
    parts.append(_drops(stores))
    body = [_tiles(run, stores), _nodes(run)]
    if unread:
        table = panels.table(("node", "what is missing"), list(unread.items()))
        body.append(panels.section("What can't be read", "and is left out below", table))
    body += filter(None, parts)
    lead = "what went in, in which order it was seen, and what came of it"
    write_whole(file, panels.page(run.name, lead, body))


def _tiles(run: Path, stores: dict[str, Snapshot]) -> str:
    values = {}
    documents = [s for s in stores.values() if s.kind == "documents"]
    values["documents"] = f"{sum(s.counts['records'] for s in documents):,}"
    values["images and videos"] = f"{sum(s.counts.get('images', 0) + s.counts.get('videos', 0) for s in documents):,}"
    packs = queries.last_of_kind(stores, "packs")
    if packs is not None:
        counted = queries.vision_shares(packs)
        values["tokens in packs"] = f"{counted.tokens:,}"
        values["vision share"] = f"{counted.slots / counted.tokens:.4f}"
        values["fill"] = f"{counted.fill:.2%}"
    training = queries.training_folder(run)
    rows = queries.training_steps(training) if training is not None else []
    if rows:
        values["loss, first to last 20 steps"] = f"{_mean(rows[:20]):.2f} to {_mean(rows[-20:]):.2f}"
    return panels.tiles(values)


def _mean(rows: list[dict[str, Json]]) -> float:
    return float(np.mean([row["loss"] for row in rows]))


def _nodes(run: Path) -> str:
    done: dict[str, dict[str, Json]] = {}
    for row in runlog.read(run / "log.jsonl"):
        if row["event"] == "node_commit" or (row["event"] == "node_skip" and row["node"] not in done):
            done[row["node"]] = row
    rows = [
        (
            name,
            str(row["kind"]),
            int(row.get("kept", 0)),
            int(sum(row.get("dropped", {}).values())),
            int(sum(row.get("quarantined", {}).values())),
            float(row["seconds"]),
            str(row["digest"])[:16],
        )
        for name, row in done.items()
    ]
    header = ("node", "kind", "kept", "dropped", "quarantined", "seconds", "content")
    return panels.section("The path", "every node, what it kept and what it cost", panels.table(header, rows))


def _pictures(documents: Snapshot, limits: MediaLimits) -> str:
    """Some images as the encoder gets them, spread over the store's domains."""
    figures = []
    table = documents.table(["images", "domain"])
    holders: dict[str, list[int]] = {}
    for ordinal, (images, domain) in enumerate(zip(*(table[n].to_pylist() for n in table.column_names), strict=True)):
        if images:
            holders.setdefault(domain, []).append(ordinal)
    each = max(1, PICTURES // max(1, len(holders)))
    for _, places in sorted(holders.items()):
        for ordinal in queries.evenly_spaced(places, each):
            document: Document = documents.record(ordinal)
            medium = next(part for part in document.parts if isinstance(part, Media) and part.kind == "image")
            figures.append(_picture(documents, document, medium, limits))
    lead = "images under the plan's limits: 14-px patches, 2x2 of them to a slot (strong lines), black is padding"
    return panels.section("What the encoder sees", lead, f'<div class="figures">{"".join(figures)}</div>')


def _picture(documents: Snapshot, document: Document, medium: Media, limits: MediaLimits) -> str:
    assert medium.location is not None, "records of a store are located"
    place = fit(medium.width_px, medium.height_px, limits.max_image_patches)
    rgb = resize(decode_rgb(documents.read(medium.location)), place.width_px, place.height_px)
    text = " ".join(part.text for part in document.parts if isinstance(part, Text))
    caption = f"{medium.width_px}x{medium.height_px} {medium.format}, {place.slots} slots. {text}"
    return panels.picture(rgb, place, queries.shorten(caption, 170))


def _pack_bars(packs: Snapshot, unread: dict[str, str]) -> str:
    """A few packs as bars, and one of them word by word, where the samples still say in which vocabulary."""
    with_media = np.flatnonzero(packs.table(["slots"])["slots"].to_numpy()).tolist()
    chosen = queries.evenly_spaced(range(packs.counts["records"]), PACKS // 2)
    chosen = sorted({*chosen, *queries.evenly_spaced(with_media, PACKS - len(chosen))})
    records: list[Pack] = [packs.record(ordinal) for ordinal in chosen]
    shown = max(range(len(records)), key=lambda i: (len(records[i].media) > 0, len(records[i].segments)))
    richest = records[shown]
    colours = panels.palette([queries.source_label(segment.source) for pack in records for segment in pack.segments])
    rows = [
        [
            BarSegment(f"{source} {sample[:8]}", source, at, length, runs)
            for at, length, source, sample, runs in queries.pack_segments(pack)
        ]
        for pack in records
    ]
    bars = panels.pack_rows(rows, len(records[0].ids), colours)
    lead = f"packs of {len(records[0].ids):,} tokens; attention stays inside a segment, its positions begin at 0"
    words = queries.read_or_note(packs.name, unread, _first_segments, packs, chosen[shown], richest)
    return panels.section("Packs", lead, bars, words or "")


def _first_segments(packs: Snapshot, ordinal: int, pack: Pack) -> str:
    vocabulary = queries.vocabulary_of(packs)
    words = [
        (at, length, source, queries.shorten(queries.readable_text(pack.ids[at : at + length], vocabulary), 150))
        for at, length, source, _, _ in list(queries.pack_segments(pack))[:12]
    ]
    title = f"<p>Pack {ordinal}, its first segments</p>"
    return title + panels.table(("at", "tokens", "source", "text"), words)


def _shares(packs: Snapshot) -> str:
    counted = queries.vision_shares(packs)
    begun = packs.meta["amends"]["tokens"] if packs.meta["amends"] else 0
    rows = [*packs.meta["schedule"], [begun + counted.tokens, 0, 0]]
    bends = [
        (min(max(at - begun, 0), counted.tokens), share)
        for (start, first, last), (end, _, _) in pairwise(rows)
        for at, share in ((start, first), (end, last))
        if end > begun and start <= begun + counted.tokens
    ]
    chart = panels.line_chart(
        [
            ChartLine("so far", counted.until_tokens, counted.running),
            ChartLine("in the window", counted.until_tokens, counted.share),
            ChartLine("schedule", [at for at, _ in bends], [share for _, share in bends], dashed=True),
        ],
        "tokens seen",
        "vision share",
    )
    lead = f"slots over non-padding tokens, counted from the packs: {counted.slots:,} of {counted.tokens:,}"
    return panels.section("Vision share", lead, chart)


def _losses(training: Path) -> str:
    rows = queries.training_steps(training)
    series = []
    for name, key in (("all", "loss"), ("text", "loss_text"), ("beside images", "loss_vision")):
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        series.append(ChartLine(name, [x for x, _ in points], [y for _, y in points]))
    lead = "next-token loss of every global batch, nats per token, off the packs in plan order"
    return panels.section("Loss", lead, panels.line_chart(series, "step", "loss"))


def _evaluation(training: Path) -> list[str]:
    found = queries.read_json(training / "evaluation.json") or {}
    parts = []
    held_out = found.get("held_out", {})
    if held_out:
        rows = [(domain, float(v["loss"]), int(v["targets"]), int(v["documents"])) for domain, v in held_out.items()]
        table = panels.table(("domain", "nats per token", "tokens", "documents"), rows)
        parts.append(panels.section("Held out", "documents that training never saw, by domain", table))
    seeing = found.get("grounding", {})
    measured = {name: one for name, one in seeing.get("attributes", {}).items() if one["scenes"]}
    if measured:
        bars = [(name, one["difference"], one["low"], one["high"]) for name, one in measured.items()]
        header = ("attribute", "scenes", "tokens", "own image", "other image", "right, own", "right, other")
        keys = ("scenes", "tokens", "loss_own", "loss_other", "accuracy_own", "accuracy_other")
        table = panels.table(header, [(name, *(one[key] for key in keys)) for name, one in measured.items()])
        lead = (
            f"{seeing['scenes']} unseen scenes: loss on attribute words with another scene's image minus with the own "
            f"one, 95 % intervals over scenes. Does it see? {'yes' if seeing['sees'] else 'no'}"
        )
        parts.append(panels.section("Does the model see?", lead, panels.intervals(bars, "nats per token"), table))
    return parts


def _drops(stores: dict[str, Snapshot]) -> str:
    rows = []
    for name, snapshot in stores.items():
        rows += [(name, "quarantined", reason, count) for reason, count in queries.quarantine_counts(snapshot).items()]
        if snapshot.kind == "view":
            below = queries.input_drops(snapshot)
            rows += [
                (name, "dropped", reason, count - below.get(reason, 0))
                for reason, count in queries.drop_counts(snapshot).items()
                if count > below.get(reason, 0)
            ]
    lead = "nothing disappears: what is broken is set aside with where it came from, what is filtered keeps its reason"
    return panels.section("What did not go in", lead, panels.table(("node", "how", "reason", "records"), rows))
