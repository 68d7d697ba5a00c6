"""The nodes of one run, one after the other: what is finished is skipped, what is missing is made and committed.

Called by `run.py` under the run's lock. Units of a node go to the engine side by side; their receipts come back in any
order and are committed in batches by this one process. The last commit of a node says that it is complete.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from manifests.records import Json
from manifests.runlog import RunLog
from pipelines import dag, progress
from pipelines.dag import Graph, Tolerance
from pipelines.engines.local import LocalEngine, WorkerError
from pipelines.node import FolderNode, Inputs, Place, Product, StoreNode, Survey, Task
from pipelines.progress import Meter, Result, Show, Tally
from pipelines.receipts import FolderReceipt, Receipts, facts
from pipelines.unit import Outcome, TooManyBad, UnitTask, run_unit, too_many
from stores.store import Parent, Snapshot, Store

BATCH_UNITS = 32
BATCH_S = 2.0
"""A commit waits for so many receipts, or so long. A kill costs at most this much work beside the units in flight."""


class Execution:
    def __init__(self, graph: Graph, out: Path, workers: int) -> None:
        self.graph, self.out = graph, out
        self.engine = LocalEngine(workers)
        self.log = RunLog(out / "log.jsonl")
        self.show = Show()
        self.receipts = Receipts(out)
        self.products: dict[str, Product] = {}
        self.results: list[Result] = []

    def run(self, as_json: bool) -> int:
        try:
            with self.engine:
                for name in self.graph.order:
                    self._node(name)
        except BaseException as error:
            self.log.write("run_stop", error=str(error) or type(error).__name__)
            raise
        skipped = sum(result.skipped for result in self.results)
        if as_json:
            print(json.dumps([_plain(result) for result in self.results], ensure_ascii=False))
        else:
            progress.table(self.results)
        if skipped == len(self.results):
            self.show.say(f"{skipped} nodes already committed, same digests")
        return 0

    def _node(self, name: str) -> None:
        node = self.graph.node(name)
        inputs = {wanted: self.products[wanted] for wanted in node.reads()}
        survey = node.survey(name, inputs)
        identity = dag.identity(name, node, inputs, survey)
        start = time.monotonic()
        self.log.write("node_start", node=name, kind=node.kind, identity=identity)
        make = self._folder if node.PRODUCT == "folder" else self._store
        product, tally, skipped = make(name, node, inputs, survey, identity)
        seconds = round(time.monotonic() - start, 3)
        self.products[name] = product
        self.results.append(Result(name, node.kind, identity, product.digest, tally, seconds, skipped))
        event = "node_skip" if skipped else "node_commit"
        self.log.write(event, **_plain(self.results[-1]))
        if not skipped:
            self.show.say(
                f"{name}: {tally.kept:,} records, {seconds:.1f} s" if tally.seen else f"{name}: {seconds:.1f} s"
            )

    def _store(
        self, name: str, node: StoreNode, inputs: Inputs, survey: Survey, identity: str
    ) -> tuple[Product, Tally, bool]:
        url = str(self.out / name)
        store = Store.open_or_create(url, node.PRODUCT, name)
        head = store.head()
        if head is not None and head.complete and head.node == identity:
            return _product(name, node, url, head), _tally(head), True
        wanted = dag.unit_names(name, node, survey)
        done = set(head.units) & set(wanted) if head is not None else set()
        tolerance = self.graph.manifest.value.tolerance
        tasks = (
            UnitTask(node, url, stored, Task(name, unit, inputs), tolerance.in_a_row, tolerance.share)
            for stored, unit in wanted.items()
            if stored not in done
        )
        with self.show.node(name, len(wanted), len(done)) as meter:
            committer = Committer(store, identity, tuple(wanted), inputs, meter)
            stop = StopRule(name, tolerance)
            for task, outcome in self.engine.run(run_unit, tasks, lambda task: f"{name}, unit {task.stored_as}"):
                self._log_outcome(name, task.stored_as, outcome)
                committer.add(outcome)
                if reason := stop.after(outcome):
                    committer.commit(complete=False)
                    raise reason
            snapshot = committer.commit(complete=True)
        return _product(name, node, url, snapshot), _tally(snapshot), False

    def _folder(
        self, name: str, node: FolderNode, inputs: Inputs, survey: Survey, identity: str
    ) -> tuple[Product, Tally, bool]:
        receipt = self.receipts.finished(name, identity)
        skipped = receipt is not None
        if receipt is None:
            parts = self.receipts.begin(name, identity)
            place = Place(self.out, name)
            todo = [
                FolderTask(node, Task(name, unit, inputs), place) for unit in survey.units if unit.name not in parts
            ]
            with self.show.node(name, len(survey.units), len(parts)) as meter:
                for unit, files in self._folder_units(name, node, todo):
                    parts[unit] = FolderReceipt(identity, tuple(facts(self.out, files)))
                    self.receipts.part(name, unit, parts[unit])
                    meter.committed(1, Tally(kept=len(files)))
            everything = sorted({file for part in parts.values() for file in part.files}, key=lambda file: file.path)
            receipt = FolderReceipt(identity, tuple(everything))
            self.receipts.finish(name, receipt)
        product = Product(name, "folder", str(self.out / name), receipt.digest)
        return product, Tally(kept=len(receipt.files)), skipped

    def _folder_units(self, name: str, node: FolderNode, todo: Sequence[FolderTask]) -> Iterator[tuple[str, list[str]]]:
        if node.ALONE:
            self.engine.close()  # the child gets the whole machine, and the terminal
            for task in todo:
                yield task.task.unit.name, node.make(task.task, task.place)
            return
        for task, files in self.engine.run(run_folder_unit, todo, lambda task: f"{name}, unit {task.task.unit.name}"):
            yield task.task.unit.name, files

    def _log_outcome(self, node: str, unit: str, outcome: Outcome) -> None:
        if outcome.tally.quarantined or outcome.tally.noted:
            counts = {"reasons": dict(outcome.tally.quarantined), "noted": dict(outcome.tally.noted)}
            self.log.write("quarantine", node=node, unit=unit, **counts, details=list(outcome.details))


@dataclass(frozen=True)
class FolderTask:
    node: FolderNode
    task: Task
    place: Place


def run_folder_unit(folder: FolderTask, lethal: frozenset[int], tell: Callable[[int], None]) -> list[str]:
    return folder.node.make(folder.task, folder.place)


class Committer:
    """Publishes receipts of one node, a batch at a time."""

    def __init__(self, store: Store, identity: str, units: Sequence[str], inputs: Inputs, meter: Meter) -> None:
        self.store, self.identity, self.units, self.meter = store, identity, units, meter
        self.parents = tuple(_parent(inputs[name]) for name in sorted(inputs) if inputs[name].kind != "folder")
        self.waiting: list[Outcome] = []
        self.last = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        self.waiting.append(outcome)
        if len(self.waiting) >= BATCH_UNITS or time.monotonic() - self.last >= BATCH_S:
            self.commit(complete=False)

    def commit(self, complete: bool) -> Snapshot:
        snapshot = self.store.commit(
            [outcome.receipt for outcome in self.waiting],
            node=self.identity,
            complete=complete,
            parents=self.parents,
            meta={},
            units=self.units,
        )
        tally = Tally()
        for outcome in self.waiting:
            tally.add(outcome.tally)
        self.meter.committed(len(self.waiting), tally)
        self.waiting.clear()
        self.last = time.monotonic()
        return snapshot


class StopRule:
    """Many bad records in a row stop a run, also where they are spread over units without a good one."""

    def __init__(self, node: str, tolerance: Tolerance) -> None:
        self.node, self.tolerance = node, tolerance
        self.row = self.good = self.bad = 0

    def after(self, outcome: Outcome) -> TooManyBad | None:
        self.row = outcome.row if outcome.good else self.row + outcome.row
        self.good, self.bad = self.good + outcome.good, self.bad + outcome.bad
        if not too_many(self.tolerance.in_a_row, self.tolerance.share, self.row, self.bad, self.good):
            return None
        return TooManyBad(
            f"{self.row} records in a row can't be used, the last ones: {dict(outcome.tally.quarantined)}",
            where=self.node,
            fix="look at them with `millrace inspect`; repair or exclude what is wrong, or raise `tolerance`",
        )
