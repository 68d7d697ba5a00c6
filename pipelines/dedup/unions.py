"""Union-find over documents: disjoint sets as a forest in an array, the parent of each place.

The root of a set is its smallest place. `dedup/minhash_loops.py` and `dedup/hamming.py` join clusters with it.
"""

from __future__ import annotations

from numba import types

from manifests.jit import compiled

PARENTS = types.Array(types.int64, 1, "C")


@compiled(PARENTS, types.int64, types.int64)
def unite(parents, a, b):
    """Join the sets of `a` and `b`. The sets in the end do not depend on the order of calls."""
    while parents[a] != a:
        parents[a] = parents[parents[a]]
        a = parents[a]
    while parents[b] != b:
        parents[b] = parents[parents[b]]
        b = parents[b]
    parents[max(a, b)] = min(a, b)


@compiled(PARENTS)
def flatten(parents):
    """Point every place at its root."""
    for k in range(len(parents)):
        parents[k] = parents[parents[k]]  # places before k are flat already, and a parent never comes after its child
