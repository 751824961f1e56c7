"""A run's folder: where each arrow of the data flow is a file, and how each is read.

params.json | provenance.json | data/ | references/ | training/ | predictions/ | metrics/ | summary.json | report.html
"""

import importlib.util
import json
import logging
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from proactor_lib import events, provenance
from proactor_lib.annotate import corrections
from proactor_lib.errors import UserError, missing_extra
from proactor_lib.files import read_json, read_lines, write_json
from proactor_lib.params import WHERE, Params, hide_keys
from proactor_lib.schema import Case, Catalog, Dialogue, DialogueReferences, Record, cases

log = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")


class FailedDialogue(Record):
    """A line of <split>.failed.jsonl, beside <split>.jsonl: a dialogue that has no references, and why."""

    dialogue_id: str
    kind: str  # endpoint.Failed.kind
    reason: str


@dataclass(frozen=True)
class RunFolder:
    """A run: its parameters and its folder. Make it with `open`."""

    params: Params
    out: Path

    @classmethod
    def open(cls, params: Params, out: Path | str) -> Self:
        """The run in folder `out`, new or begun: it may ask for more to compare with than when it began (`policies`,
        `sft_equal_time`). UserError if the folder was made with other parameters."""
        if not isinstance(out, str | Path):
            raise UserError(
                f"out must be the name of a folder, got the {type(out).__name__} {out!r}; papermill's -p makes numbers "
                f"of what looks like one, -y takes YAML: -y 'out: \"{out}\"'"
            )
        _refuse_missing(params.trackers)
        run = cls(params, Path(out).expanduser())
        if run.params_file.exists():
            before = read_json(run.params_file, Params)
            _refuse_other(params, before, run.out)
        else:
            before = None
            write_json(run.origin_file, provenance.collect())
        if params != before:
            write_json(run.params_file, params.model_dump(mode="json"))
            _warn_of_keys(run)
        if before is None:
            events.emit(events.RunBegan(run.out, hide_keys(params.model_dump(mode="json"))))
        return run

    @classmethod
    def read(cls, out: Path) -> Self:
        """The run that is in folder `out`. UserError if there is none."""
        if not (out / "params.json").exists():
            raise UserError(f"{out} is not a run's folder: it has no params.json; `proactor run --out` makes one")
        return cls(read_json(out / "params.json", Params), out)

    @property
    def params_file(self) -> Path:
        """The resolved parameters."""
        return self.out / "params.json"

    @property
    def origin_file(self) -> Path:
        """Where the run was begun: what `provenance.collect` said then."""
        return self.out / "provenance.json"

    @property
    def data(self) -> Path:
        """catalog.json and train.jsonl, dev.jsonl, test.jsonl (schema.Dialogue lines)."""
        return self.out / "data"

    @property
    def annotations(self) -> Path:
        """<split>.jsonl (schema.DialogueReferences lines); second-<split>.jsonl of a second annotator's, and
        truth-<split>.jsonl where the corpus knows the truth."""
        return self.out / "references"

    @property
    def training(self) -> Path:
        """metrics.jsonl, samples.jsonl, checkpoint-N/, adapter/, sft/ and sft_equal_time/, each with its .jsonl;
        made.json."""
        return self.out / "training"

    @property
    def predictions(self) -> Path:
        """<policy>.jsonl (schema.TurnPrediction lines)."""
        return self.out / "predictions"

    @property
    def metrics(self) -> Path:
        """Tables as Parquet or JSON."""
        return self.out / "metrics"

    @property
    def summary(self) -> Path:
        """The figures that the report shows."""
        return self.out / "summary.json"

    @property
    def report_file(self) -> Path:
        """One self-contained HTML file."""
        return self.out / "report.html"

    @property
    def overlay(self) -> Path:
        """Corrections by hand: the file that the parameters name, else the run's own."""
        return self.params.overlay or self.out / "overlay.jsonl"

    @cached_property
    def catalog(self) -> Catalog:
        """The catalog of all splits. UserError if the data stage has not run."""
        return read_json(self._made(self.data / "catalog.json"), Catalog)

    def split(self, name: str) -> tuple[Case, ...]:
        """The split's cases: `dialogues` with their `references` and the catalog that each is shown.

        UserError if not annotated.
        """
        return cases(self.dialogues(name), self.references(name), self.catalog)

    def dialogues(self, split: str) -> list[Dialogue]:
        """The `conversations` that are used: those whose annotation neither failed nor was filtered out."""
        gone = {*self.failed(split), *(d for d, reference in self.removed(split) if reference is None)}
        return [d for d in self.conversations(split) if d.id not in gone]

    def conversations(self, split: str) -> list[Dialogue]:
        """The split's dialogues, all of them. UserError if the data stage has not run."""
        return list(read_lines(self._made(self.data / f"{split}.jsonl"), Dialogue))

    def failed(self, split: str) -> dict[str, str]:
        """The dialogues whose annotation failed, each with its reason."""
        return failures(self.annotations / f"{split}.jsonl")

    def removed(self, split: str) -> dict[tuple[str, str | None], str]:
        """What `quality_filter` took out: (dialogue, reference or None for the whole dialogue) -> the reason."""
        from proactor_lib.annotate.filter import Removed

        path = self.annotations / f"{split}.removed.jsonl"
        lines = read_lines(path, Removed) if path.exists() else ()
        return {(r.dialogue_id, r.reference_id): r.reason for r in lines}

    def references(self, split: str) -> list[DialogueReferences]:
        """The references of `dialogues`, with the overlay's corrections, but for those that were filtered out.

        UserError if not annotated.
        """
        removed = self.removed(split)
        return [_without(r, removed) for r in self.corrected(split) if (r.dialogue_id, None) not in removed]

    def corrected(self, split: str) -> list[DialogueReferences]:
        """The split's references, one record a dialogue, with the overlay's corrections. UserError if not annotated."""
        corrections_file = self.overlay if self.params.overlay or self.overlay.exists() else None
        return corrections.apply(self.annotated(split), corrections_file, split)

    def annotated(self, split: str) -> list[DialogueReferences]:
        """The split's references as the annotator left them, without corrections. UserError if not annotated."""
        return list(read_lines(self._made(self.annotations / f"{split}.jsonl"), DialogueReferences))

    def truth(self, split: str) -> list[DialogueReferences] | None:
        """The split's true references, where the corpus knows them (the simulator); else None."""
        path = self.annotations / f"truth-{split}.jsonl"
        return list(read_lines(path, DialogueReferences)) if path.exists() else None

    def second(self, split: str) -> list[DialogueReferences]:
        """What the split's references are compared with: the second annotator's, else the truth, else nothing."""
        path = self.annotations / f"second-{split}.jsonl"
        return list(read_lines(path, DialogueReferences)) if path.exists() else self.truth(split) or []

    def sources(self, split: str) -> list[Path]:
        """The files that `dialogues` and `references` are made from; some need not be there."""
        from proactor_lib.annotate.oracle_run import failures_path

        annotated = self.annotations / f"{split}.jsonl"
        beside = [failures_path(annotated), self.annotations / f"{split}.removed.jsonl", self.overlay]
        return [self.data / f"{split}.jsonl", annotated, *beside]

    def _made(self, path: Path) -> Path:
        if not path.exists():
            raise UserError(f"{path} is not there yet: run notebook 01_annotation on {self.out} first")
        return path


