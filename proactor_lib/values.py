"""Parameter values in one spelling, so that two ways to say a thing compare equal [ours].

One comparison (`same_value`) serves the metrics, the rewards and the annotator. A value's type is seen from its form:

- number: by value, however it is written: digits, words (where they are not English: 2 to 12), separators (a dot from
  the second on: `1.234.567`), a decimal comma (`1.234,50`), k, percent; `3.10` is `3.1`. `m` is a million only behind a
  currency. Two currencies that are both named must agree (`20 EUR`, `€20`); `pounds` are taken for money. What has a
  zero before its digits (`007`) is text.
- date: by day; `28/11/2026` and `28.11.2026` are read day first, since no month has that number or no country writes it
  otherwise. `5/3/2026` is read month first, but agrees with either day where that is written with its month, and is
  heard in either. A date without a year agrees with that day of any year. A time of day may follow (`at 3 pm`), as ISO
  writes it too; an offset other than UTC's is another time. Where the day of a dialogue is known, days told from there
  (`tomorrow`, `next Friday`) are dates too (`days.py`).
- time: on 24 hours; without a part of the day as it is written.
- truth: `yes` is `true`, `no` is `false`.
- text: all else, by spelling: case, width and accents do not count (`ü` is also `ue`), nor do punctuation, apostrophes
  within a word, or spaces, hyphens, underscores and dots beside a letter (`guest house`, `AB-12`, `one_way`); an
  output cannot hold a bar (`agent.render`), which is a slash.

`normalise` reads single values and whole turns alike; `Heard` finds values in a turn.
"""

import re
import unicodedata
from functools import cached_property, lru_cache
from itertools import accumulate

from proactor_lib.numerals import MONTHS, NUMBERS, ORDINALS, SCALES, SMALL, spelled

_S = "|".join(sorted(SMALL, key=len, reverse=True))
_WORD = rf"(?:{_S}|(?:{'|'.join(SCALES)})(?: and(?= (?:{_S})\b))?)"
_ORD = "|".join(sorted(ORDINALS, key=len, reverse=True))
_MONTH = rf"({'|'.join(sorted(MONTHS, key=len, reverse=True))})\b\.?"
_NTH = r"(\d{1,2})(?:st|nd|rd|th|er|\.)?"
_YEAR = r"(?:,?(?: del?)? (\d{4}))?"
_PART = r"(morning|afternoon|evening|night)"

# After two numbers, what makes them a range (`5 to 10 days`) or a part of something longer, and no time of day.
_COUNTED = (
    r"(?:second|minute|hour|day|night|week|month|year|dollar|buck|euro|pound|cent|percent|point|guest|adult|ticket|room|"
    r"mile|person|kid)s?|times|stars|people|children|km|usd|eur|gbp|pct|per cent|hundred|thousand|million|billion"
)
_SPOKEN_TIME = re.compile(
    r"(?<![$€£.,/:-])(?<![$€£] )\b(?:(half|quarter|5|10|20|25)(?: minutes)?|([1-5]\d|[1-9]) minutes) "
    r"(past|after|to|before|till) (0?[1-9]|1[0-2])\b"
    rf"(?![:/]|[.,-]\w| ?[%$€£]| (?:{_COUNTED}|and [a13] (?:half|quarters?)|(?:of |de )?(?:{_MONTH}))\b)"
)

_INTERESTING = re.compile(rf"\d|\b(?:{_S}|hundred|thousand|million|noon|midnight|{_ORD})\b")
_RUN = re.compile(rf"(?<!\d )(?<![\d.])\b{_WORD}(?:[ -]{_WORD})*\b|(?<=\d )\b(?:{_S})(?:[ -]{_WORD})*\b")
_ORDINAL = re.compile(rf"\b(?:(twenty|thirty)[ -])?({_ORD})\b")
_SCALED = re.compile(r"([$€£] ?)?\b(\d+(?:\.\d+)?)(?:(k|(?(1)m|k))| ?(hundred|thousand|million|billion))\b")
_PHONE = re.compile(r"(?<![\d-])(?:\+?1[ .-])?\(?(\d{3})\)?[ .-]*(\d{3})[ .-](\d{4})\b")
_LOOSE = re.compile(
    r"[,;!?\"()\[\]{}*]|\.(?!\w)|(?<!\w)[.'-](?!\d)|(?<=[a-z])-(?=\w)|(?<=\d)-(?=[a-z])|:(?!\d)|'(?!\w)"
)


