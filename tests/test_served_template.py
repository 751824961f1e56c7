"""Who asks a model without a system role: its own server folds the instructions in, another's is asked again so."""

import asyncio
import json
from pathlib import Path

import pytest
from jinja2 import Environment
from proactor_lib.artf.serving.served_template import template_options
from proactor_lib.endpoint import Answer, Endpoint, Failed

from support.fake_endpoint import FakeEndpoint, Reply

REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
GEMMA = f"""{{{{ bos_token }}}}{REFUSES}
{{%- for m in messages %}}<start>{{{{ m['role'] }}}}
{{{{ m['content'] | trim }}}}<end>
{{%- endfor %}}{{% if add_generation_prompt %}}{{{{ '<start>model' }}}}{{% endif %}}"""
SILENT = "{% for m in messages if m.role == 'user' %}<user>{{ m.content }}{% endfor %}"
PARTS = """{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}
{%- for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"""
ROLES = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
ASKED = [{"role": "system", "content": "Be good."}, {"role": "user", "content": "Hi."}]
FOLDED = [{"role": "user", "content": "Be good.\n\nHi."}]


def model(folder, template):
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return str(folder)


@pytest.mark.parametrize(
    ("template", "content", "text"),
    [
        (GEMMA, str, "<start>user\nBe good.\n\nHi.<end><start>model"),
        (SILENT, str, "<user>Be good.\n\nHi."),
        (PARTS, lambda t: [{"type": "text", "text": t}], "Be good.Hi."),
    ],
    ids=["refuses", "drops", "parts"],
)
def test_our_server_gets_a_template_that_takes_the_instructions(tmp_path, template, content, text):
    option, path = template_options(model(tmp_path / "m", template), tmp_path / "out")
    served = Environment().from_string(Path(path).read_text())
    messages = [{"role": m["role"], "content": content(m["content"])} for m in ASKED]
    assert option == "--chat-template"
    assert served.render(messages=messages, add_generation_prompt=True, bos_token="") == text


def test_a_template_with_a_system_role_is_left_alone(tmp_path):
    several = [{"name": "tool_use", "template": GEMMA}, {"name": "default", "template": ROLES}]
    broken = "{{ raise_exception('never') }}"
    for n, template in enumerate([ROLES, several, broken, None]):
        assert template_options(model(tmp_path / f"m{n}", template), tmp_path / "out") == ()
    assert template_options("some/hub-id", tmp_path / "out") == () and not (tmp_path / "out").exists()


def asked(server, *conversations, **options):
    async def ask():
        async with Endpoint(server.url, "m", backoff=0.01, **options) as endpoint:
            return [await endpoint.complete(messages) for messages in conversations], endpoint.counts

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "System role not supported"),
        (400, "Conversation roles must alternate user/assistant/user/assistant/..."),
        (500, "Only user and assistant roles are supported!"),
    ],
)
def test_an_endpoint_without_a_system_role_is_asked_again_without_it(status, words):
    def answer(request, n):
        if request["messages"][0]["role"] == "system":
            return Reply(status=status, body=json.dumps({"error": {"message": words}}))
        return Reply("yes")

    talk = [*ASKED, {"role": "assistant", "content": "no"}, {"role": "user", "content": "Again."}]
    with FakeEndpoint(answer) as server:
        (first, second), counts = asked(server, ASKED, talk)
    assert isinstance(first, Answer) and first.value == second.value == "yes"
    assert [r["messages"] for r in server.requests] == [ASKED, FOLDED, FOLDED + talk[2:]]
    assert counts.calls == 2 and not counts.failures


def test_what_else_is_rejected_stays_rejected():
    with FakeEndpoint(lambda r, n: Reply(status=400, body='{"error": {"message": "too long"}}')) as server:
        (failed,), _ = asked(server, ASKED)
    assert isinstance(failed, Failed) and len(server.requests) == 1
