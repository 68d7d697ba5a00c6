"""Reference implementations: byte-pair encoding by its definition, and offsets by decoding prefixes.

For tests and benchmarks only.
"""

from __future__ import annotations

from itertools import pairwise

import regex

from tokenization.vocabulary import PATTERN, Vocabulary, text_chunks


def encode(text: str, vocabulary: Vocabulary) -> list[int]:
    """Split `text` into pieces; in each, join the neighbors of lowest rank, leftmost first, until none form a token."""
    ranks = {token: rank for rank, token in enumerate(vocabulary.tokens)}
    ids: list[int] = []
    for chunk in text_chunks(text):
        for piece in regex.findall(PATTERN, chunk, regex.VERSION1):
            parts = [bytes([byte]) for byte in piece.encode()]
            while True:
                joins = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
                if not joins:
                    break
                _, first = min(joins)
                parts[first : first + 2] = [parts[first] + parts[first + 1]]
            ids += [ranks[part] for part in parts]
    return ids


def tokens_over(text: str, start: int, stop: int, vocabulary: Vocabulary) -> list[int]:
    """Return the indexes of the tokens of `text` that share a byte with characters `start` to `stop`."""
    first, end = len(text[:start].encode()), len(text[:stop].encode())
    indexes, offset = [], 0
    for index, token in enumerate(vocabulary.encode(text)):
        after = offset + len(vocabulary.tokens[token])
        if offset < end and after > first:
            indexes.append(index)
        offset = after
    return indexes


def cut_quality(text: str, vocabulary: Vocabulary) -> list[int]:
    """Return the quality of a cut before each token.

    0 inside a character, 1 between two characters, 2 before white space, 3 before white space at the end of a sentence,
    4 at the start of a line or of the text.
    """
    encoded = text.encode()
    quality, offset = [], 0
    for token in vocabulary.encode(text):
        before, after = encoded[:offset].decode(errors="ignore"), encoded[offset:].decode(errors="ignore")
        if before + after != text:
            quality.append(0)
        elif offset == 0 or before.endswith("\n") and not after.startswith("\n"):
            quality.append(4)
        elif not after.startswith((" ", "\t", "\n")):
            quality.append(1)
        else:
            quality.append(3 if before.endswith((".", "!", "?", "。", "！", "？")) else 2)
        offset += len(vocabulary.tokens[token])
    return quality
