"""Other people's conversations as an own domain: a catalog, dialogues with their logged actions, splits, and a page.

The page, `import.md`, says what was read, what was guessed and what was left out.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from proactor_lib.catalog.json_schema import clean
from proactor_lib.comparison import sought
from proactor_lib.datasets import jsonl
from proactor_lib.datasets.conversations import CALENDAR, Call, Conversation, Notes, Spoken
from proactor_lib.datasets.inferred import completed, flat
from proactor_lib.days import says_day
from proactor_lib.errors import UserError
from proactor_lib.files import atomic, make_folder
from proactor_lib.schema import Action, Catalog, Dialogue, ObservedAction, Turn
from proactor_lib.values import Heard

SPLITS = ("train", "dev", "test")
PAGE = "import.md"


@dataclass(frozen=True)
class Imported:
    """What an import read."""

    catalog: Catalog
    dialogues: tuple[Dialogue, ...]
    notes: Notes

    @property
    def counts(self) -> dict[str, int | bool]:
        """Of the dialogues: how many, their turns, logged actions and values; whether anything is logged."""
        observed = [o for d in self.dialogues for o in d.observed or ()]
        return {
            "dialogues": len(self.dialogues),
            "turns": sum(len(d.turns) for d in self.dialogues),
            "dated_dialogues": sum(d.date is not None for d in self.dialogues),
            "timed_turns": sum(t.start is not None for d in self.dialogues for t in d.turns),
            "actions": len(self.catalog.actions),
            "logged": self.logged,
            "observed_actions": len(observed),
            "values": sum(len(o.params) for o in observed),
            "values_from_results": sum(len(o.evidence) for o in observed),
        }

    @property
    def logged(self) -> bool:
        """Whether the dialogues have a log of triggers."""
        return any(d.observed is not None for d in self.dialogues)


def collect(
    conversations: Sequence[Conversation],
    given: Sequence[Action],
    domain: str,
    logged: bool,
    notes: Notes,
    final: Container[str] = (),
    version: str = "1",
) -> Imported:
    """The conversations as dialogues of one catalog: `given` first, then their own tools, then what is only called.

    logged: whether a conversation without a call is one in which nothing was triggered; final: names of given actions
    that are not guessed at, for they come from a catalog, and `version` that catalog's. UserError where nobody speaks
    in any, or where there is no action at all.
    """
    actions = _described(given, conversations, notes)
    actions = completed(actions, [call for c in conversations for call in c.calls], notes.guessed, final)
    if not actions:
        raise UserError("nothing says what could be triggered: name the actions with --tools FILE or --triggers FILE")
    catalog = Catalog(domain=domain, version=version, actions=actions)
    reader = _Reader(catalog, logged, len({c.tools for c in conversations}) > 1 and not given)
    dialogues = tuple(reader.dialogue(c, id) for c, id in _identified(conversations, notes))
    if not dialogues:
        raise UserError("nobody speaks in what was read: no dialogue could be made")
    ours = {a.name for a in given}
    return Imported(_with_sources(catalog, reader.sources, ours, notes), dialogues, notes)


def _described(given: Sequence[Action], conversations: Sequence[Conversation], notes: Notes) -> tuple[Action, ...]:
    """Each action as it is described first."""
    by_name = {a.name: a for a in given}
    for conversation in conversations:
        for action in conversation.tools:
            if by_name.setdefault(action.name, action) != action:
                notes.left_out.add(
                    f"another description of the tool {action.name!r}: the first counts", conversation.id
                )
    return tuple(by_name.values())


def _identified(conversations: Sequence[Conversation], notes: Notes) -> list[tuple[Conversation, str]]:
    """Those in which somebody speaks, each with an id of its own."""
    named: dict[str, Conversation] = {}
    for conversation in conversations:
        if not conversation.spoken:
            notes.left_out.add("a conversation in which nobody speaks", conversation.id)
            continue
        id, number = conversation.id, 1
        while id in named:
            number += 1
            id = f"{conversation.id}-{number}"
        if number > 1:
            notes.guessed.add("the id of another conversation before: it got a number", id)
        named[id] = conversation
    return [(c, id) for id, c in named.items()]


@dataclass
class _Reader:
    """Makes dialogues; counts for each parameter how many of its values people said, and how many results had."""

    catalog: Catalog
    logged: bool
    own_tools: bool  # whether a dialogue is shown its own tools alone
    sources: dict[tuple[str, str], Counter] = field(default_factory=dict)

    def dialogue(self, conversation: Conversation, id: str) -> Dialogue:
        """A call before any turn belongs to the first."""
        self.said: list[Heard] = []
        self.answered: list[tuple[int, Heard]] = []  # with the turn before each
        self.origin, self.date = origin(conversation.spoken), conversation.date
        observed = []
        for event in conversation.events:
            turn = max(1, len(self.said))
            if isinstance(event, Spoken):
                self.said.append(Heard(event.text))
            elif isinstance(event, Call):
                observed.append(self.observed(event, turn))
            else:
                self.answered.append((turn, Heard(event.text)))
        shown = {a.name for a in conversation.tools} | {o.name for o in observed} if self.own_tools else ()
        return Dialogue(
            id=id,
            domain=self.catalog.domain,
            turns=turns(conversation.spoken),
            **({"observed": tuple(observed)} if self.logged else {}),
            **({"date": conversation.date} if conversation.date else {}),
            **({"actions": tuple(a.name for a in self.catalog.actions if a.name in shown)} if shown else {}),
        )

    def observed(self, call: Call, turn: int) -> ObservedAction:
        name = clean(call.name)
        params = flat(call.arguments, {p.name for p in self.catalog.by_name[name].params})
        time = {} if call.time is None else {"time": max(0.0, round(call.time - self.origin, 3))}
        action = ObservedAction(turn=turn, name=name, params=params, **time)
        known = {p: self.known(name, p, value) for p, value in action.params.items()}
        evidence = {p: first for p, first in known.items() if first is not None}
        return action.model_copy(update={"evidence": evidence}) if evidence else action

    def known(self, action: str, param: str, value: str) -> int | None:
        """The turn by which results had what nobody says of the value; None where they did not, or all was said."""
        counted = self.sources.setdefault((action, param), Counter())
        first = []
        for part in sought(value):
            said = next((i for i, text in enumerate(self.said, start=1) if self.has(text, part)), None)
            answered = next((i for i, text in self.answered if said is None and self.has(text, part)), None)
            counted["said" if said else "answered" if answered else "nowhere"] += 1
            first.append((said or answered, answered))
        found = first and all(turn for turn, _ in first) and any(answered for _, answered in first)
        return max(turn for turn, _ in first) if found else None

    def has(self, text: Heard, value: str) -> bool:
        return text.says(value) or (self.date is not None and says_day(text, value, self.date))


def origin(spoken: Sequence[Spoken]) -> float:
    """What turns are timed from: the first one where their time stamps are the calendar's, else 0."""
    first = min((s.start for s in spoken if s.start is not None), default=0.0)
    return first if first >= CALENDAR else 0.0


