"""`ingest_hub`: a data set of a hub, by name and commit, to a store of documents.

The library `datasets` lists the files of a configuration and its splits, `huggingface_hub` downloads them into a cache,
and they are read like a folder (`folder.py`). No code of a data set runs. The environment variables `HF_ENDPOINT`
(another hub) and `HF_TOKEN` (private data sets) are those of the libraries. A complete folder in the cache is used
without a request.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, ParamSpec, TypeVar

from manifests import extras
from manifests.errors import ManifestError
from manifests.files import write_whole
from manifests.load import schema
from manifests.records import canonical_json, digest
from pipelines.ingest.annotations.fields import RecordRights
from pipelines.ingest.folder import FilesNode
from pipelines.node import Mistake

P = ParamSpec("P")
R = TypeVar("R")

COMPLETE = ".complete.json"
"""Marks a complete download. The file is hidden, so that it is not read as data."""
COMMIT = re.compile(r"[0-9a-f]{40}")
_IN_REPOSITORY = re.compile(r"hf://datasets/[^@]+@[^/]+/(.+)")


@schema
class IngestHub(FilesNode):
    """Ingest files of a data set at one commit. The keys that decide how files are read are those of
    `ingest_folder`."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"cache"})

    kind: Literal["ingest_hub"]
    dataset: str
    """OWNER/NAME."""
    revision: str
    """Commit, 40 hex digits. The name of a branch is refused, and the error gives its commit."""
    config: str | None = None
    """Configuration; the data set's default one if none is given."""
    splits: tuple[str, ...] = ()
    """Splits of the configuration; all if none is given."""
    files: tuple[str, ...] = ()
    """Patterns of paths in the repository, instead of `config` and `splits`."""
    cache: str = "~/.cache/millrace/hub"
    """Folder of downloads, with one folder for each choice of files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.dataset) or ".." in self.dataset:
            raise ValueError(f"dataset is {self.dataset!r}, expected OWNER/NAME")
        if self.files and (self.config or self.splits):
            raise ValueError("files replaces config and splits: give one or the other")

    @property
    def _rights(self) -> RecordRights:
        rights = super()._rights
        return replace(rights, origin=rights.origin or f"hf://datasets/{self.dataset}@{self.revision}")

    def missing(self, elsewhere: bool) -> Iterator[Mistake]:
        if absent := extras.missing("hub"):
            yield Mistake((), f"a hub needs {', '.join(absent)}, not installed here", extras.install("hub"))
        yield from super().missing(elsewhere)

    def place(self, node: str) -> Path:
        """Return the folder in the cache; download the files if it is not complete."""
        if not COMMIT.fullmatch(self.revision):
            raise ManifestError(
                f"revision is {self.revision!r}, no commit of 40 hex digits",
                where=f"{node}.revision",
                fix=f"write the commit: {self._request(node, self._commit)}",
            )
        choice = digest(canonical_json([self.dataset, self.revision, self.config, self.splits, self.files]))
        folder = Path(self.cache).expanduser() / self.dataset / self.revision[:12] / choice[:12]
        if not (folder / COMPLETE).exists():
            self._request(node, self._download, folder)
        return folder

    def _commit(self) -> str:
        from huggingface_hub import HfApi

        return str(HfApi().dataset_info(self.dataset, revision=self.revision).sha)

    def _download(self, folder: Path) -> None:
        """Raises ValueError if no file matches, and the errors of the libraries."""
        from huggingface_hub import snapshot_download

        patterns = self.files or [glob.escape(path) for path in self._listed_files()]
        snapshot_download(
            self.dataset, repo_type="dataset", revision=self.revision, local_dir=folder, allow_patterns=list(patterns)
        )
        paths = [
            path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.relative_to(folder).parts
        ]
        for path in paths:
            os.utime(path, (0, 0))  # the survey records modification times: they must be the same on every machine
        if not paths:
            raise ValueError(f"no file matches {', '.join(self.files)}")
        write_whole(folder / COMPLETE, json.dumps({"files": len(paths)}))

    def _listed_files(self) -> Sequence[str]:
        """Paths in the repository of the files of `config` and `splits`, by the data set's card or its file names."""
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

    def _request(self, node: str, make: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """Return `make(*arguments)`; an error of the hub becomes a ManifestError with a fix."""
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        try:
            return make(*arguments, **named)
        except Exception as error:  # both libraries pass on the errors of whichever HTTP client they use
            message = str(error).strip().split("\n")[0] or type(error).__name__
            fix = (
                "check dataset, revision, config, splits and the network; without a network, fetch the files elsewhere "
                "(`hf download --repo-type dataset`) and read them with ingest_folder"
            )
            raise ManifestError(f"{self.dataset} can't be fetched: {message}", where=node, fix=fix) from None
