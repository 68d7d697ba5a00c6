"""Compiled loops of the order: the next piece (`merge`), the next pack (`order_packs`), caps on media, classes of
pieces.

`order.py`, `blocks.py`, `media_caps.py` and `supply.py` call them. `reference.order` is the slow version of `merge`;
`tests/packing/plan/test_schedules.py` compares both and recounts the result of `order_packs`, `test_media_caps.py` that
of `cap_exposures`.

The error E = slots given - slots wanted is exact. It is counted in half-millionths of a slot: at the end of each piece
of a curve it is then a whole number, and along a ramp it is `e` -+ `r` / n, with n the ramp's tokens and 0 <= r < n. A
product that could exceed 64 bits is divided while it is built, 18 bits at a time.

A *position* is an int64 array of (piece of the curve, tokens since its start, e, r).
"""

from __future__ import annotations

import numba
import numpy as np
from numba import types

from manifests.jit import compiled
from manifests.schedule import LONGEST_RAMP_TOKENS, MILLION

HALF_MILLIONTHS = 2 * MILLION
_BITS = 18
assert LONGEST_RAMP_TOKENS << _BITS <= 1 << 62

FULL, REFILL, LEG_END, EARLY, MISSING, REACHED = range(6)
"""Reasons why `merge` returns: the output is full; a stream's window is empty; the leg is over; the leg should end now,
because no piece that is allowed fits; no piece fits at all; the goal is reached."""

STATUS, STREAM, WRITTEN, WANTED, TOKENS, GOAL, VISION, LEG_STOP, EARLY_FROM, BOUND = range(10)
"""Indexes into the state of `merge`."""
STATE = 10
POSITION = 4

_INTS = types.Array(types.int64, 1, "C")
_TABLE = types.Array(types.int64, 2, "C")
_BOOLS = types.Array(types.boolean, 1, "C")
_inline = numba.njit(inline="always")


@_inline
def _multiply_divide(factor, tokens, n):
    """Quotient and remainder of factor * tokens by n, for factor < 2^54 and tokens <= 2 n < 2^45."""
    whole, part = tokens // n, tokens % n
    quotient = factor * whole
    high, rest = 0, 0
    for shift in (36, 18, 0):
        rest = (rest << _BITS) + ((factor >> shift) & ((1 << _BITS) - 1)) * part
        high = (high << _BITS) + rest // n
        rest = rest % n
    return quotient + high, rest


@_inline
def _advanced(starts, first, last, piece, x, e, r, tokens, slots):
    """The position after `tokens` tokens with `slots` slots."""
    e += HALF_MILLIONTHS * slots
    while tokens > 0:
        ends = piece + 1 < len(starts)
        n = starts[piece + 1] - starts[piece] if ends else tokens
        taken = min(tokens, n - x) if ends else tokens
        e -= 2 * first[piece] * taken
        rise = last[piece] - first[piece]
        if rise != 0:
            quotient, rest = _multiply_divide(abs(rise) * taken, 2 * x + taken, n)
            rest += r
            quotient += rest // n
            r = rest % n
            e -= quotient if rise > 0 else -quotient
        x += taken
        tokens -= taken
        if ends and x == n:
            piece, x = piece + 1, 0
    return piece, x, e, r


@_inline
def _floor(first, last, piece, e, r):
    """E rounded down, in half-millionths."""
    return e - 1 if r > 0 and last[piece] > first[piece] else e


@_inline
def _ceiling(first, last, piece, e, r):
    """E rounded up, in half-millionths."""
    return e + 1 if r > 0 and last[piece] < first[piece] else e


@_inline
def _most_credit(credit, open_, begin, end, step):
    """Index of the open account with most credit, the first one of several; -1 if none is open."""
    chosen = -1
    for i in range(begin, end, step):
        if open_[i] and (chosen < 0 or credit[i] > credit[chosen]):
            chosen = i
    return chosen


