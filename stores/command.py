"""The verb `millrace store`: what happened to a store, whether it is whole, what may go, and copies.

A table from sub-command to function. Nothing but repair, gc, copy, tag, certify and forget writes; whatever they do
stands in `docs/stores.md`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict

from manifests.progress import progress_bar
from manifests.records import Json
from stores import leases
from stores.files.open import open_files
from stores.store import Snapshot, Store
from stores.upkeep.copy import copy
from stores.upkeep.gc import collect_garbage
from stores.upkeep.log import diff, find_snapshot, log, shown_counts, tag, tags, untag
from stores.upkeep.repair import repair
from stores.upkeep.verify import verify

COMMANDS = {
    "log": ("stores.command:show_log", "snapshots, newest first"),
    "diff": ("stores.command:show_diff", "what one snapshot has and another has not"),
    "tag": ("stores.command:name_snapshot", "give a snapshot a name, which keeps it; list names"),
    "verify": (
        "stores.command:check",
        "read every byte again and compare, recount packs against their plan; exit code 1 where one differs",
    ),
    "repair": ("stores.command:mend", "take damaged objects from a copy, or salvage what is whole"),
    "gc": ("stores.command:clean", "let snapshots expire, delete what none reaches"),
    "copy": ("stores.command:duplicate", "a snapshot to another place, on any filesystem"),
    "certify": ("packing.loader.certify:main", "replay the first batches of packs in every way, keep their hashes"),
    "forget": ("stores.forget.forget:main", "take records out of all stores of a folder, for good"),
}

CONTENT_CHECKS = {"packs": "packing.proof_report:check_packs"}
"""Checks of `verify` beyond the bytes, by kind of store: each a function of (snapshot, show) that returns a
`ContentCheck`. Named as strings, because rooms above `stores` know what the kind promises."""


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: millrace store COMMAND ...\n")
        for name, (_, sentence) in COMMANDS.items():
            print(f"  {name:9}{sentence}")
        print("\nmillrace store COMMAND --help says more, with examples.")
        return 0
    if arguments[0] not in COMMANDS:
        print(f"millrace: no store command {arguments[0]!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, function = COMMANDS[arguments[0]][0].split(":")
    return getattr(importlib.import_module(module), function)(arguments[1:])


def show_log(arguments: list[str]) -> int:
    options = _parser("log", "runs/quickstart/packs").parse_args(arguments)
    rows = list(log(Store.open(options.store)))
    if options.json:
        return _json(rows)
    for row in rows:
        marks = [*row["tags"], *(["expired"] if row["expired"] else []), *([] if row["complete"] else ["not complete"])]
        print(f"{row['snapshot']:>6}  {row['committed']}  {row['content_root'][:12]}  {', '.join(marks)}".rstrip())
        print(f"        {_counts(row['counts'])}; node {row['node'][:12]}")
        for parent in row["parents"]:
            print(f"        made from {parent}")
    return 0


def show_diff(arguments: list[str]) -> int:
    parser = _parser("diff", "runs/quickstart/packs 1 head")
    parser.add_argument("old", help="head, a number or a tag")
    parser.add_argument("new", nargs="?", default="head", help="the same; by default the newest")
    options = parser.parse_args(arguments)
    store = Store.open(options.store)
    found = diff(find_snapshot(store, options.old), find_snapshot(store, options.new))
    if options.json:
        return _json(found)
    if found.pop("equal"):
        print("equal: the same content root")
    for what, told in found.items():
        for side, value in told.items():
            few = [str(one) for one in value[:5]] if isinstance(value, list) else [str(value)]
            more = f" and {len(value) - 5:,} more" if isinstance(value, list) and len(value) > 5 else ""
            if value:
                print(f"{what} {side}: {', '.join(few)}{more}")
    return 0


def name_snapshot(arguments: list[str]) -> int:
    parser = _parser("tag", "runs/quickstart/packs before-cleaning")
    parser.add_argument("name", nargs="?", help="without it the tags are listed")
    parser.add_argument("snapshot", nargs="?", default="head", help="head, a number or another tag")
    parser.add_argument("--move", action="store_true", help="take the name from the snapshot that has it")
    parser.add_argument("--delete", action="store_true", help="take the name away")
    options = parser.parse_args(arguments)
    store = Store.open(options.store)
    if options.name and options.delete:
        untag(store, options.name)
    elif options.name:
        tag(store, options.name, find_snapshot(store, options.snapshot), move=options.move)
    found = tags(store.files)
    if options.json:
        return _json(found)
    for name, told in found.items():
        print(f"{name}: snapshot {told['number']}, content root {told['content_root'][:12]}")
    return 0


def check(arguments: list[str]) -> int:
    parser = _parser("verify", "runs/quickstart/packs")
    parser.add_argument("snapshot", nargs="?", default="head", help="head, a number or a tag")
    options = parser.parse_args(arguments)
    snapshot = find_snapshot(Store.open(options.store), options.snapshot)
    with progress_bar("verify", None, unit="bytes", rate_unit="bytes") as bar:
        damages = verify(snapshot, lambda done, total: bar.update(done, items=done, total=total))
    content = None
    if not damages and snapshot.kind in CONTENT_CHECKS:
        module, function = CONTENT_CHECKS[snapshot.kind].split(":")
        with progress_bar("recount", None, unit="packs", rate_unit="packs") as bar:
            content = getattr(importlib.import_module(module), function)(
                snapshot, lambda done, total: bar.update(done, items=done, total=total)
            )
    failed = bool(damages) or content is not None and bool(content.failed)
    if options.json:
        _json(
            {
                "damages": [asdict(damage) for damage in damages],
                "content": None if content is None else asdict(content),
            }
        )
        return int(failed)
    for damage in damages:
        print(f"{damage.where}: {damage.what}")
    if damages:
        mended = f"millrace store repair {options.store}"
        mended = mended if snapshot.base_error is None else "put back what this view looks at"
        print(f"{len(damages)} damages; next: {mended}", file=sys.stderr)
        return 1
    print(f"snapshot {snapshot.number} is whole: {_said(snapshot)}")
    if content is not None:
        for line in content.proved:
            print(f"proved: {line}")
        if content.skipped:
            print(f"not proved: {content.skipped}")
        if content.failed:
            print(f"FAILED: {content.failed}")
            print("next: delete this store and run its node again", file=sys.stderr)
    return int(failed)


def mend(arguments: list[str]) -> int:
    parser = _parser("repair", "runs/mine/documents --from /backup/documents")
    parser.add_argument("--from", dest="copy", metavar="STORE", help="a copy that may still have what is damaged here")
    parser.add_argument("--accept", action="store_true", help="call what is left complete, so that it is read as it is")
    options = parser.parse_args(arguments)
    done = repair(Store.open(options.store), open_files(options.copy) if options.copy else None, accept=options.accept)
    if options.json:
        told = {"snapshot": done.snapshot.number, "restored": done.restored, "lost": done.lost}
        _json(told | {"lookup_made": done.lookup_made, "outside": done.outside})
        return 1 if done.outside else 0
    for path in done.restored:
        print(f"taken from the copy: {path}")
    for one in done.lost:
        print(f"lost: {one['unit']}, {one['shard'][:12]}[{one['row']}]: {one['why']}")
    if done.lookup_made:
        print("made again: the look-up of ids, URLs and digests")
    if done.lost and not options.accept:
        print("the new snapshot is not complete: run its node again, or repair with --accept", file=sys.stderr)
    print(f"snapshot {done.snapshot.number}: {_counts(shown_counts(done.snapshot))}")
    for url in done.outside:
        print(f"not ours to mend: {url}; put it back as it was, or delete this store and adopt again", file=sys.stderr)
    return 1 if done.outside else 0


def clean(arguments: list[str]) -> int:
    parser = _parser("gc", "runs/mine/documents --keep-last 3 --dry-run")
    parser.add_argument("--keep-last", type=int, metavar="N", help="so many of the newest snapshots stay")
    parser.add_argument("--keep-days", type=float, metavar="D", help="snapshots of so many days stay")
    parser.add_argument(
        "--grace", type=float, metavar="S", default=leases.GRACE_S, help="seconds after which a silent writer is dead"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    options = parser.parse_args(arguments)
    for name in ("keep_last", "keep_days", "grace"):
        value = getattr(options, name)
        if value is not None and not value >= 0:  # nor is it a number that is none
            parser.error(f"--{name.replace('_', '-')} {value:g}: expected 0 or more")
    found = collect_garbage(
        Store.open(options.store),
        keep_last=options.keep_last,
        keep_days=options.keep_days,
        grace_s=options.grace,
        dry_run=options.dry_run,
    )
    if options.json:
        return _json(found.as_json())
    for number, why in found.kept.items():
        print(f"snapshot {number} stays: {why}")
    print(f"{'would expire' if options.dry_run else 'expired'}: {', '.join(map(str, found.expired)) or 'none'}")
    size = sum(info.size for info in found.files) / 1e6
    print(f"{'would delete' if options.dry_run else 'deleted'} {len(found.files)} files, {size:,.1f} MB")
    if found.writers:
        print(f"{found.writers} writers are at work: what no snapshot reaches stays until they are done")
    return 0


def duplicate(arguments: list[str]) -> int:
    parser = _parser("copy", "runs/mine/documents s3://bucket/documents")
    parser.add_argument("target", help="folder or URL")
    parser.add_argument("--snapshot", default="head", help="head, a number or a tag")
    options = parser.parse_args(arguments)
    snapshot = find_snapshot(Store.open(options.store), options.snapshot)
    with progress_bar("copy", None, unit="objects", rate_unit="objects") as bar:
        made = copy(snapshot, options.target, lambda done, total: bar.update(done, items=done, total=total))
    told = {"store": made.url, "snapshot": made.number, "content_root": made.content_root}
    if options.json:
        return _json(told)
    print(f"{made.url}: snapshot {made.number}, content root {made.content_root[:12]}, {_said(made)}")
    return 0


def _parser(command: str, example: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"millrace store {command}",
        description=COMMANDS[command][1].capitalize() + ".",
        epilog=f"example:\n  millrace store {command} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("store", metavar="STORE", help="folder or URL of a store")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    return parser


def _json(found: Json) -> int:
    print(json.dumps(found, ensure_ascii=False))
    return 0


def _said(snapshot: Snapshot) -> str:
    """What is counted; of a view also what is kept by it and by those below it, and where that lies."""
    own = _counts(shown_counts(snapshot))
    if snapshot.kind != "view":
        return own
    return f"{own}; {len(snapshot.kept()):,} kept by it and by what it looks at, {snapshot.parents[0].url}"


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counted.items() if value)
