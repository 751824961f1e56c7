"""An agent as a service: over real HTTP, by the official client, on a scripted model server."""

import asyncio
import json
import os
import signal
import socket
import stat
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import httpx
import openai
import pytest
from proactor_lib.artf.serving.access import write_access
from proactor_lib.artf.serving.process import free_port
from proactor_lib.cli.serve import _told
from proactor_lib.evaluate.agents import Fixed
from proactor_lib.evaluate.predictions import PredictionLog
from proactor_lib.evaluate.run import EvalSplit, predict
from proactor_lib.metrics.alignment import as_set
from proactor_lib.schema import Action, Catalog, Parameter, Turn
from proactor_lib.service.agent_service import Readiness
from proactor_lib.service.guard import Guard, Limits
from proactor_lib.service.source import Source

from support.fake_vllm import Completions, drawn
from support.runs import opened
from support.services import KEY, saying, scripted_agent, served
from support.waiting import wait_until

BOOK = Action(
    name="book", params=(Parameter(name="to", required=True), Parameter(name="seats", type="integer"))
)  # fmt: skip
CATALOG = Catalog(domain="travel", actions=(BOOK, Action(name="pay")))
TOOLS = [{"type": "function", "function": {"name": "book", "parameters": {}}}]
HEADERS = {"authorization": f"Bearer {KEY}"}


def spoken(*texts):
    return [Turn(speaker="user", text=text) for text in texts]


# as in evaluation


def test_the_service_says_what_evaluation_predicts_turn_by_turn(tmp_path):
    run = opened(tmp_path / "run", evaluation_turns=0)
    cases = EvalSplit(run).cases[:1]
    with Completions(drawn_at_all) as model:
        log = PredictionLog(tmp_path / "predictions", "p", {})
        asyncio.run(predict(scripted_agent(model), cases, log, lambda: None))
        with served(scripted_agent(model), run.catalog) as url, httpx.Client(headers=HEADERS) as client:
            for case in cases:
                executed = []
                for number, turn in enumerate(case.dialogue.turns, start=1):
                    body = {"conversation": case.dialogue.id, "turns": [turn.model_dump()], "from": number}
                    answer = client.post(f"{url}/v1/proactor/turns", json=body).json()["answers"][0]
                    predicted = as_set(log.of(case.dialogue.id)[number].actions)
                    assert (
                        groups(answer) == {(a.name, tuple(a.params.items()), a.status) for a in predicted}
                        and answer["unreadable"] == log.of(case.dialogue.id)[number].unreadable
                    )
                    executed += [json.dumps([a["name"], a["params"]]) for a in answer["ready"]]
                assert executed and len(set(executed)) == len(executed)


def drawn_at_all(body):
    """Another text at each prompt."""
    return drawn(body | {"n": 9})[2 + len(body["prompt"]) % 7 :][:1] * body["n"]


def groups(answer):
    status = {"ready": "ready", "held": "ready", "candidates": "candidate"}
    return {(a["name"], tuple(a["params"].items()), status[g]) for g in status for a in answer[g]}


# OpenAI's client


def client(url, key=KEY):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def chat(url, *texts, **more):
    messages = [{"role": "user", "content": text} for text in texts]
    return client(url).chat.completions.create(model="proactor", messages=messages, **more)


def test_ready_actions_are_tool_calls_and_candidates_stand_beside_them():
    two = "ready: book | to=Rome | seats=2"
    says = saying("candidate: book | to=Rome", f"{two}\ncandidate: pay", two)
    with Completions(says) as model, served(scripted_agent(model), CATALOG) as url:
        first = chat(url, "I want to go to Rome", tools=TOOLS)
        assert first.choices[0].finish_reason == "stop" and first.choices[0].message.tool_calls is None
        assert first.choices[0].message.candidates == [{"name": "book", "params": {"to": "Rome"}, "confidence": None}]
        second = chat(url, "I want to go to Rome", "the two of us")
        (call,) = second.choices[0].message.tool_calls
        assert call.function.name == "book" and json.loads(call.function.arguments) == {"to": "Rome", "seats": 2}
        assert second.choices[0].finish_reason == "tool_calls" and second.proactor["candidates"][0]["name"] == "pay"
        assert chat(url, "I want to go to Rome", "the two of us").choices == second.choices  # asked again
        assert len(model.completions) == 2
        third = chat(url, "I want to go to Rome", "the two of us", "please")
        assert third.choices[0].message.tool_calls is None and third.proactor["held"][0]["name"] == "book"
        assert third.proactor["remembered"] == 2 and second.usage.total_tokens > 0


