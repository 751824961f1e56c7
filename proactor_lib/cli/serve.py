"""`proactor serve`: a policy as an OpenAI-compatible endpoint, with a page to try it on."""

import secrets
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from proactor_lib.cli.options import Settings
from proactor_lib.connection import header_value
from proactor_lib.errors import UserError

if TYPE_CHECKING:
    from proactor_lib.service.guard import Limits
    from proactor_lib.service.source import Source

LOOPBACK = "127.0.0.1"


def serve(
    source: Annotated[str, typer.Argument(help="A run's folder, an adapter's, or a model.")],
    catalog: Annotated[Path | None, typer.Option(help="The catalog (JSON) that it is shown; none: the run's.")] = None,
    policy: Annotated[str | None, typer.Option(help="Of a run: trained, sft, base, reasoning, ...")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Confidence from which an action is ready; none: as tuned on the run's dev."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8080,
    key: Annotated[str | None, typer.Option(help="What requests must carry; none: a random one; '': nothing.")] = None,
    name: Annotated[str, typer.Option(help="The model's name in requests.")] = "proactor",
    body_limit: Annotated[int, typer.Option(min=1, help="Bytes of a request at most.")] = 1 << 20,
    rate: Annotated[int, typer.Option(min=0, help="Requests a minute at most; 0: any number.")] = 600,
    remember: Annotated[int, typer.Option(min=1, help="Conversations at most.")] = 1000,
    out: Annotated[Path, typer.Option(help="The folder of access.json (the key) and logs.")] = Path("outputs/serve"),
    settings: Settings = [],  # noqa: B006
) -> None:
    """Serve until Ctrl-C: chat completions with tools, turns of growing transcripts, and a page at the address."""
    from proactor_lib.artf.serving.access import serving_process
    from proactor_lib.cli.run import parse_settings
    from proactor_lib.processes import guarded
    from proactor_lib.service.guard import Limits
    from proactor_lib.service.source import find

    key = key and header_value(key, "--key")
    if key == "" and host != LOOPBACK:
        raise UserError(f"--host {host} without a key: whoever reaches it could use it; give one with --key")
    if other := serving_process(out):
        raise UserError(f"{out}: process {other} serves from there already; end it, or name another --out")
    found = find(source, catalog, policy, threshold, parse_settings(settings))
    limits = Limits(secrets.token_urlsafe(24) if key is None else key or None, body_limit, rate)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    with _listening(host, port) as listening, guarded():
        try:
            _serve(found, listening, limits, name, remember, out)
        except KeyboardInterrupt:
            typer.echo("proactor: the service is down", err=True)


def _listening(host: str, port: int) -> socket.socket:
    """Before anything else is started. UserError where the port is taken."""
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror}; name another --port, or 0") from None


def _serve(found: "Source", listening: socket.socket, limits: "Limits", name: str, remember: int, out: Path) -> None:
    import uvicorn

    from proactor_lib.artf.serving.access import ACCESS, write_access
    from proactor_lib.artf.serving.launch import ray_session
    from proactor_lib.evaluate.policy_set import PolicySet
    from proactor_lib.run_folder import RunFolder
    from proactor_lib.service.agent_service import AgentService
    from proactor_lib.service.app import make_app

    folder = RunFolder(found.params, out.resolve())
    with ray_session(found.params), PolicySet(folder, clustered=True, examples=found.run) as policies:
        policies.present([found.policy], typer.echo)
        service = AgentService(policies.agent(found.policy), found.catalog, found.readiness, remember)
        write_access(out, limits.key or "")
        try:
            typer.echo(_told(found, listening, limits, name, out / ACCESS))
            app = make_app(service, limits, name)
            uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
        finally:
            (out / ACCESS).unlink(missing_ok=True)


def _told(found: "Source", listening: socket.socket, limits: "Limits", name: str, access: Path) -> str:
    """What is served where. The key stands in it for a terminal alone: a service's output goes into logs."""
    host, port = listening.getsockname()[:2]
    url, threshold = f"http://{host}:{port}", found.readiness.threshold
    fires = "as it says" if threshold is None else f"from confidence {threshold:g} on"
    shown = limits.key and sys.stdout.isatty()  # a log may be read by others
    fragment = f"#key={quote(limits.key, safe='')}" if shown else ""
    return (
        f"{url}/v1 serves {found.policy} as {name!r}, {len(found.catalog.actions)} actions, ready {fires}; "
        f"its key is in {access}\nto try it: {url}/{fragment}"
    )
