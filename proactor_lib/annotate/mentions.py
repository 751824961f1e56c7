"""The words by which an action is mentioned: those that only it has, or only its group. [ours]"""

import re
from collections import Counter
from functools import lru_cache

ENDING = 3  # letters of a word that may differ: identity, identify; prequalify, prequalification
# Words of names and descriptions that any sentence may have.
EVERYWHERE = {
    "about", "after", "all", "and", "any", "are", "ask", "been", "before", "for", "from", "get", "give", "have",
    "her", "his", "how", "in", "into", "is", "it", "its", "know", "like", "make", "may", "more", "new", "not", "of",
    "off", "on", "once", "only", "or", "other", "our", "out", "over", "please", "put", "say", "see", "set", "she",
    "should", "some", "still", "take", "tell", "than", "that", "the", "their", "them", "then", "there", "these",
    "they", "this", "to", "under", "up", "use", "using", "want", "was", "when", "where", "which", "while", "who",
    "will", "with", "would", "you", "your",
}  # fmt: skip

_WORD = re.compile(r"[A-Z]?[a-z]+(?<=[A-Za-z]{2})")


@lru_cache(maxsize=16)
def stems_of(
    wording: tuple[tuple[str, str], ...], groups: tuple[tuple[str, str], ...]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The stems of each action's words that no other action has, and of each group's that no other group has, as they
    stand in a normalised text.

    A name's word of two letters stands alone (` id `), a longer one may end otherwise; a description's words of less
    than four letters, and words that any sentence may have, say nothing.
    """
    stems, group_of = {}, dict(groups)
    for name, text in wording:
        words = [*_WORD.findall(name), *(w for w in _WORD.findall(text) if len(w) > 3)]
        stems[name] = {_stem(w.lower()) for w in words if w.lower() not in EVERYWHERE}
    shared = Counter(s for of_one in stems.values() for s in of_one)
    own = {name: [s for s in of_one if shared[s] == 1] for name, of_one in stems.items()}
    places: dict[str, set[str]] = {}
    for name, of_one in stems.items():
        for s in of_one:
            places.setdefault(s, set()).add(group_of.get(name, name))
    of_groups: dict[str, list[str]] = {}
    for s, where in places.items():
        if len(where) == 1 and shared[s] > 1:
            of_groups.setdefault(*where, []).append(s)
    return own, of_groups


def _stem(word: str) -> str:
    return f" {word} " if len(word) == 2 else f" {word[: max(4, len(word) - ENDING)]}"
