"""Layers of a frozen base with LoRA that keep less for their backward pass, and pass over memory less often [ours].

Autograd keeps every intermediate result. Here a LoRA layer keeps its input alone, a gated MLP its two projections
(their product is computed again), a norm its input and one number per token. Values and gradients are those of the
layers that they replace, but for the order of additions.
"""

import types

import torch
from peft.tuners.lora import Linear
from torch.autograd import Function
from torch.nn.functional import linear, silu

NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")  # all of them x / rms(x) * weight


def install(model) -> None:
    """Replace the forward of each layer of `model` that can do with less; others stay as they are.

    A LoRA layer can if its base is a plain linear layer, it has one adapter without dropout, and the adapter is on.
    """
    for module in model.modules():
        if isinstance(module, Linear):
            _replace(module, _lora_forward)
        elif _is_gated_mlp(module):
            _replace(module, _mlp_forward)
        elif type(module).__name__ in NORMS and not module.weight.requires_grad:
            module.forward = types.MethodType(_norm_forward, module)


def _replace(module, forward) -> None:
    plain = module.forward
    module.forward = types.MethodType(lambda self, x, *args, **kwargs: forward(self, plain, x, *args, **kwargs), module)


def _lora_forward(self, plain, x, *args, **kwargs):
    if args or kwargs or not _is_simple(self):
        return plain(x, *args, **kwargs)
    return _LoraProduct.apply(x, *_operands(self))


def _is_gated_mlp(module) -> bool:
    children = dict(module.named_children())
    gated = {"gate_proj", "up_proj", "down_proj"} <= children.keys()
    return gated and type(children.get("act_fn")).__name__ in ("SiLU", "SiLUActivation")


def _mlp_forward(self, plain, x):
    if not isinstance(self.down_proj, Linear) or not _is_simple(self.down_proj):
        return plain(x)
    return _GatedLoraProduct.apply(self.gate_proj(x), self.up_proj(x), *_operands(self.down_proj))


def _norm_forward(self, x):
    return _Norm.apply(x, self.weight, self.variance_epsilon)


def _is_simple(layer: Linear) -> bool:
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return False
    name = layer.active_adapters[0]
    dropout = isinstance(layer.lora_dropout[name], torch.nn.Dropout)
    bias = layer.lora_B[name].bias is not None
    return type(layer.base_layer) is torch.nn.Linear and not (dropout or bias or name in layer.lora_variant)


def _operands(layer: Linear) -> tuple:
    """Frozen weight (out, in) and bias, the adapter's A (r, in) and B (out, r), and its scale."""
    name, base = layer.active_adapters[0], layer.base_layer
    return base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]


class _LoraProduct(Function):
    """x (..., in) -> x W^T + bias + scale (x A^T) B^T, in the frozen weight's type."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale):
        x = x.to(weight.dtype)
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return _product(x, weight, bias, a, b, scale)

    @staticmethod
    def backward(ctx, grad):
        x, weight, a, b = ctx.saved_tensors
        grad_x, grad_a, grad_b = _product_backward(grad, x, weight, a, b, ctx.scale, ctx.needs_input_grad[0])
        return grad_x, None, None, grad_a, grad_b, None


class _GatedLoraProduct(Function):
    """gate, up (..., in) -> the LoRA product of silu(gate) * up, which is not kept."""

    @staticmethod
    def forward(ctx, gate, up, weight, bias, a, b, scale):
        ctx.save_for_backward(gate, up, weight, a, b)
        ctx.scale = scale
        return _product(silu(gate).mul_(up), weight, bias, a, b, scale)

    @staticmethod
    def backward(ctx, grad):
        gate, up, weight, a, b = ctx.saved_tensors
        active = silu(gate)
        grad_x, grad_a, grad_b = _product_backward(grad, active * up, weight, a, b, ctx.scale, True)
        grad_up = active.mul_(grad_x)
        grad_gate = torch.ops.aten.silu_backward(grad_x.mul_(up), gate)
        return grad_gate, grad_up, None, None, grad_a, grad_b, None


def _product(x, weight, bias, a, b, scale):
    out = linear(x, weight, bias)
    out.view(-1, out.shape[-1]).addmm_(_rows(x) @ a.to(x.dtype).T, b.to(x.dtype).T, alpha=scale)
    return out


def _product_backward(grad, x, weight, a, b, scale, needs_x: bool):
    """Gradients of the input (none unless it is needed) and of the adapter's two matrices."""
    a, b, rows, grad = a.to(x.dtype), b.to(x.dtype), _rows(x), _rows(grad.to(x.dtype))
    share = (grad @ b).mul_(scale)
    grad_x = (grad @ weight).addmm_(share, a).view_as(x) if needs_x else None
    return grad_x, share.T @ rows, (grad.T @ (rows @ a.T)).mul_(scale)


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])


class _Norm(Function):
    """x (..., d) -> x / sqrt(mean(x^2) + epsilon) * weight; the mean in float32, the weight frozen."""

    @staticmethod
    def forward(ctx, x, weight, epsilon):
        wide = x.float()
        scale = torch.linalg.vecdot(wide, wide)[..., None].div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        grad, wide = (grad * weight).float(), x.float()
        slope = torch.linalg.vecdot(grad, wide)[..., None] * scale.pow(3) / x.shape[-1]
        return (grad * scale).addcmul_(wide, slope, value=-1).to(x.dtype), None, None
