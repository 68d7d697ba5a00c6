"""Packs made from stored documents hold exactly the documents' tokens and media."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from manifests.errors import ManifestError, StoreError
from manifests.records import Item, Pack, Sample, Segment, segment_ranges
from manifests.schedule import VisionShare
from packing.loader.loader import Loader
from packing.mixture import PackLimits
from packing.navit import expand, lay_out, media_tokens, patches_of
from packing.pack import materialize, pack_unit
from packing.plan.planner import compile_plan
from packing.proof import prove, recount
from stores.store import Store
from tests.packing.corpus import MIXTURE, Made, clip, corpus, create, document, make, medium, pieces_of, tiny, write
from tokenization.encode import decode, encode


def packs(made: Made) -> list[Pack]:
    return list(made.packs.records())


def test_every_segment_is_a_slice_of_its_expanded_sample(made: Made) -> None:
    expanded = {sample.id: expand(sample, MIXTURE.media_limits, tiny) for sample in made.samples.records()}
    for pack in packs(made):
        at = 0
        for segment in pack.segments:
            whole = expanded[segment.sample]
            span = slice(segment.start, segment.start + segment.length)
            assert pack.ids[at : at + segment.length].tolist() == whole.ids[span].tolist()
            targets = whole.targets[span].copy()
            targets[0] = False
            assert pack.loss_mask[at : at + segment.length].tolist() == targets.tolist()
            at += segment.length
        assert (pack.ids[at:] == tiny.pad_id).all() and not pack.loss_mask[at:].any()


def test_token_rows_decode_back_to_their_documents(made: Made) -> None:
    """The segments of a sample, joined and with slots replaced by placeholders, are the sample's ids."""
    pieces: defaultdict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for pack in packs(made):
        at = 0
        for segment in pack.segments:
            pieces[segment.sample][segment.start] = pack.ids[at : at + segment.length]
            at += segment.length
    whole = 0
    for sample in made.samples.records():
        by_start = pieces.get(sample.id, {})
        joined = np.concatenate([by_start[start] for start in sorted(by_start)] or [np.zeros(0, np.uint32)])
        if len(joined) < len(expand(sample, MIXTURE.media_limits, tiny).ids):
            continue  # the plan ended before all segments of this sample
        ids = without_slots(joined, sample)
        decoded = decode(dataclasses.replace(sample, ids=ids), tiny)
        assert decoded == decode(encode(made.documents[sample.id], tiny), tiny)
        whole += 1
    assert whole >= 80


def without_slots(ids: np.ndarray, sample: Sample) -> np.ndarray:
    """Ids with each run of media pads shortened to one, and the chunks of a video replaced by its placeholder."""
    text = tiny.decode(ids)
    pad, begin, end = "<|media_pad|>", "<|media_begin|>", "<|media_end|>"
    while pad * 2 in text:
        text = text.replace(pad * 2, pad)
    chunk = f"{begin}video<|media_content|>{pad}{end}"
    marked = text.replace(chunk, "\0")
    if "\0" not in marked:
        return np.delete(ids, np.flatnonzero((ids[1:] == ids[:-1]) & (ids[1:] == tiny.media_pad_id)))
    stamp = len("00:00:00.000")
    before, after = marked[: marked.index("\0") - stamp], marked[marked.rindex("\0") + 1 :]
    after = after.removesuffix("[EOS]")
    video = [tiny.video_placeholder_id]
    return np.array([*tiny.encode(before), *video, *tiny.encode(after), tiny.eos_id], np.uint32)


def test_media_in_packs_keep_their_bytes_and_patches(made: Made) -> None:
    expected = {}
    for sample in made.samples.records():
        for packed in expand(sample, MIXTURE.media_limits, tiny).media:
            payload = made.samples.read(packed.media.location)
            expected[packed.media.digest] = patches_of(packed, payload)
    seen = set()
    for pack in packs(made):
        for packed in pack.media:
            payload = made.packs.read(packed.media.location)
            assert hashlib.sha256(payload).hexdigest() == packed.media.digest
            for one, other in zip(patches_of(packed, payload), expected[packed.media.digest], strict=True):
                assert np.array_equal(one, other)
            seen.add(packed.media.kind)
    assert seen == {"image", "video"}