def test_a_stream_says_the_same_in_pieces():
    with (
        Completions(saying("ready: book | to=Rome\nready: pay")) as model,
        served(scripted_agent(model), CATALOG) as url,
    ):
        whole = chat(url, "go").choices[0].message.tool_calls
        chunks = list(chat(url, "go", stream=True, stream_options={"include_usage": True}))
        deltas = [c.choices[0].delta for c in chunks if c.choices]
        pieces = [piece for d in deltas for piece in d.tool_calls or ()]
        assert [(p.index, p.id, p.function.arguments) for p in pieces] == [
            (i, c.id, c.function.arguments) for i, c in enumerate(whole)
        ]
        assert chunks[-2].choices[0].finish_reason == "tool_calls" and chunks[-1].usage.total_tokens > 0


def test_what_the_messages_say_was_called_is_not_called_again():
    call = {"id": "1", "type": "function", "function": {"name": "book", "arguments": '{"to": "ROME", "seats": 2}'}}
    with Completions(saying("ready: book | to=Rome | seats=2")) as model, served(scripted_agent(model), CATALOG) as url:
        messages = [
            {"role": "system", "content": "no turn"},
            {"role": "user", "content": "two to Rome", "name": "Ann"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "done"},
            {"role": "user", "content": "thanks"},
        ]
        said = client(url).chat.completions.create(
            model="proactor", messages=messages, metadata={"conversation": "ann"}
        )
        assert said.choices[0].message.tool_calls is None and said.proactor["turn"] == 2
        assert "nothing is remembered of this conversation" in said.proactor["notice"]
        prompt = bytes(model.completions[-1]["prompt"]).decode()
        assert prompt.startswith("[1] Ann: two to Rome\n[2] user: thanks\n")


GUEST = Action(
    name="seat",
    params=(
        Parameter(name="guest.name", required=True),
        Parameter(name="n", type="integer"),
        Parameter(name="first day"),
    ),
)


def test_objects_go_out_as_the_clients_schema_has_them_and_are_known_again():
    says = saying("ready: seat | guest.name=Ann | n=2 | first day=Friday")
    with Completions(says) as model, served(scripted_agent(model), Catalog(domain="inn", actions=(GUEST,))) as url:
        (call,) = chat(url, "Ann and me on Friday").choices[0].message.tool_calls
        given = {"guest": {"name": "Ann"}, "n": 2, "first day": "Friday"}
        assert json.loads(call.function.arguments) == given
        blank = json.dumps(given | {"note": " ", "guest": {"name": "ann", "title": None}})
        for arguments in (call.function.arguments, blank):
            messages = [
                {"role": "user", "content": "Ann and me on Friday, thanks"},
                {"role": "assistant", "tool_calls": [{"function": {"name": " seat", "arguments": arguments}}]},
            ]
            body = {"model": "proactor", "messages": messages, "stream": None}
            headers = HEADERS | {"x-session-id": arguments}
            answer = post(url, body, "/v1/chat/completions", headers).json()
            assert answer["choices"][0]["finish_reason"] == "stop" and len(answer["proactor"]["held"]) == 1


# turns


def post(url, body, path="/v1/proactor/turns", headers=HEADERS):
    return httpx.post(f"{url}{path}", json=body, headers=headers)


