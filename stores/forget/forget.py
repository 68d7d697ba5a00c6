"""`millrace store forget`: what was named leaves every store of a folder, and does not come back.

    names -> closure.py (what else holds them) -> tombstones.py -> rewrite.py, store by store -> exposure.py -> receipt

1. **Closure.** Documents of these ids, sources, places or media; what was made from them; exact duplicates of them that
   a view found; samples and segments of packs that show such a medium.
2. **Tombstones** are published before anything else: from then on ingest refuses what they name, and this command,
   killed at any point and started again, goes on.
3. **Stores.** Rows, ordinals, offsets, plans, content roots and identities of nodes stay as they are: nothing is run
   again, and everything else is read in the same order. Older snapshots that still reach what is forgotten expire,
   with all that only they reach; what killed writers left, `millrace store gc` takes.
   Answers of endpoints about forgotten documents (`endpoint.py`) are deleted.
4. **Talk.** The page of a run is deleted (the next run draws it again, from the stores), free text in run logs is
   emptied: nobody can say whose words stand there.
5. **The receipt** says where they had been. Weights can't forget.
"""

from __future__ import annotations

import argparse
import json
import posixpath
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import file_digest
from pathlib import Path

from manifests.errors import ManifestError, StoreError
from manifests.records import Json
from stores import endpoint, tombstones
from stores.files import deny_lists, disk_cache
from stores.files.local import LocalFiles
from stores.files.open import open_files
from stores.files.protocol import NO_SWAP, Files
from stores.forget.closure import RECORDS, closure, unsearchable
from stores.forget.exposure import pack_exposures, plan_exposures, training_exposures
from stores.forget.redact_store import adopted_tars, expire, in_dependency_order, redact
from stores.snapshot import Snapshot
from stores.store import Store
from stores.tombstones import NameKind, Tombstones
from stores.upkeep import lookup
from stores.upkeep.run_lock import file_lock, run_lock, stores_url

PAGE, LOG = "report.html", "log.jsonl"
TALK = {"details": [], "error": "", "message": ""}
"""Fields of a run log that may repeat a record's words, and what is left of them."""
WEIGHTS = (
    "Weights can't forget: checkpoints of the runs named here, and what was made from them, have seen these records."
)

OPTIONS: dict[NameKind, str] = {"ids": "--id", "sources": "--source", "places": "--url", "media": "--image"}

Names = Mapping[NameKind, frozenset[str]]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="millrace store forget",
        description="Take records out of every store of a folder (a run), out of packs as padding without loss, and "
        "keep them from coming back. Order and identity of everything else stay. Without a name, goes on with what was "
        "begun.",
        epilog="examples:\n"
        "  millrace store forget runs/mine --url https://example.org/page\n"
        "  millrace store forget runs/mine --image photo.jpg --id 0123456789abcdef0123456789abcdef",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder or URL that holds the stores, e.g. runs/mine")
    named = {"--id": "a record", "--source": "all records of an ingest node", "--url": "a URL, origin or locator"}
    for option, text in named.items():
        parser.add_argument(option, action="append", default=[], metavar=option[2:].upper(), help=f"{text}; repeatable")
    parser.add_argument(
        "--image", action="append", default=[], metavar="SHA256|FILE", help="an image or video, wherever it is shown"
    )
    parser.add_argument("--json", action="store_true", help="the receipt as JSON on stdout")
    options = parser.parse_args(arguments)

    names: Names = {
        "ids": frozenset(map(_record_id, options.id)),
        "sources": frozenset(options.source),
        "places": frozenset(options.url),
        "media": frozenset(map(_media_digest, options.image)),
    }
    receipt = forget(options.folder, names)
    if options.json:
        print(json.dumps(receipt, ensure_ascii=False))
    else:
        print("\n".join(_spoken(receipt)))
    for one in receipt["not_looked_into"]:
        print(f"not complete: {one['store']} can't be looked into: {one['why']}", file=sys.stderr)
    if receipt["not_looked_into"]:
        print(f"next: put that back or delete these, then millrace store forget {options.folder}", file=sys.stderr)
    return 1 if receipt["not_looked_into"] else 0


def _record_id(given: str) -> str:
    if not re.fullmatch("[0-9a-f]{32}", given):
        fix = "give it whole: `millrace inspect STORE --record N --json` shows it"
        raise ManifestError(f"{given!r} is no id of a record, which has 32 hex digits", where="--id", fix=fix)
    return given


