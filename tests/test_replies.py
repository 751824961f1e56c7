"""Replies in the forms in which servers send them: the bodies of ../shared/cases/error-bodies.py and more."""

import json
from email.utils import formatdate
from time import time

import pytest
from proactor_lib import replies
from proactor_lib.replies import Fault, after_thinking, asked_wait, find_json, kind_of, own_words, read, usage

GOOD = json.dumps({"A10": {"reason": "ok", "score": 0.5}})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "max_tokens is too large", "code": 400}}, "max_tokens is too large"),
        ({"object": "error", "message": "context length is 8192", "code": 400}, "context length is 8192"),
        (
            {"detail": [{"loc": ["body", "response_format"], "msg": "extra fields not permitted"}]},
            "body.response_format: extra fields not permitted",
        ),
        ({"detail": "Not Found"}, "Not Found"),
        ({"error": "model 'm' not found, try pulling it first"}, "model 'm' not found, try pulling it first"),
        ([{"error": {"code": 400, "message": "too many states"}}], "too many states"),
        ("<html><h1>Forbidden by the proxy policy</h1></html>", "Forbidden by the proxy policy"),
        ("Payload Too Large", "Payload Too Large"),
        ({"error": {"message": "It was filtered", "code": "content_filter"}}, "It was filtered (content_filter)"),
        ({"odd": 1}, '{"odd": 1}'),
    ],
)
def test_a_servers_own_words(body, words):
    assert own_words(body) == words


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, {"error": {"message": "slow down"}}, "rate_limit"),
        (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, "quota"),
        (402, {"error": {"message": "Insufficient Balance"}}, "quota"),
        (400, {"error": {"message": "Your credit balance is too low"}}, "quota"),
        (401, None, "refused"),
        (400, None, "rejected"),
        (503, None, "server"),
    ],
)
def test_what_a_status_means(status, body, kind):
    assert kind_of(status, body) == kind


def completion(message, finish="stop", **more):
    return {"choices": [{"message": message, "finish_reason": finish}], **more}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "plain"}, "plain"),
        ({"content": None}, ""),
        ({"content": [{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}]}, "two parts"),
        ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "said"}]}, "said"),
        ({"content": None, "tool_calls": [{"function": {"name": "answer", "arguments": GOOD}}]}, GOOD),
        ({"content": "", "function_call": {"name": "answer", "arguments": {"a": 1}}}, '{"a": 1}'),
    ],
)
def test_the_text_of_an_answer_in_any_form(message, text):
    assert read(completion(message)).text == text


@pytest.mark.parametrize(
    ("reply", "refusal"),
    [
        (completion({"content": None, "refusal": "I can't help with that."}), "I can't help with that."),
        (completion({"content": [{"type": "refusal", "refusal": "No."}]}), "No."),
        (completion({"content": ""}, finish="content_filter"), "its content filter ended the answer"),
        (completion({"content": "Sure."}), ""),
    ],
)
def test_a_refusal_is_in_the_models_own_words(reply, refusal):
    assert read(reply).refusal == refusal


@pytest.mark.parametrize(
    ("body", "kind", "paid"),
    [
        ({"error": {"message": "Provider returned error", "code": 429}}, "rate_limit", False),
        ({"error": "overloaded"}, "server", False),
        ({"error": {"message": "no credit", "code": 402}}, "quota", False),
        (completion({"content": 7}, usage={"prompt_tokens": 5, "completion_tokens": 2}), "garbled", True),
        ("busy", "garbled", False),
        (None, "garbled", False),
    ],
)
def test_an_error_inside_a_reply_of_status_200(body, kind, paid):
    with pytest.raises(Fault) as error:
        read(body)
    assert (error.value.kind, error.value.paid) == (kind, paid)


def test_tokens_are_counted_where_they_are_told():
    assert usage({"usage": {"prompt_tokens": 5, "completion_tokens": 2}}) == (5, 2)
    for nothing in (None, "x", {}, {"usage": None}, {"usage": {"prompt_tokens": "many"}}):
        assert usage(nothing) == (0, 0)


def test_the_wait_that_a_server_asks_for():
    assert asked_wait({"retry-after": "8"}) == 8 and asked_wait({"retry-after-ms": "2500", "retry-after": "9"}) == 2.5
    assert 0 < asked_wait({"retry-after": formatdate(time() + 80, usegmt=True)}) <= 80
    assert asked_wait({"retry-after": formatdate(time() - 8, usegmt=True)}) == 0
    assert asked_wait({}) == asked_wait({"retry-after": "soon"}) == asked_wait({"retry-after": "nan"}) == 0


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"Sure:\n```json\n{GOOD}\n```\nDone.",
        f"<think>the form is {{label: {{score}}}}</think>\n{GOOD}",
        f"[THINK]{{}}[/THINK]{GOOD}",
        f"{GOOD}\n(see {{A10}})",
        f"The form {{label: mark}} gives [1] {GOOD}",
    ],
)
def test_json_is_found_in_what_a_model_puts_around_it(text):
    assert find_json(text) == GOOD


@pytest.mark.parametrize("text", ["", "No.", '{"turn"', "<think>{}", "[[[", '{"A": ' + "[" * 100_000])
def test_what_holds_no_json_says_so(text):
    with pytest.raises(ValueError, match="not JSON"):
        find_json(text)


def test_nothing_is_looked_for_inside_a_text_that_was_cut_off():
    with pytest.raises(ValueError, match="cut off at the token limit"):
        find_json('{"A": {"score": 1}, "B', cut=True)
    assert find_json(GOOD, cut=True) == GOOD


def test_thinking_without_an_end_says_nothing():
    assert after_thinking("<think>still") is None and after_thinking("<think>a</think>b") == "b"
    assert replies.after_thinking("b") == "b"
