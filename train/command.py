"""The verb `millrace train`: its command line. Heavy libraries are imported after the arguments are parsed.

Comes before `train/loop.py`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="millrace train",
        description="Train one stage off committed packs, go on where it stopped, and measure what was learnt.",
        epilog="examples:\n"
        "  millrace train manifests/train/quickstart.yaml --out runs/quickstart/train\n"
        "  millrace train manifests/train/quickstart.yaml --set steps=20 --out runs/short",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("manifest", nargs="+", help="a stage, and overlays laid over it from left to right")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value")
    parser.add_argument("--out", required=True, type=Path, help="folder for metrics, checkpoints and evaluation")
    given = parser.parse_args(arguments)
    from manifests.extras import require

    require("train", "training")
    # Threads that wait for each other spin by default, for so long that on two cores beside any other busy process
    # steps took 50 times as long; sleeping at once costs a third of the speed on quiet cores. A thousand turns, some
    # microseconds, are long enough for the next small operation to come (benchmarks/LOG.md). Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from manifests.load import load
    from train.loop import train
    from train.stage import Stage

    done = train(load(Stage, given.manifest, given.set), given.out)
    print(json.dumps(done, ensure_ascii=False))
    return 0
