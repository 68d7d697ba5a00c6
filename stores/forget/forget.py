"""`millrace store forget`: delete named records from every store of a run, and keep them from coming back.

    names -> `closure.py` -> `tombstones.py` -> `redact_store.py`, store by store -> `exposure.py` -> receipt

1. **Closure.** The documents with these ids, sources, places or media; everything made from them; their exact
duplicates
   that a view found; samples and segments of packs with such a medium.
2. **Deny list.** It is published before anything changes. From then on ingest refuses these names. A killed command
   continues when it is started again.
3. **Stores.** Records are redacted. Rows, ordinals, offsets, plans, content roots and identities of nodes stay, so that
no
   node runs again and all other records are read in the same order. Older snapshots with such a record expire, and the
   objects that only they reach are deleted. `millrace store gc` deletes the leftovers of killed writers. Cached
   responses of endpoints about such documents (`endpoint.py`) are deleted.
4. **Free text.** The page of a run is deleted; the next run makes it again from the stores. Free text in run logs is
   emptied, because it may quote any record.
5. **Receipt.** It lists the plans, packs, batches and training steps that contained the records. Weights can't forget.
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
FREE_TEXT = {"details": [], "error": "", "message": ""}
"""Fields of a run log that may quote a record -> their emptied values."""
WEIGHTS = (
    "Weights can't forget: the checkpoints of the runs listed here, and models made from them, have seen these records."
)

OPTIONS: dict[NameKind, str] = {"ids": "--id", "sources": "--source", "places": "--url", "media": "--image"}

Names = Mapping[NameKind, frozenset[str]]
"""Names to forget, by kind; every kind is present."""


def main(arguments: list[str]) -> int:
    """Run the command. Returns 1 if stores could not be searched."""
    parser = argparse.ArgumentParser(
        prog="millrace store forget",
        description="Delete records from all stores of a run, and keep them from coming back. In packs they become "
        "padding without loss. Order and identity of all other records stay. Without a name, continues a deletion that "
        "was interrupted.",
        epilog="examples:\n"
        "  millrace store forget runs/mine --url https://example.org/page\n"
        "  millrace store forget runs/mine --image photo.jpg --id 0123456789abcdef0123456789abcdef",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder or URL that holds the stores, e.g. runs/mine")
    options = {
        "--id": "id of a record",
        "--source": "name of an ingest node, for all its records",
        "--url": "URL, origin or locator of a record",
    }
    for option, text in options.items():
        parser.add_argument(option, action="append", default=[], metavar=option[2:].upper(), help=f"{text}; repeatable")
    media_help = "image or video file, or its SHA-256, for all records that show it; repeatable"
    parser.add_argument("--image", action="append", default=[], metavar="SHA256|FILE", help=media_help)
    parser.add_argument("--json", action="store_true", help="print the receipt as JSON")
    parsed = parser.parse_args(arguments)

    names: Names = {
        "ids": frozenset(map(_check_id, parsed.id)),
        "sources": frozenset(parsed.source),
        "places": frozenset(parsed.url),
        "media": frozenset(map(_media_digest, parsed.image)),
    }
    receipt = forget(parsed.folder, names)
    print(json.dumps(receipt, ensure_ascii=False) if parsed.json else "\n".join(_receipt_lines(receipt)))
    for store in receipt["not_searched"]:
        print(f"incomplete: {store['store']} can't be searched: {store['reason']}", file=sys.stderr)
    if receipt["not_searched"]:
        fix = f"restore the missing store or delete these, then run millrace store forget {parsed.folder}"
        print(f"fix: {fix}", file=sys.stderr)
    return 1 if receipt["not_searched"] else 0


def _check_id(value: str) -> str:
    if not re.fullmatch("[0-9a-f]{32}", value):
        fix = "copy all of it from `millrace inspect STORE --record N --json`"
        raise ManifestError(f"{value!r} is no record id: expected 32 hex digits", where="--id", fix=fix)
    return value


def _media_digest(value: str) -> str:
    """Return the SHA-256 that `value` is, or that of the file at this path."""
    if re.fullmatch("[0-9a-f]{64}", value):
        return value
    try:
        with Path(value).open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        fix = "give the path of a file, or the SHA-256 of its bytes in 64 hex digits"
        raise ManifestError(f"can't be read ({error.strerror})", where=f"--image {value}", fix=fix) from None


def forget(folder: str, names: Names) -> Json:
    """Delete the named records from all stores below `folder`; without a name, finish what earlier calls began.

    Returns:
        The receipt, also written to FOLDER/forgotten/receipts. Stores that can't be searched, because the base or a
        parent is missing, are listed in it under `not_searched` and stay as they are; the deletion is then incomplete.
    Raises:
        StoreError: there are no stores, a name is in no store, a run is active, or a filesystem has no
        compare-and-swap.
            Nothing is changed then.
    """
    local, files = open_files(folder), open_files(stores_url(folder))
    all_stores = _open_stores(files)
    with _exclusive(files, local):
        not_searched = unsearchable(all_stores)
        stores = [store for store in all_stores if store.url not in not_searched]
        number, added = _publish_deny_list(files, stores, names, not_searched)
        deny_list = tombstones.read(files.url)
        before = {store.url: head.number for store in stores if (head := store.head()) is not None}
        sources = {store.name for store in stores if store.kind == "documents"}
        heads: dict[str, Snapshot] = {}
        for store in stores:
            heads[store.url] = redact(store, deny_list, sources, heads)
        expired = {store.url: expire(store, deny_list, sources) for store in stores}
        for head in heads.values():
            lookup.rebuild_purged(head)
        packs = pack_exposures(stores, added)
        receipt: Json = {
            "deny_list": f"{deny_lists.FOLDER}/{deny_lists.list_path(number)}",
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "records": {
                _relative(files, url): _count(head, added) for url, head in heads.items() if head.kind in RECORDS
            },
            "rewritten": [
                {"store": _relative(files, url), "snapshot": head.number, "expired": expired[url]}
                for url, head in heads.items()
                if head.number != before[url] or expired[url]
            ],
            "cached_responses": endpoint.delete_answers(files.url, deny_list),
            "plans": [exposure.as_json(files.url) for exposure in plan_exposures(stores, added)],
            "packs": [exposure.as_json(files.url) for exposure in packs],
            "training": [run | {"packs": _relative(files, run["packs"])} for run in training_exposures(local, packs)],
            "adopted_tars": sorted({url for head in heads.values() for url in adopted_tars(head, added)}),
            "weights": WEIGHTS,
            "free_text": _delete_free_text(files, local, all_stores),
            "not_searched": [
                {"store": _relative(files, url), "reason": reason} for url, reason in not_searched.items()
            ],
        }
        _write_receipt(files, number, receipt)
        if (cache := disk_cache.process_cache()) is not None:
            for store in all_stores:
                cache.drop(store.url)
    return receipt


def _open_stores(files: Files) -> list[Store]:
    """Open the stores below a folder, each after the stores that it was made from."""
    if files.exists("store.json"):
        fix = f"give the folder that contains it: {posixpath.dirname(files.url)}"
        raise StoreError("this is one store, but records are forgotten in a whole run", where=files.url, fix=fix)
    folders = [posixpath.dirname(info.path) for info in files.listing("") if info.path.endswith("/store.json")]
    stores = in_dependency_order([Store.open(f"{files.url}/{store}") for store in folders])
    if not stores:
        raise StoreError("there is no store with a commit below", where=files.url, fix="give the folder of a run")
    for store in stores:
        if store.files.swap_by == NO_SWAP:
            fix = "copy the stores to a filesystem that has one, forget there, and delete these"
            raise StoreError("no compare-and-swap here, so forgetting is not safe", where=store.url, fix=fix)
    return stores


def _publish_deny_list(
    files: Files, stores: Sequence[Store], names: Names, not_searched: Mapping[str, str]
) -> tuple[int, Tombstones]:
    """Publish the deny list of these names and of everything that must go with them.

    Returns:
        Number and content of the list. Without a name: number of the newest list, and all lists together.
    """
    lists = tombstones.read_all(files.url)
    all_listed = tombstones.read(files.url)
    wanted = tombstones.tombstones_of(names)
    if wanted:
        covering = {number: listed for number, listed in lists.items() if wanted | listed == listed}
        if covering:
            return max(covering), tombstones.union(covering.values())
        ids, existing = closure(stores, lambda kind, name: name in names[kind])
        _refuse_unknown(files, names, existing, not_searched)
    elif all_listed:
        ids, _ = closure(stores, all_listed.has_name)
    else:
        fix = "give --id, --source, --url or --image"
        raise StoreError("nothing was forgotten here so far", where=files.url, fix=fix)
    added = wanted | tombstones.tombstones_of({"ids": ids})
    if all_listed | added == all_listed and not wanted:
        return max(lists), all_listed
    return tombstones.publish_list(files.url, added), added if wanted else all_listed | added


def _refuse_unknown(
    files: Files, names: Names, existing: set[tuple[NameKind, str]], not_searched: Mapping[str, str]
) -> None:
    """Raise StoreError if a name occurs in no store."""
    unknown = [(kind, name) for kind, group in names.items() for name in sorted(group) if (kind, name) not in existing]
    if unknown:
        listed = ", ".join(f"{OPTIONS[kind]} {name}" for kind, name in unknown[:5])
        more = "".join(f"; {_relative(files, url)} can't be searched: {why}" for url, why in not_searched.items())
        raise StoreError(
            f"found in no store: {listed}{' and others' if len(unknown) > 5 else ''}; nothing was changed{more}",
            where=files.url,
            fix="check the name, and that FOLDER is the run with this record",
        )


@contextmanager
def _exclusive(files: Files, local: Files) -> Iterator[None]:
    """Hold the locks of the run and of the training folders in it, whose processes read snapshots that would expire.

    Raises StoreError if another process holds one.
    """
    with ExitStack() as locks:
        locks.enter_context(run_lock(files))
        if isinstance(local, LocalFiles):
            for path in sorted({local.root / "lock", *local.root.glob("*/lock")}):
                if str(path.parent) != files.url:
                    locks.enter_context(file_lock(path))
        yield


def _count(head: Snapshot, deny_list: Tombstones) -> int:
    """Return the number of records of a store whose id is on the deny list."""
    ids = head.table(["id"]).column("id").to_pylist()
    return sum(deny_list.has_name("ids", record) for record in ids)


def _delete_free_text(files: Files, local: Files, stores: Sequence[Store]) -> dict[str, Json]:
    """Delete the pages and empty the free text of the run logs in the folders that hold stores."""
    pages, logs = [], []
    for run in sorted({_relative(files, posixpath.dirname(store.url)) for store in stores}):
        page, log = (posixpath.normpath(f"{run}/{name}") for name in (PAGE, LOG))
        if local.exists(page):
            local.delete(page)
            pages.append(page)
        if local.exists(log):
            old = local.read(log)
            new = b"".join(map(_empty_free_text, old.splitlines(keepends=True)))
            if new != old:
                local.delete(log)
                local.swap(log, new)
                logs.append(log)
    return {"pages_deleted": pages, "logs_emptied": logs}


def _empty_free_text(line: bytes) -> bytes:
    try:
        event = json.loads(line)
    except ValueError:  # the process was killed while it wrote the line
        return b""
    emptied = {name: FREE_TEXT[name] for name in event if name in FREE_TEXT}
    return json.dumps(event | emptied, ensure_ascii=False).encode() + b"\n"


def _write_receipt(files: Files, number: int, receipt: Json) -> None:
    """Write the receipt next to deny list `number`. A repeated command writes another one."""
    data = json.dumps(receipt, indent=1, ensure_ascii=False).encode() + b"\n"
    folder = open_files(f"{files.url}/{deny_lists.FOLDER}")
    attempt = 1
    while not folder.swap(f"receipts/{number:06d}-{attempt}.json", data):
        attempt += 1


def _relative(files: Files, url: str) -> str:
    return posixpath.relpath(url, files.url)


def _receipt_lines(receipt: Json) -> list[str]:
    """Return the receipt in lines for the terminal."""
    records = ", ".join(f"{name} {count:,}" for name, count in receipt["records"].items() if count)
    lines = [f"forgotten: {records or 'no document or sample, only quarantined records'}"]
    lines += [f"redacted: {store['store']}, snapshot {store['snapshot']}" for store in receipt["rewritten"]]
    if responses := receipt["cached_responses"]:
        lines.append(f"deleted: cached responses of endpoints: {responses:,}")
    for plan in receipt["plans"]:
        lines.append(f"planned: {plan['store']} (plan {plan['plan'][:12]}), packs with them: {len(plan['packs']):,}")
    for packs in receipt["packs"]:
        batches = ", ".join(map(str, packs["global_batches"][:12])) + (", ..." if packs["global_batches"][12:] else "")
        count = f"segments with them: {packs['segments']:,}; packs: {len(packs['packs']):,}"
        lines.append(f"packed: {packs['store']}, {count}; global batches: {batches}")
    for run in receipt["training"]:
        exposed = len(run["exposed_steps"])
        lines.append(f"trained on them: {run['run']}, {exposed:,} of {run['steps']:,} steps")
    lines += [f"not deleted: media in the adopted tar {url}; delete them there" for url in receipt["adopted_tars"]]
    lines += [WEIGHTS] if any(run["exposed_steps"] for run in receipt["training"]) else []
    lines += [f"deleted: {page}; the next run makes it again" for page in receipt["free_text"]["pages_deleted"]]
    lines += [f"emptied: free text of {log}" for log in receipt["free_text"]["logs_emptied"]]
    return [
        *lines,
        f"deny list: {receipt['deny_list']}; keep it as long as the raw files, or they are ingested again",
    ]