@compiled(*[_INTS] * 5, *[_TABLE] * 3, *[_INTS] * 9, _TABLE)
def merge(
    starts,
    first,
    last,
    position,
    state,
    piece_of,
    length_of,
    slots_of,
    at,
    filled,
    open_,
    weights,
    credit,
    group_of,
    group_open,
    group_weights,
    group_credit,
    out,
):
    """Draw pieces into the rows of `out` until there is a reason to return, which `state[STATUS]` gives.

    While slots are missing (E < 0) a rich piece comes, else a poor one. Among the streams of that side it comes from
    the group with most credit, and in it from the stream with most. The length of every drawn piece is credited to the
    open accounts by weight and debited from the one that it came from: weighted round robin by tokens.

    Args:
        starts, first, last: the curve, as in `manifests.schedule.Curve`.
        position, state: where the order is; advanced in place, as are `at`, `credit` and `group_credit`.
        piece_of, length_of, slots_of: (streams, window). Stream s holds the rich (s odd) or poor (s even) pieces of
            source s // 2; its window is filled from `at[s]` to `filled[s]`.
        open_: (streams,) 1 while the stream has pieces.
        weights: (streams,) whole, and so small that all credits stay below 2^62; credit: (streams,).
        group_of: (streams,) index of the stream's group, odd for the rich; `group_*`: the same per group.
        out: (rows, 4): stream, piece, length, slots.
    """
    piece, x, e, r = position[0], position[1], position[2], position[3]
    bound = state[BOUND]
    written = 0
    state[STREAM] = -1
    while True:
        if state[TOKENS] >= state[GOAL]:
            state[STATUS] = REACHED
            break
        if written == len(out):
            state[STATUS] = FULL
            break
        if state[TOKENS] >= state[LEG_STOP]:
            state[STATUS] = LEG_END
            break
        low, high = _floor(first, last, piece, e, r), _ceiling(first, last, piece, e, r)
        wanted = 1 if low < 0 and state[VISION] else 0
        chosen, fits = -1, False
        for side in (wanted, 1 - wanted):
            if side == 1 and not state[VISION]:
                continue  # no rich piece comes where the schedule wants no vision
            group = _most_credit(group_credit, group_open, side, len(group_open), 2)
            if group < 0:
                continue
            chosen = -1
            for s in range(side, len(open_), 2):
                if open_[s] and group_of[s] == group and (chosen < 0 or credit[s] > credit[chosen]):
                    chosen = s
            length, slots = length_of[chosen, at[chosen]], slots_of[chosen, at[chosen]]
            p2, x2, e2, r2 = _advanced(starts, first, last, piece, x, e, r, length, slots)
            low2, high2 = _floor(first, last, p2, e2, r2), _ceiling(first, last, p2, e2, r2)
            fits = -bound <= low2 and high2 <= bound
            if side == wanted and not fits:
                fits = low2 >= low if low < 0 else high2 <= high
            if fits or (side == wanted and state[TOKENS] >= state[EARLY_FROM]):
                break
        if not fits:
            state[STATUS] = EARLY if state[TOKENS] >= state[EARLY_FROM] else MISSING
            state[WANTED] = wanted
            break
        out[written, 0], out[written, 1] = chosen, piece_of[chosen, at[chosen]]
        out[written, 2], out[written, 3] = length, slots
        written += 1
        piece, x, e, r = p2, x2, e2, r2
        state[TOKENS] += length
        group = group_of[chosen]
        total = 0
        for g in range(group % 2, len(group_open), 2):
            if group_open[g]:
                group_credit[g] += length * group_weights[g]
                total += group_weights[g]
        group_credit[group] -= length * total
        total = 0
        for s in range(group % 2, len(open_), 2):
            if open_[s] and group_of[s] == group:
                credit[s] += length * weights[s]
                total += weights[s]
        credit[chosen] -= length * total
        at[chosen] += 1
        if at[chosen] == filled[chosen]:
            state[STATUS], state[STREAM] = REFILL, chosen
            break
    state[WRITTEN] = written
    position[0], position[1], position[2], position[3] = piece, x, e, r


