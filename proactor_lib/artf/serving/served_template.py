"""A model's chat template for its server: one without a system role is served with the instructions folded in.

Whoever asks (a prompted policy, the oracle, a judge) sends a system message. A template that refuses or drops it is put
behind a few lines that make it the beginning of the first user message, as `training.chat_template` does [ours].
"""

import json
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from proactor_lib.files import atomic

FOLD = """{%- if messages and messages[0]['role'] == 'system' -%}
{%- set gap = '\\n\\n' if messages[0]['content'] is string else [] -%}
{%- set folded = {'role': 'user', 'content': messages[0]['content'] + gap + messages[1]['content']} -%}
{%- set messages = [folded] + messages[2:] -%}
{%- endif -%}
"""
_SYSTEM, _USER = "the instructions", "the conversation"


def template_options(weights: str, folder: Path) -> tuple[str, ...]:
    """vLLM's arguments for the model in the folder `weights`: none where its template takes a system message.

    A template of ours is written to `folder`. A hub id is left as it is, and so is a template that renders neither way.
    """
    template = _of_model(Path(weights))
    if template is None or _renders(template) or not _renders(FOLD + template):
        return ()
    path = folder / "chat_template.jinja"
    with atomic(path) as f:
        f.write(FOLD + template)
    return ("--chat-template", str(path))


def _of_model(folder: Path) -> str | None:
    """The model's own template, where it has one; of several the default."""
    if (path := folder / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8")
    if not (path := folder / "tokenizer_config.json").is_file():
        return None
    found: Any = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
    if isinstance(found, list):
        found = next((t["template"] for t in found if t.get("name") == "default"), None)
    return found


def _renders(template: str) -> bool:
    """Whether it shows both a system message and the user's after it, as texts or as parts."""
    return any(_shows(template, content) for content in (str, lambda text: [{"type": "text", "text": text}]))


def _shows(template: str, content) -> bool:
    messages = [{"role": role, "content": content(text)} for role, text in (("system", _SYSTEM), ("user", _USER))]
    try:
        text = (
            _environment()
            .from_string(template)
            .render(messages=messages, add_generation_prompt=True, bos_token="", eos_token="")
        )
    except (TemplateError, TypeError, ValueError, AttributeError, KeyError):
        return False
    return 0 <= text.find(_SYSTEM) < text.find(_USER)


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers renders templates."""

    def raise_exception(text: str):
        raise TemplateError(text)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": lambda form: ""}
    return environment
