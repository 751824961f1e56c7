"""Days that people name from where they stand: `tomorrow`, `next Friday`, `in drei Tagen`, `下周五` [ours].

With the day of a dialogue known, a value that is a day (a date, a weekday, or such words) agrees with any other way to
name that day, in English, German, Spanish, French or Chinese:

- `today` to `the day after tomorrow`, and the same backwards, by their words; `in 3 days` by its number;
- `the 9th` (`of this month`) is the next day of that number, in English;
- a weekday alone is that day within a week from today, today too (`Saturday this week`); with `next` (`coming`, `que
  viene`, ...) it is that day within two weeks from tomorrow; with `last` it is the past week's.

Weekdays are CLDR's (Babel). French `hier` is left out: it is a German word too.
"""

import re
import unicodedata
from datetime import date, timedelta
from functools import lru_cache

from proactor_lib.numerals import CHINESE, WORDS
from proactor_lib.values import Heard, normalise

LANGUAGES = ("en", "de", "es", "fr", "zh")
BEHIND, AHEAD = 7, 14  # days from today about which people speak so
# Days from today -> patterns, without accents.
_WORDS = {
    -2: r"day before yesterday|vorgestern|anteayer|avant hier|前天",
    -1: r"(?<!before )yesterday|gestern|ayer|昨[天日]",
    0: r"(?:later )?today|tonight|this (?:morning|afternoon|evening)|heute|hoy|esta (?:manana|tarde|noche)|aujourd'hui"
    r"|ce soir|今[天日晚]",
    1: r"(?<!after )tomorrow|(?<!guten )(?<!heute )(?<!am )morgen|(?<!pasado )(?<!la )(?<!esta )manana"
    r"|(?<!apres )demain|明[天日早晚]",
    2: r"day after tomorrow|ubermorgen|uebermorgen|pasado manana|apres demain|(?<!大)后天",
    7: r"in a week|in einer woche|en una semana|dans une semaine|一周后",
}
_NEXT_BEFORE = r"(?:next|coming|nachste[nrms]?|naechste[nrms]?|kommende[nrms]?|proximo|下个?)"
_NEXT_AFTER = r"(?:next week|que viene|proximo|prochaine?|nachster woche|naechster woche|kommender woche)"
_LAST_BEFORE = r"(?:last|past|letzte[nrms]?|vergangene[nrms]?|上个?)"
_LAST_AFTER = r"(?:pasado|dernier|passe)"
_AT = re.compile(r"(.+?) (?:(?:at|um|à|a las) )?(\d\d:\d\d)")
_ALONE = re.compile(r"(?:on |the |this |by |am |an |diese[nrms]? |el |este |le |ce |para el |这|这个|本)?")
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)")
_NTH = re.compile(r"(?:on )?(?:the )?(\d{1,2})th( of (?:this|the) month)?")
_THE_NTH = re.compile(r" the (\d{1,2})th(?: of (this|the) month| (?!of ))")


def same_day(a: str, b: str, today: date) -> bool:
    """Whether both values name one day, or one time of one day, in a dialogue of `today`."""
    (x, time), (y, other) = _timed(a), _timed(b)
    return time == other and not _offsets(x, today).isdisjoint(_offsets(y, today))


def _timed(value: str) -> tuple[str, str]:
    """A value that ends with a time, and the time: else an empty one."""
    match = _AT.fullmatch(normalise(value))
    return (match[1], match[2]) if match else (value, "")


def is_day(value: str, today: date) -> bool:
    """Whether the value is a day: a date, or one of the words above."""
    return bool(_offsets(value, today))


def says_day(heard: Heard, value: str, today: date) -> bool:
    """Whether the text names the day that the value is."""
    numbered = {_numbered(match, today) for match in _THE_NTH.finditer(heard.text)}
    for offset in _offsets(value, today):
        day = today + timedelta(offset)
        if day in numbered or heard.says(day.isoformat()):
            return True
        if -BEHIND <= offset <= AHEAD and _pattern(offset, day.weekday()).search(_plain(heard.text)):
            return True
    return False


def _numbered(match: re.Match, today: date) -> date | None:
    """The next day with this number, of this month where that is said."""
    ahead = [today + timedelta(n) for n in range(62)]
    of_this = [day for day in ahead if not match[2] or day.month == today.month]
    return next((day for day in of_this if day.day == int(match[1])), None)


@lru_cache(maxsize=1 << 14)
def _offsets(value: str, today: date) -> frozenset[int]:
    """The days that the value may be, counted from today; none where it is no day."""
    text = normalise(value)
    if match := _DATE.fullmatch(text):
        years = (today.year, today.year + 1) if match[1] == "0000" else (int(match[1]),)
        days = [_date(year, int(match[2]), int(match[3])) for year in years]
        ahead = [day for day in days if day and (day >= today - timedelta(BEHIND) or match[1] != "0000")]
        return frozenset((day - today).days for day in ahead[:1])
    if not 1 < len(text) < 40:
        return frozenset()
    if match := _NTH.fullmatch(text):
        day = _numbered(match, today)
        return frozenset([(day - today).days] if day else [])
    plain = _ALONE.sub("", _plain(text), count=1)
    near = range(-BEHIND, AHEAD + 1)
    return frozenset(n for n in near if _pattern(n, (today + timedelta(n)).weekday()).fullmatch(plain))


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


@lru_cache(maxsize=1 << 14)
def _plain(text: str) -> str:
    """A normalised text without accents."""
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


@lru_cache(maxsize=1 << 10)
def _pattern(offset: int, weekday: int) -> re.Pattern:
    """What may be said for the day `offset` days from today, which is that weekday."""
    names = "|".join(_weekdays()[weekday])
    ways = [_WORDS[offset]] if offset in _WORDS else []
    if offset > 1:
        digits = str(offset)
        words = [*WORDS.get(digits, ()), *filter(None, [CHINESE.get(digits)])]
        n = "|".join([digits, *map(_plain, words)])
        ways.append(rf"(?:in (?:{n}) (?:days|tagen)|en (?:{n}) dias|dans (?:{n}) jours|(?:{n}) ?天[之以]?后)")
    if 0 <= offset <= 7:
        ways.append(
            rf"(?<!next )(?<!last )(?<!past )(?<!letzten )(?<!上)(?<!下)(?<!下个)"
            rf"(?:{names})(?: this week)?(?! {_LAST_AFTER}\b)"
        )
    if 1 <= offset <= AHEAD:
        ways.append(rf"{_NEXT_BEFORE} ?(?:{names})|(?:{names}) {_NEXT_AFTER}")
    if -BEHIND <= offset < 0:
        ways.append(rf"{_LAST_BEFORE} ?(?:{names})|(?:{names}) {_LAST_AFTER}")
    whole = "|".join(ways) or "(?!)"
    return re.compile(rf"(?<![a-z])(?:{whole})(?![a-z])")


@lru_cache
def _weekdays() -> list[list[str]]:
    """The names of each weekday, from Monday, in all languages, in normalised spelling without accents."""
    from babel import Locale

    names: list[list[str]] = [[] for _ in range(7)]
    for language in LANGUAGES:
        days = Locale(language).days["format"]
        for form in ("wide", "abbreviated") if language == "zh" else ("wide",):
            for number, name in days[form].items():
                names[number].append(_plain(normalise(name)))
    for spelled in names:
        spelled += [name.replace("星期", "礼拜") for name in spelled if name.startswith("星期")]
        spelled += ["星期天", "周天", "礼拜天"] if "周日" in spelled else []
    return names
