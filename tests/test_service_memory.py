"""What a service remembers of conversations, and the agent that answers in them: called directly."""

import asyncio
import json

import pytest
from proactor_lib.endpoint import Failed
from proactor_lib.evaluate.agents import Fixed, Prompted
from proactor_lib.metrics.alignment import prediction_key
from proactor_lib.schema import Action, Catalog, Parameter, PredictedAction, Turn, TurnPrediction
from proactor_lib.service.agent_service import AgentService, Readiness
from proactor_lib.service.app import make_app
from proactor_lib.service.errors import ApiError
from proactor_lib.service.guard import Limits
from proactor_lib.service.memory import Answer, Memory, Talk
from proactor_lib.service.replies import tool_calls
from proactor_lib.service.requests import ChatRequest
from starlette.testclient import TestClient

from support.metric_cases import candidate, ready

BOOK = Action(name="book", params=(Parameter(name="to", required=True), Parameter(name="seats", type="integer")))
CATALOG = Catalog(domain="travel", actions=(BOOK, Action(name="pay")))


def line(*actions, turn=1, id="d"):
    return TurnPrediction(dialogue_id=id, turn=turn, actions=actions)


def spoken(*texts):
    return [Turn(speaker="user", text=text) for text in texts]


def test_nothing_is_executed_twice_and_an_extension_only_of_what_was_incomplete():
    talk = Talk("d")
    assert talk.act(line(ready("book"), candidate("pay")), CATALOG).ready == (ready("book"),)
    second = talk.act(line(ready("book"), ready("book", to="Rome"), turn=2), CATALOG)
    assert (second.ready, second.held) == ((ready("book", to="Rome"),), (ready("book"),))
    third = talk.act(
        line(ready("book", to="rome ", seats="2"), ready("book", to="Oslo"), ready("fly"), turn=3), CATALOG
    )
    assert third.held == (ready("book", to="rome ", seats="2"),)
    assert third.ready == (ready("book", to="Oslo"),) and third.unknown == (ready("fly"),)
    elsewhere = talk.act(line(ready("pay"), turn=4), CATALOG, [prediction_key(ready("pay"))])
    assert elsewhere.ready == () and elsewhere.held == (ready("pay"),)


def test_a_nameless_conversation_is_known_by_its_turns_and_parts_where_they_do():
    memory = Memory(most=2)
    first = memory.of_turns(spoken("a", "b"), CATALOG)
    first.turns = spoken("a", "b")
    first.act(line(ready("pay"), turn=1), CATALOG)
    first.act(line(ready("book"), turn=2), CATALOG)
    assert memory.of_turns(spoken("a", "b", "c"), CATALOG) is first and memory.of_turns(spoken("a"), CATALOG) is first
    other = memory.of_turns(spoken("a", "x"), CATALOG)
    assert other is not first and other.turns == spoken("a") and [t for t, _ in other.executed] == [1]
    memory.named("third")
    assert len(memory) == 2  # the first is forgotten
    assert memory.of_turns(spoken("a", "b"), CATALOG).turns == spoken("a")


def test_arguments_nested_too_deep_are_the_messages_fault():
    call = {"function": {"name": "book", "arguments": "[" * 200_000}}
    asked = ChatRequest(model="m", messages=[{"role": "assistant", "tool_calls": [call]}])
    with pytest.raises(ApiError, match="messages.0.: maximum recursion depth") as error:
        asked.heard(CATALOG)
    assert error.value.status == 400


def test_a_name_whose_turns_changed_keeps_what_they_share():
    memory = Memory()
    memory.named("n").turns.extend(spoken("a", "b"))
    assert memory.named("n", spoken("a", "c")).turns == spoken("a")


@pytest.mark.parametrize(
    ("readiness", "statuses"),
    [
        (Readiness(), ["ready", "candidate", "ready"]),
        (Readiness(0.6), ["candidate", "ready", "ready"]),
        (Readiness(0.4, own=False), ["candidate", "candidate", "candidate"]),
        (Readiness(0.2, own=False), ["ready", "candidate", "ready"]),
    ],
)
def test_a_threshold_says_what_fires(readiness, statuses):
    first = PredictedAction(name="a", confidence=0.5)
    second = PredictedAction(name="a", status="candidate", confidence=0.7)
    third = PredictedAction(name="a", confidence=0.6)
    said = [line(a, turn=t) for t, a in ((1, first), (4, second), (6, third))]
    assert [readiness.applied(said[:n]).actions[0].status for n in (1, 2, 3)] == statuses


