"""In which order are pieces and packs seen? Keyed permutations and exact integer accounts, no random state anywhere.

Before this `pieces.py` lists what a source has, after it `plan.py` cuts the order into blocks. A permutation depends on
(seed, epoch, source, names) only, so it is the same however a store is sharded and whoever computes it; the accounts
are integers, so that no block ever rounds differently.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def permutation(seed: int, epoch: int, source: str, names: Iterable[str]) -> np.ndarray:
    """(N,) int64: the order in which a source's pieces come in one epoch, by a 128-bit hash of each name."""
    start = hashlib.blake2b(f"{seed}/{epoch}/{source}/".encode(), digest_size=16)
    keys = bytearray()
    for name in names:
        state = start.copy()
        state.update(name.encode())
        keys += state.digest()
    high, low = np.frombuffer(bytes(keys), "<u8").reshape(-1, 2).T
    return np.lexsort((low, high))


def interleave(streams: Sequence[Iterator[tuple[int, T]]], weights: Sequence[int]) -> Iterator[T]:
    """Merge streams of (tokens, thing) so that each stream's tokens follow its weight, for as long as there is any.

    The next thing comes from the stream that is owed most. With k streams and no thing longer than m tokens, what a
    stream has given differs at every prefix from its due by at most (k - 1) * m tokens: a stream is only drawn from
    while it is owed at least nothing, so none is ahead by more than m, and as all accounts sum to 0 none is behind by
    more than the others are ahead. Where a stream ends, the others open new accounts among themselves.

    Args:
        weights: integers > 0, one per stream.
    """
    waiting: dict[int, tuple[int, T]] = {}
    for i, stream in enumerate(streams):
        if (first := next(stream, None)) is not None:
            waiting[i] = first
    while waiting:
        total = sum(weights[i] for i in waiting)
        owed = dict.fromkeys(waiting, 0)  # in tokens * total
        while len(owed) == len(waiting):
            chosen = max(owed, key=lambda i: (owed[i], -i))
            tokens, thing = waiting[chosen]
            for i in owed:
                owed[i] += tokens * weights[i]
            owed[chosen] -= tokens * total
            yield thing
            if (following := next(streams[chosen], None)) is None:
                del waiting[chosen]
            else:
                waiting[chosen] = following
