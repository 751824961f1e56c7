"""STAR's raw format: what is a turn, what a query, what its values are, and where they are known."""

import json
from pathlib import Path

import pytest
from proactor_lib import datasets
from proactor_lib.annotate import evidence
from proactor_lib.datasets import star
from proactor_lib.errors import UserError
from proactor_lib.params import load_params
from proactor_lib.run import Run, annotate_run, prepare_data
from proactor_lib.schema import Turn

STAR = Path(__file__).parents[2] / "shared" / "data" / "star"
HOTEL = {
    "input": [
        {
            "Name": "Name",
            "Type": "Categorical",
            "Categories": ["Hilton Hotel", "Old Inn"],
            "ReadableName": "Hotel Name",
        },
        {"Name": "StartDate", "Type": "Categorical", "Categories": ["1st", "2nd"]},
        {"Name": "Guests", "Type": "Integer"},
        {"Name": "RequestType", "Type": "RequestType", "Categories": ["Check", "Book"]},
    ],
    "required": ["Name", "StartDate", "RequestType"],
}
SEARCH = {"input": [{"Name": "Price", "Type": "Integer"}, {"Name": "id", "Type": "Integer"}], "required": []}


def said(agent, action, text):
    return {"Agent": agent, "Action": action, "Text": text, "UnixTime": 1}


def query(api, **constraints):
    return {
        "Agent": "Wizard",
        "Action": "query",
        "APIName": api,
        "Constraints": [{k: v} for k, v in constraints.items()],
    }


EVENTS = [
    said("UserGuide", "instruct", "You need a room."),
    said("User", "utter", "A room for 3, at most 90 a night."),
    query("hotel_search", Price="api.is_at_most(90)", id="7"),
    query("hotel_search", Price="api.is_at_most(90)", id="7"),
    {"Agent": "KnowledgeBase", "Action": "return_item", "Item": {"Name": "Hilton Hotel", "Stars": 4}, "TotalItems": 1},
    said("Wizard", "request_suggestions", "the hilton?"),
    said("Wizard", "pick_suggestion", "What about the Hilton?"),
    said("User", "utter", "Fine, from May 2nd."),
    query(
        "hotel_book",
        Name='api.is_one_of(["Hilton Hotel", "Old Inn"])',
        StartDate='"2nd"',
        Guests="3",
        RequestType='"Check"',
    ),
    query("hotel_book", Name='api.is_equal_to("Hilton Hotel")', StartDate='"2nd"', Guests="null", RequestType='"Book"'),
    said("Wizard", "utter", "Booked."),
]


for place, event in enumerate(EVENTS):
    if "Item" not in event:
        event["UnixTime"] = 1_589_478_683 + 10 * place


@pytest.fixture
def corpus(tmp_path):
    """A folder in STAR's format with two dialogues of train, in one of which nobody speaks."""
    ids = [i for i in range(100) if star.tenth(str(i)) in star.SPLITS["train"]][:2]
    for name, api in (("hotel_book", HOTEL), ("hotel_search", SEARCH), ("bank_balance", SEARCH)):
        (tmp_path / "apis" / "apis").mkdir(parents=True, exist_ok=True)
        (tmp_path / "apis" / "apis" / f"{name}.json").write_text(json.dumps(api))
    (tmp_path / "dialogues").mkdir()
    for id, events in zip(ids, (EVENTS, EVENTS[:1]), strict=True):
        tasks = [{"Domain": "hotel", "Task": "hotel_search"}, {"Domain": "hotel", "Task": "hotel_book"}]
        raw = {"DialogueID": id, "Scenario": {"WizardCapabilities": tasks}, "Events": events}
        (tmp_path / "dialogues" / f"{id}.json").write_text(json.dumps(raw))
    return tmp_path


