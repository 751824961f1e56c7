"""The error that a user causes and can mend, and the one that a process of ours causes."""


class UserError(Exception):
    """One clear sentence: the file, the line or key, the value, and what is accepted. The command line exits with 2."""


class ProcessError(RuntimeError):
    """One clear sentence: what did not come up or ended, and where its log is. The command line exits with 1."""


HEAVY = (
    "torch", "transformers", "tokenizers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "safetensors",
    "vllm", "vllm_router", "gguf", "starlette", "uvicorn",
)  # fmt: skip


OPTIONAL = {**dict.fromkeys(("trackio", "tensorboard", "wandb"), "trackers"), "inspect_ai": "inspect"}  # its extra


def missing_extra(module: str | None) -> str | None:
    """One sentence on which extra brings the module; None if none does."""
    package = (module or "").partition(".")[0]
    if extra := OPTIONAL.get(package):
        return (
            f"this needs the package {package}, which is not installed here: the extra {extra} brings it "
            f"(`uv pip install 'proactor[{extra}]'`; in a clone: `uv pip install --no-deps -r requirements/extras.txt`)"
        )
    if package not in HEAVY:
        return None
    return (
        f"this needs the package {package}, which is not installed here: the extras cpu and gpu bring it "
        "(`make env EXTRA=cpu` in a clone, `uv pip install --torch-backend cpu 'proactor[cpu]'` elsewhere)"
    )