def _number(match: re.Match) -> str:
    """A run of number words in digits; words that make no one number stay apart (`seven thirty` -> `7 30`)."""
    parts = _parts([w for w in re.split(r"[ -]", match[0]) if w != "and"])
    if len(parts) == 2 and 18 <= parts[0] <= 21 and 10 <= parts[1] <= 99:
        return f"{parts[0]}{parts[1]}"  # nineteen ninety-nine
    digits = len(parts) > 2 and max(parts) < 10  # four four one two
    return ("" if digits else " ").join(map(str, parts))


def _parts(words: list[str]) -> list[int]:
    numbers, before = [], None  # before: the value of the word before
    total = current = 0  # finished thousands, and what is below them
    for word in words:
        value = SMALL.get(word)
        if value is None:
            scaled = max(current, 1) * SCALES[word]
            total, current = (total, scaled) if word == "hundred" else (total + scaled, 0)
        else:
            if not (before is None or before >= 100 or (before >= 20 and 1 <= value <= 9)):
                numbers.append(total + current)
                total = current = 0
            current += value
        before = SCALES.get(word, value)
    return [*numbers, total + current]


def _ordinal(match: re.Match) -> str:
    return f"{ORDINALS[match[2]] + SMALL.get(match[1], 0)}th"


def _scaled(match: re.Match) -> str:
    factor = {"k": 1_000, "m": 1_000_000}.get(match[3]) or SCALES[match[4]]
    return f"{float(match[2]) * factor:.2f}".rstrip("0").rstrip(".")


def _power(match: re.Match) -> str:
    return f"{float(match[0]):.6f}".rstrip("0").rstrip(".")


def _decimal_comma(match: re.Match) -> str:
    return f"{re.sub('[. ]', '', match[1])}.{match[2]}"


def _date(year: str | None, month: str | int, day: str | int) -> str:
    return f"{int(year or 0):04d}-{int(month):02d}-{int(day):02d}"


def _named_date(month: str, day: str, year: str | None, whole: str) -> str:
    return _date(year, MONTHS[month], day) if 1 <= int(day) <= 31 else whole


def _numeric_date(match: re.Match) -> str:
    """`3/28/2026` or `28/3/2026`; where both could be the month, a dot puts the day first, all else the month."""
    first, second, year = int(match[1]), int(match[3]), match[4]
    month, day = (second, first) if first > 12 or (match[2] == "." and second <= 12) else (first, second)
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return match[0]
    return _date(f"20{year}" if len(year) == 2 else year, month, day)


def _clock(hour: str, minute: str | None, part: str, whole: str) -> str:
    """24-hour time; `part` is a, p or a part of the day."""
    h = int(hour)
    if h > 12:
        return whole
    late = part in ("p", "afternoon", "evening") or (part == "night" and 5 <= h <= 11)
    return f"{h % 12 + 12 * late:02d}:{minute or '00'}"


def _spoken_time(match: re.Match) -> str:
    minutes = {"half": 30, "quarter": 15}.get(match[1]) or int(match[1] or match[2])
    hour = int(match[4])
    if match[3] == "past" or match[3] == "after":
        return f"{hour}:{minutes:02d}"
    return f"{(hour - 2) % 12 + 1}:{60 - minutes:02d}"


