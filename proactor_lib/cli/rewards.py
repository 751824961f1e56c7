"""`proactor rewards`: the registry, and the reward lab."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proactor_lib.cli.options import AsJson, Settings, typed
from proactor_lib.cli.run import parse_settings
from proactor_lib.cli.tables import console
from proactor_lib.params import load_params

if TYPE_CHECKING:
    import pandas as pd

rewards = typer.Typer(no_args_is_help=True, help="The rewards, and what they pay to policies whose worth is known.")
ParamsFile = Annotated[Path | None, typer.Option("--params", help="Parameters (YAML): weights, schedule, judge, ...")]


CACHE = Path("outputs/judge-cache")  # a judge's answers, unless the parameters name another folder


@rewards.command("list")
def list_rewards(as_json: AsJson = False) -> None:
    """The registry: each reward's name, and what it is: the first line of its file, or of its class."""
    from proactor_lib.rewards import REWARDS

    about = {n: (sys.modules[r.__module__].__doc__ or r.__doc__ or "").partition("\n")[0] for n, r in REWARDS.items()}
    if as_json:
        _print(about)
    for name, text in about.items() if not as_json else ():
        typer.echo(f"{name:16} {text}")


@rewards.command("rubric")
def print_rubric(reward: Annotated[str, typer.Argument(help="general_ruler or custom_ruler")]) -> None:
    """A judge's instructions, to copy and edit: the parameter `rubric` names the file."""
    from proactor_lib.errors import UserError
    from proactor_lib.rewards import REWARDS
    from proactor_lib.rewards.ruler import own_rubric

    known = [name for name, r in REWARDS.items() if hasattr(r, "rubric_file")]
    if reward not in known:
        raise UserError(f"{reward!r} has no rubric; accepted: {', '.join(known)}")
    typer.echo(own_rubric(REWARDS[reward].rubric_file), nl=False)


@rewards.command("probe")
def probe_rewards(
    dataset: Annotated[
        str | None, typer.Option(help="homeloan, sgd, abcd, star, harper or jsonl.", show_default="homeloan")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="The corpus's folder; none for homeloan.")] = None,
    split: Annotated[str, typer.Option(help="Of the corpus: train, dev, test.")] = "train",
    limit: Annotated[int, typer.Option(min=1, help="Dialogues at most.")] = 200,
    params: ParamsFile = None,
    settings: Settings = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Score fixed policies with every reward: their order, and Kendall's tau with opportunity timing."""
    chosen = load_params(params, typed(dataset=dataset, data_dir=data_dir) | parse_settings(settings))
    from proactor_lib import datasets, schema
    from proactor_lib.annotate import evidence
    from proactor_lib.datasets import services
    from proactor_lib.reward_lab import probe, scoring

    dataset, data_dir, seed = chosen.dataset, chosen.data_dir, chosen.seed
    corpus = datasets.load(
        dataset, data_dir, split, limit, chosen.max_turns, seed, log=True, transcript=chosen.transcript
    )  # the evidence annotator needs the simulator's log
    room = chosen.max_context - chosen.max_completion_tokens
    corpus = services.widened(corpus, chosen.catalog_scope, chosen.distractor_services, chosen.seed, room)
    lines = [evidence.annotate(d, corpus.catalog) for d in corpus.dialogues]
    cases = schema.cases(corpus.dialogues, lines, corpus.catalog)
    chosen = scoring.for_lab(chosen, CACHE)
    table = probe.table(cases, chosen)
    summary = probe.summary(table, cases, chosen)
    typer.echo(f"RULER's judge: {summary['judge']}", err=True)
    _warn(summary["order"], summary["unscored"])
    _warn_of_loopholes(summary["gamed"])
    if as_json:
        _print(summary)
    else:
        wide = probe.means(table).assign(tau=summary["tau"])
        _show(wide, f"Mean reward of each policy, {len(cases)} dialogues of {dataset} {split}")
        _show(_loopholes(probe.gaming(table), summary["break_even"]), "What loopholes pay; the break-even of a trigger")


@rewards.command("samples")
def examine_samples(
    run: Annotated[Path, typer.Option(help="A run's folder that holds training/samples.jsonl.")],
    limit: Annotated[int, typer.Option(min=1, help="Groups, evenly spaced over the training.")] = 200,
    repeats: Annotated[int, typer.Option(min=2, help="Times a judge is asked the same.")] = 3,
    settings: Settings = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Score a training's own samples with every reward: spread, agreement, a judge's cost and noise."""
    from proactor_lib.reward_lab import samples, scoring
    from proactor_lib.run import Run

    read = Run.read(run)
    groups = scoring.run_groups(read, limit)
    chosen = load_params(None, {**read.params.model_dump(), **parse_settings(settings)})
    found = samples.examine(groups, scoring.for_lab(chosen, CACHE), repeats)
    typer.echo(f"RULER's judge: {found.judge}", err=True)
    if as_json:
        _print(found.summary())
    else:
        _show(found.spread.set_index("reward"), f"{len(groups)} groups of {run}")
        _show(found.agreement, "Agreement of advantages (cosine)")


def _warn(order: dict[str, dict], unscored: dict[str, dict[str, int]]) -> None:
    for reward, row in order.items():
        kind = "claims to reward timing" if row["timed"] else "makes no claim to timing"
        for pair in (k for k, holds in row.items() if " > " in k and holds is False):
            typer.echo(f"{reward} does not hold {pair} ({kind})", err=True)
        for pair in (k for k, holds in row.items() if " > " in k and holds is None):
            typer.echo(f"{reward}: {pair} is undefined", err=True)
    for reward, counts in unscored.items():
        why = ", ".join(f"{n} {kind}" for kind, n in counts.items() if kind not in ("missing", "outputs"))
        text = f"{reward}: {counts['missing']} of {counts['outputs']} outputs have no score"
        typer.echo(f"{text} ({why})" if why else text, err=True)


def _warn_of_loopholes(gamed: dict[str, list[str]]) -> None:
    for reward, policies in gamed.items():
        typer.echo(f"{reward} pays {' and '.join(policies)} as much as the oracle", err=True)


def _loopholes(gaming: "pd.DataFrame", break_even: dict[str, dict]) -> "pd.DataFrame":
    """The probe's `gaming` with each reward's break-even, NaN where a language model judges."""
    shares = [break_even[reward][stage] for reward, stage in gaming.index]
    return gaming.assign(break_even=[float("nan") if s is None else s for s in shares])


def _print(value: dict) -> None:
    json.dump(value, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def _show(table: "pd.DataFrame", title: str) -> None:
    from rich.table import Table

    shown = Table(title=title)
    for column in ["", *table.columns]:
        shown.add_column(str(column), justify="right" if column else "left")
    for name, row in table.iterrows():
        shown.add_row(" · ".join(name) if isinstance(name, tuple) else str(name), *map(_cell, row))
    console().print(shown)


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else "–" if value != value else f"{value:.3f}"
