"""A model card, written from a run's provenance and results: data, windows, reward, primary endpoint, limits."""

import json
from pathlib import Path
from typing import Any

import jinja2

from proactor_lib.artf.training.training_log import WARM_START, read_steps
from proactor_lib.evaluate.policy_set import SFT, TRAINED
from proactor_lib.evaluate.results import EvalResults, focus, load_or_score
from proactor_lib.report import run as run_report
from proactor_lib.report import tables, text
from proactor_lib.run_folder import SPLITS, RunFolder

SHOWN = ("utility", "execution_precision", "execution_recall", "false_executions", "opportunity_timing")
WHAT = {
    "adapter": "a LoRA adapter",
    "merged": "a merged model",
    "gguf": "a GGUF for llama.cpp and Ollama",
}
LIBRARIES = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
USE = {
    "adapter": "`proactor serve FOLDER` serves it on its base model. Elsewhere: load the base model{bits}, then "
    "`PeftModel.from_pretrained(base, FOLDER)`.",
    "merged": "`proactor serve FOLDER`, `vllm serve FOLDER`, or transformers' `from_pretrained(FOLDER)`, in bfloat16.",
    "gguf": "`ollama create NAME -f Modelfile`, or `llama-server -m {file}`.",
}  # fmt: skip


def write(path: Path, run: RunFolder, form: str, licenses: tuple[str | None, str | None], **facts: Any) -> None:
    """Write the card. `licenses`: of weights and data, None where nobody says; `facts`: base, file, policy, threshold.

    UserError as `evaluate.load_or_score`.
    """
    loader = jinja2.PackageLoader("proactor_lib.interop")
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)
    content = _content(run, form, licenses, **facts)
    path.write_text(environment.get_template("model_card.md.j2").render(content), encoding="utf-8")


def _content(run: RunFolder, form: str, licenses: tuple[str | None, str | None], base: str, file: str, policy: str,
             threshold: float | None) -> dict[str, Any]:  # fmt: skip
    p, steps, warm = run.params, read_steps(run), read_steps(run, WARM_START)
    scored, record = load_or_score(run), run_report.read_record(run)
    bits = "4-bit weights (NF4)" if p.quantization == "nf4" else "not quantised"
    counts = [f"{_count(run, split)} dialogues to {what}"
              for split, what in zip(SPLITS, ("train on", "tune on", "be held out"), strict=True)]  # fmt: skip
    origin = record["provenance"]
    done = {TRAINED: (len(steps), len(warm)), SFT: (0, len(warm))}.get(policy, (0, 0))  # steps of GRPO and of SFT
    return {
        "name": p.name, "question": p.question, "what": WHAT[form], "library": LIBRARIES[form], "base": base,
        "use": USE[form].format(file=file, bits=" in NF4" * (p.quantization == "nf4")), "bits": bits,
        "longest": p.max_completion_tokens,
        "template_args": json.dumps(p.chat_template_args) if p.chat_template_args else "",
        "weights_license": licenses[0], "data_license": licenses[1], "threshold": threshold,
        "primary": _primary(scored, policy), "method": text.method(p, *done), "dataset": p.dataset,
        "counts": ", ".join(counts), "windows": text.windows(run), "reward": p.reward if policy == TRAINED else None,
        "table": _table(run) if scored else "", "limits": run_report.warnings(run, steps, scored, record),
        "origin": origin, "versions": ", ".join(f"{k} {v}" for k, v in origin["versions"].items()) if origin else "",
    }  # fmt: skip


def _primary(scored: EvalResults | None, policy: str) -> list[str]:
    """The primary endpoint, where it is this policy's."""
    if scored and focus(scored.scores) == policy:
        return text.primary(scored)
    return [
        f"This policy, `{policy}`, is not the one that the run's evaluation is about: see the table, if it is there."
    ]


def _count(run: RunFolder, split: str) -> int:
    return len(run.dialogues(split)) if (run.data / f"{split}.jsonl").exists() else 0


def _table(run: RunFolder) -> str:
    frame = run_report.frame(run.out)
    shown = [c for c in frame if c == "policy" or c.removesuffix("_low").removesuffix("_high") in SHOWN]
    return tables.markdown(frame[shown])
