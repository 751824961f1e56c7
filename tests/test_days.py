"""Days that people name from where they stand, in five languages; today is Saturday, 2026-11-28."""

import json
from datetime import date

import pytest
from proactor_lib.annotate import evidence
from proactor_lib.comparison import agreement
from proactor_lib.datasets import forms
from proactor_lib.days import is_day, same_day, says_day
from proactor_lib.metrics import score_predictions
from proactor_lib.policies import oracle
from proactor_lib.schema import Case, PredictedAction, TurnPrediction
from proactor_lib.values import Heard

TODAY = date(2026, 11, 28)

TEXTS = {
    "2026-12-09": ["on the 9th", "the ninth, please"],
    "2026-11-28": ["later today",
                   "today please", "heute noch", "hoy mismo", "aujourd'hui", "今天可以吗", "on Saturday", "Ce soir."],
    "2026-11-29": ["Sunday this week",
                   "Tomorrow at 3", "Morgen um drei", "mañana, por favor", "demain matin", "明天下午3点", "am Sonntag",
                   "el domingo", "dimanche", "星期天", "周日", "礼拜天"],
    "2026-11-30": ["the 30th of this month",
                   "the day after tomorrow", "übermorgen", "pasado mañana", "après-demain", "后天", "in two days",
                   "Montag", "el lunes que viene", "lundi prochain", "下周一"],
    "2026-12-01": ["in 3 days", "in drei Tagen", "en tres días", "dans trois jours", "三天后", "3天以后", "Tuesday"],
    "2026-12-04": ["next Friday", "nächsten Freitag", "kommenden Freitag", "el próximo viernes", "vendredi", "周五"],
    "2026-12-11": ["next Friday", "Friday next week", "Freitag nächster Woche", "下周五", "下个星期五"],
    "2026-11-27": ["yesterday", "gestern", "ayer", "昨天", "last Friday", "letzten Freitag", "el viernes pasado",
                   "vendredi dernier", "上周五"],
    "2027-01-05": ["January 5th", "5. Januar", "1月5日"],
}  # fmt: skip


@pytest.mark.parametrize(("value", "text"), [(v, text) for v, texts in TEXTS.items() for text in texts])
def test_a_date_is_heard_in_what_people_say_for_it(value, text):
    assert says_day(Heard(f"Well, {text}."), value, TODAY)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2026-11-29", "the day after tomorrow"),
        ("2026-11-29", "Guten Morgen"),
        ("2026-11-29", "por la mañana"),
        ("2026-11-29", "après-demain"),
        ("2026-11-27", "the day before yesterday"),
        ("2026-11-27", "on Friday"),
        ("2026-12-04", "last Friday"),
        ("2026-12-11", "on Friday"),
        ("2026-12-04", "Thursday"),
        ("2026-12-04", "上周五"),
        ("2026-12-30", "in 3 days"),
        ("2026-11-28", "the daytoday"),
        ("3", "in 3 days"),
        ("2026-12-09", "the 9th of May"),
        ("2026-12-09", "the 9th of this month"),
    ],
)
def test_a_day_is_not_heard_in_what_names_another(value, text):
    assert not says_day(Heard(text), value, TODAY)


def test_two_ways_to_name_a_day_agree():
    same = [("the 9th", "2026-12-09"), ("9th", "December 9th"), ("30th of this month", "2026-11-30"),
            ("tomorrow", "2026-11-29"), ("Sunday", "tomorrow"), ("next Friday", "Dec 4"), ("周五", "el viernes"),
            ("the day after tomorrow", "2026-11-30"), ("tomorrow at 7 pm", "2026-11-29T19:00:00"),
            ("on Tuesday", "in 3 days"), ("2026-12-11", "next Friday"), ("04.12.2026", "Freitag")]  # fmt: skip
    assert all(same_day(a, b, TODAY) and same_day(b, a, TODAY) for a, b in same)
    apart = [
        ("the 9th", "2027-01-09"),
        ("9th of this month", "2026-12-09"),
        ("tomorrow at 7 pm", "2026-11-29T07:00:00"),
        ("tomorrow at 7 pm", "2026-11-29"),
        ("tomorrow at 7 pm", "2026-11-30T19:00:00"),
        ("tomorrow", "today"),
        ("Sunday", "Monday"),
        ("2026-12-11", "Friday"),
        ("Fritz", "Freitag"),
        ("", ""),
    ]
    assert not any(same_day(a, b, TODAY) for a, b in apart)
    assert agreement("tomorrow", "2026-11-29") == 0 and agreement("tomorrow", "2026-11-29", today=TODAY) == 1
    assert agreement('["tomorrow", "2 beds"]', '["2026-11-29", "2 beds"]', today=TODAY) == 1
    assert is_day("morgen", TODAY) and not is_day("morgenstern", TODAY) and not is_day("3", TODAY)


