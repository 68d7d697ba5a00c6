"""`ingest_hub`: a data set by its name on a hub, as `ingest_folder` reads its files.

name + commit -> files of a configuration and split, or those that match patterns -> a folder -> documents. The library
`datasets` says which files that are, `huggingface_hub` fetches them; no code of a data set is run. `HF_ENDPOINT` and
`HF_TOKEN` are theirs: another hub, and a key for what is not public. A folder that is complete is used without asking
anybody.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import canonical_json, digest
from pipelines.ingest.annotations.fields import RecordRights
from pipelines.ingest.folder import Folder

COMPLETE = ".complete.json"
"""Hidden, so that no one reads it as data."""
COMMIT = re.compile(r"[0-9a-f]{40}")
_IN_REPOSITORY = re.compile(r"hf://datasets/[^@]+@[^/]+/(.+)")


@schema
class IngestHub(Folder):
    """Files of a data set at one commit. Parameters that say how files are read are those of `ingest_folder`."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"cache"})

    kind: Literal["ingest_hub"]
    dataset: str
    """OWNER/NAME."""
    revision: str
    """The commit, 40 hex digits: a branch moves. Where a name stands here the error says its commit."""
    config: str | None = None
    """None: the one that the data set calls its default."""
    splits: tuple[str, ...] = ()
    """None given: all."""
    files: tuple[str, ...] = ()
    """Patterns of paths in the repository, instead of `config` and `splits`."""
    cache: str = "~/.cache/millrace/hub"
    """Where files are fetched to, once for every choice of files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.dataset) or ".." in self.dataset:
            raise ValueError(f"dataset is {self.dataset!r}, expected OWNER/NAME")
        if self.files and (self.config or self.splits):
            raise ValueError("files stand instead of config and splits")

    @property
    def _rights(self) -> RecordRights:
        known = super()._rights
        return replace(known, origin=known.origin or f"hf://datasets/{self.dataset}@{self.revision}")

    def place(self, node: str) -> Path:
        if not COMMIT.fullmatch(self.revision):
            raise ManifestError(
                f"revision is {self.revision!r}, no commit of 40 hex digits",
                where=f"{node}.revision",
                fix=f"write the commit: {self._asked(node, self._commit)}",
            )
        choice = digest(canonical_json([self.dataset, self.revision, self.config, self.splits, self.files]))
        folder = Path(self.cache).expanduser() / self.dataset / self.revision[:12] / choice[:12]
        if not (folder / COMPLETE).exists():
            self._asked(node, self._fetch, folder)
        return folder

    def _commit(self) -> str:
        from huggingface_hub import HfApi

        return str(HfApi().dataset_info(self.dataset, revision=self.revision).sha)

    def _fetch(self, folder: Path) -> None:
        from huggingface_hub import snapshot_download

        wanted = self.files or [glob.escape(path) for path in self._named()]
        snapshot_download(
            self.dataset, repo_type="dataset", revision=self.revision, local_dir=folder, allow_patterns=list(wanted)
        )
        found = [
            path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.relative_to(folder).parts
        ]
        for path in found:
            os.utime(path, (0, 0))  # the same on every machine that fetches it: a survey remembers it
        if not found:
            raise ValueError(f"no file matches {', '.join(self.files)}")
        told = folder / f"{COMPLETE}.{os.getpid()}"
        told.write_text(json.dumps({"files": len(found)}))
        told.replace(folder / COMPLETE)

    def _named(self) -> Sequence[str]:
        """Paths in the repository, as the data set's own card or its names of files say."""
        from datasets import load_dataset_builder

        builder = load_dataset_builder(
            self.dataset, self.config, revision=self.revision, cache_dir=str(Path(self.cache).expanduser() / "datasets")
        )
        by_split = builder.config.data_files or {}
        unknown = set(self.splits) - set(by_split)
        if unknown:
            raise ValueError(f"no split {', '.join(sorted(unknown))}; there are {', '.join(map(str, by_split))}")
        urls = [url for split in self.splits or by_split for url in by_split[split]]
        return [match.group(1) for match in map(_IN_REPOSITORY.fullmatch, urls) if match]

    def _asked(self, node: str, ask: Any, *arguments: Any) -> Any:
        """What the hub says, or a ManifestError with what to do."""
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        try:
            return ask(*arguments)
        except Exception as error:  # both libraries let errors of whatever speaks HTTP below them through
            told = str(error).strip().split("\n")[0] or type(error).__name__
            fix = (
                "check dataset, revision, config, splits and the network; without one, fetch the files elsewhere "
                "(`hf download --repo-type dataset`) and read them with ingest_folder"
            )
            raise ManifestError(f"{self.dataset} can't be fetched: {told}", where=node, fix=fix) from None
