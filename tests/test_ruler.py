"""RULER against judges over real HTTP: good ones, slow ones and those that misbehave in every known way."""

import json
import threading

import pytest
from proactor_lib.errors import UserError
from proactor_lib.rewards import ruler
from proactor_lib.rewards.endpoint_judge import answer_schema, read_marks

from support.fake_endpoint import FakeEndpoint, Reply
from support.judges import FAULTS, WORTH, answers, fields, good, said
from support.reward_cases import DIALOGUE, GARBAGE, RIGHT, SILENCE, WAITING, WRONG, group, reward, scores

CUSTOM = ("timing", "alignment", "restraint", "completeness")


def judged(answer, *groups, name="general_ruler", **settings):
    """The groups' values, the reward's counters and the server, after `answer` was the judge."""
    with FakeEndpoint(answer) as server:
        settings = {"judge": "judge-1", "judge_url": server.url, "judge_retries": 0, "judge_timeout": 5} | settings
        ruler = reward(name, **settings)
        found = scores(ruler, *groups)
        return [[s.value for s in one] for one in found], ruler.counters, server


def test_one_call_a_group_matched_by_label_however_ordered():
    values, counters, server = judged(
        lambda r, n: said(dict(reversed(good(r).items()))), group(RIGHT, WAITING, RIGHT, WRONG, GARBAGE)
    )
    assert values == [[0.9, 0.6, 0.9, 0.2, 0]]
    assert len(server.requests) == 1
    assert sorted(answers(server.requests[0]).values()) == sorted([RIGHT, WAITING, WRONG])  # each once, garbage never
    assert (counters["ruler_outputs"], counters["ruler_judged"], counters["ruler_missing"]) == (5, 3, 0)
    assert counters["judge_calls"] == 1 and counters["judge_prompt_tokens"] > 0


def test_the_context_is_shown_once_and_nothing_of_the_future():
    _, _, server = judged(lambda r, n: said(good(r)), group(RIGHT, SILENCE, turn=4))
    system, shown = (m["content"] for m in server.requests[0]["messages"])
    assert "relative to each other" in system
    assert shown.count("[4] user: turn 4") == 1 and "turn 5" not in shown and shown.count("- book(city*, day*)") == 1


def test_order_and_labels_are_random_but_the_same_again():
    groups = [group(RIGHT, WRONG, dialogue=DIALOGUE.model_copy(update={"id": f"d{i}"})) for i in range(20)]
    _, _, first = judged(lambda r, n: said(good(r)), *groups, judge_concurrency=1)
    _, _, again = judged(lambda r, n: said(good(r)), *groups, judge_concurrency=1)
    orders = [tuple(answers(r).values()) for r in first.requests]
    assert {orders.count((RIGHT, WRONG)) > 3, orders.count((WRONG, RIGHT)) > 3} == {True}
    assert len({label for r in first.requests for label in answers(r)}) > 20
    assert [r["messages"] for r in first.requests] == [r["messages"] for r in again.requests]


def test_custom_ruler_mixes_four_marks():
    marks = dict(zip(CUSTOM, (1.0, 0.5, 0.25, 0.0), strict=True))
    ask = lambda r, n: said({k: {"reason": ""} | marks for k in answers(r)})  # noqa: E731
    values, _, server = judged(ask, group(RIGHT), name="custom_ruler")
    assert values == [[pytest.approx(0.4 * 1 + 0.3 * 0.5 + 0.2 * 0.25)]]
    assert "Judge proactiveness" in server.requests[0]["messages"][0]["content"] and fields(server.requests[0]) == [
        *CUSTOM
    ]


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_shown_and_asked_again(kind):
    ask = lambda r, n: said(good(r)) if len(r["messages"]) > 2 else FAULTS[kind](r)  # noqa: E731
    values, counters, server = judged(ask, group(RIGHT, WRONG))
    assert values == [[0.9, 0.2]]
    assert counters[f"judge_fault_{kind}"] == 1 and counters["judge_calls"] == 2 and counters["ruler_missing"] == 0
    again = server.requests[1]["messages"]
    assert [m["role"] for m in again] == ["system", "user", "assistant", "user"]
    assert "cannot be used" in again[-1]["content"]


