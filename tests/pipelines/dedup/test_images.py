"""Pictures that look alike are found after what happens to pictures, and by brute force the same ones are found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from manifests.errors import ManifestError
from pipelines.dedup import hamming, image_hash
from pipelines.dedup.images import DedupImages
from stores.media.image import decode_rgb, reduced_rgb, small_rgb
from tests.pipelines.dag.test_run import head, run
from tests.pipelines.drawn_pictures import clip, cropped, encoded, photo

BITS, DETAIL = 8, 31


def hashed(payload: bytes) -> image_hash.Hash:
    return image_hash.hash_of(image_hash.grey_of(reduced_rgb(payload, image_hash.SIDE_PX)))


def apart(one: image_hash.Hash, other: image_hash.Hash) -> tuple[int, int]:
    detail = sum((a ^ b).bit_count() for a, b in zip(one.detail, other.detail, strict=True))
    return (one.phash ^ other.phash).bit_count(), detail


def near(one: image_hash.Hash, other: image_hash.Hash) -> bool:
    bits, detail = apart(one, other)
    return image_hash.NO_HASH not in (one.phash, other.phash) and bits <= BITS and detail <= DETAIL


def slow_hash(grey: np.ndarray, means: int, frequencies: int) -> int:
    """By the sums of the definition, one coefficient after the other, in whole numbers."""
    grid = np.asarray(Image.fromarray(grey).resize((means, means), Image.Resampling.BOX)).astype(int).tolist()
    wave = [
        [round(2**14 * np.cos(np.pi * (2 * x + 1) * u / (2 * means))) for x in range(means)]
        for u in range(1, frequencies + 1)
    ]
    found = [
        sum(wave[v][y] * sum(wave[u][x] * grid[y][x] for x in range(means)) for y in range(means))
        for v in range(frequencies)
        for u in range(frequencies)
    ]
    middle = sorted(found)[len(found) // 2 - 1 : len(found) // 2 + 1]
    return sum(1 << place for place, one in enumerate(found) if 2 * one > sum(middle))


def test_a_hash_is_the_one_that_is_defined() -> None:
    rgb = np.asarray(photo(1, (90, 70))).astype(int)
    grey = ((rgb @ [19595, 38470, 7471] + 32768) >> 16).astype(np.uint8)
    found = image_hash.hash_of(image_hash.grey_of(np.asarray(photo(1, (90, 70)))))
    assert found.phash == slow_hash(grey, 32, 8)
    assert sum(word << 64 * place for place, word in enumerate(found.detail)) == slow_hash(grey, 64, 16)


@pytest.mark.parametrize(
    ("least", "change"),
    [
        (1.0, lambda picture: encoded(picture, quality=30)),
        (1.0, lambda picture: encoded(picture.resize((240, 180)), "WEBP", quality=70)),
        (1.0, lambda picture: encoded(picture.resize((960, 720)))),
        (0.8, lambda picture: encoded(cropped(picture, 0.98))),
        (0.9, lambda picture: encoded(picture.point(lambda level: min(255, round(level * 1.15))))),
    ],
    ids=["JPEG 30", "half as WebP", "double", "98 %", "brighter"],
)
def test_a_copy_is_near_its_original(least, change) -> None:
    pictures = [photo(seed) for seed in range(16)]
    found = [near(hashed(encoded(one, quality=92)), hashed(change(one))) for one in pictures]
    assert np.mean(found) >= least


def test_other_pictures_are_not_near() -> None:
    some = [hashed(encoded(photo(seed))) for seed in range(40)]
    assert not any(near(one, other) for i, one in enumerate(some) for other in some[:i])
    assert image_hash.NO_HASH not in {one.phash for one in some}


@pytest.mark.parametrize("grain", [0, 5])
def test_a_flat_picture_has_no_hash(grain: int) -> None:
    pixels = 128 + np.random.default_rng(0).normal(0, grain, (300, 400, 3))
    assert hashed(encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))) == image_hash.NOTHING


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [(1100, 800), (300, 200), (40, 900)])
def test_reduced_pictures_are_upright_and_nearly_the_means_of_all_pixels(size, orientation) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    payload = encoded(photo(3, size), quality=90, exif=exif)
    wanted = small_rgb(decode_rgb(payload), 128)
    found = reduced_rgb(payload, 128)
    assert found.shape == wanted.shape and (min(found.shape[:2]) == 128 or min(size) < 128)
    assert np.abs(found.astype(int) - wanted).mean() < 4


def slow_clusters(hashes: np.ndarray, details: np.ndarray, radius: int, detail_radius: int, need: int) -> list[int]:
    parents = list(range(len(hashes)))
    for one in range(len(hashes)):
        for other in range(one):
            common = 0
            for a, b, fine, finer in zip(hashes[one], hashes[other], details[one], details[other], strict=True):
                bits = int(np.bitwise_count(fine ^ finer).sum())
                common += bool(a and b and np.bitwise_count(a ^ b) <= radius and bits <= detail_radius)
            if common >= need:
                low, high = sorted((parents[one], parents[other]))
                parents = [low if parent == high else parent for parent in parents]
    return parents


@st.composite
def hash_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Few centres and some turned bits, so that many are just near or just not."""
    frames = draw(st.integers(1, 3))
    dice = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(0, 24))
    words = dice.integers(0, 2**64, (3, frames, 5), np.uint64)[dice.integers(0, 3, count)]
    for row in words.reshape(-1, 5):
        for bit in dice.choice(64, int(dice.integers(0, 12)), replace=False).tolist():
            row[0] ^= np.uint64(1 << bit)
        for bit in dice.choice(64, int(dice.integers(0, 20)), replace=False).tolist():
            row[1 + bit % 4] ^= np.uint64(1 << bit)
    words[dice.random((count, frames)) < 0.1] = 0
    return np.ascontiguousarray(words[..., 0]), np.ascontiguousarray(words[..., 1:]), draw(st.integers(1, frames))


