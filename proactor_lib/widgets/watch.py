"""Watch an agent: replay a conversation, or type one, and see at each turn what it would prepare or trigger."""

from collections.abc import Mapping, Sequence
from html import escape

import ipywidgets as w

from proactor_lib.evaluate import predictions
from proactor_lib.evaluate.agents import Agent, Unanswered
from proactor_lib.evaluate.conversation import Background, Conversation, Judged, Replayed, span
from proactor_lib.policies import POLICIES
from proactor_lib.run import Run
from proactor_lib.schema import Case, Catalog, Turn
from proactor_lib.widgets import transcript

TYPED = "type one"


class Watch(w.VBox):
    """A widget. `agents` by name; `catalog` is what a conversation that is typed is shown."""

    def __init__(
        self,
        agents: Mapping[str, Agent],
        cases: Sequence[Case],
        catalog: Catalog,
        theta: float = 0.75,
    ):
        self._agents, self._catalog, self._theta = dict(agents), catalog, theta
        self._cases = {c.dialogue.id: c for c in cases}
        self._background = Background()
        self._build()
        super().__init__([self._choice, self._replay, self._typing, self.now, self._view])
        self._start()

    @classmethod
    def of(cls, run: Run, split: str = "test", live: Mapping[str, Agent] | None = None) -> "Watch":
        """A run's split: `live` agents, what its policies said there when they were evaluated, and the fixed ones."""
        from proactor_lib.evaluate.agents import Fixed

        kept = {name: Replayed(lines) for name, lines in predictions.read_all(run, split).items()}
        fixed = {n: Fixed(n, run.params.seed) for n in POLICIES if n not in kept}
        return cls({**(live or {}), **kept, **fixed}, run.split(split), run.catalog, run.params.theta)

    # what there is to see

    def _build(self) -> None:
        self.policy = w.Dropdown(options=list(self._agents), description="agent")
        self.dialogue = w.Dropdown(options=[*self._cases, TYPED], description="dialogue")
        self.back = w.Button(description="start again", icon="fast-backward")
        self.step = w.Button(description="next turn", icon="step-forward")
        self.rest = w.Button(description="to the end", icon="fast-forward")
        self.speaker = w.Combobox(value="customer", options=["customer", "agent"], description="speaker")
        # Sent as a whole before `say` is: single keystrokes wait in the browser while the kernel is busy.
        wide = w.Layout(width="40em")
        self.text = w.Text(placeholder="what is said", description="text", layout=wide, continuous_update=False)
        self.add = w.Button(description="say", icon="comment")
        self.now, self._view = w.HTML(), w.HTML()
        self._choice = w.HBox([self.policy, self.dialogue])
        self._replay = w.HBox([self.back, self.step, self.rest])
        self._typing = w.HBox([self.speaker, self.text, self.add])
        for chooser in (self.policy, self.dialogue):
            chooser.observe(lambda _: self._start(), "value")
        self.back.on_click(lambda _: self._start())
        self.step.on_click(lambda _: self._next(1))
        self.rest.on_click(lambda _: self._next(len(self._waiting)))
        self.add.on_click(lambda _: self._say())

    def _start(self) -> None:
        chosen = self._cases.get(self.dialogue.value)
        self._waiting = list(chosen.dialogue.turns) if chosen else []
        self.conversation = Conversation(
            self._agents[self.policy.value], chosen.catalog if chosen else self._catalog, self._background,
            dialogue_id=chosen.dialogue.id if chosen else "typed",
            references=chosen.references if chosen else None, theta=self._theta,
        )  # fmt: skip
        self._typing.layout.display = "none" if chosen else ""
        self.step.disabled = self.rest.disabled = not self._waiting
        self.now.value, self._view.value = "", ""

    # what is said

    def _next(self, count: int) -> None:
        del self._waiting[: self._hear(self._waiting[:count])]
        self.step.disabled = self.rest.disabled = not self._waiting

    def _say(self) -> None:
        if self.text.value.strip():
            turn = Turn(speaker=self.speaker.value.strip() or "customer", text=self.text.value.strip())
            self.text.value = ""
            self._hear([turn])

    def _hear(self, turns: Sequence[Turn]) -> int:
        """How many were heard: all, or up to the first that the agent does not answer, that one included."""
        before, problem = len(self.conversation.turns), None
        try:
            for turn in turns:
                self.conversation.hear(turn)
        except Unanswered as error:
            problem = f"<p>{escape(str(error))}</p>"
        self._draw()
        self.now.value = problem or self.now.value
        return len(self.conversation.turns) - before

    def _draw(self) -> None:
        talk = self.conversation
        turn = len(talk.turns)
        if not turn:
            return
        heard = f"<b>[{turn}] {escape(talk.turns[-1].speaker)}:</b> {escape(talk.turns[-1].text)}"
        unsaid = [f"<li>· not triggered: {escape(r.name)} (window {span(r)})</li>" for r in talk.unsaid(turn)]
        nothing = "nothing" if turn in talk.said else "not asked"
        said = [_item(j) for j in talk.judged(turn)] or [f"<li><i>{nothing}</i></li>"]
        self.now.value = f"{heard}<ul style='list-style: none'>{''.join([*said, *unsaid])}</ul>"
        self._view.value = transcript.render(
            talk.dialogue, talk.references or (), None, list(talk.said.values()), self.policy.value
        )


def _item(judged: Judged) -> str:
    a = judged.action
    mark = transcript.READY if a.status == "ready" else transcript.CANDIDATE
    said = escape(f"{a.name}({', '.join(f'{k}={v}' for k, v in a.params.items())})")
    return f"<li>{mark} {a.status} <b>{said}</b> {escape(judged.verdict)}</li>"
