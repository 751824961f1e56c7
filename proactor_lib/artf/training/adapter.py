"""A LoRA adapter on disk: a PEFT folder, whole or absent, and back into a model."""

import os
import shutil
from pathlib import Path


def save_adapter(model, folder: Path) -> None:
    """The model's LoRA adapter as a PEFT folder, whole or absent."""
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside, save_embedding_layers=False)  # by "auto" it asks the hub, at each version
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)


def copy_adapter(checkpoint: Path, folder: Path) -> None:
    """A checkpoint's adapter as a PEFT folder, whole or absent."""
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(checkpoint / name, aside)
    os.replace(aside, folder)


def load_adapter(model, folder: Path) -> None:
    """Put the weights of a saved adapter into the model's own. ValueError if some of them have no place in it."""
    from peft import load_peft_weights, set_peft_model_state_dict

    result = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    if result.unexpected_keys:
        raise ValueError(f"{folder} holds weights that the model lacks: {result.unexpected_keys[:3]}")
