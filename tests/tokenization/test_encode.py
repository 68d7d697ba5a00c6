"""Documents to samples and back: placeholders, loss, cuts, facts."""

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
    """Neighbouring texts as one, empty ones left out: what ids can tell."""
    found: list[str | Media] = []
    for part in parts:
        if isinstance(part, Media):
            found.append(replace(part, payload=None))
        elif found and isinstance(found[-1], str):
            found[-1] += part.text
        elif part.text:
            found.append(part.text)
    return [p for p in found if p]


@given(parts)
def test_samples_decode_back_to_their_documents(parts):
    sample = encode(document(*parts), tiny)
    assert [p.text if isinstance(p, Text) else p for p in decode(sample, tiny)] == joined(parts)


def test_a_document_becomes_exactly_these_ids():
    sample = encode(document(Text("a red"), image(), Text("dog"), video()), tiny)
    s = tiny.special
    assert sample.ids.tolist() == [
        *tiny.encode("a red"),
        s["<|media_begin|>"], *tiny.encode("image"), s["<|media_content|>"], s["<|media_pad|>"], s["<|media_end|>"],
        *tiny.encode("dog"),
        s["<|kimi_k25_video_placeholder|>"],
        s["[EOS]"],
    ]  # fmt: skip
    assert sample.ids.dtype == np.uint32
    assert decode_sample(sample, tiny) == "a red[image 640x480]dog[video 320x240]"
    assert [m.payload for m in sample.media] == [None, None]
    assert (sample.id, sample.source, sample.domain) == (record_id("test", "1"), "test", "interleaved")


@given(parts)
def test_loss_falls_on_text_and_the_end_and_nowhere_else(parts):
    sample = encode(document(*parts), tiny)
    carries = np.zeros(len(sample.ids), bool)
    for start, stop in sample.loss_runs:
        assert 0 < start < stop
        assert not carries[start - 1]  # runs are apart
        carries[start:stop] = True
    expected: list[bool] = []
    for part in parts:
        length = len(tiny.encode(part.text) if isinstance(part, Text) else placeholder(part, tiny))
        expected += [isinstance(part, Text)] * length
    assert carries.tolist() == [False, *expected[1:], True] if expected else [False]


@given(parts)
def test_cuts_never_fall_inside_a_medium_or_a_character(parts):
    sample = encode(document(*parts), tiny)
    splits = [0, *sample.splits.tolist(), len(sample.ids)]
    assert splits == sorted(set(splits))
    pieces = []
    for start, stop in pairwise(splits):
        stretch = sample.ids[start:stop]
        begins, ends = (np.sum(stretch == tiny.special[name]) for name in ("<|media_begin|>", "<|media_end|>"))
        assert begins == ends <= 1
        pieces.append(tiny.decode(stretch))
        assert stop - start <= SPLIT_MAX
    assert "".join(pieces) == tiny.decode(sample.ids)


@given(texts | st.text(st.sampled_from("ab .!?。！？\n\t字。\u0301é"), max_size=30))
def test_places_for_cuts_are_judged_as_the_reference_judges_them(text):
    ids = tiny.encode_array(text)
    assert cut_quality(ids, [(0, len(ids), text)], tiny).tolist() == reference.cut_quality(text, tiny)


def test_neighbouring_texts_can_be_cut_apart():
    half = "one two three four five " * 6
    sample = encode(document(Text(half), Text(half)), tiny)
    assert len(tiny.encode(half)) in sample.splits


def test_a_medium_can_be_cut_off_from_what_precedes_it_but_not_from_its_caption():
    sample = encode(document(Text("before"), image(), Text("caption"), image(), image(), Text("end")), tiny)
    begins = np.flatnonzero(sample.ids == tiny.special["<|media_begin|>"])
    assert sample.splits.tolist() == begins.tolist()


def test_cuts_prefer_line_ends():
    lines = [f"This is line number {i} of a longer text that goes on.\n" for i in range(100)]
    sample = encode(document(Text("".join(lines))), tiny)
    gaps = np.diff([0, *sample.splits])
    assert all(tiny.decode(sample.ids[:at]).endswith("\n") for at in sample.splits)
    assert gaps.min() >= SPLIT_MIN and gaps.max() < 2 * SPLIT_MIN


def test_cuts_without_line_ends_prefer_ends_of_sentences():
    sample = encode(document(Text("This sentence is followed by another one of its kind. " * 50)), tiny)
    assert len(sample.splits) > 3
    assert all(tiny.decode(sample.ids[:at]).endswith(".") for at in sample.splits[:-1])  # the end may leave no choice


@given(st.data())
@settings(max_examples=60)
def test_facts_become_the_tokens_that_overlap_them(data):
    text = data.draw(texts.filter(bool))
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start + 1, len(text)))
    before = data.draw(parts)
    fact = Fact("colour", len(before), start, stop)
    sample = encode(document(*before, Text(text), facts=(fact,)), tiny)
    offset = len(encode(document(*before), tiny).ids) - 1
    (span,) = sample.spans
    assert span.name == "colour"
    assert list(range(span.start - offset, span.stop - offset)) == reference.tokens_over(text, start, stop, tiny)
    assert text[start:stop] in tiny.decode(sample.ids[span.start : span.stop]) or not text.isascii()


def test_a_fact_in_a_caption_is_the_word_with_its_blank():
    text = "2 objects , red circle , blue star"
    at = text.index("circle")
    sample = encode(document(image(), Text(text), facts=(Fact("shape", 1, at, at + 6),)), tiny)
    (span,) = sample.spans
    assert tiny.decode(sample.ids[span.start : span.stop]) == " circle"


@pytest.mark.parametrize(
    "fact", [Fact("a", 0, 2, 2), Fact("a", 0, 0, 99), Fact("a", 1, 0, 1), Fact("a", 7, 0, 1), Fact("a", -1, 0, 1)]
)
def test_facts_outside_their_text_are_refused(fact):
    with pytest.raises(RecordError) as caught:
        encode(document(Text("some text"), image(), facts=(fact,)), tiny)
    assert caught.value.reason == "bad_fact"


def test_samples_whose_ids_and_media_disagree_do_not_decode():
    sample = encode(document(image(), video()), tiny)
    with pytest.raises(ValueError, match="2 placeholders for 1 media"):
        decode(replace(sample, media=sample.media[:1]), tiny)
    with pytest.raises(ValueError, match="does not begin the placeholder of its video"):
        decode(replace(sample, media=sample.media[::-1]), tiny)
    with pytest.raises(ValueError, match=r"\[EOS\]"):
        decode(replace(sample, ids=sample.ids[:-1]), tiny)
