"""Compiled loop that cuts pixels into patches, for `navit.cut_patches`.

One pass over the image: 14 lines at a time are split into three color planes, which compiles to vector instructions.
The planes are still in the CPU cache when their runs of 14 bytes are copied to the patches, as 7 pairs.
"""

from __future__ import annotations

import numpy as np
from numba import types

from manifests.geometry import PATCH_PX
from manifests.jit import READ_BYTES_2D, compiled

_PAIRS = PATCH_PX // 2


def cut(rgb: np.ndarray, cols: int, patches: np.ndarray) -> None:
    """Fill the patches of one image, padded with zeros at the right and bottom.

    Args:
        rgb: (H, W, 3) uint8.
        cols: patches across; W <= cols * 14.
        patches: (rows * cols, 3, 14, 14) uint8; H <= rows * 14.
    """
    lines = np.ascontiguousarray(rgb).reshape(len(rgb), -1)
    _cut(lines, cols, patches.reshape(len(patches), -1).view(np.uint16))


@compiled(READ_BYTES_2D, types.int64, types.Array(types.uint16, 2, "C"))
def _cut(lines, cols, patches):
    height, samples = lines.shape
    planes = np.zeros((3, PATCH_PX, cols * PATCH_PX), np.uint8)
    pairs = planes.view(np.uint16)
    for row in range(len(patches) // cols):
        for y in range(PATCH_PX):
            red, green, blue = planes[0, y], planes[1, y], planes[2, y]
            if row * PATCH_PX + y < height:
                line = lines[row * PATCH_PX + y]
                for x in range(samples // 3):
                    red[x], green[x], blue[x] = line[3 * x], line[3 * x + 1], line[3 * x + 2]
            else:
                red[:], green[:], blue[:] = 0, 0, 0
        for col in range(cols):
            patch = patches[row * cols + col]
            for color in range(3):
                for y in range(PATCH_PX):
                    for x in range(_PAIRS):
                        patch[(color * PATCH_PX + y) * _PAIRS + x] = pairs[color, y, col * _PAIRS + x]
