"""Which decoder is the fastest for `stores.media.video.frames_at`?

    MILLRACE_TEST_DATA=FOLDER python -m benchmarks.video_decode [--quick]

Extracts the frames that the released rule selects (2 per second) from real and generated clips, with our default, with
decord and with a plain PyAV loop that decodes everything, and compares CPU time. Then compares the frames and pixels of
both decoders on every clip of the test data, damaged and unusual ones included.
"""

from __future__ import annotations

import argparse
import functools
import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from benchmarks.measure import Result, paired, save, test_data
from manifests.errors import RecordError
from manifests.geometry import choose_frames
from stores.media import video

REAL = (
    "video_datajuicer/video1.mp4",
    "video_datajuicer/video4.mp4",
    "video_datajuicer/video5.mp4",
    "video_datajuicer/video11.mp4",
    "video_decord/examples/flipping_a_pancake.mkv",
    "video_derived_vfr/flower_vfr_noaudio.mp4",
    "video_mdn_cc0/cc0-videos/flower.mp4",
    "video_mdn_cc0/cc0-videos/flower.webm",
    "video_mdn_cc0/cc0-videos/friday.mp4",
    "video_torchcodec/nasa_13013.mp4",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smoke test: one repetition, no generated clips or result")
    quick = parser.parse_args().quick
    folder = test_data()
    clips = {Path(name).name: (folder / name).read_bytes() for name in REAL}
    if not quick:
        clips |= {f"written_{height}p.mp4": drawn(width, height) for width, height in ((1280, 720), (1920, 1080))}

    seconds = dict.fromkeys(("ours", "decord", "PyAV, all frames"), 0.0)
    clip_s = 0.0
    rows = {}
    print(f"{'clip s per CPU s':32}" + "".join(f"{name:>18}" for name in seconds))
    for name, payload in clips.items():
        times_us = video.frame_times_us(payload)
        wanted = [times_us[i] for i in choose_frames(times_us)]
        tasks: dict[str, Callable[[], object]] = {
            "ours": functools.partial(video.frames_at, payload, wanted),
            "decord": functools.partial(video.frames_at, payload, wanted, decoder="decord"),
            "PyAV, all frames": functools.partial(plain, payload, list(choose_frames(times_us))),
        }
        took = paired(tasks, 1 if quick else 5)
        length_s = times_us[-1] / 1e6
        clip_s += length_s
        for task, cost in took.items():
            seconds[task] += cost
        rows[name] = {task: round(length_s / cost, 1) for task, cost in took.items()}
        print(f"{name:32}" + "".join(f"{rows[name][task]:>18}" for task in seconds))
    speed = {task: round(clip_s / cost, 2) for task, cost in seconds.items()}
    print(f"{'all':32}" + "".join(f"{speed[task]:>18}" for task in seconds))

    same = agreement(folder)
    for outcome, names in same.items():
        print(f"{len(names):3} clips: {outcome}")
    result = Result(
        question="Frames at 2 per second, our default over the faster of decord and plain PyAV:",
        unit="seconds of video per CPU second",
        ours=speed.pop("ours"),
        peers=speed,
        bar=1.0,
        libraries=("av", "decord", "numpy"),
        details={"clips": rows, "agreement of both decoders": same, "library versions": av.library_versions},
    )
    if not quick:
        save("video_decode", result)


def plain(payload: bytes, ordinals: list[int]) -> list[np.ndarray]:
    """The obvious way: decode all frames in order and keep the wanted ones."""
    with av.open(io.BytesIO(payload)) as source:
        stream = source.streams.best("video")
        assert isinstance(stream, av.VideoStream)
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        wanted = set(ordinals)
        frames = enumerate(source.decode(stream))
        return [frame.to_ndarray(format="rgb24") for number, frame in frames if number in wanted]


def drawn(width: int, height: int, count: int = 300) -> bytes:
    """Ten seconds of moving waves and noise as an H.264 clip."""
    rng = np.random.default_rng(0)
    grain = rng.integers(0, 24, (height, width, 3), dtype=np.uint8)
    ramp = np.add.outer(np.arange(height), np.arange(width))
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as sink:
        stream = sink.add_stream("libx264", rate=30, options={"preset": "veryfast", "bf": "3"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(count):
            waves = 110 + 100 * np.sin(ramp / 40 + number / 9)
            picture = waves.astype(np.uint8)[..., None] + np.roll(grain, number * 3, axis=1)
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        sink.mux(stream.encode())
    return out.getvalue()


def agreement(folder: Path) -> dict[str, list[str]]:
    """Clips of the test data, grouped by how the chosen frames of both decoders compare."""
    outcomes: dict[str, list[str]] = {}
    for file in sorted(folder.glob("video_*/**/*")):
        payload = file.read_bytes() if file.is_file() else b""
        if video.container(payload) is None:
            continue
        try:
            times_us = video.frame_times_us(payload)
        except RecordError as error:
            outcomes.setdefault(f"refused: {error.reason}", []).append(file.name)
            continue
        wanted = [times_us[i] for i in choose_frames(times_us)]
        ours = video.frames_at(payload, wanted)
        try:
            theirs = video.frames_at(payload, wanted, decoder="decord")
        except RecordError as error:
            outcomes.setdefault(f"ours only, decord: {error.reason}", []).append(file.name)
            continue
        if all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)):
            outcome = "equal pixels"
        elif all(nearest(payload, times_us, frame) == time for time, frame in zip(wanted[:3], theirs[:3], strict=True)):
            outcome = "same frames, color interpolated differently"
        else:
            outcome = "DIFFERENT FRAMES"
        outcomes.setdefault(outcome, []).append(file.name)
    return outcomes


def nearest(payload: bytes, times_us: tuple[int, ...], frame: np.ndarray) -> int:
    """Time, in us, of the frame most similar to `frame` among our first 60."""
    candidates = video.frames_at(payload, times_us[:60])
    distances = [float(np.abs(candidate.astype(np.int16) - frame).mean()) for candidate in candidates]
    return times_us[int(np.argmin(distances))]


if __name__ == "__main__":
    main()
