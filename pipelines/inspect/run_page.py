"""`report.html`: one self-contained page about a run, with its pictures, packs, losses and drops.

It reads the stores and logs of the run; `panels.py` makes the HTML. The node `report` writes it
(`pipelines/build/commands.py`).
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
"""Images of documents on the page."""
PACKS = 6
"""Packs on the page, of which half have media."""
MEAN_STEPS = 20
"""Steps at the beginning and at the end whose mean loss is shown."""


def write(run: Path, file: Path) -> None:
    """Write the page about `run` to `file` in one step.

    The page has no sections about nodes that have not run. If a store is missing that a section needs, the page names
    it and leaves the section out.
    """
    stores, unreadable = queries.run_stores(run)
    parts: list[str | None] = []
    documents = next((s for s in stores.values() if s.kind == "documents" and s.counts.get("images", 0)), None)
    packs = queries.last_of_kind(stores, "packs")
    if documents is not None and packs is not None:
        limits = MediaLimits(**packs.meta["media_limits"])
        parts.append(queries.read_or_note(documents.name, unreadable, _pictures, documents, limits))
    if packs is not None:
        parts.append(queries.read_or_note(packs.name, unreadable, _pack_bars, packs, unreadable))
        parts.append(queries.read_or_note(packs.name, unreadable, _shares, packs))
    training = queries.training_folder(run)
    if training is not None:
        parts += [_losses(training), *_evaluation(training)]
    parts.append(_drops(stores))
    body = [_tiles(run, stores), _nodes(run)]
    if unreadable:
        table = panels.table(("node", "reason"), list(unreadable.items()))
        body.append(panels.section("Unreadable", "stores that can't be read, and whose sections are left out", table))
    body += filter(None, parts)
    lead = "nodes, pictures, packs, losses, and the records that were left out"
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
        values["vision share"] = f"{counted.total:.4f}"
        values["fill"] = f"{counted.fill:.2%}"
    training = queries.training_folder(run)
    rows = queries.training_steps(training) if training is not None else []
    if rows:
        values[f"mean loss, first and last {MEAN_STEPS} steps"] = (
            f"{_mean(rows[:MEAN_STEPS]):.2f} to {_mean(rows[-MEAN_STEPS:]):.2f}"
        )
    return panels.tiles(values)


def _mean(rows: list[dict[str, Json]]) -> float:
    return float(np.mean([row["loss"] for row in rows]))


def _nodes(run: Path) -> str:
    """Table of the nodes, from the last commit of each in the run log."""
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
    header = ("node", "kind", "kept", "dropped", "quarantined", "seconds", "digest of the content")
    return panels.section("Nodes", "records that each node kept and left out, and its time", panels.table(header, rows))


def _pictures(documents: Snapshot, limits: MediaLimits) -> str:
    """Images as the encoder reads them, of every domain of the store."""
    figures = []
    table = documents.table(["images", "domain"])
    with_images: dict[str, list[int]] = {}
    for ordinal, (images, domain) in enumerate(zip(*(table[n].to_pylist() for n in table.column_names), strict=True)):
        if images:
            with_images.setdefault(domain, []).append(ordinal)
    each = max(1, PICTURES // max(1, len(with_images)))
    for _, ordinals in sorted(with_images.items()):
        for ordinal in queries.evenly_spaced(ordinals, each):
            document: Document = documents.record(ordinal)
            medium = next(part for part in document.parts if isinstance(part, Media) and part.kind == "image")
            figures.append(_picture(documents, document, medium, limits))
    lead = "images within the limits of the plan: patches of 14 px, 2x2 patches per slot (strong lines), black padding"
    return panels.section("Images as the encoder reads them", lead, f'<div class="figures">{"".join(figures)}</div>')


def _picture(documents: Snapshot, document: Document, medium: Media, limits: MediaLimits) -> str:
    assert medium.location is not None, "media of a store have a location"
    fitted = fit(medium.width_px, medium.height_px, limits.max_image_patches)
    rgb = resize(decode_rgb(documents.read(medium.location)), fitted.width_px, fitted.height_px)
    text = " ".join(part.text for part in document.parts if isinstance(part, Text))
    caption = f"{medium.width_px}x{medium.height_px} {medium.format}, {fitted.slots} slots. {text}"
    return panels.picture(rgb, fitted, queries.shorten(caption, 170))


def _pack_bars(packs: Snapshot, unreadable: dict[str, str]) -> str:
    """Packs as bars, and the texts of one pack if its vocabulary is readable."""
    with_media = np.flatnonzero(packs.table(["slots"])["slots"].to_numpy()).tolist()
    chosen = queries.evenly_spaced(range(packs.counts["records"]), PACKS // 2)
    chosen = sorted({*chosen, *queries.evenly_spaced(with_media, PACKS - len(chosen))})
    records: list[Pack] = [packs.record(ordinal) for ordinal in chosen]
    shown = max(range(len(records)), key=lambda i: (len(records[i].media) > 0, len(records[i].segments)))
    richest = records[shown]
    colors = panels.palette([queries.source_label(segment.source) for pack in records for segment in pack.segments])
    rows = [
        [
            BarSegment(f"{source} {sample[:8]}", source, at, length, runs)
            for at, length, source, sample, runs in queries.pack_segments(pack)
        ]
        for pack in records
    ]
    bars = panels.pack_rows(rows, len(records[0].ids), colors)
    lead = f"packs of {len(records[0].ids):,} tokens; attention and positions stay inside a segment"
    words = queries.read_or_note(packs.name, unreadable, _first_segments, packs, chosen[shown], richest)
    return panels.section("Packs", lead, bars, words or "")


def _first_segments(packs: Snapshot, ordinal: int, pack: Pack) -> str:
    vocabulary = queries.vocabulary_of(packs)
    words = [
        (at, length, source, queries.shorten(queries.readable_text(pack.ids[at : at + length], vocabulary), 150))
        for at, length, source, _, _ in list(queries.pack_segments(pack))[:12]
    ]
    title = f"<p>First segments of pack {ordinal}</p>"
    return title + panels.table(("first position", "tokens", "source", "text"), words)


def _shares(packs: Snapshot) -> str:
    """Vision share of the packs over the tokens, with the schedule."""
    counted = queries.vision_shares(packs)
    begin = packs.meta["amends"]["tokens"] if packs.meta["amends"] else 0
    rows = [*packs.meta["schedule"], [begin + counted.tokens, 0, 0]]
    points = [
        (min(max(at - begin, 0), counted.tokens), share)
        for (start, first, last), (end, _, _) in pairwise(rows)
        for at, share in ((start, first), (end, last))
        if end > begin and start <= begin + counted.tokens
    ]
    chart = panels.line_chart(
        [
            ChartLine("so far", counted.until_tokens, counted.running),
            ChartLine("in a window", counted.until_tokens, counted.share),
            ChartLine("schedule", [at for at, _ in points], [share for _, share in points], dashed=True),
        ],
        "tokens",
        "vision share",
    )
    lead = f"slots over non-padding tokens, counted from the packs: {counted.slots:,} of {counted.tokens:,}"
    return panels.section("Vision share", lead, chart)


def _losses(training: Path) -> str:
    rows = queries.training_steps(training)
    series = []
    for name, key in (("all", "loss"), ("text", "loss_text"), ("captions and answers about media", "loss_vision")):
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        series.append(ChartLine(name, [x for x, _ in points], [y for _, y in points]))
    lead = "next-token loss of every global batch, nats per token"
    return panels.section("Loss", lead, panels.line_chart(series, "step", "loss"))


def _evaluation(training: Path) -> list[str]:
    """Sections about held-out losses and visual grounding, as far as the stage measured them."""
    evaluation = queries.read_json(training / "evaluation.json") or {}
    sections = []
    held_out = evaluation.get("held_out", {})
    if held_out:
        rows = [(domain, float(v["loss"]), int(v["targets"]), int(v["documents"])) for domain, v in held_out.items()]
        table = panels.table(("domain", "nats per token", "tokens", "documents"), rows)
        sections.append(panels.section("Held-out loss", "documents that training never saw, by domain", table))
    grounding = evaluation.get("grounding", {})
    measured = {name: result for name, result in grounding.get("attributes", {}).items() if result["scenes"]}
    if measured:
        bars = [(name, result["difference"], result["low"], result["high"]) for name, result in measured.items()]
        header = (
            "attribute",
            "scenes",
            "tokens",
            "loss, own image",
            "loss, other image",
            "accuracy, own image",
            "accuracy, other image",
        )
        keys = ("scenes", "tokens", "loss_own", "loss_other", "accuracy_own", "accuracy_other")
        table = panels.table(header, [(name, *(result[key] for key in keys)) for name, result in measured.items()])
        lead = (
            f"{'pass' if grounding['sees'] else 'fail'}. Loss on attribute words of {grounding['scenes']} scenes "
            "with the image of another scene, minus loss with their own image; 95 % intervals over scenes"
        )
        sections.append(panels.section("Visual grounding", lead, panels.intervals(bars, "nats per token"), table))
    return sections


def _drops(stores: dict[str, Snapshot]) -> str:
    """Table of quarantined and dropped records by node and reason."""
    rows: list[tuple[str, str, str, int]] = []
    for name, snapshot in stores.items():
        rows += [(name, "quarantined", reason, count) for reason, count in queries.quarantine_counts(snapshot).items()]
        if snapshot.kind == "view":
            rows += [(name, "dropped", reason, count) for reason, count in queries.own_drop_counts(snapshot).items()]
    lead = "records that could not be read (quarantined), and records that a filter dropped"
    return panels.section("Left out", lead, panels.table(("node", "decision", "reason", "records"), rows))
