"""The last lines of a run: the proof of its packs, and after a training its losses, the page, and commands to try.

Reads what the trainer left in its folder; `dag/execute.py` prints it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from manifests.records import Json
from pipelines.dag.destination import Out
from pipelines.inspect import queries
from pipelines.node import Product
from stores.upkeep.verify import ContentCheck

MODALITIES = {"loss_text": "text", "loss_vision": "captions and answers about media"}
"""Columns of the trainer's steps, in words."""
AT_THE_ENDS = 10
"""Steps that are averaged at the beginning and at the end."""


def closing(out: Out, products: dict[str, Product], kinds: dict[str, str]) -> list[str]:
    """Lines for people; none where no node trains."""
    trained = next((products[name] for name, kind in kinds.items() if kind == "train" and name in products), None)
    if trained is None:
        return []
    steps = queries.training_steps(trained.folder)
    lines = ["", f"loss, nats per token, first and last {AT_THE_ENDS} of {len(steps)} steps:"]
    for column, words in MODALITIES.items():
        losses = [row[column] for row in steps if isinstance(row.get(column), float)]
        if losses:
            lines.append(f"  {words}: {_mean(losses[:AT_THE_ENDS]):.3f} -> {_mean(losses[-AT_THE_ENDS:]):.3f}")
    lines += _measured(queries.read_json(trained.folder / "evaluation.json") or {})
    page = out.folder / "report.html"
    lines += [f"page: {page}"] if page.is_file() else []
    return [*lines, "next:", *(f"  {_program()} {command}" for command in _commands(out, products, kinds))]


def proof_lines(out: Out, proofs: Mapping[str, ContentCheck]) -> list[str]:
    """One line for each packs store: whether it was proved, and the command that proves it."""
    lines = []
    for name, check in proofs.items():
        kept = f"proved: {len(check.proved)} promises of the plan recounted from bytes, all kept"
        result = kept if check.proved else f"not proved: {check.skipped}"
        lines.append(f"{name}: {result}; to prove: {_program()} store verify {out.store(name)}")
    return lines


def _program() -> str:
    """How to call this program from here: the command beside the running interpreter, where it lies below."""
    command = Path(sys.executable).with_name("millrace")
    return os.path.relpath(command) if command.is_relative_to(Path.cwd()) else "millrace"


def _measured(evaluation: Json) -> list[str]:
    held_out = evaluation.get("held_out") or {}
    losses = ", ".join(f"{domain} {value['loss']:.3f}" for domain, value in sorted(held_out.items()))
    lines = [f"held-out loss, nats per token: {losses}"] if losses else []
    seeing = evaluation.get("seeing") or {}
    return [*lines, f"visual grounding: {seeing['verdict']}"] if "verdict" in seeing else lines


def _commands(out: Out, products: dict[str, Product], kinds: dict[str, str]) -> list[str]:
    packs = [name for name, product in products.items() if product.kind == "packs"]
    documents = [name for name, kind in kinds.items() if kind.startswith("ingest_") and name in products]
    commands = [f"inspect {out.folder}"]
    commands += [f"inspect {out.store(name)} --record 0" for name in packs[:1]]
    return commands + [f"inspect {out.store(name)} --quarantine" for name in documents[:1]]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
