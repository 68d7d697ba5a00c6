"""A file of the folder to a `Media`: what its bytes are, whether all of it decodes, how large it is upright.

The decoders are native code and the files come from strangers, so every one of them is opened in the limited child
process of `stores/media/sandbox.py`; a crash there costs one record.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

from manifests.errors import RecordError
from manifests.records import Media
from pipelines.ingest.suffixes import READERS
from pipelines.ingest.walk import File, read
from stores.media import image as images
from stores.media import video as videos
from stores.media.sandbox import LimitedChild

MOST_PDF_BYTES = 512 << 20
MOST_PDF_CPU_S = 30
"""Of one page; most take 0.1 s."""


@cache
def child() -> LimitedChild:
    """One warm child for this worker's life; it dies with the worker."""
    return LimitedChild()


@cache
def _pdf_child() -> LimitedChild:
    """Of its own, since a page must not take as long as a video may."""
    return LimitedChild(memory_bytes=2 << 30, cpu_s=MOST_PDF_CPU_S)


def load(base: Path, file: File) -> Media:
    """Read, decode and describe one medium. Raises RecordError with the decoder's reason."""
    if READERS.get(file.suffix) == "video":
        return video(read(base, file, videos.LIMITS.max_bytes))
    return image(read(base, file, images.LIMITS.max_bytes))


def image(payload: bytes) -> Media:
    """Raises RecordError: the reasons of `stores.media.image.check`."""
    format, width_px, height_px = child().call("stores.media.image:check", payload)
    return Media(sha256(payload).hexdigest(), "image", format, width_px, height_px, payload=payload)


def video(payload: bytes) -> Media:
    """Raises RecordError: the reasons of `stores.media.video.check`."""
    format, width_px, height_px, times_us, fps = child().call("stores.media.video:check", payload)
    digest = sha256(payload).hexdigest()
    return Media(digest, "video", format, width_px, height_px, tuple(times_us), fps, payload=payload)


def look_at_pdf(path: str, size: int) -> tuple[int, str]:
    """(number of pages, title). Raises RecordError: too_large, and those of `pdf.look`."""
    if size > MOST_PDF_BYTES:
        raise RecordError("too_large", f"{size} bytes, the limit is {MOST_PDF_BYTES}")
    pages, title = _pdf_child().call("pipelines.ingest.formats.pdf_child:look", path)
    return pages, title


def pdf_page(path: str, number: int, dpi: int) -> tuple[Media, str]:
    """A page, counted from 0, as a picture and its text layer. Raises RecordError: those of `pdf.page`."""
    png, width_px, height_px, words = _pdf_child().call("pipelines.ingest.formats.pdf_child:page", path, number, dpi)
    return Media(sha256(png).hexdigest(), "image", "png", width_px, height_px, payload=png), words