@compiled(*[_INTS] * 4, types.int64, *[_INTS] * 5)
def order_packs(starts, first, last, position, bound, tokens, slots, waiting, seen, errors):
    """Put the packs of a block in the order in which they are seen.

    While slots are missing, the first of those `waiting` comes that leaves fewer missing; else the first that leaves no
    more too many; if there is none, the first of all.

    Args:
        starts, first, last, position: the curve, and the position at the first pack; not changed.
        bound: on |E|, in half-millionths; raised to the most slots of any pack seen so far.
        tokens, slots: (packs,) of each pack.
        waiting: (packs,) indexes in seeded order.
        seen: (packs,) filled with indexes; seen[0] is -1 if |E| would exceed the bound after a pack.
        errors: (packs,) filled with |E| after each pack, rounded up.
    """
    piece, x, e, r = position[0], position[1], position[2], position[3]
    most = 0
    following = np.arange(1, len(waiting) + 1)  # linked list over `waiting`
    head = 0
    for n in range(len(waiting)):
        low, high = _floor(first, last, piece, e, r), _ceiling(first, last, piece, e, r)
        before, place = -1, head
        chosen, chosen_before = head, -1
        while place < len(waiting):
            pack = waiting[place]
            p2, _, e2, r2 = _advanced(starts, first, last, piece, x, e, r, tokens[pack], slots[pack])
            if low < 0:
                right = _floor(first, last, p2, e2, r2) > low
            else:
                right = _ceiling(first, last, p2, e2, r2) <= high
            if right:
                chosen, chosen_before = place, before
                break
            before, place = place, following[place]
        pack = waiting[chosen]
        if chosen_before < 0:
            head = following[chosen]
        else:
            following[chosen_before] = following[chosen]
        piece, x, e, r = _advanced(starts, first, last, piece, x, e, r, tokens[pack], slots[pack])
        most = max(most, slots[pack])
        low, high = _floor(first, last, piece, e, r), _ceiling(first, last, piece, e, r)
        seen[n], errors[n] = pack, max(-low, high)
        if errors[n] > max(bound, HALF_MILLIONTHS * most):
            seen[0] = -1
            return


@compiled(_INTS, _INTS, _INTS, _BOOLS, _INTS, types.int64, _BOOLS)
def cap_exposures(order, offsets, media, later, shown, most, kept):
    """Walk over the pieces of a partition in `order` and count their media; refuse pieces that exceed the cap.

    Args:
        order: (pieces,) indexes.
        offsets, media: piece p shows `media[offsets[p] : offsets[p + 1]]`: indexes into `shown`, -1 for a medium that
            can't exceed the cap.
        later: (pieces,) True for pieces that the run saw in this epoch already; `shown` counts them from the start.
        shown: exposures of each medium so far; counted up.
        most: exposures of any medium at most.
        kept: (pieces,) set to False for each piece that would show a medium more than `most` times.
    """
    for piece in order:
        if later[piece]:
            continue
        over = False
        for k in range(offsets[piece], offsets[piece + 1]):
            if media[k] >= 0:
                shown[media[k]] += 1
                over = over or shown[media[k]] > most
        if over:
            kept[piece] = False
            for k in range(offsets[piece], offsets[piece + 1]):
                if media[k] >= 0:
                    shown[media[k]] -= 1


@compiled(_INTS, _INTS, _INTS, returns=_INTS)
def classes(length, slots, thresholds):
    """Class of each piece, (N,): the number of ascending `thresholds`, in millionths, that slots / length exceeds."""
    result = np.empty(len(length), np.int64)
    for piece in range(len(length)):
        low, high = 0, len(thresholds)
        while low < high:
            middle = (low + high) // 2
            if slots[piece] * MILLION > length[piece] * thresholds[middle]:
                low = middle + 1
            else:
                high = middle
        result[piece] = low
    return result


@compiled(_INTS, _INTS, _INTS, _INTS, types.int64, types.int64)
def advance(starts, first, last, position, tokens, slots):
    """Advance `position` by so many tokens with so many slots; by a block of packs at most, see `_multiply_divide`."""
    piece, x, e, r = _advanced(starts, first, last, position[0], position[1], position[2], position[3], tokens, slots)
    position[0], position[1], position[2], position[3] = piece, x, e, r


@compiled(_INTS, _INTS, _INTS, returns=types.int64)
def distance(first, last, position):
    """|E| at a position, rounded up, in half-millionths."""
    low = _floor(first, last, position[0], position[2], position[3])
    high = _ceiling(first, last, position[0], position[2], position[3])
    return max(-low, high)
