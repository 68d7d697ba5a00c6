"""Encoded video: true times of all frames that decode, and the pixels of frames by timestamp.

Ingest calls `check` on the bytes of a file and stores the time of every frame in `records.Media`;
`geometry.choose_frames` picks some, and packing decodes their pixels. Frames are addressed by time, never by number,
because containers declare wrong counts and rates.

`frames_at` has two decoders. PyAV is the default: it is faster (benchmarks/video_decode.py), and it reads AV1 and
shortened first groups of pictures, where decord 0.6 fails or shifts frames. Both give the same frames. Pixels are equal
to the bit for 8-bit 4:2:0 of even size; for other formats the two interpolate color differently.

Rules:
    stream      the one FFmpeg calls best (largest), cover images excluded; sound and other streams are ignored
    time        presentation time minus that of the first frame shown; a frame not later than the previous one is
    dropped upright     rotated as the file declares, to the nearest quarter turn; pixels are taken as square
    color       8-bit RGB by the matrix and range that the file declares; high dynamic range is not tone-mapped
    damage      a clip is whole or refused. The first decoding error, a concealed frame, or fewer frames than the
                container's table lists refuses all of it: its text may describe the missing part, and the place
                where a decoder stops is not a property of the video

Bytes, packets, frames and pixels are limited, not seconds. FFmpeg is native code: run `check` on untrusted bytes
through `stores.media.sandbox`. Only the containers named here are opened, and no other file or host is read.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import av
import av.container
import av.logging
import numpy as np
from av.stream import Disposition

from manifests.errors import RecordError
from manifests.extras import require

av.logging.set_level(av.logging.PANIC)  # errors arrive as exceptions

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
"""Brands of still images in an MP4 container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLimits:
    """Limits on one video."""

    max_bytes: int = 2**30
    max_frame_pixels: int = 8192 * 4352
    """Pixels of one frame: 8k."""
    max_frames: int = 250_000
    """Frames of one video: more than an hour at 60 per second."""
    max_pixels: int = 250_000_000_000
    """Pixels of all frames together: about an hour of 1080p at 30 per second."""


LIMITS = VideoLimits()

Decoder = Literal["av", "decord"]
DEFAULT_DECODER: Decoder = "av"


class VideoInfo(NamedTuple):
    """Format, upright size and frame times of a video."""

    format: str
    width_px: int
    height_px: int
    frame_times_us: tuple[int, ...]
    """Time of every frame in microseconds, ascending from 0."""
    container_fps: float | None
    """Average frame rate that the container declares; None if it declares none. The true rate may differ."""


def container(payload: bytes) -> str | None:
    """Detect mp4, mov, webm, mkv or avi by the first bytes; None for anything else."""
    if payload[4:8] == b"ftyp":
        if payload[8:12] in _HEIF_BRANDS:
            return None
        return "mov" if payload[8:12] == b"qt  " else "mp4"
    if payload[4:8] in (b"moov", b"mdat", b"wide"):  # QuickTime older than `ftyp`
        return "mov"
    if payload[:4] == b"\x1aE\xdf\xa3":
        return "webm" if b"webm" in payload[:64] else "mkv"
    if payload[:4] == b"RIFF" and payload[8:12] == b"AVI ":
        return "avi"
    return None


def check(payload: bytes, limits: VideoLimits = LIMITS) -> VideoInfo:
    """Decode every frame of an untrusted video; return its format, size and frame times.

    Raises:
        RecordError: `unknown_format`, `no_video_stream`, `unsupported_video`, `broken_video`, `truncated_video`,
            `no_timestamps`, `changing_size`, `too_many_bytes`, `too_many_frames` or `too_many_pixels`.
    """
    times_us: list[int] = []
    shape: tuple[int, int] | None = None
    with _opened(payload, limits) as (source, stream):
        declared_fps = stream.average_rate
        for time_us, frame in _decoded(source, stream, limits):
            upright = (frame.height, frame.width) if _quarter_turns(frame) % 2 else (frame.width, frame.height)
            if shape is not None and upright != shape:
                raise RecordError("changing_size", f"{shape} px, then {upright} px at {time_us} us")
            shape = upright
            times_us.append(time_us)
    if shape is None:
        raise RecordError("broken_video", "no frame decodes")
    fps = float(declared_fps) if declared_fps is not None and declared_fps > 0 else None
    return VideoInfo(str(container(payload)), *shape, tuple(times_us), fps)