@pytest.mark.parametrize("kind", FAULTS)
def test_what_stays_missing_is_none_and_counted_and_never_0(kind):
    values, counters, server = judged(lambda r, n: FAULTS[kind](r), group(RIGHT, WRONG, RIGHT, GARBAGE))
    whole = kind in ("empty", "not_json")
    missing = None if kind != "unknown_label" else 0.9  # a label too many harms no other
    assert values == [[missing, None if whole else 0.2, missing, 0]]
    assert counters[f"judge_fault_{kind}"] == len(server.requests) == 3
    assert counters["ruler_missing"] == sum(v is None for v in values[0])


@pytest.mark.parametrize(
    "reply, kind",
    [
        (Reply(status=500), "server"),
        (Reply(status=429), "rate_limit"),
        (Reply(status=401), "refused"),
        (Reply(body="<html>busy</html>"), "garbled"),
        (Reply(cut_body=True, text="x" * 50), "unreachable"),
        (Reply("late", delay=60), "timeout"),
    ],
)
def test_an_endpoint_that_fails_stops_nothing(reply, kind):
    ask = lambda r, n: reply if RIGHT in answers(r).values() else said(good(r))  # noqa: E731
    values, counters, _ = judged(
        ask, group(RIGHT, WRONG), group(WAITING, SILENCE), judge_timeout=3 if reply.delay else 60
    )
    assert values == [[None, None], [0.6, 0.1]]
    assert counters[f"judge_failed_{kind}"] == 1 and counters["ruler_missing"] == 2


@pytest.mark.parametrize(
    "body",
    ["", "null", "[]", '"no"',
     '{"choices": []}', '{"choices": "x"}', '{"choices": [{}]}', '{"choices": [{"message": 1}]}',
     '{"choices": [{"message": {"content": [1]}}]}',
     '{"choices": [{"message": {"content": 7}}], "usage": {"prompt_tokens": "many"}}'],
)  # fmt: skip
def test_what_is_no_chat_completion_is_counted_and_stops_nothing(body):
    values, counters, _ = judged(lambda r, n: Reply(body=body), group(RIGHT, WRONG))
    assert values == [[None, None]] and counters["judge_failed_garbled"] == 1


def test_a_good_answer_after_a_bad_connection_counts_its_retry():
    ask = lambda r, n: Reply(status=503) if n == 1 else said(good(r))  # noqa: E731
    values, counters, _ = judged(ask, group(RIGHT, WRONG), judge_retries=1)
    assert values == [[0.9, 0.2]] and counters["judge_retries"] == 1 and "judge_failed_server" not in counters


def test_the_better_of_two_incomplete_answers_is_kept():
    """Marks of one output may come from one answer only: first both are there but one is out of range, then none is."""
    ask = lambda r, n: FAULTS["out_of_range"](r) if len(r["messages"]) == 2 else Reply("")  # noqa: E731
    values, _, _ = judged(ask, group(RIGHT, WRONG))
    assert values == [[None, 0.2]]


def test_as_many_judges_are_asked_at_once_as_may_be():
    """64 groups, 16 at once: each answer waits until 16 requests are open, for ever where fewer may be."""
    groups = [group(RIGHT, WRONG, dialogue=DIALOGUE.model_copy(update={"id": f"d{i}"})) for i in range(64)]
    together = threading.Barrier(16)

    def answer(request, n):
        together.wait(60)
        return said(good(request))

    values, counters, server = judged(answer, *groups, judge_concurrency=16, judge_timeout=60)
    assert values == [[0.9, 0.2]] * 64 and counters["judge_calls"] == 64
    assert server.most_at_once == 16


def test_several_judges_and_their_disagreement():
    harsh = lambda r: {k: i | {"score": i["score"] / 2} for k, i in good(r).items()}  # noqa: E731
    ask = lambda r, n: said(good(r) if r["model"] == "mild" else harsh(r))  # noqa: E731
    with FakeEndpoint(ask) as server:
        ruler = reward("general_ruler", judge="mild, harsh", judge_url=server.url)
        ((right, wrong),) = scores(ruler, group(RIGHT, WRONG))
    assert right.value == pytest.approx((0.9 + 0.45) / 2)
    assert right.components["judge_mild"] == 0.9 and right.components["judge_harsh"] == 0.45
    assert right.components["disagreement"] == pytest.approx(0.225)
    assert wrong.value == pytest.approx(0.15) and ruler.counters["judge_calls"] == 2


