"""How fast do image-text records become packed patch buffers?

    python -m benchmarks.image_patches [--quick]

Pictures of sizes and formats like the web's (`web_pictures.py`), stored in the format of each reader. Every turn reads
all of them in order, four per batch, and yields one uint8 array (patches of the batch, 3, 14, 14) per batch, at the
release's limit of 16,384 patches. Ours is the whole loader over packs, with one decoding thread; it verifies checksums,
the peers verify nothing. A peer named `+ pillow` decodes and resizes with Pillow and cuts patches with numpy, as a user
would write it. `+ ours` calls our decoder, resize kernel and patch cutter; buffers that are reused from picture to
picture are part of our loader only. All readers must yield the same bytes, or there is no result.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import energon
from benchmarks.contest import Contestant, Round, paired_ratio, rates, serve, spread
from benchmarks.measure import Result, save
from benchmarks.peers import run_in
from manifests.geometry import PATCH_PX, fit

PICTURES, BATCH, MAX_PATCHES = 48, 4, 16384
BAR_PILLOW, BAR_OURS = 1.3, 1.0
CAPTION = "a picture and some words beside it"

Patches = Callable[[bytes], np.ndarray]
"""Encoded picture -> (N, 3, 14, 14) uint8."""


def payloads(folder: str) -> list[bytes]:
    """Encoded pictures from the folder `pictures` next to `folder`."""
    return [path.read_bytes() for path in sorted((Path(folder).parent / "pictures").iterdir())]


def in_batches(patches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Concatenate the patches of every `BATCH` pictures."""
    group: list[np.ndarray] = []
    for array in patches:
        group.append(array)
        if len(group) == BATCH:
            yield np.concatenate(group)
            group = []


# ---------------------------------------------------------------------- pictures to patches


def by_pillow(payload: bytes) -> np.ndarray:
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(payload)))
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    picture = picture.convert("RGB")
    to = fit(*picture.size, MAX_PATCHES)
    if picture.size != (to.width_px, to.height_px):
        picture = picture.resize((to.width_px, to.height_px), Image.Resampling.BICUBIC)
    canvas = np.zeros((to.rows * PATCH_PX, to.cols * PATCH_PX, 3), np.uint8)
    canvas[: to.height_px, : to.width_px] = np.asarray(picture)
    grid = canvas.reshape(to.rows, PATCH_PX, to.cols, PATCH_PX, 3)
    return grid.transpose(0, 2, 4, 1, 3).reshape(-1, 3, PATCH_PX, PATCH_PX)


def by_ours(payload: bytes) -> np.ndarray:
    from packing.navit import cut_patches
    from stores.media.image import decode_rgb, resize

    rgb = decode_rgb(payload)
    to = fit(rgb.shape[1], rgb.shape[0], MAX_PATCHES)
    return cut_patches([resize(rgb, to.width_px, to.height_px)], to.rows, to.cols)


# ---------------------------------------------------------------------- ours


def write_ours(folder: str) -> None:
    from manifests.records import Item, Media, Pack, PackedMedia, Segment, record_id
    from stores.media.image import probe
    from stores.store import Store

    store = Store.create(f"{folder}/packs", "packs", "packs")
    writer = store.writer("all")
    length = MAX_PATCHES // 2
    ids, mask = np.zeros(length, np.uint32), np.ones(length, bool)
    for number, payload in enumerate(payloads(folder)):
        form, width, height = probe(payload)
        to = fit(width, height, MAX_PATCHES)
        media = Media(hashlib.sha256(payload).hexdigest(), "image", form, width, height, payload=payload)
        packed = PackedMedia(media, (to.width_px, to.height_px), (Item((1, to.rows, to.cols), 0),))
        segment = Segment(record_id("web", f"{number}"), "web", 0, length)
        writer.add(Pack(ids, mask, (segment,), (packed,)))
    meta = {"plan": "none", "global_batch_packs": BATCH, "max_pack_tokens": length}
    store.commit([writer.finish()], node="bench", units=["all"], meta=meta)


def read_ours(folder: str, to_patches: Patches) -> Iterator[np.ndarray]:
    from packing.loader.loader import DecodeOptions, Loader
    from stores.store import Store

    packs = Store.open(f"{folder}/packs").head()
    assert packs is not None
    with Loader(packs, BATCH, decode=DecodeOptions(threads=1)) as loader:
        for batch in loader:
            yield batch.media(0).patches


# ---------------------------------------------------------------------- peers


def write_webdataset(folder: str) -> None:
    from webdataset import ShardWriter

    with ShardWriter(f"{folder}/%06d.tar", maxsize=64 << 20, verbose=0) as sink:
        for number, payload in enumerate(payloads(folder)):
            sink.write({"__key__": f"{number:09}", "img": payload, "txt": CAPTION.encode()})


def read_webdataset(folder: str, to_patches: Patches) -> Iterator[np.ndarray]:
    import webdataset

    shards = sorted(str(path) for path in Path(folder).glob("*.tar"))
    yield from in_batches(to_patches(sample["img"]) for sample in webdataset.WebDataset(shards, shardshuffle=False))


