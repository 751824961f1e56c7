"""The endpoint client against a real HTTP server that misbehaves on purpose."""

import asyncio
import inspect
import json
import subprocess
import sys
import time

import pytest
import uvicorn
from proactor_lib.artf.serving.completions import CompletionClient
from proactor_lib.connection import IDLE, openai_client
from proactor_lib.endpoint import Answer, Endpoint, Failed, cache_key, estimated_tokens
from proactor_lib.errors import UserError

from support.fake_endpoint import FakeEndpoint, Reply

SCHEMA = {
    "type": "object",
    "properties": {"turn": {"type": "integer", "minimum": 1}},
    "required": ["turn"],
    "additionalProperties": False,
}
ASK = [{"role": "user", "content": "which turn"}]


def ask(answer, use, **options):
    """Run `use(endpoint)` against a server that gives `answer`; returns (its result, the endpoint, the server)."""
    settings = {"timeout": 5.0, "backoff": 0.01, **options}

    async def go():
        async with Endpoint(server.url, "m", **settings) as endpoint:
            return await use(endpoint), endpoint

    with FakeEndpoint(answer) as server:
        return *asyncio.run(go()), server


def at_most(limit):
    def check(value):
        if value["turn"] > limit:
            raise ValueError(f"turn {value['turn']} is outside the dialogue, which has {limit} turns")
        return value["turn"]

    return check


def test_a_plain_answer_with_its_tokens_and_its_price():
    answer, endpoint, _ = ask(lambda r, n: Reply("turn three please"), lambda e: e.complete(ASK), prices=(1e6, 2e6))
    assert (answer.value, answer.prompt_tokens, answer.output_tokens, answer.cached) == (
        "turn three please",
        2,
        3,
        False,
    )
    assert (endpoint.counts.calls, endpoint.cost) == (1, 2 * 1 + 3 * 2)


@pytest.mark.parametrize(
    "fault",
    [Reply(status=429), Reply(status=500), Reply(status=503), Reply("x", cut_body=True), Reply(body="[1, 2"),
     Reply(body="{}"), Reply("late", delay=60)],
    ids=["429", "500", "503", "cut connection", "cut body", "no choices", "hang"],
)  # fmt: skip
def test_a_passing_fault_is_retried(fault):
    answer, endpoint, server = ask(
        lambda r, n: fault if n == 1 else Reply("good"), lambda e: e.complete(ASK), timeout=3
    )
    assert answer.value == "good"
    assert (endpoint.counts.retries, endpoint.counts.calls, len(server.requests)) == (1, 1, 2)


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [(Reply(status=429), "rate_limit", "429"), (Reply(status=500), "server", "500"),
     (Reply(body="no"), "garbled", "chat"), (Reply("late", delay=60), "timeout", "within 0.2 s")],
)  # fmt: skip
def test_a_lasting_fault_is_a_value_with_its_reason(fault, kind, says):
    timeout = 0.2 if fault.delay else 60
    answer, endpoint, server = ask(lambda r, n: fault, lambda e: e.complete(ASK), retries=2, timeout=timeout)
    assert isinstance(answer, Failed) and answer.kind == kind and says in answer.reason
    assert len(server.requests) == 3 and endpoint.counts.failures == {kind: 1} and endpoint.counts.calls == 0


@pytest.mark.parametrize(("status", "kind"), [(401, "refused"), (404, "refused"), (400, "rejected"), (422, "rejected")])
def test_what_would_be_refused_again_is_not_asked_again(status, kind):
    answer, _, server = ask(lambda r, n: Reply(status=status), lambda e: e.complete(ASK))
    assert answer.kind == kind and str(status) in answer.reason and len(server.requests) == 1


def test_a_closed_port_is_unreachable():
    async def go(url):
        async with Endpoint(url, "m", retries=1, backoff=0.01) as endpoint:
            return await endpoint.complete(ASK)

    with FakeEndpoint(lambda r, n: Reply("x")) as server:
        pass
    assert asyncio.run(go(server.url)).kind == "unreachable"


def test_retry_after_is_waited_for():
    start = time.perf_counter()
    slow = Reply(status=429, headers={"retry-after": "0.6"})
    ask(lambda r, n: slow if n == 1 else Reply("good"), lambda e: e.complete(ASK))
    assert time.perf_counter() - start >= 0.6


def test_concurrency_is_bounded():
    async def many(endpoint):
        return await asyncio.gather(*(endpoint.complete([{"role": "user", "content": str(i)}]) for i in range(12)))

    answers, _, server = ask(lambda r, n: Reply("x", delay=0.05), many, concurrency=3)
    assert all(isinstance(a, Answer) for a in answers) and server.most_at_once == 3


