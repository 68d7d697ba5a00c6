"""Perceptual hashes and the node `dedup_images`: changed copies are found, and results equal brute force."""

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


def hash_payload(payload: bytes) -> image_hash.Hash:
    return image_hash.hash_of(image_hash.gray_of(reduced_rgb(payload, image_hash.SIDE_PX)))


def distance(a: image_hash.Hash, b: image_hash.Hash) -> tuple[int, int]:
    """Differing bits of pHash and detail."""
    detail = sum((x ^ y).bit_count() for x, y in zip(a.detail, b.detail, strict=True))
    return (a.phash ^ b.phash).bit_count(), detail


def near(a: image_hash.Hash, b: image_hash.Hash) -> bool:
    bits, detail = distance(a, b)
    return image_hash.NO_HASH not in (a.phash, b.phash) and bits <= BITS and detail <= DETAIL


def slow_hash(gray: np.ndarray, means: int, frequencies: int) -> int:
    """The hash by its definition, one coefficient after the other, in whole numbers."""
    grid = np.asarray(Image.fromarray(gray).resize((means, means), Image.Resampling.BOX)).astype(int).tolist()
    wave = [
        [round(2**14 * np.cos(np.pi * (2 * x + 1) * u / (2 * means))) for x in range(means)]
        for u in range(1, frequencies + 1)
    ]
    coefficients = [
        sum(wave[v][y] * sum(wave[u][x] * grid[y][x] for x in range(means)) for y in range(means))
        for v in range(frequencies)
        for u in range(frequencies)
    ]
    half = len(coefficients) // 2
    middle = sorted(coefficients)[half - 1 : half + 1]
    return sum(1 << place for place, value in enumerate(coefficients) if 2 * value > sum(middle))


def test_a_hash_equals_its_definition() -> None:
    rgb = np.asarray(photo(1, (90, 70))).astype(int)
    gray = ((rgb @ [19595, 38470, 7471] + 32768) >> 16).astype(np.uint8)
    hashed = image_hash.hash_of(image_hash.gray_of(np.asarray(photo(1, (90, 70)))))
    assert hashed.phash == slow_hash(gray, 32, 8)
    assert sum(word << 64 * place for place, word in enumerate(hashed.detail)) == slow_hash(gray, 64, 16)


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
    matches = [near(hash_payload(encoded(each, quality=92)), hash_payload(change(each))) for each in pictures]
    assert np.mean(matches) >= least


def test_different_pictures_are_not_near() -> None:
    hashes = [hash_payload(encoded(photo(seed))) for seed in range(40)]
    assert not any(near(each, other) for i, each in enumerate(hashes) for other in hashes[:i])
    assert image_hash.NO_HASH not in {each.phash for each in hashes}


@pytest.mark.parametrize("grain", [0, 5])
def test_a_flat_picture_has_no_hash(grain: int) -> None:
    pixels = 128 + np.random.default_rng(0).normal(0, grain, (300, 400, 3))
    assert hash_payload(encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))) == image_hash.NOTHING


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [(1100, 800), (300, 200), (40, 900)])
def test_reduced_pictures_are_upright_and_close_to_the_mean_of_all_pixels(size, orientation) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    payload = encoded(photo(3, size), quality=90, exif=exif)
    wanted = small_rgb(decode_rgb(payload), 128)
    reduced = reduced_rgb(payload, 128)
    assert reduced.shape == wanted.shape and (min(reduced.shape[:2]) == 128 or min(size) < 128)
    assert np.abs(reduced.astype(int) - wanted).mean() < 4


def slow_clusters(hashes: np.ndarray, details: np.ndarray, radius: int, detail_radius: int, need: int) -> list[int]:
    parents = list(range(len(hashes)))
    for row in range(len(hashes)):
        for other in range(row):
            common = 0
            for a, b, detail_a, detail_b in zip(hashes[row], hashes[other], details[row], details[other], strict=True):
                bits = int(np.bitwise_count(detail_a ^ detail_b).sum())
                common += bool(a and b and np.bitwise_count(a ^ b) <= radius and bits <= detail_radius)
            if common >= need:
                low, high = sorted((parents[row], parents[other]))
                parents = [low if parent == high else parent for parent in parents]
    return parents


@st.composite
def hash_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Hashes with few flipped bits around few centers, so that many pairs are close to the radius."""
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
def test_clusters_equal_a_comparison_of_all_pairs_with_any_memory(rows, radius, detail_radius, memory) -> None:
    hashes, details, need = rows
    halves = np.array_split(np.arange(len(hashes)), 2)

    def read() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return ((half, hashes[half], details[half]) for half in halves)

    clusters = hamming.clusters(read, len(hashes), hashes.shape[1], radius, detail_radius, need, memory)
    assert clusters.tolist() == slow_clusters(hashes, details, radius, detail_radius, need)


@given(hash_rows(), st.integers(0, hamming.MOST_BITS), st.integers(0, 40))
def test_the_nearest_hash_equals_a_comparison_of_all(rows, radius, detail_radius) -> None:
    hashes, details = (np.ascontiguousarray(array[:, 0]) for array in rows[:2])
    half = len(hashes) // 2
    nearest = hamming.nearest(hashes[:half], details[:half], hashes[half:], details[half:], radius, detail_radius)
    for row in range(half):
        bits = np.bitwise_count(hashes[row] ^ hashes[half:])
        detail = np.bitwise_count(details[row] ^ details[half:]).sum(axis=1)
        good = (bits <= radius) & (detail <= detail_radius) & (hashes[half:] != 0) & (hashes[row] != 0)
        wanted = int(np.where(good, detail, 999).argmin()) if good.any() else -1
        assert nearest[row] == wanted


DAG = """
name: alike
nodes:
  documents: {kind: ingest_folder, path: ./data}
  hashed: {kind: image_hash, input: documents}
  unique: {kind: dedup_images, input: hashed}
  again: {kind: image_hash, input: unique}
  nothing_more: {kind: dedup_images, input: again}
"""


def test_the_largest_copy_of_every_picture_and_video_stays(tmp_path: Path) -> None:
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
    dropped = {name: by_id[row["duplicate_of"]] for name, row in rows.items() if not row["keep"]}
    documents = head(tmp_path / "out", "documents")
    of = {document.locator: (document.text, [m.digest for m in document.media]) for document in documents.records()}
    assert len(rows) == 12 * 2 + 2 + 1 + 4
    assert len(dropped) == 12 + 2
    for name, survivor in dropped.items():
        assert rows[name]["reason"] == "near_duplicate_image" and rows[survivor]["unique.cluster_size"] == 2
        if "clip" not in name:
            assert "small" in of[name][0] and of[survivor][0].split("_")[0] == of[name][0].split("_")[0]
    kept = [head(tmp_path / "out", name).kept().tolist() for name in ("unique", "nothing_more")]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("wrong", [{"max_bits": 16}, {"max_detail_bits": -1}, {"min_frames": 0}])
def test_a_radius_out_of_range_is_refused(wrong) -> None:
    with pytest.raises((ValueError, ManifestError)):
        DedupImages(kind="dedup_images", input="hashed", **wrong)
