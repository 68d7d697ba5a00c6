"""One global batch of a plan in detail: rows, segments, texts, media, and the tokens that the model predicts.

`step_summary` returns plain values for the terminal and for programs, `step_page` a self-contained HTML page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise

import numpy as np

from manifests.errors import RecordError
from manifests.geometry import Fit
from manifests.records import Json, Pack, PackedMedia
from pipelines.inspect import panels
from pipelines.inspect.panels import BarSegment
from pipelines.inspect.plan_view import PlanView
from pipelines.inspect.queries import pack_segments, readable_text, shorten, vocabulary_of
from pipelines.inspect.terminal import label
from stores.media.image import decode_rgb, resize
from stores.media.video import frames_at
from tokenization.vocabulary import Vocabulary

FRAMES = 8
"""Frames of one video that a page draws; the tables count all."""


def step_summary(planned: PlanView, step: int, characters: int) -> dict[str, Json]:
    """Figures of the batch, and one row per segment and per medium.

    Args:
        step: number of the global batch.
        characters: most characters of a segment's text.
    """
    packs = planned.batch(step, payload=False)
    vocabulary = vocabulary_of(planned.plan)
    summary: dict[str, Json] = {
        "step": _headline(packs, step),
        "segments": [
            {"row": number} | row
            for number, pack in enumerate(packs)
            for row in pack_segment_rows(pack, vocabulary, characters)
        ],
    }
    media = [_medium_row(number, packed) for number, pack in enumerate(packs) for packed in pack.media]
    return summary | ({"media": media} if media else {})


def step_page(planned: PlanView, step: int) -> str:
    """HTML page of a global batch with its media."""
    packs = planned.batch(step)
    vocabulary = vocabulary_of(planned.plan)
    headline = _headline(packs, step)
    tiles = {
        label(name): f"{value:,}" if isinstance(value, int) else f"{value:.4f}" for name, value in headline.items()
    }
    colors = panels.palette([source for pack in packs for _, _, source, _, _ in pack_segments(pack)])
    bars = panels.pack_rows([_bar_segments(pack) for pack in packs], len(packs[0].ids), colors)
    lead = "one bar per row of the batch; attention and positions stay inside a segment"
    body = [panels.tiles(tiles), panels.section("Rows", lead, bars)]
    for number, pack in enumerate(packs):
        words = [
            (at, length, source, sample[:12], panels.Raw(_marked(pack, at, length, vocabulary)))
            for at, length, source, sample, _ in pack_segments(pack)
        ]
        header = ("first position", "tokens", "source", "sample", "text (dim: tokens without loss)")
        table = panels.table(header, words)
        figures = "".join(_figures(packed) for packed in pack.media)
        content = (f'<div class="figures">{figures}</div>', table) if figures else (table,)
        used = sum(segment.length for segment in pack.segments)
        lead = f"{used:,} of {len(pack.ids):,} tokens, {int(pack.loss_mask.sum()):,} with loss"
        body.append(panels.section(f"Row {number}", lead, *content))
    lead = f"global batch {step}, the last is {planned.steps.stop - 1}; plan {planned.plan.url}"
    return panels.page(f"Step {step}", lead, body)


def _headline(packs: Sequence[Pack], step: int) -> dict[str, Json]:
    tokens = sum(segment.length for pack in packs for segment in pack.segments)
    slots = sum(count for pack in packs for *_, runs in pack_segments(pack) for _, count in runs)
    return {
        "global_batch": step,
        "rows": len(packs),
        "tokens": tokens,
        "vision_slots": slots,
        "vision_share": slots / max(1, tokens),
        "loss_tokens": sum(int(pack.loss_mask.sum()) for pack in packs),
        "fill": tokens / sum(len(pack.ids) for pack in packs),
        "media": sum(len(pack.media) for pack in packs),
    }


def pack_segment_rows(pack: Pack, vocabulary: Vocabulary, characters: int) -> Iterator[dict[str, Json]]:
    """One row of a table per segment of a pack, with at most `characters` of its text."""
    starts = [segment.start for segment in pack.segments]
    for (at, length, source, sample, runs), start in zip(pack_segments(pack), starts, strict=True):
        yield {
            "first_position": at,
            "tokens": length,
            "slots": sum(count for _, count in runs),
            "loss_tokens": int(pack.loss_mask[at : at + length].sum()),
            "source": source,
            "sample": sample[:8],
            "first_token": start,
            "text": shorten(readable_text(pack.ids[at : at + length], vocabulary), characters),
        }


def _medium_row(number: int, packed: PackedMedia) -> dict[str, Json]:
    frames = [frame for item in packed.items for frame in item.frames]
    return {
        "row": number,
        "medium": f"{packed.media.kind} {packed.media.format} {packed.media.width_px}x{packed.media.height_px}",
        "digest": packed.media.digest[:12],
        "encoded_size": f"{packed.size_px[0]}x{packed.size_px[1]} px",
        "patches": " + ".join("x".join(map(str, item.grid)) for item in packed.items[:FRAMES]),
        "first_slot": packed.items[0].slot,
        "frames": f"{len(frames)} of {len(packed.media.frame_times_us)}" if frames else "",
    }


def _bar_segments(pack: Pack) -> list[BarSegment]:
    return [
        BarSegment(f"{source} {sample[:8]}", source, at, length, runs)
        for at, length, source, sample, runs in pack_segments(pack)
    ]


def _marked(pack: Pack, at: int, length: int, vocabulary: Vocabulary) -> str:
    """HTML of a segment's text, with tokens without loss dimmed."""
    ids, mask = pack.ids[at : at + length], pack.loss_mask[at : at + length]
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), length]
    parts = []
    for start, stop in pairwise(edges):
        words = escape(readable_text(ids[start:stop], vocabulary))
        parts.append(words if mask[start] else f'<span class="dim">{words}</span>')
    return f"<pre>{''.join(parts)}</pre>"


def _figures(packed: PackedMedia) -> str:
    """HTML figures of a medium as the encoder reads it, with its patches; one figure per frame of a video."""
    media, payload = packed.media, packed.media.payload
    assert payload is not None
    _, rows, cols = packed.items[0].grid
    fitted = Fit(*packed.size_px, rows, cols)
    caption = f"{media.kind} {media.digest[:12]}, {media.width_px}x{media.height_px} px, {rows}x{cols} patches"
    try:
        if media.kind == "image":
            rgb = resize(decode_rgb(payload), *packed.size_px)
            return panels.picture(rgb, fitted, f"{caption}, slots from position {packed.items[0].slot}")
        chosen = [(frame, item.slot) for item in packed.items for frame in item.frames][:FRAMES]
        times_us = [media.frame_times_us[frame] for frame, _ in chosen]
        frames = frames_at(payload, times_us, each=lambda rgb: resize(rgb, *packed.size_px))
    except RecordError as error:
        return f"<figure><figcaption>{escape(f'{caption}: {error}')}</figcaption></figure>"
    return "".join(
        panels.picture(rgb, fitted, f"{caption}, frame {frame} at {time_us / 1e6:.3f} s, slots from position {slot}")
        for rgb, (frame, slot), time_us in zip(frames, chosen, times_us, strict=True)
    )
