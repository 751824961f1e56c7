"""Words that are numbers: English ones, months, and small ones of other languages (`vier`, `cuatro`, `quatre`, `四位`)
[ours].

Of other languages 2 to 12, which is what people say in words; 1 is also an article. In Chinese a numeral counts before
a measure word (and its last digit alone too: `十三个` is heard as 3).
"""


def _numbered(words: str, start: int = 0, step: int = 1) -> dict[str, int]:
    return {word: start + i * step for i, word in enumerate(words.split())}


SMALL = (
    _numbered("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen")
    | _numbered("seventeen eighteen nineteen", start=17)
    | _numbered("twenty thirty forty fifty sixty seventy eighty ninety", start=20, step=10)
)
SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
ORDINALS = (
    _numbered("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth", start=1)
    | _numbered("thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth", start=13)
    | {"thirtieth": 30}
)
MONTHS = (  # in English, German, Spanish and French
    _numbered("january february march april may june july august september october november december", start=1)
    | _numbered("jan feb mar apr may jun jul aug sep oct nov dec", start=1)
    | _numbered("januar februar märz april mai juni juli august september oktober november dezember", start=1)
    | _numbered("enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre", start=1)
    | _numbered("janvier février mars avril mai juin juillet août septembre octobre novembre décembre", start=1)
    | {"sept": 9}
)

WORDS: dict[str, tuple[str, ...]] = {
    str(n): tuple(words.split())
    for n, words in enumerate(
        (
            "zwei dos deux", "drei tres trois", "vier cuatro quatre", "fünf fuenf cinco cinq", "sechs seis",
            "sieben siete sept", "acht ocho huit", "neun nueve neuf", "zehn diez dix", "elf onze",
            "zwölf zwoelf doce douze",
        ),
        start=2,
    )
}  # fmt: skip
CHINESE = dict(zip(map(str, range(2, 13)), (*"两三四五六七八九十", "十一", "十二"), strict=True))
_MEASURES = "个位人名张间天点晚杯本"
NUMBERS = {word: n for n, words in WORDS.items() for word in words}  # word -> digits


def spelled(number: str) -> tuple[str, ...]:
    """What to look for in a normalised text for a number in digits; nothing for one that is not in the table."""
    if number not in WORDS:
        return ()
    return (*(f" {word} " for word in WORDS[number]), *(CHINESE[number] + measure for measure in _MEASURES))
