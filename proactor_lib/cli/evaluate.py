"""`proactor evaluate`: policies on the dialogues of a split, from predictions to tables."""

import json
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proactor_lib.cli.data import DataDir, Dataset
from proactor_lib.cli.options import AsJson, Settings, typed
from proactor_lib.cli.run import parse_settings
from proactor_lib.cli.tables import console
from proactor_lib.errors import UserError
from proactor_lib.processes import alone_in

if TYPE_CHECKING:
    from proactor_lib.evaluate import EvalResults
    from proactor_lib.params import Params
    from proactor_lib.run import Run

# A policy may be added and metrics set otherwise without throwing away what was predicted.
MAY_CHANGE = ("policies", "adapters", "theta", "execution_price", "bootstrap")
# What holds where neither --params nor an option says otherwise.
DEFAULTS = {"name": "evaluation", "test_dialogues": 200, "max_context": 4096}


def evaluate(
    policy: Annotated[
        list[str],
        typer.Option(
            help="Repeat it: base, non_reasoning, reasoning, reasoning_asg, a fixed policy (oracle, silent, "
            "logged, ...), or NAME=FOLDER of an adapter."
        ),
    ],
    dataset: Dataset,
    out: Annotated[Path, typer.Option(help="The folder; an evaluation begun in it goes on.")],
    data_dir: DataDir = None,
    split: Annotated[str | None, typer.Option(help="Of the corpus: train, dev, test.", show_default="test")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Dialogues at most.", show_default="200")] = None,
    turns: Annotated[
        int | None, typer.Option(min=0, help="Evenly spaced turns of each dialogue; 0: all.", show_default="0")
    ] = None,
    references: Annotated[Path | None, typer.Option(help="Windows (JSONL); none: the evidence annotator's.")] = None,
    url: Annotated[str | None, typer.Option(help="The prompts' endpoint, ending in /v1; none: our server.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name at --url; without one, what we serve.")] = None,
    params: Annotated[Path | None, typer.Option(help="Parameters (YAML), below the options that are given.")] = None,
    settings: Settings = [],  # noqa: B006
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the simulator, and of what --limit draws.", show_default="0")
    ] = None,
    log: Annotated[
        bool | None, typer.Option("--log/--no-log", help="Whether the simulator logs triggers.", show_default="log")
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Ask policies what they would prepare or trigger, keep every prediction, and score them with intervals."""
    given = named(policy) | typed(
        dataset=dataset, data_dir=data_dir, test_split=split, test_dialogues=limit, evaluation_turns=turns, seed=seed,
        homeloan_log=log,
    )  # fmt: skip
    if url or model:
        given |= {"policy_url": url, "policy_model": model} if url else {"model": model}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing is left running
    run = open_run(out, params, given | parse_settings(settings))
    with alone_in(run.out):
        scored = run_to_completion(run, references)
    if as_json:
        answer = {"primary": scored.primary(), "policies": scored.as_json(), "ranked_against": scored.ranked_against}
        typer.echo(json.dumps(answer | {"dialogues": scored.dialogues}))
    else:
        print_tables(scored)


def named(policies: list[str]) -> dict[str, Any]:
    """`policies` as a parameter, and `adapters` where any is given, from names and NAME=FOLDER."""
    adapters = {name: folder for name, equals, folder in (p.partition("=") for p in policies) if equals}
    return {"policies": [p.partition("=")[0] for p in policies], **({"adapters": adapters} if adapters else {})}


def open_run(out: Path, params_file: Path | None, given: dict[str, Any]) -> "Run":
    """The folder's run, its parameters DEFAULTS, then the file's, then those given; policies that it has already stay.

    UserError where it was made from something else, and for a policy that cannot be asked here.
    """
    from proactor_lib.files import read_json, write_json
    from proactor_lib.params import Params, load_params
    from proactor_lib.run import Run

    params = load_params(params_file, given, below=DEFAULTS)
    file, before = out / "params.json", None
    if file.exists():
        before = read_json(file, Params)
        policies = tuple(dict.fromkeys([*before.policies, *params.policies]))
        params = params.model_copy(update={"policies": policies, "adapters": before.adapters | params.adapters})
    check_policies(params, out)
    if before and before.model_copy(update={k: getattr(params, k) for k in MAY_CHANGE}) == params:
        write_json(file, params.model_dump(mode="json"))
    return Run.open(params, out)


def check_policies(params: "Params", out: Path) -> None:
    """UserError for a policy that nobody has, and for one that needs more than the one split that is prepared here."""
    from proactor_lib.evaluate.policy_set import SFT, SFT_EQUAL_TIME, TRAINED, PolicySet
    from proactor_lib.policies import untuned
    from proactor_lib.run_folder import RunFolder

    for name in params.policies:
        if untuned(name) or name == "few_shot":
            needs = "dev, to tune its threshold" if untuned(name) else "train, for examples"
            raise UserError(f"policy {name!r} needs dialogues of {needs}: name it in `policies` of a run (notebook 04)")
    policies = PolicySet(RunFolder(params, out))
    elsewhere = {SFT, SFT_EQUAL_TIME, TRAINED, "few_shot"} - params.adapters.keys()  # a run's, which is not made here
    if unknown := [name for name in params.policies if name not in policies.known]:
        accepted = ", ".join(name for name in policies.known if name not in elsewhere)
        raise UserError(f"unknown policy {unknown[0]!r}; accepted: {accepted}, or NAME=FOLDER of an adapter")
    policies.present(params.policies, lambda text: None)


def run_to_completion(run: "Run", references: Path | None) -> "EvalResults":
    """Data, windows, predictions and tables, with a bar; what is there stays."""
    from proactor_lib import evaluate
    from proactor_lib.cli.run import make_bars
    from proactor_lib.progress import Tail

    tail = Tail(run.out)
    with make_bars(["evaluate"]) as bars, watched(lambda: bars.heard("evaluate", tail.new())):
        bars.started("evaluate")
        prepare(run, references)
        evaluate.evaluate_run(run, log=lambda text: typer.echo(text, err=True))
        bars.ended("evaluate", "done")
    return evaluate.load_or_score(run)


def prepare(run: "Run", references: Path | None) -> None:
    """The split's dialogues and windows, once; again where the corpus has changed, but for windows that were given.

    UserError as `datasets.load`, for references that do not fit, and for others than those that are there.
    """
    from proactor_lib.files import write_jsonl
    from proactor_lib.metrics.inputs import read_inputs
    from proactor_lib.run import annotate_run, prepare_data, were_given

    prepare_data(run, splits=("test",))
    windows = run.annotations / "test.jsonl"
    if references is None and not were_given(windows):
        annotate_run(run, splits=("test",))
        return
    given = read_inputs(run.data / "test.jsonl", references or windows).references
    if not windows.exists():
        write_jsonl(windows, given)
    elif given != run.annotated("test"):
        raise UserError(f"--references {references}: other windows than {windows}, which stay; choose another --out")


@contextmanager
def watched(look: Callable[[], None], every: float = 0.3) -> Iterator[None]:
    """Have `look` called every `every` seconds, from another thread, while the block runs."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def print_tables(scored: "EvalResults") -> None:
    """Metrics by policy with their intervals, and what could be read, on standard output."""
    from rich.table import Table

    policies = list(scored.scores)
    shown = Table(title=f"{scored.dialogues} dialogues, 95% intervals", title_justify="left")
    for name in ("metric", *policies):
        shown.add_column(name, justify="left" if name == "metric" else "right", no_wrap=True, min_width=13)
    found = {(r.method, r.metric): r for r in scored.table.itertuples()}
    for metric in scored.table.metric.unique():
        shown.add_row(metric, *(_cell(found[name, metric]) for name in policies))
    shown.add_row("unreadable", *(f"{scored.unreadable(name):.1%}" for name in policies))
    out = console()
    out.print(shown)
    nobody = "nobody (it needs two policies with every metric defined)"
    out.print(f"PRI ranks: {', '.join(scored.ranked_against) or nobody}")


def _cell(row) -> str:
    """The value over its interval; a dash for either that is not there."""
    if math.isnan(row.value):
        return "-"
    ends = "-" if math.isnan(row.low) else f"{row.low:.2f} to {row.high:.2f}"
    return f"{row.value:.3f}\n[dim]{ends}[/dim]"
