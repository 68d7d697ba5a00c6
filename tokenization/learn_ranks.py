"""Learning of byte-pair ranks from text; as a command it made `tiny.tiktoken`.

    python -m tokenization.learn_ranks OUT [FILE ...]

The command's text is the Python interpreter's own (language reference and library source) plus the given UTF-8 files,
so it needs no download. The result depends on the interpreter's version and on the files; it is therefore committed,
pinned by digest, and never learned again silently. The node `learn_vocabulary` uses the same functions on documents.

The method is byte-pair encoding (Sennrich et al. 2016, on bytes): starting from single bytes, the most frequent
neighbors inside the pieces of the split pattern become a token, again and again. Numerals are left out, so each digit
stays a token (inferred to help small models count; the released vocabulary joins up to three).
"""

from __future__ import annotations

import argparse
import base64
import heapq
import sys
import sysconfig
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import regex

from tokenization.vocabulary import PATTERN

RANKS = 4096

_SPLIT = regex.compile(PATTERN, regex.VERSION1)
_NOT_PROSE = {"test", "tests", "idlelib", "lib2to3", "site-packages", "encodings", "pydoc_data", "turtledemo"}
"""Folders of the library that hold copies, tables or tests."""


def interpreter_text() -> Iterator[str]:
    """Yield the language reference of `help()`, then the source of the standard library, in a fixed order."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted(library.rglob("*.py")):
        if _NOT_PROSE.isdisjoint(file.relative_to(library).parts):
            yield file.read_text(encoding="utf-8", errors="ignore")


def count_pieces(texts: Iterable[str]) -> Counter[bytes]:
    """Count the pieces of the split pattern, without numerals."""
    pieces: Counter[str] = Counter()
    for text in texts:
        pieces.update(_SPLIT.findall(text))
    return Counter({p.encode(): n for p, n in pieces.items() if not unicodedata.category(p[0]).startswith("N")})


def learn(pieces: Mapping[bytes, int], ranks: int) -> list[bytes]:
    """Learn tokens by rank: the 256 bytes, then up to `ranks - 256` merges; fewer if no pair occurs twice.

    Pairs are counted by the bytes that they join to: equal bytes between two borders are always cut the same way. Of
    equally frequent pairs the smallest bytes win, so neither hashing nor the order of the input matters. Counts are
    updated instead of recounted; entries of the heap may be stale and are checked when they are popped.
    """
    tokens = [bytes([i]) for i in range(256)]
    words = [[bytes([b]) for b in piece] for piece in sorted(pieces)]
    weights = [pieces[piece] for piece in sorted(pieces)]
    counts: Counter[bytes] = Counter()
    places: defaultdict[bytes, set[int]] = defaultdict(set)
    for index, word in enumerate(words):
        for joined in joins(word):
            counts[joined] += weights[index]
            places[joined].add(index)
    heap = [(-count, joined) for joined, count in counts.items()]
    heapq.heapify(heap)
    while len(tokens) < ranks and heap:
        count, best = heapq.heappop(heap)
        if -count != counts[best]:
            continue  # stale: the change of this count pushed a new entry
        if -count < 2:
            break
        tokens.append(best)
        changed: set[bytes] = set()
        for index in sorted(places.pop(best)):
            for joined in joins(words[index]):
                counts[joined] -= weights[index]
                changed.add(joined)
            words[index] = merge(words[index], best)
            for joined in joins(words[index]):
                counts[joined] += weights[index]
                places[joined].add(index)
                changed.add(joined)
        for joined in changed:
            if counts[joined] > 0:
                heapq.heappush(heap, (-counts[joined], joined))
    return tokens


def joins(word: list[bytes]) -> list[bytes]:
    """Return the joined bytes of each pair of neighbors."""
    return [left + right for left, right in pairwise(word)]


def merge(word: list[bytes], token: bytes) -> list[bytes]:
    """Replace all neighbors in `word` that join to `token` by it, from the left."""
    merged: list[bytes] = []
    i = 0
    while i < len(word):
        joined = word[i] + word[i + 1] if i + 1 < len(word) else b""
        merged.append(token if joined == token else word[i])
        i += 2 if joined == token else 1
    return merged


def rank_file(tokens: Sequence[bytes]) -> str:
    """Write tokens in tiktoken's format, as `Vocabulary.load` reads it."""
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tokenization.learn_ranks", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the rank file to write")
    parser.add_argument("files", type=Path, nargs="*", help="UTF-8 files with more text")
    options = parser.parse_args(arguments)
    texts = [*interpreter_text(), *(file.read_text(encoding="utf-8") for file in options.files)]
    tokens = learn(count_pieces(texts), RANKS)
    options.out.write_text(rank_file(tokens), encoding="ascii")
    print(f"{options.out}: {len(tokens)} ranks from {sum(map(len, texts)):,} characters", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
