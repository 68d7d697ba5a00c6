"""One global batch under the microscope: its rows, segments, words, pictures and what the model is asked to predict.

`told` gives it as plain values for the terminal and for programs, `page` as one self-contained page.
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
from stores.media.image import decode_rgb, resize
from stores.media.video import frames_at
from tokenization.vocabulary import Vocabulary

FRAMES = 8
"""Of one video are drawn; all are told."""


def step_summary(planned: PlanView, step: int, characters: int) -> dict[str, Json]:
    """`characters`: so many of a segment's text at the most."""
    packs = planned.batch(step, payload=False)
    vocabulary = vocabulary_of(planned.plan)
    found: dict[str, Json] = {
        "step": _headline(packs, step),
        "segments": [
            {"row": number} | row
            for number, pack in enumerate(packs)
            for row in pack_segment_rows(pack, vocabulary, characters)
        ],
    }
    media = [_medium(number, one) for number, pack in enumerate(packs) for one in pack.media]
    return found | ({"media": media} if media else {})


def step_page(planned: PlanView, step: int) -> str:
    packs = planned.batch(step)
    vocabulary = vocabulary_of(planned.plan)
    headline = _headline(packs, step)
    tiles = {name: f"{value:,}" if isinstance(value, int) else f"{value:.4f}" for name, value in headline.items()}
    colours = panels.palette([source for pack in packs for _, _, source, _, _ in pack_segments(pack)])
    bars = panels.pack_rows([_stretches(pack) for pack in packs], len(packs[0].ids), colours)
    lead = "one bar a row; attention stays inside a segment, positions begin at 0 in each"
    body = [panels.tiles(tiles), panels.section("Rows", lead, bars)]
    for number, pack in enumerate(packs):
        words = [
            (at, length, source, sample[:12], panels.Raw(_marked(pack, at, length, vocabulary)))
            for at, length, source, sample, _ in pack_segments(pack)
        ]
        table = panels.table(("at", "tokens", "source", "sample", "text; dim is given, the rest is predicted"), words)
        figures = "".join(_pictures(one) for one in pack.media)
        content = (f'<div class="figures">{figures}</div>', table) if figures else (table,)
        used = sum(segment.length for segment in pack.segments)
        lead = f"{used:,} of {len(pack.ids):,} tokens, {int(pack.loss_mask.sum()):,} of them predicted"
        body.append(panels.section(f"Row {number}", lead, *content))
    where = f"global batch {step} of {planned.steps.stop}, from {planned.plan.url}"
    return panels.page(f"Step {step}", where, body)


def _headline(packs: Sequence[Pack], step: int) -> dict[str, Json]:
    tokens = sum(segment.length for pack in packs for segment in pack.segments)
    slots = sum(count for pack in packs for *_, runs in pack_segments(pack) for _, count in runs)
    return {
        "global batch": step,
        "rows": len(packs),
        "tokens": tokens,
        "vision slots": slots,
        "vision share": slots / max(1, tokens),
        "predicted": sum(int(pack.loss_mask.sum()) for pack in packs),
        "fill": tokens / sum(len(pack.ids) for pack in packs),
        "media": sum(len(pack.media) for pack in packs),
    }


def pack_segment_rows(pack: Pack, vocabulary: Vocabulary, characters: int) -> Iterator[dict[str, Json]]:
    """One row of a table per segment of a pack, with so many characters of its text."""
    starts = [segment.start for segment in pack.segments]
    for (at, length, source, sample, runs), start in zip(pack_segments(pack), starts, strict=True):
        yield {
            "at": at,
            "tokens": length,
            "slots": sum(count for _, count in runs),
            "loss": int(pack.loss_mask[at : at + length].sum()),
            "source": source,
            "sample": sample[:8],
            "from": start,
            "text": shorten(readable_text(pack.ids[at : at + length], vocabulary), characters),
        }


def _medium(number: int, one: PackedMedia) -> dict[str, Json]:
    frames = [frame for item in one.items for frame in item.frames]
    return {
        "row": number,
        "medium": f"{one.media.kind} {one.media.format} {one.media.width_px}x{one.media.height_px}",
        "digest": one.media.digest[:12],
        "encoded as": f"{one.size_px[0]}x{one.size_px[1]} px",
        "patches": " + ".join("x".join(map(str, item.grid)) for item in one.items[:FRAMES]),
        "first slot": one.items[0].slot,
        "frames": f"{len(frames)} of {len(one.media.frame_times_us)}" if frames else "",
    }


def _stretches(pack: Pack) -> list[BarSegment]:
    return [
        BarSegment(f"{source} {sample[:8]}", source, at, length, runs)
        for at, length, source, sample, runs in pack_segments(pack)
    ]


def _marked(pack: Pack, at: int, length: int, vocabulary: Vocabulary) -> str:
    """HTML: the words of a segment, those that carry no loss dimmed."""
    ids, mask = pack.ids[at : at + length], pack.loss_mask[at : at + length]
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), length]
    parts = []
    for start, stop in pairwise(edges):
        words = escape(readable_text(ids[start:stop], vocabulary))
        parts.append(words if mask[start] else f'<span class="dim">{words}</span>')
    return f"<pre>{''.join(parts)}</pre>"


def _pictures(one: PackedMedia) -> str:
    """What the encoder gets of a medium, cut into patches; a video's frames one beside the other."""
    media, payload = one.media, one.media.payload
    assert payload is not None
    _, rows, cols = one.items[0].grid
    fitted = Fit(*one.size_px, rows, cols)
    caption = f"{media.kind} {media.digest[:12]}, {media.width_px}x{media.height_px} px, {rows}x{cols} patches"
    try:
        if media.kind == "image":
            rgb = resize(decode_rgb(payload), *one.size_px)
            return panels.picture(rgb, fitted, f"{caption} at {one.items[0].slot}")
        chosen = [(frame, item.slot) for item in one.items for frame in item.frames][:FRAMES]
        times_us = [media.frame_times_us[frame] for frame, _ in chosen]
        frames = frames_at(payload, times_us, each=lambda rgb: resize(rgb, *one.size_px))
    except RecordError as error:
        return f"<figure><figcaption>{escape(f'{caption}: {error}')}</figcaption></figure>"
    return "".join(
        panels.picture(rgb, fitted, f"{caption}, frame {frame} at {time_us / 1e6:.3f} s, slots from {slot}")
        for rgb, (frame, slot), time_us in zip(frames, chosen, times_us, strict=True)
    )