def frame_times_us(payload: bytes, limits: VideoLimits = LIMITS) -> tuple[int, ...]:
    """Return the time of every frame that decodes, in microseconds from 0. Raises RecordError as `check` does."""
    return check(payload, limits).frame_times_us


def frames_at(
    payload: bytes,
    times_us: Sequence[int],
    *,
    each: Callable[[np.ndarray], np.ndarray] = lambda frame: frame,
    decoder: Decoder = DEFAULT_DECODER,
    limits: VideoLimits = LIMITS,
) -> list[np.ndarray]:
    """Decode frames by time, in the order of `times_us`: each (H, W, 3) uint8, upright.

    Args:
        times_us: times out of `frame_times_us`, in any order.
        each: applied to a frame as soon as it is decoded. Resizing here keeps a long clip out of memory at full size.
    Raises:
        RecordError: as `check`; `no_such_frame` for a time at which no frame is shown; `unsupported_video` if
            decord can't read the file.
    """
    frames: dict[int, np.ndarray] = {}
    for time_us, frame in DECODERS[decoder](payload, frozenset(times_us), limits):
        frames[time_us] = each(frame)
    for time_us in times_us:
        if time_us not in frames:
            raise RecordError("no_such_frame", f"no frame is shown at {time_us} us")
    return [frames[time_us] for time_us in times_us]


def _av_frames(payload: bytes, wanted: frozenset[int], limits: VideoLimits) -> Iterator[tuple[int, np.ndarray]]:
    with _opened(payload, limits) as (source, stream):
        for time_us, frame in _decoded(source, stream, limits, wanted):
            if time_us in wanted:
                rgb = frame.to_ndarray(format="rgb24")
                yield time_us, np.ascontiguousarray(np.rot90(rgb, _quarter_turns(frame)))


def _decord_frames(payload: bytes, wanted: frozenset[int], limits: VideoLimits) -> Iterator[tuple[int, np.ndarray]]:
    """Decode with decord, which turns frames upright itself. Its times are float32 seconds, hence the tolerance."""
    require("decord", "the decoder decord")
    import decord

    if len(payload) > limits.max_bytes:
        raise _too_many("bytes", len(payload), limits.max_bytes)
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(io.BytesIO(payload), num_threads=1)
        shown_us = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64)[:, 0] * 1e6
        if abs(shown_us[0]) > 0.5:
            raise RecordError("unsupported_video", "decord does not count time from the first frame shown")
        for time_us in sorted(wanted):
            ordinal = int(np.abs(shown_us - time_us).argmin())
            if abs(shown_us[ordinal] - time_us) <= 1.0 + time_us * 2.0**-23:
                yield time_us, reader[ordinal].asnumpy()
    except decord.DECORDError as error:
        raise RecordError("unsupported_video", str(error).partition("\n")[0]) from None


DECODERS: dict[Decoder, Callable[[bytes, frozenset[int], VideoLimits], Iterator[tuple[int, np.ndarray]]]] = {
    "av": _av_frames,
    "decord": _decord_frames,
}
"""Decoder name -> generator of (time_us, upright RGB) for the wanted times, ascending."""


