"""Vocabulary: text to token ids and back, with byte-pair ranks, Kimi's split pattern and Kimi's 256 special tokens.

`encode.py` and `chat.py` use it for documents and conversations. The engine is tiktoken; tests compare it with
`reference.py`. One class serves the shipped tiny vocabulary (4,096 ranks, `tiny.tiktoken`, made by `learn_ranks.py`), a
released `tiktoken.model`, whose special tokens follow its ranks, and any `tokenizer.json` of byte-level BPE
(`tokenizer_json.py`), with its own pattern and ids.

Sources. Split pattern, the two length caps and the names and offsets of the special tokens: the released tokenizer of
the Kimi K2 family (`tokenization_kimi.py`, `tokenizer_config.json`), whose ranks end at 163,584. The name of the video
placeholder is released as well, but its id is not, because it never reaches a model; offset 253 is ours.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import tiktoken

from manifests.errors import ManifestError, RecordError
from manifests.records import digest
from tokenization import tokenizer_json

TINY = Path(__file__).with_name("tiny.tiktoken")

_NOT_HAN = r"&&[^\p{Han}]]"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}" + _NOT_HAN
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}" + _NOT_HAN
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERN = "|".join(
    [
        r"[\p{Han}]+",
        _LEAD + _UPPER + "*" + _LOWER + "+" + _SUFFIX,  # word, Word, wOrd: a capital starts a piece
        _LEAD + _UPPER + "+" + _LOWER + "*" + _SUFFIX,  # WORD, and scripts without case
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
"""Split pattern: merges never cross the pieces that it matches. Every alternative takes time linear in its match."""

_SPACE_BEFORE_WORDS = r"|\s+(?!\S)|\s+"
"""End of this pattern and of most others. Its look-ahead alone needs an engine with backtracking."""

MAX_TEXT = 400_000
MAX_RUN = 25_000
"""Bounds on the text that the engine gets at once: MAX_TEXT characters, and at most MAX_RUN characters in a row that
are all white space or all not. They are the released caps, so ids agree on any text, and an endless line costs linear
time and bounded memory."""

_ALL_KINDS = "aA1_ \t\n\r\n  'll .,;!?(+\x00\x7f\xa0\u200b中é\u0301ʼ¼٣👩‍👩🏽\ufffd"
"""Characters of every kind, to test that a pattern matches all text."""

_RUN = re.compile(r"\s+|\S+")
_SPACE = re.compile(r"\s")
_SOLID = re.compile(r"\S")

SPECIALS = 256
_NAMES: Mapping[int, str] = {
    0: "[BOS]",
    1: "[EOS]",
    2: "<|im_end|>",
    3: "<|im_user|>",
    4: "<|im_assistant|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    9: "[EOT]",
    10: "<|im_system|>",
    11: "<|tool_calls_section_begin|>",
    12: "<|tool_calls_section_end|>",
    13: "<|tool_call_begin|>",
    14: "<|tool_call_argument_begin|>",
    15: "<|tool_call_end|>",
    17: "<|im_middle|>",
    18: "<|media_begin|>",
    19: "<|media_content|>",
    20: "<|media_end|>",
    21: "<|media_pad|>",
    22: "<think>",
    23: "</think>",
    253: "<|kimi_k25_video_placeholder|>",
    254: "[UNK]",
    255: "[PAD]",
}
"""Names of special tokens by offset from the end of the ranks; all others are `<|reserved_token_ID|>`, as released."""


class Vocabulary:
    """Tokenizer with fixed ids; immutable, safe to share between threads, picklable.

    `special` maps names to ids, in the order of ids. `encode` treats text that spells such a name as ordinary text.
    """

    def __init__(
        self, ranks: Mapping[bytes, int], pattern: str = PATTERN, special: Mapping[str, int] | None = None
    ) -> None:
        """
        Args:
            ranks: token bytes -> id; holds every single byte, and ids ascend in the order of merging.
            pattern: split pattern, a regular expression.
            special: name -> id of special tokens. Without it the ids of `ranks` are 0, 1, 2 ... and 256 special ids
                follow. With it these ids are kept, and names of Kimi's that are missing get the ids after the last one.
        """
        self.pattern = pattern
        self.tokens: tuple[bytes, ...] = _by_id(ranks)
        """Bytes of the ordinary tokens by id; empty for the ids of special tokens among them."""
        self.base = len(self.tokens)
        """Number of ids before the special tokens that are appended."""
        self.special: Mapping[str, int] = MappingProxyType(_specials(self.tokens, special))
        self._engine = tiktoken.Encoding(
            "millrace", pat_str=grouped(pattern), mergeable_ranks=dict(ranks), special_tokens=dict(self.special)
        )

    @classmethod
    def load(cls, name: str | Path = "tiny") -> Vocabulary:
        """Load a vocabulary.

        Args:
            name: `tiny`, a file in tiktoken's format (one `base64 rank` per line), or a `tokenizer.json`.
        Raises:
            ManifestError: the file is missing, holds no complete set of ranks, or is another kind of tokenizer.
        """
        if str(name).endswith(".json"):
            try:
                vocabulary = cls(*tokenizer_json.read(Path(name)))
            except ValueError as error:
                raise ManifestError(f"its pattern can't be used ({error})", where=str(name)) from None
            if vocabulary.decode(vocabulary.encode(_ALL_KINDS)) != _ALL_KINDS:
                raise ManifestError("its pattern does not match all text", where=str(name))
            return vocabulary
        return cls(_read_ranks(TINY if name == "tiny" else Path(name)))

    def __reduce__(self) -> tuple[type, tuple[dict[bytes, int], str, dict[str, int]]]:
        ranks = {token: rank for rank, token in enumerate(self.tokens) if token}
        return (Vocabulary, (ranks, self.pattern, dict(self.special)))

    @cached_property
    def size(self) -> int:
        """Number of rows of the model's embedding: ordinary and special tokens."""
        return self.base + sum(id >= self.base for id in self.special.values())

    @property
    def eos_id(self) -> int:
        return self.special["[EOS]"]

    @property
    def pad_id(self) -> int:
        return self.special["[PAD]"]

    @property
    def media_pad_id(self) -> int:
        return self.special["<|media_pad|>"]

    @property
    def video_placeholder_id(self) -> int:
        return self.special["<|kimi_k25_video_placeholder|>"]

    @cached_property
    def digest(self) -> str:
        """Digest of pattern, special names and tokens. Vocabularies with equal digests give equal ids for every
        text."""
        return digest("vocabulary", self.pattern, *self.special, *self.tokens)

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """(size,) int32: bytes of text of each id, 0 for special tokens."""
        return np.array([len(token) for token in self.tokens] + [0] * (self.size - self.base), np.int32)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; never a special id, even for text that spells a special name.

        Raises:
            RecordError: `lone_surrogate` for a string that is not Unicode text.
        """
        utf8(text)
        ids: list[int] = []
        for chunk in text_chunks(text):
            ids += self._engine.encode_ordinary(chunk)
        return ids

    def encode_array(self, text: str) -> np.ndarray:
        """Return the same ids as (n,) uint32, without a Python number for each; for long texts."""
        utf8(text)
        ids = [
            self._engine.encode_to_numpy(chunk, allowed_special=set(), disallowed_special=())
            for chunk in text_chunks(text)
        ]
        return ids[0] if len(ids) == 1 else np.concatenate([np.zeros(0, np.uint32), *ids])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of `ids`; special ids by name. Bytes that are no UTF-8 (half a character) become U+FFFD.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        plain = [int(i) for i in ids]
        if plain and not 0 <= min(plain) <= max(plain) < self.size:
            raise ValueError(f"expected ids in 0 .. {self.size - 1}, got {min(plain)} .. {max(plain)}")
        return self._engine.decode_bytes(plain).decode(errors="replace")


def grouped(pattern: str) -> str:
    """Return an equivalent pattern that is a fifth faster.

    Alternatives without look-ahead become one group, which the engine tries all at once instead of one by one. Nothing
    follows the group, so the engine never backtracks into it.
    """
    if not pattern.endswith(_SPACE_BEFORE_WORDS):
        return pattern
    return f"(?:{pattern.removesuffix(_SPACE_BEFORE_WORDS)}){_SPACE_BEFORE_WORDS}"


def _by_id(ranks: Mapping[bytes, int]) -> tuple[bytes, ...]:
    """Return token bytes by id, empty for ids without a token."""
    tokens = [b""] * (max(ranks.values()) + 1)
    for token, rank in ranks.items():
        tokens[rank] = token
    return tuple(tokens)


def _specials(tokens: Sequence[bytes], declared: Mapping[str, int] | None) -> dict[str, int]:
    """Return name -> id, ascending by id, for every id that is no ordinary token's.

    Args:
        declared: special tokens of the file; None for Kimi's 256.
    """
    if declared is None:
        end = len(tokens)
        return {_NAMES.get(i, f"<|reserved_token_{end + i}|>"): end + i for i in range(SPECIALS)}
    names = {id: name for name, id in declared.items()}
    end = max(len(tokens), max(names, default=-1) + 1)
    names |= {end + i: name for i, name in enumerate(name for name in _NAMES.values() if name not in declared)}
    ids = [id for id in range(max(names) + 1) if id >= len(tokens) or not tokens[id]]
    return {names.get(id, f"<|reserved_token_{id}|>"): id for id in ids}


def utf8(text: str) -> bytes:
    """Encode `text` as UTF-8.

    Raises:
        RecordError: `lone_surrogate` for a string that is not Unicode text.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise RecordError("lone_surrogate", f"character {error.start} is half of a surrogate pair") from None


