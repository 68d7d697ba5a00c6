"""Ranks, pattern and special ids out of a `tokenizer.json` of the `tokenizers` library: byte-level BPE.

Used by `Vocabulary.load`. Such a file joins two tokens when its list of merges has them; tiktoken joins two whose bytes
together are a token, the one of lowest id first. Both give the same ids where every token is made by a merge, and ids
ascend in the order of merges: while lower merges are done, nothing crosses the borders of a stretch, so equal bytes
between two borders are always cut alike. Files of which that can't be said are refused, and other kinds of tokenizer.

Added tokens are special here, also those that `tokenizers` looks for in ordinary text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from manifests.errors import ManifestError
from manifests.records import Json

_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What a `ByteLevel` pre-tokenizer splits by when it is not told another pattern."""

_SHOWN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _SHOWN]
BYTES = {chr(byte): byte for byte in _SHOWN} | {chr(256 + i): byte for i, byte in enumerate(_HIDDEN)}
"""The character that stands for each byte in such a file."""


def read(file: Path) -> tuple[dict[bytes, int], str, dict[str, int]]:
    """(ranks, pattern, special ids) for `Vocabulary`. Raises ManifestError."""
    try:
        told = json.loads(file.read_bytes())
        model, added = told["model"], {token["content"]: int(token["id"]) for token in told.get("added_tokens") or ()}
        vocabulary = {token: int(id) for token, id in model["vocab"].items()}
        merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        joined = [left + right for left, right in merges]
        pattern = _pattern(told)
        _check_model(told)
        ranks = {_bytes(token): id for token, id in vocabulary.items() if token not in added}
    except OSError as error:
        raise ManifestError(
            f"no vocabulary ({error.strerror})", where=str(file), fix="give the path of a file"
        ) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__} {error}"
        fix = "give a tokenizer.json of byte-level BPE, or a rank file of tiktoken"
        raise ManifestError(f"not byte-level BPE that can be read ({what})", where=str(file), fix=fix) from None
    _check_order(file, ranks, joined, vocabulary)
    return ranks, pattern, added


def _bytes(token: str) -> bytes:
    return bytes(BYTES[character] for character in token)


def _check_model(told: Mapping[str, Json]) -> None:
    model = told["model"]
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback") or model.get("dropout"):
        raise ValueError(f"a model {model.get('type')} with byte_fallback or dropout")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ValueError("pieces of words are marked")
    normalizer = told.get("normalizer")
    if normalizer and normalizer["type"] != "NFC":  # documents are NFC from ingest on
        raise ValueError(f"a normalizer {normalizer['type']}")


def _pattern(told: Mapping[str, Json]) -> str:
    before = told["pre_tokenizer"]
    steps = before["pretokenizers"] if before["type"] == "Sequence" else [before]
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, **more}] if more.get("use_regex", True):
            return _GPT2
        case [
            {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return pattern
    raise ValueError("pre-tokenizer is neither ByteLevel nor one Split before it")


def _check_order(file: Path, ranks: Mapping[bytes, int], joined: list[str], vocabulary: Mapping[str, int]) -> None:
    """Raises ManifestError unless every byte is there, and all other tokens come out of merges in the order of ids."""
    ids = [vocabulary.get(token, -1) for token in dict.fromkeys(joined)]
    longer = sorted(id for token, id in ranks.items() if len(token) > 1)
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise ManifestError("has no token for some bytes", where=str(file))
    if ids != longer:
        message = "tokens and merges are not in the same order, or a token is made by no merge"
        raise ManifestError(message, where=str(file), fix="give a rank file of tiktoken for this vocabulary")
