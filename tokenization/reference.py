"""The slow, obvious versions: byte-pair encoding as its definition says, and offsets found by decoding prefixes.

Imported by tests and benchmarks only.
"""

from __future__ import annotations

from itertools import pairwise

import regex

from tokenization.vocabulary import PATTERN, Vocabulary, stretches


def encode(text: str, vocabulary: Vocabulary) -> list[int]:
    """Split into pieces; in each, join the neighbours of lowest rank, leftmost first, until none join to a token."""
    ranks = {token: rank for rank, token in enumerate(vocabulary.tokens)}
    ids: list[int] = []
    for stretch in stretches(text):
        for piece in regex.findall(PATTERN, stretch, regex.VERSION1):
            parts = [bytes([byte]) for byte in piece.encode()]
            while True:
                joins = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
                if not joins:
                    break
                _, at = min(joins)
                parts[at : at + 2] = [parts[at] + parts[at + 1]]
            ids += [ranks[part] for part in parts]
    return ids


def tokens_over(text: str, start: int, stop: int, vocabulary: Vocabulary) -> list[int]:
    """Indexes of the tokens of `text` that share a byte with characters `start` to `stop`."""
    first, end = len(text[:start].encode()), len(text[:stop].encode())
    found, at = [], 0
    for index, token in enumerate(vocabulary.encode(text)):
        after = at + len(vocabulary.tokens[token])
        if at < end and after > first:
            found.append(index)
        at = after
    return found


def cut_quality(text: str, vocabulary: Vocabulary) -> list[int]:
    """How good a cut before each token is: 0 inside a character, then between two, before white space, after the end of
    a sentence that white space follows, at the start of a line or of the text."""
    encoded = text.encode()
    quality, at = [], 0
    for token in vocabulary.encode(text):
        before, after = encoded[:at].decode(errors="ignore"), encoded[at:].decode(errors="ignore")
        if before + after != text:
            quality.append(0)
        elif at == 0 or before.endswith("\n") and not after.startswith("\n"):
            quality.append(4)
        elif not after.startswith((" ", "\t", "\n")):
            quality.append(1)
        else:
            quality.append(3 if before.endswith((".", "!", "?", "。", "！", "？")) else 2)
        at += len(vocabulary.tokens[token])
    return quality
