"""Compiled loop that cuts long samples into pieces, as `pieces.py` describes.

`tests/packing/plan/test_pieces.py` compares the result with samples that are written out token by token.
"""

from __future__ import annotations

import numpy as np
from numba import types

from manifests.jit import compiled

INT = types.int64
INTS = types.Array(types.int64, 1, "C")
INTS_2D = types.Array(types.int64, 2, "C")

START, PLACE, STOP, TOKENS, SLOTS, PATCHES = range(6)
"""Rows of `groups`, one column per medium: start and stop of its tokens in the unexpanded ids, with the placeholder at
`PLACE`; tokens that replace the placeholder when expanded; vision slots and patches among them."""

CUT, TOO_LONG, TOO_MANY_PATCHES = range(3)
"""Outcome for a sample: it is cut, or one medium alone exceeds the tokens or patches of a piece."""


@compiled(INTS, INTS_2D, INTS, INTS, INTS, INT, INT, INT, types.boolean, INTS, returns=INTS_2D)
def cut_samples(
    tokens, groups, group_offsets, splits, split_offsets, capacity, most_patches, most_media, even, outcome
):
    """Cut samples into pieces of at most `capacity` expanded tokens, each as long as the limits and splits allow.

    With `even`, pieces of a sample are about equally long, and as many: the least attention for its tokens.

    Args:
        tokens: (n,) unexpanded ids of each sample.
        groups: (6, G) media of all samples; those of sample i from `group_offsets[i]` to `[i + 1]`, ascending,
            disjoint.
        splits: (S,) offsets at which samples may be cut, ascending in each, none inside a group; `split_offsets` as
            for groups.
        most_patches, most_media: limits of a piece.
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
        before, growth = a, 0  # groups with a placeholder before the next split, and the tokens that they add
        best = 0  # last split up to `reach`
        at, here = 0, a
        while at < total:
            reach = min(total, at + capacity)
            left = -((at - total) // capacity)  # pieces still needed by length alone
            fair = -((at - total) // left)
            over, patches = here, 0  # first group that no longer fits
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