@given(hash_rows(), st.integers(0, hamming.MOST_BITS), st.integers(0, 40), st.sampled_from([1 << 30, 8000, 500]))
def test_clusters_are_those_of_comparing_all_pairs_with_any_memory(rows, radius, detail_radius, memory) -> None:
    hashes, details, need = rows
    halves = np.array_split(np.arange(len(hashes)), 2)

    def read() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return ((half, hashes[half], details[half]) for half in halves)

    found = hamming.clusters(read, len(hashes), hashes.shape[1], radius, detail_radius, need, memory)
    assert found.tolist() == slow_clusters(hashes, details, radius, detail_radius, need)


@given(hash_rows(), st.integers(0, hamming.MOST_BITS), st.integers(0, 40))
def test_the_nearest_is_that_of_comparing_all(rows, radius, detail_radius) -> None:
    hashes, details = (np.ascontiguousarray(array[:, 0]) for array in rows[:2])
    half = len(hashes) // 2
    found = hamming.nearest(hashes[:half], details[:half], hashes[half:], details[half:], radius, detail_radius)
    for one in range(half):
        bits = np.bitwise_count(hashes[one] ^ hashes[half:])
        detail = np.bitwise_count(details[one] ^ details[half:]).sum(axis=1)
        good = (bits <= radius) & (detail <= detail_radius) & (hashes[half:] != 0) & (hashes[one] != 0)
        wanted = int(np.where(good, detail, 999).argmin()) if good.any() else -1
        assert found[one] == wanted


DAG = """
name: alike
nodes:
  documents: {kind: ingest_folder, path: ./data}
  hashed: {kind: image_hash, input: documents}
  unique: {kind: dedup_images, input: hashed}
  again: {kind: image_hash, input: unique}
  nothing_more: {kind: dedup_images, input: again}
"""


def test_of_every_picture_and_video_the_largest_copy_stays(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    lines = []

    def add(name: str, payload: bytes) -> None:
        (data / name).write_bytes(payload)
        lines.append(json.dumps({"file_name": name, "text": f"This is {name}."}))

    for seed in range(12):
        add(f"{seed}_large.jpg", encoded(photo(seed), quality=90))
        add(f"{seed}_small.webp", encoded(photo(seed).resize((320, 240)), "WEBP"))
    for level in (20, 21):
        add(f"flat{level}.png", encoded(Image.new("RGB", (64, 64), (level, 0, 0)), "PNG"))
    for seed in (40, 50):
        frames = [photo(seed + i // 5, (160, 120)) for i in range(10)]
        clip(data / f"{seed}.mp4", frames)
        clip(data / f"{seed}_again.mp4", frames, crf=34)
    (data / "metadata.jsonl").write_text("\n".join(lines))
    (data / "page.md").write_text("# The same photograph on a page\n\n![it](0_large.jpg)\n\n![and](1_large.jpg)\n")
    clips = [f"<video src='{name}.mp4'></video>" for name in ("40", "40_again", "50", "50_again")]
    for number, tag in enumerate(clips):
        (data / f"clip{number}.md").write_text(f"A clip.\n\n{tag}\n")
    (tmp_path / "dag.yaml").write_text(DAG)
    run(tmp_path / "dag.yaml", tmp_path / "out")
    rows = {row["locator"]: row for row in head(tmp_path / "out", "unique").table().to_pylist()}
    by_id = {row["id"]: name for name, row in rows.items()}
    lost = {name: by_id[row["duplicate_of"]] for name, row in rows.items() if not row["keep"]}
    documents = head(tmp_path / "out", "documents")
    of = {document.locator: (document.text, [m.digest for m in document.media]) for document in documents.records()}
    assert len(rows) == 12 * 2 + 2 + 1 + 4
    assert len(lost) == 12 + 2
    for name, winner in lost.items():
        assert rows[name]["reason"] == "near_duplicate_image" and rows[winner]["unique.cluster_size"] == 2
        if "clip" not in name:
            assert "small" in of[name][0] and of[winner][0].split("_")[0] == of[name][0].split("_")[0]
    kept = [head(tmp_path / "out", name).kept().tolist() for name in ("unique", "nothing_more")]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("wrong", [{"max_bits": 16}, {"max_detail_bits": -1}, {"min_frames": 0}])
def test_a_radius_out_of_range_is_refused(wrong) -> None:
    with pytest.raises((ValueError, ManifestError)):
        DedupImages(kind="dedup_images", input="hashed", **wrong)
