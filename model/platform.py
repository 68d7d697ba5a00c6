"""Import of Megatron-core: version check, source rewrites and repairs. No other file imports `megatron.core`.

Three lists are applied: rewrites for machines without CUDA, attributes for machines without Transformer Engine, and
repairs of wrong numbers, which are always on. The comment of each entry names the failure without it. `model/` builds
on the names imported below.
"""

# ruff: noqa: E402, F401  (Megatron-core may only be imported once the lists are in place; its names are re-exported)

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import logging
import sys
import types
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed

from manifests.errors import MillraceError
from manifests.extras import install

CHECKED_VERSIONS = ("0.16.1", "0.19.2")
"""Versions of megatron-core that the parity tests pass with; another one may compute other numbers silently."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Substitution in the source of one Megatron-core module, made while it is imported; its file stays unchanged."""

    module: str
    old: str
    new: str


_CURRENT_DEVICE = ("torch.cuda.current_device()", 'torch.device("cpu")')

WITHOUT_CUDA = (
    # The rotary tables and the router ask for the current GPU, even with use_cpu_initialization.
    Rewrite("megatron.core.models.common.embeddings.rotary_pos_embedding", *_CURRENT_DEVICE),
    Rewrite("megatron.core.models.common.embeddings.yarn_rotary_pos_embedding", *_CURRENT_DEVICE),
    Rewrite("megatron.core.transformer.moe.router", *_CURRENT_DEVICE),
    # torch.compile needs a C++ compiler at run time, and compiling takes longer than a short run saves.
    Rewrite("megatron.core.jit", "jit_fuser = torch.compile", "jit_fuser = noop_decorator"),
)
"""Rewrites for machines without CUDA, applied on every machine: models run on the CPU even if there is a GPU.

No run on a GPU has been checked yet, and a model that is half on one fails late."""


class _RewritingLoader(importlib.machinery.SourceFileLoader):
    """Loader that compiles a module from its rewritten source and bypasses the byte-code cache of the original."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        source = self.get_data(path).decode()
        for rewrite in WITHOUT_CUDA:
            if rewrite.module == fullname:
                if rewrite.old not in source:
                    raise ImportError(f"{fullname} no longer contains {rewrite.old!r}: review WITHOUT_CUDA")
                source = source.replace(rewrite.old, rewrite.new)
        return compile(source, path, "exec", dont_inherit=True)


class _RewritingFinder(importlib.abc.MetaPathFinder):
    """Finder of the modules that `WITHOUT_CUDA` rewrites."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if all(rewrite.module != fullname for rewrite in WITHOUT_CUDA):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _RewritingLoader(spec.loader.name, spec.loader.path)
        return spec


def _check_version() -> None:
    try:
        version = importlib.metadata.version("megatron-core")
    except importlib.metadata.PackageNotFoundError:
        raise MillraceError("megatron-core is not installed", fix=install("train")) from None
    if version not in CHECKED_VERSIONS:
        raise MillraceError(
            f"megatron-core {version} is installed, but only {' and '.join(CHECKED_VERSIONS)} were checked",
            fix="pip install -c constraints.txt '.[train]', or add it to CHECKED_VERSIONS once tests/model passes",
        )
    if any(name == "megatron.core" or name.startswith("megatron.core.") for name in sys.modules):
        raise MillraceError("megatron.core was imported before model.platform", fix="import model.platform first")


_check_version()
sys.meta_path.insert(0, _RewritingFinder())
# Its warnings are about packages and settings that users of this project do not choose; errors still come through.
warnings.filterwarnings("ignore", category=UserWarning, module=r"megatron\.core\.")
for _logger in ("megatron.core", "torch.utils.cpp_extension"):
    logging.getLogger(_logger).setLevel(logging.ERROR)

from megatron.core import parallel_state
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt import GPTModel
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.post_training.modelopt.layers import Linear
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import multi_latent_attention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe import moe_utils
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.moe_utils import get_updated_expert_bias
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from megatron.core.transformer.multi_latent_attention import MLASelfAttention, MLASelfAttentionSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import MLATransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

WITHOUT_TRANSFORMER_ENGINE = (
    # 0.16 believes Transformer Engine to be there and calls isinstance() with a stand-in: TypeError.
    (multi_latent_attention, "HAVE_TE", False),
    # 0.19 forgets its own plain Linear then, and refuses it as a projection of latent attention.
    (multi_latent_attention, "Linear", Linear),
    # The router's gate asks for this name, which only exists with Transformer Engine: NameError.
    (moe_utils, "te_general_gemm", None),
)
"""(module, attribute, value), set after the import."""

if importlib.util.find_spec("transformer_engine") is None:
    for _module, _attribute, _value in WITHOUT_TRANSFORMER_ENGINE:
        setattr(_module, _attribute, _value)

REPAIRS = {"linear_q_down_proj": Linear, "linear_kv_down_proj": Linear}
"""Parts of latent attention for which Megatron's own choice computes wrong numbers without an error; always on.

As ColumnParallelLinear, the down projections give the shared rotary key a wrong gradient (by 80%) as soon as tensor and
sequence parallelism are on; replicated plain ones are right to 7e-7 (measured on two processes with 0.16.1).
"""


def start_single_process() -> None:
    """Create the process groups that Megatron-core's modules expect, for a world of one process. Idempotent.

    The rendezvous store is in this process's memory: it opens no port and writes no file.
    """
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    if not parallel_state.is_initialized():
        parallel_state.initialize_model_parallel()
