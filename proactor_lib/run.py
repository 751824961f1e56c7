"""A run, one verb per stage: prepare, annotate, train, evaluate, report. What is done already is not done again."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from proactor_lib import progress, provenance
from proactor_lib.files import read_text, write_json, write_jsonl
from proactor_lib.params import Params, load_params
from proactor_lib.rewards.params import SERVE
from proactor_lib.run_folder import SPLITS, FailedDialogue, RunFolder, failures
from proactor_lib.schema import Catalog, Dialogue

if TYPE_CHECKING:
    import pandas as pd

    from proactor_lib.annotate.oracle_run import OracleSettings
    from proactor_lib.datasets import Corpus
    from proactor_lib.evaluate import EvalResults

Log = Callable[[str], None]
__all__ = ["SPLITS", "FailedDialogue", "Run", "annotate_run", "prepare_data"]


class Run(RunFolder):
    """A run: its parameters, its folder, and the stages that fill it. Make it with `Run.open`.

    Each stage needs those before it, does nothing where it was done from the same inputs, and goes on where it was
    interrupted. `log` takes one line of text per fact.
    """

    @classmethod
    def open(cls, params: Params | Path | str, out: Path | str, overrides: Mapping[str, Any] | None = None) -> Self:
        """The run in folder `out`, new or begun, with parameters, or with a file of them and `overrides`.

        UserError if the folder was made with other parameters, and as `load_params`.
        """
        return super().open(params if isinstance(params, Params) else load_params(params, overrides), out)

    def prepare(self, log: Log = print) -> None:
        """Write data/. Raises as `prepare_data`."""
        prepare_data(self, log)

    def annotate(self, log: Log = print) -> None:
        """Write references/. Raises as `annotate_run`."""
        annotate_run(self, log)

    def train(self) -> "pd.DataFrame":
        """Train in a process of its own and wait for it; one row per optimiser step. Raises as `background.follow`."""
        from proactor_lib.artf.training import background

        *_, end = background.follow(self)
        return end.steps

    def evaluate(self, dev: bool = True, log: Log = print) -> "EvalResults":
        """Predictions on test and their results; `dev`: the policy in focus there too, where its threshold is tuned.

        Raises as `evaluate_run`.
        """
        from proactor_lib.evaluate import evaluate_run, load_or_score

        evaluate_run(self, dev, log)
        return load_or_score(self)

    def report(self) -> Path:
        """Write report.html and summary.json; the report's path."""
        from proactor_lib import report

        return report.build(self.out)


def prepare_data(run: Run, log: Log = lambda text: None, splits: tuple[str, ...] = SPLITS) -> None:
    """Write data/ (and the truth, where the corpus knows it) into the run's folder.

    No dialogue is in two of them, even where a corpus has no splits: what is held out is taken first. Data that were
    read from the same files are left as they are.
    `log` takes one line of text per fact. Raises UserError as `datasets.load`.
    """
    written = [run.data / "catalog.json", *(run.data / f"{s}.jsonl" for s in splits)]
    with _once(run.data, "data", {"corpus": _fingerprint(run.params.data_dir)}, written) as there:
        if there:
            log(f"{run.data} is there, from the same corpus")
        else:
            _prepare_splits(run, log, splits)


def _prepare_splits(run: Run, log: Log, splits: tuple[str, ...]) -> None:
    made: dict[str, Corpus] = {}
    hidden = _hidden(run.params) if run.params.split_by == "service" else None
    for done, split in enumerate(reversed(splits)):
        progress.report(run.out, "data", done, len(splits), split)
        made[split] = _prepare_split(run, split, [d for c in made.values() for d in c.dialogues], hidden, log)
    write_json(run.data / "catalog.json", _union([made[s].catalog for s in splits]).model_dump(mode="json"))
    progress.report(run.out, "data", len(splits), len(splits))


@contextmanager
def _once(folder: Path, name: str, made_from: dict[str, Any], written: list[Path]) -> Iterator[bool]:
    """Whether `written` is there, from these inputs; if not, they are noted when the block ends well."""
    note = _note(folder, name)
    there = note.exists() and json.loads(read_text(note)) == made_from and all(p.exists() for p in written)
    if not there:
        note.unlink(missing_ok=True)
    yield there
    if not there:
        write_json(note, made_from)


