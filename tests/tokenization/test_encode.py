"""Documents to samples and back: placeholders, loss, splits, facts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import RecordError
from manifests.records import Document, Fact, Media, Part, Text, digest, record_id
from tokenization import reference
from tokenization.encode import cut_quality, decode, decode_sample, encode, placeholder
from tokenization.split_loops import SPLIT_MAX, SPLIT_MIN
from tokenization.vocabulary import Vocabulary

tiny = Vocabulary.load("tiny")


def image(name: str = "a") -> Media:
    return Media(digest(name), "image", "jpg", 640, 480, payload=b"...")


def video(name: str = "v") -> Media:
    return Media(digest(name), "video", "mp4", 320, 240, frame_times_us=(0, 40_000), payload=b"...")


def document(*parts: Part, facts: tuple[Fact, ...] = ()) -> Document:
    return Document(record_id("test", "1"), "test", "1", "interleaved", parts, facts)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    [
        "3 objects , red circle\n",
        "It ends. It goes on! 字。字\n\n",
        "x" * 300,
        "a b " * 200,
        "👩‍👩‍👧é" * 60,
        "\n" * 200,
        "\x7f\x80\u07ff\u0800\uffff\U00010000",
    ]
)
parts = st.lists(texts.map(Text) | st.just(image()) | st.just(video()), max_size=8).map(tuple)


def joined(parts: tuple[Part, ...]) -> list[str | Media]:
    """Parts with adjacent texts joined and empty ones left out, as ids represent them."""
    result: list[str | Media] = []
    for part in parts:
        if isinstance(part, Media):
            result.append(replace(part, payload=None))
        elif result and isinstance(result[-1], str):
            result[-1] += part.text
        elif part.text:
            result.append(part.text)
    return [part for part in result if part]


@given(parts)
def test_samples_decode_back_to_their_documents(parts):
    sample = encode(document(*parts), tiny)
    assert [p.text if isinstance(p, Text) else p for p in decode(sample, tiny)] == joined(parts)


def test_a_document_becomes_exactly_these_ids():
    sample = encode(document(Text("a red"), image(), Text("dog"), video()), tiny)
    special = tiny.special
    assert sample.ids.tolist() == [
        *tiny.encode("a red"),
        special["<|media_begin|>"],
        *tiny.encode("image"),
        special["<|media_content|>"],
        special["<|media_pad|>"],
        special["<|media_end|>"],
        *tiny.encode("dog"),
        special["<|kimi_k25_video_placeholder|>"],
        special["[EOS]"],
    ]
    assert sample.ids.dtype == np.uint32
    assert decode_sample(sample, tiny) == "a red[image 640x480]dog[video 320x240]"
    assert [m.payload for m in sample.media] == [None, None]
    assert (sample.id, sample.source, sample.domain) == (record_id("test", "1"), "test", "interleaved")


@given(parts)
def test_loss_falls_on_text_and_on_eos_alone(parts):
    sample = encode(document(*parts), tiny)
    has_loss = np.zeros(len(sample.ids), bool)
    for start, stop in sample.loss_runs:
        assert 0 < start < stop
        assert not has_loss[start - 1]  # runs do not touch
        has_loss[start:stop] = True
    expected: list[bool] = []
    for part in parts:
        length = len(tiny.encode(part.text) if isinstance(part, Text) else placeholder(part, tiny))
        expected += [isinstance(part, Text)] * length
    assert has_loss.tolist() == [False, *expected[1:], True] if expected else [False]


@given(parts)
def test_splits_never_fall_inside_a_medium_or_a_character(parts):
    sample = encode(document(*parts), tiny)
    splits = [0, *sample.splits.tolist(), len(sample.ids)]
    assert splits == sorted(set(splits))
    pieces = []
    for start, stop in pairwise(splits):
        piece = sample.ids[start:stop]
        begins, ends = (np.sum(piece == tiny.special[name]) for name in ("<|media_begin|>", "<|media_end|>"))
        assert begins == ends <= 1
        pieces.append(tiny.decode(piece))
        assert stop - start <= SPLIT_MAX
    assert "".join(pieces) == tiny.decode(sample.ids)


@given(texts | st.text(st.sampled_from("ab .!?。！？\n\t字。\u0301é"), max_size=30))
def test_the_quality_of_cuts_equals_that_of_the_reference(text):
    ids = tiny.encode_array(text)
    assert cut_quality(ids, [(0, len(ids), text)], tiny).tolist() == reference.cut_quality(text, tiny)


def test_adjacent_texts_have_a_split_between_them():
    half = "one two three four five " * 6
    sample = encode(document(Text(half), Text(half)), tiny)
    assert len(tiny.encode(half)) in sample.splits


def test_splits_are_before_media_and_never_between_a_medium_and_its_caption():
    sample = encode(document(Text("before"), image(), Text("caption"), image(), image(), Text("end")), tiny)
    begins = np.flatnonzero(sample.ids == tiny.special["<|media_begin|>"])
    assert sample.splits.tolist() == begins.tolist()


def test_splits_prefer_line_ends():
    lines = [f"This is line number {i} of a longer text that goes on.\n" for i in range(100)]
    sample = encode(document(Text("".join(lines))), tiny)
    gaps = np.diff([0, *sample.splits])
    assert all(tiny.decode(sample.ids[:at]).endswith("\n") for at in sample.splits)
    assert gaps.min() >= SPLIT_MIN and gaps.max() < 2 * SPLIT_MIN


def test_splits_without_line_ends_prefer_ends_of_sentences():
    sample = encode(document(Text("This sentence is followed by another one of its kind. " * 50)), tiny)
    assert len(sample.splits) > 3
    assert all(
        tiny.decode(sample.ids[:at]).endswith(".") for at in sample.splits[:-1]
    )  # the last split may have no choice


@given(st.data())
@settings(max_examples=60)
def test_facts_become_the_tokens_that_overlap_them(data):
    text = data.draw(texts.filter(bool))
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start + 1, len(text)))
    before = data.draw(parts)
    fact = Fact("color", len(before), start, stop)
    sample = encode(document(*before, Text(text), facts=(fact,)), tiny)
    offset = len(encode(document(*before), tiny).ids) - 1
    (span,) = sample.spans
    assert span.name == "color"
    assert list(range(span.start - offset, span.stop - offset)) == reference.tokens_over(text, start, stop, tiny)
    assert text[start:stop] in tiny.decode(sample.ids[span.start : span.stop]) or not text.isascii()


def test_a_fact_in_a_caption_is_the_word_with_its_leading_space():
    text = "2 objects , red circle , blue star"
    start = text.index("circle")
    sample = encode(document(image(), Text(text), facts=(Fact("shape", 1, start, start + 6),)), tiny)
    (span,) = sample.spans
    assert tiny.decode(sample.ids[span.start : span.stop]) == " circle"


@pytest.mark.parametrize(
    "fact", [Fact("a", 0, 2, 2), Fact("a", 0, 0, 99), Fact("a", 1, 0, 1), Fact("a", 7, 0, 1), Fact("a", -1, 0, 1)]
)
def test_facts_outside_their_text_are_refused(fact):
    with pytest.raises(RecordError) as caught:
        encode(document(Text("some text"), image(), facts=(fact,)), tiny)
    assert caught.value.reason == "bad_fact"


def test_samples_with_disagreeing_ids_and_media_do_not_decode():
    sample = encode(document(image(), video()), tiny)
    with pytest.raises(ValueError, match="2 placeholders for 1 media"):
        decode(replace(sample, media=sample.media[:1]), tiny)
    with pytest.raises(ValueError, match="expected the placeholder of a video at id"):
        decode(replace(sample, media=sample.media[::-1]), tiny)
    with pytest.raises(ValueError, match=r"\[EOS\]"):
        decode(replace(sample, ids=sample.ids[:-1]), tiny)
