"""The evidence annotator: hand-worked windows, the simulator's truth, SGD's own state."""

import gzip
import json

import pytest
from proactor_lib import datasets
from proactor_lib.annotate import evidence
from proactor_lib.datasets import homeloan
from proactor_lib.errors import UserError
from proactor_lib.schema import Action, Catalog, Dialogue, ObservedAction, Parameter, Turn
from proactor_lib.values import same_value

from support.shared import SGD, needs_shared

CLINIC = Catalog(
    domain="clinic",
    actions=(
        Action(name="check_card", params=(Parameter(name="number", required=True),)),
        Action(
            name="book_visit",
            preconditions=("check_card",),
            params=(
                Parameter(name="day", required=True),
                Parameter(name="hour", required=True),
                Parameter(name="note"),
            ),
        ),
        Action(name="send_bill", params=(Parameter(name="mail"), Parameter(name="post"))),
        Action(name="close_case"),
    ),
)


def windows(texts: list[str], *observed: tuple, tally: evidence.Tally | None = None) -> list[tuple]:
    """(open, ready, close) and the parameters' turns of each reference, the catalog being CLINIC."""
    log = tuple(ObservedAction(turn=t, name=n, params=p) for t, n, p in observed)
    turns = tuple(Turn(speaker="ab"[i % 2], text=text) for i, text in enumerate(texts))
    line = evidence.annotate(Dialogue(id="d", domain="clinic", turns=turns, observed=log), CLINIC, tally)
    return [
        (r.window.open, r.window.ready, r.window.close, {k: p.turn for k, p in r.params.items()})
        for r in line.references
    ]


def test_values_in_other_spellings():
    texts = [
        "hello",
        "Can I have a visit?",
        "When?",
        "On the third of May.",
        "And?",
        "half past two in the afternoon",
        "ok",
    ]
    booked = (7, "book_visit", {"day": "May 3, 2026", "hour": "2:30 pm"})
    assert windows(texts, booked) == [(2, 6, 7, {"day": 4, "hour": 6})]


def test_preconditions_hold_from_their_trigger():
    texts = ["Book Monday at 9 am", "sure", "my card is 12 34", "thanks", "done", "ok"]
    card, visit = (5, "check_card", {"number": "12 34"}), (6, "book_visit", {"day": "Monday", "hour": "9:00"})
    assert windows(texts, visit, card) == [(3, 3, 5, {"number": 3}), (1, 5, 6, {"day": 1, "hour": 1})]


def test_a_precondition_that_was_never_logged_is_taken_as_done():
    assert windows(["Monday, 9 am"], (1, "book_visit", {"day": "monday", "hour": "9 am"}))[0][:3] == (1, 1, 1)


def test_optional_parameters_do_not_delay_ready_but_are_dated():
    texts = ["Monday at 9 am", "ok", "and note: bring papers", "fine"]
    visit = (4, "book_visit", {"day": "Monday", "hour": "9 am", "note": "bring papers"})
    assert windows(texts, visit) == [(1, 1, 4, {"day": 1, "hour": 1, "note": 3})]


@pytest.mark.parametrize(("empty", "turns"), [("", {}), (" ", {}), ([], {"hour": 2}), ([""], {"hour": 2})])
def test_an_empty_value_that_is_required_is_waited_for_by_nobody(empty, turns):
    """The day is known at turn 2 of 4; empty text is absent, and an empty list known when the rest is."""
    tally = evidence.Tally()
    booked = (4, "book_visit", {"day": "Monday", "hour": empty})
    assert windows(["Hello", "Monday", "Hm", "Ok"], booked, tally=tally) == [(2, 2, 4, {"day": 2} | turns)]
    assert (tally.values, tally.not_found) == (1, 0)


def test_where_none_is_required_every_parameter_of_the_call_is():
    assert windows(["x", "to a@b.com", "ok"], (3, "send_bill", {"mail": "a@b.com"})) == [(2, 2, 3, {"mail": 2})]


def test_a_value_found_nowhere_takes_the_trigger_and_is_counted():
    tally = evidence.Tally()
    found = windows(["the visit", "Monday", "ok"], (3, "book_visit", {"day": "Monday", "hour": "10 am"}), tally=tally)
    assert found == [(1, 3, 3, {"day": 2, "hour": 3})]
    assert (tally.references, tally.values, tally.not_found, tally.share_not_found) == (1, 2, 1, 0.5)


def test_evidence_after_the_trigger_does_not_count():
    tally = evidence.Tally()
    assert windows(["go", "Monday 9 am"], (1, "book_visit", {"day": "Monday", "hour": "9 am"}), tally=tally)[0][1] == 1
    assert tally.not_found == 2


