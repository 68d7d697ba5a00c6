"""The verb `millrace train`: its command line. Heavy libraries are imported after the arguments are parsed.

Comes before `train/loop.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="millrace train",
        description="Train one stage on committed packs and evaluate the weights. A stage that was stopped continues\n"
        "from its last checkpoint.",
        epilog="examples:\n"
        "  millrace train manifests/train/quickstart.yaml --out runs/quickstart/train\n"
        "  millrace train manifests/train/quickstart.yaml --set steps=20 --out runs/short",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("manifest", nargs="+", help="YAML file of a stage; later ones overlay earlier ones")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value; repeatable")
    parser.add_argument("--out", required=True, type=Path, help="folder for metrics, checkpoints and evaluation")
    options = parser.parse_args(arguments)
    from manifests.extras import require

    require("train", "training")
    # OpenMP threads spin by default while they wait, so long that steps on two cores took 50 times as long beside
    # another busy process; sleeping at once costs a third of the speed on quiet cores. A thousand turns, some
    # microseconds, last until the next small operation (benchmarks/LOG.md). torch reads the variable when it is
    # imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from manifests.load import load
    from train.judge.evaluate import summary
    from train.loop import train
    from train.stage import Stage

    done = train(load(Stage, options.manifest, options.set), options.out)
    evaluation = json.loads((options.out / "evaluation.json").read_text(encoding="utf-8"))
    print(summary(evaluation), file=sys.stderr)
    print(json.dumps(done, ensure_ascii=False))
    return 0