def _note(folder: Path, name: str) -> Path:
    """The file that says from which inputs a stage made something."""
    return folder / f"{name}.made.json"


def were_given(references: Path) -> bool:
    """Whether a file of references is there that `annotate_run` did not make."""
    return references.exists() and not _note(references.parent, references.stem).exists()


def were_deleted(run: RunFolder) -> bool:
    """Whether references are to be made again: their file was deleted, and the note beside it is left."""
    notes = run.annotations.glob("*.made.json")
    return not all((run.annotations / f"{note.name.partition('.')[0]}.jsonl").exists() for note in notes)


def _fingerprint(path: Path | None) -> str | None:
    return path and provenance.fingerprint(path)


def _hidden(p: Params) -> frozenset[str]:
    """The services that training may not see."""
    from proactor_lib.datasets import read_catalog, services

    train, test = (read_catalog(p.dataset, p.data_dir, split) for split in (p.train_split, p.test_split))
    return services.unseen(train, test, p.seed)


def _prepare_split(run: Run, split: str, taken: list[Dialogue], hidden: frozenset[str] | None, log) -> "Corpus":
    from proactor_lib import datasets
    from proactor_lib.datasets import services, sgd_x

    p, held_out = run.params, split == "test"
    name, limit = getattr(p, f"{split}_split"), getattr(p, f"{split}_dialogues")
    corpus = datasets.load(
        p.dataset, p.data_dir, name, limit=limit, max_turns=p.max_turns, seed=p.seed, log=p.homeloan_log, taken=taken,
        transcript=p.transcript,
        wanted=None if hidden is None else lambda d: services.belongs(d, hidden, held_out),
    )  # fmt: skip
    if hidden and not held_out:
        corpus = services.without(corpus, hidden)
    if p.schema_variant and held_out:
        corpus = sgd_x.reworded(corpus, p.data_dir, name, p.schema_variant)
    room = p.max_context - p.max_completion_tokens
    corpus = services.widened(corpus, p.catalog_scope, p.distractor_services, p.seed, room)
    write_jsonl(run.data / f"{split}.jsonl", corpus.dialogues)
    if corpus.truth:
        write_jsonl(run.annotations / f"truth-{split}.jsonl", corpus.truth)
    log(f"{split}: {len(corpus.dialogues)} dialogues of {p.dataset} {name}")
    return corpus


def _union(catalogs: list[Catalog]) -> Catalog:
    """One catalog of all their actions (splits of one corpus may show different services)."""
    actions = {a.name: a for c in reversed(catalogs) for a in c.actions}
    return catalogs[0].model_copy(update={"actions": tuple(actions.values())})


def annotate_run(run: Run, log: Log = lambda text: None, splits: tuple[str, ...] = SPLITS) -> None:
    """Write references/<split>.jsonl for each split with the run's annotator, then see what the filter takes out.

    A second annotator's go to second-<split>.jsonl. What an oracle has annotated stays while the dialogues and the
    catalog do: it was paid for, and its server may be gone. Delete the file (and leave its note: by that `proactor run`
    knows) to ask again. Where they changed, it is asked about what its cache does not answer. Raises UserError: an
    evidence annotator without logged actions, an oracle that cannot be reached.
    """
    from proactor_lib.artf.serving.own import oracle_address

    with oracle_address(run.params, run.annotations / "oracle") as address:
        for done, split in enumerate(splits):
            for path, annotator, repeat in _annotations(run, split):
                progress.report(run.out, "annotate", done, len(splits), path.stem)
                if annotator == "evidence":
                    text = _by_evidence(run, path)
                else:
                    text = _by_oracle(run, path, annotator, repeat, address)
                log(f"{path.stem}: {text}")
            if run.params.quality_filter:
                log(f"{split}: {_filter(run, split)}")
    progress.report(run.out, "annotate", len(splits), len(splits))


