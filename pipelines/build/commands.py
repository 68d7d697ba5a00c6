"""The nodes `train` and `report`: the trainer as a child process, and the page about the run.

packs -> `train` -> weights; finished nodes -> `report` -> `report.html`. Pipelines don't import the trainer: the two
meet in the packs store and in the folder that `millrace train` fills. The trainer keeps its own checkpoints; if it is
killed and started again, it continues.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal

from manifests import extras, load
from manifests.errors import ManifestError, MillraceError, ResumeError
from manifests.load import schema
from manifests.records import Json
from pipelines.engines.tether import tethered
from pipelines.node import FolderNode, Inputs, Mistake, OutputFolder, Product, Survey, Unit, UnitTask

PATIENCE_S = 5.0
"""Time for an interrupted child to write its last files."""


@schema
class Train(FolderNode):
    """Run `millrace train` on packs; its folder with weights and metrics is the product."""

    READS = frozenset({"packs", "samples"})
    PLACES = frozenset({"manifest"})
    SIDE_INPUTS = ("held_out", "grounding")
    RENAMED: ClassVar[Mapping[str, str]] = {"packs": "inputs", "seeing": "grounding"}
    EXCLUSIVE = True

    kind: Literal["train"]
    manifest: str
    """Path of the training stage (manifests/train/). Its content is part of the identity, its path is not."""
    inputs: tuple[str, ...]
    """Node with the packs. If the plan was amended: the packs of all plans of the run, the first plan's first."""
    held_out: tuple[str, ...] = ()
    """Nodes with samples for the held-out loss."""
    grounding: str | None = None
    """Node with samples of unseen scenes, for the visual grounding test."""
    most_steps: int | None = None
    """Stop after so many steps if the plan has more."""
    set: tuple[str, ...] = ()
    """`KEY=VALUE` changes to the stage."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("inputs names no node")
        self._digests()  # reports an unreadable stage before any work

    def missing(self, elsewhere: bool) -> Iterator[Mistake]:
        if absent := extras.missing("train"):
            yield Mistake((), f"training needs {', '.join(absent)}, not installed here", extras.install("train"))

    def survey(self, name: str, inputs: Inputs) -> Survey:
        versions = {"torch": version("torch").partition("+")[0], "megatron-core": version("megatron-core")}
        return Survey((Unit("stage", ""),), self._digests() | versions)

    def _digests(self) -> dict[str, Json]:
        """Return digests of the stage and its model."""
        stage = load.load(dict[str, Json], [self.manifest], self.set)
        model = stage.value.get("model")
        if not isinstance(model, str):
            raise ManifestError("a stage names its model", where=stage.where("model"), fix="add `model: PATH`")
        return {"stage": stage.digest, "model": load.load(dict[str, Json], [model]).digest}

    def make(self, task: UnitTask, place: OutputFolder) -> list[str]:
        program = importlib.util.find_spec("millrace")
        assert program is not None and program.origin is not None
        command = [sys.executable, program.origin, "train", self.manifest]
        for change in self._changes(task.inputs):
            command += ["--set", change]
        run_command(task.node, [*command, "--out", str(place.folder)])
        content = [name for name in ("done.json", "evaluation.json") if (place.folder / name).is_file()]
        return [f"{place.node}/{name}" for name in content]

    def _changes(self, inputs: Inputs) -> list[str]:
        """Return the `--set` values that put the stores of this run into the stage."""
        packs: Json = [_absolute(inputs[node]) for node in self.inputs]
        values: dict[str, Json] = {"packs": packs if len(packs) > 1 else packs[0]}
        if self.held_out:
            values["evaluation.held_out"] = [_absolute(inputs[node]) for node in self.held_out]
        if self.grounding:
            values["evaluation.grounding.store"] = _absolute(inputs[self.grounding])
        if self.most_steps is not None:
            last = inputs[self.inputs[-1]].snapshot
            first_step = last.meta["amends"]["at_batch"] if len(self.inputs) > 1 and last.meta["amends"] else 0
            planned = first_step + last.counts["records"] // last.meta["global_batch_packs"]
            values["steps"] = min(self.most_steps, planned)
        return [*(f"{key}={json.dumps(value)}" for key, value in values.items()), *self.set]


def _absolute(product: Product) -> str:
    return product.place if "://" in product.place else str(Path(product.place).absolute())


def run_command(node: str, command: list[str]) -> None:
    """Run a command to its end; it writes to our stderr, and is killed when this process ends.

    Raises:
        ResumeError: the command refused to continue from its checkpoint.
        MillraceError: it failed.
    """
    child = subprocess.Popen(tethered(command), stdout=subprocess.DEVNULL)
    try:
        code = child.wait()
    except BaseException:
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            child.wait(PATIENCE_S)  # Ctrl-C went to the whole process group: the child is ending by itself
        raise
    finally:
        child.kill()
        child.wait()
    if code == ResumeError.exit_code:
        raise ResumeError("the command refuses to continue", where=node, fix="see its message above")
    if code != 0:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        fix = "see its message above; run again to continue from its last checkpoint"
        raise MillraceError(f"the command {how}", where=node, fix=fix)


@schema
class Report(FolderNode):
    """Write one self-contained page about the whole run: `report.html`, next to its stores."""

    READS = frozenset({"documents", "view", "samples", "plan", "packs", "folder"})

    kind: Literal["report"]
    inputs: tuple[str, ...]
    """Nodes that must be finished before; the page shows everything in the run's folder."""

    def survey(self, name: str, inputs: Inputs) -> Survey:
        return Survey((Unit("page", ""),))

    def make(self, task: UnitTask, place: OutputFolder) -> list[str]:
        from pipelines.inspect import run_page

        run_page.write(place.run, place.run / "report.html")
        return ["report.html"]
