"""Clips decode, frames have their times, and every event is first visible in its annotated frame."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pipelines.scenes.write import render_scene
from stores.media.video import check, frames_at
from tests.pipelines.scenes.rendered import RenderedScene, first_scenes, is_near, mean_color, rendered

COUNT = 25


def payload(scene: RenderedScene) -> bytes:
    (content,) = scene.files.values()
    return content


@pytest.fixture(scope="module")
def clips() -> list[tuple[RenderedScene, list[np.ndarray]]]:
    """Clips with all their decoded frames, (H, W, 3) int16."""
    decoded = []
    for scene in first_scenes("clip", COUNT):
        times = check(payload(scene)).frame_times_us
        decoded.append((scene, [frame.astype(np.int16) for frame in frames_at(payload(scene), times)]))
    return decoded


def test_a_clip_has_the_frames_times_and_size_of_its_annotations() -> None:
    for scene in first_scenes("clip", COUNT):
        clip = check(payload(scene))
        rate = Fraction(scene.notes["frames_per_second"])
        (part,) = [part for part in scene.line["parts"] if "file" in part]
        assert (clip.width_px, clip.height_px) == (part["width_px"], part["height_px"])
        assert len(clip.frame_times_us) == scene.notes["frames"]
        for frame, time_us in enumerate(clip.frame_times_us):
            assert abs(time_us - frame * 1_000_000 / rate) <= 1
        for event in scene.notes["events"]:
            assert abs(clip.frame_times_us[event["frame"]] - event["time_us"]) <= 1
        assert 1.5 <= clip.frame_times_us[-1] / 1e6 <= 4


def test_every_thing_is_at_its_annotated_center_in_every_frame(
    clips: list[tuple[RenderedScene, list[np.ndarray]]],
) -> None:
    for scene, frames in clips:
        for i, actor in enumerate(scene.notes["actors"]):
            turns = next((e for e in scene.notes["events"] if e["actor"] == i and e["kind"] == "turns"), None)
            for number, (frame, center) in enumerate(zip(frames, actor["centers"], strict=True)):
                rgb = turns["rgb"] if turns and number >= turns["frame"] else actor["rgb"]
                if center is not None:
                    assert is_near(mean_color(frame, center), rgb, 60), (scene.line["scene"], i, number)


def test_an_event_is_first_visible_in_its_frame(clips: list[tuple[RenderedScene, list[np.ndarray]]]) -> None:
    kinds = set()
    for scene, frames in clips:
        for event in scene.notes["events"]:
            kinds.add(event["kind"])
            actor, at = scene.notes["actors"][event["actor"]], event["frame"]
            before, after = actor["centers"][at - 1], actor["centers"][at]
            match event["kind"]:
                case "appears":
                    assert not is_near(mean_color(frames[at - 1], after), actor["rgb"], 50)
                    assert is_near(mean_color(frames[at], after), actor["rgb"], 60)
                case "disappears":
                    assert is_near(mean_color(frames[at - 1], before), actor["rgb"], 60)
                    assert not is_near(mean_color(frames[at], before), actor["rgb"], 50)
                case "turns":
                    assert is_near(mean_color(frames[at - 1], before), actor["rgb"], 60)
                    assert is_near(mean_color(frames[at], after), event["rgb"], 60)
                case "starts":
                    assert len({tuple(center) for center in actor["centers"][:at]}) == 1 and after != before
                case "stops":
                    assert len({tuple(center) for center in actor["centers"][at - 1 :]}) == 1
                    assert actor["centers"][at - 2] != before
    assert kinds == {"appears", "disappears", "turns", "starts", "stops"}


def test_times_in_the_text_are_those_of_the_events() -> None:
    for scene in first_scenes("clip", COUNT):
        times = sorted(event["time_us"] / 1e6 for event in scene.notes["events"] if event["kind"] != "turns")
        times_in_text = sorted(map(float, scene.facts("time")))
        if "questions" not in scene.notes:
            times = sorted(event["time_us"] / 1e6 for event in scene.notes["events"])
        assert times_in_text == pytest.approx(times, abs=0.051)


def test_the_same_clip_gives_the_same_bytes_with_any_previous_content_of_memory() -> None:
    """The macroblock tree of x264 reads uninitialized memory; this test found it."""
    for ordinal in (0, 5, 6, 9):
        payloads = set()
        for i in range(5):
            junk = [np.full(3000 * i + 991 * j, i * j % 256, np.uint8) for j in range(40)]
            payloads.add(tuple(render_scene(3, "train", "clip", ordinal)[1].values()))
            del junk
        assert len(payloads) == 1


def test_things_in_a_clip_never_touch() -> None:
    for ordinal in range(COUNT):
        actors = rendered("train", "clip", ordinal).notes["actors"]
        for i, one in enumerate(actors):
            for other in actors[:i]:
                for a, b in zip(one["centers"], other["centers"], strict=True):
                    if a and b:
                        assert np.hypot(a[0] - b[0], a[1] - b[1]) > one["radius"] + other["radius"]
