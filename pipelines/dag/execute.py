"""The nodes of one run, one after the other: what is finished is skipped, what is missing is made and committed.

Called by `dag/command.py` under the run's lock. Units of a node go to the engine side by side; their receipts come back
in any order and are committed in batches by this one process. The last commit of a node says that it is complete.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

from manifests.records import Json
from manifests.runlog import RunLog
from pipelines.dag import graph as dag
from pipelines.dag import progress
from pipelines.dag.destination import Out
from pipelines.dag.graph import Graph, Tolerance
from pipelines.dag.products import finished, folder_product, parents, store_product
from pipelines.dag.progress import Meter, Result, Show, Tally, Work
from pipelines.dag.proofs import proved
from pipelines.dag.receipts import FolderReceipt, Receipts, facts
from pipelines.dag.summary import closing, proof_lines
from pipelines.dag.unit import Outcome, StoreTask, TooManyBad, run_unit, too_many
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
"""A commit waits for so many receipts, or so long. A kill costs at most this much work beside the units in flight."""


def execute(graph: Graph, out: Out, workers: int, as_json: bool) -> int:
    """Run it and print what it came to; the exit code."""
    show = Show()
    with open_engine(graph.manifest.value.engine, workers, show.say) as engine, ExitStack() as more:
        # Workers on other machines don't see this one's folders.
        beside = more.enter_context(LocalEngine(workers)) if engine.elsewhere else engine
        return Execution(graph, out, engine, beside, show).run(as_json)


class Execution:
    def __init__(self, graph: Graph, out: Out, engine: Engine, beside: Engine, show: Show) -> None:
        """`beside`: where folders are made."""
        self.graph, self.out, self.engine, self.beside, self.show = graph, out, engine, beside, show
        self.log = RunLog(out.folder / "log.jsonl")
        self.products: dict[str, Product] = {}
        self.results: list[Result] = []
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
            progress.table(self.results)
            kinds = {result.node: result.kind for result in self.results}
            for line in [*proof_lines(self.out, self.proofs), *closing(self.out, self.products, kinds)]:
                print(line)
        skipped = sum(result.skipped for result in self.results)
        if skipped == len(self.results):
            self.show.say(f"{skipped} nodes already committed, same digests")
        return 0

    def work(self) -> None:
        for name in self.graph.order:
            self._node(name)

    def _survey(self, name: str, node: Node, inputs: Inputs) -> Survey:
        return node.survey(name, inputs)

    def _node(self, name: str) -> None:
        node = self.graph.node(name)
        start = time.monotonic()
        inputs = {wanted: self.products[wanted] for wanted in node.reads()}
        survey = self._survey(name, node, inputs)
        identity = dag.identity(name, node, inputs, survey)
        found = finished(self.out, name, node, inputs, identity)
        work = Work()
        if found is None:
            if node.PRODUCT == "folder":
                made = self._folder(name, cast(FolderNode, node), inputs, survey, identity, work)
            else:
                made = self._store(name, cast(StoreNode, node), inputs, survey, identity, work)
        product, tally = found or made
        self.products[name] = product
        if product.kind != "folder":
            lookup.build(product.snapshot)  # also of what was finished: a kill may have come in between
        seconds = round(time.monotonic() - start, 3)
        counts = {} if product.kind == "folder" else product.snapshot.counts
        size = (counts.get("bytes", 0), counts.get("tokens", 0))
        result = Result(name, node.kind, identity, product.digest, tally, seconds, found is not None, *size, work)
        self.results.append(result)
        self.log.write("node_skip" if found else "node_commit", **result.as_json())
        if product.kind == "packs":
            self.proofs[name] = proved(self.out.folder, product)
        if found is None:
            self.show.say(f"{name}: {progress.spoken(tally)}, {seconds:.1f} s")

    def _store(
        self, name: str, node: StoreNode, inputs: Inputs, survey: Survey, identity: str, work: Work
    ) -> tuple[Product, Tally]:
        store = Store.open_or_create(self.out.store(name), node.PRODUCT, name)
        head = store.head()
        wanted = dag.unit_names(name, node, survey)
        done = set(head.units) & set(wanted) if head is not None else set()
        self._begin(name, node, identity, len(wanted), len(done))
        tolerance = self.graph.manifest.value.tolerance
        made_of = dag.made_of(node, inputs, survey)
        earlier = PreviousView.of(store, head, made_of)
        submissions = (
            Submission(
                f"{name}, unit {stored}",
                StoreTask(
                    node, store.url, stored, UnitTask(name, unit, inputs, earlier), tolerance.in_a_row, tolerance.share
                ),
                unit.size_bytes,
            )
            for stored, unit in wanted.items()
            if stored not in done
        )
        with self.show.node(name, len(wanted), len(done)) as meter:
            meta = dict(head.meta) if head is not None and done else {}
            meta["made_of"] = made_of
            if earlier is not None:
                meta[PREVIOUS_NUMBER] = earlier.number
            committer = Committer(store, identity, tuple(wanted), parents(node, inputs), meta, meter)
            stop = StopRule(name, tolerance)
            for task, outcome in self.engine.run(name, run_unit, submissions):
                self._log_outcome(name, task.stored_as, outcome)
                work.add(outcome.tally.seen, outcome.parts)
                committer.add(outcome)
                if (error := stop.after(outcome)) is not None:
                    committer.commit(complete=False)
                    raise error
            snapshot = committer.commit(complete=True)
        return store_product(name, node, inputs, snapshot)

    def _folder(
        self, name: str, node: FolderNode, inputs: Inputs, survey: Survey, identity: str, work: Work
    ) -> tuple[Product, Tally]:
        receipts = Receipts(self.out.folder)
        parts = receipts.begin(name, identity)
        place = OutputFolder(self.out.folder, name)
        self._begin(name, node, identity, len(survey.units), len(parts))
        left = [unit for unit in survey.units if unit.name not in parts]
        todo = [FolderTask(node, UnitTask(name, unit, inputs), place) for unit in left]
        with self.show.node(name, len(survey.units), len(parts)) as meter:
            for task, files in self._folder_units(name, node, todo):
                part = parts[task.task.unit.name] = FolderReceipt(identity, tuple(facts(self.out.folder, files)))
                receipts.part(name, task.task.unit.name, part)
                work.add(len(files), {})
                meter.committed(1, Tally(kept=len(files)))
        everything = sorted({file for part in parts.values() for file in part.files}, key=lambda file: file.path)
        receipt = FolderReceipt(identity, tuple(everything), dag.made_of(node, inputs, survey))
        receipts.finish(name, receipt)
        return folder_product(self.out.folder, name, receipt)

    def _folder_units(
        self, name: str, node: FolderNode, todo: Sequence[FolderTask]
    ) -> Iterator[tuple[FolderTask, list[str]]]:
        if node.ALONE:
            self.engine.close()  # the child gets the whole machine, and the terminal
            self.beside.close()
            for task in todo:
                yield task, node.make(task.task, task.place)
        else:
            names = (Submission(f"{one.task.node}, unit {one.task.unit.name}", one) for one in todo)
            yield from self.beside.run(name, run_folder_unit, names)

    def _begin(self, name: str, node: Node, identity: str, units: int, committed: int) -> None:
        self.log.write("node_start", node=name, kind=node.kind, identity=identity, units=units, committed=committed)

    def _log_outcome(self, node: str, unit: str, outcome: Outcome) -> None:
        tally = outcome.tally
        if tally.quarantined or tally.noted:
            counts: dict[str, Json] = {"reasons": dict(tally.quarantined), "noted": dict(tally.noted)}
            self.log.write("quarantine", node=node, unit=unit, **counts, details=list(outcome.details))


@dataclass(frozen=True)
class FolderTask:
    node: FolderNode
    task: UnitTask
    place: OutputFolder


def run_folder_unit(folder: FolderTask, lethal: frozenset[int], tell: Callable[[int], None]) -> list[str]:
    return folder.node.make(folder.task, folder.place)


class Committer:
    """Publishes receipts of one node, a batch at a time."""

    def __init__(
        self,
        store: Store,
        identity: str,
        units: Sequence[str],
        parents: Sequence[Parent],
        meta: dict[str, Json],
        meter: Meter,
    ) -> None:
        self.store, self.identity, self.units, self.parents = store, identity, units, parents
        self.meta, self.meter = meta, meter
        self.waiting: list[Outcome] = []
        self.last = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        self.waiting.append(outcome)
        self.meta |= outcome.meta
        if len(self.waiting) >= BATCH_UNITS or time.monotonic() - self.last >= BATCH_S:
            self.commit(complete=False)

    def commit(self, complete: bool) -> Snapshot:
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