def test_words_are_turns_and_queries_are_logged_actions(corpus, caplog):
    (dialogue,) = datasets.load("star", corpus, "train").dialogues
    assert "nobody speaks in it" in caplog.text
    assert [(t.speaker, t.text) for t in dialogue.turns] == [
        ("user", "A room for 3, at most 90 a night."),
        ("agent", "What about the Hilton?"),
        ("user", "Fine, from May 2nd."),
        ("agent", "Booked."),
    ]
    search, check, book = dialogue.observed
    assert [t.start for t in dialogue.turns] == [10, 60, 70, 100]
    assert [o.time for o in dialogue.observed] == [20, 80, 90]
    assert (search.turn, search.name, search.params) == (1, "hotel_search", {"Price": "at most 90", "id": "7"})
    assert (check.turn, check.name) == (3, "hotel_book.Check")
    assert check.params == {"Name": "Hilton Hotel or Old Inn", "StartDate": "2nd", "Guests": "3"}
    assert (book.name, book.params) == ("hotel_book.Book", {"Name": "Hilton Hotel", "StartDate": "2nd"})
    assert dialogue.services == ("hotel",) and "bank_balance" not in dialogue.actions and len(dialogue.actions) == 3


def test_where_values_are_known(corpus):
    """The Hilton was answered after turn 1 and is said at 2; May 2nd is 2nd; nobody says `Old Inn`, or the id."""
    read = datasets.load("star", corpus, "train")
    search, check, book = read.dialogues[0].observed
    assert search.evidence == {"Price": 1, "id": 1}
    assert check.evidence == {}  # `3` and the day of `May 2nd` are said as they are: the annotator finds them
    assert book.evidence == {"Name": 2}
    tally = evidence.Tally()
    references = evidence.annotate(read.dialogues[0], read.catalog, tally).references
    assert (tally.values, tally.not_found) == (7, 1)
    assert {k: p.turn for k, p in references[1].params.items()} == {"Name": 3, "StartDate": 3, "Guests": 1}


def known(name, value, *texts, options=(), answered=None):
    """The turn that STAR's reader gives for a value; the user speaks first."""
    turns = [Turn(speaker="agent" if n % 2 else "user", text=text) for n, text in enumerate(texts)]
    return star._known(name, value, [value], options, turns, answered or {})


def test_an_id_that_is_said_is_left_to_the_annotator_and_one_that_is_not_is_the_wizards():
    assert known("id", "955", "My ride has ID 955.", "Which one?", "955") is None
    assert known("id", "955", "Which ride?", "Hm.", "Any.") == 3


@pytest.mark.parametrize(
    ("name", "value", "texts", "turn"),
    [
        ("DepartureTime", "5 pm", ["From 5th and Main in 5 minutes", "When?", "About 5."], 3),
        ("DepartureTime", "6 pm", ["1.6 kilometers, 6 degrees", "When?", "6, please"], 3),
        ("StartDate", "5th", ["5 people", "From?", "the 5 to the 9"], 3),
        ("ApplicationFeePaid", "No", ["North Hill, no rush", "Have you paid the application fee?", "No, not yet."], 3),
        ("NeedParking", "No", ["There are no flights", "Ok. Do you?", "no"], 3),  # nobody asked about parking
        ("TravelMode", "Walking", ["I walked here", "By car?", "No, let me walk"], 1),
        ("TravelMode", "Driving", ["Is my driver here?", "Yes", "Then I drive."], 3),
    ],
)
def test_values_are_heard_where_they_are_meant(name, value, texts, turn):
    assert known(name, value, *texts) == turn


def test_an_agent_that_names_several_options_says_none_of_them():
    options = ("Driving", "Walking", "Transit")
    asked = ("Directions, please.", "Do you want to drive, walk, or use public transit?")
    assert known("TravelMode", "Transit", *asked, "The bus.", options=options) == 3
    assert known("TravelMode", "Walking", *asked, "I walk.", options=options) == 3


def test_an_answer_gives_the_values_of_its_own_fields():
    answered = {("Time", star.key("5 pm")): 2}
    assert known("Time", "5 pm", "Hello", "It is open.", "Book it.", answered=answered) == 2
    assert known("StartTimeHour", "5 pm", "Hello", "It is open.", "Book it.", answered=answered) is None
    assert star._parameter_of("HotelName") == "Name"


