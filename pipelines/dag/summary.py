"""Last screen of a run: a table of its nodes, the proof of its packs, losses of a training, the report, and next steps.

`execute.py` prints it to stdout at the end. `pipelines/inspect/training.py` reads the losses.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from manifests.quantities import count_text, duration_text, size_text
from pipelines.dag.destination import Destination
from pipelines.dag.results import NodeResult, by_reason
from pipelines.inspect.training import training_lines
from pipelines.node import Product
from stores.upkeep.verify import ContentCheck

WIDTH = 100
"""Columns of the terminal that the table fits into."""
NAME_WIDTH = 12
"""Least columns for a node's name; a longer one is cut if the numbers need the room."""


def print_summary(
    out: Destination,
    results: Sequence[NodeResult],
    products: Mapping[str, Product],
    proofs: Mapping[str, ContentCheck],
) -> None:
    """Print the last screen of a run."""
    training = next((products[result.node] for result in results if result.kind == "train"), None)
    report = out.folder / "report.html"
    lines = [*table(results), total_line(results), *proof_lines(out, proofs)]
    for line in training_lines(training.folder) if training is not None else ():
        lines += textwrap.wrap(line, WIDTH, subsequent_indent="  ") or [""]
    lines += [f"report: {report}"] if report.is_file() else []
    if training is not None:
        lines += ["next:", *(f"  {_program()} {command}" for command in _commands(out, results, products))]
    print("\n".join(lines))


TITLES = ("node", "in", "kept", "tokens", "size", "time", "CPU", "memory", "records/s", "digest")


def table(results: Sequence[NodeResult]) -> list[str]:
    """Return a table of the nodes, at most `WIDTH` columns wide.

    Time, CPU time, memory (of the largest process) and rate are those of this run; a node that was committed before has
    none. Lines below a node name the reasons for dropped and quarantined records.
    """
    rows = [TITLES, *map(_cells, results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rest = sum(widths[1:]) + 2 * (len(widths) - 1)
    widths[0] = max(NAME_WIDTH, min(widths[0], WIDTH - rest))
    lines = [_line(rows[0], widths)]
    for result, row in zip(results, rows[1:], strict=True):
        lines.append(_line(row, widths))
        for word, counts in (("dropped", result.counts.dropped), ("quarantined", result.counts.quarantined)):
            if reasons := by_reason(counts):
                lines.append(_cut(f"  {word}: {reasons}", WIDTH))
    return lines


def _cells(result: NodeResult) -> tuple[str, ...]:
    counts, usage = result.counts, result.work.usage
    records = (count_text(counts.seen), count_text(counts.kept)) if counts.seen else ("", "")
    rate = count_text(round(result.rate))
    if result.product == "folder":
        records, rate = ("", f"{count_text(counts.kept)} files"), ""
    size = (count_text(result.tokens) if result.tokens else "", size_text(result.bytes) if result.bytes else "")
    times = (duration_text(result.seconds), duration_text(usage.cpu_s))
    took = (*times, size_text(usage.peak_bytes), rate)
    spent = ("committed", "", "", "") if result.skipped else took
    return (result.node, *records, *size, *spent, result.digest[:8])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name = _cut(cells[0], widths[0]).ljust(widths[0])
    return "  ".join([name, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]).rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def total_line(results: Sequence[NodeResult]) -> str:
    """Return the cost of the whole run: time, CPU time, and the node with the largest process."""
    seconds, cpu_s = sum(result.seconds for result in results), sum(result.work.usage.cpu_s for result in results)
    largest = max(results, key=lambda result: result.work.usage.peak_bytes, default=None)
    memory = ""
    if largest is not None and largest.work.usage.peak_bytes:
        memory = f", at most {size_text(largest.work.usage.peak_bytes)} of memory in one process ({largest.node})"
    return f"took {duration_text(seconds)}, {duration_text(cpu_s)} of CPU time{memory}"


def proof_lines(out: Destination, proofs: Mapping[str, ContentCheck]) -> list[str]:
    """Return one line per packs store: the result of its comparison with the plan, and the command for it."""
    lines = []
    for name, check in proofs.items():
        if check.proved:
            result = f"equal to the plan in {len(check.proved)} properties recounted from stored bytes; check again"
        else:
            result = f"not compared with the plan: {check.skipped}; check"
        lines.append(f"{name}: {result}: {_program()} store verify {out.store(name)}")
    return lines


def _program() -> str:
    """Return the command for this program: its path relative to the working directory if it is below, else its name."""
    command = Path(sys.executable).with_name("millrace")
    return os.path.relpath(command) if command.is_relative_to(Path.cwd()) else "millrace"


def _commands(out: Destination, results: Sequence[NodeResult], products: Mapping[str, Product]) -> list[str]:
    """Return commands to try after a training."""
    packs = [name for name, product in products.items() if product.kind == "packs"]
    documents = [result.node for result in results if result.kind.startswith("ingest_")]
    commands = [f"inspect {out.folder}"]
    commands += [f"inspect {out.store(name)} --record 0" for name in packs[:1]]
    return commands + [f"inspect {out.store(name)} --quarantine" for name in documents[:1]]
