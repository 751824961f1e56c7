"""`proactor bench ...`: measurements of this machine. Each prints one JSON object with --json."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from proactor_lib.cli.options import AsJson, Settings
from proactor_lib.cli.run import parse_settings
from proactor_lib.errors import UserError

bench = typer.Typer(no_args_is_help=True, help="Measure this machine.")


def show(measured: dict, as_json: bool) -> None:
    """Print what was measured: one JSON object, or one line a figure."""
    if as_json:
        sys.stdout.write(json.dumps(measured) + "\n")
    else:
        for name, value in measured.items():
            sys.stdout.write(f"{name:24} {value}\n")


@bench.command()
def metrics(
    methods: Annotated[int, typer.Option(min=1)] = 6,
    dialogues: Annotated[int, typer.Option(min=1)] = 692,
    turns: Annotated[int, typer.Option(min=1, help="a dialogue")] = 21,
    bootstrap: Annotated[int, typer.Option(min=1, help="resamples of dialogues")] = 2000,
    as_json: AsJson = False,
) -> None:
    """Score methods on dialogues, with intervals and PRI, on one core: seconds, and the process's peak memory in MB."""
    from proactor_lib.bench.scoring import benchmark

    show(benchmark(methods, dialogues, turns, bootstrap), as_json)


@bench.command()
def intervals(
    dialogues: Annotated[str, typer.Option(help="of a sample; several, comma separated")] = "12,20,40",
    samples: Annotated[int, typer.Option(min=1, help="of each size")] = 1000,
    population: Annotated[int, typer.Option(min=2, help="simulated calls that samples are drawn from")] = 700,
    bootstrap: Annotated[int, typer.Option(min=1, help="resamples of dialogues")] = 1000,
    as_json: AsJson = False,
) -> None:
    """How often 95% intervals hold the truth, and how often equal policies are told apart (20 minutes on one core)."""
    from proactor_lib.bench.intervals import benchmark

    show(benchmark(_numbers(dialogues), samples, population, bootstrap), as_json)


@bench.command("false-alarms")
def false_alarms(
    params: Annotated[Path, typer.Option(help="of each run, but for the seed")] = Path("params/cpu-demo.yaml"),
    seeds: Annotated[str, typer.Option(help="comma separated")] = "0,1,2",
    settings: Settings = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="a folder per seed; goes on with what is there")] = Path(
        "outputs/bench-false-alarms"
    ),
    as_json: AsJson = False,
) -> None:
    """Train with each group's rewards dealt anew to its outputs, which teaches nothing: what does the report say?"""
    from proactor_lib.bench.false_alarms import benchmark

    show(benchmark(params, _numbers(seeds), out, parse_settings(settings)), as_json)


Out = Annotated[Path, typer.Option(help="keeps what each side measured: a bench that was killed goes on")]
DataDir = Annotated[Path | None, typer.Option(help="the folder of SGD's raw files, where `sgd` is asked for")]
Steps = Annotated[int, typer.Option(min=1, help="optimiser steps of every side")]


@bench.command()
def packing(
    shape: Annotated[str, typer.Option(help="paper, laptop, medium or tiny")] = "laptop",
    layouts: Annotated[
        str, typer.Option(help="timed; of ours, rows, trl, padded, grouped; '' times none")
    ] = "ours,trl",
    gradients: Annotated[bool, typer.Option(help="compare gradients with those of unpacked float32")] = True,
    against: Annotated[Path | None, typer.Option(help="another checkout of this repository: its step too")] = None,
    as_json: AsJson = False,
) -> None:
    """Pack one dialogue's outputs: tokens against padded samples and TRL's batcher, gradients, time and peak memory."""
    from proactor_lib.bench.packing import benchmark

    show(benchmark(shape, _names(layouts), gradients, against), as_json)


@bench.command()
def costs(
    shape: Annotated[str, typer.Option(help="what does not vary: paper, laptop, medium or tiny")] = "medium",
    turns: Annotated[str, typer.Option(help="comma separated")] = "5,15,35,47",
    k: Annotated[str, typer.Option(help="outputs per turn")] = "4,8,16",
    dialogues: Annotated[str, typer.Option(help="per step")] = "1,2,4",
    as_json: AsJson = False,
) -> None:
    """Seconds and memory of a training step as turns, outputs per turn and dialogues grow, one of them at a time."""
    from proactor_lib.bench.packing import costs

    rows = costs(shape, *map(_numbers, (turns, k, dialogues)))
    if as_json:
        show({"shape": shape, "steps": rows}, True)
    else:
        _table(rows)


def _table(rows: list[dict]) -> None:
    sys.stdout.write(" ".join(f"{name:>16}" for name in rows[0]) + "\n")
    for row in rows:
        sys.stdout.write(
            " ".join(f"{value:>16.6g}" if isinstance(value, float) else f"{value:>16}" for value in row.values()) + "\n"
        )


@bench.command("async")
def asynchronous(
    datasets: Annotated[str, typer.Option(help="of homeloan, sgd; comma separated")] = "homeloan",
    data_dir: DataDir = None,
    sides: Annotated[str, typer.Option(help="of artf, trl, sync, grouped; comma separated")] = "artf,trl,sync",
    shape: Annotated[str, typer.Option(help="full (some 15 minutes a padded step), medium or tiny")] = "full",
    steps: Steps = 2,
    out: Out = Path("outputs/bench-async"),
    as_json: AsJson = False,
) -> None:
    """Train by ART-F, by TRL's GRPOTrainer and by OpenPipe ART's synchronous loop: seconds of the same steps."""
    from proactor_lib.bench.asynchronous import benchmark

    folder = {"sgd": data_dir}
    show({d: benchmark(out / d, d, folder.get(d), _names(sides), shape, steps) for d in _names(datasets)}, as_json)