def test_a_second_call_opens_after_the_first():
    texts = ["Monday at 9 am", "ok", "or rather Tuesday", "ok", "hm"]
    first, second = (
        ("book_visit", {"day": "Monday", "hour": "9 am"}),
        ("book_visit", {"day": "Tuesday", "hour": "9 am"}),
    )
    assert windows(texts, (2, *first), (4, *second)) == [
        (1, 1, 2, {"day": 1, "hour": 1}),
        (3, 3, 4, {"day": 3, "hour": 1}),
    ]


def test_a_repeated_call_with_the_same_values_opens_after_the_first():
    texts = ["Monday at 9 am", "ok", "again", "please", "ok"]
    call = ("book_visit", {"day": "Monday", "hour": "9 am"})
    assert [w[:3] for w in windows(texts, (2, *call), (5, *call))] == [(1, 1, 2), (5, 5, 5)]
    assert [w[:3] for w in windows(texts, (2, *call), (2, *call))] == [(1, 1, 2), (2, 2, 2)]


def test_a_new_value_of_a_second_call_is_looked_for_after_the_first():
    texts = ["room 5 is for Monday at 9 am", "ok", "and now Tuesday at 5", "ok"]
    calls = (2, "send_bill", {"mail": "monday"}), (4, "send_bill", {"mail": "5"})
    assert windows(texts, *calls)[1] == (3, 3, 4, {"mail": 3})


def test_a_second_call_at_the_same_turn_opens_like_the_first():
    texts = ["Monday or Tuesday at 9 am", "ok", "both", "fine"]
    calls = [(4, "book_visit", {"day": day, "hour": "9 am"}) for day in ("Monday", "Tuesday")]
    assert [w[:3] for w in windows(texts, *calls)] == [(1, 1, 4), (1, 1, 4)]


def test_a_number_in_pieces_is_known_with_its_last_one():
    texts = ["my card number", "yes?", "seven one five", "mhm", "one three nine", "go on", "zero seven eight", "ok"]
    card = (8, "check_card", {"number": "715139078"})
    assert windows(texts, card) == [(1, 7, 8, {"number": 7})]
    assert windows(texts[:6], (6, *card[1:]))[0][1] == 6  # not said to its end


def test_a_value_that_nobody_says_is_known_from_the_first_call_that_had_it():
    calls = [(t, "send_bill", {"post": "P-77", "mail": mail}) for t, mail in ((2, "a@b.com"), (4, "c@d.com"))]
    found = windows(["to a@b.com", "ok", "and c@d.com", "ok"], *calls)
    assert [w[3]["post"] for w in found] == [2, 2] and found[1][:3] == (3, 3, 4)


def test_a_short_value_is_another_one_in_another_parameter():
    """The three travellers of a bus do not make the three rooms old, nor does a name that is used again become new."""

    def opened(**second):
        log = (
            ObservedAction(turn=2, name="bus", params={"travellers": "3", "city": "Bath"}, evidence={"travellers": 1}),
            ObservedAction(turn=4, name="hotel", params={"stars": "5"}, evidence={"stars": 3}, intent_turn=3),
            ObservedAction(turn=8, name="hotel", params=second, evidence=dict.fromkeys(second, 7), intent_turn=3),
        )
        turns = tuple(Turn(speaker="user", text="Hm.") for _ in range(8))
        dialogue = Dialogue(id="d", domain="clinic", turns=turns, observed=log)
        return evidence.annotate(dialogue, CLINIC).references[2].window.open

    assert opened(rooms="3") == 7 and opened(place="Bath") == opened(stars="5") == 5


HOTEL = Catalog(
    domain="hotel",
    actions=(
        Action(name="hotel_find", group="hotel", params=(Parameter(name="place"),)),
        Action(name="hotel_check", group="hotel", params=(Parameter(name="house"), Parameter(name="card"))),
        Action(name="hotel_book", group="hotel", params=(Parameter(name="house"), Parameter(name="card"))),
        Action(name="pay_all", params=(Parameter(name="by", values=("cash", "gift card", "cheque")),)),
    ),
)


def hotel_windows(texts, *observed):
    """(open, ready, close) of each reference; the user speaks first, then the agent."""
    turns = tuple(Turn(speaker=("user", "agent")[i % 2], text=text) for i, text in enumerate(texts))
    log = tuple(ObservedAction(turn=t, name=n, params=p) for t, n, p in observed)
    found = evidence.annotate(Dialogue(id="d", domain="hotel", turns=turns, observed=log), HOTEL).references
    return [(r.window.open, r.window.ready, r.window.close) for r in found]


