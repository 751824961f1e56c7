"""What a trainer loads its frozen base from: on a CPU the matched weights, in numbers that its processor is fast in."""

import pytest
import torch
from proactor_lib import models


def test_matched_weights_are_what_the_4_bit_layers_multiply_with_bit_for_bit():
    path = models.resolve(models.TINY)
    quantised = dict(models.load_base(path, "nf4").named_modules())
    matched = dict(models.load_base(*models.trainer_base(path, "nf4", cuda=False, dtype="float32")).named_modules())
    layers = [name for name, module in quantised.items() if type(module).__name__ == "Linear4bit"]
    assert len(layers) == 2 * 7
    for name in layers:
        unit = torch.eye(matched[name].in_features)  # the product with it is the weight (biases are 0 here)
        with torch.no_grad():
            assert torch.equal(quantised[name](unit.bfloat16()).float(), matched[name](unit)), name


@pytest.mark.parametrize(
    ("cuda", "processor", "dtype", "expected"),
    [
        (False, {"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "auto", torch.float32),
        (False, {"avx2": True, "avx512_bf16": True}, "auto", torch.bfloat16),
        (False, {"avx2": True}, "bfloat16", torch.bfloat16),
        (True, {}, "auto", torch.bfloat16),
        (True, {}, "float32", torch.float32),
    ],
)
def test_numbers_are_of_the_type_that_the_device_multiplies_fast(monkeypatch, cuda, processor, dtype, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    assert models.trainer_base("a/hub-id", "none", cuda, dtype) == ("a/hub-id", "none", expected)


def test_a_gpu_loads_the_model_itself_in_4_bit():
    assert models.trainer_base("a/hub-id", "nf4", cuda=True)[:2] == ("a/hub-id", "nf4")
