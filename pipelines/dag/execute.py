"""Execution of a run: its nodes one after the other; finished ones are skipped, the others made and committed.

`run.py` calls `execute` under the run's lock. Units of a node go to the engine side by side (`unit.py`); their receipts
come back in any order, and this process commits them in batches. The last commit of a node marks it as complete.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

from manifests.quantities import duration_text
from manifests.records import Json
from manifests.runlog import RunLog
from pipelines.dag import graph as dag
from pipelines.dag.destination import Destination
from pipelines.dag.graph import Graph, Tolerance
from pipelines.dag.products import (
    FolderReceipt,
    FolderReceipts,
    finished,
    folder_product,
    parents,
    product_files,
    store_product,
)
from pipelines.dag.progress import RunConsole
from pipelines.dag.proofs import proved
from pipelines.dag.results import NodeResult, NodeWork, RecordCounts
from pipelines.dag.summary import print_summary
from pipelines.dag.unit import Outcome, StoreTask, TooManyBad, run_unit, too_many
from pipelines.dag.usage import Usage, UsageMeter
from pipelines.engines.child import WorkerError
from pipelines.engines.choose import open_engine
from pipelines.engines.engine import Engine, Submission
from pipelines.engines.local import LocalEngine
from pipelines.node import FolderNode, Inputs, Node, OutputFolder, Product, StoreNode, Survey, UnitTask
from pipelines.previous import PREVIOUS_NUMBER, PreviousView
from stores.store import Parent, Snapshot, Store
from stores.upkeep import lookup
from stores.upkeep.verify import ContentCheck

BATCH_UNITS = 32
BATCH_S = 2.0
"""A commit waits for this many receipts or this long. A kill costs at most this much work and the units in flight."""


def execute(graph: Graph, out: Destination, workers: int, as_json: bool) -> int:
    """Run a graph and print the results to stdout; returns the exit code."""
    console = RunConsole()
    with open_engine(graph.manifest.value.engine, workers, console.say) as engine, ExitStack() as stack:
        # Workers on other machines don't see this one's folders.
        local = stack.enter_context(LocalEngine(workers)) if engine.elsewhere else engine
        return Execution(graph, out, engine, local, console).run(as_json)


class Execution:
    """One run of a graph: the products, results and proofs so far."""

    def __init__(
        self, graph: Graph, out: Destination, engine: Engine, local_engine: Engine, console: RunConsole
    ) -> None:
        """
        Args:
            engine: works on the units of stores.
            local_engine: works on the units of folders, on this machine; may be the same.
        """
        self.graph, self.out, self.console = graph, out, console
        self.engine, self.local_engine = engine, local_engine
        self.log = RunLog(out.folder / "log.jsonl")
        self.products: dict[str, Product] = {}
        self.results: list[NodeResult] = []
        self.proofs: dict[str, ContentCheck] = {}
        """Recount of each packs store, by node."""

    def run(self, as_json: bool) -> int:
        try:
            self.work()
        except BaseException as error:
            details = error.details if isinstance(error, WorkerError) else ""
            self.log.write("run_stop", error=str(error) or type(error).__name__, details=details)
            raise
        if as_json:
            print(json.dumps([result.as_json() for result in self.results], ensure_ascii=False))
        else:
            print_summary(self.out, self.results, self.products, self.proofs)
        skipped = sum(result.skipped for result in self.results)
        if skipped == len(self.results):
            self.console.say(f"{skipped} nodes already committed, same digests")
        return 0

    def work(self) -> None:
        for name in self.graph.order:
            self._node(name)

    def _survey(self, name: str, node: Node, inputs: Inputs) -> Survey:
        return node.survey(name, inputs)

    def _node(self, name: str) -> None:
        """Skip or make one node."""
        node = self.graph.node(name)
        start, meter = time.monotonic(), UsageMeter()
        inputs = {wanted: self.products[wanted] for wanted in node.reads()}
        survey = self._survey(name, node, inputs)
        identity = dag.identity(name, node, inputs, survey)
        existing = finished(self.out, name, node, inputs, identity)
        work = NodeWork()
        if existing is None:
            if node.PRODUCT == "folder":
                made = self._folder(name, cast(FolderNode, node), inputs, survey, identity, work)
            else:
                made = self._store(name, cast(StoreNode, node), inputs, survey, identity, work)
        product, counts = existing or made
        self.products[name] = product
        if product.kind != "folder":
            lookup.build(product.snapshot)  # of a finished node, too: a kill may have come in between
        seconds = round(time.monotonic() - start, 3)
        work.usage = work.usage.plus(meter.own())
        snapshot_counts = {} if product.kind == "folder" else product.snapshot.counts
        size = (snapshot_counts.get("bytes", 0), snapshot_counts.get("tokens", 0))
        skipped = existing is not None
        result = NodeResult(
            name, node.kind, identity, product.digest, product.kind, counts, seconds, skipped, *size, work
        )
        self.results.append(result)
        self.log.write("node_skip" if skipped else "node_commit", **result.as_json())
        if product.kind == "packs":
            self.proofs[name] = proved(self.out.folder, product)
        if not skipped:
            self.console.say(_finished_line(result, product))

    def _store(
        self, name: str, node: StoreNode, inputs: Inputs, survey: Survey, identity: str, work: NodeWork
    ) -> tuple[Product, RecordCounts]:
        store = Store.open_or_create(self.out.store(name), node.PRODUCT, name)
        head = store.head()
        wanted = dag.unit_names(name, node, survey)
        done = set(head.units) & set(wanted) if head is not None else set()
        self._log_start(name, node, identity, len(wanted), len(done))
        tolerance = self.graph.manifest.value.tolerance
        made_of = dag.made_of(node, inputs, survey)
        previous = PreviousView.of(store, head, made_of)
        limits = (tolerance.in_a_row, tolerance.share)
        submissions = (
            Submission(
                f"{name}, unit {stored}",
                StoreTask(node, store.url, stored, UnitTask(name, unit, inputs, previous), *limits),
                unit.size_bytes,
                unit.records,
            )
            for stored, unit in wanted.items()
            if stored not in done
        )
        with self.console.progress(name, len(wanted), len(done)) as progress:
            meta = dict(head.meta) if head is not None and done else {}
            meta["made_of"] = made_of
            if previous is not None:
                meta[PREVIOUS_NUMBER] = previous.number
            committer = Committer(store, identity, tuple(wanted), parents(node, inputs), meta)
            stop = StopRule(name, tolerance)
            for task, outcome in self.engine.run(name, run_unit, submissions, progress.under_way):
                self._log_outcome(name, task.stored_as, outcome)
                work.add(outcome.counts.seen, outcome.parts, outcome.usage)
                progress.finished(1, outcome.counts)
                committer.add(outcome)
                if (error := stop.after(outcome)) is not None:
                    committer.commit(complete=False)
                    raise error
            snapshot = committer.commit(complete=True)
        return store_product(name, node, inputs, snapshot)

    def _folder(
        self, name: str, node: FolderNode, inputs: Inputs, survey: Survey, identity: str, work: NodeWork
    ) -> tuple[Product, RecordCounts]:
        receipts = FolderReceipts(self.out.folder)
        parts = receipts.begin(name, identity)
        self._log_start(name, node, identity, len(survey.units), len(parts))
        place = OutputFolder(self.out.folder, name)
        todo = [unit for unit in survey.units if unit.name not in parts]
        tasks = [FolderTask(node, UnitTask(name, unit, inputs), place) for unit in todo]
        for task, files, usage in self._folder_units(name, node, tasks, len(parts)):
            unit = task.task.unit.name
            parts[unit] = FolderReceipt(identity, tuple(product_files(self.out.folder, files)))
            receipts.add_part(name, unit, parts[unit])
            work.add(len(files), {}, usage)
        content = {file for part in parts.values() for file in part.files}
        in_order = tuple(sorted(content, key=lambda file: file.path))
        receipt = FolderReceipt(identity, in_order, dag.made_of(node, inputs, survey))
        receipts.finish(name, receipt)
        return folder_product(self.out.folder, name, receipt)

    def _folder_units(
        self, name: str, node: FolderNode, tasks: Sequence[FolderTask], done: int
    ) -> Iterator[tuple[FolderTask, list[str], Usage]]:
        """Yield each task with the paths of the files that it made, and its usage."""
        if node.EXCLUSIVE:
            self.engine.close()  # the child process gets the whole machine, and the terminal
            self.local_engine.close()
            for task in tasks:
                meter = UsageMeter()
                yield task, node.make(task.task, task.place), meter.ended_child()
            return
        submissions = (Submission(f"{name}, unit {task.task.unit.name}", task) for task in tasks)
        with self.console.progress(name, done + len(tasks), done) as progress:
            for task, (files, usage) in self.local_engine.run(name, run_folder_unit, submissions, progress.under_way):
                progress.finished(1, RecordCounts(kept=len(files)))
                yield task, files, usage

    def _log_start(self, name: str, node: Node, identity: str, units: int, committed: int) -> None:
        self.log.write("node_start", node=name, kind=node.kind, identity=identity, units=units, committed=committed)

    def _log_outcome(self, node: str, unit: str, outcome: Outcome) -> None:
        counts = outcome.counts
        if counts.quarantined or counts.noted:
            reasons: dict[str, Json] = {"reasons": dict(counts.quarantined), "noted": dict(counts.noted)}
            self.log.write("quarantine", node=node, unit=unit, **reasons, details=list(outcome.details))


def _finished_line(result: NodeResult, product: Product) -> str:
    """Return the line for people about a node that was just made."""
    took = duration_text(result.seconds)
    if product.kind == "folder":
        return f"{result.node}: done in {took}"
    counts = result.counts
    records = (
        f"{counts.kept:,} records" if counts.kept == counts.seen else f"{counts.kept:,} of {counts.seen:,} records kept"
    )
    return "; ".join(filter(None, [f"{result.node}: {records} in {took}", counts.losses()]))


@dataclass(frozen=True)
class FolderTask:
    """Arguments of `run_folder_unit`, picklable."""

    node: FolderNode
    task: UnitTask
    place: OutputFolder


def run_folder_unit(folder: FolderTask, lethal: frozenset[int], mark: Callable[[int], None]) -> tuple[list[str], Usage]:
    """Make one unit of a folder; returns the paths of its files and the usage. A `WorkFunction` of engines."""
    meter = UsageMeter()
    files = folder.node.make(folder.task, folder.place)
    return files, meter.own(children=True)


class Committer:
    """Commits receipts of one node, a batch at a time."""

    def __init__(
        self, store: Store, identity: str, units: Sequence[str], parents: Sequence[Parent], meta: dict[str, Json]
    ) -> None:
        """
        Args:
            units: names of all units of the node, in store order.
            meta: of the snapshots; entries that units return are added.
        """
        self.store, self.identity, self.units, self.parents, self.meta = store, identity, units, parents, meta
        self.waiting: list[Outcome] = []
        self.last_s = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        self.waiting.append(outcome)
        self.meta |= outcome.meta
        if len(self.waiting) >= BATCH_UNITS or time.monotonic() - self.last_s >= BATCH_S:
            self.commit(complete=False)

    def commit(self, complete: bool) -> Snapshot:
        """Commit all that waits. With `complete`, the snapshot is the finished product of the node."""
        if complete:
            self.meta.pop(PREVIOUS_NUMBER, None)
        snapshot = self.store.commit(
            [outcome.receipt for outcome in self.waiting],
            node=self.identity,
            units=self.units,
            complete=complete,
            parents=self.parents,
            meta=self.meta,
        )
        self.waiting.clear()
        self.last_s = time.monotonic()
        return snapshot


class StopRule:
    """Stops a run at many bad records in a row, also if they are spread over several units without a good one."""

    def __init__(self, node: str, tolerance: Tolerance) -> None:
        self.node, self.tolerance = node, tolerance
        self.in_a_row = self.good = self.bad = 0

    def after(self, outcome: Outcome) -> TooManyBad | None:
        """Count a unit; returns the error that stops the run, if it must stop."""
        self.in_a_row = outcome.bad_at_end if outcome.good else self.in_a_row + outcome.bad_at_end
        self.good, self.bad = self.good + outcome.good, self.bad + outcome.bad
        if not too_many(self.tolerance.in_a_row, self.tolerance.share, self.in_a_row, self.bad, self.good):
            return None
        return TooManyBad(
            f"{self.in_a_row} records in a row can't be used, the last ones: {dict(outcome.counts.quarantined)}",
            where=self.node,
            fix="look at them with `millrace inspect`; repair or exclude the bad files, or raise `tolerance`",
        )