def test_the_proof_recounts_the_plan_from_the_bytes_of_packs(made: Made) -> None:
    proof = prove(made.packs, made.plan.meta, tiny)
    assert proof.packs == made.plan.meta["packs"] > 60
    assert proof.fill > 0.95
    assert proof.targets == made.packs.counts["loss_tokens"]
    assert max(proof.exposures["seen"]) == 3


def test_the_proof_finds_every_false_number_in_the_meta_of_a_plan(made: Made) -> None:
    meta = made.plan.meta
    changes = [
        {"tokens": meta["tokens"] + 1},
        {"slots": meta["slots"] - 1},
        {"packs": meta["packs"] + 12},
        {"schedule": [[0, 0.11, 0.11]]},
        {"segment_align": 2},
        {"pack_limits": {"patches": 16, "media": None, "attention": None}},
        {"plan": "0" * 64},
        {"sources": [{**meta["sources"][0], "max_epochs": 2}, meta["sources"][1]]},
        {"sources": [{**meta["sources"][0], "given_tokens": 5}, meta["sources"][1]]},
    ]
    for change in changes:
        with pytest.raises(StoreError, match="the plan claims"):
            prove(made.packs, {**meta, **change}, tiny)


def broken(pack: Pack) -> dict[str, Pack]:
    """Contradictory packs by a part of the message about them."""
    slots = np.flatnonzero(pack.ids == tiny.media_pad_id)
    text, first = pack.ids.copy(), pack.loss_mask.copy()
    text[slots[0]] = 5
    first[0] = True
    on_slot = pack.loss_mask.copy()
    on_slot[slots[0]] = True
    shorter = Segment(pack.segments[0].sample, "seen", 0, pack.segments[0].length - 1)
    packed = pack.media[0]
    moved = dataclasses.replace(packed, items=(Item(packed.items[0].grid, packed.items[0].slot + 1),))
    return {
        "media do not cover": dataclasses.replace(pack, ids=text),
        "first token": dataclasses.replace(pack, loss_mask=first),
        "loss on a slot": dataclasses.replace(pack, loss_mask=on_slot),
        "tokens behind": dataclasses.replace(pack, segments=(shorter, *pack.segments[1:])),
        "media do not cover ": dataclasses.replace(pack, media=(moved, *pack.media[1:])),
        "two media": dataclasses.replace(pack, media=(*pack.media, packed)),
        "no segments": dataclasses.replace(pack, segments=()),
    }


def test_the_recount_finds_every_kind_of_contradiction_in_a_pack(made: Made) -> None:
    whole = next(pack for pack in packs(made) if pack.media and pack.media[0].media.kind == "image")
    for words, pack in broken(whole).items():
        with pytest.raises(StoreError, match=words.strip()):
            recount([pack], VisionShare().over(None), tiny.media_pad_id, tiny.pad_id)


def test_a_single_pack_equals_the_pack_of_its_unit(made: Made) -> None:
    for block in made.plan.blocks[:2]:
        unit = list(pack_unit(block, made.by_source, tiny))
        for index in (0, len(unit) - 1):
            single = materialize(block, index, made.by_source, tiny)
            assert single.ids.tolist() == unit[index].ids.tolist()
            assert single.segments == unit[index].segments
            assert single.media == unit[index].media
            assert all(packed.media.payload is None for packed in single.media)


def test_equal_documents_give_equal_plans_and_packs(made: Made, tmp_path: Path) -> None:
    again = make(tmp_path, corpus())
    assert again.plan.meta == made.plan.meta
    assert again.packs.content_root == made.packs.content_root


def test_pieces_from_the_index_have_the_expanded_length_of_every_sample(made: Made) -> None:
    source, limits = MIXTURE.sources[0], MIXTURE.media_limits
    wide = dataclasses.replace(MIXTURE, max_pack_tokens=100_000)
    pieces = pieces_of(made.samples, dataclasses.replace(source, domains=()), wide)
    expanded = [expand(sample, limits, tiny) for sample in made.samples.records()]
    assert pieces.ordinal.tolist() == list(range(len(expanded)))
    assert pieces.length.tolist() == [len(sample.ids) for sample in expanded]
    assert pieces.slots.tolist() == [int((sample.ids == tiny.media_pad_id).sum()) for sample in expanded]
    assert pieces.media == sum(len(sample.media) for sample in expanded)