def _media_digest(given: str) -> str:
    if re.fullmatch("[0-9a-f]{64}", given):
        return given
    try:
        with Path(given).open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        fix = "give a file, or the 64 hex digits of the SHA-256 of its bytes"
        raise ManifestError(f"can't be read ({error.strerror})", where=f"--image {given}", fix=fix) from None


def forget(folder: str, names: Names) -> Json:
    """Forget what is named in all stores below `folder`; without a name, finish what earlier calls began.

    Returns the receipt, which is also left at FOLDER/forgotten/receipts. Stores that are left alone, because what they
    look at is gone, stand in it under `not_looked_into`: then it is not complete.

    Raises:
        StoreError: there are no stores, a name is found nowhere, a run is at work, a filesystem has no
            compare-and-swap. Nothing is changed then.
    """
    local, files = open_files(folder), open_files(stores_url(folder))
    everywhere = _stores(files)
    with _alone(files, local):
        unread = unsearchable(everywhere)
        stores = [store for store in everywhere if store.url not in unread]
        number, these = _listed(files, stores, names, unread)
        stones = tombstones.read(files.url)
        before = {store.url: head.number for store in stores if (head := store.head()) is not None}
        sources = {store.name for store in stores if store.kind == "documents"}
        heads: dict[str, Snapshot] = {}
        for store in stores:
            heads[store.url] = redact(store, stones, sources, heads)
        expired = {store.url: expire(store, stones, sources) for store in stores}
        for head in heads.values():
            lookup.rebuild_purged(head)
        found = pack_exposures(stores, these)
        receipt: Json = {
            "list": f"{deny_lists.FOLDER}/{deny_lists.list_path(number)}",
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "records": {
                _inside(files, url): _count(head, these) for url, head in heads.items() if head.kind in RECORDS
            },
            "rewritten": [
                {"store": _inside(files, url), "snapshot": head.number, "expired": expired[url]}
                for url, head in heads.items()
                if head.number != before[url] or expired[url]
            ],
            "answers": endpoint.delete_answers(files.url, tombstones.read(files.url)),
            "plans": [plan.as_json(files.url) for plan in plan_exposures(stores, these)],
            "packs": [exposure.as_json(files.url) for exposure in found],
            "training": [run | {"packs": _inside(files, run["packs"])} for run in training_exposures(local, found)],
            "outside": sorted({url for head in heads.values() for url in adopted_tars(head, these)}),
            "weights": WEIGHTS,
            "talk": _silence(files, local, everywhere),
            "not_looked_into": [{"store": _inside(files, url), "why": why} for url, why in unread.items()],
        }
        _keep(files, number, receipt)
        if (kept := disk_cache.process_cache()) is not None:
            for store in everywhere:
                kept.drop(store.url)
    return receipt


def _stores(files: Files) -> list[Store]:
    """The stores below, every one after those it was made from."""
    if files.exists("store.json"):
        fix = f"give the folder that holds it: {posixpath.dirname(files.url)}"
        raise StoreError(
            "this is one store; a record is forgotten in all that belong together", where=files.url, fix=fix
        )
    places = [posixpath.dirname(info.path) for info in files.listing("") if info.path.endswith("/store.json")]
    stores = in_dependency_order([Store.open(f"{files.url}/{place}") for place in places])
    if not stores:
        raise StoreError("there is no store with a commit below", where=files.url, fix="give the folder of a run")
    for store in stores:
        if store.files.swap_by == NO_SWAP:
            fix = "copy the stores to a filesystem that has one, forget there, and delete these"
            raise StoreError("no compare-and-swap here, so nothing can be forgotten safely", where=store.url, fix=fix)
    return stores


def _listed(files: Files, stores: Sequence[Store], names: Names, unread: Mapping[str, str]) -> tuple[int, Tombstones]:
    """Publish the list of what goes, unless an earlier one has it: its number, and what these names stand for."""
    lists = tombstones.read_all(files.url)
    everything = tombstones.read(files.url)
    wanted = tombstones.tombstones_of(names)
    if wanted:
        covering = {number: known for number, known in lists.items() if wanted | known == known}
        if covering:
            return max(covering), tombstones.union(covering.values())
        gone, found = closure(stores, lambda what, name: name in names[what])
        _refuse_unknown(files, names, found, unread)
    elif everything:
        gone, _ = closure(stores, everything.has_name)
    else:
        raise StoreError(
            "nothing was forgotten here so far", where=files.url, fix="give --id, --source, --url or --image"
        )
    stones = wanted | tombstones.tombstones_of({"ids": gone})
    if everything | stones == everything and not wanted:
        return max(lists), everything
    return tombstones.publish_list(files.url, stones), stones if wanted else everything | stones


