"""Reader of `tokenizer.json` files of the `tokenizers` library: ranks, pattern and special ids of byte-level BPE.

`Vocabulary.load` uses it. Such a file joins two tokens if its list of merges has the pair; tiktoken joins two tokens
whose bytes together are a token, the one of lowest id first. Both give the same ids if every token is made by a merge
and ids ascend in the order of merges: equal bytes between two borders are then always cut alike. Files without this
property, and other kinds of tokenizers, are refused.

Added tokens become special tokens, also those that `tokenizers` would find in ordinary text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from manifests.errors import ManifestError
from manifests.records import Json

_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Default split pattern of a `ByteLevel` pre-tokenizer."""

_SHOWN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _SHOWN]
BYTES = {chr(byte): byte for byte in _SHOWN} | {chr(256 + i): byte for i, byte in enumerate(_HIDDEN)}
"""Byte of each character in the tokens of such a file."""


def read(file: Path) -> tuple[dict[bytes, int], str, dict[str, int]]:
    """Return (ranks, pattern, special ids) for `Vocabulary`.

    Raises:
        ManifestError: the file can't be read, or would give other ids than the `tokenizers` library.
    """
    try:
        raw = json.loads(file.read_bytes())
        model, added = raw["model"], {token["content"]: int(token["id"]) for token in raw.get("added_tokens") or ()}
        vocabulary = {token: int(id) for token, id in model["vocab"].items()}
        merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        joined = [left + right for left, right in merges]
        pattern = _pattern(raw)
        _check_model(raw)
        ranks = {_bytes(token): id for token, id in vocabulary.items() if token not in added}
    except OSError as error:
        raise ManifestError(
            f"no vocabulary ({error.strerror})", where=str(file), fix="give the path of a file"
        ) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{type(error).__name__} {error}"
        fix = "give a tokenizer.json of byte-level BPE, or a rank file of tiktoken"
        raise ManifestError(f"not a readable byte-level BPE ({problem})", where=str(file), fix=fix) from None
    _check_order(file, ranks, joined, vocabulary)
    return ranks, pattern, added


def _bytes(token: str) -> bytes:
    return bytes(BYTES[character] for character in token)


def _check_model(raw: Mapping[str, Json]) -> None:
    model = raw["model"]
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback") or model.get("dropout"):
        raise ValueError(f"a model {model.get('type')} with byte_fallback or dropout")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ValueError("a prefix or suffix that marks parts of words")
    normalizer = raw.get("normalizer")
    if normalizer and normalizer["type"] != "NFC":  # documents are NFC from ingest on
        raise ValueError(f"a normalizer {normalizer['type']}")


def _pattern(raw: Mapping[str, Json]) -> str:
    pre_tokenizer = raw["pre_tokenizer"]
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, **more}] if more.get("use_regex", True):
            return _GPT2
        case [
            {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return pattern
    raise ValueError("a pre-tokenizer other than ByteLevel, or one Split followed by ByteLevel")


def _check_order(file: Path, ranks: Mapping[bytes, int], joined: list[str], vocabulary: Mapping[str, int]) -> None:
    """Raise ManifestError unless every byte has a token and all other tokens come from merges in the order of ids."""
    ids = [vocabulary.get(token, -1) for token in dict.fromkeys(joined)]
    longer = sorted(id for token, id in ranks.items() if len(token) > 1)
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise ManifestError("has no token for some bytes", where=str(file))
    if ids != longer:
        message = "tokens and merges are not in the same order, or a token is made by no merge"
        raise ManifestError(message, where=str(file), fix="give a rank file of tiktoken for this vocabulary")
