"""Files and lines that are broken on purpose, so that every run shows what happens to such records.

Each starts as a good scene and is spoilt in one way. Ingest must send each to quarantine; `tests/pipelines` holds the
reason for every one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from manifests.records import Json, canonical_json
from pipelines.scenes.categories.clips import clip
from pipelines.scenes.categories.scene_captions import caption
from pipelines.scenes.elements.draw import File
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Dice

Files = dict[str, bytes]
"""File name -> content, beside the annotations."""


@dataclass(frozen=True)
class Damage:
    format: str
    """Of the medium that is spoilt."""
    spoil: Callable[[dict[str, Json], Files], tuple[bytes, Files]]
    """(annotation, files) -> (line as written, files as written)"""


def good_scene(dice: Dice, ordinal: int) -> Scene:
    """What is spoilt: a clip, or a captioned picture in the wanted format."""
    wanted = kind(ordinal)[1].format
    while True:
        scene = clip(dice) if wanted == "mp4" else caption(dice)
        if next(part for part in scene.parts if isinstance(part, File)).format == wanted:
            return scene


def kind(ordinal: int) -> tuple[str, Damage]:
    """Kinds take turns."""
    return tuple(DAMAGES.items())[ordinal % len(DAMAGES)]


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[dict[str, Json], Files], tuple[bytes, Files]]:
    """Change the medium, not the line."""
    return lambda line, files: (_written(line), {name: change(content) for name, content in files.items()})


def _line(change: Callable[[dict[str, Json]], bytes]) -> Callable[[dict[str, Json], Files], tuple[bytes, Files]]:
    """Change the line, not the medium."""
    return lambda line, files: (change(line), files)


def _written(line: dict[str, Json]) -> bytes:
    return canonical_json(line).encode()


def _cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 5]


def _garbled_frames(content: bytes) -> bytes:
    """The container stays whole; what it holds in the middle of its pictures becomes noise."""
    start = content.index(b"mdat") + 4
    length = struct.unpack(">I", content[start - 8 : start - 4])[0] - 8
    middle, stop = start + length // 3, start + length
    noise = bytes((i * 197 + 89) % 256 for i in range(stop - middle))
    return content[:middle] + noise + content[stop:]


def _vast(content: bytes) -> bytes:
    """A PNG of a few dozen bytes whose header promises 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return content[:8] + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def _outside(line: dict[str, Json]) -> bytes:
    return _written(_with_media(line, file="../../../../../etc/hostname"))


def _wrong_size(line: dict[str, Json]) -> bytes:
    return _written(_with_media(line, width_px=9, height_px=9))


def _with_media(line: dict[str, Json], **changed: Json) -> dict[str, Json]:
    return line | {"parts": [part | changed if "file" in part else part for part in line["parts"]]}


def _fact_outside(line: dict[str, Json]) -> bytes:
    return _written(line | {"facts": [fact | {"stop": 10_000} for fact in line["facts"]]})


def _no_text(line: dict[str, Json]) -> bytes:
    return _written({key: value for key, value in line.items() if key != "parts"})


DAMAGES: dict[str, Damage] = {
    "truncated_jpeg": Damage("jpg", _bytes(_cut)),
    "truncated_png": Damage("png", _bytes(_cut)),
    "truncated_webp": Damage("webp", _bytes(_cut)),
    "truncated_clip": Damage("mp4", _bytes(_cut)),
    "garbled_clip": Damage("mp4", _bytes(_garbled_frames)),
    "text_named_png": Damage("png", _bytes(lambda content: b"This is not a picture.\n")),
    "no_bytes": Damage("jpg", _bytes(lambda content: b"")),
    "vast_png": Damage("png", _bytes(_vast)),
    "missing_file": Damage("webp", lambda line, files: (_written(line), {})),
    "path_outside": Damage("jpg", _line(_outside)),
    "wrong_size": Damage("jpg", _line(_wrong_size)),
    "fact_outside": Damage("jpg", _line(_fact_outside)),
    "no_parts": Damage("jpg", _line(_no_text)),
    "torn_line": Damage("jpg", _line(lambda line: _cut(_written(line)))),
    "not_utf8": Damage("jpg", _line(lambda line: _written(line).replace(b'"caption"', b'"\xff\xfe"'))),
}