def turns(spoken: Sequence[Spoken]) -> tuple[Turn, ...]:
    """The turns, with the times that they have, in seconds into the dialogue; one before its start is 0."""
    zero, made = origin(spoken), []
    for s in spoken:
        times = {name: getattr(s, name) for name in ("start", "end")}
        times = {name: max(0.0, round(time - zero, 3)) for name, time in times.items() if time is not None}
        made.append(Turn(speaker=s.speaker, text=s.text, **times))
    return tuple(made)


def _with_sources(catalog: Catalog, sources: dict, ours: set[str], notes: Notes) -> Catalog:
    """Parameters whose values results gave more often than people have the source `system`, except in `ours`."""
    system = {place for place, counted in sources.items() if counted["answered"] > counted["said"]}
    system = {(action, param) for action, param in system if action not in ours}
    for action, param in sorted(system):
        notes.guessed.add("values that results gave more often than people (source: system)", f"{action}.{param}")

    def sourced(action: Action) -> Action:
        params = (
            p.model_copy(update={"source": "system"}) if (action.name, p.name) in system else p for p in action.params
        )
        return action.model_copy(update={"params": tuple(params)})

    return catalog.model_copy(update={"actions": tuple(map(sourced, catalog.actions))})


def split(dialogues: Sequence[Dialogue], shares: Sequence[float], seed: int) -> dict[str, list[Dialogue]]:
    """Each split's dialogues, drawn by seed and by what is said: word for word the same ones stay together.

    shares: of train, dev and test, their sum 1 (UserError if not). Where there are as many different dialogues as
    splits, no split that has a share is empty.
    """
    if len(shares) != len(SPLITS) or not (min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6):
        raise UserError(
            f"--split {','.join(map(str, shares))}: three shares (train, dev, test) with the sum 1 are wanted"
        )
    same: dict[bytes, list[Dialogue]] = {}
    for d in dialogues:
        words = "\n".join(f"{t.speaker}: {t.text}" for t in d.turns)
        same.setdefault(hashlib.sha256(f"{seed} {words}".encode()).digest(), []).append(d)
    groups = [same[key] for key in sorted(same)]
    parts, start = {}, 0
    for name, count in zip(SPLITS, _counts(len(groups), shares), strict=True):
        parts[name] = [d for group in groups[start : start + count] for d in group]
        start += count
    return parts


