"""Value normalisation, against spellings worked out by hand and SGD's own pairs of spoken and canonical values."""

import gzip
import json

import pytest
from proactor_lib.values import Heard, key, normalise, same_value

from support.shared import SGD, needs_shared

SPELLINGS = {
    "1200": ["$1,200", "1200.00", "twelve hundred dollars", "one thousand two hundred", "1.2k", "1200 bucks"],
    "350000": ["350k", "three hundred and fifty thousand", "$350,000", "0.35 million", "350 thousand dollars"],
    "6.5%": ["6.5 percent", "six and a half percent", "6.50 %", "six point five per cent"],
    "6.25%": ["six point two five percent", "six and a quarter percent", "6.25%"],
    "2026": ["twenty twenty-six", "two thousand and twenty six"],
    "4412": ["four four one two", "4412"],
    "11:30": ["11:30 am", "half past 11 in the morning", "11.30 a.m.", "morning 11:30", "eleven thirty in the morning"],
    "9.4": ["$9.40.", "9.4 dollars"],
    "17:45": ["evening 5:45.", "5:45 pm", "quarter to 6 in the evening", "evening 5:45", "17:45"],
    "12:00": ["noon", "12 pm", "twelve noon"],
    "00:00": ["midnight", "12 am"],
    "09:05": ["9:05", "five past nine in the morning"],
    "2019-03-08": ["March 8th, 2019", "8th of March 2019", "3/8/2019", "mar 8 2019", "March the eighth, 2019"],
    "0000-03-21": ["March 21st", "21 March", "the twenty-first of March"],
    "0000-06-12": ["June 12", "12th of June", "jun. 12"],
    "0000-07-01": ["July 1st", "the first of July"],
    "9776252661": ["(977) 625-2661", "977-625-2661", "+1 977 625 2661"],
    "30 year fixed": ["30-year fixed", "Thirty year  fixed.", "30 Year Fixed"],
    "san mateo ny": ["San Mateo, NY"],
    "a@b.com": ["a@b.com.", "A@b.com"],
}


@pytest.mark.parametrize("canonical, spellings", SPELLINGS.items())
def test_spellings_of_one_value_agree(canonical, spellings):
    spelled = {s: normalise(s) for s in spellings}
    assert {s.removeprefix("the ") for s in spelled.values()} == {canonical}, spelled
    assert normalise(canonical) == canonical


@pytest.mark.parametrize(
    "a, b",
    [("20%", "20"), ("6:30", "18:30"), ("7 am", "7 pm"), ("2019-03-08", "2020-03-08"), ("12", "twenty"), ("", "0")],
)
def test_different_values_stay_apart(a, b):
    assert not same_value(a, b)


def test_small_numbers_in_words_of_other_languages():
    assert all(same_value(a, b) for a, b in [("vier", "cuatro"), ("4", "quatre"), ("zwölf", "12"), ("Douze", "12")])
    assert not same_value("vier", "5") and not same_value("drei", "trois cents")


def test_a_date_that_could_be_either_agrees_with_both_where_the_month_is_clear():
    assert all(
        same_value("5/12/2026", b) and same_value(b, "5/12/2026") for b in ("Dec 5, 2026", "May 12", "5.12.2026")
    )


def test_a_date_without_a_year_agrees_with_any_year():
    assert same_value("March 8th", "2019-03-08") and not same_value("March 9th", "2019-03-08")


def test_words_that_look_like_numbers_but_are_apart():
    assert normalise("between two and three") == "between 2 and 3"
    assert normalise("a hundred and five") == "105"
    assert normalise("someone often forgets") == "someone often forgets"


@pytest.mark.parametrize(
    "text",
    ["30 to 45 days", "60 to 90 days", "5 to 20", "5 to 10 days", "20 to 12 nights", "5 to 10%", "10 to 12 of march",
     "5 to 6.5", "90 minutes before 5", "30 to 10", "5 to 7-day"],
)  # fmt: skip
def test_a_range_is_no_time_of_day(text):
    assert ":" not in normalise(f"It takes {text}.")


@pytest.mark.parametrize("text", ["$5 to $10", "5 to 10 dollars", "$5 to 10", "5 to 10 thousand", "5 to 6 and a half"])
def test_a_range_of_amounts_is_no_time_of_day(text):
    assert ":" not in normalise(text) and normalise(text).startswith("5 to ")


