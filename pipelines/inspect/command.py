"""`millrace inspect`: what is in a store, a plan or a run, one record of it, one step of training. Never writes.

Results go to stdout, as tables, with `--json` as JSON, a step with `--html` as a page.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from manifests.errors import ManifestError
from manifests.records import Json
from pipelines.inspect import overview, queries, records, step_view, what_if
from pipelines.inspect.plan_view import PlanView
from stores.store import Snapshot

LEAST_WIDTH, FOLDED = 80, 16
"""Characters of a line, and of a column whose words are folded."""
TEXT, LONGEST = 240, 1 << 30
"""Characters of a segment's text that are shown of a step, in tables and in JSON."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="millrace inspect",
        description="Look at a store, a plan, a packs store or a whole run: counts, tokens by modality, vision share "
        "against schedule, fill, reasons for drops, single records.",
        epilog="examples:\n  millrace inspect runs/quickstart\n  millrace inspect runs/quickstart/packs --record 0\n"
        "  millrace inspect runs/quickstart/plan --step 200 --html > step.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", help="a store's folder or URL, or a run's folder")
    parser.add_argument(
        "--record",
        metavar="N|NAME",
        help="one record: a document, a sample, a pack segment by segment. By ordinal, id, URL (locator, origin), or "
        "SHA-256 of an image or video; of a plan, by a sample's id, every step that sees it",
    )
    parser.add_argument("--step", type=int, metavar="N", help="global batch N of a plan or packs store, trained or not")
    parser.add_argument("--html", action="store_true", help="a step as one page with its pictures, on stdout")
    parser.add_argument("--drops", metavar="REASON", nargs="?", const="", help="records that views dropped")
    parser.add_argument(
        "--what-if",
        metavar="OP.PARAMETER=NUMBER",
        action="append",
        help="of a filter's view: what it would keep with another limit; may be given several times",
    )
    parser.add_argument("--quarantine", action="store_true", help="what could not become a record, and why")
    parser.add_argument("--limit", type=_rows, default=20, help="rows of --drops and --quarantine (default 20)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    options = parser.parse_args(arguments)
    if options.html and options.step is None:
        parser.error("--html shows a step: give --step N")

    folder = Path(options.target)
    is_run = folder.is_dir() and not (folder / "store.json").exists()
    of_a_store = (options.record, options.drops, options.step, options.what_if, options.quarantine or None)
    if is_run and any(one is not None for one in of_a_store):
        names = ", ".join(queries.run_stores(folder)[0]) or "none yet"
        raise ManifestError("records are in stores, this is a run", where=str(folder), fix=f"name one of: {names}")
    if is_run:
        found = overview.run_overview(folder)
    else:
        snapshot = queries.newest_snapshot(options.target)
        if options.step is not None:
            planned = _planned(snapshot)
            if options.html:
                print(step_view.step_page(planned, options.step))
                return 0
            found = step_view.step_summary(planned, options.step, LONGEST if options.json else TEXT)
        elif options.what_if:
            found = what_if.what_if(snapshot, options.what_if)
            found = found if options.json else what_if.for_display(found)
        elif options.record is not None and snapshot.kind == "plan" and not records.is_ordinal(options.record):
            found = records.plan_occurrences(snapshot, options.record)
        elif options.record is not None:
            found = records.record_by_name(snapshot, options.record)
            note = "" if records.is_ordinal(options.record) else records.scan_note(snapshot)
            if note:
                print(note, file=sys.stderr)
        elif options.quarantine:
            found = {"quarantine": snapshot.quarantined().slice(0, options.limit).to_pylist()}
        elif options.drops is not None:
            found = {"dropped": records.dropped_records(snapshot, options.drops, options.limit)}
        else:
            found = overview.store_overview(snapshot)
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        show(found)
    return 0


def _planned(snapshot: Snapshot) -> PlanView:
    if snapshot.kind not in ("plan", "packs"):
        what = f"steps are made of packs, this store holds {snapshot.kind}"
        raise ManifestError(what, where=snapshot.url, fix="name the plan or the packs store")
    return PlanView(snapshot)


def _rows(given: str) -> int:
    """How many rows to show, as an option's value."""
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {given!r}")
    return int(given)


def show(found: Mapping[str, Json]) -> None:
    """Scalars as lines, maps as two columns, lists of maps as tables with long words folded, or as one block each where
    they are too wide for that."""
    console = Console(width=max(LEAST_WIDTH, Console().width), highlight=False, markup=False, emoji=False)
    for title, value in found.items():
        if isinstance(value, dict):
            console.print(f"\n{title}")
            console.print(_pairs(value))
        elif isinstance(value, list):
            console.print(f"\n{title}")
            if value and isinstance(value[0], dict):
                _show_rows(console, value)
            else:
                for inner in value:
                    console.print(f"  {_cell(inner)}", soft_wrap=True)
        else:
            console.print(f"{title:14}{_cell(value)}", soft_wrap=True)


def _show_rows(console: Console, rows: Sequence[Mapping[str, Json]]) -> None:
    names = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(name), *(len(row[place]) for row in cells)) for place, name in enumerate(names)]
    folds = [_folds(name, [row[place] for row in cells]) for place, name in enumerate(names)]
    least = sum(min(width, FOLDED) if fold else width for width, fold in zip(widths, folds, strict=True))
    if least + 2 * len(widths) > console.width:
        for row in rows:
            console.print(_pairs({name: row[name] for name in names if row.get(name) not in (None, "")}), "")
        return
    grid = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name, fold in zip(names, folds, strict=True):
        numeric = all(isinstance(row.get(name), (int, float, type(None))) for row in rows)
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=not fold)
    for told in cells:
        grid.add_row(*told)
    console.print(grid)


def _folds(name: str, cells: Sequence[str]) -> bool:
    """Words and sentences may go over several lines; numbers, and what people copy, stay whole."""
    return name == "text" or not any(re.fullmatch(r"[0-9a-f]{12,}|[-\d.,]*", cell) for cell in cells if cell)


def _pairs(values: Mapping[str, Json]) -> Table:
    grid = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 2))
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold")
    for key, inner in values.items():
        grid.add_row(str(key), _cell(inner))
    return grid


def _cell(value: Json) -> str:
    match value:
        case None:
            return ""
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4f}".rstrip("0").rstrip(".")
    return json.dumps(value, ensure_ascii=False)