def chat(words, day, **stamp):
    call = {"function": {"name": "book", "arguments": json.dumps({"day": day, "seats": 4})}}
    messages = [{"role": "user", "content": text} for text in words]
    messages[0] |= stamp
    return [*messages, {"role": "assistant", "content": "OK", "tool_calls": [call]}]


@pytest.mark.parametrize(
    ("words", "known"),
    [
        (["Hi, a table for 4", "next Friday please", "thanks"], 2),
        (["Ein Tisch für 4 Personen, bitte", "Guten Morgen", "am kommenden Freitag"], 3),
        (["Una mesa para 4, por favor", "el viernes", "gracias"], 2),
        (["Une table pour 4", "vendredi prochain", "merci"], 2),
        (["我想订4人的桌子。", "下周五。", "谢谢"], 2),
    ],
)
def test_a_dialogue_in_each_language_from_import_to_metrics(tmp_path, words, known):
    """The chat's own time stamp says the day; the day's value is evidence where it is said, and `next Friday` from an
    agent is right."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(chat(words, "2026-12-04", timestamp="2026-11-28T23:30:00-08:00")))
    found = forms.read([path], "chat")
    (dialogue,) = found.dialogues
    assert dialogue.date == TODAY  # where it took place: it was the 29th in UTC
    line = evidence.annotate(dialogue, found.catalog)
    (reference,) = line.references
    assert (reference.params["day"].turn, reference.params["seats"].turn) == (known, 1)
    window = reference.window
    assert (window.open, window.ready, window.close) == (1, known, 4)
    assert reference.params["day"].today == TODAY and reference.params["seats"].today is None
    said = PredictedAction(name="book", params={"day": "next Friday", "seats": "four"})
    scores = score_predictions([dialogue], [line], [TurnPrediction(dialogue_id="a-1", turn=3, actions=[said])])
    timing = (4 + 1 - 3) / (4 + 1 - known)
    assert scores.references.timing.tolist() == [pytest.approx(timing)] and scores.executions.reference.tolist() == [
        "r1"
    ]
    perfect = score_predictions([dialogue], [line], oracle(Case(dialogue, line.references, found.catalog)))
    assert perfect.references.timing.tolist() == [1.0]


@pytest.mark.parametrize(
    ("words", "known"),
    [
        (["A table for 4", "On 4 December at 7pm", "thanks"], 2),
        (["A table for 4 at 7", "next Friday please", "thanks"], 2),
        (["Für 4 um 19 Uhr", "Danke", "am 4. Dezember"], 3),
    ],
)
@pytest.mark.parametrize("offset", ["", "Z", "+01:00", "-08:00"])
def test_a_date_time_is_known_when_its_day_and_its_time_are(tmp_path, words, known, offset):
    """People name no offset; a tool's argument has the one of where they are."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(chat(words, f"2026-12-04T19:00:00{offset}", timestamp="2026-11-28T23:30:00-08:00")))
    found, tally = forms.read([path], "chat"), evidence.Tally()
    (reference,) = evidence.annotate(found.dialogues[0], found.catalog, tally).references
    assert (reference.params["day"].turn, reference.window.ready, tally.not_found) == (known, known, 0)
    assert reference.params["day"].today == TODAY


def test_the_day_of_a_system_message_is_guessed_and_shown(tmp_path):
    messages = [{"role": "system", "content": "Be kind. The current time is May 15, 2024, 15:00 EST."},
                *chat(["For 4", "tomorrow"], "2024-05-16")]  # fmt: skip
    path = tmp_path / "a.json"
    path.write_text(json.dumps(messages))
    found = forms.read([path], "chat")
    assert found.dialogues[0].date == date(2024, 5, 15)
    assert "the day of a chat, from its system message: relative days count from it (a-1: 2024-05-15)" in list(
        found.notes.guessed
    )
    assert evidence.annotate(found.dialogues[0], found.catalog).references[0].params["day"].turn == 2
