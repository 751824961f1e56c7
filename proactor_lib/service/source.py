"""What is served: a run, an adapter or a model, with its catalog and its readiness threshold."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from proactor_lib.errors import UserError
from proactor_lib.evaluate import predictions
from proactor_lib.evaluate.policy_set import BASE, PolicySet
from proactor_lib.evaluate.readiness import tuned_threshold
from proactor_lib.evaluate.results import focus
from proactor_lib.files import read_json, read_text
from proactor_lib.params import Params, validate
from proactor_lib.policies import untuned
from proactor_lib.run_folder import RunFolder
from proactor_lib.schema import Catalog
from proactor_lib.service.agent_service import Readiness

ADAPTER = "adapter"  # the policy's name where an adapter alone is served
CONTEXT = 4096  # tokens, where no run says it
EXPORT = "proactor.json"  # in a folder that `proactor export` wrote: an Exported


class Exported(BaseModel):
    """How an exported policy is to be asked, and when its actions fire."""

    model_config = ConfigDict(extra="forbid")
    OF_RUN: ClassVar = ("model", "quantization", "lora_rank", "lora_alpha", "max_context", "max_completion_tokens",
                        "chat_template_args")  # fmt: skip

    form: str
    policy: str
    threshold: float | None
    own: bool  # as Readiness.own
    model: str  # the base
    quantization: str
    lora_rank: int
    lora_alpha: int
    max_context: int  # tokens
    max_completion_tokens: int
    chat_template_args: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A policy, the parameters by which it is asked, the catalog that it is shown, and when its actions fire.

    `run`: the one that it is of, None for weights alone.
    """

    params: Params
    policy: str
    catalog: Catalog
    readiness: Readiness
    run: RunFolder | None = None


def find(given: str, catalog: Path | None, policy: str | None = None, threshold: float | None = None,
         settings: dict[str, Any] | None = None) -> Source:  # fmt: skip
    """The source that `given` names: a run's folder, an adapter's, or a model. `settings` go over its parameters.

    UserError: a policy that the run does not have, a catalog that is needed and not given.
    """
    folder, settings = Path(given).expanduser(), settings or {}
    if (folder / "params.json").exists():
        return _of_run(folder, catalog, policy, threshold, settings)
    if (folder / EXPORT).exists():
        return _of_export(folder, catalog, threshold, settings)
    if policy is not None:
        raise UserError(f"--policy {policy!r}: {given} is not a run's folder, which alone has several policies")
    if catalog is None:
        raise UserError(f"{given} is not a run's folder, so that it brings no catalog: name one with --catalog FILE")
    params, name = _of_weights(given, folder, settings)
    return Source(params, name, read_json(catalog, Catalog), Readiness(threshold))


def _of_export(folder: Path, catalog: Path | None, threshold: float | None, settings: dict[str, Any]) -> Source:
    """An adapter on its run's base, as it was trained there; or merged weights as they are."""
    made = read_json(folder / EXPORT, Exported)
    values = {name: getattr(made, name) for name in Exported.OF_RUN}
    if made.form == "gguf":
        raise UserError(
            f"{folder} holds a GGUF: llama.cpp and Ollama run it; `proactor serve` takes an adapter or a model"
        )
    if made.form == "merged":
        values |= {"model": str(folder.resolve()), "quantization": "none"}
    else:
        values |= {"adapters": {ADAPTER: str(folder.resolve())}}
    shown = read_json(catalog or folder / "catalog.json", Catalog)
    fires = Readiness(made.threshold if threshold is None else threshold, made.own)
    name = BASE if made.form == "merged" else ADAPTER
    return Source(validate(values | settings, str(folder)), name, shown, fires)


def _of_weights(given: str, folder: Path, settings: dict[str, Any]) -> tuple[Params, str]:
    """An adapter on its base model, or a model, as it is: not quantised unless the settings say so."""
    values = {"model": given, "quantization": "none", "max_context": CONTEXT}
    if not (folder / "adapter_config.json").exists():
        return validate(values | settings, f"serving {given}"), BASE
    config = json.loads(read_text(folder / "adapter_config.json"))
    values |= {"model": config["base_model_name_or_path"], "lora_rank": config["r"]}
    return validate(values | {"adapters": {ADAPTER: str(folder.resolve())}} | settings, f"serving {given}"), ADAPTER


def _of_run(folder: Path, catalog: Path | None, policy: str | None, threshold: float | None,
            settings: dict[str, Any]) -> Source:  # fmt: skip
    run = RunFolder.read(folder.resolve())
    policies, missing = PolicySet(run), []
    present = policies.present([policy] if policy else run.params.policies, missing.append)
    if not present:
        raise UserError("; ".join(missing))
    chosen = policy or focus(present)
    name = untuned(chosen) or chosen  # here its threshold is applied
    values = run.params.model_dump(mode="json") | {"adapters": _absolute(policies.adapters)}
    params = validate(values | settings, str(folder))
    shown = read_json(catalog, Catalog) if catalog else run.catalog
    return Source(params, name, shown, readiness(run, name, threshold), run)


def _absolute(adapters: dict[str, Path | None]) -> dict[str, str]:
    """Those that are there, wherever the service's own folder is."""
    return {n: str(a.resolve()) for n, a in adapters.items() if a and (a / "adapter_config.json").exists()}


def readiness(run: RunFolder, policy: str, threshold: float | None = None) -> Readiness:
    """As tuned on dev for the run's price, where the policy was asked there at all turns; else as the policy says.

    So too where dev is empty or needs nothing. A threshold is one of the policy's own confidences where it gives them
    (on dev; else: where we serve its weights).
    """
    asked = policy in predictions.policies(run, predictions.DEV)
    said = predictions.read(run, policy, predictions.DEV) if asked else []
    unknown = Readiness(threshold, own=policy in PolicySet(run).adapters)
    if not said:
        return unknown
    own = any(a.confidence is not None for line in said for a in line.actions)
    if threshold is None and run.params.evaluation_turns == 0:
        try:
            threshold = tuned_threshold(run, policy)
        except UserError:  # no dialogue of dev needs anything
            return unknown
    return Readiness(threshold, own)
