"""A part of a dialogue that the oracle is asked about: its schema, what an answer means, what later parts carry on."""

import jsonschema
import pytest
from proactor_lib.annotate import oracle
from proactor_lib.schema import Action, Catalog, Dialogue, Parameter, ReferenceParam, Turn

CATALOG = Catalog(
    domain="taxi",
    actions=(
        Action(
            name="book", params=(Parameter(name="to", required=True), Parameter(name="kind", values=("van", "cab")))
        ),
        Action(name="cancel"),
    ),
)
DIALOGUE = Dialogue(id="d", domain="taxi", turns=tuple(Turn(speaker="u", text=f"line {i}") for i in range(1, 11)))


def part(first, last, turns=10, context=0):
    return oracle.Part(
        range(first, last + 1), range(max(1, first - context), min(turns, last + context) + 1), last == turns
    )


def said(params=None, candidate=(), ready=(), **more):
    return {"params": {"to": None, "kind": None} | (params or {}), "candidate": [*candidate], "ready": [*ready], **more}


def read(items, where, carried=()):
    answer = {"book": items, "cancel": []}
    jsonschema.validate(answer, oracle.answer_schema(CATALOG.actions, where, carried))
    return oracle.read(answer, CATALOG.actions, where, carried)


def test_the_union_of_turns_is_the_window():
    (found,) = read([said({"to": {"value": "Rome", "turn": 4}}, [2, 3], [7, 5, 5])], part(1, 10))
    assert found.window().model_dump() == {"open": 2, "ready": 5, "close": 7}
    assert found.params == {"to": ReferenceParam(value="Rome", turn=4)}


@pytest.mark.parametrize(
    "item",
    [said(ready=[11]), said(ready=[0]), said(ready=[]), said({"to": {"value": "x", "turn": 11}}, ready=[5]),
     said({"kind": {"value": "bus", "turn": 1}}, ready=[5]), said({"where": None}, ready=[5]), said(ready=["5"]),
     said({"to": {"value": "", "turn": 1}}, ready=[5]), said({"to": {"value": 'a"b', "turn": 1}}, ready=[5])],
)  # fmt: skip
def test_the_schema_leaves_no_room_for(item):
    with pytest.raises(jsonschema.ValidationError):
        read([item], part(1, 10))


def test_ready_before_the_evidence_for_a_required_parameter_is_shown_to_the_model():
    with pytest.raises(
        ValueError, match="opportunity 1 of book is ready at turn 3, but the evidence .*'to' is at turn 4"
    ):
        read([said({"to": {"value": "x", "turn": 4}}, ready=[3])], part(1, 10))


def test_a_part_of_a_dialogue_may_leave_an_opportunity_without_a_ready_turn_only_at_its_border():
    (found,) = read([said(candidate=[4, 5])], part(1, 5))
    assert part(1, 5).goes_on(found) and not found.ready
    with pytest.raises(ValueError, match="no ready turn"):
        read([said(candidate=[3, 4])], part(1, 5))
    with pytest.raises(ValueError, match="no ready turn"):
        read([said(candidate=[10], continues=1)], part(6, 10), carried=[found])
    assert read([], part(6, 10), carried=[found]) == [found]


def test_a_value_that_a_later_part_changes_undoes_readiness_until_its_evidence():
    (before,) = read([said({"to": {"value": "Rome", "turn": 2}}, [1], [2, 3, 4, 5])], part(1, 5))
    (after,) = read([said({"to": {"value": "Oslo", "turn": 7}}, [6], [7, 8], continues=1)], part(6, 10), [before])
    assert after.window().model_dump() == {"open": 1, "ready": 7, "close": 8}
    assert after.params["to"] == ReferenceParam(value="Oslo", turn=7)
    (same,) = read([said({"to": {"value": "Rome", "turn": 6}}, [], [6], continues=1)], part(6, 10), [before])
    assert same.params["to"].turn == 2 and same.window().model_dump() == {"open": 1, "ready": 2, "close": 6}


def test_a_number_that_is_written_as_1_0_is_1():
    (before,) = read([said(candidate=[4, 5])], part(1, 5))
    assert read([said(candidate=[6], ready=[7.0], continues=1.0)], part(6, 10), [before])[0].window().ready == 7


@pytest.mark.parametrize(
    ("turns", "judged", "overlap"), [(1, 60, 15), (60, 60, 15), (61, 60, 15), (200, 60, 15), (9, 2, 0)]
)
def test_parts_judge_every_turn_once_with_context_on_both_sides(turns, judged, overlap):
    cut = oracle.parts(turns, judged, overlap)
    assert [t for p in cut for t in p.judged] == list(range(1, turns + 1))
    assert [p.last for p in cut] == [False] * (len(cut) - 1) + [True] and max(len(p.judged) for p in cut) <= judged
    for p in cut:
        assert p.shown == range(max(1, p.judged[0] - overlap), min(turns, p.judged[-1] + overlap) + 1)


def test_the_prompt_shows_the_catalog_and_the_parts_turns():
    carried = [oracle.Opportunity("book", {"to": ReferenceParam(value="Rome", turn=2)}, ready=frozenset({5}))]
    system, user = (m["content"] for m in oracle.messages(DIALOGUE, CATALOG.actions, part(6, 10, context=2), carried))
    assert "- book" in system and "    to*: string\n" in system and "one of: van, cab" in system
    assert "[4] u: line 4\n" in user and "[3]" not in user and "1. book, ready, to = Rome (turn 2)\n" in user
    assert "of the turns 6 to 10" in user


def test_a_catalog_that_no_schema_holds_is_asked_about_in_groups():
    wide = [
        Action(name=f"a{i}", params=tuple(Parameter(name=f"p{k}", values=("x", "y")) for k in range(4)))
        for i in range(6)
    ]
    # an action: 4 + 3 * 4 = 16 properties, 8 values, 2 + 4 * 2 + 8 = 18 characters
    sizes = lambda *limits: [len(g) for g in oracle.fitting(wide, oracle.Limits(*limits))]  # noqa: E731
    assert sizes(5000, 1000, 120_000) == [6]
    assert sizes(48, 1000, 120_000) == [3, 3] and sizes(5000, 17, 120_000) == [2, 2, 2]
    assert sizes(5000, 1000, 72) == [4, 2] and sizes(1, 1, 1) == [1] * 6
