"""training/made.json: what a training was made from, so that none goes on, or counts as done, where that has changed.

Corrections by hand are not in it: they may come after training, and the report then says so.
"""

import json
from pathlib import Path

from proactor_lib import models, provenance
from proactor_lib.errors import UserError
from proactor_lib.files import read_text, write_json
from proactor_lib.run_folder import RunFolder

LEARNT = ("sft*", "checkpoint-*", "adapter")  # in training/: what a next start goes on from


def note(run: RunFolder) -> None:
    """Write down what training is made from, unless it was begun before."""
    if not _begun(run):
        write_json(_note(run), _made_from(run))


def changed(run: RunFolder) -> list[str]:
    """What training was made from and is another by now; nothing where it has not begun, or where no note is.

    Of what is not there now none can tell: a report may be made where the model is not.
    """
    if not (_begun(run) and _note(run).exists()):
        return []
    before, now = json.loads(read_text(_note(run))), _made_from(run)
    return [name for name, was in before.items() if now.get(name) not in (None, was)]


def refuse_changed(run: RunFolder) -> None:
    """UserError where training was begun from other dialogues, windows or weights than the run has now."""
    if names := changed(run):
        raise UserError(
            f"{run.training} was trained before a change of {', '.join(names)}: choose another --out, or delete "
            f"{run.training} to train again"
        )


def _note(run: RunFolder) -> Path:
    return run.training / "made.json"


def _begun(run: RunFolder) -> bool:
    return any(True for pattern in LEARNT for _ in run.training.glob(pattern))


def _made_from(run: RunFolder) -> dict[str, str | None]:
    """Fingerprints, by file of the run; of the model where it is a folder. Early stopping looks at dev."""
    splits = ("train", "dev") if run.params.sft_check else ("train",)
    files = [run.data / "catalog.json", *(f / f"{s}.jsonl" for s in splits for f in (run.data, run.annotations))]
    found = {file.relative_to(run.out).as_posix(): provenance.fingerprint(file) for file in files}
    weights = models.folder_fingerprint(run.params.model)
    return found | ({"model": weights} if weights else {})
