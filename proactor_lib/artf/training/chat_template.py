"""A model's chat template around our two messages, whatever forms of a message it knows."""

from collections.abc import Iterator, Mapping
from typing import Any

from proactor_lib.errors import UserError

_SLOT = "\x00"  # marks the place of the user's text


def frame(tokenizer, system: str, arguments: Mapping[str, Any]) -> tuple[str, str]:
    """What stands before and after the user's text, with the system's in front and the answer's opening at the end.

    A template without a system role gets the instructions as the beginning of the user's message. `arguments` go to the
    template. UserError where the tokenizer has no template, or one that renders these messages in no form.
    """
    if not tokenizer.chat_template:
        raise UserError(
            f"the model {tokenizer.name_or_path} has no chat template (a base model?): name one that is trained to chat"
        )
    problem = "it leaves a message out"
    for messages in _forms(system):
        try:
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **dict(arguments)
            )
        except Exception as error:  # whatever a template's own code raises
            problem = f"{type(error).__name__} {error}"
            continue
        before, slot, after = text.partition(_SLOT)
        if slot and _SLOT not in after and system.strip() in before:
            return before, after
    raise UserError(f"the chat template of {tokenizer.name_or_path} cannot be used: {' '.join(problem.split())[:300]}")


def _forms(system: str) -> Iterator[list[dict]]:
    """The messages with a system role, else without; their content as text, else as a list of parts."""
    folded = [("user", f"{system.strip()}\n\n{_SLOT}")]
    for messages in ([("system", system), ("user", _SLOT)], folded):
        yield [{"role": role, "content": text} for role, text in messages]
        yield [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in messages]
