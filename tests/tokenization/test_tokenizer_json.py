"""Vocabularies from a `tokenizer.json`, compared with the `tokenizers` library."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from manifests.errors import ManifestError
from manifests.records import Document, Json, Media, Text, digest, record_id
from tokenization.encode import decode, encode
from tokenization.learn_ranks import interpreter_text
from tokenization.tokenizer_json import BYTES
from tokenization.vocabulary import PATTERN, Vocabulary

TEXT = next(interpreter_text()) * 2 + " 中文字 über עברית don't I'LL 12345 " * 9


def trained(split: bool) -> Tokenizer:
    """A tokenizer trained by the library; `split`: with another pattern, and special tokens at both ends."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split)
    own = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\p{L}\p{N}]+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([own, byte_level]) if split else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<think>"] if split else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    if split:
        tokenizer.add_special_tokens(["[PAD]"])
    return tokenizer


THEIRS = {split: trained(split) for split in (False, True)}


def load(content: str | Json, folder: Path) -> Vocabulary:
    file = folder / "tokenizer.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return Vocabulary.load(file)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Vocabulary]:
    return {split: load(theirs.to_str(), tmp_path_factory.mktemp("json")) for split, theirs in THEIRS.items()}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.lists(
    st.sampled_from([*TEXT.split(" ")[:200], " ", "  ", "\n", "\r\n", "12", "中", "'ll"])
).map(" ".join)


@given(texts, st.booleans())
def test_ids_equal_those_of_the_library(ours: dict[bool, Vocabulary], text: str, split: bool) -> None:
    assert ours[split].encode(text) == THEIRS[split].encode(text, add_special_tokens=False).ids
    assert ours[split].decode(ours[split].encode(text)) == text


def test_special_names_keep_the_ids_of_the_file_and_missing_ones_follow(ours: dict[bool, Vocabulary]) -> None:
    vocabulary, theirs = ours[True], THEIRS[True]
    for name in ("<|endoftext|>", "<think>", "[PAD]"):
        assert vocabulary.special[name] == theirs.token_to_id(name)
    added = vocabulary.special["<|im_end|>"]
    assert added >= theirs.get_vocab_size()
    assert len(set(vocabulary.special.values())) == len(vocabulary.special)
    assert vocabulary.size == max(vocabulary.special.values()) + 1 == len(vocabulary.byte_lengths)
    assert "<think>" == vocabulary.decode(vocabulary.encode("<think>")) != vocabulary.encode("<think>")
    assert vocabulary.special["<think>"] not in vocabulary.encode("<think>")


def test_documents_with_media_and_copies_of_the_vocabulary_work(ours: dict[bool, Vocabulary]) -> None:
    image = Media(digest("a"), "image", "jpg", 64, 64)
    parts = (Text("a dog"), image, Text("don't"))
    document = Document(record_id("t", "1"), "t", "1", "caption", parts)
    for vocabulary in ours.values():
        assert decode(encode(document, vocabulary), vocabulary) == parts
        copy = pickle.loads(pickle.dumps(vocabulary))
        assert (copy.digest, copy.special, copy.encode(TEXT)) == (
            vocabulary.digest,
            vocabulary.special,
            vocabulary.encode(TEXT),
        )
    assert ours[True].digest != ours[False].digest


def test_a_file_may_hold_kimis_pattern(tmp_path: Path) -> None:
    """The shipped vocabulary written as a tokenizer.json gives the same ids."""
    tiny = Vocabulary.load("tiny")
    characters = {byte: character for character, byte in BYTES.items()}
    names = ["".join(characters[byte] for byte in token) for token in tiny.tokens]
    merges = []
    ranks = {token: rank for rank, token in enumerate(tiny.tokens)}
    for token in tiny.tokens[256:]:
        cuts = [
            (max(ranks[token[:at]], ranks[token[at:]]), at)
            for at in range(1, len(token))
            if token[:at] in ranks and token[at:] in ranks
        ]
        at = min(cuts)[1]
        merges.append([names[ranks[token[:at]]], names[ranks[token[at:]]]])
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    content = {
        "model": {"type": "BPE", "vocab": dict(zip(names, range(len(names)), strict=True)), "merges": merges},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "added_tokens": [{"id": id, "content": name, "special": True} for name, id in tiny.special.items()],
    }
    vocabulary = load(content, tmp_path)
    assert (vocabulary.digest, vocabulary.special) == (tiny.digest, tiny.special)


def changed(content: Json, path: str, value: Json) -> Json:
    """Content with one value replaced, at a path of keys."""
    *parents, last = path.split(".")
    inner = content
    for name in parents:
        inner = inner[name]
    inner[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.type", "Unigram"),
        ("model.byte_fallback", True),
        ("model.end_of_word_suffix", "</w>"),
        ("normalizer", {"type": "Lowercase"}),
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("pre_tokenizer.add_prefix_space", True),
        ("model.merges", []),
        ("model.vocab", {"a": 0}),
        ("model.vocab", {"日": 0}),
    ],
)
def test_other_kinds_of_tokenizers_are_refused(tmp_path: Path, path: str, value: Json) -> None:
    content = json.loads(THEIRS[False].to_str())
    with pytest.raises(ManifestError):
        load(changed(content, path, value), tmp_path)


@pytest.mark.parametrize(("pattern", "message"), [(r"\p{L}+", "does not match all text"), (r"(", "can't be used")])
def test_patterns_that_do_not_match_all_text_are_refused(tmp_path: Path, pattern: str, message: str) -> None:
    content = json.loads(THEIRS[True].to_str())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": pattern}
    with pytest.raises(ManifestError, match=message):
        load(content, tmp_path)


def test_tokens_out_of_the_order_of_merges_are_refused(tmp_path: Path) -> None:
    content = json.loads(THEIRS[False].to_str())
    content["model"]["merges"][5], content["model"]["merges"][40] = (
        content["model"]["merges"][40],
        content["model"]["merges"][5],
    )
    with pytest.raises(ManifestError, match="not in the same order"):
        load(content, tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": 3}', "\x00"])
def test_files_that_are_no_tokenizer_are_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(ManifestError):
        load(content, tmp_path)


def test_gpt2_is_read_from_its_published_files(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "tokenizer_gpt2"
    merges = [line.split(" ") for line in (folder / "vocab.bpe").read_text().splitlines()[1:] if line]
    vocabulary = json.loads((folder / "encoder.json").read_text())
    content = {
        "version": "1.0",
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "added_tokens": [
            {"id": 50256, "content": "<|endoftext|>", "special": True, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}
        ],
    }  # fmt: skip
    ours = load(content, tmp_path)
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for file in sorted((test_data / "udhr_multilingual").rglob("*"))[:12]:
        if file.is_file():
            text = file.read_text(errors="replace")[:4000]
            assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    assert ours.special["<|endoftext|>"] == 50256