def test_marks_of_different_judges_are_never_compared():
    """A harsh judge leaves one of two equally good outputs out: what it gave the other would have set that back."""

    def answer(r, n):
        marks = good(r)
        if r["model"] == "harsh":
            marks = {name: mark | {"score": 0.3} for name, mark in list(marks.items())[:1]}
        return said(marks)

    values, _, _ = judged(answer, group(RIGHT, WRONG), judge="mild,harsh", judge_retries=0)
    assert values == [[0.9, 0.2]]
    marks = lambda *numbers: [n and {"all": n} for n in numbers]  # noqa: E731
    assert ruler.comparable([marks(0.9, None, None), marks(0.3, 0.4, None)]) == [[None] * 3, marks(0.3, 0.4, None)]
    assert ruler.comparable([marks(0.9, 0.8), marks(None, None)]) == [marks(0.9, 0.8), [None] * 2]


def test_one_judge_of_two_that_fails_leaves_the_other():
    ask = lambda r, n: said(good(r)) if r["model"] == "mild" else Reply(status=500)  # noqa: E731
    values, counters, _ = judged(ask, group(RIGHT, WRONG), judge="mild,gone")
    assert values == [[0.9, 0.2]] and counters["judge_failed_server"] == 1 and counters["ruler_missing"] == 0


def test_judges_at_addresses_of_their_own():
    with FakeEndpoint(lambda r, n: said(good(r))) as a, FakeEndpoint(lambda r, n: said(good(r))) as b:
        scores(reward("general_ruler", judge="one,two", judge_url=f"{a.url},{b.url}"), group(RIGHT))
        assert [r["model"] for r in a.requests] == ["one"] and [r["model"] for r in b.requests] == ["two"]
    with pytest.raises(UserError, match="2 addresses for 3 judges"):
        reward("general_ruler", judge="one,two,three", judge_url="http://127.0.0.1:1/v1,http://127.0.0.1:2/v1")


def test_a_judge_named_twice_is_a_mistake():
    with pytest.raises(UserError, match="judge names 'one' twice"):
        reward("general_ruler", judge="one, two, one", judge_url="http://127.0.0.1:1/v1")


def test_the_cache_repeats_no_paid_call(tmp_path):
    kept = {"judge_cache": tmp_path, "judge_prices": (10.0, 30.0)}
    _, first, server = judged(lambda r, n: said(good(r)), group(RIGHT, WRONG), **kept)
    spent = (10 * first["judge_prompt_tokens"] + 30 * first["judge_output_tokens"]) / 1e6
    assert first["judge_cost"] == pytest.approx(spent) and spent > 0
    values, again, server = judged(lambda r, n: Reply(status=500), group(RIGHT, WRONG), **kept)
    assert values == [[0.9, 0.2]] and server.requests == []
    assert (again["judge_cached"], again["judge_cost"]) == (1, 0)


def test_a_rubric_of_the_users_own(tmp_path):
    (tmp_path / "mine.txt").write_text("Prefer short answers.")
    _, _, server = judged(lambda r, n: said(good(r)), group(RIGHT), rubric=tmp_path / "mine.txt")
    assert server.requests[0]["messages"][0]["content"] == "Prefer short answers."
    with pytest.raises(UserError, match="cannot read .*gone.txt"):
        reward("custom_ruler", judge="j", judge_url="http://127.0.0.1:1/v1", rubric=tmp_path / "gone.txt")


def test_adaptive_ruler_with_a_dead_judge():
    values, counters, server = judged(
        lambda r, n: Reply(status=500),
        *[group(RIGHT, WAITING, GARBAGE, progress=u) for u in (0, 1)],
        name="adaptive_ruler",
    )
    assert values == [[1, 1, 0], [None, None, 0]]  # while lambda is 0 no judge is asked
    assert len(server.requests) == 1 and counters["judge_failed_server"] == 1 and counters["ruler_missing"] == 2


def test_nothing_readable_asks_no_one():
    values, _, server = judged(lambda r, n: said(good(r)), group(GARBAGE, ""))
    assert values == [[0, 0]] and server.requests == []