def test_turns_are_added_again_or_refused(tmp_path):
    with Completions(saying("none", "ready: pay")) as model, served(scripted_agent(model), CATALOG) as url:
        two = {"conversation": "c", "turns": [t.model_dump() for t in spoken("a", "b")]}
        first = post(url, two | {"from": 1}).json()
        assert [len(a["ready"]) for a in first["answers"]] == [0, 1] and first["turns"] == 2
        assert post(url, two | {"from": 1}).json()["answers"] == first["answers"]
        events = post(url, two | {"stream": True}).text.strip().split("\n\n")
        assert [json.loads(e.removeprefix("data: "))["turn"] for e in events[:-1]] == [3, 4]
        assert events[-1] == "data: [DONE]"
        other = post(url, {"conversation": "c", "turns": [{"speaker": "user", "text": "x"}], "from": 2})
        assert other.status_code == 409 and "has other turns from turn 2 on" in other.json()["error"]["message"]
    with Completions(saying("none")) as model, served(scripted_agent(model), CATALOG) as url:  # started again
        gone = post(url, two | {"from": 5})
        assert gone.status_code == 409 and gone.json()["error"]["code"] == "conversation_forgotten"
        assert "0 turns are remembered" in gone.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_turns_that_were_not_answered_are_taken_back(stream):
    with Completions(saying("none")) as model, served(scripted_agent(model, longest=60), CATALOG) as url:
        more = [t.model_dump() for t in spoken("my card is lost", "the blue one" * 9)]
        post(url, {"conversation": "c", "turns": [{"speaker": "user", "text": "hello"}]})
        adapters, model.state.adapters = model.state.adapters, {}
        assert "does not answer" in post(url, {"conversation": "c", "turns": more[:1], "stream": stream}).text
        model.state.adapters = adapters
        assert "too long for the model at turn 3" in post(url, {"conversation": "c", "turns": more}).text
        last = post(url, {"conversation": "c", "turns": [{"speaker": "user", "text": "so"}]}).json()
        assert last["remembered"] == 2 and last["answers"][0]["turn"] == 3
        assert bytes(model.completions[-1]["prompt"]).decode().count("my card is lost") == 1


# what is refused

FLY = {"function": {"name": "fly"}}
CHAT = {"model": "proactor", "messages": [{"role": "user", "content": "hm"}]}
NAMELESS = {"role": "assistant", "function_call": {"name": ""}}
TURNS = {"conversation": "c", "turns": [{"speaker": "user", "text": "hm"}]}


