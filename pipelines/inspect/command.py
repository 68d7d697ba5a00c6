"""`millrace inspect`: content of a store, a plan or a run, one record, one step of training. It never writes.

Results go to stdout, as text or with `--json` as JSON; `--html` prints a step as a page.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from manifests.errors import ManifestError
from manifests.records import Json
from pipelines.inspect import queries, records, step_view, terminal, what_if
from pipelines.inspect.explain import print_explanation
from pipelines.inspect.node_folder import folder_overview, has_receipt
from pipelines.inspect.plan_view import PlanView
from pipelines.inspect.run_overview import print_run, run_overview
from pipelines.inspect.store_overview import store_overview
from stores.store import Snapshot
from stores.upkeep.run_lock import stores_url

STEP_CHARACTERS, ALL_CHARACTERS = 240, 1 << 30
"""Most characters of a segment's text that a step shows: on the terminal, and in JSON."""
FLAG_KINDS: dict[str, tuple[str, ...]] = {
    "step": ("plan", "packs"),
    "drops": ("view",),
    "what_if": ("view",),
    "quarantine": ("documents", "samples"),
}
"""Option that needs a store -> kinds of stores for which it is meant."""


def main(arguments: list[str]) -> int:
    """Parse the arguments, print the answer to stdout, return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.html and options.step is None:
        parser.error("--html shows a step: give --step N")
    target = _store_of_node(options.target)
    folder = Path(target)
    if (folder.is_dir() or has_receipt(folder)) and not (folder / "store.json").exists():
        _inspect_folder(folder, options)
    else:
        _inspect_store(target, options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="millrace inspect",
        description="Show a run, a store, a plan or a packs store: counts, reasons of drops, tokens by modality, "
        "vision share, fill, single records.",
        epilog="examples:\n  millrace inspect runs/quickstart\n  millrace inspect runs/quickstart/packs --record 0\n"
        "  millrace inspect runs/quickstart/plan --step 200 --html > step.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", help="folder of a run, a node as RUN/NODE, or URL of a store")
    parser.add_argument(
        "--record",
        metavar="N|NAME",
        help="one record: a document, a sample, a pack with its segments. Its ordinal, id, URL (locator, origin), or "
        "the SHA-256 of an image or video. With a plan, the id of a sample: every step that contains it. With a run: "
        "the same as `millrace explain RUN NAME`",
    )
    parser.add_argument("--step", type=int, metavar="N", help="global batch N of a plan or packs store")
    parser.add_argument("--html", action="store_true", help="with --step: a page with the pictures, on stdout")
    parser.add_argument(
        "--drops", metavar="REASON", nargs="?", const="", help="records that views dropped, for one reason or for any"
    )
    parser.add_argument(
        "--what-if",
        metavar="OP.PARAMETER=NUMBER",
        action="append",
        help="with the store of a filter: the records that it would keep with another limit; can be repeated",
    )
    parser.add_argument("--quarantine", action="store_true", help="records that could not be read, with reasons")
    parser.add_argument("--limit", type=_positive, default=20, help="rows of --drops and --quarantine (default 20)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    return parser


def _positive(text: str) -> int:
    """Parse the value of `--limit`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _store_of_node(target: str) -> str:
    """URL of the store of RUN/NODE in a run with remote stores; any other target as it is."""
    run, node = Path(target).parent, Path(target).name
    if "://" in target or Path(target).exists() or has_receipt(Path(target)) or not run.is_dir():
        return target
    url = stores_url(run)
    return target if url == str(run) else f"{url}/{node}"


def _inspect_folder(folder: Path, options: argparse.Namespace) -> None:
    """Print a run, or the folder of a node whose product is ordinary files."""
    node = folder_overview(folder)
    given = [flag for flag in FLAG_KINDS if (value := getattr(options, flag)) is not None and value is not False]
    if node is not None:
        if given or options.record is not None:
            flag = "--record" if options.record is not None else _flag(given[0])
            message = f"{flag} needs a store, this node made ordinary files"
            raise ManifestError(message, where=str(folder), fix="give a node of the run that made a store")
        _print(node, options.json)
    elif options.record is not None:
        print_explanation(folder, options.record, options.json)
    elif given:
        kinds = FLAG_KINDS[given[0]]
        names = [name for name, snapshot in queries.run_stores(folder)[0].items() if snapshot.kind in kinds]
        fix = f"give {folder}/NODE, where NODE is one of: {', '.join(names)}" if names else "give a store"
        raise ManifestError(f"{_flag(given[0])} needs a store, this is a run", where=str(folder), fix=fix)
    elif options.json:
        _print(run_overview(folder), as_json=True)
    else:
        print_run(folder)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _inspect_store(target: str, options: argparse.Namespace) -> None:
    snapshot = queries.newest_snapshot(target)
    if options.step is not None:
        _inspect_step(snapshot, options)
    elif options.what_if:
        result = what_if.what_if(snapshot, options.what_if)
        _print(result if options.json else what_if.for_display(result), options.json)
    elif options.record is not None:
        _inspect_record(snapshot, options)
    elif options.quarantine:
        rows = snapshot.quarantined().slice(0, options.limit).to_pylist()
        _print_rows("quarantine", rows, snapshot.counts.get("quarantined", 0), options)
    elif options.drops is not None:
        rows = records.dropped_records(snapshot, options.drops, options.limit)
        counts = queries.drop_counts(snapshot)
        total = counts.get(options.drops, 0) if options.drops else sum(counts.values())
        _print_rows("dropped", rows, total, options)
    else:
        _print(store_overview(snapshot), options.json)


def _inspect_step(snapshot: Snapshot, options: argparse.Namespace) -> None:
    if snapshot.kind not in ("plan", "packs"):
        message = f"--step needs a plan or a packs store, this store is of kind {snapshot.kind}"
        raise ManifestError(message, where=snapshot.url, fix="give the plan or the packs store")
    planned = PlanView(snapshot)
    if options.html:
        print(step_view.step_page(planned, options.step))
    else:
        characters = ALL_CHARACTERS if options.json else STEP_CHARACTERS
        _print(step_view.step_summary(planned, options.step, characters), options.json)


def _inspect_record(snapshot: Snapshot, options: argparse.Namespace) -> None:
    if snapshot.kind == "plan" and not records.is_ordinal(options.record):
        _print(records.plan_occurrences(snapshot, options.record), options.json)
        return
    record = records.record_by_name(snapshot, options.record)
    note = "" if records.is_ordinal(options.record) else records.scan_note(snapshot)
    if note:
        print(note, file=sys.stderr)
    _print(record if options.json else records.for_display(record), options.json)


def _print(values: dict[str, Json], as_json: bool) -> None:
    if as_json:
        print(json.dumps(values, ensure_ascii=False, indent=1))
    else:
        terminal.show(values)


def _print_rows(title: str, rows: list[Json], total: int, options: argparse.Namespace) -> None:
    """Print rows of `--drops` or `--quarantine`, and on the terminal how many there are."""
    if options.json:
        _print({title: rows}, as_json=True)
        return
    cut = f", the first {len(rows):,} of {total:,} (--limit N shows more)" if len(rows) < total else ""
    terminal.show({f"{title}{cut}": rows})
