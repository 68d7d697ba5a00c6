"""How much time do fast pixels save, and how much do they differ from exact ones?

    MILLRACE_TEST_DATA=FOLDER python -m benchmarks.fast_pixels

Each picture of `web_pictures.py` goes from encoded bytes to patches as in the loader (`navit.patches_of`, into
preallocated memory), with `pixels: exact` and with `pixels: fast`, in turns. Fast pixels decode a JPEG at reduced size,
so the gain depends on the limit of patches; results are listed by limit. Differences are on the scale 0 to 255, over
all samples of all pictures, and over the samples of those pictures that differ at all. The bar only asks for a gain.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.measure import Result, save
from benchmarks.web_pictures import pictures
from manifests.geometry import fit
from manifests.records import Item, Media, PackedMedia
from packing.loader.batch import PlacedItem, patch_memory
from packing.mixture import Pixels
from packing.navit import patches_of
from stores.media.image import probe

PICTURES = 48
REPETITIONS = 5
LIMITS = (16384, 4096, 1024, 256)
SHOWN = 1024
"""Limit of patches whose figures are the result."""
BAR = 1.0

Planned = tuple[PackedMedia, bytes, list[np.ndarray]]
"""(picture with its planned size, its encoded bytes, memory for its patches)."""


def planned(payload: bytes, limit: int) -> Planned:
    """Plan a picture under a limit of patches and allocate memory for its patches, as the loader does."""
    form, width, height = probe(payload)
    to = fit(width, height, limit)
    media = Media(hashlib.sha256(payload).hexdigest(), "image", form, width, height)
    item = Item((1, to.rows, to.cols), 0)
    _, parts = patch_memory([PlacedItem(0, 0, 0, item)])
    return PackedMedia(media, (to.width_px, to.height_px), (item,)), payload, parts


def seconds(group: Sequence[Planned]) -> dict[Pixels, np.ndarray]:
    """(P,) median CPU seconds of each picture, both ways measured in turns, picture by picture."""
    taken: dict[Pixels, list[list[float]]] = {"exact": [], "fast": []}
    for _ in range(REPETITIONS + 1):
        for rounds in taken.values():
            rounds.append([])
        for packed, payload, into in group:
            for pixels, rounds in taken.items():
                start = time.thread_time()
                patches_of(packed, payload, out=into, pixels=pixels)
                rounds[-1].append(time.thread_time() - start)
    return {pixels: np.median(rounds[1:], axis=0) for pixels, rounds in taken.items()}  # the first one warms up


def differences(group: Sequence[Planned]) -> dict[str, object]:
    """Histogram figures of |exact - fast| over all pictures, and over those that differ."""
    counts = np.zeros((2, 256), np.int64)
    differing = 0
    for packed, payload, _ in group:
        exact, fast = (patches_of(packed, payload, pixels=way)[0].astype(np.int16) for way in ("exact", "fast"))
        histogram = np.bincount(np.abs(exact - fast).ravel(), minlength=256)
        counts[0] += histogram
        if histogram[1:].any():
            counts[1] += histogram
            differing += 1
    return {"pictures that differ": differing, "all": figures(counts[0]), "of those that differ": figures(counts[1])}


def figures(counts: np.ndarray) -> dict[str, float]:
    """Mean, 99th percentile and maximum of a histogram with 256 bins."""
    if not counts.any():
        return {"mean": 0.0, "99th percentile": 0, "max": 0}
    return {
        "mean": round(float(counts @ np.arange(256) / counts.sum()), 3),
        "99th percentile": int(np.searchsorted(np.cumsum(counts) / counts.sum(), 0.99)),
        "max": int(np.flatnonzero(counts)[-1]),
    }


def main() -> None:
    payloads = [payload for _, payload in pictures(PICTURES)]
    details: dict[str, object] = {"pictures": PICTURES, "shown": f"{SHOWN} patches"}
    rates: dict[int, dict[Pixels, float]] = {}
    for limit in LIMITS:
        group = [planned(payload, limit) for payload in payloads]
        took = seconds(group)
        jpegs = np.array([packed.media.format == "jpg" for packed, _, _ in group])
        rates[limit] = {pixels: round(PICTURES / float(each.sum()), 2) for pixels, each in took.items()}
        details[f"{limit} patches"] = {
            "times as fast": round(float(took["exact"].sum() / took["fast"].sum()), 3),
            f"times as fast, the {jpegs.sum()} JPEGs": round(float(took["exact"] @ jpegs / (took["fast"] @ jpegs)), 3),
            "pictures per CPU second": rates[limit],
            "off by": differences(group),
        }
        print(limit, "patches", details[f"{limit} patches"])
    save(
        "fast_pixels",
        Result(
            question=f"Pictures to patches with fast pixels, against exact ones, at most {SHOWN} patches a picture:",
            unit="pictures per CPU second",
            ours=rates[SHOWN]["fast"],
            peers={"exact": rates[SHOWN]["exact"]},
            bar=BAR,
            libraries=("simplejpeg", "numba", "numpy"),
            details=details,
        ),
    )


if __name__ == "__main__":
    main()
