"""A small folder with every format that `ingest_folder` reads, and a DAG over it."""

from __future__ import annotations

import gzip
import io
import json
import random
from pathlib import Path

import av
import numpy as np
from PIL import Image

DAG = """
name: small
nodes:
  documents:
    kind: ingest_folder
    path: ./data
  filtered:
    kind: filter
    input: documents
    ops:
      - {kind: no_text}
      - {kind: text_length, min_characters: 8, domains: [knowledge]}
  unique:
    kind: dedup_exact
    input: filtered
  samples:
    kind: tokenize
    inputs: [unique]
  plan:
    kind: plan
    mixture:
      vision_share: {from_data: true}
      max_pack_tokens: 512
      global_batch_packs: 2
      block_packs: 8
      media_limits: {max_image_patches: 64, max_frame_patches: 16, max_video_frames: 8}
      sources: [{name: own, input: samples, weight: 1}]
  packs:
    kind: pack
    input: plan
"""

WORDS = "river stone wheel water mill grain flour barn bridge meadow lantern kettle window garden path".split()  # noqa: SIM905


def text(seed: int, words: int = 60) -> str:
    dice = random.Random(seed)
    return " ".join(dice.choice(WORDS) for _ in range(words)) + f" number {seed}.\n"


def image(seed: int, format: str = "png", size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 5, size[0] // 5, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(out, format)
    return out.getvalue()


def clip(path: Path, frames: int = 12) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write(folder: Path, texts: int = 300) -> None:
    """About `texts` + 30 good records, and the bad ones of `HOSTILE`."""
    folder.mkdir(exist_ok=True)
    for i in range(texts):
        file = folder / "books" / f"{i % 7}" / f"{i:04d}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text(i))
    (folder / "books" / "again.txt").write_text(text(0))
    (folder / "books" / "short.txt").write_text("hi\n")
    lines = [json.dumps({"question": f"{i} + {i}?", "answer": f"It is {2 * i}."}) for i in range(8)]
    (folder / "pairs.jsonl").write_text("\n".join([*lines, "{broken", '{"question": NaN}']))
    (folder / "more.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": text(9001)}).encode()))
    photos = folder / "photos" / "red_kettle"
    photos.mkdir(parents=True)
    for i in range(6):
        (photos / f"{i}.png").write_bytes(image(i))
    (photos / "0.txt").write_text("A kettle on the stove.")
    (photos / "cut.png").write_bytes(image(77)[:200])
    tables = folder / "table"
    tables.mkdir()
    (tables / "a.webp").write_bytes(image(11, "webp"))
    rows = [{"file_name": "a.webp", "text": "A mill."}, {"file_name": "gone.png", "text": "Nobody saw it."}]
    (tables / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page = folder / "pages"
    page.mkdir()
    (page / "one.jpg").write_bytes(image(21, "jpeg"))
    (page / "torn.png").write_bytes(image(22)[:100])
    clip(page / "clip.mp4")
    (page / "page.md").write_text(
        "# How a mill works\n\nFirst look.\n\n![the wheel](one.jpg)\n\nThen ![gone](missing.png), ![torn](torn.png), "
        "![far](https://example.org/x.png).\n\n<video src='clip.mp4'></video>\n\nThe end.\n"
    )
    hostile = folder / "hostile"
    hostile.mkdir()
    (hostile / "empty.txt").write_bytes(b"")
    (hostile / "binary.txt").write_bytes(b"abc\0\0def")
    (hostile / "paper.pdf").write_bytes(b"%PDF-1.4")
    (hostile / "sound.mp3").write_bytes(b"ID3")
    (hostile / "bomb.jsonl.gz").write_bytes(gzip.compress(b'{"text": "before the bomb"}\n' + b" " * (40 << 20)))
    (hostile / "outside.txt").symlink_to("/etc/hostname")


HOSTILE = {
    "pairs.jsonl#9": "bad_json",
    "pairs.jsonl#10": "not_a_number",
    "photos/red_kettle/cut.png": "truncated_image",
    "table/metadata.jsonl#2": "missing_media",
    "pages/page.md -> pages/torn.png": "truncated_image",
    "hostile/empty.txt": "empty_file",
    "hostile/binary.txt": "binary",
    "hostile/paper.pdf": "bad_pdf",
    "hostile/sound.mp3": "unsupported_format",
    "hostile/bomb.jsonl.gz#2": "decompression_bomb",
    "hostile/outside.txt": "symlink_outside",
}