def test_a_booking_that_repeats_its_check_opens_with_the_answer_to_it():
    house = {"house": "Hilton", "card": "0815"}
    texts = [
        "The Hilton, on card 0815",
        "It has a room. Shall I?",
        "What does it cost?",
        "90",
        "Do it",
        "Done",
        "Again",
    ]
    check, book = (1, "hotel_check", house), (5, "hotel_book", house)
    assert hotel_windows(texts, check, book) == [(1, 1, 1), (2, 2, 5)]
    assert hotel_windows(texts, check, book, (7, *book[1:]))[2] == (
        7,
        7,
        7,
    )  # the same once more is no booking of a check
    other = (5, "hotel_book", house | {"card": "4711"})
    assert hotel_windows(texts, check, other)[1] == (5, 5, 5)


def test_the_first_call_of_a_group_is_mentioned_in_the_groups_words():
    texts = ["I look for a hotel.", "Where?", "In Bath.", "The Hilton?", "No hotel so dear. The Inn, card 0815", "Ok"]
    calls = (3, "hotel_find", {"place": "Bath"}), (6, "hotel_check", {"house": "the Inn", "card": "0815"})
    assert hotel_windows(texts, *calls) == [(1, 3, 3), (5, 5, 6)]


def test_the_answer_to_a_call_mentions_nothing_but_what_it_asks():
    calls = (1, "hotel_find", {"place": "Bath"}), (3, "hotel_find", {"place": "Ely"})
    assert hotel_windows(["In Bath", "That place is full.", "In Ely", "Yes"], *calls)[1] == (3, 3, 3)
    assert hotel_windows(["In Bath", "Full. Another place?", "In Ely", "Yes"], *calls)[1] == (2, 3, 3)


def test_an_agent_that_names_several_values_says_none_and_common_words_mention_nothing():
    pay = (4, "pay_all", {"by": "cash"})
    assert hotel_windows(["That is all.", "Cash or gift card?", "Cash", "Ok"], pay) == [(3, 3, 4)]
    assert hotel_windows(["That is all.", "By cash?", "Yes", "Ok"], pay) == [(2, 2, 4)]
    card = (4, "pay_all", {"by": "gift card"})  # nor does it say one in pieces
    assert hotel_windows(["Hi", "Cash or a gift card?", "The second", "Right"], card) == [(4, 4, 4)]


def test_an_action_without_parameters_opens_at_its_mention_or_trigger():
    assert windows(["hello", "please close my case", "well", "ok"], (4, "close_case", {}))[0][:3] == (2, 2, 4)
    assert windows(["hello", "well", "ok"], (3, "close_case", {}))[0][:3] == (3, 3, 3)


def test_no_log_points_to_the_oracle():
    dialogue, _ = homeloan.simulate("train", 0, log=False)
    with pytest.raises(UserError, match="oracle annotator"):
        evidence.annotate(dialogue, homeloan.catalog())


@pytest.mark.parametrize("seed", range(5))
def test_open_and_ready_are_true_on_simulated_calls(seed):
    tally, exact, opened, catalog = evidence.Tally(), [], [], homeloan.catalog()
    for dialogue, truth in (homeloan.simulate("train", i, seed) for i in range(180)):
        found = evidence.annotate(dialogue, catalog, tally)
        for ours, true in zip(found.references, truth.references, strict=True):
            assert (ours.id, ours.name, ours.values()) == (true.id, true.name, true.values())
            assert ours.window.close == true.window.close == ours.observed_turn
            exact.append(ours.window.ready == true.window.ready)
            opened.append(ours.window.open == true.window.open)
    assert sum(exact) / len(exact) >= 0.95
    assert sum(opened) / len(opened) >= 0.9
    assert tally.share_not_found < 0.02


def held_by_the_state(raw: dict) -> list[tuple[int, int | None]]:
    """For each service call: its user turn, and the first user turn whose state holds all its parameters' values.

    A value is held where the state's list has it, or a spelling that some action of the dialogue gives as its own.
    """
    spellings, states, calls = {}, {}, []
    for turn in raw["turns"]:
        for frame in turn["frames"]:
            for a in frame["actions"]:
                for said, canonical in zip(a["values"], a["canonical_values"], strict=True):
                    spellings.setdefault((frame["service"], a["slot"], said), set()).add(canonical)
    for number, turn in enumerate(raw["turns"], start=1):
        for frame in turn["frames"]:
            service = frame["service"]
            if "state" in frame:
                states.setdefault(service, []).append((number, frame["state"]["slot_values"]))
            if "service_call" in frame:
                needed = frame["service_call"]["parameters"].items()

                def holds(state, service=service, needed=needed):
                    return all(
                        any(same_value(x, v) or v in spellings.get((service, p, x), ()) for x in state.get(p, ()))
                        for p, v in needed
                    )

                first = next((t for t, state in states.get(service, ()) if holds(state)), None)
                calls.append((number - 1, first))
    return calls


