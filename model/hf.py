"""Conversion of canonical weights to the names of the Moonshot release and of `transformers`, and back.

    canonical (ours, an expert is an axis)  <->  released (an expert is in the name)
    canonical                               <->  transformers' Kimi_K25ForConditionalGeneration.state_dict()

The four functions rename, split and stack only, so a round trip gives the same bits. Exports use the released names:
every reader of Kimi K2.5 checkpoints knows them, and `transformers` converts them while loading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

from manifests.errors import MillraceError
from model.config import ModelConfig
from model.counts import canonical_shapes

Weights = dict[str, torch.Tensor]

_EXPERTS = ".mlp.experts."

_TO_TRANSFORMERS = (
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^vision_tower\.patch_embed\.pos_emb\.weight$", "model.vision_tower.patch_embed.pos_emb.position_embeddings"),
    (r"^vision_tower\.patch_embed\.proj\.", "model.vision_tower.patch_embed.proj."),
    (r"^vision_tower\.encoder\.final_layernorm\.", "model.vision_tower.final_layernorm."),
    (r"^vision_tower\.encoder\.blocks\.(\d+)\.norm1\.", r"model.vision_tower.layers.\1.norm2."),
    (r"^vision_tower\.encoder\.blocks\.(\d+)\.norm0\.", r"model.vision_tower.layers.\1.norm1."),
    (r"^vision_tower\.encoder\.blocks\.(\d+)\.mlp\.fc1\.", r"model.vision_tower.layers.\1.mlp.fc2."),
    (r"^vision_tower\.encoder\.blocks\.(\d+)\.mlp\.fc0\.", r"model.vision_tower.layers.\1.mlp.fc1."),
    (r"^vision_tower\.encoder\.blocks\.(\d+)\.wo\.", r"model.vision_tower.layers.\1.attn.proj."),
    (r"^mm_projector\.proj\.0\.", "model.mm_projector.in_proj."),
    (r"^mm_projector\.proj\.2\.", "model.mm_projector.out_proj."),
    (r"^mm_projector\.pre_norm\.", "model.mm_projector.pre_norm."),
)
"""(pattern, replacement); the first match wins. Weights that change shape too (stacked experts, wqkv) are not here."""


def to_released(canonical: Mapping[str, torch.Tensor]) -> Weights:
    """Split experts: `...experts.gate_proj.weight` (E, ...) becomes `...experts.0.gate_proj.weight` and so on."""
    released: Weights = {}
    for name, tensor in canonical.items():
        if _EXPERTS in name:
            released |= {_expert_name(name, number): expert for number, expert in enumerate(tensor)}
        else:
            released[name] = tensor
    return released


def from_released(released: Mapping[str, torch.Tensor], config: ModelConfig) -> Weights:
    """Stack experts; the inverse of `to_released`.

    Raises:
        MillraceError: a weight is missing or left over.
    """
    taken: set[str] = set()

    def take(name: str) -> torch.Tensor:
        taken.add(name)
        return _get(released, name)

    canonical: Weights = {}
    for name, shape in canonical_shapes(config).items():
        if _EXPERTS in name:
            canonical[name] = torch.stack([take(_expert_name(name, number)) for number in range(shape[0])])
        else:
            canonical[name] = take(name)
    _refuse_leftovers(released.keys() - taken)
    return canonical


def _expert_name(name: str, number: int) -> str:
    return name.replace(_EXPERTS, f"{_EXPERTS}{number}.")


def to_transformers(canonical: Mapping[str, torch.Tensor], config: ModelConfig) -> Weights:
    """Stack gate and up matrices of experts, split wqkv of the tower, and reorder rotary pairs into halves."""
    theirs: Weights = {}
    for name, tensor in canonical.items():
        if ".wqkv." in name:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                rows = rows if part == "v" else _pairs_to_halves(rows, config.vision.num_attention_heads)
                theirs[_attention_name(name, part)] = rows
        elif name.endswith("experts.gate_proj.weight") and tensor.ndim == 3:
            up = canonical[name.replace("gate_proj", "up_proj")]
            theirs[_stacked_name(name, "gate_up_proj")] = torch.cat([tensor, up], dim=1)
        elif name.endswith("experts.down_proj.weight") and tensor.ndim == 3:
            theirs[_stacked_name(name, "down_proj")] = tensor
        elif not (name.endswith("experts.up_proj.weight") and tensor.ndim == 3):
            theirs[_transformers_name(name)] = tensor
    return theirs


def from_transformers(theirs: Mapping[str, torch.Tensor], config: ModelConfig) -> Weights:
    """Convert from `transformers`; the inverse of `to_transformers`.

    Raises:
        MillraceError: a weight is missing or left over.
    """
    taken: set[str] = set()

    def take(name: str) -> torch.Tensor:
        taken.add(name)
        return _get(theirs, name)

    canonical: Weights = {}
    for name, shape in canonical_shapes(config).items():
        if ".wqkv." in name:
            query, key, value = (take(_attention_name(name, part)) for part in "qkv")
            heads = config.vision.num_attention_heads
            canonical[name] = torch.cat([_halves_to_pairs(query, heads), _halves_to_pairs(key, heads), value])
        elif len(shape) == 3 and _EXPERTS in name:
            kind = name.split(".")[-2]
            stacked = take(_stacked_name(name, "down_proj" if kind == "down_proj" else "gate_up_proj"))
            canonical[name] = stacked if kind == "down_proj" else stacked.chunk(2, dim=1)[kind == "up_proj"]
        else:
            canonical[name] = take(_transformers_name(name))
    _refuse_leftovers(theirs.keys() - taken)
    return canonical


def _transformers_name(name: str) -> str:
    for pattern, replacement in _TO_TRANSFORMERS:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name)
    raise AssertionError(f"{name} has no name in transformers")


def _attention_name(name: str, part: str) -> str:
    return re.sub(
        r"^vision_tower\.encoder\.blocks\.(\d+)\.wqkv\.", rf"model.vision_tower.layers.\1.attn.{part}_proj.", name
    )


def _stacked_name(name: str, kind: str) -> str:
    return _transformers_name(name).rsplit(".", 2)[0] + f".{kind}"


def _pairs_to_halves(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder rows of a query or key projection per head: (x0, y0, x1, y1 ..) to halves (x0, x1 .. y0, y1 ..)."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _halves_to_pairs(rows: torch.Tensor, heads: int) -> torch.Tensor:
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _get(weights: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in weights:
        raise MillraceError(f"the checkpoint has no {name}", fix="check that the model manifest fits the checkpoint")
    return weights[name]


def _refuse_leftovers(names: Iterable[str]) -> None:
    left = sorted(names)
    if left:
        raise MillraceError(
            f"the checkpoint holds {len(left)} weights that this model has no place for, such as {left[0]}",
            fix="check that the model manifest fits the checkpoint",
        )
