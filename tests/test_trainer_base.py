"""What a trainer loads its frozen base from: on a CPU the matched weights, in numbers that its processor is fast in."""

import os
import shutil

import pytest
import torch
from proactor_lib import models
from proactor_lib.errors import UserError
from safetensors.torch import load_file, save_file


def test_matched_weights_are_what_the_4_bit_layers_multiply_with_bit_for_bit():
    path = models.resolve(models.TINY)
    quantised = dict(models.load_base(path, "nf4").named_modules())
    matched = dict(models.load_base(*models.trainer_base(path, "nf4", cuda=False, dtype="float32")).named_modules())
    layers = [name for name, module in quantised.items() if type(module).__name__ == "Linear4bit"]
    assert len(layers) == 2 * 7
    for name in layers:
        unit = torch.eye(matched[name].in_features)  # the product with it is the weight (biases are 0 here)
        with torch.no_grad():
            product = quantised[name].train()(unit.bfloat16())  # in eval bitsandbytes has an AVX-512 kernel that rounds
            assert torch.equal(product.float(), matched[name](unit)), name


def test_servers_may_hold_the_4_bits_themselves_and_these_are_the_matched_weights_bit_for_bit(monkeypatch, tmp_path):
    from transformers import AutoModelForCausalLM

    path = models.resolve(models.TINY)
    matched = dict(models.load_base(models.served_weights(path, "nf4", "matched"), "none").named_parameters())
    monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path))
    folder = models.served_weights(path, "nf4", "nf4")
    config = models.describe(folder)["quantization_config"]
    assert (config["bnb_4bit_quant_type"], config["bnb_4bit_use_double_quant"]) == ("nf4", False)
    quantised = AutoModelForCausalLM.from_pretrained(folder)  # as its own config.json says
    assert {type(m).__name__ for m in quantised.modules()} >= {"Linear4bit"}
    for name, weight in quantised.dequantize().named_parameters():
        assert torch.equal(weight, matched[name]), name
    assert models.served_weights(path, "none", "nf4") == path


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


def test_a_hub_id_is_loaded_before_a_server_starts(monkeypatch, tmp_path):
    asked = []

    def load(name, ignore_patterns):
        asked.append(name)
        if name == "a/gone":
            raise OSError("no such model\nmore")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", load)
    assert models.downloaded("a/hub-id") == str(tmp_path) and models.downloaded(str(tmp_path)) == str(tmp_path)
    with pytest.raises(UserError, match="'a/gone' is not on this machine, and .* not give it: no such model$"):
        models.downloaded("a/gone")
    assert asked == ["a/hub-id", "a/gone"]


def test_what_a_killed_export_left_goes_with_the_next_one(monkeypatch, tmp_path):
    """A day later: before, another node may be writing it."""
    monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path))
    old, fresh = tmp_path / ".tiny.1-2", tmp_path / ".tiny.3-4"
    for left in (old, fresh):
        left.mkdir()
    os.utime(old, (1e9, 1e9))
    models._once("tiny", lambda folder: (folder / "config.json").write_text("{}"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tiny.3-4", "tiny"]


def test_a_copy_of_a_model_is_the_same_and_other_weights_of_the_same_size_are_not(tmp_path):
    """A node's own copy has other times; weights that were trained on have the same names and sizes."""
    a, b = tmp_path / "a", tmp_path / "b"
    shutil.copytree(models.resolve(models.TINY), a)
    shutil.copytree(a, b, copy_function=shutil.copyfile)
    same = models.folder_fingerprint(str(a))
    assert models.folder_fingerprint(str(b)) == same and models.folder_fingerprint("tiny") is None
    weights = load_file(b / "model.safetensors")
    save_file({name: w + 1e-3 for name, w in weights.items()}, b / "model.safetensors")
    assert models.folder_fingerprint(str(b)) != same and models.folder_fingerprint(str(tmp_path / "gone")) is None
