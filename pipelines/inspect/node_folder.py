"""Overview of a node whose product is ordinary files, for `millrace inspect RUN/NODE`: scenes, a training, a page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from manifests.records import Json
from pipelines.inspect import queries
from pipelines.inspect.training import training_table


def has_receipt(folder: Path) -> bool:
    """Return whether a node of a run finished and its product is ordinary files."""
    return (folder.parent / "receipts" / f"{folder.name}.json").is_file()


def folder_overview(folder: Path) -> dict[str, Json] | None:
    """Files of the product and, of a training, its losses; None for a folder that no node of a run made."""
    receipt = queries.read_json(folder.parent / "receipts" / f"{folder.name}.json")
    is_training = (folder / "metrics.jsonl").is_file()
    if receipt is None and not is_training:
        return None
    overview: dict[str, Json] = {"node": folder.name, "product": "folder", "complete": "yes" if receipt else "no"}
    if receipt is not None:
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for file in receipt["files"]:
            extension = Path(file["path"]).suffix or "(none)"
            counts[extension] += 1
            sizes[extension] += file["size"]
        overview["files"] = [
            {"extension": extension, "files": count, "bytes": sizes[extension]}
            for extension, count in sorted(counts.items())
        ]
    if is_training:
        overview |= training_table(folder)
    return {key: value for key, value in overview.items() if value not in ([], {})}
