"""Models of a few hundred tokens, made in milliseconds: a Qwen2 or a Llama, its tokenizer, a LoRA adapter for it."""

import torch
from proactor_lib.files import write_json
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from support.late import Late

transformers = Late("transformers")
FAMILIES = {"qwen2": ("Qwen2Config", "Qwen2ForCausalLM"), "llama": ("LlamaConfig", "LlamaForCausalLM")}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = [("l", "o"), ("a", "n"), ("lo", "an"), ("Ġ", "loan"), ("1", "2")]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WIDTH = 64


def write_model(folder, family="qwen2"):
    """The model with random weights (bfloat16), as a folder that transformers loads."""
    letters = sorted(c for c in pre_tokenizers.ByteLevel.alphabet() if c.isascii() or c in "ĠĊ")
    tokens = [*SPECIAL, *letters, *(a + b for a, b in MERGES)]  # no halves of a letter: what it says is always text
    tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, MERGES))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    names = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHATML, **names).save_pretrained(
        folder
    )
    torch.manual_seed(0)
    made, model = (getattr(transformers, name) for name in FAMILIES[family])
    config = made(vocab_size=128, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=family == "qwen2",
                  initializer_range=0.2, pad_token_id=0, bos_token_id=1, eos_token_id=2)  # fmt: skip
    model(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def write_adapter_of_more(folder, name):
    """Such an adapter with one tensor more, of that name."""
    file = write_adapter(folder) / "adapter_model.safetensors"
    save_file(load_file(file) | {name: torch.zeros(2, 2)}, file)
    return folder


def write_adapter(folder, rank=2, alpha=4):
    """A PEFT folder with random weights for two projections of both layers of such a model."""
    torch.manual_seed(1)
    layers = [f"base_model.model.model.layers.{n}.self_attn.{p}" for n in (0, 1) for p in ("q_proj", "o_proj")]
    down = {f"{layer}.lora_A.weight": torch.randn(rank, WIDTH) for layer in layers}
    up = {f"{layer}.lora_B.weight": torch.randn(WIDTH, rank) * 0.1 for layer in layers}
    folder.mkdir(parents=True)
    save_file(down | up, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha,
              "target_modules": ["q_proj", "o_proj"], "base_model_name_or_path": "elsewhere"}  # fmt: skip
    write_json(folder / "adapter_config.json", config)
    return folder
