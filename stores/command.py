"""The verb `millrace store`: history, verification, garbage collection and copies of stores.

A table maps each sub-command to a function. Only repair, gc, copy, tag, certify and forget write. `docs/stores.md`
describes the sub-commands.
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
    "diff": ("stores.command:show_diff", "differences of two snapshots"),
    "tag": ("stores.command:tag_snapshot", "give a snapshot a tag, which keeps it from expiring; list tags"),
    "verify": (
        "stores.command:verify_store",
        "read every byte again and compare, recount packs against their plan; exit code 1 if one differs",
    ),
    "repair": ("stores.command:repair_store", "restore damaged objects from a copy, or salvage the good records"),
    "gc": ("stores.command:collect_store_garbage", "expire snapshots, delete files that no snapshot reaches"),
    "copy": ("stores.command:copy_store", "copy a snapshot to another place, on any filesystem"),
    "certify": ("packing.loader.certify:main", "replay the first batches of packs in every way, keep their hashes"),
    "forget": ("stores.forget.forget:main", "delete records from all stores of a folder, for good"),
}
"""Sub-command -> (module:function, help line)."""

COUNT_LABELS = {"loss_tokens": "tokens with loss", "dropped_here": "dropped by this view"}
"""Key of a count -> words for people, where the key is not clear."""

CONTENT_CHECKS = {"packs": "packing.proof_report:check_packs"}
"""Kind of store -> check of its records by `verify`: a function of (snapshot, on_progress) that returns a
`ContentCheck`. The functions are named as strings, because they are in rooms that import `stores`."""


def main(arguments: list[str]) -> int:
    """Run a sub-command; return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: millrace store COMMAND ...\n")
        for name, (_, sentence) in COMMANDS.items():
            print(f"  {name:9}{sentence}")
        print("\nmillrace store COMMAND --help describes its options, with an example.")
        return 0
    if arguments[0] not in COMMANDS:
        print(f"millrace: no store command {arguments[0]!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, function = COMMANDS[arguments[0]][0].split(":")
    return getattr(importlib.import_module(module), function)(arguments[1:])


def show_log(arguments: list[str]) -> int:
    """Print the snapshots of a store."""
    options = _parser("log", "runs/quickstart/packs").parse_args(arguments)
    rows = list(log(Store.open(options.store)))
    if options.json:
        return _print_json(rows)
    for row in rows:
        marks = [*row["tags"], *(["expired"] if row["expired"] else []), *([] if row["complete"] else ["not complete"])]
        print(f"{row['snapshot']:>6}  {row['committed']}  {row['content_root'][:12]}  {', '.join(marks)}".rstrip())
        print(f"        {_counts(row['counts'])}; node identity {row['node'][:12]}")
        for parent in row["parents"]:
            print(f"        made from {parent}")
    return 0


def show_diff(arguments: list[str]) -> int:
    """Print the differences of two snapshots."""
    parser = _parser("diff", "runs/quickstart/packs 1 head")
    parser.add_argument("old", help="head, a number or a tag")
    parser.add_argument("new", nargs="?", default="head", help="head, a number or a tag; by default the newest")
    options = parser.parse_args(arguments)
    store = Store.open(options.store)
    differences = diff(find_snapshot(store, options.old), find_snapshot(store, options.new))
    if options.json:
        return _print_json(differences)
    if differences.pop("equal"):
        print("equal: the same content root")
    for subject, sides in differences.items():
        for side, value in sides.items():
            few = [str(item) for item in value[:5]] if isinstance(value, list) else [str(value)]
            more = f" and {len(value) - 5:,} more" if isinstance(value, list) and len(value) > 5 else ""
            if value:
                print(f"{subject} {side}: {', '.join(few)}{more}")
    return 0


def tag_snapshot(arguments: list[str]) -> int:
    """Give a snapshot a tag, delete a tag, or print all tags."""
    parser = _parser("tag", "runs/quickstart/packs before-cleaning")
    parser.add_argument("name", nargs="?", help="tag; without it, all tags are listed")
    parser.add_argument("snapshot", nargs="?", default="head", help="head, a number or another tag")
    parser.add_argument("--move", action="store_true", help="take the tag from the snapshot that has it")
    parser.add_argument("--delete", action="store_true", help="delete the tag")
    options = parser.parse_args(arguments)
    store = Store.open(options.store)
    if options.name and options.delete:
        untag(store, options.name)
    elif options.name:
        tag(store, options.name, find_snapshot(store, options.snapshot), move=options.move)
    tagged = tags(store.files)
    if options.json:
        return _print_json(tagged)
    if options.name and options.delete:
        print(f"deleted: tag {options.name}")
    if not tagged:
        print("no tags")
    for name, snapshot in tagged.items():
        print(f"{name}: snapshot {snapshot['number']}, content root {snapshot['content_root'][:12]}")
    return 0


def verify_store(arguments: list[str]) -> int:
    """Verify a snapshot and print its damages; exit code 1 if there are any."""
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
        _print_json(
            {
                "damages": [asdict(damage) for damage in damages],
                "content": None if content is None else asdict(content),
            }
        )
        return int(failed)
    for damage in damages:
        print(f"{damage.where}: {damage.what}")
    if damages:
        repair_command = f"millrace store repair {options.store}"
        fix = repair_command if snapshot.base_error is None else "put back the store that this view is over"
        print(f"{_plural(len(damages), 'damage')}; fix: {fix}", file=sys.stderr)
        return 1
    print(f"snapshot {snapshot.number}: no damage; {_summary(snapshot)}")
    if content is not None:
        for line in content.proved:
            print(f"checked: {line}")
        if content.skipped:
            print(f"not compared with the plan: {content.skipped}")
        if content.failed:
            print(f"DIFFERS from the plan: {content.failed}")
            print("fix: delete this store and run its node again", file=sys.stderr)
    return int(failed)


def repair_store(arguments: list[str]) -> int:
    """Repair the newest snapshot; exit code 1 if an adopted tar changed."""
    parser = _parser("repair", "runs/mine/documents --from /backup/documents")
    parser.add_argument("--from", dest="copy", metavar="STORE", help="a copy that may have the damaged objects")
    parser.add_argument("--accept", action="store_true", help="call the salvaged snapshot complete")
    options = parser.parse_args(arguments)
    copied = open_files(options.copy) if options.copy else None
    result = repair(Store.open(options.store), copied, accept=options.accept)
    if options.json:
        values = {"snapshot": result.snapshot.number, "restored": result.restored, "lost": result.lost}
        _print_json(values | {"lookup_rebuilt": result.lookup_made, "changed_tars": result.changed_tars})
        return 1 if result.changed_tars else 0
    for path in result.restored:
        print(f"restored from the copy: {path}")
    for record in result.lost:
        print(f"lost: {record['unit']}, {record['shard'][:12]}[{record['row']}]: {record['why']}")
    if result.lookup_made:
        print("rebuilt: the lookup index of ids, URLs and digests")
    if not (result.restored or result.lost or result.lookup_made or result.changed_tars):
        print("no damage found")
    if result.lost and not options.accept:
        print("the new snapshot is not complete: run its node again, or repair with --accept", file=sys.stderr)
    print(f"snapshot {result.snapshot.number}: {_counts(shown_counts(result.snapshot))}")
    for url in result.changed_tars:
        fix = "put it back as it was, or delete this store and adopt again"
        print(f"can't be repaired: the adopted tar {url}; fix: {fix}", file=sys.stderr)
    return 1 if result.changed_tars else 0


def collect_store_garbage(arguments: list[str]) -> int:
    """Expire snapshots and delete unreachable files."""
    parser = _parser("gc", "runs/mine/documents --keep-last 3 --dry-run")
    parser.add_argument("--keep-last", type=int, metavar="N", help="keep the N newest snapshots")
    parser.add_argument("--keep-days", type=float, metavar="D", help="keep the snapshots of the last D days")
    parser.add_argument(
        "--grace",
        type=float,
        metavar="S",
        default=leases.GRACE_S,
        help="seconds without a heartbeat until a writer is dead",
    )
    parser.add_argument("--dry-run", action="store_true", help="change nothing, print what would be deleted")
    options = parser.parse_args(arguments)
    for name in ("keep_last", "keep_days", "grace"):
        value = getattr(options, name)
        if value is not None and not value >= 0:  # also refuses NaN
            parser.error(f"--{name.replace('_', '-')}: expected 0 or more, got {value:g}")
    result = collect_garbage(
        Store.open(options.store),
        keep_last=options.keep_last,
        keep_days=options.keep_days,
        grace_s=options.grace,
        dry_run=options.dry_run,
    )
    if options.json:
        return _print_json(result.as_json())
    for number, reason in result.kept.items():
        print(f"snapshot {number} is kept: {reason}")
    print(f"{'would expire' if options.dry_run else 'expired'}: {', '.join(map(str, result.expired)) or 'none'}")
    size = sum(info.size for info in result.files) / 1e6
    print(f"{'would delete' if options.dry_run else 'deleted'} {_plural(len(result.files), 'file')}, {size:,.1f} MB")
    if result.writers:
        print(f"{_plural(result.writers, 'active writer')}: unreachable files are kept until all writers are done")
    return 0


def copy_store(arguments: list[str]) -> int:
    """Copy a snapshot."""
    parser = _parser("copy", "runs/mine/documents s3://bucket/documents")
    parser.add_argument("target", help="folder or URL")
    parser.add_argument("--snapshot", default="head", help="head, a number or a tag")
    options = parser.parse_args(arguments)
    snapshot = find_snapshot(Store.open(options.store), options.snapshot)
    with progress_bar("copy", None, unit="objects", rate_unit="objects") as bar:
        copied = copy(snapshot, options.target, lambda done, total: bar.update(done, items=done, total=total))
    if options.json:
        return _print_json({"store": copied.url, "snapshot": copied.number, "content_root": copied.content_root})
    print(f"{copied.url}: snapshot {copied.number}, content root {copied.content_root[:12]}, {_summary(copied)}")
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


def _print_json(value: Json) -> int:
    print(json.dumps(value, ensure_ascii=False))
    return 0


def _summary(snapshot: Snapshot) -> str:
    """Return one-line counts of a snapshot; for views also kept records and base URL."""
    own = _counts(shown_counts(snapshot))
    if snapshot.kind != "view":
        return own
    return f"{own}; {len(snapshot.kept()):,} records kept by it and all views below it, of {snapshot.parents[0].url}"


def _counts(counts: Mapping[str, int]) -> str:
    """Return the counts that are not zero in one line."""
    words = (COUNT_LABELS.get(name, name.removesuffix("s") if value == 1 else name) for name, value in counts.items())
    return ", ".join(f"{value:,} {word}" for word, value in zip(words, counts.values(), strict=True) if value)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
