"""Image and video files to `Media`: format, upright size, frame times, and whether every byte decodes.

The decoders are native code and the files come from strangers. Every file is therefore decoded in the sandbox of
`stores/media/sandbox.py`, where a crash costs one record.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

from manifests.records import Media
from pipelines.ingest.formats.file import FolderFile, read_file
from pipelines.ingest.formats.suffixes import MEDIA_KINDS
from stores.media import image, video
from stores.media.sandbox import Sandbox


@cache
def child() -> Sandbox:
    """The sandbox of this process for media and tables, kept for its life."""
    return Sandbox()


def load_media(base: Path, file: FolderFile) -> Media:
    """Read and decode one image or video. Raises RecordError: `too_large`, and the reasons of the decoder."""
    if MEDIA_KINDS.get(file.suffix) == "video":
        return make_video(read_file(base, file, video.LIMITS.max_bytes))
    return make_image(read_file(base, file, image.LIMITS.max_bytes))


def make_image(payload: bytes) -> Media:
    """Decode an image. Raises RecordError: the reasons of `stores.media.image.check`."""
    format, width_px, height_px = child().call("stores.media.image:check", payload)
    return Media(sha256(payload).hexdigest(), "image", format, width_px, height_px, payload=payload)


def make_video(payload: bytes) -> Media:
    """Decode a video. Raises RecordError: the reasons of `stores.media.video.check`."""
    format, width_px, height_px, times_us, fps = child().call("stores.media.video:check", payload)
    digest = sha256(payload).hexdigest()
    return Media(digest, "video", format, width_px, height_px, tuple(times_us), fps, payload=payload)