def test_minutes_of_any_number_are_a_time_where_they_are_named():
    assert normalise("see you 13 minutes to 6") == "see you 05:47"
    assert normalise("25 past 6, please") == "06:25 please" and normalise("10 to 1 works") == "12:50 works"


@needs_shared
def test_sgd_times_and_amounts_agree_with_their_canonical_form():
    with (
        gzip.open(SGD / "dev" / "dialogues_001.json.gz") as first,
        gzip.open(SGD / "dev" / "dialogues_010.json.gz") as f,
    ):
        dialogues = json.load(first) + json.load(f)
    actions = [a for d in dialogues for t in d["turns"] for frame in t["frames"] for a in frame["actions"]]
    kinds = ("time", "price", "fare", "amount", "balance", "rent")
    pairs = [
        (said, canonical)
        for a in actions
        if a["slot"].split("_")[-1] in kinds
        for said, canonical in zip(a["values"], a["canonical_values"], strict=True)
    ]
    assert len(pairs) > 300
    assert sum(same_value(*pair) for pair in pairs) / len(pairs) > 0.99


SAME = [
    ("1.234,50 €", "1234.50"), ("1,234.50", "1234.5"), ("6,25 %", "6.25%"), ("1e5", "100000"), ("3.10", "3.1"),
    ("–5", "-5"), ("١٢٣", "123"), ("１２３", "123"), ("$10m", "ten million dollars"),
    ("28/11/2026", "2026-11-28"), ("28.11.2026", "2026-11-28"), ("5.3.2026", "2026-03-05"), ("5/3/2026", "2026-05-03"),
    ("2026-11-28T10:00:00Z", "2026-11-28 10:00"), ("2026年11月28日", "2026-11-28"), ("11月28日", "2026-11-28"),
    ("28. November 2026", "2026-11-28"), ("28 de noviembre de 2026", "2026-11-28"), ("1er mars", "March 1"),
    ("15.30 Uhr", "15:30"), ("15h30", "3:30 pm"), ("12:30pm", "12:30"),
    ("one_way", "One-way"), ("basic_economy", "Basic Economy"),
    ("guest house", "guesthouse"), ("AB-12", "AB12"), ("Dr.Johnson", "Dr. Johnson"), ("john's", "johns"),
    ("Café", "Cafe"), ("Zürich", "Zuerich"), ("Zürich", "Zurich"), ("straße", "strasse"), ("e\u0301", "\u00e9"),
    ("ｶﾞｽ", "ガス"), ("\u30ab\u3099ス", "ガス"), ("10:30:00", "10:30"), ("9:05:00 pm", "21:05"), (".5", "0.5"),
    ("2026-11-28T15:00", "November 28, 2026 at 3 pm"), ("2026-11-28T15:00:00", "3 pm on 28 Nov"),
    ("2026-11-28T15:00+0200", "2026-11-28T15:00:00+02:00"), ("2026-11-28T15:00-05", "2026-11-28T15:00-05:00"),
    ("2026-11-28T15:00:00+00:00", "2026-11-28T15:00:00Z"), ("2026-11-28 15:00:00+00", "28. November um 15 Uhr"),
    ("28-Nov-2026", "28 Nov 2026"), ("28/nov/2026", "2026-11-28"), ("28-Nov", "November 28"),
    ("20 EUR", "€ 20"), ("EUR 20", "20 euros"), ("USD 20", "$20"), ("500 GBP", "£500"), ("£20", "20 pounds"),
    ("US$20", "20USD"), ("20 EUR", "20"), ("usd 10m", "10000000"), ("1.234.567", "1234567"),
    ("€1.234.567", "EUR 1234567"),
    ("-.5", "-0.50"), ("$.50", "0.5"), ("a\u00a0b", "a b"), ("a\u200bb", "ab"), ("yes", "True"), ("no", "false"),
]  # fmt: skip
APART = [
    ("5/12/2026", "12/5/2026"), ("5/12/2026", "2026-12-06"), ("28/11/2026", "2026-11-12"), ("5/12/2026", "2025-12-05"),
    ("?", "!"), ("*", ""), ("...", "-"), ("A+", "A"), ("A-", "A"), ("C#", "C"), ("-5", "5"), ("007", "7"),
    ("10m", "10000000"), ("$5", "€5"), ("5 dollars", "5 euros"), ("12 24", "1224"), ("1.10.0", "1.1.0"),
    ("may", "5"), ("1 of 2", "1/2"), ("28/11/2026", "2026-11-27"), ("31/31/2026", "2026-01-31"), ("五", "六"),
    ("10:30:15", "10:30"), ("ガス", "カス"), ("パン", "バン"), ("-.5", ".5"), ("5 to 10 dollars", "09:55"),
    ("2026-11-28T15:00:00+02:00", "2026-11-28T15:00:00Z"), ("2026-11-28T15:00+02:00", "2026-11-28T15:00-02:00"),
    ("2026-11-28T15:00", "28 November 2025 at 3 pm"), ("2026-11-28T15:00", "28 November at 3 am"),
    ("2026-11-28 22:00-23:00", "2026-11-28 22:00"), ("20 EUR", "$20"), ("20EUR", "20 USD"), ("GBP 20", "20 dollars"),
    ("20 pounds", "20 kg"), ("12.000", "12000"), ("1.234.5", "12345"), ("192.168.1.10", "192168110"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), SAME)
