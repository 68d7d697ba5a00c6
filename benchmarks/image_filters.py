"""How fast are image filters and perceptual hashes, compared with imagehash and Pillow on the same measures?

    python -m benchmarks.image_filters [--quick]

Ours and the peers decode each JPEG once, then measure the spread of levels, sharpness, entropy and a pHash of 64 bits.
Ours computes a hash of 256 bits and the share of text besides. In `draft` Pillow decodes at reduced size, as ours does.
"""

from __future__ import annotations

import argparse
import io

import numpy as np
from PIL import Image

from benchmarks.contest import Contestant, paired_ratio, rates, serve, spread, take_turns
from benchmarks.measure import Result, save
from benchmarks.peers import versions
from benchmarks.web_pictures import pictures

CONTESTANTS = {"ours": None, "imagehash, full size": "imagehash", "imagehash, draft": "imagehash"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smoke test: few pictures, no result")
    parser.add_argument("--serve", choices=CONTESTANTS)
    options = parser.parse_args()
    if options.serve:
        serve(task(options.serve))
        return
    count = 40 if options.quick else 600
    children = [Contestant("benchmarks.image_filters", name, environment) for name, environment in CONTESTANTS.items()]
    rounds = take_turns(children, 1 if options.quick else 3, count=count)
    for child in children:
        child.close()
    speed = rates(rounds, count, "cpu_s")
    for name, rate in speed.items():
        print(f"{name:24}{rate:>10.1f} pictures per CPU second")
    if not options.quick:
        result = Result(
            question="Image filters and perceptual hash, over imagehash and Pillow:",
            unit="pictures per CPU second",
            ours=speed.pop("ours"),
            peers=speed,
            bar=2.0,
            libraries=("pillow", "simplejpeg", "numpy"),
            details={
                "pictures": count,
                "spread": spread(rounds, count, "cpu_s"),
                "median of paired ratios": paired_ratio(rounds, "ours", "cpu_s"),
                "peers": versions("imagehash"),
            },
        )
        save("image_filters", result)


def task(name: str):
    """Task of a contestant: measure `count` JPEGs. The warm-up turn makes them."""
    payloads: dict[int, list[bytes]] = {}
    measure = ours() if name == "ours" else theirs(draft=name.endswith("draft"))

    def run(folder: str, count: int) -> None:
        if count not in payloads:
            jpegs = [payload for form, payload in pictures(60) if form.startswith("jpeg")]
            payloads[count] = [jpegs[i % len(jpegs)] for i in range(count)]
        for payload in payloads[count]:
            measure(payload)

    return run


def ours():
    """Our filters and hash: encoded picture -> None."""
    from manifests.records import Document, Media, digest
    from pipelines.dedup import image_hash
    from pipelines.filters import media_rules, pixels

    ops = (
        media_rules.FlatImage(kind="flat_image"),
        pixels.BlurredImage(kind="blurred_image"),
        pixels.LowEntropy(kind="low_entropy"),
        pixels.TextOnlyImage(kind="text_only_image"),
    )

    def measure(payload: bytes) -> None:
        pixels._CACHE.clear()  # pictures repeat, and each must be decoded every time
        image = Media(digest(payload), "image", "jpg", 1, 1, payload=payload)
        document = Document("0" * 32, "t", "1", "caption", (image,))
        for op in ops:
            op.measure(document)
        image_hash.hash_of(image_hash.gray_of(pixels.rgb_of(image)))

    return measure


def theirs(draft: bool):
    """The same measures by Pillow, numpy and imagehash. `draft`: let Pillow decode at reduced size."""
    import imagehash

    def measure(payload: bytes) -> None:
        image = Image.open(io.BytesIO(payload))
        if draft:
            image.draft("RGB", (256, 256))
        rgb = image.convert("RGB")
        if draft:
            rgb.thumbnail((512, 512))
        max(high - low for low, high in rgb.getextrema())
        gray = rgb.convert("L")
        gray.entropy()
        level = np.asarray(gray, np.int16)
        inner = level[1:-1, 1:-1]
        (level[:-2, 1:-1] + level[2:, 1:-1] + level[1:-1, :-2] + level[1:-1, 2:] - 4 * inner).var()
        imagehash.phash(rgb)

    return measure


if __name__ == "__main__":
    main()
