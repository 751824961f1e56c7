"""The one place that imports TRL's experimental async GRPO; what it would load or ask for in vain is replaced first."""

import os

import torch
import trl.import_utils as trl_imports

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
# It would import all of vLLM for a transfer of weights that this project never makes.
trl_imports.is_vllm_available = lambda *_, **__: False

from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer, async_grpo_trainer  # noqa: E402
from trl.experimental.async_grpo.async_grpo_trainer import DataCollatorForRollout, TokenBudgetBatcher  # noqa: E402
from trl.experimental.async_grpo.packing import TREE_ATTENTION, TreeRow  # noqa: E402

if not torch.cuda.is_available():
    async_grpo_trainer.get_peak_flops_per_device = lambda *_: None  # it asks CUDA

__all__ = [
    "TREE_ATTENTION",
    "AsyncGRPOConfig",
    "AsyncGRPOTrainer",
    "DataCollatorForRollout",
    "TokenBudgetBatcher",
    "TreeRow",
    "async_grpo_trainer",
]
