"""Lines about a training for people: losses, held-out losses, visual grounding.

They are read from the folder of a train node. `millrace inspect` prints them, and so does a run at its end
(`pipelines/dag/summary.py`).
"""

from __future__ import annotations

from pathlib import Path

from manifests.records import Json
from pipelines.inspect import queries

MODALITIES = {"loss_text": "text", "loss_vision": "captions and answers about media"}
"""Loss column of the trainer's steps -> words."""
AVERAGED_STEPS = 10
"""Steps at the beginning and at the end whose mean loss is shown."""


def training_lines(folder: Path) -> list[str]:
    """Lines about the losses and the evaluation of a training; empty before its first step."""
    steps = queries.training_steps(folder)
    if not steps:
        return []
    lines = [f"loss, nats per token, mean of the first and of the last {AVERAGED_STEPS} of {len(steps):,} steps:"]
    for column, words in MODALITIES.items():
        losses = [row[column] for row in steps if isinstance(row.get(column), float)]
        if losses:
            lines.append(f"  {words}: {_mean(losses[:AVERAGED_STEPS]):.3f} -> {_mean(losses[-AVERAGED_STEPS:]):.3f}")
    evaluation = queries.read_json(folder / "evaluation.json") or {}
    held_out = evaluation.get("held_out") or {}
    if held_out:
        by_domain = ", ".join(f"{domain} {value['loss']:.3f}" for domain, value in sorted(held_out.items()))
        lines.append(f"held-out loss, nats per token: {by_domain}")
    grounding = evaluation.get("grounding") or {}
    if "verdict" in grounding:
        lines.append(f"visual grounding: {grounding['verdict']}")
    return lines


def training_table(folder: Path) -> dict[str, Json]:
    """Losses of ten steps, held-out losses by domain, and visual grounding by attribute, as plain values."""
    evaluation = queries.read_json(folder / "evaluation.json") or {}
    return {
        "training": [
            {key: row[key] for key in ("step", "tokens", "loss", "loss_text", "loss_vision") if key in row}
            for row in queries.evenly_spaced(queries.training_steps(folder), 10)
        ],
        "held_out_loss": {domain: value["loss"] for domain, value in evaluation.get("held_out", {}).items()},
        "grounding": [
            {"attribute": name} | {key: result.get(key) for key in ("difference", "low", "high", "tokens", "scenes")}
            for name, result in evaluation.get("grounding", {}).get("attributes", {}).items()
            if result["scenes"]
        ],
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
