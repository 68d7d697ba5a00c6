"""Nodes that are child processes or pages: `train` and `report`.

The trainer stands at the end of a DAG as a command, so that pipelines never import it: the two meet in the packs store
and in the folder that `millrace train` fills. It keeps its own checkpoints; killed and started again, it goes on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal

from manifests import load
from manifests.errors import ManifestError, MillraceError, ResumeError
from manifests.load import schema
from manifests.records import Json
from pipelines.engines.tether import tethered
from pipelines.node import FolderNode, Inputs, OutputFolder, Product, Survey, Unit, UnitTask

PATIENCE_S = 5.0
"""How long an interrupted child may take to put its things away."""


@schema
class Train(FolderNode):
    """`millrace train` on the packs of this DAG. Its folder becomes the product."""

    READS: ClassVar[frozenset[str]] = frozenset({"packs", "samples"})
    PLACES: ClassVar[frozenset[str]] = frozenset({"manifest"})
    ALONE: ClassVar[bool] = True

    kind: Literal["train"]
    manifest: str
    """Path of a stage; what it says is part of the identity, where it lies is not."""
    packs: str | tuple[str, ...]
    """Node that makes the packs; of a run whose plan was amended those of all its plans, the first one first."""
    held_out: tuple[str, ...] = ()
    """Nodes of samples for the held-out loss."""
    seeing: str | None = None
    """Node of samples of unseen scenes, for the paired test that the model sees."""
    most_steps: int | None = None
    """Stop after so many steps where the plan has more."""
    set: tuple[str, ...] = ()
    """`KEY=VALUE` changes to the stage."""

    def __post_init__(self) -> None:
        if not self.packs:
            raise ValueError("packs names no node")
        self._facts()  # a stage that can't be read is found before any work

    @property
    def _packs(self) -> tuple[str, ...]:
        return (self.packs,) if isinstance(self.packs, str) else self.packs

    def reads(self) -> tuple[str, ...]:
        named = (*self._packs, *self.held_out, *((self.seeing,) if self.seeing else ()))
        return tuple(dict.fromkeys(named))

    def survey(self, name: str, inputs: Inputs) -> Survey:
        return Survey((Unit("stage", ""),), self._facts())

    def _facts(self) -> dict[str, Json]:
        stage = load.load(dict[str, Json], [self.manifest], self.set)
        model = stage.value.get("model")
        if not isinstance(model, str):
            raise ManifestError("a stage names its model", where=stage.where("model"))
        return {
            "stage": stage.digest,
            "model": load.load(dict[str, Json], [model]).digest,
            "torch": version("torch").partition("+")[0],
            "megatron-core": version("megatron-core"),
        }

    def make(self, task: UnitTask, place: OutputFolder) -> list[str]:
        millrace = importlib.util.find_spec("millrace")
        assert millrace is not None and millrace.origin is not None
        command = [sys.executable, millrace.origin, "train", self.manifest]
        for change in self._changes(task.inputs):
            command += ["--set", change]
        run_command(task.node, [*command, "--out", str(place.folder)])
        made = [name for name in ("done.json", "evaluation.json") if (place.folder / name).is_file()]
        return [f"{place.node}/{name}" for name in made]

    def _changes(self, inputs: Inputs) -> list[str]:
        """The stage's paths, with the stores of this run in them."""
        places: Json = [_absolute(inputs[node]) for node in self._packs]
        values: dict[str, Json] = {"packs": places if len(places) > 1 else places[0]}
        if self.held_out:
            values["evaluation.held_out"] = [_absolute(inputs[node]) for node in self.held_out]
        if self.seeing:
            values["evaluation.seeing.store"] = _absolute(inputs[self.seeing])
        if self.most_steps is not None:
            last = inputs[self._packs[-1]].snapshot
            first = last.meta["amends"]["at_batch"] if len(self._packs) > 1 and last.meta["amends"] else 0
            planned = first + last.counts["records"] // last.meta["global_batch_packs"]
            values["steps"] = min(self.most_steps, planned)
        return [*(f"{key}={json.dumps(value)}" for key, value in values.items()), *self.set]


def _absolute(product: Product) -> str:
    return product.place if "://" in product.place else str(Path(product.place).absolute())


def run_command(node: str, command: list[str]) -> None:
    """Run a command to its end; its talk goes to our stderr. It ends when this process does."""
    child = subprocess.Popen(tethered(command), stdout=subprocess.DEVNULL)
    try:
        code = child.wait()
    except BaseException:
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            child.wait(PATIENCE_S)  # Ctrl-C went to the whole group: it is ending by itself
        raise
    finally:
        child.kill()
        child.wait()
    if code == ResumeError.exit_code:
        raise ResumeError("the command refuses to go on, see above", where=node)
    if code != 0:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        fix = "what it said stands above; run again to go on from its last checkpoint"
        raise MillraceError(f"the command {how}", where=node, fix=fix)


@schema
class Report(FolderNode):
    """One self-contained page about the whole run, `report.html` beside its stores."""

    READS: ClassVar[frozenset[str]] = frozenset({"documents", "view", "samples", "plan", "packs", "folder"})

    kind: Literal["report"]
    inputs: tuple[str, ...]
    """Nodes that must be finished before; the page shows all that the run's folder holds."""

    def survey(self, name: str, inputs: Inputs) -> Survey:
        return Survey((Unit("page", ""),))

    def make(self, task: UnitTask, place: OutputFolder) -> list[str]:
        from pipelines.inspect import run_page

        run_page.write(place.run, place.run / "report.html")
        return ["report.html"]