def _annotations(run: Run, split: str) -> list[tuple[Path, str, int]]:
    """The files of references that the split gets, each with its annotator, and which asking of an oracle it is.

    An oracle comes last: it is paid for, and the evidence annotator refuses a corpus without a log.
    """
    first, second = run.params.annotator, run.params.second_annotator
    files = [(run.annotations / f"{split}.jsonl", first, 0)]
    if second:
        files.append((run.annotations / f"second-{split}.jsonl", second, int(first == second)))
    return sorted(files, key=lambda file: file[1] != "evidence")


def _by_evidence(run: Run, path: Path) -> str:
    from proactor_lib.annotate import evidence

    with _once(run.annotations, path.stem, _annotated_from(run, path), [path]) as there:
        if there:
            return f"{path} is there, from the same dialogues"
        tally, dialogues = evidence.Tally(), run.conversations(_split(path))
        write_jsonl(path, (evidence.annotate(d, run.catalog, tally) for d in dialogues))
    return f"{len(dialogues)} dialogues, {tally}"


def _split(path: Path) -> str:
    """Of which split a file of references is."""
    return path.stem.removeprefix("second-")


def _annotated_from(run: Run, path: Path) -> dict[str, Any]:
    return {"dialogues": _fingerprint(run.data / f"{_split(path)}.jsonl"), "catalog": run.catalog.digest}


def _by_oracle(run: Run, path: Path, annotator: str, repeat: int, address: Callable[[], tuple[str, str | None]]) -> str:
    from proactor_lib.annotate import oracle_run
    from proactor_lib.artf.serving.launch import oracle_slots

    split, note = _split(path), _note(run.annotations, path.stem)
    # Without a note an older version annotated, whose windows are taken as they are.
    if path.exists() and (not note.exists() or json.loads(read_text(note)) == _annotated_from(run, path)):
        failed = len(failures(path))
        return f"{path} is there" + f", without {failed} dialogues that failed" * bool(failed)
    made_from, dialogues = _annotated_from(run, path), run.conversations(split)
    url, key = address()
    settings = replace(oracle_settings(run.params, repeat, annotator), url=url, key=key)
    if run.params.oracle_url == SERVE:
        settings = replace(settings, concurrency=settings.concurrency * len(oracle_slots(run.params)))
    with oracle_run.shown(len(dialogues), path.stem) as bar:

        def tell(summary: oracle_run.Summary) -> None:
            bar(summary)
            done = SPLITS.index(split) + summary.dialogues / len(dialogues)
            progress.report(run.out, "annotate", done, len(SPLITS), f"{path.stem}: {summary}")

        summary = oracle_run.annotate_file(dialogues, run.catalog, path, settings, tell)
    write_json(note, made_from)
    return str(summary)


def oracle_settings(params: Params, repeat: int = 0, annotator: str | None = None) -> "OracleSettings":
    """The oracle of a run's annotator (or of another one); another `repeat` asks it all again."""
    from proactor_lib.annotate.oracle_run import OracleSettings, cache_dir

    opening = (annotator or params.annotator) == "evidence+oracle"
    return OracleSettings(
        url=params.oracle_url,
        model=params.oracle_model,
        cache=cache_dir(),
        form=params.oracle_form,
        headers=params.oracle_headers,
        key_variable=params.oracle_key_variable,
        ask="open" if opening else params.oracle_protocol,
        oracle={"repeat": repeat, "sampling": params.oracle_sampling}
        | ({} if opening else {"actions": params.oracle_actions}),
    )


def _filter(run: Run, split: str) -> str:
    """Write <split>.removed.jsonl again; corrections by hand are taken in first."""
    from proactor_lib.annotate.filter import Thresholds, filtered

    path = run.annotations / f"{split}.removed.jsonl"
    path.unlink(missing_ok=True)
    thresholds = Thresholds(**run.params.quality_filter)
    kept, removed = filtered(run.dialogues(split), run.corrected(split), thresholds, run.second(split))
    write_jsonl(path, removed)
    dialogues = sum(r.reference_id is None for r in removed)
    return f"the filter took out {dialogues} dialogues and {len(removed) - dialogues} references of others: {path}"
