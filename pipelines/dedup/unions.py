"""Sets that grow together, as a forest in an array: the parent of each place. A root is the smallest of its set."""

from __future__ import annotations

from numba import types

from manifests.jit import compiled

PARENTS = types.Array(types.int64, 1, "C")


@compiled(PARENTS, types.int64, types.int64)
def unite(parents, a, b):
    """Make one set of those of `a` and `b`, whatever the order of such calls."""
    while parents[a] != a:
        parents[a] = parents[parents[a]]
        a = parents[a]
    while parents[b] != b:
        parents[b] = parents[parents[b]]
        b = parents[b]
    parents[max(a, b)] = min(a, b)


@compiled(PARENTS)
def flatten(parents):
    """Let every place name its root."""
    for k in range(len(parents)):
        parents[k] = parents[parents[k]]  # those before k are flat already, and a parent is never behind its child