def test_values_that_are_one_by_the_rule_of_their_type(a, b):
    assert same_value(a, b) and same_value(b, a)


@pytest.mark.parametrize(("a", "b"), APART)
def test_values_that_a_person_keeps_apart(a, b):
    assert not same_value(a, b) and not same_value(b, a)


@pytest.mark.parametrize(
    ("text", "value", "said"),
    [
        ("I need a guesthouse tonight.", "guest house", True),
        ("I need a guest house tonight.", "guesthouse", True),
        ("My number is AB 12-34", "AB1234", True),
        ("It is at Dr. Johnson's.", "Dr.Johnson", False),  # the possessive is another word
        ("It is Dr. Johnson", "Dr.Johnson", True),
        ("See you in Zürich!", "Zurich", True),
        ("See you in Zürich!", "Zuerich", True),
        ("mit Frau Mueller", "Müller", True),
        ("mit Frau Muehlmann", "Mühl", False),
        ("Für vier Personen", "4", True),
        ("pour sept personnes", "7", True),
        ("我们三个人", "3", True),
        ("二十个人", "12", False),
        ("el 5 de diciembre", "5/12/2026", True),
        ("on May 12th", "5/12/2026", True),
        ("Un gâteau, s'il vous plaît", "gateau", True),
        ("I saw the cathedral", "the cat", False),
        ("12 24", "1224", False),
        ("我想在11月28日去北京", "2026-11-28", True),
        ("我想去北京", "北京", True),
        ("am 28.11.2026 um 15.30 Uhr", "2026-11-28", True),
        ("am 28.11.2026 um 15.30 Uhr", "3:30 pm", True),
        ("serían 1.234,50 euros", "1234.5", True),
        ("we moved it to March the eighth", "2019-03-08", True),
        ("On 28 November at 7pm", "2026-11-28T19:00:00", True),
        ("At 7pm on 28 November", "2026-11-28T19:00:00Z", True),
        ("On 28 November at 7pm", "2026-11-29T19:00:00", False),
        ("On 28 November at 7pm", "7 pm", True),
        ("it is 20 euros", "20 EUR", True),
        ("it is EUR 20", "20 euros", True),
        ("that would be 1.234.567 pesos", "1234567", True),
        ("half past three works", "15:30", True),
        ("how about wednesday at 4?", "4 pm", True),
        ("it costs 4", "4 pm", False),
        ("from June 11th on", "11th", True),
        ("from June 21st on", "11th", False),
        ("I need:\n1. Trip type\n2) Bags", "2", False),  # numbers of a list
        ("I need\n3 bags", "3", True),
    ],
)
def test_a_value_is_found_in_what_is_said_by_the_same_rules(text, value, said):
    assert Heard(text).says(value) is said


def test_what_compares_equal_has_one_key_but_for_years_and_transcriptions():
    for a, b in SAME:
        assert key(a) == key(b) or "0000-" in key(a) + key(b) or {a, b} == {"Zürich", "Zuerich"}, (a, b)


@pytest.mark.parametrize(
    ("text", "value", "like"),
    [
        ("ok", "book the closing", False),
        ("street", "068 First Street Harper Valley", False),
        ("hello this is harper valley national bank", "068 First Street Harper Valley CA 25306", False),
        ("it is 068 first street in harper valley CA 25306", "068 First Street Harper Valley CA 25306", True),
        ("well, the toilet leaks again", "the toilet is leaking", True),
        ("toilets leak", "the toilet is leaking", True),  # shorter, and like it as a whole
    ],
)
def test_a_text_is_like_a_value_that_it_has_a_passage_of(text, value, like):
    assert Heard(text).says_like(value, 0.6) is like