def _counts(total: int, shares: Sequence[float]) -> list[int]:
    """`total` by shares, by the largest remainders; one at least for each share, taken from the largest."""
    counts = [int(total * share + 1e-9) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - total * shares[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    for i, share in enumerate(shares):
        if share > 0 and not counts[i] and max(counts) > 1:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    return counts


def write(imported: Imported, out: Path, parts: dict[str, list[Dialogue]], sources: Sequence[Path]) -> None:
    """The own-domain folder and its page. An earlier import there is replaced once all of the new one is written;
    UserError where that would be a file that is imported, or another's."""
    names = ["catalog.json", *(f"{split}.jsonl" for split in SPLITS)]
    make_folder(out)
    _refuse_to_destroy([out / name for name in names], out, sources)
    with TemporaryDirectory(prefix=".import-", dir=out) as folder:
        aside = Path(folder)
        for split, dialogues in parts.items():
            if dialogues:
                jsonl.write(aside, split, imported.catalog, dialogues)
        with atomic(aside / PAGE) as f:
            f.write(page(imported, parts, sources))
        for name in (PAGE, *names):  # the page first: by it a later import knows the folder
            if (aside / name).exists():
                os.replace(aside / name, out / name)
            else:
                (out / name).unlink(missing_ok=True)


def _refuse_to_destroy(targets: Sequence[Path], out: Path, sources: Sequence[Path]) -> None:
    read, ours = {source.resolve() for source in sources}, (out / PAGE).exists()
    for target in targets:
        if target.resolve() in read:
            raise UserError(f"{target} is what is imported, and would be replaced: name another folder with --out")
        if target.exists() and not ours:
            raise UserError(
                f"{out} holds another domain (a {target.name} without {PAGE}): name another folder with --out"
            )


def page(imported: Imported, parts: dict[str, list[Dialogue]], sources: Sequence[Path]) -> str:
    """Markdown: what was read, guessed and left out."""
    counts = imported.counts
    sizes = ", ".join(f"{name} {len(dialogues)}" for name, dialogues in parts.items())
    dated = f", {counts['dated_dialogues']} of a known day" if counts["dated_dialogues"] else ""
    timed = f", {counts['timed_turns']} with time stamps" if counts["timed_turns"] else ""
    log = (
        f"{counts['observed_actions']} logged actions with {counts['values']} values, "
        f"{counts['values_from_results']} of them known from tools' results alone"
        if imported.logged
        else "no log of triggers: windows need the oracle annotator (`--annotator oracle`)"
    )
    empty = [name for name, dialogues in parts.items() if not dialogues]
    full = max(parts, key=lambda name: len(parts[name]))
    named = ", ".join(f"`{name}_split: {full}`" for name in empty)
    read = [
        f"from {', '.join(p.name for p in sources)}",
        f"{counts['dialogues']} dialogues ({sizes}){dated}, {counts['turns']} turns{timed}",
        *([f"no dialogue for {' and '.join(empty)}: a run can take some of {full}'s ({named})"] if empty else []),
        log,
        f"{counts['actions']} actions: {', '.join(a.name for a in imported.catalog.actions)}",
    ]
    parts_of_page = {"Read": read, "Guessed": imported.notes.guessed, "Left out": imported.notes.left_out}
    texts = [
        f"## {title}\n\n" + "".join(f"- {s}\n" for s in list(lines) or ["nothing"])
        for title, lines in parts_of_page.items()
    ]
    end = "Correct in `catalog.json` what is guessed: types, `required`, `match`, `source`, `effect`, descriptions."
    end += " An import with `--tools catalog.json` leaves it as it is.\n"
    return "\n".join([f"# Import: {imported.catalog.domain}\n", *texts, end])
