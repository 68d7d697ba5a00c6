"""Muon for hidden matrices and AdamW for everything else, with one state per canonical parameter.

The loop passes averaged, clipped gradients. The state is keyed by canonical names, so that any layout of the model
loads it from a checkpoint. Weights and gradients are dictionaries from canonical name to tensor (views of the model's
own); each expert's matrix is a matrix of its own.

Sources: Moonlight (arXiv 2502.16982, section 2) and Kimi K2 (arXiv 2507.20534, algorithm 1) for the step; Nesterov
momentum is Moonlight's practice, K2's algorithm writes the plain one. Decoupled weight decay everywhere, as there.
AdamW trains the patch embedding, because with Muon on it a small model ignored its images for hundreds of steps
(benchmarks/LOG.md), and all tables of embeddings and positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from manifests.errors import ResumeError
from manifests.load import schema

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the odd quintic, steepest at zero: singular values end near one, not at one."""
NEWTON_SCHULZ_STEPS = 5
SINGULAR_BAND = (0.68, 1.21)
"""Range of singular values after five steps, if they were at least 1/500 of the Frobenius norm (tested)."""
TINY = 1e-7
"""Added to the norm, so that a matrix of zeros stays zero."""
RMS_MATCH = 0.2
"""Factor of sqrt(max(n, m)) that gives an update the RMS of AdamW's, so that one learning rate fits
both (Moonlight)."""
ADAMW_NAMES = ("embed_tokens.", "lm_head.", "patch_embed.")
"""Parts of the canonical names of matrices that AdamW trains."""
EXPERTS = ".experts."
"""Part of the canonical names of stacked expert matrices, (experts, rows, columns)."""
ADAMW_EPSILON = 1e-8


@schema
class Optimizer:
    """Settings of Muon and AdamW. Learning rates are peaks; the schedule multiplies both by the same factor."""

    muon_lr: float = 2e-4
    """Kimi K2 (arXiv 2507.20534): 2e-4 in pre-training. Small models on short runs want some ten times more."""
    adamw_lr: float = 2e-4
    """Moonlight uses one rate for both; small models need two."""
    momentum: float = 0.95
    weight_decay: float = 0.1
    """Decoupled: each step subtracts lr * weight_decay times the weight."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    clip_norm: float = 1.0
    """Limit of the global gradient norm."""
    newton_schulz: Literal["bfloat16", "float32"] | None = None
    """Precision of the iteration. The papers use bfloat16; None takes it where the machine has instructions for it."""

    def __post_init__(self) -> None:
        for name in ("muon_lr", "adamw_lr", "clip_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"momentum and betas lie in [0, 1), got {self.momentum} and {self.betas}")


def is_matrix(name: str, weight: Tensor) -> bool:
    """Return whether Muon trains a parameter: hidden matrices and stacked expert matrices; no tables, no vectors."""
    if any(part in name for part in ADAMW_NAMES):
        return False
    return weight.ndim == 2 or (weight.ndim == 3 and EXPERTS in name)


def newton_schulz_dtype(settings: Optimizer) -> torch.dtype:
    """Return the precision of the iteration.

    Measured on a Zen 4 core, 72 matrices of 96 x 128: 6 ms in bfloat16, 22 ms in float32.
    """
    if settings.newton_schulz is not None:
        return getattr(torch, settings.newton_schulz)
    fast = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def newton_schulz(update: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Move the singular values of each matrix towards one and keep its singular vectors.

    Args:
        update: (B, n, m) at any scale. Matrices of zeros stay zero.
    Returns:
        (B, n, m) in `dtype`; singular values inside SINGULAR_BAND if they were above 1/500 of the norm.
    """
    x = update.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT.contiguous()
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + TINY)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonAdamW:
    """Muon and AdamW over one dictionary of canonical float32 parameters, updated in place.

    The state is a flat dictionary of tensors, `momentum/NAME` for matrices and `first/NAME`, `second/NAME` for the
    rest, and the number of steps taken.
    """

    def __init__(self, weights: Mapping[str, Tensor], settings: Optimizer) -> None:
        self.weights, self.settings = weights, settings
        self.dtype = newton_schulz_dtype(settings)
        self.steps = 0
        self.state: dict[str, Tensor] = {}
        for name, weight in weights.items():
            for kind in ("momentum",) if is_matrix(name, weight) else ("first", "second"):
                self.state[f"{kind}/{name}"] = torch.zeros_like(weight)
        # Matrices of one shape are orthogonalized in one batch; their order never depends on a set or a dict.
        self.batches: dict[tuple[int, int], list[str]] = {}
        for name in sorted(weights):
            if is_matrix(name, weights[name]):
                rows, columns = weights[name].shape[-2:]
                self.batches.setdefault((rows, columns), []).append(name)

    def restore(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Go on from a saved state; its names must be those of this optimizer."""
        if state.keys() != self.state.keys():
            raise ResumeError(f"optimizer state is not of this model: {sorted(state.keys() ^ self.state.keys())[:3]}")
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
        self.steps = steps

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], factor: float) -> None:
        """One update with both rates multiplied by `factor`. Every parameter must have a gradient."""
        self.steps += 1
        for shape, names in self.batches.items():
            self._muon(shape, names, gradients, self.settings.muon_lr * factor)
        for name in self.weights:
            if f"first/{name}" in self.state:
                self._adamw(name, gradients[name], self.settings.adamw_lr * factor)

    def _muon(self, shape: tuple[int, int], names: Sequence[str], gradients: Mapping[str, Tensor], lr: float) -> None:
        mu = self.settings.momentum
        updates = []
        for name in names:
            momentum = self.state[f"momentum/{name}"]
            momentum.mul_(mu).add_(gradients[name])
            updates.append((gradients[name] + mu * momentum).reshape(-1, *shape))
        directions = newton_schulz(torch.cat(updates), self.dtype).float()
        scale = RMS_MATCH * math.sqrt(max(shape))
        for name, direction in zip(names, directions.split([len(update) for update in updates]), strict=True):
            weight = self.weights[name]
            weight.mul_(1 - lr * self.settings.weight_decay).add_(direction.view_as(weight), alpha=-lr * scale)

    def _adamw(self, name: str, gradient: Tensor, lr: float) -> None:
        weight, first, second = self.weights[name], self.state[f"first/{name}"], self.state[f"second/{name}"]
        slow, slower = self.settings.betas
        first.lerp_(gradient, 1 - slow)
        second.mul_(slower).addcmul_(gradient, gradient, value=1 - slower)
        size = (second / (1 - slower**self.steps)).sqrt_().add_(ADAMW_EPSILON)
        weight.mul_(1 - lr * self.settings.weight_decay)
        weight.addcdiv_(first, size, value=-lr / (1 - slow**self.steps))


@torch.no_grad()
def clip(gradients: Mapping[str, Tensor], limit: float) -> float:
    """Scale all gradients in place to a global norm of at most `limit`; return the norm before.

    A norm that is not finite scales nothing; the loop raises an error for it.
    """
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients.values()]))
    if torch.isfinite(norm) and norm > limit:
        for gradient in gradients.values():
            gradient.mul_(limit / norm)
    return float(norm)
