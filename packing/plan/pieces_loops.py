"""The loop that cuts long samples into pieces, compiled. `plan/pieces.py` says where they may be cut."""

from __future__ import annotations

import numpy as np
from numba import types

from manifests.jit import compiled

INT = types.int64
INTS = types.Array(types.int64, 1, "C")
INTS_2D = types.Array(types.int64, 2, "C")

START, PLACE, STOP, TOKENS, SLOTS, PATCHES = range(6)
"""Rows of `groups`: the tokens of one medium in the unexpanded ids, from `START` to `STOP`, its placeholder at `PLACE`;
the expanded tokens in place of that, and vision slots and patches among them."""

CUT, TOO_LONG, TOO_MANY_PATCHES = range(3)
"""What became of a sample: it is cut, or one medium alone is more than a piece may be."""


@compiled(INTS, INTS_2D, INTS, INTS, INTS, INT, INT, INT, types.boolean, INTS, returns=INTS_2D)
def cut(tokens, groups, group_offsets, splits, split_offsets, capacity, most_patches, most_media, even, outcome):
    """Pieces of at most `capacity` expanded tokens, one after the other, as long as can be.

    Or where they shall be `even` about equally long, as many of them: that is the least attention for a sample.

    Args:
        tokens: (n,) unexpanded ids of each sample.
        groups: (6, G) of all samples; those of sample i from `group_offsets[i]` to `[i + 1]`, ascending and apart.
        splits: (S,) offsets at which samples may be cut, ascending in each and none inside a group; `split_offsets`.
        most_patches, most_media: of a piece.
        outcome: (n,) filled.
    Returns:
        (pieces, 6): sample, start, length, slots, patches, media.
    """
    out = np.empty((2 * len(tokens) + 16, 6), np.int64)
    written = 0
    for sample in range(len(tokens)):
        a, b = group_offsets[sample], group_offsets[sample + 1]
        starts, stops = np.empty(b - a, np.int64), np.empty(b - a, np.int64)  # expanded
        grown = 0
        outcome[sample] = CUT
        for g in range(a, b):
            starts[g - a] = groups[START, g] + grown
            grown += groups[TOKENS, g] - 1
            stops[g - a] = groups[STOP, g] + grown
            if groups[PATCHES, g] > most_patches:
                outcome[sample] = TOO_MANY_PATCHES
            elif stops[g - a] - starts[g - a] > capacity and outcome[sample] == CUT:
                outcome[sample] = TOO_LONG
        if outcome[sample] != CUT:
            continue
        total = tokens[sample] + grown
        split, last = split_offsets[sample], split_offsets[sample + 1]
        before, growth = a, 0  # groups whose placeholder comes before the next split, and what they add
        best = 0  # the last place to cut at up to `reach`
        at, here = 0, a
        while at < total:
            reach = min(total, at + capacity)
            left = -((at - total) // capacity)  # pieces, if nothing but their length counted
            fair = -((at - total) // left)
            over, patches = here, 0  # the first group that no longer fits
            while over < b and over - here < most_media and patches + groups[PATCHES, over] <= most_patches:
                patches += groups[PATCHES, over]
                over += 1
            if over < b:
                reach = min(reach, starts[over - a])
            end = reach
            if reach < total:
                while split < last:
                    while before < b and groups[PLACE, before] < splits[split]:
                        growth += groups[TOKENS, before] - 1
                        before += 1
                    if splits[split] + growth > reach:
                        break
                    best = splits[split] + growth
                    split += 1
                    if even and best >= at + fair:
                        break
                if best > at:
                    end = best
                else:
                    for g in range(here, b):
                        if starts[g - a] >= reach:
                            break
                        if reach < stops[g - a]:
                            end = starts[g - a]
            slots = patches = media = 0
            while here < b and starts[here - a] < end:
                slots += groups[SLOTS, here]
                patches += groups[PATCHES, here]
                media += 1
                here += 1
            if written == len(out):
                more = np.empty((2 * len(out), 6), np.int64)
                more[:written] = out
                out = more
            row = out[written]
            row[0], row[1], row[2], row[3], row[4], row[5] = sample, at, end - at, slots, patches, media
            written += 1
            at = end
    return out[:written].copy()
