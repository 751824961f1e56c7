"""Parameter values in one spelling, so that two ways to say a thing compare equal [SPEC 4, ours].

Case, white space and punctuation; numbers (spelled, with separators, currency, k, percent), dates, times of day. The
same function reads single values and whole turns: a value was said in a turn if it stands there after normalising both.
"""

import re
import unicodedata
from functools import lru_cache


def _numbered(words: str, start: int = 0, step: int = 1) -> dict[str, int]:
    return {word: start + i * step for i, word in enumerate(words.split())}


_SMALL = (
    _numbered("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen")
    | _numbered("seventeen eighteen nineteen", start=17)
    | _numbered("twenty thirty forty fifty sixty seventy eighty ninety", start=20, step=10)
)
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_ORDINALS = (
    _numbered("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth", start=1)
    | _numbered("thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth", start=13)
    | {"thirtieth": 30}
)
_MONTHS = _numbered("january february march april may june july august september october november december", start=1)

_S = "|".join(sorted(_SMALL, key=len, reverse=True))
_WORD = rf"(?:{_S}|(?:{'|'.join(_SCALES)})(?: and(?= (?:{_S})\b))?)"
_ORD = "|".join(sorted(_ORDINALS, key=len, reverse=True))
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\b\.?"
_MONTH_NAMES = rf"(?:{'|'.join(_MONTHS)}|{'|'.join(m[:3] for m in _MONTHS)}|sept)\b"
_NTH = r"(\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?:,? (\d{4}))?"
_PART = r"(morning|afternoon|evening|night)"

_INTERESTING = re.compile(rf"\d|\b(?:{_S}|hundred|thousand|million|noon|midnight|{_ORD})\b")
_RUN = re.compile(rf"(?<!\d )(?<![\d.])\b{_WORD}(?:[ -]{_WORD})*\b|(?<=\d )\b(?:{_S})(?:[ -]{_WORD})*\b")
_ORDINAL = re.compile(rf"\b(?:(twenty|thirty)[ -])?({_ORD})\b")
_SCALED = re.compile(r"\b(\d+(?:\.\d+)?)(?:(k|m)| ?(hundred|thousand|million|billion))\b")
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
        value = _SMALL.get(word)
        if value is None:
            scaled = max(current, 1) * _SCALES[word]
            total, current = (total, scaled) if word == "hundred" else (total + scaled, 0)
        else:
            if not (before is None or before >= 100 or (before >= 20 and 1 <= value <= 9)):
                numbers.append(total + current)
                total = current = 0
            current += value
        before = _SCALES.get(word, value)
    return [*numbers, total + current]


def _ordinal(match: re.Match) -> str:
    return f"{_ORDINALS[match[2]] + _SMALL.get(match[1], 0)}th"


def _scaled(match: re.Match) -> str:
    factor = {"k": 1_000, "m": 1_000_000}.get(match[2]) or _SCALES[match[3]]
    return f"{float(match[1]) * factor:.2f}".rstrip("0").rstrip(".")


def _date(year: str | None, month: int, day: int) -> str:
    return f"{int(year or 0):04d}-{month:02d}-{day:02d}"


def _named_date(month: str, day: str, year: str | None, whole: str) -> str:
    number = next(n for name, n in _MONTHS.items() if name.startswith(month))
    return _date(year, number, int(day)) if 1 <= int(day) <= 31 else whole


def _us_date(match: re.Match) -> str:
    month, day, year = int(match[1]), int(match[2]), match[3]
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
    minutes = {"half": 30, "quarter": 15}.get(match[1]) or int(match[1])
    hour = int(match[3])
    if match[2] == "past" or match[2] == "after":
        return f"{hour}:{minutes:02d}"
    return f"{(hour - 2) % 12 + 1}:{60 - minutes:02d}"