def _without(line: DialogueReferences, removed: dict[tuple[str, str | None], str]) -> DialogueReferences:
    kept = tuple(r for r in line.references if (line.dialogue_id, r.id) not in removed)
    return line.model_copy(update={"references": kept})


def _refuse_missing(trackers: tuple[str, ...]) -> None:
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"trackers: {missing_extra(name)}")


def _warn_of_keys(run: RunFolder) -> None:
    """Where params.json holds keys and others may read it."""
    values = run.params.model_dump(mode="json")
    if hide_keys(values) != values and run.params_file.stat().st_mode & stat.S_IROTH:
        log.warning("%s holds headers' values or addresses' keys as they were given, and everybody on this machine may "
                    "read it; a header's value may be $NAME, an environment variable", run.params_file)  # fmt: skip


def _refuse_other(params: Params, before: Params, out: Path) -> None:
    now, then = params.model_dump(mode="json"), before.model_dump(mode="json")
    shown, earlier = hide_keys(now), hide_keys(then)
    if changed := [
        f"{k} was {json.dumps(earlier[k])}, now {json.dumps(v)}"
        for k, v in shown.items() if then[k] != now[k] and k not in WHERE and not _adds(k, then[k], now[k])
    ]:  # fmt: skip
        raise UserError(
            f"{out} was made with other parameters ({'; '.join(changed)}): choose another folder, or delete it"
        )


def _adds(name: str, then: Any, now: Any) -> bool:
    """Whether a finished run stays what it is, with more to compare it with: further policies, and SFT for the same
    time, which is trained after all else."""
    return (name == "policies" and set(then) <= set(now)) or (name == "sft_equal_time" and now)


def failures(path: Path) -> dict[str, str]:
    """The dialogues without references in `path`, each with its reason."""
    from proactor_lib.annotate.oracle_run import failures_path

    beside = failures_path(path)
    return {f.dialogue_id: f.reason for f in read_lines(beside, FailedDialogue)} if beside.exists() else {}
