"""A run, a verb a stage: prepare, annotate, train, evaluate, report. What is done and unchanged is not done again."""

from pathlib import Path
from typing import TYPE_CHECKING

from proactor_lib import progress
from proactor_lib.files import write_json, write_jsonl
from proactor_lib.params import Params
from proactor_lib.run_folder import SPLITS, FailedDialogue, RunFolder, failures
from proactor_lib.schema import Catalog, Dialogue

if TYPE_CHECKING:
    from proactor_lib.annotate.oracle_run import OracleSettings
    from proactor_lib.datasets import Corpus

__all__ = ["SPLITS", "FailedDialogue", "Run", "annotate_run", "prepare_data"]


class Run(RunFolder):
    """A run: its parameters, its folder, and the stages that fill it. Make it with `Run.open`."""


def prepare_data(run: Run, log=lambda text: None, splits: tuple[str, ...] = SPLITS) -> None:
    """Write data/ (and the truth, where the corpus knows it) into the run's folder.

    No dialogue is in two of them, even where a corpus has no splits: what is held out is taken first.
    `log` takes one line of text a fact. Raises UserError as `datasets.load`.
    """
    made: dict[str, Corpus] = {}
    hidden = _hidden(run.params) if run.params.split_by == "service" else None
    for done, split in enumerate(reversed(splits)):
        progress.report(run.out, "data", done, len(splits), split)
        made[split] = _prepare_split(run, split, [d for c in made.values() for d in c.dialogues], hidden, log)
    write_json(run.data / "catalog.json", _union([made[s].catalog for s in splits]).model_dump(mode="json"))
    progress.report(run.out, "data", len(splits), len(splits))


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


def annotate_run(run: Run, log=lambda text: None, splits: tuple[str, ...] = SPLITS) -> None:
    """Write references/<split>.jsonl for each split with the run's annotator, then see what the filter takes out.

    A second annotator's go to second-<split>.jsonl. What an oracle has annotated stays: it was paid for, and its server
    may be gone. Delete the file to ask again. Raises UserError: an evidence annotator without logged actions, an oracle
    that cannot be reached.
    """
    for done, split in enumerate(splits):
        for path, annotator, repeat in _annotations(run, split):
            progress.report(run.out, "annotate", done, len(splits), path.stem)
            said = _by_oracle(run, split, path, repeat) if annotator == "oracle" else _by_evidence(run, split, path)
            log(f"{path.stem}: {said}")
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
    return sorted(files, key=lambda file: file[1] == "oracle")


def _by_evidence(run: Run, split: str, path: Path) -> str:
    from proactor_lib.annotate import evidence

    tally, dialogues = evidence.Tally(), run.conversations(split)
    write_jsonl(path, (evidence.annotate(d, run.catalog, tally) for d in dialogues))
    return f"{len(dialogues)} dialogues, {tally}"


def _by_oracle(run: Run, split: str, path: Path, repeat: int) -> str:
    from proactor_lib.annotate import oracle_run

    if path.exists():
        failed = len(failures(path))
        return f"{path} is there" + f", without {failed} dialogues that failed" * bool(failed)
    dialogues = run.conversations(split)
    with oracle_run.shown(len(dialogues), path.stem) as bar:

        def tell(summary: oracle_run.Summary) -> None:
            bar(summary)
            done = SPLITS.index(split) + summary.dialogues / len(dialogues)
            progress.report(run.out, "annotate", done, len(SPLITS), f"{path.stem}: {summary}")

        return str(oracle_run.annotate_file(dialogues, run.catalog, path, oracle_settings(run.params, repeat), tell))


def oracle_settings(params: Params, repeat: int = 0) -> "OracleSettings":
    """A run's oracle; another `repeat` asks it all again."""
    from proactor_lib.annotate.oracle_run import OracleSettings, cache_dir

    return OracleSettings(
        url=params.oracle_url,
        model=params.oracle_model,
        cache=cache_dir(),
        form=params.oracle_form,
        headers=params.oracle_headers,
        key_variable=params.oracle_key_variable,
        oracle={"repeat": repeat, "sampling": params.oracle_sampling, "actions": params.oracle_actions},
    )


def _filter(run: Run, split: str) -> str:
    """Write <split>.removed.jsonl, anew; corrections by hand are taken in first."""
    from proactor_lib.annotate import agreement

    path = run.annotations / f"{split}.removed.jsonl"
    path.unlink(missing_ok=True)
    thresholds = agreement.Thresholds(**run.params.quality_filter)
    kept, removed = agreement.filtered(run.dialogues(split), run.corrected(split), thresholds, run.second(split))
    write_jsonl(path, removed)
    dialogues = sum(r.reference_id is None for r in removed)
    return f"the filter took out {dialogues} dialogues and {len(removed) - dialogues} references of others: {path}"
