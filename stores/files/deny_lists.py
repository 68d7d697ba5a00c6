"""Names of the deny lists that lie next to the stores of a run: `forgotten/000001.json` and on, without gaps.

`stores/tombstones.py` reads and writes the lists. Here they are only counted: each new list makes a disk cache of an
earlier time invalid (`files/remote.py`).
"""

from __future__ import annotations

from stores.files.protocol import Files

FOLDER = "forgotten"


def list_path(number: int) -> str:
    """Path of a list in the folder of lists."""
    return f"{number:06d}.json"


def newest(files: Files) -> int:
    """Return the number of the newest list in `files`, the folder of lists; 0 where there is none."""
    number = 0
    while files.exists(list_path(number + 1)):
        number += 1
    return number