_NUMBER_RULES = [
    (re.compile(r"\ban? (?=hundred|thousand|million|billion)"), "one "),
    (_ORDINAL, _ordinal),
    (_RUN, _number),
    (re.compile(r"[$€£] ?(?=\d)"), ""),
    (re.compile(r"(?<=\d),(?=\d{3}\b)"), ""),
    (re.compile(r"\b(\d+) point (\d+)((?: \d)*)\b"), lambda m: f"{m[1]}.{m[2]}{m[3].replace(' ', '')}"),
    (re.compile(r"\b(\d+) and (?:a|1) half\b"), r"\1.5"),
    (re.compile(r"\b(\d+) and (?:a|1) quarter\b"), r"\1.25"),
    (re.compile(r"\b(\d+) and 3 quarters\b"), r"\1.75"),
    (_SCALED, _scaled),
    (re.compile(r"(?<=\d) ?(?:dollars?|bucks?|usd|euros?)\b"), ""),
    (re.compile(r"(?<=\d) ?(?:per ?cent\b|pct\b|%)"), "%"),
    (
        re.compile(r"\b(\d+)\.(?:0+|(\d*?[1-9])0+)(?!\d|\.\d)(?! ?[ap]\.?m)"),
        lambda m: m[1] + (f".{m[2]}" if m[2] else ""),
    ),
    (_PHONE, r"\1\2\3"),
]
_DATE_RULES = [
    (re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b"), lambda m: _date(m[1], int(m[2]), int(m[3]))),
    (re.compile(r"\b(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})\b"), _us_date),
    (
        re.compile(rf"\b(?={_MONTH_NAMES}){_MONTH},? (?:the )?{_NTH}\b(?![:.]\d|%){_YEAR}"),
        lambda m: _named_date(m[1], m[2], m[3], m[0]),
    ),
    (
        re.compile(rf"(?<![\d.])\b{_NTH} (?:day )?(?:of )?(?={_MONTH_NAMES}){_MONTH}{_YEAR}"),
        lambda m: _named_date(m[2], m[1], m[3], m[0]),
    ),
]
_TIME_RULES = [
    (re.compile(r"\b(?:12 |twelve )?noon\b"), "12:00"),
    (re.compile(r"\b(?:12 )?midnight\b"), "00:00"),
    (re.compile(r"\b(half|quarter|\d{1,2})(?: minutes)? (past|after|to|before|till) (\d{1,2})\b(?!:)"), _spoken_time),
    (re.compile(r"\b(\d{1,2}) o['\" ]?clock\b"), r"\1:00"),
    (
        re.compile(r"\b(\d{1,2})(?:[:. ](\d{2}))? ?([ap])\.? ?m\b\.?"),
        lambda m: _clock(m[1], m[2], m[3], m[0]),
    ),
    (
        re.compile(rf"\b(\d{{1,2}})(?:[: ](\d{{2}}))? (?:in the|at|this) {_PART}\b"),
        lambda m: _clock(m[1], m[2], m[3], m[0]),
    ),
    (
        re.compile(rf"\b{_PART} (?:at )?(\d{{1,2}})(?::(\d{{2}}))?(?!\d|[:.]\d|%)\b"),
        lambda m: _clock(m[2], m[3], m[1], m[0]),
    ),
    (re.compile(r"\b(\d):(\d{2})\b(?!:)"), r"0\1:\2"),
]
_RULES = _NUMBER_RULES + _DATE_RULES + _TIME_RULES


@lru_cache(maxsize=1 << 16)
def normalise(value: str) -> str:
    """The value (or text) in one spelling: lower case, single spaces, no punctuation, digits, ISO dates, 24-hour times.

    `$1,200` -> `1200`, `six and a half percent` -> `6.5%`, `half past 11 in the morning` -> `11:30`,
    `March 8th, 2019` -> `2019-03-08`; a date without its year gets the year 0000. A time without a part of the day is
    taken as written.
    """
    text = " ".join(unicodedata.normalize("NFKC", value).casefold().replace("’", "'").split())
    if _INTERESTING.search(text):
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
    return " ".join(_LOOSE.sub(" ", text).split())


def same_value(a: str, b: str) -> bool:
    """Whether two values agree after `normalise`; a date without a year agrees with that day of any year."""
    x, y = normalise(a), normalise(b)
    return x == y or ("0000-" in (x[:5], y[:5]) and len(x) == len(y) == 10 and x[4:] == y[4:])
