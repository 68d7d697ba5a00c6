"""The nodes `watermark_votes` and `drop_watermarks`: marks at the same place of many pictures of a site."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from manifests.errors import ManifestError
from manifests.records import Document, Media, Text, record_id
from pipelines.filters import watermark_votes, watermarks
from pipelines.filters.watermarks import DropWatermarks, WatermarkVotes
from pipelines.inspect.what_if import what_if
from stores.store import Snapshot
from tests.pipelines.build.test_materialize import stored
from tests.pipelines.drawn_pictures import encoded, photo
from tests.pipelines.scoring.test_scoring import made, reasons

SIZES = [(300, 256), (420, 300), (256, 340)]


def marked(picture: Image.Image, place: str, strength: float) -> Image.Image:
    """Draw a transparent white text, of a size in proportion to the picture."""
    width, height = picture.size
    side = min(width, height)
    mask = Image.new("L", picture.size)
    x, y, anchor = {
        "corner": (width - side * 0.03, height - side * 0.03, "rs"),
        "center": (width / 2, height / 2, "mm"),
        "top": (side * 0.03, side * 0.03, "lt"),
    }[place]
    ImageDraw.Draw(mask).text((x, y), "© grain.example", 255, ImageFont.load_default(side * 0.05), anchor)
    picture.paste((255, 255, 255), mask=mask.point(lambda level: int(level * strength)))
    return picture


def document(site: str, number: int, picture: Image.Image, domain: str = "caption") -> Document:
    payload = encoded(picture, "JPEG", quality=85)
    medium = Media(sha256(payload).hexdigest(), "image", "jpg", *picture.size, payload=payload)
    name = f"{site}-{number}"
    origin = f"https://www.{site}.example/{number}" if site != "none" else ""
    return Document(record_id("raw", name), "raw", name, domain, (medium, Text("A picture.")), origin=origin)


def site(name: str, seed: int, count: int, place: str = "", strength: float = 0.4, bare: int = 0) -> list[Document]:
    """Documents of one site; the first `bare` have no mark."""
    documents = []
    for number in range(count):
        picture = photo(seed + number, SIZES[number % len(SIZES)])
        if place and number >= bare:
            picture = marked(picture, place, strength)
        documents.append(document(name, number, picture))
    return documents


def decided(folder: Path, units: dict[str, list[Document]], **limits: Any) -> Snapshot:
    over = stored(folder, units)
    votes, _ = made(folder, WatermarkVotes(kind="watermark_votes", input=over.name), over, "votes")
    node = DropWatermarks(kind="drop_watermarks", input="votes", **limits)
    return made(folder, node, votes, "unmarked")[0]


@pytest.fixture
def folder(quick_folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=quick_folder))


def test_marked_pictures_of_a_site_are_dropped_and_no_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = site("few", 5000, 20, "corner")
    odd = [replace(chart, domain="ocr") for chart in site("charts", 6000, 33, "center")]
    units = {
        "a": site("corner", 0, 40, "corner"),
        "b": site("most", 1000, 48, "center", bare=12) + few,
        "c": site("clean", 2000, 40) + odd,
        "d": site("none", 3000, 33, "top"),
    }
    view = decided(folder, units)
    dropped = dict.fromkeys(("corner", "most", "clean", "few", "charts", "none"), 0)
    bare = 0
    for locator, reason in reasons(view).items():
        name, _, number = locator.partition("-")
        dropped[name] += 1
        bare += name == "most" and int(number) < 12
        assert reason == "watermark"
    assert bare == dropped["clean"] == dropped["few"] == dropped["charts"] == 0
    assert dropped["corner"] >= 36 and dropped["most"] >= 33 and dropped["none"] >= 28
    moved = what_if(view, ["watermark.max_overlay=100"])["kept"][0]
    assert moved["documents_after"] == moved["documents"] + sum(dropped.values())
    monkeypatch.setattr(watermarks, "GROUP_BYTES", 1 << 20)
    again = decided(Path(tempfile.mkdtemp(dir=folder)), units, max_memory_mb=1)  # one site per pass
    assert reasons(again) == reasons(view)
    first, second = (each.table()["unmarked.watermark.overlay"].to_numpy() for each in (view, again))
    assert np.array_equal(first, second, equal_nan=True)


def test_drop_watermarks_without_votes_is_refused(folder: Path) -> None:
    over = stored(folder, {"u": site("clean", 0, 2)})
    votes, _ = made(folder, WatermarkVotes(kind="watermark_votes", input=over.name), over, "votes")
    filtered = replace(DropWatermarks(kind="drop_watermarks", input="raw"), input="raw")
    with pytest.raises(ManifestError, match="no votes"):
        made(folder, filtered, over, "unmarked")
    assert votes.meta["watermark_votes"] == "votes"


@given(st.integers(1, 80), st.integers(1, 200), st.integers(0, 99))
def test_votes_equal_those_of_slow_code(height: int, width: int, seed: int) -> None:
    gray = np.random.default_rng(seed).integers(0, 40, (height, width)).astype(np.uint8)
    votes = watermark_votes.unpacked(watermark_votes.votes(gray)[None])[0].reshape(
        -1, watermark_votes.HEIGHT_PX, watermark_votes.WIDTH_PX
    )
    high, wide = min(watermark_votes.HEIGHT_PX, height), min(watermark_votes.WIDTH_PX, width)
    assert not votes[:, high:].any() and not votes[:, :, wide:].any()
    around = watermark_votes.AROUND_PX
    padded = np.pad(gray.astype(float), around, mode="edge")
    for y, x in ((0, 0), (high // 2, wide // 2), (high - 1, wide - 1)):
        difference = gray[y, x] - padded[y : y + 2 * around + 1, x : x + 2 * around + 1].mean()
        if abs(abs(difference) - watermark_votes.STEP) > 1e-3:
            lighter, darker = difference > watermark_votes.STEP, difference < -watermark_votes.STEP
            assert votes[0, y, x] == int(lighter) - int(darker)


def test_votes_of_a_picture_take_under_six_milliseconds() -> None:
    gray = np.asarray(photo(1, (340, 256)).convert("L"))
    watermark_votes.votes(gray)
    began = time.process_time()
    for _ in range(20):
        watermark_votes.votes(gray)
    assert (time.process_time() - began) / 20 < 0.006  # 1 ms on an idle machine
