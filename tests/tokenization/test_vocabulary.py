"""Vocabularies: round trips, special tokens, the reference, hostile input, the pinned file."""

from __future__ import annotations

import base64
import pickle
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import ManifestError, RecordError
from tokenization import reference
from tokenization.vocabulary import MAX_RUN, MAX_TEXT, TINY, Vocabulary, text_chunks

TINY_DIGEST = "ac1d9af39fb24f7582fe94a63a9b9115eb53df5839104d6be8a037071cf82bc3"
"""Stores, plans and checkpoints hold this digest. It changes only if a new vocabulary is promoted by hand."""

tiny = Vocabulary.load("tiny")

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
WORDS = [
    "red circle", " 3", "12345", "\r\n", "\n\n", "   ", "\t", "don't", "I'LL", "HTTPServer", "(x)", "==", "...", "\x00",
    "über", "中文字", "한국어", "עברית", "e\u0301", "👩‍👩‍👧", "٣٤", "½", "\u00a0", "[EOS]", "<|media_pad|>",
]  # fmt: skip
wordy_text = st.lists(st.sampled_from(WORDS), max_size=12).map("".join)


def test_the_shipped_vocabulary_is_the_pinned_one():
    assert tiny.digest == TINY_DIGEST


def test_the_shipped_vocabulary_has_4096_ranks_and_256_special_tokens():
    assert (tiny.base, tiny.size) == (4096, 4352)
    assert sorted(tiny.special.values()) == list(range(4096, 4352))


def test_special_tokens_have_the_released_offsets():
    released = {
        "[BOS]": 163584, "[EOS]": 163585, "<|im_end|>": 163586, "<|im_user|>": 163587, "<|im_assistant|>": 163588,
        "<|im_system|>": 163594, "<|tool_calls_section_begin|>": 163595, "<|tool_calls_section_end|>": 163596,
        "<|tool_call_begin|>": 163597, "<|tool_call_argument_begin|>": 163598, "<|tool_call_end|>": 163599,
        "<|im_middle|>": 163601, "<|media_begin|>": 163602, "<|media_content|>": 163603, "<|media_end|>": 163604,
        "<|media_pad|>": 163605, "<think>": 163606, "</think>": 163607, "[PAD]": 163839,
    }  # fmt: skip
    assert {name: tiny.special[name] - tiny.base + 163584 for name in released} == released


def test_digits_are_single_tokens():
    assert [tiny.decode([i]) for i in tiny.encode("1024")] == list("1024")
    assert not [token for token in tiny.tokens if len(token) > 1 and any(48 <= byte < 58 for byte in token)]


@pytest.mark.parametrize(
    "words",
    [
        " red green blue yellow orange purple pink cyan",
        " circle square triangle star cross",
        " objects object",
        "image",
    ],
)
def test_frequent_words_of_scenes_are_single_tokens(words):
    assert len(tiny.encode(words)) == len(words.split())


@given(any_text | wordy_text)
def test_decoding_gives_the_text_back(text):
    assert tiny.decode(tiny.encode(text)) == text


@given(any_text | wordy_text)
def test_ids_equal_those_of_the_reference(text):
    assert tiny.encode(text) == tiny.encode_array(text).tolist() == reference.encode(text, tiny)


@given(st.lists(st.sampled_from(list(tiny.special)) | any_text, max_size=6).map("".join))
def test_special_names_in_user_text_stay_ordinary_text(text):
    ids = tiny.encode(text)
    assert all(i < tiny.base for i in ids)
    assert tiny.decode(ids) == text


@given(st.lists(st.integers(0, tiny.size - 1), max_size=30))
def test_any_ids_decode_and_special_ones_appear_by_name(ids):
    names = {i: name for name, i in tiny.special.items()}
    text = tiny.decode(ids)
    assert all(names[i] in text for i in ids if i in names)


def test_ids_outside_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"0 \.\. 4351"):
        tiny.decode([1, tiny.size])


