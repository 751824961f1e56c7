"""Small numbers in words, where they are not English: `vier`, `cuatro`, `quatre`, `四位` [ours].

2 to 12, which is what people say in words; 1 is also an article. In Chinese a numeral counts before a measure word
(and its last digit alone too: `十三个` is heard as 3).
"""

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
