"""The explorer: read dialogues with their windows and triggers, and correct a window by dragging or by number."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import ipywidgets as w

from proactor_lib.annotate import agreement, corrections
from proactor_lib.evaluate import predictions
from proactor_lib.metrics import score_predictions
from proactor_lib.run import Run
from proactor_lib.schema import Dialogue, DialogueReferences, ReferenceAction, TurnPrediction, Window
from proactor_lib.widgets import transcript

AS_READ, WORST, BEST = "as read", "the policy's utility, lowest first", "the policy's utility, highest first"
ANY_ACTION, NO_POLICY = "any action", "no predictions"
EVERY, CORRECTED, DISAGREE = "all", "corrected", "annotators disagree"
OUTSIDE, OTHER_PARAMS = "a logged trigger outside the windows", "other parameters than the trigger's"


class Explorer(w.VBox):
    """A widget over annotated dialogues. Each change of a window is a line of the overlay at once; the last one counts.

    `references` are as annotated, without corrections: these are read from `overlay_path` and written there. `second`:
    another annotator's references, or the truth. `predictions`: by policy. `split`: where the dialogues are from; a
    correction applies there only. Without it, a correction applies in every split. `rules`: theta and price, by which
    `score_predictions` scores; its own where none are given. None: there is no utility, for turns were sampled.
    """

    def __init__(
        self,
        dialogues: Sequence[Dialogue],
        references: Sequence[DialogueReferences],
        overlay_path: Path,
        predictions: Mapping[str, Sequence[TurnPrediction]] | None = None,
        second: Sequence[DialogueReferences] = (),
        split: str | None = None,
        rules: Mapping[str, float] | None = {},  # noqa: B006 - never changed
    ):
        self._annotated = {line.dialogue_id: line for line in references}
        self._dialogues = {d.id: d for d in dialogues if d.id in self._annotated}
        self._utility: dict[str, dict[str, float]] = {}  # by policy and dialogue
        self._path, self._predictions, self._quiet = Path(overlay_path), dict(predictions or {}), False
        self._split, self._rules = split, rules
        self._corrections = corrections.read(self._path, split) if self._path.exists() else {}
        self._coverage, self._params = _against_log(dialogues, references)
        self._agreement = _means(agreement.pairs(references, second), "iou")
        self._build()
        super().__init__([self._choice, self._view, self._editor])
        self._filter()

    @classmethod
    def of(cls, run: Run, split: str = "dev") -> "Explorer":
        """A run's split; corrections go to `run.overlay`; without a second annotator it is the truth, where known."""
        said = predictions.read_all(run, split)
        p = run.params
        rules = None if p.evaluation_turns else {"theta": p.theta, "price": p.execution_price}
        return cls(run.dialogues(split), run.annotated(split), run.overlay, said, run.second(split), split, rules)

    # what there is to see

    def _build(self) -> None:
        names = sorted({r.name for line in self._annotated.values() for r in line.references})
        self.action = w.Dropdown(options=[ANY_ACTION, *names], description="with")
        self.show = w.Dropdown(options=[EVERY, OUTSIDE, OTHER_PARAMS, DISAGREE, CORRECTED], description="show")
        self.search = w.Text(placeholder="words or an id", description="search", continuous_update=False)
        orders = [AS_READ] if self._rules is None else [AS_READ, WORST, BEST]
        self.order = w.Dropdown(options=orders, description="order")
        self.dialogue = w.Dropdown(description="dialogue", layout=w.Layout(width="40em"))
        self.policy = w.Dropdown(options=[NO_POLICY, *self._predictions], description="policy")
        self.reference = w.Dropdown(description="window", layout=w.Layout(width="40em"))
        wide = w.Layout(width="40em")
        self.span = w.IntRangeSlider(description="open, close", continuous_update=False, layout=wide)
        self.ready = w.IntSlider(description="ready", continuous_update=False, layout=wide)
        self.numbers = {k: w.BoundedIntText(description=k, layout=w.Layout(width="11em")) for k in Window.model_fields}
        self.withdraw = w.Button(description="Withdraw", tooltip="No reference: this action helps nobody here")
        self.restore = w.Button(description="As annotated", tooltip="Undo the corrections of this window")
        self.note, self._view = w.HTML(), w.HTML()
        self._choice = w.VBox(
            [w.HBox([self.action, self.show, self.policy]), w.HBox([self.search, self.order]), self.dialogue]
        )
        buttons = w.HBox([*self.numbers.values(), self.withdraw, self.restore])
        self._editor = w.VBox([self.reference, self.span, self.ready, buttons, self.note])
        self._wire()

    def _wire(self) -> None:
        reactions: list[tuple[w.Widget, Callable[[], None]]] = [
            (self.action, self._filter), (self.show, self._filter), (self.dialogue, self._open),
            (self.search, self._filter), (self.order, self._filter),
            (self.policy, self._another_policy), (self.reference, self._select),
            (self.span, self._dragged_span), (self.ready, self._dragged_ready),
            *((number, self._typed) for number in self.numbers.values()),
        ]  # fmt: skip
        for widget, react in reactions:
            widget.observe(lambda _, react=react: None if self._quiet else react(), "value")
        self.withdraw.on_click(lambda _: self._correct(None))
        self.restore.on_click(lambda _: self._correct(self._as_annotated().window))

    @contextmanager
    def _quietly(self):
        """Set widgets without reacting to it."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    # choosing

    def _filter(self) -> None:
        kept = [d for d in self._dialogues if self._wanted(d)]
        worst = {OUTSIDE: self._coverage, OTHER_PARAMS: self._params, DISAGREE: self._agreement}.get(self.show.value)
        if worst:
            kept.sort(key=worst.get)
        if self.order.value != AS_READ and (known := self._utilities()):
            sign = 1 if self.order.value == WORST else -1
            kept.sort(key=lambda d: sign * known.get(d, 0.0))
        with self._quietly():
            self.dialogue.options = [(self._label(d), d) for d in kept]
            self.dialogue.value = kept[0] if kept else None
        self._open()

    def _wanted(self, dialogue_id: str) -> bool:
        names = {r.name for r in self._annotated[dialogue_id].references}
        asked = {
            EVERY: True,
            OUTSIDE: self._coverage.get(dialogue_id, 1) < 1,
            OTHER_PARAMS: self._params.get(dialogue_id, 1) < 1,
            DISAGREE: self._agreement.get(dialogue_id, 1) < 1,
            CORRECTED: dialogue_id in self._corrections,
        }
        return asked[self.show.value] and self.action.value in (ANY_ACTION, *names) and self._has_words(dialogue_id)

    def _has_words(self, dialogue_id: str) -> bool:
        """Whether every word of the search stands in the dialogue's id or text."""
        words = self.search.value.lower().split()
        text = " ".join([dialogue_id, *(t.text for t in self._dialogues[dialogue_id].turns)]).lower() if words else ""
        return all(word in text for word in words)

    def _utilities(self) -> dict[str, float]:
        """The chosen policy's utility by dialogue, over its references as corrected. Empty without a policy."""
        policy = self.policy.value
        if policy not in self._utility and policy in self._predictions:
            said = [line for line in self._predictions[policy] if line.dialogue_id in self._dialogues]
            references = map(self._corrected, self._dialogues)
            table = score_predictions(self._dialogues.values(), references, said, **self._rules).dialogues
            values = table.utility / table.executable.clip(lower=1)
            self._utility[policy] = dict(zip(table.dialogue_id, values, strict=True))
        return self._utility.get(policy, {})

    def _another_policy(self) -> None:
        """The order may depend on it."""
        if self.order.value == AS_READ:
            self._draw()
        else:
            self._filter()

    def _label(self, dialogue_id: str) -> str:
        count = len(self._annotated[dialogue_id].references)
        facts = [f"{count} reference{'s' * (count != 1)}"]
        facts += [f"coverage {self._coverage[dialogue_id]:.2f}"] if dialogue_id in self._coverage else []
        facts += [f"IoU {self._agreement[dialogue_id]:.2f}"] if dialogue_id in self._agreement else []
        return f"{dialogue_id} ({', '.join(facts)})"

    def _open(self) -> None:
        references = self._annotated[self.dialogue.value].references if self.dialogue.value else ()
        with self._quietly():
            self.reference.options = [(f"{i} {transcript.described(r)}", r.id) for i, r in enumerate(references, 1)]
            self.reference.value = next((r.id for r in references if r.name == self.action.value), None) or (
                references[0].id if references else None
            )
        self._select()

    def _select(self) -> None:
        self.note.value = ""
        self._refresh()

    def _as_annotated(self) -> ReferenceAction | None:
        references = self._annotated[self.dialogue.value].references if self.dialogue.value else ()
        return next((r for r in references if r.id == self.reference.value), None)

    def _corrected(self, dialogue_id: str) -> DialogueReferences:
        return corrections.corrected(self._annotated[dialogue_id], self._corrections.get(dialogue_id, {}))

    def _window(self) -> Window | None:
        """The selected reference's window as it stands; None where it is withdrawn or none is selected."""
        shown = self._corrected(self.dialogue.value).references if self.dialogue.value else ()
        return next((r.window for r in shown if r.id == self.reference.value), None)

    # correcting

    def _dragged_span(self) -> None:
        first, last = self.span.value
        self._correct(Window(open=first, ready=min(max(self.ready.value, first), last), close=last))

    def _dragged_ready(self) -> None:
        first, last = self.span.value
        ready = self.ready.value
        self._correct(Window(open=min(first, ready), ready=ready, close=max(last, ready)))

    def _typed(self) -> None:
        first, ready, last = (self.numbers[k].value for k in Window.model_fields)
        if first <= ready <= last:
            self._correct(Window(open=first, ready=ready, close=last))
        else:
            self.note.value = "not written: a window needs open ≤ ready ≤ close"

    def _correct(self, window: Window | None) -> None:
        r = self._as_annotated()
        if r is None or window == self._window():
            return
        line = self._annotated[self.dialogue.value]
        occurrence = corrections.occurrences(line.references)[r.id]
        correction = corrections.Correction(
            dialogue_id=line.dialogue_id, split=self._split, name=r.name, occurrence=occurrence, window=window
        )
        corrections.append(self._path, correction)
        corrections.put(self._corrections, correction)
        self._utility.clear()  # scored again, by the window as it is now
        self.note.value = f"written to {self._path}"
        self._refresh()

    # drawing

    def _refresh(self) -> None:
        window = self._window()
        turns = len(self._dialogues[self.dialogue.value].turns) if self.dialogue.value else 1
        with self._quietly():
            for widget in (self.span, self.ready, *self.numbers.values()):
                widget.disabled = window is None
                widget.max, widget.min = turns, 1
            if window:
                self.span.value, self.ready.value = (window.open, window.close), window.ready
                for key, number in self.numbers.items():
                    number.value = getattr(window, key)
        self._draw()

    def _draw(self) -> None:
        if not self.dialogue.value:
            self._view.value = "<p>No dialogue is like that.</p>"
            return
        dialogue, policy = self._dialogues[self.dialogue.value], self.policy.value
        said = [p for p in self._predictions.get(policy, ()) if p.dialogue_id == dialogue.id]
        self._view.value = transcript.render(
            dialogue, self._corrected(dialogue.id).references, self.reference.value, said, policy if said else ""
        )


def _against_log(dialogues: Sequence[Dialogue], references: Sequence[DialogueReferences]) -> tuple[dict, dict]:
    """By dialogue: the share of its logged triggers that a window holds, and the F1 of those pairs' parameters."""
    seen = agreement.triggers(dialogues, references)
    logged = seen[seen.observed_turn.notna()].fillna({"covered": 0.0})
    return _means(logged, "covered"), _means(logged.dropna(subset="param_f1"), "param_f1")


def _means(table, column: str) -> dict[str, float]:
    return table[column].groupby(table.dialogue_id).mean().to_dict()
