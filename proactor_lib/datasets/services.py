"""Services: which of them a dialogue is shown, and which of them training may not see [ours].

A service is a group of actions (SGD's `Restaurants_1`). A catalog of only those that a dialogue will use would tell the
future, so it is shown others too. Dialogues that name no services are shown what their corpus says.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from proactor_lib import agent
from proactor_lib.datasets import Corpus, Scope
from proactor_lib.errors import UserError
from proactor_lib.schema import Case, Catalog, Dialogue

HELD_OUT = 0.2  # share of the services that a corpus whose splits share all of them holds out
BYTES_PER_TOKEN = 3  # at least, in UTF-8: SGD's prompts have 3.05 to 3.9 in a vocabulary of 49,000


def groups(catalog: Catalog) -> set[str]:
    """The catalog's services."""
    return {a.group for a in catalog.actions}


def without(corpus: Corpus, hidden: frozenset[str]) -> Corpus:
    """The corpus with a catalog that lacks these services."""
    return replace(
        corpus, catalog=corpus.catalog.subset(tuple(a.name for a in corpus.catalog.actions if a.group not in hidden))
    )


def widened(corpus: Corpus, scope: Scope, distractors: int, seed: int, tokens: int) -> Corpus:
    """The corpus with each dialogue's `actions` set to what it is shown: its own services', and by `scope` others'.

    `dialogue`: no others; `distractors`: that many, drawn by seed and dialogue id; `all`: all. They are fewer where the
    prompt of the last turn could have more than `tokens` tokens, by its length in bytes.
    """
    if scope == "dialogue":
        return corpus
    count = distractors if scope == "distractors" else len(corpus.catalog.actions)
    return replace(corpus, dialogues=tuple(_widened(d, corpus.catalog, count, seed, tokens) for d in corpus.dialogues))


def _widened(dialogue: Dialogue, catalog: Catalog, count: int, seed: int, tokens: int) -> Dialogue:
    if not dialogue.services:
        return dialogue
    others = sorted(groups(catalog) - set(dialogue.services))
    drawn = random.Random(f"{seed} {dialogue.id}").sample(others, min(count, len(others)))
    actions = dialogue.actions or tuple(a.name for a in catalog.actions if a.group in dialogue.services)
    for service in drawn:
        wider = (*actions, *(a.name for a in catalog.actions if a.group == service))
        if _tokens(dialogue, catalog.subset(wider)) > tokens:
            break
        actions = wider
    return dialogue.model_copy(update={"actions": actions})


def _tokens(dialogue: Dialogue, catalog: Catalog) -> int:
    """The most tokens that the prompt of the last turn may have."""
    prompt = agent.prompt(Case(dialogue, (), catalog), len(dialogue.turns))
    return -(-len(prompt.encode()) // BYTES_PER_TOKEN)


def unseen(train: Catalog, test: Catalog, seed: int) -> frozenset[str]:
    """The services that training may not see: those of test's catalog alone, as SGD has them; else a fifth, drawn.

    UserError where there are fewer than two services.
    """
    everything = sorted(groups(train) | groups(test))
    if len(everything) < 2:
        raise UserError(f"split_by: 'service' needs two services or more; the catalog has {everything}")
    if only_test := groups(test) - groups(train):
        return frozenset(only_test)
    count = max(1, round(HELD_OUT * len(everything)))
    return frozenset(random.Random(f"{seed} services").sample(everything, count))


def belongs(dialogue: Dialogue, hidden: frozenset[str], held_out: bool) -> bool:
    """Whether a split may have the dialogue: all of its services are hidden from training (`held_out`), or none is.

    UserError where it names no services.
    """
    if not dialogue.services:
        raise UserError(f"split_by: 'service' needs dialogues that name their services; {dialogue.id!r} names none")
    return set(dialogue.services) <= hidden if held_out else not set(dialogue.services) & hidden


def kinds(dialogues: Sequence[Dialogue], training: Sequence[Dialogue]) -> dict[str, str]:
    """By dialogue id, `seen` where all of its services are some training dialogue's, else `unseen`, as SGD has it.

    Dialogues that name no services are left out.
    """
    known = {service for d in training for service in d.services}
    return {d.id: "seen" if set(d.services) <= known else "unseen" for d in dialogues if d.services}
