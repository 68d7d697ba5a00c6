"""Learning of ranks: the textbook example, and the properties that the engine needs."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tokenization.learn_ranks import count_pieces, interpreter_text, learn, merge
from tokenization.reference import encode
from tokenization.vocabulary import Vocabulary


def test_the_textbook_example_is_learned():
    """`aaabdaaabac` becomes XdXac, as on Wikipedia (which breaks the tie after `aa` the other way)."""
    tokens = learn({b"aaabdaaabac": 1}, 300)[256:]
    assert tokens == [b"aa", b"aaa", b"aaab"]


def test_of_equally_frequent_pairs_the_smallest_bytes_win():
    assert learn({b"xy": 2, b"ab": 2}, 258)[256:] == [b"ab", b"xy"]


@given(st.dictionaries(st.text("abc ", min_size=1, max_size=8).map(str.encode), st.integers(1, 9), max_size=8))
def test_updated_counts_give_the_same_tokens_as_recounting(pieces):
    tokens = learn(pieces, 270)
    assert tokens == recounted(pieces, 270)
    assert len(set(tokens)) == len(tokens)


def recounted(pieces: dict[bytes, int], ranks: int) -> list[bytes]:
    """Slow version that counts all pairs again for every merge."""
    tokens = [bytes([i]) for i in range(256)]
    words = {piece: [bytes([b]) for b in piece] for piece in pieces}
    while len(tokens) < ranks:
        counts: Counter[bytes] = Counter()
        for piece, word in words.items():
            for left, right in pairwise(word):
                counts[left + right] += pieces[piece]
        count, best = min(((-n, joined) for joined, n in counts.items()), default=(0, b""))
        if -count < 2:
            break
        tokens.append(best)
        words = {piece: merge(word, best) for piece, word in words.items()}
    return tokens


def test_numerals_are_left_out():
    assert count_pieces(["a 12 ½ ٣٤ b2"]) == {b"a": 1, b" ": 3, b" b": 1}


def test_learned_ranks_make_a_vocabulary():
    tokens = learn(count_pieces(["the cat sat on the mat, the end\n"] * 3), 280)
    vocabulary = Vocabulary({token: rank for rank, token in enumerate(tokens)})
    assert vocabulary.encode("the cat") == encode("the cat", vocabulary)
    assert len(vocabulary.encode(" the")) < 4


def test_the_interpreter_has_a_language_reference():
    first = next(interpreter_text())
    assert "assert" in first
