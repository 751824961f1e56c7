"""`proactor watch`: an agent at a conversation, in a terminal."""

import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proactor_lib.errors import UserError

if TYPE_CHECKING:
    from proactor_lib.evaluate.conversation import Conversation
    from proactor_lib.run import Run
    from proactor_lib.schema import Case, Turn


def watch(
    out: Annotated[Path, typer.Option(help="The folder of a run or an evaluation: its catalog, dialogues, policies.")],
    policy: Annotated[str, typer.Option(help="As for `proactor evaluate`; `kept:NAME` says what NAME said there.")],
    split: Annotated[str, typer.Option(help="Of the folder: train, dev, test.")] = "test",
    dialogue: Annotated[str | None, typer.Option(help="The id of the one to replay; none: the first.")] = None,
    typed: Annotated[bool, typer.Option("--type", help="Type the conversation, a `speaker: text` a line.")] = False,
    pause: Annotated[float, typer.Option(min=0, help="Seconds between replayed turns.")] = 0.0,
    url: Annotated[str | None, typer.Option(help="A prompt's endpoint, ending in /v1; none: a server of ours.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name there.")] = None,
) -> None:
    """See, turn by turn, what an agent would prepare or trigger, against the windows where they are known."""
    from proactor_lib.evaluate.agents import Unanswered
    from proactor_lib.evaluate.policy_set import PolicySet

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing is left running
    run = opened(out, url, model)
    chosen = None if typed else pick(run, split, dialogue)
    if typed and sys.stdin.isatty():
        typer.echo("Type `speaker: text`, one turn per line; Ctrl-D ends.", err=True)
    with PolicySet(run) as roster:
        talk = conversation(run, roster, policy, split, chosen)
        try:
            show(talk, typed_turns(sys.stdin) if chosen is None else replayed(chosen, pause))
        except Unanswered as error:
            raise UserError(f"policy {policy!r}: {error}") from None


def opened(out: Path, url: str | None, model: str | None) -> "Run":
    """The folder's run, its prompts' endpoint replaced where one is given. UserError where there is no run."""
    from proactor_lib.params import validate
    from proactor_lib.run import Run

    params = Run.read(out).params
    if url or model:
        params = validate(params.model_dump() | {"policy_url": url, "policy_model": model}, "--url and --model")
    return Run(params, out)


def pick(run: "Run", split: str, dialogue_id: str | None) -> "Case":
    """The case of the dialogue with that id; the split's first without one. UserError where it is not there."""
    cases = {c.dialogue.id: c for c in run.split(split)}
    if dialogue_id is not None and dialogue_id not in cases:
        some = ", ".join(list(cases)[:5])
        raise UserError(f"no dialogue {dialogue_id!r} in {split} of {run.out}; there are {len(cases)}: {some}, ...")
    return cases[dialogue_id or next(iter(cases))]


def conversation(run: "Run", roster, policy: str, split: str, case: "Case | None") -> "Conversation":
    """The conversation before its first turn. UserError for a policy that nobody has."""
    from proactor_lib.evaluate.conversation import Background, Conversation

    agent = agent_of(run, roster, policy, split)
    if case is None:
        return Conversation(agent, run.catalog, Background(), theta=run.params.theta)
    return Conversation(agent, case.catalog, Background(), dialogue_id=case.dialogue.id, references=case.references,
                        theta=run.params.theta)  # fmt: skip


def agent_of(run: "Run", roster, policy: str, split: str):
    """The agent of that name, live, or `kept:NAME`, from the folder's predictions."""
    from proactor_lib.evaluate import predictions
    from proactor_lib.evaluate.conversation import Replayed

    if policy.startswith("kept:"):
        return Replayed(predictions.read(run, policy.removeprefix("kept:"), split))
    missing: list[str] = []
    if not roster.present([policy], missing.append):
        raise UserError(missing[0])
    return roster.agent(policy)


def replayed(case: "Case", pause: float) -> "Iterator[Turn]":
    """The dialogue's turns, each after a pause."""
    for turn in case.dialogue.turns:
        yield turn
        time.sleep(pause)


def typed_turns(lines: Iterable[str]) -> "Iterator[Turn]":
    """`speaker: text` lines as turns; a line without a speaker is the one's who did not speak last."""
    from proactor_lib.schema import Turn

    speakers = ["customer", "agent"]
    for line in lines:
        speaker, colon, text = line.strip().partition(":")
        if not colon:
            speaker, text = speakers[0], line
        if text.strip():
            yield Turn(speaker=speaker.strip(), text=text.strip())
            speakers = [next((s for s in speakers if s != speaker.strip()), speakers[1]), speaker.strip()]


def show(talk: "Conversation", turns: "Iterable[Turn]") -> None:
    """Each turn, and under it what the agent would do, on standard output."""
    from rich.console import Console
    from rich.markup import escape

    from proactor_lib.evaluate.conversation import span

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for turn in turns:
        actions = talk.hear(turn)
        now = len(talk.turns)
        console.print(f"[bold]\\[{now}] {escape(turn.speaker)}:[/bold] {escape(turn.text)}")
        for judged in actions:
            a = judged.action
            mark, style = ("●", "green") if a.status == "ready" else ("○", "cyan")
            said = escape(f"{a.name}({', '.join(f'{k}={v}' for k, v in a.params.items())})")
            console.print(f"    [{style}]{mark} {a.status} {said}[/{style}]  [dim]{escape(judged.verdict)}[/dim]")
        for reference in talk.unsaid(now):
            console.print(f"    [dim]· not triggered: {escape(reference.name)} (window {span(reference)})[/dim]")
        if talk.said.get(now) and talk.said[now].unreadable:
            console.print("    [dim]! the output could not be read in full[/dim]")