_SIGNS = {"us$": "$", "usd": "$", "eur": "€", "gbp": "£"}
# (text without which the rule has nothing to do, pattern, replacement)
_NUMBER_RULES = [
    ("", re.compile(r"\ban? (?=hundred|thousand|million|billion)"), "one "),
    ("", _ORDINAL, _ordinal),
    ("", _RUN, _number),
    ("", re.compile(r"\b(us\$|usd|eur|gbp) ?(?=\d)"), lambda m: _SIGNS[m[1]]),
    ("", _SPOKEN_TIME, _spoken_time),  # here, for what follows takes currencies away
    (".", re.compile(r"(?<![\w.])\.(?=\d+\b)"), "0."),
    (",", re.compile(r"(?<![\d.,])(\d{1,3}(?:[. ]\d{3})+|\d+),(\d{1,2})(?![\d,]|\.\d)"), _decimal_comma),
    (",", re.compile(r"(?<=\d),(?=\d{3}\b)"), ""),
    (".", re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{3}){2,}(?![\w.]*\w)"), lambda m: m[0].replace(".", "")),
    ("e", re.compile(r"(?<![\w.])\d+(?:\.\d+)?e[+-]?\d\b"), _power),
    (" point ", re.compile(r"\b(\d+) point (\d+)((?: \d)*)\b"), lambda m: f"{m[1]}.{m[2]}{m[3].replace(' ', '')}"),
    (" half", re.compile(r"\b(\d+) and (?:a|1) half\b"), r"\1.5"),
    (" quarter", re.compile(r"\b(\d+) and (?:a|1) quarter\b"), r"\1.25"),
    (" quarters", re.compile(r"\b(\d+) and 3 quarters\b"), r"\1.75"),
    ("", _SCALED, _scaled),
    ("", re.compile(r"[$€£] ?(?=\d)|(?<=\d) ?[$€£](?!\w)"), ""),
    ("", re.compile(r"(?<=\d) ?(?:dollars?|bucks?|usd|euros?|eur|pounds?|gbp)\b"), ""),
    ("", re.compile(r"(?<=\d) ?(?:per ?cent\b|pct\b|%)"), "%"),
    (
        ".",
        re.compile(r"\b(\d+)\.(?:0+|(\d*?[1-9])0+)(?!\d|\.\d)(?! ?(?:[ap]\.?m|uhr))"),
        lambda m: m[1] + (f".{m[2]}" if m[2] else ""),
    ),
    ("", _PHONE, r"\1\2\3"),
]
_DATE_RULES = [
    ("年", re.compile(r"(?<!\d)(\d{4})年(\d{1,2})月(\d{1,2})[日号]"), lambda m: f" {_date(*m.groups())} "),
    ("月", re.compile(r"(?<!\d)(\d{1,2})月(\d{1,2})[日号]"), lambda m: f" {_date(None, m[1], m[2])} "),
    ("", re.compile(r"\b(\d{4})([-/.])(\d{1,2})\2(\d{1,2})(?=\b|t\d)"), lambda m: _date(m[1], m[3], m[4])),
    ("", re.compile(r"\b(\d{1,2})([-/.])(\d{1,2})\2(\d{4})\b"), _numeric_date),
    ("/", re.compile(r"\b(\d{1,2})(/)(\d{1,2})/(\d{2})\b"), _numeric_date),
    (
        ":",  # an offset from UTC, as ISO spells it in short
        re.compile(r"((?<=:\d\d)\+|(?<=t\d\d:\d\d)-|(?<=t\d\d:\d\d:\d\d)-)(\d\d)(\d\d)?(?![\d:])"),
        lambda m: f"{m[1]}{m[2]}:{m[3] or '00'}",
    ),
    (":", re.compile(r"(\d{4}-\d\d-\d\d)[t ](\d\d:\d\d)(?::00(?:\.0+)?)?(?:z\b|\+00(?::?00)?\b|\b)"), r"\1 \2"),
    (
        "",
        re.compile(rf"(?<![\w/-])(\d{{1,2}})([-/]){_MONTH}(?:\2(\d{{4}}))?(?![\w/-])"),
        lambda m: _named_date(m[3], m[1], m[4], m[0]),
    ),
    (
        "",
        re.compile(rf"\b{_MONTH},? (?:the )?{_NTH}\b(?![:.]\d|%){_YEAR}"),
        lambda m: _named_date(m[1], m[2], m[3], m[0]),
    ),
    (
        "",
        re.compile(rf"(?<![\d.])\b{_NTH} ?(?<=[ .])(?:day )?(?:of |de )?{_MONTH}{_YEAR}"),
        lambda m: _named_date(m[2], m[1], m[3], m[0]),
    ),
]
_TIME_RULES = [
    (":", re.compile(r"(?<![\d:])(\d{1,2}:[0-5]\d):00\b(?!:)"), r"\1"),
    ("", re.compile(r"\b(\d+)(?:st|nd|rd)\b"), r"\1th"),
    ("noon", re.compile(r"\b(?:12 |twelve )?noon\b"), "12:00"),
    ("midnight", re.compile(r"\b(?:12 )?midnight\b"), "00:00"),
    ("clock", re.compile(r"\b(\d{1,2}) o['\" ]?clock\b"), r"\1:00"),
    ("uhr", re.compile(r"\b(\d{1,2})(?:[.:](\d{2}))? ?uhr\b"), lambda m: f"{int(m[1]):02d}:{m[2] or '00'}"),
    ("", re.compile(r"\b(\d{1,2}) ?h ?(\d{2})\b"), lambda m: f"{int(m[1]):02d}:{m[2]}"),
    (
        "m",
        re.compile(r"\b(\d{1,2})(?:[:. ](\d{2}))? ?([ap])\.? ?m\b\.?"),
        lambda m: _clock(m[1], m[2], m[3], m[0]),
    ),
    (
        "",
        re.compile(rf"\b(\d{{1,2}})(?:[: ](\d{{2}}))? (?:in the|at|this) {_PART}\b"),
        lambda m: _clock(m[1], m[2], m[3], m[0]),
    ),
    (
        "",
        re.compile(rf"\b{_PART} (?:at )?(\d{{1,2}})(?::(\d{{2}}))?(?!\d|[:.]\d|%)\b"),
        lambda m: _clock(m[2], m[3], m[1], m[0]),
    ),
    (":", re.compile(r"\b(\d):(\d{2})\b(?!:)"), r"0\1:\2"),
    (":", re.compile(r"(?<!\d )\b(\d\d:\d\d),? on (\d{4}-\d\d-\d\d)\b"), r"\2 \1"),
    (":", re.compile(r"\b(\d{4}-\d\d-\d\d),? (?:at|um|à|a las) (?=\d\d:\d\d\b)"), r"\1 "),
]
_RULES = _NUMBER_RULES + _DATE_RULES + _TIME_RULES