@needs_shared
@pytest.mark.parametrize("split", ["dev", "train"])
def test_ready_is_not_later_than_sgds_own_state(split):
    raw = []
    for path in sorted((SGD / split).glob("dialogues_*.json.gz")):
        with gzip.open(path) as f:
            raw += json.load(f)
    corpus, tally = datasets.load("sgd", SGD, split), evidence.Tally()
    in_time = []
    for dialogue, one in zip(corpus.dialogues, raw, strict=True):
        references = evidence.annotate(dialogue, corpus.catalog, tally).references
        for r, (trigger, held) in zip(references, held_by_the_state(one), strict=True):
            assert 1 <= r.window.open <= r.window.ready <= r.window.close == r.observed_turn == trigger
            in_time.append(r.window.ready <= (held or trigger))
    assert len(in_time) > 4000 and tally.not_found == 0
    assert sum(in_time) / len(in_time) >= 0.95


def test_a_need_is_mentioned_in_the_words_of_name_description_and_parameters():
    """Stems that no other action has; back from the first value, mentions at most GAP turns apart."""
    catalog = Catalog(
        domain="d",
        actions=(
            Action(name="verify_id", description="check the caller's identity", params=(Parameter(name="surname"),)),
            Action(name="order_cake", description="order a cake", params=(Parameter(name="size"),)),
        ),
    )

    def opened(*texts):
        turns = tuple(Turn(speaker="u" if i % 2 else "a", text=t) for i, t in enumerate(texts))
        observed = (ObservedAction(turn=len(turns), name="verify_id", params={"surname": "Lee"}),)
        dialogue = Dialogue(id="d", domain="d", turns=turns, observed=observed)
        return evidence.annotate(dialogue, catalog).references[0].window.open

    chat = ["Fine."] * 7
    assert opened("First I identify you.", "All right.", "It is Lee.") == 1
    assert opened("Good day.", "Do you need my ID?", "Yes.", "It is Lee.") == 2
    assert opened("An idle idea.", "Yes.", "It is Lee.") == 3  # `id` is a word of its own
    assert opened("I order and check a lot.", "Yes.", "It is Lee.") == 1  # `check` is this action's alone
    assert opened("A cake, I order it.", "Yes.", "It is Lee.") == 3
    assert opened("Your identity?", *chat, "Your surname?", "It is Lee.") == 9
    assert opened("Your identity?", *chat[:6], "Your surname?", "It is Lee.") == 1


SPOKEN = {
    "en": (["Book me a table for four.", "For when?", "On November 28th, half past six in the evening."], 3),
    "de": (["Ein Tisch für 4 Personen bitte.", "Wann?", "Am 28. November um 18.30 Uhr."], 3),
    "es": (["Una mesa para 4, por favor.", "¿Cuándo?", "El 28 de noviembre a las 18:30."], 3),
    "fr": (["Une table pour 4, s'il vous plaît.", "Quand ?", "Le 28 novembre à 18h30."], 3),
    "zh": (["我想订4人的桌子。", "什么时候？", "11月28日 18:30。"], 3),
}


@pytest.mark.parametrize("language", SPOKEN)
def test_values_are_found_as_they_are_said_in_a_language(language):
    texts, ready = SPOKEN[language]
    names = ("people", "date", "time")
    catalog = Catalog(
        domain="t", actions=(Action(name="t", params=tuple(Parameter(name=n, required=True) for n in names)),)
    )
    observed = ObservedAction(turn=4, name="t", params={"people": "4", "date": "2026-11-28", "time": "18:30"})
    turns = tuple(Turn(speaker="ab"[i % 2], text=t) for i, t in enumerate([*texts, "Ok."]))
    tally = evidence.Tally()
    found = evidence.annotate(Dialogue(id="d", domain="t", turns=turns, observed=(observed,)), catalog, tally)
    (reference,) = found.references
    assert {n: p.turn for n, p in reference.params.items()} == {"people": 1, "date": 3, "time": 3}
    assert (tally.not_found, reference.window.ready) == (0, ready)
