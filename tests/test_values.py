"""Value normalisation, against spellings worked out by hand and SGD's own pairs of spoken and canonical values."""

import gzip
import json

import pytest
from proactor_lib.values import normalise, same_value

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


def test_a_date_without_a_year_agrees_with_any_year():
    assert same_value("March 8th", "2019-03-08") and not same_value("March 9th", "2019-03-08")


def test_words_that_look_like_numbers_but_are_apart():
    assert normalise("between two and three") == "between 2 and 3"
    assert normalise("a hundred and five") == "105"
    assert normalise("someone often forgets") == "someone often forgets"


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