_CHARACTERS = {ord(c): "" for c in "\u200b\u200c\u200d\u2060\ufeff\u00ad"}  # of no width
_CHARACTERS |= dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-")
_CHARACTERS |= dict.fromkeys(map(ord, "\u2018\u2019\u02bc\u00b4`"), "'")
_CHARACTERS |= dict.fromkeys(map(ord, "。、"), " ")
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})
_SOUND = "\u3099\u309a"  # marks that make another syllable in Japanese, where an accent elsewhere is left out
_TRUTH = {"yes": "true", "no": "false"}
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")  # Chinese and Japanese: no spaces between words
_SEAM = re.compile(rf"(?<={_UNSPACED.pattern})(?=[0-9a-z])|(?<=[0-9a-z])(?={_UNSPACED.pattern})")
_BESIDE_LETTER = re.compile(r"(?<=[^\W\d_])[ '.-](?=\w)|(?<=\w)[ .-](?=[^\W\d_])")
_EITHER = re.compile(r" *(\d{1,2})/(\d{1,2})/(\d{4}|\d\d) *")
_CURRENCY = re.compile(r"\$|€|£|(?<![^\W\d_])(?:dollars?|bucks?|usd|euros?|eur|pounds?|gbp)(?![^\W\d_])")
_DAY_AND_TIME = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d)")
_OFFSET = re.compile(r"(?:(?<=:\d\d)\+|(?<=T..:\d\d)-|(?<=T..:..:\d\d)-)\d\d(?::?\d\d)?$", re.IGNORECASE)
_CURRENCIES = dict.fromkeys("$dbu", "usd") | dict.fromkeys("€e", "eur") | dict.fromkeys("£pg", "gbp")


