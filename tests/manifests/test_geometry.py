"""Pixels to slots and seconds to chunks, compared with `transformers` and with the released rules in numpy."""

from __future__ import annotations

import ast
import importlib.util
import math
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from manifests.geometry import (
    MAX_SIDE_PATCHES,
    MERGE,
    PATCH_PX,
    RELEASED_LIMITS,
    MediaLimits,
    choose_frames,
    chunks,
    fit,
    frame_time_s,
    timestamp,
)

sides = st.one_of(st.integers(1, 200), st.integers(1, 9000), st.integers(1, 100_000))
limits = st.one_of(st.sampled_from([64, 4096, 16384]), st.integers(1, 20_000))


def of_transformers(file: str, function: str) -> Callable[..., Any]:
    """Compile one pure function of a module that can't be imported without torchvision."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        pytest.skip("needs transformers")
    tree = ast.parse((Path(spec.origin).parent / "models" / "kimi_k25" / file).read_text(encoding="utf-8"))
    (node,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
    names: dict[str, Any] = {"math": math}
    exec(compile(ast.Module([node], []), file, "exec"), names)
    return names[function]


@pytest.fixture(scope="module", params=["image_processing_kimi_k25.py", "video_processing_kimi_k25.py"])
def navit_resize(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return of_transformers(request.param, "navit_resize")


@given(width=sides, height=sides, max_patches=limits)
@settings(max_examples=2000)
def test_sizes_and_grids_equal_those_of_transformers(
    navit_resize: Callable[..., Any], width: int, height: int, max_patches: int
) -> None:
    (new_height, new_width), (padded_height, padded_width) = navit_resize(
        height, width, PATCH_PX, MERGE, max_patches, MAX_SIDE_PATCHES
    )
    fitted = fit(width, height, max_patches)
    assert (fitted.width_px, fitted.height_px) == (new_width, new_height)
    assert (fitted.rows * PATCH_PX, fitted.cols * PATCH_PX) == (padded_height, padded_width)


@given(width=sides, height=sides, max_patches=limits)
def test_a_fit_never_enlarges_and_pads_less_than_one_slot(width: int, height: int, max_patches: int) -> None:
    fitted = fit(width, height, max_patches)
    assert 1 <= fitted.width_px <= width and 1 <= fitted.height_px <= height
    assert 0 <= fitted.cols * PATCH_PX - fitted.width_px < PATCH_PX * MERGE
    assert 0 <= fitted.rows * PATCH_PX - fitted.height_px < PATCH_PX * MERGE
    assert fitted.rows % MERGE == fitted.cols % MERGE == 0
    assert fitted.slots * MERGE**2 == fitted.patches == fitted.rows * fitted.cols
    assert max(fitted.rows, fitted.cols) <= MAX_SIDE_PATCHES


@given(width=st.integers(14, 5000), height=st.integers(14, 5000), max_patches=st.integers(1, 20_000))
def test_the_limit_is_exceeded_only_by_partial_patches_and_padding(width: int, height: int, max_patches: int) -> None:
    """The rule divides by whole patches of the original; partial patches and padding come on top.

    The exception is a side that would be shorter than one pixel: it is one pixel long.
    """
    fitted = fit(width, height, max_patches)
    part_patches = width / (width // PATCH_PX) * height / (height // PATCH_PX)
    area = fitted.width_px * fitted.height_px
    assert area <= max_patches * part_patches * 1.000001 or area == max(fitted.width_px, fitted.height_px)
    assert fitted.patches < (fitted.width_px / PATCH_PX + MERGE) * (fitted.height_px / PATCH_PX + MERGE)


@given(width=st.integers(280, 9000), height=st.integers(280, 9000))
def test_the_aspect_ratio_is_kept_within_a_pixel(width: int, height: int) -> None:
    fitted = fit(width, height, RELEASED_LIMITS.max_image_patches)
    scale = max(fitted.width_px / width, fitted.height_px / height)
    assert abs(fitted.width_px - width * scale) <= 1 and abs(fitted.height_px - height * scale) <= 1


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_an_image_without_pixels_has_no_grid(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected at least 1 x 1 px"):
        fit(*size, 100)


@pytest.mark.parametrize(("side", "frames", "slots"), [(448, 2048, 131_072), (896, 128, 32_768)])
def test_videos_at_the_released_evaluation_settings_get_the_released_slots(side: int, frames: int, slots: int) -> None:
    """The released video scores were measured with 2,048 frames at 448 px and 128 frames at 896 px."""
    per_chunk = fit(side, side, RELEASED_LIMITS.max_frame_patches).slots
    assert per_chunk * len(chunks(tuple(range(frames)))) == slots


RATES = [Fraction(n) for n in (1, 2, 3, 5, 8, 10, 12, 15, 16, 20, 24, 25, 30, 48, 50, 60, 120)] + [
    Fraction(n, 1001) for n in (24_000, 30_000, 60_000)
]


def steady(count: int, rate: Fraction) -> tuple[int, ...]:
    return tuple(round(i * 1_000_000 / rate) for i in range(count))


@given(count=st.integers(1, 4000), rate=st.sampled_from(RATES), cap=st.none() | st.integers(1, 300))
@settings(max_examples=1000)
def test_frames_are_chosen_by_the_released_rule(count: int, rate: Fraction, cap: int | None) -> None:
    """Compared with the released numpy code, at a constant rate."""
    native = float(rate)
    wanted = max(round(count * min(2.0, native) / native), 1)
    wanted = wanted if cap is None else min(wanted, cap)
    released = np.round(np.linspace(0, count - 1, wanted)).astype(int)
    if count > 1:  # a single frame has no rate and is always chosen
        assert choose_frames(steady(count, rate), MediaLimits(max_video_frames=cap)) == tuple(released.tolist())


@given(
    gaps_us=st.lists(st.integers(1, 5_000_000), max_size=300),
    rate=st.sampled_from(RATES) | st.fractions(Fraction(1, 1000), 1_000_000),
    cap=st.none() | st.integers(1, 50),
)
@settings(max_examples=500)
def test_the_rate_of_the_container_decides_for_any_frame_times(
    gaps_us: list[int], rate: Fraction, cap: int | None
) -> None:
    """The released rule divides frame numbers by that rate, to choose frames and to give their times."""
    times_us, fps = (0, *np.cumsum(gaps_us).tolist()) if gaps_us else (0,), float(rate)
    wanted = max(round(len(times_us) * min(2.0, fps) / fps), 1)
    wanted = wanted if cap is None else min(wanted, cap)
    released = np.round(np.linspace(0, len(times_us) - 1, wanted)).astype(int).tolist()
    limits = MediaLimits(max_video_frames=cap)
    assert choose_frames(times_us, limits, fps) == tuple(released)
    assert [frame_time_s(frame, times_us, limits, fps) for frame in released] == [frame / fps for frame in released]


@given(gaps_us=st.lists(st.integers(1, 5_000_000), max_size=50), rate=st.sampled_from(RATES))
def test_by_time_ignores_the_rate_of_the_container(gaps_us: list[int], rate: Fraction) -> None:
    times_us, limits = (0, *np.cumsum(gaps_us).tolist()) if gaps_us else (0,), MediaLimits(frames="by_time")
    chosen = choose_frames(times_us, limits, float(rate))
    assert chosen == choose_frames(times_us, limits)
    assert [frame_time_s(i, times_us, limits, float(rate)) for i in chosen] == [times_us[i] / 1e6 for i in chosen]


@given(gaps_us=st.lists(st.integers(1, 5_000_000), max_size=300), cap=st.none() | st.integers(1, 50))
def test_frames_are_chosen_in_order_from_first_to_last(gaps_us: list[int], cap: int | None) -> None:
    times_us = (0, *np.cumsum(gaps_us).tolist()) if gaps_us else (0,)
    chosen = choose_frames(times_us, MediaLimits(max_video_frames=cap))
    assert list(chosen) == sorted(set(chosen)) and chosen[0] == 0
    assert len(chosen) <= min(len(times_us), cap or len(times_us))
    assert len(chosen) == 1 or chosen[-1] == len(times_us) - 1


@given(
    gaps_us=st.lists(st.integers(1, 5_000_000), max_size=200),
    fps=st.sampled_from([0.5, 1.0, 2.0, 3.0, 10.0]),
    cap=st.none() | st.integers(1, 20),
)
def test_by_time_chooses_the_frames_shown_at_regular_times(gaps_us: list[int], fps: float, cap: int | None) -> None:
    times_us = (0, *np.cumsum(gaps_us).tolist()) if gaps_us else (0,)
    chosen = choose_frames(times_us, MediaLimits(frames="by_time", sample_fps=fps, max_video_frames=cap))
    times = [k * 1_000_000 / fps for k in range(int(times_us[-1] * fps / 1_000_000) + 1)]
    if cap is not None and len(times) > cap:
        times = np.linspace(0, times_us[-1], cap).tolist() if cap > 1 else [0]
    shown = [max(i for i, time_us in enumerate(times_us) if time_us <= round(time)) for time in times]
    assert chosen == tuple(sorted(set(shown)))


def test_by_time_and_by_number_differ_for_a_variable_rate() -> None:
    """Ten seconds at 30 frames per second, then ten seconds with five frames."""
    times_us = (*(i * 33_333 for i in range(300)), *(10_000_000 + i * 2_000_000 for i in range(5)))
    by_number = choose_frames(times_us)
    by_time = choose_frames(times_us, MediaLimits(frames="by_time"))
    assert sum(frame >= 300 for frame in by_number) == 1
    assert [frame for frame in by_time if frame >= 300] == [300, 301, 302, 303, 304] and len(by_time) == 25
    assert choose_frames(steady(300, Fraction(30)), MediaLimits(frames="by_time")) == tuple(range(0, 300, 15))


@given(count=st.integers(2, 500), rate=st.sampled_from(RATES), start_us=st.integers(0, 10**9))
def test_the_time_of_the_first_frame_changes_no_choice(count: int, rate: Fraction, start_us: int) -> None:
    times_us = steady(count, rate)
    assert choose_frames(times_us) == choose_frames(tuple(t + start_us for t in times_us))


@given(frames=st.lists(st.integers(), max_size=50).map(tuple))
def test_chunks_hold_every_frame_once_in_order(frames: tuple[int, ...]) -> None:
    groups = chunks(frames)
    assert sum(groups, ()) == frames
    assert all(len(chunk) == 4 for chunk in groups[:-1]) and all(1 <= len(chunk) <= 4 for chunk in groups)


@given(time_us=st.integers(0, 24 * 3600 * 10**6 - 1))
@settings(max_examples=1000)
def test_timestamps_equal_the_formula_of_transformers(time_us: int) -> None:
    seconds = time_us / 1e6
    theirs = time.strftime("%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}"
    assert timestamp(seconds) == theirs


@given(frame=st.integers(0, 100_000), rate=st.sampled_from(RATES))
def test_timestamps_from_whole_microseconds_lose_at_most_a_millisecond(frame: int, rate: Fraction) -> None:
    """Without a declared rate, times are whole microseconds."""
    exact = frame / float(rate)
    assume(exact < 24 * 3600)
    ours = timestamp(round(frame * 1_000_000 / rate) / 1e6)
    hours, minutes, seconds = ours.split(":")
    assert abs(int(hours) * 3600 + int(minutes) * 60 + float(seconds) - exact) < 0.0011


@pytest.mark.parametrize(
    ("time_us", "text"), [(0, "00:00:00.000"), (4_350_000, "00:00:04.349"), (90_061_001_000, "25:01:01.001")]
)
def test_timestamps_calculated_by_hand(time_us: int, text: str) -> None:
    assert timestamp(time_us / 1e6) == text


@pytest.mark.parametrize("limit", ["max_image_patches", "max_frame_patches", "max_video_frames", "sample_fps"])
def test_limits_of_zero_are_refused(limit: str) -> None:
    with pytest.raises(ValueError, match=r"expected .*(at least|above 0)"):
        MediaLimits(**{limit: 0})