def write_litdata(folder: str) -> None:
    from litdata.streaming.writer import BinaryWriter

    sink = BinaryWriter(folder, chunk_bytes="64MB")
    for number, payload in enumerate(payloads(folder)):
        sink[number] = {"img": payload, "txt": CAPTION}
    sink.done()
    sink.merge(1)


def read_litdata(folder: str, to_patches: Patches) -> Iterator[np.ndarray]:
    from litdata import StreamingDataset

    samples = StreamingDataset(input_dir=folder, shuffle=False)
    yield from in_batches(to_patches(samples[number]["img"]) for number in range(len(samples)))


def write_energon(folder: str) -> None:
    write_webdataset(folder)
    energon.prepare(folder)


def read_energon(folder: str, to_patches: Patches) -> Iterator[np.ndarray]:
    loader = energon.loader(folder, BATCH, lambda sample: to_patches(sample["img"]), np.concatenate)
    yield from (np.asarray(batch) for batch in loader)


FORMATS: dict[str, tuple[str | None, Callable[[str], None], Callable[[str, Patches], Iterator[np.ndarray]]]] = {
    "ours": (None, write_ours, read_ours),
    "webdataset": ("webdataset", write_webdataset, read_webdataset),
    "litdata": ("lightning", write_litdata, read_litdata),
    "energon": ("lightning", write_energon, read_energon),
}
WAYS: dict[str, Patches] = {"pillow": by_pillow, "ours": by_ours}
READERS = ["ours", *(f"{name} + {way}" for name in list(FORMATS)[1:] for way in WAYS)]


# ---------------------------------------------------------------------- turns


def one_epoch(reader: str, root: str, check: bool) -> dict[str, Any]:
    """Read all pictures once. Returns the number of patches and, with `check`, a digest of their bytes."""
    name, _, way = reader.partition(" + ")
    patches = 0
    content = hashlib.sha256()
    for batch in FORMATS[name][2](f"{root}/{name}", WAYS[way or "ours"]):
        patches += len(batch)
        if check:
            content.update(batch)
    return {"patches": patches, "digest": content.hexdigest()}


def compare(quick: bool) -> None:
    from benchmarks.web_pictures import pictures

    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        root = Path(folder)
        (root / "pictures").mkdir()
        size = 0
        for number, (_, payload) in enumerate(pictures(16 if quick else PICTURES)):
            (root / "pictures" / f"{number:06}").write_bytes(payload)
            size += len(payload)
        for name, (environment, _, _) in FORMATS.items():
            (root / name).mkdir()
            run_in(environment, "benchmarks.image_patches", "--write", name, str(root / name))
        contestants = [
            Contestant("benchmarks.image_patches", reader, FORMATS[reader.partition(" + ")[0]][0]) for reader in READERS
        ]
        results = {each.name: each.ask(root=folder, check=True) for each in contestants}  # warms up as well
        assert len({result["digest"] for result in results.values()}) == 1, results
        rounds: dict[str, list[Round]] = {contestant.name: [] for contestant in contestants}
        for repetition in range(1 if quick else 5):
            for contestant in contestants if repetition % 2 else contestants[::-1]:
                rounds[contestant.name].append(contestant.ask(root=folder, check=False))
        for contestant in contestants:
            contestant.close()
    count = 16 if quick else PICTURES
    details: dict[str, Any] = {"pictures": count, "megabytes": round(size / 1e6, 1)}
    for way in WAYS:
        group = {name: turns for name, turns in rounds.items() if name == "ours" or name.endswith(f"+ {way}")}
        for clock in ("cpu_s", "wall_s"):
            ratio = paired_ratio(
                {name.replace("+ ours", "+ kernel"): turns for name, turns in group.items()}, "ours", clock
            )
            details[f"ours over the best with {way}, {clock}"] = round(ratio, 3)
    details["wall"] = rates(rounds, count, "wall_s")
    details["spread, CPU"] = spread(rounds, count, "cpu_s")
    against_ours = details["ours over the best with ours, cpu_s"]
    details["bar against peers with our kernel"] = {"bar": BAR_OURS, "holds": bool(against_ours >= BAR_OURS)}
    print(json.dumps(details, indent=1))
    if quick:
        return
    speeds = rates(rounds, count, "cpu_s")
    save(
        "image_patches",
        Result(
            question="How fast do image-text records become packed patch buffers, default exact kernel?",
            unit="pictures per CPU second",
            ours=speeds.pop("ours"),
            peers={name: speed for name, speed in speeds.items() if name.endswith("+ pillow")},
            bar=BAR_PILLOW,
            libraries=("pillow", "simplejpeg", "numba", "numpy"),
            details=details
            | {"peers with our kernel": {name: speed for name, speed in speeds.items() if name.endswith("+ ours")}},
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smoke test: few pictures, no result")
    parser.add_argument("--serve", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--write", choices=FORMATS, help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(lambda root, check: one_epoch(options.serve, root, check))
    elif options.write:
        FORMATS[options.write][1](options.folder)
        print("{}")
    else:
        compare(options.quick)


if __name__ == "__main__":
    main()
