"""A small corpus with encoded media in stores, from documents to packs; the fixture `made` of `conftest.py`."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from manifests.geometry import MediaLimits
from manifests.records import Document, Media, Text, record_id
from packing.mixture import Mixture, Source
from packing.pack import pack_unit, packs_meta
from packing.plan.pieces import SourcePieces, pieces_by_shard
from packing.plan.planner import Plan, compile_plan
from stores.media import image, video
from stores.store import Snapshot, Store, StoreKind
from tokenization.encode import encode
from tokenization.vocabulary import Vocabulary

tiny = Vocabulary.load("tiny")


def picture(seed: int, width: int, height: int, form: str) -> bytes:
    """Encoded picture of a circle on noise."""
    random = np.random.default_rng(seed)
    drawn = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
    ImageDraw.Draw(drawn).ellipse((2, 2, width // 2, height // 2), fill=(255, seed % 256, 0))
    out = io.BytesIO()
    drawn.save(out, form)
    return out.getvalue()


def clip(frames: int, fps: int = 4) -> bytes:
    """Clip of a moving square, H.264 in MP4."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        # x264's default preset reads memory that it never wrote, and does not give equal bytes on every run
        stream = file.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(frames):
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[:, 2 * i : 2 * i + 8] = 255
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    return out.getvalue()


def medium(payload: bytes) -> Media:
    digest = hashlib.sha256(payload).hexdigest()
    if video.container(payload):
        return Media(digest, "video", *video.check(payload), payload)
    header = image.check(payload)
    return Media(digest, "image", header.format, header.width_px, header.height_px, payload=payload)


def document(name: str, domain: str, *parts: Text | Media) -> Document:
    return Document(record_id("made", name), "made", name, domain, parts)


def corpus() -> list[Document]:
    """Captions, pages with pictures, one long page, clips, short texts and one long text, in several scripts."""
    random = np.random.default_rng(7)
    words = ["circle", "square", "red", "of", "and", "many", "Größe", "ΑΒΓ", "数字", "123", ",", ".", "\n"]

    def text(length: int) -> Text:
        return Text(" ".join(random.choice(words, length)))

    documents = []
    for i in range(60):
        width, height = random.integers(20, 130, 2).tolist()
        drawn = medium(picture(i, width, height, ["PNG", "JPEG", "WEBP"][i % 3]))
        documents.append(document(f"caption {i}", "caption", drawn, text(8)))
    same = medium(picture(99, 60, 60, "PNG"))
    for i in range(10):
        parts = [text(60), same, text(40), medium(picture(200 + i, 90, 40, "PNG")), same, text(30)]
        documents.append(document(f"page {i}", "interleaved", *parts))
    long_page = [part for i in range(12) for part in (text(90), medium(picture(300 + i, 70, 70, "JPEG")))]
    documents.append(document("long page", "interleaved", *long_page))
    for i in range(4):
        documents.append(document(f"clip {i}", "video", text(3), medium(clip(9 + 6 * i)), text(9)))
    documents += [document(f"text {i}", "knowledge", text(int(random.integers(3, 150)))) for i in range(150)]
    documents.append(document("book", "knowledge", text(6000)))
    return documents


def write(store: Store, records: Iterable[object], parents: Sequence[Snapshot] = (), **meta: object) -> Snapshot:
    writer = store.writer("all")
    for record in records:
        writer.add(record)
    above = [parent.as_parent for parent in parents]
    return store.commit([writer.finish()], node="test", units=["all"], parents=above, meta=meta)


@dataclass(frozen=True)
class Made:
    """Stores from documents to packs, and the plan."""

    documents: dict[str, Document]
    samples: Snapshot
    plan: Plan
    packs: Snapshot
    folder: Path

    @property
    def by_source(self) -> dict[str, Snapshot]:
        return dict.fromkeys(self.plan.blocks[0].header["sources"], self.samples)


MIXTURE = Mixture(
    sources=(
        Source(name="seen", input="samples", weight=1.0, domains=("caption", "interleaved", "video"), max_epochs=3),
        Source(name="read", input="samples", weight=3.0, domains=("knowledge",), max_epochs=2),
    ),
    max_pack_tokens=256,
    global_batch_packs=12,
    seed=5,
    media_limits=MediaLimits(max_image_patches=24, max_frame_patches=16, max_video_frames=10),
    block_packs=20,
)


def pieces_of(samples: Snapshot, source: Source, mixture: Mixture) -> SourcePieces:
    """Pieces of all shards of a source, joined."""
    parts = list(pieces_by_shard(samples, source, mixture, tiny))
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("keys", "ordinal", "start", "length", "slots", "patches", "media_in", "media_keys")
    }
    counts = {n: sum(getattr(part, n) for part in parts) for n in ("samples", "cut_samples", "media", "shrunk_media")}
    refused = dict(sum((Counter(part.refused) for part in parts), Counter[str]()))
    shows = [np.diff(part.media_offsets) for part in parts]
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(shows))])
    return SourcePieces(samples.content_root, refused=refused, media_offsets=offsets, **columns, **counts)


def create(folder: Path, kind: StoreKind) -> Store:
    return Store.create(str(folder / kind), kind, kind)


def make(folder: Path, records: list[Document], mixture: Mixture = MIXTURE) -> Made:
    documents = write(create(folder, "documents"), records)
    encoded = (encode(record, tiny) for record in documents.records())
    meta = {"vocabulary": tiny.digest, "vocabulary_file": "tiny"}
    samples = write(create(folder, "samples"), encoded, [documents], **meta)
    by_source = {source.name: samples for source in mixture.sources}
    plan = compile_plan(mixture, by_source, tiny)
    stores = {source.name: samples.name for source in mixture.sources}
    blocks = write(create(folder, "plan"), plan.blocks, [samples], **plan.meta, stores=stores)
    store = create(folder, "packs")
    receipts = []
    for number, block in enumerate(blocks.records()):
        writer = store.writer(f"block {number}")
        for pack in pack_unit(block, by_source, tiny):
            writer.add(pack)
        receipts.append(writer.finish())
    units = [receipt.unit for receipt in receipts]
    meta = packs_meta(blocks.meta) | {"pad_id": tiny.pad_id}
    packs = store.commit(receipts, node="test", units=units, parents=[blocks.as_parent], meta=meta)
    return Made({record.id: record for record in records}, samples, plan, packs, folder)