def test_an_answer_is_remembered_with_the_tools_that_it_was_given_for():
    """Nameless, other tools are another conversation; in a named one what was executed stays so."""
    service = AgentService(Fixed("first_action", 0), CATALOG)

    def ask(talk, catalog):
        talk.turns[:] = spoken("hi")
        return asyncio.run(service.answer(talk, 1, catalog))

    book, pay = CATALOG.subset(("book",)), CATALOG.subset(("pay",))
    for name, catalog in (("book", CATALOG), ("pay", pay), ("book", book), ("book", CATALOG)):
        talk = service.memory.of_turns(spoken("hi"), catalog)
        assert [call["function"]["name"] for call in tool_calls(talk, ask(talk, catalog), catalog)] == [name]
    named = service.memory.named("n")
    assert ask(named, CATALOG).ready == (ready("book"),) and ask(named, pay).ready == (ready("pay"),)
    assert ask(named, book).held == (ready("book"),)


def test_a_nameless_conversation_that_parts_is_answered_by_persistence_too():
    """Whatever their names: these are digests, and persistence sorts by them."""
    service = AgentService(Fixed("first_action", 0), CATALOG, Readiness(0.4, own=False))
    for last in "abcdefgh":
        talk = service.memory.of_turns(spoken("hi", last), CATALOG)
        talk.turns.extend(spoken("hi", last)[len(talk.turns) :])
        answers = [asyncio.run(service.answer(talk, turn, CATALOG)) for turn in (1, 2)]
        assert [(a.turn, len(a.ready), len(a.candidates)) for a in answers] == [(1, 0, 1), (2, 1, 0)]


def test_what_an_endpoint_rejects_is_told_in_its_words():
    class Rejecting:
        concurrency = 4

        async def complete(self, messages, **sampling):
            return Failed("rejected", "HTTP 400: not these words (content_filter)")

    service = AgentService(Prompted("non_reasoning", Rejecting(), 8), CATALOG)
    with pytest.raises(ApiError, match=r"rejects the conversation at turn 1: HTTP 400: not these words") as told:
        asyncio.run(service.answer(Talk("c", spoken("hm")), 1, CATALOG))
    assert (told.value.status, told.value.code) == (400, "request_rejected")


# turns that are not answered


class Failing:
    """Says nothing at turn 1; then fails, or waits for good."""

    async def follow(self, case, known, on_prediction):
        if known:
            await self.fail()

    async def fail(self):
        raise RuntimeError("a bug")


def test_turns_are_taken_back_from_an_error_of_any_kind():
    service = AgentService(Failing(), CATALOG)
    asked = TestClient(make_app(service, Limits(None)), raise_server_exceptions=False)
    body = {"conversation": "c", "turns": [t.model_dump() for t in spoken("a", "b", "c")]}
    assert asked.post("/v1/proactor/turns", json=body).status_code == 503
    assert service.memory.named("c").turns == spoken("a")


@pytest.mark.parametrize("slow", [False, True])
def test_turns_are_taken_back_from_a_stream_whose_reader_has_left(slow):
    """While the second turn is asked, or, to a slow reader, while the first one's answer is on its way."""
    agent, left = Failing(), asyncio.Event()
    agent.fail = asyncio.Event().wait
    service = AgentService(agent, CATALOG)
    body = {"conversation": "c", "turns": [t.model_dump() for t in spoken("a", "b", "c")], "stream": True}
    waiting = [{"type": "http.request", "body": json.dumps(body).encode()}]

    async def receive():
        if not waiting:
            await left.wait()
            return {"type": "http.disconnect"}
        return waiting.pop()

    async def send(message):
        if message.get("body"):
            left.set()
            if slow:
                await asyncio.Event().wait()

    async def ask():
        scope = {"type": "http", "method": "POST", "path": "/v1/proactor/turns", "headers": [], "query_string": b""}
        await make_app(service, Limits(None))(scope, receive, send)
        return list(service.memory.named("c").turns)

    assert asyncio.run(ask()) == spoken("a")


def test_turns_stay_where_others_follow_or_were_answered_or_are_asked_and_who_waited_for_one_taken_back_asks_again():
    talk = Talk("c", spoken("a", "b"), answers={(1, CATALOG.digest): Answer(1)})
    talk.take_back(1, 2)
    talk.take_back(1, 1)
    asyncio.run(talk.lock.acquire())
    talk.take_back(2, 2)
    assert talk.turns == spoken("a", "b")
    talk.lock.release()
    talk.take_back(2, 2)
    assert talk.turns == spoken("a")
    with pytest.raises(ApiError, match="turn 2 was taken back"):
        asyncio.run(AgentService(Fixed("silent", 0), CATALOG).answer(talk, 2, CATALOG))
