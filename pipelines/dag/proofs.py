"""Proof of the packs of a run: recounted from bytes once they are committed, before anything trains on them.

`dag/execute.py` calls `proved` for each packs store, `dag/summary.py` prints the result. A receipt in the run's folder
keeps the result for this content and plan, so that a second run recounts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from manifests.errors import StoreError
from manifests.files import write_whole
from manifests.records import canonical_json
from packing.proof_report import check_packs
from pipelines.node import Product
from stores.upkeep.verify import ContentCheck

RECOUNTED_PACKS = 100_000
"""Larger stores are left to `millrace store verify`: one process counts some 2,000 packs of 512 tokens a second."""


def proved(run: Path, packs: Product) -> ContentCheck:
    """The recount of a packs store, from its receipt if there is one.

    Args:
        run: folder of the run.
    Raises:
        StoreError: the packs break a promise of their plan.
    """
    receipt = run / "receipts" / f"{packs.node}.proof.json"
    snapshot = packs.snapshot
    identity = {"content_root": packs.digest, "plan": snapshot.meta["plan"]}
    check = _read(receipt, identity)
    if check is not None:
        return check
    if snapshot.counts["records"] > RECOUNTED_PACKS:
        return ContentCheck(skipped=f"more than {RECOUNTED_PACKS:,} packs are not recounted during a run")
    check = check_packs(snapshot)
    if check.failed:
        fix = f"delete {snapshot.url} and run again; if it fails again, report it with the plan"
        raise StoreError(f"these packs are not what their plan promises: {check.failed}", where=packs.node, fix=fix)
    if check.proved:
        receipt.parent.mkdir(parents=True, exist_ok=True)
        write_whole(receipt, canonical_json(identity | asdict(check)))
    return check


def _read(receipt: Path, identity: Mapping[str, str]) -> ContentCheck | None:
    """The result for packs of this identity; None if there is no receipt of it."""
    try:
        data = json.loads(receipt.read_text(encoding="utf-8"))
        if all(data[name] == value for name, value in identity.items()):
            return ContentCheck(proved=tuple(data["proved"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None