def _decoded(
    source: av.container.InputContainer,
    stream: av.VideoStream,
    limits: VideoLimits,
    wanted: frozenset[int] | None = None,
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (time_us, frame) of all frames in order; with `wanted` at least of those, up to the last of them.

    Frames that no other frame refers to are not decoded unless they are wanted. That changes no pixel of the others
    and saves up to half the work.
    """
    assert stream.time_base is not None
    tick_us = stream.time_base * 1_000_000
    context = stream.codec_context
    first_pts: int | None = None
    previous_us = -1
    packets = frames = pixels = 0
    for packet in source.demux(stream):
        if packet.is_corrupt:
            raise RecordError("truncated_video", f"packet {packets} is cut off")
        packets += packet.size > 0
        if packets > limits.max_frames:
            raise _too_many("frames", packets, limits.max_frames)
        if wanted is not None and first_pts is not None and packet.pts is not None:
            needed = round((packet.pts - first_pts) * tick_us) in wanted
            context.skip_frame = "DEFAULT" if needed else "NONREF"
        for frame in packet.decode():
            frames += 1
            pixels += frame.width * frame.height
            if frame.is_corrupt:
                raise RecordError("broken_video", f"frame {frames - 1} was concealed")
            if frames > limits.max_frames:
                raise _too_many("frames", frames, limits.max_frames)
            if pixels > limits.max_pixels:
                raise _too_many("pixels", pixels, limits.max_pixels)
            if frame.pts is None:
                raise RecordError("no_timestamps", f"frame {frames - 1} has no presentation time")
            first_pts = frame.pts if first_pts is None else first_pts
            time_us = round((frame.pts - first_pts) * tick_us)
            if time_us > previous_us:
                previous_us = time_us
                yield time_us, frame
        if wanted is not None and previous_us >= max(wanted, default=0):
            return
    if packets < stream.frames:
        raise RecordError("truncated_video", f"{packets} frames of the {stream.frames} its table lists")


@contextmanager
def _opened(payload: bytes, limits: VideoLimits) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open the container and its best video stream; FFmpeg's errors inside the block become a RecordError."""
    if len(payload) > limits.max_bytes:
        raise _too_many("bytes", len(payload), limits.max_bytes)
    kind = container(payload)
    if kind is None:
        raise RecordError("unknown_format", "not a video in any accepted container")
    if kind in ("webm", "mkv") and _matroska_end(payload) > len(payload):
        raise RecordError("truncated_video", f"{len(payload):,} bytes of {_matroska_end(payload):,}")
    demuxer = {"mp4": "mov", "webm": "matroska", "mkv": "matroska"}.get(kind, kind)
    try:
        # The demuxer is fixed, so that bytes that look like a playlist never open other files or hosts.
        with av.open(
            io.BytesIO(payload),
            format=demuxer,
            container_options={"protocol_whitelist": "none"},
            metadata_errors="replace",  # titles are in any encoding
        ) as source:
            assert isinstance(source, av.container.InputContainer)
            stream = source.streams.best("video")
            if not isinstance(stream, av.VideoStream) or stream.disposition & Disposition.attached_pic:
                raise RecordError("no_video_stream", "the file has no video stream")
            context = stream.codec_context
            if context is None:
                raise RecordError("unsupported_video", "unknown codec")
            if context.width * context.height > limits.max_frame_pixels:
                raise _too_many("pixels per frame", context.width * context.height, limits.max_frame_pixels)
            context.thread_type, context.thread_count = "NONE", 1
            # Errors are raised instead of concealed, and sizes that only the stream itself declares are limited too.
            context.options = {"err_detect": "explode", "max_pixels": str(limits.max_frame_pixels)}
            yield source, stream
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise RecordError("broken_video", f"{type(error).__name__}: {error.strerror}") from None


def _matroska_end(payload: bytes) -> int:
    """Return the size that the file declares for itself; 0 if it declares none, as live recordings do."""

    def number(at: int) -> tuple[int, int, bool]:
        """Read an EBML variable-size integer: value, offset behind it, whether it means `unknown`."""
        length = 9 - payload[at].bit_length()
        mask = (1 << 7 * length) - 1
        value = int.from_bytes(payload[at : at + length], "big") & mask
        return value, at + length, value == mask

    try:
        header_size, at, _ = number(4)
        segment_size, start, unknown = number(at + header_size + 4)
    except IndexError:
        return len(payload) + 1
    return 0 if unknown else start + segment_size


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Return the rotation in counter-clockwise quarter turns, as numpy.rot90 takes them."""
    return round(frame.rotation / 90) % 4


def _too_many(unit: str, count: int, limit: int) -> RecordError:
    return RecordError("too_many_" + unit.partition(" ")[0], f"{count:,} {unit}, at most {limit:,} are decoded")