@pytest.fixture(scope="module")
def refusing():
    """A service whose model is not there, and takes prompts of 40 bytes at most."""
    with Completions() as model:
        agent = scripted_agent(model, longest=40)
        model.state.adapters.clear()
        with served(agent, CATALOG, limits=Limits(KEY, body=2000)) as url:
            yield url


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("chat/completions", CHAT | {"model": "gpt"}, 404, "no model 'gpt' here; accepted: proactor"),
        ("chat/completions", CHAT | {"tools": [FLY]}, 400, "unknown tool 'fly'; the catalog has: book, pay"),
        ("chat/completions", CHAT | {"tools": [{}]}, 400, "tools: a tool without a name: {}"),
        ("chat/completions", CHAT | {"tool_choice": "required"}, 400, "tool_choice: Input should be 'auto'"),
        ("chat/completions", CHAT | {"messages": [{"role": "robot"}]}, 400, "messages[0]: role 'robot'; accepted"),
        ("chat/completions", CHAT | {"messages": [{"role": "system"}]}, 400, "nobody has said anything"),
        ("chat/completions", CHAT | {"messages": [NAMELESS]}, 400, "messages[0]: a call must have a name, got ''"),
        ("chat/completions", CHAT | {"messages": []}, 400, "messages: List should have at least 1 item"),
        ("chat/completions", CHAT | {"messages": CHAT["messages"] * 9}, 400, "too long for the model at turn 9"),
        ("chat/completions", CHAT, 503, "the vLLM server does not answer"),
        ("chat/completions", CHAT | {"x": "x" * 2000}, 413, "the body is longer than 2000 bytes"),
        ("proactor/turns", TURNS | {"who": 1}, 400, "who: Extra inputs are not permitted"),
        ("proactor/turns", TURNS | {"from": 0}, 400, "from: Input should be greater than or equal to 1, got '0'"),
        ("embeddings", {}, 404, "POST /v1/embeddings is not served; accepted: /v1/chat/completions"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_openais_form(refusing, path, body, status, sentence):
    answer = post(refusing, body, f"/v1/{path}")
    error = answer.json()["error"]
    assert answer.status_code == status and sentence in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_the_client_raises_what_it_knows(refusing):
    with pytest.raises(openai.AuthenticationError, match="a wrong key, or none"):
        client(refusing, "wrong").models.list()
    with pytest.raises(openai.BadRequestError) as told:
        chat(refusing, *["too long"] * 9)
    assert told.value.code == "context_length_exceeded"
    assert [m.id for m in client(refusing).models.list()] == ["proactor"]
    assert httpx.get(f"{refusing}/health").json() == {"status": "ok"}
    assert httpx.get(f"{refusing}/v1/proactor/catalog").status_code == 401


def test_a_body_of_50_mb_is_refused_and_not_kept(refusing):
    answer = httpx.post(f"{refusing}/v1/chat/completions", content=b"x" * 50_000_000, headers=HEADERS)
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "body_too_long"


def test_a_minute_has_so_many_requests():
    now, statuses = 0.0, []

    async def inner(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(guard):
        async def receive():
            return {"type": "http.request", "body": b""}

        async def send(message):
            if "status" in message:
                statuses.append((message["status"], dict(message["headers"]).get(b"retry-after")))

        await guard({"type": "http", "path": "/v1/models", "headers": []}, receive, send)

    guard = Guard(inner, Limits(None, rate=2), clock=lambda: now)
    for _ in range(3):
        asyncio.run(ask(guard))
    now = 29.0
    asyncio.run(ask(guard))
    now = 30.0
    asyncio.run(ask(guard))
    assert statuses == [(200, None), (200, None), (429, b"30"), (429, b"1"), (200, None)]


# what is served


def test_the_command_serves_until_it_is_ended(tmp_path, cli):
    run, out, seen = opened(tmp_path / "run"), tmp_path / "serve", []

    def visit():
        try:
            wait_until(lambda: (out / "access.json").exists())
            key = json.loads((out / "access.json").read_text())["key"]
            wait_until(lambda: answered(f"http://127.0.0.1:{port}", key, seen))
            seen.append(stat.S_IMODE((out / "access.json").stat().st_mode))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    port = free_port()
    visitor = threading.Thread(target=visit)
    visitor.start()
    done = cli("serve", run.out, "--policy", "first_action", "--out", out, "--port", port)
    visitor.join()
    assert done.returncode == 0 and f"http://127.0.0.1:{port}/v1 serves first_action as 'proactor'" in done.stdout
    answer, mode = seen
    assert answer["ready"][0]["name"] == run.catalog.actions[0].name and mode == 0o600
    assert not (out / "access.json").exists() and "the service is down" in done.stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_the_key_is_told_to_a_terminal_and_else_the_file_that_holds_it(terminal, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    found = Source(None, "silent", CATALOG, Readiness())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        told = _told(found, listening, Limits(KEY), "proactor", Path("serve/access.json"))
    assert (f"/#key={KEY}" in told, KEY in told) == (terminal, terminal) and "its key is in serve/access.json" in told


def test_a_key_of_ones_own_reaches_the_page_as_it_is_and_one_that_no_header_carries_is_refused(
    monkeypatch, tmp_path, cli
):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    found = Source(None, "silent", CATALOG, Readiness())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        told = _told(found, listening, Limits("a%41 #b"), "proactor", Path("access.json"))
    assert unquote(told.rpartition("#key=")[2]) == "a%41 #b"
    done = cli("serve", tmp_path, "--key", "sk-\u0441")
    assert done.returncode == 2 and "--key has characters that no HTTP header can carry" in done.stderr


def test_a_second_service_does_not_take_the_first_ones_folder(tmp_path, cli):
    run, out = opened(tmp_path / "run"), tmp_path / "serve"
    write_access(out, "the key")
    done = cli("serve", run.out, "--policy", "first_action", "--out", out, "--port", 0)
    assert done.returncode == 2 and f"{out}: process {os.getpid()} serves from there already" in done.stderr
    assert json.loads((out / "access.json").read_text())["key"] == "the key"


def answered(url, key, seen):
    with suppress(httpx.TransportError):
        seen += post(url, TURNS, headers={"authorization": f"Bearer {key}"}).json()["answers"]
    return seen


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--policy", "trained"], "trained is left out: this run has no"),
        (["--policy", "silent", "--host", "0.0.0.0", "--key", ""], "--host 0.0.0.0 without a key"),
        (["--policy", "silent", "--set", "max_servers=two"], "max_servers: Input should be a valid integer"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, cli, more, sentence):
    run = opened(tmp_path / "run")
    done = cli("serve", run.out, "--out", tmp_path / "serve", "--port", 0, *more)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_fixed_policies_are_served_too():
    with served(Fixed("first_action", 0), CATALOG) as url:
        assert chat(url, "hm").choices[0].message.tool_calls[0].function.name == "book"
