"""What each process of a run takes of its device's memory, part by part, before it is started: estimates [ours].

Bytes, by part. What is not worked out from sizes (an interpreter with torch, a CUDA context, vLLM itself) is a constant
here. A GPU server fills its share of the GPU with KV cache: what it needs is the least with which it starts.
"""

from proactor_lib import models
from proactor_lib.artf.capacity.sizes import NF4_BITS, ModelSizes
from proactor_lib.params import Params

GB = 1e9
HEAD_ROWS = 256  # positions whose logits the trainer holds at once (artf/training/head.py)
TRAINER = 1.2 * GB  # a process with torch, TRL and PEFT; as much again is a GPU's context with its workspaces
VLLM = 2.5 * GB  # a CPU server without weights and cache: two processes with torch and vLLM
VLLM_GPU = 2.5 * GB  # a GPU server's context, CUDA graphs and the activations of a prompt's part
NOTEBOOK = 0.6 * GB  # `proactor run`, papermill and a kernel

Parts = dict[str, float]


def trainer(model: ModelSizes, params: Params, gpu: bool, float32: bool = False) -> Parts:
    """A training process, at the longest row that it forwards at once.

    float32: on a CPU without bfloat16 arithmetic. A GPU holds the base in NF4 where parameters say so, a CPU its
    dequantised weights.
    """
    number = 4 if float32 and not gpu else 2
    adapter = model.adapter(params.lora_rank)
    bits = NF4_BITS if gpu and params.quantization == "nf4" else 8 * number
    return {
        "weights": model.weights(bits) if gpu else model.parameters * number,
        "adapter": adapter * 4 * (4 + (params.trainers > 1)),  # float32: itself, gradient, Adam's two; DDP's buckets
        "activations": _activations(model, params) * number,
        "logits": HEAD_ROWS * model.vocab_size * (2 * number + 12) + params.token_budget * model.hidden_size * number,
        "process": TRAINER,
    }


def _activations(model: ModelSizes, params: Params) -> float:
    """Numbers kept for the backward of the longest row.

    Of each layer (lean_layers.py): the norms' inputs, the inputs of its linear layers, queries, keys, values, what
    attention gives, and the MLP's two projections. With checkpointing each layer's input, and one layer's twice.
    """
    h, m = model.hidden_size, model.intermediate_size
    layer = 4 * h + 2 * model.queries + 2 * model.keys + 3 * m
    if params.gradient_checkpointing:
        return params.token_budget * (model.num_hidden_layers * h + 2 * layer)
    return params.token_budget * (model.num_hidden_layers + 1) * layer


def cpu_server(model: ModelSizes, params: Params, float32: bool) -> Parts:
    """A server on a CPU, of the policy or of a model of its own."""
    return {
        "weights": model.weights() * (1 + float32),
        "KV cache": max(1, round(params.kv_cache_gb)) * GB,
        "process": VLLM,
    }


def gpu_server(model: ModelSizes, params: Params, bits: float = 16, adapters: bool = False, longest: int = 0) -> Parts:
    """A server on a GPU, with a KV cache for one sequence of `longest` tokens (0: the model's own limit).

    adapters: whether it holds the run's versions as adapters.
    """
    versions = (params.max_staleness + 2) if adapters else 0
    return {
        "weights": model.weights(bits),
        "KV cache": (longest or model.max_position_embeddings) * model.kv_bytes,
        "adapters": versions * model.adapter(models.served_rank(params.lora_rank)) * 2,
        "process": VLLM_GPU,
    }


def export(model: ModelSizes) -> float:
    """Memory of making the bfloat16 weights that servers hold from the 4-bit model: both at once."""
    return model.weights(NF4_BITS) + model.weights() + TRAINER


def run_folder(model: ModelSizes, params: Params) -> float:
    """Disk of a run's folder: three checkpoints' adapters with Adam's numbers, those of the served versions."""
    adapter = model.adapter(params.lora_rank) * 4
    return 3 * 3 * adapter + (params.max_staleness + 3) * adapter + 0.2 * GB
