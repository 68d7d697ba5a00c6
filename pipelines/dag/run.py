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
        usage="millrace run MANIFEST... [options]\n       millrace run --kinds [KIND] | --schema",
        description="Make every node of a manifest that is not finished yet: from raw files to shards, plans, packs\n"
        "and a trained model. Committed work is never repeated: stop the run at any time, then run the\n"
        "same command again.",
        epilog="examples:\n"
        "  millrace run manifests/data/quickstart.yaml\n"
        "  millrace run manifests/data/own_data.yaml --set nodes.documents.path=./my_folder --out runs/mine\n"
        "  millrace run manifests/data/quickstart.yaml --dry-run\n"
        "  millrace run --kinds filter",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("manifests", nargs="*", metavar="MANIFEST", help="YAML file; later ones overlay earlier ones")
    place = parser.add_argument_group("what runs, and where")
    place.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value; repeatable")
    place.add_argument("--until", metavar="NODE", help="make only this node and those that it needs")
    place.add_argument("--out", metavar="FOLDER|URL", help="place of all stores and files (default: runs/NAME)")
    place.add_argument(
        "--local", metavar="FOLDER", help="if --out is a URL: folder of the log and of plain files (default: runs/NAME)"
    )
    place.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="worker processes (default: one per CPU); 0 works in this process",
    )
    place.add_argument(
        "--engine", choices=("local", "ray", "dask"), help="short for --set engine.kind=...: processes, Ray or Dask"
    )
    look = parser.add_argument_group("look first")
    look.add_argument("--dry-run", action="store_true", help="print the nodes that would run, why and how long")
    look.add_argument(
        "--estimate",
        type=float,
        nargs="?",
        const=0.02,
        metavar="SHARE",
        help="run a share of the units (default: 0.02) in a temporary folder; print size and time of the whole",
    )
    look.add_argument(
        "--kinds", nargs="?", const="", metavar="KIND", help="print all kinds of nodes, or the keys of one kind or op"
    )
    look.add_argument("--schema", action="store_true", help="print the JSON Schema of a manifest, for YAML editors")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(arguments)
    if options.workers < 0:
        parser.error(f"--workers {options.workers}: expected 0 or more")
    if options.kinds is not None or options.schema:
        from pipelines.dag import kinds

        if options.schema:
            kinds.print_schema()
        else:
            kinds.print_kinds(options.kinds)
        return 0
    if not options.manifests:
        parser.error("name a MANIFEST, for example manifests/data/quickstart.yaml")
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    from pipelines.dag import graph as dag
    from pipelines.dag.destination import Destination
    from pipelines.dag.dry_run import dry_run
    from pipelines.dag.estimate import estimate
    from pipelines.dag.execute import execute

    kind = [f"engine.kind={options.engine}"] if options.engine else []
    graph = dag.read(options.manifests, [*kind, *options.set], options.until)
    dag.check_here(graph)
    default = Path("runs") / graph.name
    out = Destination.of(options.out or str(default), Path(options.local or default))
    if options.estimate is not None:
        return estimate(graph, options.estimate, options.workers, options.json)
    if options.dry_run:
        return dry_run(graph, out, options.json)
    with out.locked():
        return execute(graph, out, options.workers, options.json)
