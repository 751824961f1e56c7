"""`proactor cluster`: servers behind a router that anything may ask which speaks OpenAI's API."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from proactor_lib.artf.serving.access import ACCESS, serving_process, write_access
from proactor_lib.cli.options import AsJson, Settings
from proactor_lib.connection import header_value
from proactor_lib.errors import UserError

cluster = typer.Typer(no_args_is_help=True, help="vLLM servers behind a router, as many as the load needs.")

Out = Annotated[Path, typer.Option(help="The cluster's folder: cluster.json (what is), cluster.jsonl, logs.")]


@cluster.command()
def up(
    out: Out,
    params: Annotated[Path | None, typer.Option(help="Parameters (YAML): model, servers, max_servers, ...")] = None,
    settings: Settings = [],  # noqa: B006
    port: Annotated[int, typer.Option(min=0, max=65535, help="The router's port; 0: any free one.")] = 0,
    key: Annotated[str | None, typer.Option(help="What requests must carry; by default random, '' for none.")] = None,
) -> None:
    """Serve the model until Ctrl-C or `proactor cluster down`; prints the address once it serves."""
    from proactor_lib.cli.run import parse_settings
    from proactor_lib.params import load_params
    from proactor_lib.processes import guarded

    given = load_params(params, parse_settings(settings))
    if serving_process(out):
        raise UserError(
            f"{out}: a cluster runs there already (process {serving_process(out)}); `proactor cluster down` ends it"
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    with guarded():
        _serve(given, out, port, key and header_value(key, "--key"))


def _serve(params, out: Path, port: int, key: str | None) -> None:
    from proactor_lib import models
    from proactor_lib.artf.serving.launch import make_cluster, ray_session

    weights = models.served_weights(models.resolve(params.model), params.quantization, params.serve_weights)
    made = make_cluster(params, weights, out, lora=params.policy_sync == "adapter", port=port, key=key)
    try:
        with ray_session(params), made:
            write_access(out, made.key)
            made.wait_ready(params.start_timeout)
            typer.echo(f"{made.url}/v1 serves {', '.join(made.serving()[0].models())}; its key is in {out / ACCESS}")
            while made.failure is None:
                time.sleep(0.5)
        typer.echo(f"proactor: {made.failure}", err=True)
        raise typer.Exit(1)
    except KeyboardInterrupt:
        typer.echo("proactor: the cluster is down", err=True)
    finally:
        (out / ACCESS).unlink(missing_ok=True)


@cluster.command()
def status(out: Out, as_json: AsJson = False) -> None:
    """What runs: the address, and each server's state and load."""
    state = _state(out) if (pid := serving_process(out)) else {"url": None, "servers": []}
    if as_json:
        typer.echo(json.dumps({"pid": pid, **state}))
        return
    typer.echo(f"{state['url']} (process {pid}), {state['target']} wanted" if pid else "no cluster runs there")
    for server in state["servers"]:
        typer.echo("{slot:10} {state:10} {url:28} {running:4} running {waiting:4} waiting".format(**server))


@cluster.command()
def down(out: Out, timeout: Annotated[float, typer.Option(help="seconds")] = 60.0) -> None:
    """End the cluster, and all that it started."""
    pid = serving_process(out)
    if pid is None:
        typer.echo("no cluster runs there")
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while serving_process(out):
        if time.monotonic() > deadline:
            raise UserError(f"{out}: process {pid} is still there after {timeout:.0f} s")
        time.sleep(0.1)


def _state(out: Path) -> dict:
    try:
        return json.loads((out / "cluster.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{out / 'cluster.json'}: {error}") from None