def _refuse_unknown(files: Files, names: Names, found: set[tuple[NameKind, str]], unread: Mapping[str, str]) -> None:
    unknown = [(what, name) for what, some in names.items() for name in sorted(some) if (what, name) not in found]
    if unknown:
        words = ", ".join(f"{OPTIONS[what]} {name}" for what, name in unknown[:5])
        more = "".join(f"; {_inside(files, url)} can't be looked into: {why}" for url, why in unread.items())
        raise StoreError(
            f"found in no store: {words}{' and others' if len(unknown) > 5 else ''}; nothing was changed{more}",
            where=files.url,
            fix="check the name, and that FOLDER is the run that holds it",
        )


@contextmanager
def _alone(files: Files, local: Files) -> Iterator[None]:
    """Hold the run, and its trainers, which have locks in a local folder. Raises StoreError if one is held: who reads a
    store while its old snapshots go away would be left without them."""
    with ExitStack() as held:
        held.enter_context(run_lock(files))
        if isinstance(local, LocalFiles):
            for path in sorted({local.root / "lock", *local.root.glob("*/lock")}):
                if str(path.parent) != files.url:
                    held.enter_context(file_lock(path))
        yield


def _count(head: Snapshot, these: Tombstones) -> int:
    names = head.table(["id"]).column("id").to_pylist()
    return sum(these.has_name("ids", name) for name in names)


def _silence(files: Files, local: Files, stores: Sequence[Store]) -> dict[str, Json]:
    """Delete pages and empty the free text of run logs, in the folders that hold stores."""
    pages, logs = [], []
    for run in sorted({_inside(files, posixpath.dirname(store.url)) for store in stores}):
        page, log = (posixpath.normpath(f"{run}/{name}") for name in (PAGE, LOG))
        if local.exists(page):
            local.delete(page)
            pages.append(page)
        if local.exists(log):
            old = local.read(log)
            new = b"".join(map(_silenced, old.splitlines(keepends=True)))
            if new != old:
                local.delete(log)
                local.swap(log, new)
                logs.append(log)
    return {"pages_deleted": pages, "logs_emptied": logs}


def _silenced(line: bytes) -> bytes:
    try:
        told = json.loads(line)
    except ValueError:  # torn by a kill
        return b""
    return json.dumps(told | {name: TALK[name] for name in told if name in TALK}, ensure_ascii=False).encode() + b"\n"


def _keep(files: Files, number: int, receipt: Json) -> None:
    """Beside the list; a command that was run again leaves another receipt."""
    data = json.dumps(receipt, indent=1, ensure_ascii=False).encode() + b"\n"
    kept = open_files(f"{files.url}/{deny_lists.FOLDER}")
    times = 1
    while not kept.swap(f"receipts/{number:06d}-{times}.json", data):
        times += 1


def _inside(files: Files, url: str) -> str:
    return posixpath.relpath(url, files.url)


def _spoken(receipt: Json) -> list[str]:
    """The receipt in lines for people."""
    records = ", ".join(f"{name} {count:,}" for name, count in receipt["records"].items() if count)
    lines = [f"forgotten: {records or 'no document or sample, but what was set aside'}"]
    lines += [f"rewritten: {one['store']}, snapshot {one['snapshot']}" for one in receipt["rewritten"]]
    lines += [f"deleted: {receipt['answers']:,} answers of endpoints about them"] if receipt["answers"] else []
    lines += [f"{one['store']}: plan {one['plan'][:12]}, {len(one['packs']):,} packs" for one in receipt["plans"]]
    for one in receipt["packs"]:
        batches = ", ".join(map(str, one["global_batches"][:12])) + (" ..." if len(one["global_batches"]) > 12 else "")
        lines.append(
            f"{one['store']}: {one['segments']:,} segments in {len(one['packs']):,} packs, global batches {batches}"
        )
    for run in receipt["training"]:
        saw = len(run["steps_that_saw_it"])
        lines.append(f"trained in {run['run']}: {saw:,} of its {run['steps_done']:,} steps saw them")
    lines += [
        f"still in the adopted tar {url}, which is not ours to change: delete it there" for url in receipt["outside"]
    ]
    lines += [WEIGHTS] if any(run["steps_that_saw_it"] for run in receipt["training"]) else []
    lines += [f"deleted: {page}; the next run draws it again" for page in receipt["talk"]["pages_deleted"]]
    lines += [f"emptied: free text of {log}" for log in receipt["talk"]["logs_emptied"]]
    return [
        *lines,
        f"list: {receipt['list']}; keep it as long as the raw files: it is what stops them from coming back",
    ]