def test_an_unusable_answer_is_shown_its_error_and_asked_again():
    def answer(request, n):
        return Reply('{"turn": 2}' if "outside" in request["messages"][-1]["content"] else '{"turn": 9}')

    result, endpoint, server = ask(answer, lambda e: e.complete_json(ASK, SCHEMA, at_most(5)))
    assert (result.value, result.attempts, endpoint.counts.invalid) == (2, 2, 1)
    roles = [m["role"] for m in server.requests[1]["messages"]]
    assert roles == ["user", "assistant", "user"] and server.requests[1]["messages"][1]["content"] == '{"turn": 9}'
    assert server.requests[0]["response_format"]["json_schema"]["schema"] == SCHEMA
    assert all("seed" not in r for r in server.requests)


@pytest.mark.parametrize(
    ("text", "says"),
    [('{"turn": 9}', "outside the dialogue"), ('{"turn": 0}', "answer.turn: 0 is less than the minimum"),
     ('{"turn"', "not JSON"), ("{}", "'turn' is a required property"), ("", "not JSON")],
)  # fmt: skip
def test_an_answer_that_stays_unusable_fails_with_the_last_fault(text, says):
    result, endpoint, server = ask(lambda r, n: Reply(text), lambda e: e.complete_json(ASK, SCHEMA, at_most(5)))
    assert result.kind == "invalid" and says in result.reason and "3 attempts" in result.reason
    assert len(server.requests) == 3 and endpoint.counts.invalid == 3 and endpoint.counts.failures == {"invalid": 1}


@pytest.mark.parametrize(("form", "sent"), [("object", {"type": "json_object"}), ("text", None)])
@pytest.mark.parametrize(
    "text",
    [
        '{"turn": 2}',
        'No opening mark.</think>{"turn": 2}',
        '```json\n{"turn": 2}\n```\n',
        '<think>\n3? {no}\n</think>\n\n```\n{"turn": 2}```',
    ],
)
def test_an_endpoint_that_knows_no_schemas_is_asked_for_what_it_can(form, sent, text):
    result, _, server = ask(
        lambda r, n: Reply(text), lambda e: e.complete_json(ASK, SCHEMA, at_most(5), top_k=1), form=form
    )
    assert result.value == 2 and server.requests[0].get("response_format") == sent
    assert server.requests[0]["top_k"] == 1  # no field of OpenAI's: this endpoint's own


def test_what_no_schema_holds_is_checked_all_the_same():
    result, endpoint, _ = ask(
        lambda r, n: Reply('```\n{"turns": 2}\n```'), lambda e: e.complete_json(ASK, SCHEMA, at_most(5)), form="text"
    )
    assert result.kind == "invalid" and "'turn' is a required property" in result.reason


def test_an_answer_cut_at_the_token_limit_says_so():
    result, *_ = ask(lambda r, n: Reply('{"tu', finish="length"), lambda e: e.complete_json(ASK, SCHEMA, at_most(5)))
    assert "cut off at the token limit" in result.reason


def test_the_cache_answers_what_was_asked_before_bad_answers_too(tmp_path):
    async def twice(endpoint):
        return [await endpoint.complete_json(ASK, SCHEMA, at_most(5)) for _ in range(2)]

    def answer(request, n):
        return Reply('{"turn": 9}' if len(request["messages"]) == 1 else '{"turn": 1}')

    (first, second), endpoint, server = ask(answer, twice, cache=tmp_path)
    assert first.value == second.value == 1 and (first.cached, second.cached) == (False, True)
    assert len(server.requests) == endpoint.counts.calls == 2 and endpoint.counts.cached == 2
    again, endpoint, server = ask(answer, lambda e: e.complete_json(ASK, SCHEMA, at_most(5)), cache=tmp_path)
    assert again.value == 1 and not server.requests and endpoint.counts.prompt_tokens == 0


def test_the_same_question_at_once_is_asked_once(tmp_path):
    async def many(endpoint):
        return await asyncio.gather(*(endpoint.complete(ASK) for _ in range(5)))

    answers, _, server = ask(lambda r, n: Reply(str(n), delay=0.05), many, cache=tmp_path)
    assert [a.value for a in answers] == ["1"] * 5 and len(server.requests) == 1


