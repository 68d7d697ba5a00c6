"""How much does it cost to check images and videos in the sandbox process instead of in the calling one?

    MILLRACE_TEST_DATA=FOLDER python -m benchmarks.decode_child

Ingest checks every file once, in the sandbox, because any file may be hostile. Small pictures are the worst case: the
fixed cost of a call, one message to the child and one back, is largest relative to the work.
"""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Result, paired, save, test_data
from stores.media import image, video
from stores.media.sandbox import Sandbox


def main() -> None:
    folder = test_data()
    pictures = {
        "112 px JPEG": [scene(seed) for seed in range(200)],
        "640 x 480 JPEG": files(folder / "blood_cells_voc", "**/*.jpg")[:150],
        "table PNG": files(folder / "tabmwp_table_images", "tables/*.png")[:150],
        "photos": files(folder / "dreambooth_photos", "**/*.jpg"),
    }
    clips = {"videos": files(folder / "video_datajuicer", "*.mp4") + files(folder / "video_mdn_cc0", "**/*.mp4")}
    rows = {}
    print(f"{'CPU ms each':16}{'bytes':>10}{'here':>10}{'child':>10}{'share':>8}")
    with Sandbox() as child:
        for name, payloads in (pictures | clips).items():
            module = "video" if name in clips else "image"
            here = functools.partial(check_here, module, payloads)
            in_child = functools.partial(check_in_child, child, module, payloads)
            took = paired({"here": here, "child": in_child}, 7, functools.partial(cpu_of_both, child.call("os:getpid")))
            each = {task: round(1000 * seconds / len(payloads), 3) for task, seconds in took.items()}
            rows[name] = each
            size = sum(map(len, payloads)) // len(payloads)
            print(f"{name:16}{size:>10,}{each['here']:>10}{each['child']:>10}{each['here'] / each['child']:>8.2f}")
    photos = rows["640 x 480 JPEG"]
    result = Result(
        question="Checking 640 x 480 JPEGs in the sandbox process, over checking them in the calling process:",
        unit="pictures per CPU second",
        ours=round(1000 / photos["child"], 1),
        peers={"in this process": round(1000 / photos["here"], 1)},
        bar=0.8,
        libraries=("pillow", "av", "numpy"),
        details={"CPU ms each": rows},
    )
    save("decode_child", result)


def cpu_of_both(child_pid: int) -> float:
    """CPU seconds of this process plus the child. Linux derives the id of a process's CPU clock from its process id."""
    return time.process_time() + time.clock_gettime((~child_pid << 3) | 2)


def files(folder: Path, pattern: str) -> list[bytes]:
    """Contents of the files below `folder` that match the glob `pattern`, sorted by path."""
    return [file.read_bytes() for file in sorted(folder.glob(pattern))]


def scene(seed: int) -> bytes:
    """A JPEG of 112 x 112 px: random soft color patches."""
    small = np.random.default_rng(seed).integers(0, 256, (14, 14, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((112, 112)).save(out, "JPEG")
    return out.getvalue()


def check_here(module: str, payloads: Sequence[bytes]) -> None:
    check = video.check if module == "video" else image.check
    for payload in payloads:
        check(payload)


def check_in_child(child: Sandbox, module: str, payloads: Sequence[bytes]) -> None:
    for payload in payloads:
        child.call(f"stores.media.{module}:check", payload)


if __name__ == "__main__":
    main()