def test_half_a_surrogate_pair_is_refused_with_a_reason():
    with pytest.raises(RecordError) as caught:
        tiny.encode("ab\ud800")
    assert caught.value.reason == "lone_surrogate"
    assert "2" in caught.value.message


@given(st.lists(st.tuples(st.sampled_from(["a", " ", "\n", "x y "]), st.integers(1, 3 * MAX_RUN)), max_size=4))
@settings(max_examples=30, deadline=None)
def test_chunks_join_to_the_text_and_are_bounded(runs):
    text = "".join(unit * (count // len(unit)) for unit, count in runs)
    chunks = list(text_chunks(text))
    assert "".join(chunks) == text
    for chunk in chunks:
        assert len(chunk) <= MAX_TEXT
        assert max((len(run) for run in re.findall(r"\s+|\S+", chunk)), default=0) <= MAX_RUN


@pytest.mark.parametrize("before", [0, 1, 12_499, 12_500, 24_999, 40_000, 374_999, 399_999])
@pytest.mark.parametrize("unit", ["x", " "])
def test_a_run_over_the_limit_is_cut_at_any_offset(before, unit):
    text = "a " * (before // 2) + "-" * (before % 2) + unit * (MAX_RUN + 1) + ("b" if unit == " " else " ") + "c d "
    runs = [run for chunk in text_chunks(text) for run in re.findall(r"\s+|\S+", chunk)]
    assert max(map(len, runs)) <= MAX_RUN


def test_chunks_are_those_of_the_released_tokenizer():
    assert [len(chunk) for chunk in text_chunks("ab " + "x" * 60_000 + " c")] == [25_003, 25_000, 10_002]
    assert [len(chunk) for chunk in text_chunks("a b " * 150_000)] == [400_000, 200_000]


@pytest.mark.parametrize("unit", ["a", " ", "\n", "aA", " \n", "'s", "\u0301", "中", "👩\u200d", "\x00", "🇩"])
def test_endless_lines_take_linear_time(unit):
    def seconds(characters: int) -> float:
        start = time.process_time()
        assert tiny.decode(tiny.encode(unit * (characters // len(unit)))) == unit * (characters // len(unit))
        return time.process_time() - start

    seconds(50_000)
    assert seconds(1_000_000) < 60 * max(seconds(50_000), 0.005)


def test_threads_and_pickled_copies_give_the_same_ids():
    texts = [f"def f{i}(x):\n    return {i} * x  # ünï {'é' * i}\n" for i in range(200)]
    expected = [tiny.encode(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tiny.encode, texts)) == expected
    copied = pickle.loads(pickle.dumps(tiny))
    assert [copied.encode(text) for text in texts] == expected
    assert copied.digest == tiny.digest


def test_another_rank_file_moves_the_special_tokens(tmp_path: Path):
    ranks = [bytes([i]) for i in range(256)] + [b"12", b" a"]
    file = tmp_path / "other.model"
    file.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(ranks)))
    other = Vocabulary.load(file)
    assert (other.base, other.size, other.special["[BOS]"]) == (258, 514, 258)
    assert other.encode("12 a") == [256, 257]
    assert other.special["<|reserved_token_263|>"] == 263
    assert other.digest != tiny.digest


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"AA== 0\nAQ== x\n", ":2: expected"), (b"AA== 0\n", "expected every byte"), (b"no base64!\n", ":1: expected"),
     (TINY.read_bytes().replace(b" 4095\n", b" 4094\n"), "without gaps"), (b"", "expected every byte")],
)  # fmt: skip
def test_broken_rank_files_are_refused(tmp_path: Path, content, message):
    file = tmp_path / "broken"
    file.write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        Vocabulary.load(file)


def test_a_missing_rank_file_is_a_manifest_error():
    with pytest.raises(ManifestError, match="no vocabulary"):
        Vocabulary.load("nowhere/at/all")
