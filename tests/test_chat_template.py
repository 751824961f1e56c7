"""Chat templates as models ship them, around our two messages: the kinds of ../shared/cases/templates.py."""

import pytest
from jinja2 import Environment
from proactor_lib.artf.training.chat_template import frame
from proactor_lib.errors import UserError


class Tokenizer:
    """A tokenizer's chat template alone, as transformers renders it."""

    name_or_path = "some-model"

    def __init__(self, chat_template):
        self.chat_template = chat_template

    def apply_chat_template(self, messages, tokenize, add_generation_prompt, **arguments):
        def raise_exception(text):
            raise ValueError(text)

        template = Environment().from_string(self.chat_template)
        return template.render(
            messages=messages, add_generation_prompt=add_generation_prompt, raise_exception=raise_exception, **arguments
        )


GEN = "{% if add_generation_prompt %}"
ROLES = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}" + GEN + "<assistant>{% endif %}"
TRIMMED = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}" + GEN + "<assistant>{% endif %}"
NO_SYSTEM = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system role') }}{% endif %}" \
    "<{{ m.role }}>{{ m.content }}{% endfor %}" + GEN + "<model>{% endif %}"  # fmt: skip
SILENT = "{% for m in messages if m.role == 'user' %}<user>{{ m.content }}{% endfor %}" + GEN + "<assistant>{% endif %}"
PARTS = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}<assistant>"
FOLDED = "[INST] {{ messages[0].content }}\n\n{{ messages[1].content }} [/INST]"
THINKS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>" \
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"  # fmt: skip


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        (ROLES, "<system>Be good.\n<user>", "<assistant>"),
        (TRIMMED, "<system>Be good.<user>", "<assistant>"),
        (NO_SYSTEM, "<user>Be good.\n\n", "<model>"),
        (SILENT, "<user>Be good.\n\n", "<assistant>"),
        (PARTS, "<system>Be good.\n<user>", "<assistant>"),
        (FOLDED, "[INST] Be good.\n\n\n", " [/INST]"),
        (THINKS, "<system>Be good.\n<user>", "<assistant>"),
    ],
    ids=["roles", "trimmed", "no system role", "a system role that is left out", "parts", "folded", "thinks"],
)
def test_the_instructions_come_first_and_the_answers_opening_last(template, before, after):
    assert frame(Tokenizer(template), "Be good.\n", {}) == (before, after)


def test_arguments_go_to_the_template():
    assert frame(Tokenizer(THINKS), "Be good.", {"enable_thinking": False})[1] == "<assistant><think></think>"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "the model some-model has no chat template"),
        ("{{ raise_exception('never') }}", "some-model cannot be used: ValueError never"),
        ("{{ messages | length }}", "cannot be used: it leaves a message out"),
    ],
)
def test_a_template_that_cannot_be_used_is_a_sentence(template, says):
    with pytest.raises(UserError, match=says):
        frame(Tokenizer(template), "Be good.", {})
