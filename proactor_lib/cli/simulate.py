"""`proactor simulate`: how long a training step takes on a cluster, and how to split its GPUs, before it is rented."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from proactor_lib.cli.options import AsJson


def simulate(
    cluster: Annotated[str, typer.Option(help="4xH200, 8xH100 or 64-nodes")] = "4xH200",
    run: Annotated[
        Path | None, typer.Option(help="a trained run: check the simulator against its steps instead")
    ] = None,
    service: Annotated[Path | None, typer.Option(help="service times (JSON); none: estimates for the GPU")] = None,
    workload: Annotated[Path | None, typer.Option(help="a step's workload (JSON); none: the paper's size")] = None,
    steps: Annotated[int, typer.Option(min=2, help="optimiser steps to simulate")] = 8,
    staleness: Annotated[list[int], typer.Option(min=0, help="versions that a sample may lag")] = [0, 1, 2],  # noqa: B006
    judge: Annotated[bool, typer.Option(help="a model of the policy's size judges each turn")] = False,
    judge_concurrency: Annotated[int, typer.Option(min=1, help="turns about which it is asked at once")] = 64,
    as_json: AsJson = False,
) -> None:
    """Predict step time, utilisation and queueing: the synchronous loop against ART-F, at its fastest split of GPUs."""
    found = (
        _of_run(run, tuple(staleness))
        if run
        else _of_cluster(cluster, service, workload, steps, tuple(staleness), judge_concurrency * judge)
    )
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        _tell(found)


def _of_run(out: Path, staleness: tuple[int, ...]) -> dict:
    """The simulator against a measured run, and what the run would take with other staleness."""
    from proactor_lib.artf.capacity import fit, splits

    made, found = fit.measured(out), splits.check(out)
    ahead = {s: splits.predict(made, s) for s in staleness}
    return {
        "run": str(out),
        **found._asdict(),
        "error": found.error,
        "step_s": ahead,
        "service": made.service.model_dump(),
        "workload": made.workload.model_dump(),
    }


def _of_cluster(name: str, service: Path | None, workload: Path | None, steps: int, staleness: tuple[int, ...],
                judge_calls: int) -> dict:  # fmt: skip
    from proactor_lib.artf.capacity import splits
    from proactor_lib.artf.capacity.workload import judged

    of = splits.cluster(name, service, workload)
    of = of._replace(workload=judged(of.workload, judge_calls)) if judge_calls else of
    table = splits.compare(of, staleness, steps)
    return {
        "cluster": name,
        "gpus": of.gpus * of.shards,
        "shards": of.shards,  # the plans are of one
        "source": of.service.source,
        "plans": table.to_dict("records"),
        "service": of.service.model_dump(),
        "workload": of.workload.model_dump(),
    }


def _tell(found: dict) -> None:
    if "plans" not in found:
        typer.echo(f"predicted {found['predicted_s']:.1f} s, measured {found['measured_s']:.1f} s "
                   f"for {found['steps']} steps ({found['error']:+.1%})")  # fmt: skip
        for staleness, seconds in found["step_s"].items():
            typer.echo(f"staleness {staleness}: {seconds:.2f} s a step")
        return
    part = f", one of {found['shards']} equal parts" if found["shards"] > 1 else ""
    typer.echo(f"{found['cluster']}, service times {found['source']}{part}")
    for plan in found["plans"]:
        judges = f"{plan['judges']} judge, " if plan["judges"] else ""
        split = f"{judges}{plan['servers']} serve, {plan['trainers']} train" + (" in turn" if plan["in_turn"] else "")
        typer.echo(f"{plan['name']:22} {split:28} {plan['step_s']:8.1f} s a step {plan['speedup']:6.1f}x  "
                   f"servers {plan['server_busy']:4.0%}, trainers {plan['trainer_busy']:4.0%} busy")  # fmt: skip