def test_faults_are_not_cached_and_a_torn_cache_file_is_asked_again(tmp_path):
    failed, *_ = ask(lambda r, n: Reply(status=500), lambda e: e.complete(ASK), cache=tmp_path, retries=0)
    assert failed.kind == "server" and not list(tmp_path.rglob("*.json"))
    ask(lambda r, n: Reply("good"), lambda e: e.complete(ASK), cache=tmp_path)
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text(kept.read_text()[:10])
    answer, _, server = ask(lambda r, n: Reply("good"), lambda e: e.complete(ASK), cache=tmp_path)
    assert answer.value == "good" and len(server.requests) == 1


def test_the_key_of_the_cache_changes_with_everything_that_changes_the_answer():
    base = {"model": "m", "messages": ASK, "temperature": 0.0}
    others = [{**base, "model": "n"}, {**base, "temperature": 1.0}, {**base, "messages": []}, {**base, "max_tokens": 5}]
    assert len({cache_key(base), cache_key(base, repeat=1), *map(cache_key, others)}) == 6
    assert cache_key(base) == cache_key(dict(reversed(base.items())))


def test_a_seed_is_refused():
    with pytest.raises(ValueError, match="seed"):
        ask(lambda r, n: Reply("x"), lambda e: e.complete(ASK, seed=1))


def test_a_public_address_needs_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        Endpoint("https://example.org/v1", "m")


def test_estimated_tokens():
    assert estimated_tokens([{"role": "user", "content": "x" * 35}, {"role": "user", "content": ""}]) == (4 + 10) + 4


def test_import_is_light():
    code = "import proactor_lib.endpoint, sys; print({'torch', 'vllm', 'ray', 'trl'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_refusal_is_paid_counted_and_not_asked_again():
    refusing = Reply(message={"content": None, "refusal": "I cannot help with that."})
    result, endpoint, server = ask(lambda r, n: refusing, lambda e: e.complete_json(ASK, SCHEMA, at_most(5)))
    assert (result.kind, result.reason) == ("rejected", "the model refuses: I cannot help with that.")
    assert len(server.requests) == endpoint.counts.calls == 1 and endpoint.counts.prompt_tokens == 2


def test_what_was_paid_is_counted_whatever_comes_back_and_not_bought_again():
    body = json.dumps({"choices": [{"message": {"content": 7}}], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})
    result, endpoint, server = ask(lambda r, n: Reply(body=body), lambda e: e.complete(ASK), prices=(1e6, 1e6))
    assert result.kind == "garbled" and len(server.requests) == 1
    assert (endpoint.counts.calls, endpoint.cost) == (1, 7)


def test_the_servers_own_words_are_the_reason():
    body = json.dumps({"error": "'response_format.type' must be 'json_schema' or 'text'"})
    result, *_ = ask(lambda r, n: Reply(status=400, body=body), lambda e: e.complete(ASK))
    assert result.reason == "HTTP 400: 'response_format.type' must be 'json_schema' or 'text'"


