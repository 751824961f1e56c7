"""Held-out dialogues about services that training never saw, apart from the others, as SGD's authors report them."""

from dataclasses import replace
from typing import Any

from proactor_lib import metrics
from proactor_lib.datasets import services, sgd_x
from proactor_lib.evaluate.predictions import TEST
from proactor_lib.evaluate.results import EvalResults
from proactor_lib.run_folder import RunFolder
from proactor_lib.schema import Dialogue

KINDS = ("seen", "unseen")


def by_service(run: RunFolder, scored: EvalResults) -> dict[str, dict[str, Any]]:
    """`seen` and `unseen`, each with `dialogues` (their number) and `policies` (as `EvalResults.as_json`).

    A dialogue is unseen if any of its services is. A kind without dialogues is left out; all is empty where the run has
    no training dialogues, or where no dialogue is unseen.
    """
    if not (run.data / "train.jsonl").exists():
        return {}
    kinds = services.kinds(_as_trained(run), run.dialogues("train"))
    ids = {kind: {i for i, k in kinds.items() if k == kind} for kind in KINDS}
    return {kind: _part(run, scored, ids[kind]) for kind in KINDS if ids[kind]} if ids["unseen"] else {}


def _as_trained(run: RunFolder) -> list[Dialogue]:
    """The test dialogues with the names that their services have in training."""
    variant, dialogues = run.params.schema_variant, run.dialogues(TEST)
    if variant is None:
        return dialogues
    return [d.model_copy(update={"services": tuple(sgd_x.original(s, variant) for s in d.services)}) for d in dialogues]


def _part(run: RunFolder, scored: EvalResults, ids: set[str]) -> dict[str, Any]:
    tables = {
        n: s.dialogues[s.dialogues.dialogue_id.isin(ids)].reset_index(drop=True) for n, s in scored.scores.items()
    }
    table = metrics.table(tables, run.params.bootstrap, run.params.seed)
    return {"dialogues": len(ids), "policies": replace(scored, table=table).as_json()}
