"""Search for byte strings in all files below a folder, in tars, Parquet values and gzip content too."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def traces(folder: Path, needles: Iterable[bytes]) -> set[str]:
    """Names of the files, and members of tars, that contain one of `needles`."""
    wanted = list(needles)
    return {name for name, data in contents(folder) if any(needle in data for needle in wanted)}


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the files below `folder`, as they are and decoded."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        name, data = path.relative_to(folder).as_posix(), path.read_bytes()
        yield name, data
        if name.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for member in tar:
                    opened = tar.extractfile(member)
                    assert opened is not None
                    yield f"{name}/{member.name}", opened.read()
        elif name.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(data))
            yield f"{name} (values)", b"\n".join(_values(table.to_pylist()))
        elif name.endswith(".gz"):
            yield f"{name} (unpacked)", gzip.decompress(data)


def _values(value: Any) -> Iterator[bytes]:
    match value:
        case dict():
            yield from _values(list(value.values()))
        case list():
            for item in value:
                yield from _values(item)
        case bytes():
            yield value
        case None:
            pass
        case _:
            yield str(value).encode()
