"""Prompts as tokens: one trunk a dialogue, every turn's prompt a prefix of it, then the cue that opens an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proactor_lib import agent
from proactor_lib.artf.training.chat_template import frame
from proactor_lib.schema import Case, ReferenceAction


@dataclass(frozen=True)
class DialogueTokens:
    """A dialogue's tokens. The prompt of turn t is `tokens[:ends[t - 1]] + cue`."""

    tokens: list[int]
    ends: list[int]  # trunk tokens up to and with each turn
    generation_prompt: list[int]

    def prompt(self, turn: int) -> list[int]:
        """Token ids that ask for the output at `turn`."""
        return self.tokens[: self.ends[turn - 1]] + self.generation_prompt


def dialogue_tokens(tokenizer, case: Case, template_args: Mapping[str, Any] | None = None) -> DialogueTokens:
    """The dialogue in the model's chat template: the system's message, then one user message of one line per turn.

    Each line is tokenised alone, so that prompts are prefixes as tokens too. Raises as `chat_template.frame`.
    """
    around = frame(tokenizer, agent.system_text(case.catalog), template_args or {})
    head, generation_prompt = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in around)
    tokens, ends = list(head), []
    for i, turn in enumerate(case.dialogue.turns, start=1):
        tokens += tokenizer(agent.turn_line(i, turn), add_special_tokens=False)["input_ids"]
        ends.append(len(tokens))
    return DialogueTokens(tokens, ends, generation_prompt)


def reference_tokens(tokenizer, references: Sequence[ReferenceAction], turn: int) -> list[int]:
    """What the references say at `turn`, as an output's tokens, the end token among them."""
    text = agent.render(agent.reference_output(references, turn))
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