def test_a_query_that_is_sent_again_after_its_answer_is_one(corpus):
    path = next(p for p in (corpus / "dialogues").glob("*.json") if len(json.loads(p.read_text())["Events"]) > 1)
    raw = json.loads(path.read_text())
    again = [e for e in raw["Events"] if e["Action"] == "query"][0]
    raw["Events"].insert(5, again)  # behind the answer, before anybody speaks
    path.write_text(json.dumps(raw))
    assert [o.name for o in datasets.load("star", corpus, "train").dialogues[0].observed].count("hotel_search") == 1


def test_an_api_with_request_types_is_an_action_for_each(corpus):
    actions = datasets.load("star", corpus, "train").catalog.by_name
    assert list(actions) == ["bank_balance", "hotel_book.Check", "hotel_book.Book", "hotel_search"]
    check, book = actions["hotel_book.Check"], actions["hotel_book.Book"]
    assert (check.effect, book.effect, actions["hotel_search"].effect) == ("read", "write", "read")
    assert check.params == book.params and check.required == ("Name", "StartDate")
    assert [(p.name, p.type, p.source) for p in actions["hotel_search"].params][1] == ("id", "integer", "system")
    assert check.group == "hotel" and check.description == "hotel book (check)"


@pytest.mark.parametrize(
    "written, text, parts",
    [
        ('"Ben"', "Ben", ["Ben"]),
        ("True", "True", ["True"]),
        ('api.is_equal_to("Uber")', "Uber", ["Uber"]),
        ("api.is_at_most(40)", "at most 40", ["40"]),
        ("api.is_at_least(3)", "at least 3", ["3"]),
        ("api.is_less_than(3)", "less than 3", ["3"]),
        ("api.is_greater_than(2.5)", "more than 2.5", ["2.5"]),
        ('api.is_one_of(["Cheap", "Moderate"])', "Cheap or Moderate", ["Cheap", "Moderate"]),
        ('"a \\"quoted\\" (name)"', 'a "quoted" (name)', ['a "quoted" (name)']),
    ],
)
def test_constraints(written, text, parts):
    assert star.constraint(written) == (text, parts)


def test_an_unknown_operator_and_what_is_not_star_are_named(corpus):
    path = next((corpus / "dialogues").glob("*.json"))
    raw = json.loads(path.read_text())
    raw["Events"] = [said("User", "utter", "Hm."), query("hotel_search", Price="api.is_prime(7)")]
    path.write_text(json.dumps(raw))
    with pytest.raises(
        UserError, match=rf"{path.name} is not a dialogue in STAR's format: .*'is_prime'; accepted: is_equal_to"
    ):
        datasets.load("star", corpus, "train")
    with pytest.raises(UserError, match="STAR has no split 'tset'; a dialogue's id draws one of: train, dev, test"):
        datasets.load("star", corpus, "tset")
    with pytest.raises(UserError, match="is not STAR's folder: it has no dialogues/"):
        datasets.load("star", corpus / "apis", "train")


@pytest.mark.skipif(not STAR.exists(), reason="no shared data")
def test_every_dialogue_is_read_or_named_and_its_values_are_found(caplog, tmp_path):
    tally, names, several = evidence.Tally(), [], 0
    for split in star.SPLITS:
        corpus = datasets.load("star", STAR, split)
        names += [d.id.removeprefix("star-") for d in corpus.dialogues]
        several += sum(len(d.services) > 1 for d in corpus.dialogues)
        for dialogue in corpus.dialogues:
            evidence.annotate(dialogue, corpus.catalog, tally)
    left_out = {Path(r.args[0]).stem for r in caplog.records}
    assert set(names) | left_out == {p.stem for p in (STAR / "dialogues").glob("*.json")} and len(left_out) == 9
    assert tally.references == 622 and several > 50 and tally.share_not_found < 0.12
    settings = {"dataset": "star", "data_dir": str(STAR), "catalog_scope": "all"}
    run = Run.open(load_params(None, settings | {f"{s}_dialogues": 5 for s in ("train", "dev", "test")}), tmp_path)
    prepare_data(run)
    annotate_run(run)
    assert all(len(c.catalog.actions) == len(run.catalog.actions) for c in run.split("test"))
