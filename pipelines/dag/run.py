"""Command `millrace run`: make every node of a manifest that is not finished yet.

manifest -> `graph.read` -> for each node: survey, identity, then skip it or work and commit (`execute.py`). Stores and
receipts hold the progress, so a run that was killed continues where it stopped, and a finished one has nothing to do.
A lock keeps two runs from writing to one folder.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="millrace run",
        description="Run a DAG of nodes from raw files to shards, plans, packs and a trained model. What is committed "
        "is never done twice; stop it whenever you like and run the same command again.",
        epilog="examples:\n"
        "  millrace run manifests/data/quickstart.yaml\n"
        "  millrace run manifests/data/own_data.yaml --set nodes.documents.path=./my_folder --out runs/mine",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST", help="YAML; later ones are laid over earlier ones")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value")
    parser.add_argument("--out", metavar="FOLDER|URL", help="where everything goes (default: runs/NAME)")
    parser.add_argument(
        "--local",
        metavar="FOLDER",
        help="beside a URL: where the log, the page and what nodes make as plain files go (default: runs/NAME)",
    )
    parser.add_argument("--until", metavar="NODE", help="only this node and what it needs")
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes; 0 works in this one"
    )
    parser.add_argument("--engine", choices=("local", "ray", "dask"), help="where: short for --set engine.kind=...")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and touch nothing")
    parser.add_argument(
        "--estimate",
        type=float,
        nargs="?",
        const=0.02,
        metavar="SHARE",
        help="run a share of the units first (0.02), aside, and say what all of it gives and takes",
    )
    parser.add_argument("--json", action="store_true", help="the table at the end as JSON on stdout")
    options = parser.parse_args(arguments)
    if options.workers < 0:
        parser.error(f"--workers {options.workers}: expected 0 or more")

    from pipelines.dag import graph as dag
    from pipelines.dag.destination import Destination
    from pipelines.dag.dry_run import dry_run
    from pipelines.dag.estimate import estimate
    from pipelines.dag.execute import execute

    kind = [f"engine.kind={options.engine}"] if options.engine else []
    graph = dag.read(options.manifests, [*kind, *options.set], options.until)
    dag.check_here(graph)
    own = Path("runs") / graph.name
    out = Destination.of(options.out or str(own), Path(options.local or own))
    if options.estimate is not None:
        return estimate(graph, options.estimate, options.workers, options.json)
    if options.dry_run:
        return dry_run(graph, out, options.json)
    with out.locked():
        return execute(graph, out, options.workers, options.json)
