"""Media files and annotation lines that are damaged on purpose, so that every run exercises quarantine.

Each record starts as an undamaged scene and is damaged in one way. Ingest must quarantine each of them;
`tests/pipelines/scenes/test_files.py` names the reason for each kind.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from manifests.records import Json, canonical_json
from pipelines.scenes.categories.clips import clip
from pipelines.scenes.categories.scene_captions import caption
from pipelines.scenes.elements.draw import EncodedMedia
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import SceneRng

SceneFiles = dict[str, bytes]
"""File name -> content of the media of one scene."""
Apply = Callable[[dict[str, Json], SceneFiles], tuple[bytes, SceneFiles]]
"""(annotation, undamaged files) -> (line to write, files to write)"""


@dataclass(frozen=True)
class SceneDamage:
    """One kind of damage."""

    format: str
    """Format of the medium that it needs."""
    apply: Apply


def undamaged_scene(rng: SceneRng, ordinal: int) -> Scene:
    """Draw the scene that is damaged next: a clip, or captions until one has a picture of the right format."""
    file_format = damage_at(ordinal)[1].format
    while True:
        scene = clip(rng) if file_format == "mp4" else caption(rng)
        if next(part for part in scene.parts if isinstance(part, EncodedMedia)).format == file_format:
            return scene


def damage_at(ordinal: int) -> tuple[str, SceneDamage]:
    """Return (name, kind of damage) of a record; the kinds repeat in the order of `DAMAGES`."""
    return tuple(DAMAGES.items())[ordinal % len(DAMAGES)]


def _change_media(change: Callable[[bytes], bytes]) -> Apply:
    """Damage the media and keep the line."""
    return lambda line, files: (_encoded(line), {name: change(content) for name, content in files.items()})


def _change_line(change: Callable[[dict[str, Json]], bytes]) -> Apply:
    """Damage the line and keep the media."""
    return lambda line, files: (change(line), files)


def _encoded(line: dict[str, Json]) -> bytes:
    return canonical_json(line).encode()


def _truncate(content: bytes) -> bytes:
    return content[: len(content) * 2 // 5]


def _garbled_frames(content: bytes) -> bytes:
    """Overwrite the last two thirds of the compressed frames with noise; the MP4 container stays valid."""
    start = content.index(b"mdat") + 4
    length = struct.unpack(">I", content[start - 8 : start - 4])[0] - 8
    middle, stop = start + length // 3, start + length
    noise = bytes((i * 197 + 89) % 256 for i in range(stop - middle))
    return content[:middle] + noise + content[stop:]


def _huge_png(content: bytes) -> bytes:
    """A PNG of a few dozen bytes whose header declares 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return content[:8] + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def _path_outside(line: dict[str, Json]) -> bytes:
    return _encoded(_with_media(line, file="../../../../../etc/hostname"))


def _wrong_size(line: dict[str, Json]) -> bytes:
    return _encoded(_with_media(line, width_px=9, height_px=9))


def _with_media(line: dict[str, Json], **changed: Json) -> dict[str, Json]:
    return line | {"parts": [part | changed if "file" in part else part for part in line["parts"]]}


def _fact_outside(line: dict[str, Json]) -> bytes:
    return _encoded(line | {"facts": [fact | {"stop": 10_000} for fact in line["facts"]]})


def _no_parts(line: dict[str, Json]) -> bytes:
    return _encoded({key: value for key, value in line.items() if key != "parts"})


DAMAGES: dict[str, SceneDamage] = {
    "truncated_jpeg": SceneDamage("jpg", _change_media(_truncate)),
    "truncated_png": SceneDamage("png", _change_media(_truncate)),
    "truncated_webp": SceneDamage("webp", _change_media(_truncate)),
    "truncated_clip": SceneDamage("mp4", _change_media(_truncate)),
    "garbled_clip": SceneDamage("mp4", _change_media(_garbled_frames)),
    "text_named_png": SceneDamage("png", _change_media(lambda content: b"This is not a picture.\n")),
    "no_bytes": SceneDamage("jpg", _change_media(lambda content: b"")),
    "vast_png": SceneDamage("png", _change_media(_huge_png)),
    "missing_file": SceneDamage("webp", lambda line, files: (_encoded(line), {})),
    "path_outside": SceneDamage("jpg", _change_line(_path_outside)),
    "wrong_size": SceneDamage("jpg", _change_line(_wrong_size)),
    "fact_outside": SceneDamage("jpg", _change_line(_fact_outside)),
    "no_parts": SceneDamage("jpg", _change_line(_no_parts)),
    "torn_line": SceneDamage("jpg", _change_line(lambda line: _truncate(_encoded(line)))),
    "not_utf8": SceneDamage("jpg", _change_line(lambda line: _encoded(line).replace(b'"caption"', b'"\xff\xfe"'))),
}
