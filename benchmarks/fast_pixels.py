"""Would pictures decoded with less care be worth an option, and how far off would their pixels be?

    MILLRACE_TEST_DATA=FOLDER python -m benchmarks.fast_pixels

The pictures of `web_pictures.py`, decoded, resized and cut by our exact path and by a candidate: libjpeg-turbo leaves
out the smooth upsampling of colour, and decodes at the smallest eighth that is not below the wanted size; our bicubic
does the rest. What is no JPEG, or lies on its side, takes the exact path in both. By limit of patches, because what the
candidate saves is pixels that nobody wants. Differences are of 255, over all samples of all pictures.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

import numpy as np
import simplejpeg

from benchmarks.measure import Result, paired, save
from benchmarks.web_pictures import pictures
from manifests.geometry import fit
from packing.navit import cut_patches
from stores.image import Scratch, decode_rgb, probe, resize

PICTURES = 48
LIMITS = (16384, 4096, 1024)
BAR = 1.3


def exact(payload: bytes, limit: int, scratch: Scratch) -> np.ndarray:
    rgb = decode_rgb(payload, scratch=scratch)
    to = fit(rgb.shape[1], rgb.shape[0], limit)
    return cut_patches([resize(rgb, to.width_px, to.height_px)], to.rows, to.cols)


def careless(payload: bytes, limit: int, scratch: Scratch) -> np.ndarray:
    form, width, height = probe(payload)
    to = fit(width, height, limit)
    try:
        if form != "jpg" or simplejpeg.decode_jpeg_header(payload)[:2] != (height, width):
            return exact(payload, limit, scratch)
        rgb = simplejpeg.decode_jpeg(
            payload, "RGB", fastupsample=True, min_height=to.height_px, min_width=to.width_px, min_factor=1
        )
    except ValueError:  # CMYK and what else simplejpeg does not read
        return exact(payload, limit, scratch)
    return cut_patches([resize(rgb, to.width_px, to.height_px)], to.rows, to.cols)


def differences(payloads: Sequence[bytes], limit: int) -> dict[str, float]:
    counts = np.zeros(256, np.int64)
    scratch = Scratch()
    for payload in payloads:
        one, other = (way(payload, limit, scratch).astype(np.int16) for way in (exact, careless))
        counts += np.bincount(np.abs(one - other).ravel(), minlength=256)
    until = np.cumsum(counts) / counts.sum()
    return {
        "mean": round(float(counts @ np.arange(256) / counts.sum()), 3),
        "99.9th percentile": int(np.searchsorted(until, 0.999)),
        "max": int(np.flatnonzero(counts)[-1]),
    }


def main() -> None:
    payloads = [payload for _, payload in pictures(PICTURES)]
    scratch = Scratch()

    def all_of(way: functools.partial[np.ndarray]) -> None:
        for payload in payloads:
            way(payload)

    details: dict[str, object] = {"pictures": PICTURES}
    speeds: dict[int, dict[str, float]] = {}
    for limit in LIMITS:
        tasks = {
            way.__name__: functools.partial(all_of, functools.partial(way, limit=limit, scratch=scratch))
            for way in (exact, careless)
        }
        took = paired(tasks, 7, time.thread_time)
        speeds[limit] = {name: PICTURES / seconds for name, seconds in took.items()}
        error = differences(payloads, limit)
        ratio = round(took["exact"] / took["careless"], 3)
        details[f"{limit} patches"] = {"ratio": ratio, "difference of 255": error}
        print(f"{limit:6} patches  {ratio} times as fast  {error}")
    save(
        "fast_pixels",
        Result(
            question="Pictures to patches by less careful decoding, against the exact path, at the release's limit:",
            unit="pictures per CPU second",
            ours=round(speeds[LIMITS[0]]["careless"], 2),
            peers={"exact": round(speeds[LIMITS[0]]["exact"], 2)},
            bar=BAR,
            libraries=("simplejpeg", "numba", "numpy"),
            details=details,
        ),
    )


if __name__ == "__main__":
    main()