@lru_cache(maxsize=1 << 16)
def normalise(value: str) -> str:
    """The value (or text) in one spelling: lower case, single spaces, no punctuation, digits, ISO dates, 24-hour times.

    `$1,200` -> `1200`, `six and a half percent` -> `6.5%`, `half past 11 in the morning` -> `11:30`,
    `March 8th, 2019` -> `2019-03-08`; a date without its year gets the year 0000. A time without a part of the day is
    taken as written. What is nothing but punctuation stays as it is.
    """
    if not value.isascii():
        value = unicodedata.normalize("NFKC", value).translate(_CHARACTERS)
        value = "".join(str(unicodedata.decimal(c, c)) for c in value)
    plain = text = " ".join(value.casefold().replace("`", "'").replace("|", "/").split())
    if "_" in text:
        text = " ".join(text.replace("_", " ").split())
    if _INTERESTING.search(text):
        for needed, pattern, replacement in _RULES:
            if needed in text:
                text = pattern.sub(replacement, text)
    if not text.isascii():
        text = _SEAM.sub(" ", text)
    return " ".join(_LOOSE.sub(" ", text).split()) or plain


@lru_cache(maxsize=1 << 16)
def key(value: str) -> str:
    """What the spellings of one value share: `normalise`, without accents, apostrophes, and spaces beside a letter."""
    return _squeezed(normalise(value))


def _squeezed(text: str) -> str:
    text = _TRUTH.get(text, text)
    if not text.isascii():
        parts = unicodedata.normalize("NFD", text)
        text = unicodedata.normalize("NFC", "".join(c for c in parts if c in _SOUND or not unicodedata.combining(c)))
    return _BESIDE_LETTER.sub("", text)


def same_value(a: str, b: str) -> bool:
    """Whether two values are one, by the rule of their type (see above)."""
    if a == b:
        return True
    x, y = key(a), key(b)
    if x != y:
        if not (a.isascii() and b.isascii()) and _transcribed(a) == _transcribed(b):
            return True
        if NUMBERS.get(normalise(a), x) == NUMBERS.get(normalise(b), y):
            return True
        return _same_day(x, y) or _same_day(_other_day(a, b) or x, _other_day(b, a) or y)
    one, other = _currency(a), _currency(b)
    return one is None or other is None or one == other


def day_and_time(value: str) -> tuple[str, str] | None:
    """The day and the time of a date-time, as people name them where it takes place: without an offset from UTC.

    None for any other value.
    """
    match = _DAY_AND_TIME.fullmatch(normalise(_OFFSET.sub("", value)))
    return match and (match[1], match[2])


def _same_day(x: str, y: str) -> bool:
    return len(x) == len(y) in (10, 16) and x[4:] == y[4:] and (x == y or "0000-" in (x[:5], y[:5]))


def _other_day(a: str, b: str = "") -> str | None:
    """The key of `a` read day first, where it is a date that could be either and `b` is none."""
    match = _EITHER.fullmatch(a)
    if match is None or _EITHER.fullmatch(b) or not (int(match[1]) <= 12 and int(match[2]) <= 12):
        return None
    return key(f"{match[2]}/{match[1]}/{match[3]}")


@lru_cache(maxsize=1 << 14)
def _transcribed(value: str) -> str:
    return _squeezed(normalise(value).translate(_UMLAUTS))


@lru_cache(maxsize=1 << 14)
def _currency(value: str) -> str | None:
    found = _CURRENCY.search(value.casefold())
    return found and _CURRENCIES[found[0][0]]