def text_chunks(text: str) -> Iterator[str]:
    """Cut `text` into the chunks that the engine gets at once; see MAX_TEXT and MAX_RUN."""
    for first in range(0, len(text), MAX_TEXT):
        chunk = text[first : first + MAX_TEXT]
        cut = 0
        if _may_hold_long_run(chunk):
            for run in _RUN.finditer(chunk):
                for at in range(run.start() + MAX_RUN, run.end(), MAX_RUN):
                    yield chunk[cut:at]
                    cut = at
        yield chunk[cut:]


def _may_hold_long_run(chunk: str) -> bool:
    """Return False if no run of white space or of other characters is longer than MAX_RUN.

    It reads few characters: a longer run fills at least one window of half that length.
    """
    half = MAX_RUN // 2
    windows = [(at, at + half) for at in range(0, len(chunk) - half + 1, half)]
    return not all(_SPACE.search(chunk, *window) and _SOLID.search(chunk, *window) for window in windows)


def _read_ranks(file: Path) -> dict[bytes, int]:
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        fix = "give `tiny` or the path of a rank file"
        raise ManifestError(f"no vocabulary ({error.strerror})", where=str(file), fix=fix) from None
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ManifestError("expected `base64 rank`", where=f"{file}:{number}") from None
    whole = sorted(ranks.values()) == list(range(len(lines))) and all(bytes([i]) in ranks for i in range(256))
    if not whole:
        raise ManifestError("expected every byte and ranks 0, 1, 2 ... without gaps or repeats", where=str(file))
    return ranks