def test_a_clip_is_planned_and_expanded_by_the_rate_of_its_container(tmp_path: Path) -> None:
    """27 frames shown at 4 per second; the containers of most copies declare another rate or none."""
    original = medium(clip(27))
    rates = {4.0: 10, 10.0: 5, 0.5: 10, 27.0: 2, None: 10}  # declared rate -> chosen frames, at most ten
    clips = [dataclasses.replace(original, container_fps=rate) for rate in rates]
    documents = write(create(tmp_path, "documents"), [document(f"{one.container_fps}", "video", one) for one in clips])
    encoded = [encode(one, tiny) for one in documents.records()]
    samples = write(create(tmp_path, "samples"), encoded, vocabulary=tiny.digest, vocabulary_file="tiny")
    wide = dataclasses.replace(MIXTURE, max_pack_tokens=100_000)
    pieces = pieces_of(samples, dataclasses.replace(MIXTURE.sources[0], domains=("video",)), wide)
    expanded = [expand(sample, MIXTURE.media_limits, tiny) for sample in samples.records()]
    frames = {one.media[0].media.container_fps: sum(len(i.frames) for i in one.media[0].items) for one in expanded}
    assert frames == rates
    assert pieces.length.tolist() == [len(expanded[at].ids) for at in pieces.ordinal]
    assert len(set(pieces.length.tolist())) == 3


def test_a_sample_with_a_medium_longer_than_a_pack_is_refused_and_counted(made: Made) -> None:
    short = dataclasses.replace(MIXTURE, max_pack_tokens=64)
    too_long = {
        ordinal
        for ordinal, sample in enumerate(made.samples.records())
        if any(media_tokens(media, lay_out(media, MIXTURE.media_limits), tiny) > 64 for media in sample.media)
    }
    assert too_long
    plan = compile_plan(short, made.by_source, tiny)
    assert plan.meta["sources"][0]["refused"] == {"medium_longer_than_pack": len(too_long)}
    for block in plan.blocks:
        is_seen = block.arrays["source"] == 0
        assert not too_long & set(block.arrays["ordinal"][is_seen].tolist())


def test_samples_that_a_view_drops_are_never_packed(made: Made, tmp_path: Path) -> None:
    store = create(tmp_path, "view")
    writer = store.writer("all")
    for ref in made.samples.shards:
        keep = [ordinal % 2 == 0 for ordinal in range(ref.first, ref.first + ref.records)]
        writer.columns(ref.shard, {"keep": keep})
    view = store.commit([writer.finish()], node="test", units=["all"], parents=[made.samples.as_parent])
    plan = compile_plan(MIXTURE, dict.fromkeys(made.by_source, view), tiny)
    assert all((block.arrays["ordinal"] % 2 == 0).all() for block in plan.blocks)
    kept = {sample.id for sample in view.records()}
    first = materialize(plan.blocks[0], 0, dict.fromkeys(made.by_source, view), tiny)
    assert {segment.sample for segment in first.segments} <= kept


def test_a_source_without_samples_is_refused(made: Made) -> None:
    source = dataclasses.replace(MIXTURE.sources[0], domains=("nothing",))
    with pytest.raises(
        ManifestError, match="no sample that can be packed: 226 in the store, 0 of the domains and lengths"
    ):
        compile_plan(dataclasses.replace(MIXTURE, sources=(source,)), {"seen": made.samples}, tiny)


def test_samples_of_another_vocabulary_are_refused(made: Made, tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "samples"), "samples", "samples")
    other = write(store, made.samples.records(0, 3), vocabulary="f" * 64)
    with pytest.raises(StoreError, match="tokenize again"):
        pieces_of(other, MIXTURE.sources[0], MIXTURE)


def test_samples_of_another_order_than_the_plans_are_refused(made: Made, tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "samples"), "samples", "samples")
    reversed_ = write(store, reversed(list(made.samples.records())), vocabulary=tiny.digest)
    with pytest.raises(StoreError, match="the plan expects"):
        list(pack_unit(made.plan.blocks[0], dict.fromkeys(made.by_source, reversed_), tiny))


def test_every_pack_keeps_several_limits_and_the_proof_recounts_them(tmp_path: Path) -> None:
    limits = PackLimits(patches=160, media=5, attention=30_000)
    made = make(tmp_path, corpus(), dataclasses.replace(MIXTURE, pack_limits=limits))
    proof = prove(made.packs, made.plan.meta, tiny)
    assert proof.pack_patches.max() == 160
    assert proof.pack_media.max() == 5
    assert 29_000 < proof.pack_attention.max() <= 30_000
    assert max(segment.length for pack in packs(made) for segment in pack.segments) == 173, "the root of 30,000"
    assert proof.fill > 0.9
    assert proof.pack_attention.mean() > 0.8 * 30_000
    for pack, patches, media in zip(packs(made), proof.pack_patches, proof.pack_media, strict=True):
        assert patches == sum(
            len(one) for packed in pack.media for one in patches_of(packed, made.packs.read(packed.media.location))
        )
        assert media == len(pack.media)


