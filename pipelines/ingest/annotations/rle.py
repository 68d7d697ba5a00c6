"""Run-length masks of COCO to polygons around their pieces; used by `coco.py`.

    size, counts -> runs down the columns -> mask -> edges between in and out -> closed outlines -> fewer corners

Counts are a list, or text with six bits per character. The pixels of a piece are connected by sides, not by corners, so
that outlines don't cross. Polygons have no holes, and an outline is simplified within `TOLERANCE_PX`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from manifests.errors import RecordError
from manifests.records import Json

MOST_PIXELS = 64 << 20
MOST_EDGES = 200_000
"""A mask with more edges is left out as ragged."""
FEWEST_PIXELS = 16
"""A smaller piece is left out as a speck."""
TOLERANCE_PX = 1.0
"""Largest distance of a dropped corner from the simplified outline."""
MOST_CORNERS = 400
"""An outline with more corners is simplified with a larger tolerance."""

HOLE, SPECK, RAGGED = "mask_hole", "mask_speck", "ragged_mask"
"""Reasons why a part of a mask is left out."""

Outline = list[tuple[float, float]]


def outlines(mask_record: Json) -> tuple[list[Outline], list[str]]:
    """Return (outlines of the pieces, a reason for each part that is left out).

    Args:
        mask_record: {size: [height, width], counts}.
    Raises:
        RecordError: `bad_annotation`.
    """
    mask = decode_mask(mask_record)
    edges = np.count_nonzero(np.diff(mask, axis=0)) + np.count_nonzero(np.diff(mask, axis=1))
    if edges > MOST_EDGES:
        return [], [RAGGED]
    pieces: list[Outline] = []
    left_out: list[str] = []
    for loop in _loops(np.pad(mask, 1)):
        area = _area(loop)
        if area < 0:
            left_out.append(HOLE)
        elif area < FEWEST_PIXELS:
            left_out.append(SPECK)
        else:
            pieces.append([(float(x), float(y)) for x, y in _simplified(loop)])
    return pieces, left_out


def decode_mask(mask_record: Json) -> np.ndarray:
    """Return the mask, (height, width) bool. Raises RecordError `bad_annotation`."""
    fields = mask_record if isinstance(mask_record, dict) else {}
    size, counts = fields.get("size"), fields.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise RecordError("bad_annotation", "a mask without its size")
    if size[0] * size[1] > MOST_PIXELS:
        raise RecordError("bad_annotation", f"a mask of {size[0]} x {size[1]} pixels")
    runs = _runs(counts)
    if any(run < 0 for run in runs) or sum(runs) != size[0] * size[1]:
        raise RecordError("bad_annotation", "run lengths that do not fill their mask")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size[1], size[0]).T


def _runs(counts: Json) -> list[int]:
    """Lengths of the runs. In text, a count from the third on is the difference to the count two before."""
    if isinstance(counts, list) and all(type(count) is int for count in counts):
        return counts
    if not isinstance(counts, str):
        raise RecordError("bad_annotation", "run lengths that are neither numbers nor text")
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise RecordError("bad_annotation", "run lengths in no known text")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def _loops(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Closed outlines of a padded mask, (n, 2) corners x, y in pixels of the unpadded mask.

    The inside is to the right of each edge; outer outlines have a positive area, holes a negative one.
    """
    ends: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (dy, dx), move in (((-1, 0), (0, 1)), ((1, 0), (0, -1)), ((0, -1), (-1, 0)), ((0, 1), (1, 0))):
        rows, columns = np.nonzero(mask & ~np.roll(mask, (-dy, -dx), axis=(0, 1)))
        first_y = rows + (dy == 1 or dx == -1)  # an edge begins where the inside is to its right
        first_x = columns + (dx == 1 or dy == 1)
        for y, x in zip(first_y.tolist(), first_x.tolist(), strict=True):
            ends.setdefault((y, x), []).append(move)
    while ends:
        start = next(iter(ends))
        corners: list[tuple[int, int]] = []
        (y, x), came = start, (0, 0)
        while True:
            moves = ends[y, x]
            right = (came[1], -came[0])
            move = right if right in moves else moves[0]
            moves.remove(move)
            if not moves:
                del ends[y, x]
            if move != came:
                corners.append((x - 1, y - 1))
            came = move
            y, x = y + move[0], x + move[1]
            if (y, x) == start:
                break
        yield np.array(corners)


def _area(corners: np.ndarray) -> float:
    x, y = corners[:, 0], corners[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _simplified(corners: np.ndarray) -> np.ndarray:
    """Outline with fewer corners, (n, 2). A dropped corner is within the tolerance of the new outline (Ramer 1972,
    Douglas and Peucker 1973)."""
    far = int(((corners - corners[0]) ** 2).sum(axis=1).argmax())
    tolerance = TOLERANCE_PX
    while True:
        line = np.concatenate([corners, corners[:1]]).astype(np.float64)
        kept = np.zeros(len(line), bool)
        kept[[0, far, -1]] = True
        parts = [(0, far), (far, len(line) - 1)]
        while parts:
            first, last = parts.pop()
            if last - first < 2:
                continue
            distances = _distances(line[first + 1 : last], line[first], line[last])
            most = int(distances.argmax())
            if distances[most] > tolerance:
                kept[first + 1 + most] = True
                parts += [(first, first + 1 + most), (first + 1 + most, last)]
        simplified = corners[kept[:-1]]
        if len(simplified) <= MOST_CORNERS:
            return simplified if len(simplified) > 2 else corners
        tolerance *= 2


def _distances(points: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """(n,) distance of each of the (n, 2) points from the line segment between two corners."""
    along = last - first
    length = float(along @ along)
    share = np.clip((points - first) @ along / length, 0, 1) if length else np.zeros(len(points))
    return np.hypot(*(points - first - share[:, None] * along).T)