def test_reading_an_answer():
    item = {"reason": "so", "score": 0.5}
    assert read_marks(f'```json\n{{"A": {json.dumps(item)}}}\n```', ["A"], ["score"]) == ({"A": {"score": 0.5}}, [])
    for text, kind in {
        "{": "not_json",
        '{"A": ' + "[" * 100_000 + "}": "not_json",
        "[]": "not_json",
        "{}": "missing_label",
        '{"A": 0.5}': "not_a_number",
        '{"A": [["score", 0.5]]}': "not_a_number",
        '{"A": {"reason": "so"}}': "not_a_number",
        '{"A": {"score": true}}': "not_a_number",
        '{"A": {"score": null}}': "not_a_number",
        '{"A": {"score": NaN}}': "out_of_range",
        '{"A": {"score": -0.1}}': "out_of_range",
    }.items():
        marks, faults = read_marks(text, ["A"], ["score"])
        assert marks == {} and [k for k, _ in faults] == [kind], text


def test_the_schema_allows_what_is_asked_for_and_nothing_else():
    from jsonschema import Draft202012Validator

    schema = Draft202012Validator(answer_schema(["A", "B"], ["score"]))
    item = {"reason": "right", "score": 0.5}
    assert schema.is_valid({"A": item, "B": item})
    for wrong in ({"A": item}, {"A": item, "B": item, "C": item}, {"A": item, "B": 0.5}):
        assert not schema.is_valid(wrong)
    for change in ({"score": 2}, {"score": "0.5"}, {"reason": "x" * 121}, {"more": 1}):
        assert not schema.is_valid({"A": item, "B": item | change})


@pytest.mark.parametrize(("form", "sent"), [("object", {"type": "json_object"}), ("text", None)])
def test_a_judge_that_knows_no_schemas_is_told_the_form_and_read_through_its_prose(form, sent):
    def ask(request, n):
        marks = {k: {"reason": "so", "score": WORTH[a]} for k, a in answers(request).items()}
        return Reply(f"<think>{{label: mark}}</think>Sure:\n```json\n{json.dumps(marks)}\n```\n(see {{A10}})")

    values, _, server = judged(ask, group(RIGHT, WRONG), judge_form=form, judge_sampling={"top_k": 1})
    (request,) = server.requests
    shown = request["messages"][1]["content"]
    assert values == [[0.9, 0.2]] and request.get("response_format") == sent and request["top_k"] == 1
    example = json.loads(shown[shown.index("such as\n") + 8 :])
    assert set(example) == set(answers(request)) and all(set(e) == {"reason", "score"} for e in example.values())


def test_marks_in_the_forms_that_models_give_them():
    marks = {"A10": {"score": 0.5}, "B11": {"score": 0.8}}
    good = json.dumps({k: {"reason": "ok"} | m for k, m in marks.items()})
    for text in (
        good,
        good.replace("0.5", '"0.5"').replace("0.8", '"0.8"'),
        f'{{"scores": {good}}}',
        f"<think>the form is {{label: {{score}}}}</think>{good}\n(see {{A10}})",
    ):
        assert read_marks(text, ["A10", "B11"], ["score"]) == (marks, []), text
    found, faults = read_marks(good.replace("0.5", "5"), ["A10", "B11"], ["score"])
    assert found == {"B11": {"score": 0.8}} and [kind for kind, _ in faults] == ["out_of_range"]


def test_judges_with_keys_and_headers_of_their_own(monkeypatch):
    monkeypatch.setenv("ONE", "k1")
    monkeypatch.setenv("TWO", "k2")
    with FakeEndpoint(lambda r, n: said(good(r))) as server:
        headers = {"judge_headers": {"x-team": "a"}, "judge_key_variable": "ONE, TWO"}
        scores(reward("general_ruler", judge="one,two", judge_url=server.url, **headers), group(RIGHT))
        seen = {r["model"]: h for r, (_, h) in zip(server.requests, server.seen, strict=True)}
    assert {m: (h["authorization"], h["x-team"]) for m, h in seen.items()} == {
        "one": ("Bearer k1", "a"),
        "two": ("Bearer k2", "a"),
    }
    with pytest.raises(UserError, match="judge_key_variable names 2 variables for 3 judges"):
        reward("general_ruler", judge="a,b,c", judge_url="http://127.0.0.1:1/v1", judge_key_variable="ONE,TWO")