def test_spent_credit_is_asked_for_once():
    body = json.dumps({"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}})
    result, _, server = ask(lambda r, n: Reply(status=429, body=body), lambda e: e.complete(ASK))
    assert result.kind == "quota" and len(server.requests) == 1


@pytest.mark.parametrize(
    "message",
    [
        {"content": [{"type": "text", "text": '{"turn": '}, {"type": "text", "text": "2}"}]},
        {"content": None, "tool_calls": [{"function": {"name": "answer", "arguments": '{"turn": 2}'}}]},
    ],
    ids=["parts", "tool call"],
)
def test_an_answer_in_another_form_is_read_at_once(message):
    result, _, server = ask(lambda r, n: Reply(message=message), lambda e: e.complete_json(ASK, SCHEMA, at_most(5)))
    assert result.value == 2 and len(server.requests) == 1


def test_a_key_that_is_there_twice_is_a_fault():
    twice = Reply('{"turn": 1, "turn": 2}')
    result, *_ = ask(lambda r, n: twice, lambda e: e.complete_json(ASK, SCHEMA, at_most(5)))
    assert result.kind == "invalid" and "'turn' is there twice" in result.reason


def test_azures_query_and_headers_go_with_each_request(monkeypatch):
    monkeypatch.setenv("AZURE_KEY", "secret")
    with FakeEndpoint(lambda r, n: Reply("x")) as server:

        async def go():
            url = server.url.replace("/v1", "/openai/deployments/gpt?api-version=2024-10-21")
            async with Endpoint(url, "m", headers={"api-key": "$AZURE_KEY", "x-team": "a"}) as endpoint:
                return await endpoint.complete(ASK)

        assert asyncio.run(go()).value == "x"
        ((path, headers),) = server.seen
    assert path == "/openai/deployments/gpt/chat/completions?api-version=2024-10-21"
    assert (headers["api-key"], headers["x-team"], headers.get("authorization")) == ("secret", "a", None)


def test_a_key_of_each_endpoint_comes_from_its_own_variable(monkeypatch):
    monkeypatch.setenv("MINE", "k1")
    monkeypatch.delenv("OTHER", raising=False)
    answer, _, server = ask(lambda r, n: Reply("x"), lambda e: e.complete(ASK), key_variable="MINE")
    assert answer.value == "x" and server.seen[0][1]["authorization"] == "Bearer k1"
    with pytest.raises(UserError, match="set the environment variable OTHER"):
        Endpoint("https://example.org/v1", "m", key_variable="OTHER")
    with pytest.raises(UserError, match="'api-key' wants the environment variable OTHER"):
        Endpoint("https://example.org/v1", "m", headers={"api-key": "$OTHER"})


def test_a_key_from_a_file_with_a_line_end_is_sent_and_one_that_cannot_be_is_refused_unseen(monkeypatch):
    monkeypatch.setenv("MINE", "sk-1\r\n")
    answer, _, server = ask(lambda r, n: Reply("x"), lambda e: e.complete(ASK), key_variable="MINE")
    assert answer.value == "x" and server.seen[0][1]["authorization"] == "Bearer sk-1"
    for broken in ("sk-1\nsk-2", "sk-\u0441"):
        monkeypatch.setenv("MINE", broken)
        for given in ({"key_variable": "MINE"}, {"headers": {"api-key": "$MINE"}}, {"headers": {"api-key": broken}}):
            with pytest.raises(UserError, match="has characters that no HTTP header can carry") as error:
                Endpoint("https://example.org/v1", "m", **given)
            assert "sk-" not in str(error.value)


def test_messages_do_not_show_the_keys_of_an_address(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    url = "https://me:secret@example.org:8000/v1?code=secret"
    assert Endpoint(url, "m", key="k").url == "https://example.org:8000/v1"
    with pytest.raises(UserError, match="https://example.org:8000/v1 needs an API key"):
        Endpoint(url, "m")
    with pytest.raises(UserError, match="a host or a port that cannot be read"):
        Endpoint("http://api:secret/v1", "m", key="k")
    for none in ("nonsense", "api.example.org/v1", "localhost:8000/v1"):
        with pytest.raises(UserError, match="is not an endpoint's address, such as https://"):
            Endpoint(none, "m")


@pytest.mark.parametrize("text", ['{"say": "a \\ud83d"}', '{"say": "a \ud83d"}'], ids=["in its JSON", "in its text"])
def test_half_a_character_in_an_answer_is_mended_for_no_file_holds_it(tmp_path, text):
    schema = {"type": "object", "properties": {"say": {"type": "string"}}, "required": ["say"]}
    answer, *_ = ask(lambda r, n: Reply(text), lambda e: e.complete_json(ASK, schema, dict), cache=tmp_path)
    assert answer.value == {"say": "a \ufffd"}


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
def test_loopback_is_never_asked_through_a_proxy(monkeypatch, proxy):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    answer, *_ = ask(lambda r, n: Reply("x"), lambda e: e.complete(ASK), retries=0)
    assert answer.value == "x"
    Endpoint("https://example.org/v1", "m", key="k")  # a SOCKS proxy is no ImportError


def test_a_cache_that_cannot_be_written_is_refused_before_anything_is_asked(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the cache .*file/answers cannot be written"):
        Endpoint("http://127.0.0.1:9/v1", "m", cache=tmp_path / "file" / "answers")


def test_an_answer_that_the_cache_does_not_take_any_more_is_not_lost(tmp_path):
    async def use(endpoint):
        (tmp_path / "c").rmdir()
        (tmp_path / "c").write_text("")  # a file stands in the cache's place
        return await endpoint.complete(ASK)

    answer, *_ = ask(lambda r, n: Reply("paid"), use, cache=tmp_path / "c")
    assert answer.value == "paid"


def test_idle_connections_are_closed_here_before_a_server_closes_them():
    theirs = inspect.signature(uvicorn.Config).parameters["timeout_keep_alive"].default
    own = CompletionClient("http://127.0.0.1:9", max_tokens=1)._client
    clients = [own, openai_client("http://127.0.0.1:9/v1", "none")._client]
    assert [c._transport._pool._keepalive_expiry for c in clients] == [IDLE, IDLE] and theirs > IDLE
