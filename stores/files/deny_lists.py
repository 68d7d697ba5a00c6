"""Paths of the deny lists next to the stores of a run: `forgotten/000001.json` and on, without gaps.

`stores/tombstones.py` reads and writes the lists. This module only counts them: each new list invalidates the disk
caches that were filled before it (`files/remote.py`).
"""

from __future__ import annotations

from stores.files.protocol import Files

FOLDER = "forgotten"


def list_path(number: int) -> str:
    """Return the path of a list inside the folder of lists."""
    return f"{number:06d}.json"


def newest(files: Files) -> int:
    """Return the number of the newest list in `files`, the folder of lists; 0 if there is none."""
    number = 0
    while files.exists(list_path(number + 1)):
        number += 1
    return number