class Heard:
    """A text in which values are looked for."""

    def __init__(self, text: str):
        unnumbered = _NUMBERED.sub(" ", text) if "\n" in text else text
        self.text = f" {normalise(unnumbered)} "

    def says(self, value: str) -> bool:
        """Whether the value stands in the text, by the rules of `same_value`; a word of the text is never cut."""
        return (
            any(s in self.text for s in _spellings(value))
            or self._squeezed_says(key(value))
            or ("/" in value and (other := _other_day(value)) is not None and self.says(other))
            or (not (value.isascii() and self.text.isascii()) and self._says_transcribed(value))
        )

    def says_like(self, value: str, threshold: float) -> bool:
        """Whether the text has a passage that is as like `value` as `threshold`, by characters or by the value's words;
        the numbers of the value are among its words.

        A text that is shorter than the value is compared as a whole: it is no passage of the value that is looked for.
        """
        from rapidfuzz import fuzz

        text, sought = self.text.strip(), normalise(value)
        said = {word: f" {word} " in self.text for word in sought.split()}
        if not all(there for word, there in said.items() if _DIGIT.search(word)):
            return False
        if len(text) < len(sought):
            return max(fuzz.ratio(sought, text), fuzz.token_sort_ratio(sought, text)) >= 100 * threshold - 1e-9
        found = sum(len(word) for word, there in said.items() if there) / max(1, sum(map(len, said)))
        return max(fuzz.partial_ratio(sought, text) / 100, found) >= threshold - 1e-9

    def _says_transcribed(self, value: str) -> bool:
        """Whether it stands there with `ue` for `ü`, or the other way round."""
        return f" {normalise(value).translate(_UMLAUTS)} " in self.text.translate(_UMLAUTS)

    def _squeezed_says(self, sought: str) -> bool:
        """Whether some words of the text, written together, are `sought`: a text that has letters."""
        if len(sought) < 3 or sought.isnumeric() or not _LETTER.search(sought):
            return False
        joined, starts = self._joined
        at = joined.find(sought)
        while at >= 0:
            if at in starts and at + len(sought) in starts:
                return True
            at = joined.find(sought, at + 1)
        return False

    @cached_property
    def _joined(self) -> tuple[str, set[int]]:
        """The words without what is between them, and where each begins (and the last one ends)."""
        words = [_squeezed(word) for word in _BETWEEN.split(self.text.strip())]
        return "".join(words), {0, *accumulate(map(len, words))}


_NUMBERED = re.compile(r"^\s*\d{1,2}[.)]\s", re.MULTILINE)  # the number of a list's item says nothing
_DIGIT = re.compile(r"\d")
_LETTER = re.compile(r"[^\W\d_]")
_BETWEEN = re.compile(r"[ -]+")
_DATE = re.compile(r"\d{4}(-\d\d-\d\d(?: \d\d:\d\d)?)")
_DAY = re.compile(r"(\d{1,2})th")
_CLOCK = re.compile(r"([01]\d|2[0-3]):(\d\d)")


@lru_cache(maxsize=1 << 14)
def _spellings(value: str) -> tuple[str, ...]:
    """What to look for in a normalised text: the value, a date without its year, a day of any month, an hour without
    `am` or `pm`."""
    text = normalise(value)
    if not text:
        return ()
    if _UNSPACED.search(text):
        return (text,)
    if date := _DATE.fullmatch(text):
        return (f"{date[1]} ",) if text.startswith("0000") else (f" {text} ", f" 0000{date[1]} ")
    if day := _DAY.fullmatch(text):
        return f" {text} ", f"-{int(day[1]):02d} "
    if time := _CLOCK.fullmatch(text):
        hour = (int(time[1]) - 1) % 12 + 1
        bare = (f" at {hour} ",) if time[2] == "00" else ()
        return (f" {text} ", *((f" {hour:02d}:{time[2]} ",) if int(time[1]) > 12 else ()), *bare)
    return (f" {text} ", *spelled(text))