def test_a_medium_over_the_patches_of_a_pack_is_refused_with_its_reason(made: Made) -> None:
    tight = dataclasses.replace(MIXTURE, pack_limits=PackLimits(patches=40))
    over = {
        ordinal
        for ordinal, sample in enumerate(made.samples.records())
        if any(lay_out(media, MIXTURE.media_limits).patches > 40 for media in sample.media)
    }
    pieces = pieces_of(made.samples, MIXTURE.sources[0], tight)
    assert pieces.refused == {"medium_over_patches_of_pack": len(over)} and over
    assert not over & set(pieces.ordinal.tolist())


def test_segments_begin_at_multiples_and_have_padding_between_them(tmp_path: Path) -> None:
    made = make(tmp_path, corpus(), dataclasses.replace(MIXTURE, segment_align=16))
    proof = prove(made.packs, made.plan.meta, tiny)
    assert proof.alignment == 16
    assert made.plan.meta["fill"] == proof.fill < 0.97
    expanded = {sample.id: expand(sample, MIXTURE.media_limits, tiny) for sample in made.samples.records()}
    for pack in packs(made):
        used = np.zeros(len(pack.ids), bool)
        for segment, at, end in segment_ranges(pack.segments):
            assert at % 16 == (segment.length + segment.padding) % 16 == 0 <= segment.padding < 16
            whole = expanded[segment.sample].ids
            assert pack.ids[at:end].tolist() == whole[segment.start : segment.start + segment.length].tolist()
            used[at:end] = True
        assert (pack.ids[~used] == tiny.pad_id).all() and not pack.loss_mask[~used].any()
    with Loader(made.packs, 12) as loader:
        for batch in loader:
            rows = batch.rows(0)
            assert all(length % 16 == 0 for lengths in rows.segment_lengths for length in lengths)
            assert (rows.labels[rows.ids == tiny.pad_id] == -100).all()
            assert batch.tokens == int((rows.ids != tiny.pad_id).sum())
            for row, pack in enumerate(batch.packs):
                firsts = [first for _, first, _ in segment_ranges(pack.segments)]
                assert firsts == [0, *np.cumsum(rows.segment_lengths[row])[:-1].tolist()]
                assert not rows.positions[row, firsts].any()


def test_long_and_short_documents_are_mixed_as_two_sources_of_one_store(made: Made) -> None:
    text = dataclasses.replace(MIXTURE.sources[1], max_epochs=40)
    long = dataclasses.replace(text, name="long", weight=3.0, min_tokens=120)
    short = dataclasses.replace(text, name="short", weight=7.0, max_tokens=119)
    mixture = dataclasses.replace(
        MIXTURE, sources=(long, short), vision_share=VisionShare(constant=0.0), horizon_tokens=60_000
    )
    plan = compile_plan(mixture, {"long": made.samples, "short": made.samples}, tiny)
    lengths = [len(sample.ids) for sample in made.samples.records()]
    pictured = dataclasses.replace(MIXTURE.sources[0], max_tokens=119)
    few = pieces_of(made.samples, pictured, MIXTURE)
    assert few.length.max() <= 119 and few.media == sum(
        len(sample.media) for at, sample in enumerate(made.samples.records()) if at in set(few.ordinal.tolist())
    )
    tokens = np.zeros((plan.meta["packs"], 2), np.int64)
    number = 0
    for block in plan.blocks:
        offsets = block.arrays["pack_offsets"].tolist()
        for a, b in pairwise(offsets):
            for source, ordinal, length in zip(
                *(block.arrays[name][a:b].tolist() for name in ("source", "ordinal", "length")), strict=True
            ):
                assert (lengths[ordinal] >= 120) == (source == 0)
                tokens[number, source] += length
            number += 1
    total = tokens.cumsum(0)
    share = total[:, 0] / total.sum(1)
    assert np.abs(share[48:] - 0.3).max() < 0.05, "after four global batches, with blocks of 20 packs"
    assert abs(share[-1] - 0.3) < 0.01