@bench.command("sync-baseline")
def sync_baseline(
    dataset: Annotated[str, typer.Option(help="homeloan or sgd")] = "homeloan",
    data_dir: DataDir = None,
    shape: Annotated[str, typer.Option(help="full, medium or tiny")] = "full",
    steps: Steps = 2,
    out: Out = Path("outputs/bench-sync"),
    as_json: AsJson = False,
) -> None:
    """The synchronous loop alone: generate, score, train padded samples while serving waits."""
    from proactor_lib.bench.asynchronous import benchmark

    show(benchmark(out / dataset, dataset, data_dir, ("sync",), shape, steps), as_json)


@bench.command()
def learning(
    dataset: Annotated[str, typer.Option(help="sgd, which has dialogues of 8 turns, or homeloan")] = "sgd",
    data_dir: DataDir = None,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    steps: Steps = 30,
    shape: Annotated[str, typer.Option(help="turns8 or tiny")] = "turns8",
    out: Out = Path("outputs/bench-learning"),
    as_json: AsJson = False,
) -> None:
    """Mean reward by step of ART-F and of the synchronous loop, over dialogues of 8 turns: how far they differ."""
    from proactor_lib.bench.learning import benchmark

    show(benchmark(out, dataset, data_dir, seeds, steps, shape), as_json)


@bench.command("gpu-train")
def gpu_train(
    model: Annotated[str, typer.Option(help="qwen2.5-14b (random weights) or dry (a CPU's dry run)")] = "qwen2.5-14b",
    row: Annotated[int, typer.Option(min=64, help="tokens a row")] = 9216,
    cases: Annotated[str, typer.Option(help="comma separated")] = "packed-flex,packed-sdpa,padded-flex,padded-sdpa",
    as_json: AsJson = False,
) -> None:
    """Train a random model in NF4 with LoRA on one device: tokens a second, peak memory, share of its matrix peak."""
    from proactor_lib.bench.gpu_train import benchmark

    show(benchmark(model, row, _names(cases)), as_json)


@bench.command("gpu-check")
def gpu_check(
    parts: Annotated[str, typer.Option(help="comma separated")] = "attention,nf4,step,adapters,run",
    dry: Annotated[bool, typer.Option(help="on the CPU at tiny sizes: shows only that the parts run")] = False,
    as_json: AsJson = False,
) -> None:
    """Does it work on this GPU, and how fast: at most nine minutes; status 1 where something falls short."""
    from dataclasses import asdict

    from proactor_lib.bench.gpu_check import check, versions

    results, met = [], versions()
    if not as_json:
        typer.echo(", ".join(f"{name} {value}" for name, value in met.items()))
    for result in check(_names(parts), dry):
        results.append(result)
        if not as_json:
            typer.echo(str(result))
    if as_json:
        show({"versions": met, "parts": [asdict(result) for result in results]}, as_json)
    raise typer.Exit(0 if all(result.holds for result in results) else 1)


@bench.command()
def router(
    servers: Annotated[str, typer.Option(help="vllm (the tiny model) or scripted (they only wait)")] = "vllm",
    dialogues: Annotated[int, typer.Option(min=2, help="at once")] = 16,
    turns: Annotated[int, typer.Option(min=1, help="of a dialogue, one after another")] = 6,
    rounds: Annotated[int, typer.Option(min=1, help="of both ways, in turn")] = 5,
    as_json: AsJson = False,
) -> None:
    """The same requests to two servers directly and through the router: requests a second, split, affinity."""
    from proactor_lib.bench.router import benchmark

    show(benchmark(servers, dialogues, turns, rounds), as_json)


@bench.command()
def serve(
    source: Annotated[str, typer.Option(help="as for `proactor serve`")] = "tiny",
    policy: Annotated[str | None, typer.Option(help="of a run: any, also `random`")] = None,
    conversations: Annotated[int, typer.Option(min=1, help="at once")] = 16,
    seconds: Annotated[float, typer.Option(min=1)] = 120.0,
    out: Out = Path("outputs/bench-serve"),
    as_json: AsJson = False,
) -> None:
    """`proactor serve` under load: latency of a turn, lost turns, repeated executions, memory early and at the end."""
    from proactor_lib.bench.serving_load import benchmark

    out.mkdir(parents=True, exist_ok=True)
    show(benchmark(out.resolve(), source, policy, conversations, seconds), as_json)


@bench.command()
def adaptivity(
    bursts: Annotated[int, typer.Option(min=1)] = 3,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """The adaptive cluster of 1 to 4 servers against 4 fixed ones on a bursty trace; their service is simulated."""
    from proactor_lib.bench.adaptivity import benchmark

    show(benchmark(bursts, seed=seed), as_json)


@bench.command()
def check() -> None:
    """Measure what should hold on an idle machine, some minutes; status 1 where something falls short."""
    from proactor_lib.bench.check import measure

    short = 0
    for bound in measure():
        short += not bound.holds
        typer.echo(str(bound))
    raise typer.Exit(1 if short else 0)


def _numbers(listed: str) -> list[int]:
    try:
        return [int(name) for name in _names(listed)]
    except ValueError:
        raise UserError(f"{listed!r} is not a list of whole numbers, comma separated") from None


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())
