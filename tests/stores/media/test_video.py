"""Tests of video decoding: real clips against published frame tables, generated clips, damaged clips."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import RecordError
from manifests.geometry import choose_frames
from stores.media import image, video
from stores.media.sandbox import Sandbox

DECODERS = sorted(video.DECODERS)
REASONS = {
    "unknown_format",
    "no_video_stream",
    "unsupported_video",
    "broken_video",
    "truncated_video",
    "no_timestamps",
    "changing_size",
    "too_many_pixels",
    "no_such_frame",
}


@pytest.fixture(scope="module")
def child() -> Iterator[Sandbox]:
    with Sandbox(memory_bytes=1 << 30, cpu_s=20, wall_s=60.0) as started:
        yield started


def written(
    times_us: list[int],
    *,
    codec: str = "libx264",
    container: str = "mp4",
    size: tuple[int, int] = (64, 48),
    first_pts: int = 0,
    pictures: list[np.ndarray] | None = None,
    **options: str,
) -> bytes:
    """A clip whose frame n is shown at `times_us[n]` and shows `pictures[n]`, or by default the number n as bands."""
    out = io.BytesIO()
    width, height = size
    with av.open(out, "w", format=container) as sink:
        stream = sink.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        ticks = 25 if codec.startswith("mpeg") else 90_000  # MPEG supports constant rates only
        stream.codec_context.time_base = Fraction(1, ticks)
        stream.codec_context.thread_count = 1
        for number, time_us in enumerate(times_us):
            rgb = numbered(number, size) if pictures is None else pictures[number]
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.time_base = Fraction(1, ticks)
            frame.pts = first_pts + round(time_us * ticks / 1_000_000)
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode())
    return out.getvalue()


def numbered(number: int, size: tuple[int, int]) -> np.ndarray:
    """Eight vertical bands, black or white: the bits of `number`."""
    width, height = size
    bits = np.array([number >> bit & 1 for bit in range(8)], dtype=np.uint8) * 255
    return np.repeat(np.tile(np.repeat(bits, width // 8), (height, 1))[..., None], 3, axis=2)


def number_of(rgb: np.ndarray) -> int:
    """The number that the bands of a frame show, see `numbered`."""
    bands = np.array_split(rgb.astype(float).mean(axis=(0, 2)), 8)
    return sum((band.mean() > 127) << bit for bit, band in enumerate(bands))


def reason(payload: bytes, limits: video.VideoLimits = video.LIMITS) -> str:
    """Reason for which `check` refuses a clip."""
    with pytest.raises(RecordError) as caught:
        video.check(payload, limits)
    return caught.value.reason


@pytest.mark.parametrize(
    ("name", "stream"), [("nasa_13013.mp4", 3), ("nasa_13013_rotated.mp4", 0), ("test_non_zero_start.mp4", 0)]
)
def test_frame_times_equal_the_published_frame_tables(test_data: Path, name: str, stream: int) -> None:
    """The tables come from ffprobe; the first clip has several streams, the last starts at 8.33 s."""
    folder = test_data / "video_torchcodec"
    rows = json.loads((folder / f"{name}.stream{stream}.all_frames_info.json").read_text())
    shown_us = [Fraction(row["pts_time"]) * 1_000_000 for row in rows]
    times_us = video.frame_times_us((folder / name).read_bytes())
    assert len(times_us) == len(shown_us)
    assert all(abs(ours - (theirs - shown_us[0])) <= 1 for ours, theirs in zip(times_us, shown_us, strict=True))


CLIPS = {
    "video_mdn_cc0/cc0-videos/flower.mp4": ("mp4", 960, 540, 150),
    "video_mdn_cc0/cc0-videos/flower.webm": ("webm", 960, 540, 150),
    "video_mdn_cc0/cc0-videos/friday.mp4": ("mp4", 640, 480, 185),  # sound is the first stream
    "video_derived_vfr/flower_vfr_noaudio.mp4": ("mp4", 480, 270, 63),
    "video_datajuicer/video5.mp4": ("mp4", 362, 640, 284),
    "video_decord/examples/flipping_a_pancake.mkv": ("mkv", 426, 240, 310),
    "video_decord/tests/test_data/unordered.mov": ("mov", 50, 50, 4),
    "video_torchcodec/discard_first_keyframe.mp4": ("mp4", 64, 64, 25),  # its frame table lists 30
    "video_torchcodec/av1_video.mkv": ("mkv", 640, 360, 125),
    "video_torchcodec/bt2020_10bit.mp4": ("mp4", 320, 240, 60),
    "video_torchcodec/testsrc2_odd_height_and_width_vp9_10bit.mp4": ("mp4", 321, 241, 25),
    "video_torchcodec/testsrc2_mpeg4.avi": ("avi", 1280, 720, 30),
    "video_torchcodec/testsrc2_mpeg4.mp4": ("mp4", 64, 64, 1),
}


@pytest.mark.parametrize("name", CLIPS)
def test_frames_chosen_by_time_equal_those_of_a_full_decode(child: Sandbox, test_data: Path, name: str) -> None:
    """The child checks the clip, this process decodes it. Sparse frames skip work that a full decode does."""
    payload = (test_data / name).read_bytes()
    clip = video.VideoInfo(*child.call("stores.media.video:check", payload))
    assert (*clip[:3], len(clip.frame_times_us)) == CLIPS[name]
    assert clip.frame_times_us[0] == 0 and list(clip.frame_times_us) == sorted(set(clip.frame_times_us))
    chosen = choose_frames(clip.frame_times_us)
    sparse = video.frames_at(payload, [clip.frame_times_us[i] for i in chosen])
    dense = video.frames_at(payload, clip.frame_times_us)
    assert all(np.array_equal(dense[i], frame) for i, frame in zip(chosen, sparse, strict=True))
    assert sparse[0].shape == (clip.height_px, clip.width_px, 3) and sparse[0].dtype == np.uint8


@pytest.mark.parametrize("name", ["flower.mp4", "flower.webm"])
def test_both_decoders_give_equal_pixels(test_data: Path, name: str) -> None:
    payload = (test_data / "video_mdn_cc0/cc0-videos" / name).read_bytes()
    times_us = video.frame_times_us(payload)[::20][::-1]
    ours, theirs = (video.frames_at(payload, times_us, decoder=decoder) for decoder in ("av", "decord"))
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotated_clips_are_upright(test_data: Path, decoder: video.Decoder, degrees: int) -> None:
    """Four files with one scene, the camera rotated between them: upright, the portrait ones are narrow."""
    payload = (test_data / f"video_decord/tests/test_data/video_{degrees}.mov").read_bytes()
    clip = video.check(payload)
    (frame,) = video.frames_at(payload, clip.frame_times_us[:1], decoder=decoder)
    assert frame.shape == (clip.height_px, clip.width_px, 3)
    assert (clip.width_px, clip.height_px) == ((568, 320) if degrees in (0, 180) else (320, 568))
    if decoder == "decord":
        assert np.array_equal(frame, video.frames_at(payload, [0])[0])


@pytest.mark.parametrize("name", ["av1_video.mkv", "discard_first_keyframe.mp4"])
def test_decord_refuses_clips_that_it_would_decode_wrongly(test_data: Path, name: str) -> None:
    payload = (test_data / "video_torchcodec" / name).read_bytes()
    with pytest.raises(RecordError) as caught:
        video.frames_at(payload, [0], decoder="decord")
    assert caught.value.reason == "unsupported_video"


@given(data=st.data())
@settings(max_examples=25)
def test_any_frames_of_any_clip_are_found_by_time(data: st.DataObject) -> None:
    """Variable rate, shifted start, B frames and several groups of pictures; each frame shows its own number."""
    gaps_ms = data.draw(st.lists(st.integers(5, 400), min_size=0, max_size=60))
    times_us = [0, *(np.cumsum(gaps_ms) * 1000).tolist()]
    payload = written(
        times_us,
        container=data.draw(st.sampled_from(["mp4", "matroska"])),
        first_pts=data.draw(st.sampled_from([0, 0, 90_000, 123_456])),
        **{
            "bf": data.draw(st.sampled_from(["0", "2", "3"])),
            "b-pyramid": data.draw(st.sampled_from(["none", "normal"])),
            "g": data.draw(st.sampled_from(["1", "7", "250"])),
            "x264-params": f"open-gop={data.draw(st.integers(0, 1))}",
        },
    )
    assert video.frame_times_us(payload) == tuple(times_us)
    wanted = data.draw(st.lists(st.sampled_from(range(len(times_us))), max_size=12))
    frames = video.frames_at(payload, [times_us[i] for i in wanted])
    assert [number_of(frame) for frame in frames] == wanted
    try:
        theirs = video.frames_at(payload, [times_us[i] for i in wanted], decoder="decord")
        assert all(np.array_equal(a, b) for a, b in zip(frames, theirs, strict=True))
    except RecordError as error:
        assert error.reason == "unsupported_video", error


@pytest.mark.parametrize("codec", ["libx265", "libvpx-vp9", "mpeg4", "mpeg2video"])
def test_skipping_unneeded_frames_changes_no_pixel_in_other_codecs(codec: str) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(40)]
    options = {"bf": "2"} if codec.startswith("mpeg") else {"x265-params": "log-level=none"} if "265" in codec else {}
    times_us = [n * 40_000 for n in range(40)]
    payload = written(times_us, codec=codec, pictures=pictures, container="matroska", **options)
    dense = video.frames_at(payload, times_us)
    for stride in (2, 3, 11):
        sparse = video.frames_at(payload, times_us[::stride])
        assert all(np.array_equal(a, b) for a, b in zip(sparse, dense[::stride], strict=True))


def test_frames_resized_while_decoding_equal_those_resized_afterwards() -> None:
    payload = written([0, 40_000, 80_000])
    whole = video.frames_at(payload, [80_000, 0])
    small = video.frames_at(payload, [80_000, 0], each=lambda frame: image.resize(frame, 30, 20))
    assert all(np.array_equal(image.resize(a, 30, 20), b) for a, b in zip(whole, small, strict=True))


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_time_between_frames_is_refused(decoder: video.Decoder) -> None:
    with pytest.raises(RecordError) as caught:
        video.frames_at(written([0, 40_000, 80_000]), [40_000, 50_000], decoder=decoder)
    assert caught.value.reason == "no_such_frame"


def test_a_clip_with_one_broken_packet_is_refused(test_data: Path) -> None:
    assert reason((test_data / "video_decord/tests/test_data/corrupted.mp4").read_bytes()) == "broken_video"


@pytest.mark.parametrize("seed", range(3))
def test_damage_that_a_decoder_would_conceal_is_refused(test_data: Path, seed: int) -> None:
    """FFmpeg conceals errors of HEVC silently unless its error detection is on."""
    payload = bytearray((test_data / "video_torchcodec/testsrc2_h265.mp4").read_bytes())
    places = np.random.default_rng(seed).integers(len(payload) // 4, len(payload) * 3 // 4, 30)
    for place in places:
        payload[place] ^= 0x55
    assert reason(bytes(payload)) == "broken_video"


def test_a_clip_with_a_concealed_frame_is_refused(test_data: Path) -> None:
    payload = bytearray((test_data / "video_mdn_cc0/cc0-videos/flower.mp4").read_bytes())
    hole = len(payload) // 2
    payload[hole : hole + 2000] = bytes(2000)
    assert reason(bytes(payload)) == "broken_video"


def test_a_clip_with_a_truncated_last_frame_is_refused() -> None:
    pictures = [np.random.default_rng(n).integers(0, 256, (48, 64, 3), dtype=np.uint8) for n in range(25)]
    payload = written([n * 40_000 for n in range(25)], container="avi", codec="mpeg4", pictures=pictures)
    last = payload.rindex(b"00dc", 0, payload.rindex(b"idx1"))
    assert reason(payload[: last + 100]) == "truncated_video"


def test_a_frame_with_the_time_of_the_previous_one_is_left_out() -> None:
    """Matroska stores milliseconds: the first two frames have the same time."""
    payload = written([0, 300, 40_000, 80_000], container="matroska", bf="0")
    assert video.frame_times_us(payload) == (0, 40_000, 80_000)
    assert [number_of(frame) for frame in video.frames_at(payload, (0, 40_000, 80_000))] == [0, 2, 3]


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
@given(kept=st.floats(0, 1))
@settings(max_examples=30)
def test_a_clip_cut_anywhere_is_refused_or_has_all_frames(container: str, kept: float) -> None:
    """An AVI may lose the index at its end, which decoding does not need."""
    options = {"movflags": "faststart"} if container == "mp4" else {}
    codec = "mpeg4" if container == "avi" else "libx264"
    payload = written([n * 40_000 for n in range(25)], container=container, codec=codec, **options)
    whole = video.check(payload)
    assert whole.format == {"matroska": "mkv"}.get(container, container)
    try:
        assert video.check(payload[: int(len(payload) * kept)]) == whole
    except RecordError as error:
        assert error.reason in REASONS, error


@given(flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1))
@settings(max_examples=150)
def test_flipped_bytes_decode_or_are_refused_with_a_reason(child: Sandbox, flips: list[tuple[float, int]]) -> None:
    payload = bytearray(FLIPPED)
    for position, mask in flips:
        payload[int(len(payload) * position)] ^= mask
    try:
        times_us = video.VideoInfo(*child.call("stores.media.video:check", bytes(payload))).frame_times_us
        child.call("stores.media.video:frames_at", bytes(payload), times_us[:3])
    except RecordError as error:  # a table of millions of entries exceeds the child's memory limit
        assert error.reason in {*REASONS, "decoder_out_of_memory"}, error


FLIPPED = written([n * 40_000 for n in range(10)], size=(32, 32))


def test_limits_are_exact() -> None:
    payload = written([n * 40_000 for n in range(10)])
    exact = video.VideoLimits(max_bytes=len(payload), max_frames=10, max_pixels=10 * 64 * 48, max_frame_pixels=64 * 48)
    assert len(video.check(payload, exact).frame_times_us) == 10
    assert reason(payload, video.VideoLimits(max_bytes=len(payload) - 1)) == "too_many_bytes"
    assert reason(payload, video.VideoLimits(max_frames=9)) == "too_many_frames"
    assert reason(payload, video.VideoLimits(max_pixels=10 * 64 * 48 - 1)) == "too_many_pixels"
    assert reason(payload, video.VideoLimits(max_frame_pixels=64 * 48 - 1)) == "too_many_pixels"


def test_a_playlist_that_looks_like_a_clip_opens_no_other_file(tmp_path: Path) -> None:
    clip = tmp_path / "secret.mp4"
    clip.write_bytes(written([0, 40_000]))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{clip}\n#EXT-X-ENDLIST\n".encode()
    assert reason(playlist) == "unknown_format"
    assert reason(b"\0\0\0\x18ftypisom" + playlist) == "broken_video"


def test_audio_files_and_still_pictures_are_no_video(test_data: Path) -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as sink:
        stream = sink.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 8000, 0
        sink.mux([*stream.encode(sound), *stream.encode()])
    assert reason(out.getvalue()) == "no_video_stream"
    for name in ("animated.heic", "gradient.avif", "animated.gif", "nasa_13013.mp4.audio.mp3"):
        assert reason((test_data / "video_torchcodec" / name).read_bytes()) == "unknown_format"
