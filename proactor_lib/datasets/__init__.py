"""Conversations from public corpora, from anyone's own domain, and from the home-loan simulator."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from proactor_lib.errors import UserError
from proactor_lib.schema import Catalog, Dialogue, DialogueReferences

CORPORA = (
    "sgd",
    "abcd",
    "star",
    "harper",
    "jsonl",
)  # each a module here: `read(folder, split) -> (Catalog, dialogues)`
DATASETS = ("homeloan", *CORPORA)
# Under which licence each may be passed on; an own domain (`jsonl`) says so itself.
LICENSES = {"homeloan": "apache-2.0", "sgd": "cc-by-sa-4.0", "abcd": "mit", "star": "mit"}
Scope = Literal["dialogue", "distractors", "all"]  # what a dialogue is shown, see `services.widened`
Transcript = Literal["human", "recogniser"]  # of Harper Valley's calls: the transcribers' words or the recogniser's
Variant = Literal["v1", "v2", "v3", "v4", "v5"]  # of SGD's wording, from the nearest to the farthest, see `sgd_x`


@dataclass(frozen=True)
class Corpus:
    """A split of a dataset."""

    catalog: Catalog
    dialogues: tuple[Dialogue, ...]
    truth: tuple[DialogueReferences, ...] | None = None  # the true windows, in the dialogues' order (simulator only)
    too_long: int = 0  # dialogues left out for their turns, of those looked at

    @property
    def logged(self) -> bool:
        """Whether every dialogue has a log of triggers."""
        return all(d.observed is not None for d in self.dialogues)


def load(
    dataset: str,
    data_dir: Path | str | None,
    split: str,
    limit: int | None = None,
    max_turns: int | None = None,
    seed: int = 0,
    log: bool = True,
    taken: Collection[Dialogue] = (),
    wanted: Callable[[Dialogue], bool] | None = None,
    transcript: Transcript = "human",
) -> Corpus:
    """At most `limit` dialogues of a split (None: all), of at most `max_turns` turns, `wanted`, and not in `taken`.

    A limit draws by `seed` and dialogue id: a corpus has an order, and its first dialogues are about one thing. With a
    greater limit the same dialogues come first. `seed` is the simulator's too, as `log` (whether triggers are logged);
    `transcript` is Harper Valley's.
    Raises UserError: an unknown dataset, a folder or file that is not there, a malformed line, an action or parameter
    that the catalog does not have, a split without dialogues.
    """
    if dataset not in DATASETS:
        raise UserError(f"unknown dataset {dataset!r}; accepted: {', '.join(DATASETS)}")
    if transcript not in get_args(Transcript):
        raise UserError(f"unknown transcript {transcript!r}; accepted: {', '.join(get_args(Transcript))}")
    if dataset == "homeloan":
        return _simulated(split, limit, max_turns, seed, log, wanted)
    folder = _folder(dataset, data_dir)
    more = {"transcript": transcript} if dataset == "harper" else {}
    catalog, dialogues = import_module(f"{__name__}.{dataset}").read(folder, split, **more)
    others = {(d.id, d.turns) for d in taken}
    free = (d for d in dialogues if (d.id, d.turns) not in others and (wanted is None or wanted(d)))
    kept, too_long = _keep(free if limit is None else shuffled(free, seed), lambda d: d, limit, max_turns)
    if not kept:
        left = " left over by the other splits" * bool(others) + f" of at most {max_turns} turns" * bool(too_long)
        left += " with the services that split_by leaves it" * bool(wanted)
        raise UserError(f"{folder}: split {split!r} has no dialogue{left}")
    return Corpus(catalog, tuple(kept), too_long=too_long)


def read_catalog(dataset: str, data_dir: Path | str | None, split: str) -> Catalog:
    """The split's catalog alone. Raises as `load`."""
    if dataset == "homeloan":
        from proactor_lib.datasets import homeloan

        return homeloan.catalog()
    return import_module(f"{__name__}.{dataset}").read(_folder(dataset, data_dir), split)[0]


def shuffled(dialogues: Iterable[Dialogue], seed: int) -> list[Dialogue]:
    """The dialogues in an order that depends on the seed and on each one's id alone."""
    return sorted(dialogues, key=lambda d: hashlib.sha256(f"{seed} {d.id}".encode()).digest())


def _folder(dataset: str, data_dir: Path | str | None) -> Path:
    if data_dir is None:
        raise UserError(f"dataset {dataset!r} needs a data folder (data_dir, --data-dir)")
    folder = Path(data_dir)
    if not folder.is_dir():
        raise UserError(f"data folder {folder} is not there")
    return folder


def _simulated(split: str, limit: int | None, max_turns: int | None, seed: int, log: bool, wanted) -> Corpus:
    from proactor_lib.datasets import homeloan

    if max_turns is not None and max_turns < homeloan.TURNS[0]:
        raise UserError(f"max_turns {max_turns} leaves no simulated call: they have {homeloan.TURNS[0]} turns or more")
    limit = homeloan.size(split) if limit is None else limit
    calls = (call for call in homeloan.calls(split, seed, log) if wanted is None or wanted(call[0]))
    kept, too_long = _keep(calls, lambda call: call[0], limit, max_turns)
    dialogues, truth = zip(*kept, strict=True)
    return Corpus(homeloan.catalog(), dialogues, truth=truth, too_long=too_long)


def _keep(items: Iterable, dialogue: Callable, limit: int | None, max_turns: int | None) -> tuple[list, int]:
    """The first `limit` items whose dialogue is short enough, and how many before them were not."""
    too_long = 0

    def short() -> Iterator:
        nonlocal too_long
        for item in items:
            if max_turns is None or len(dialogue(item).turns) <= max_turns:
                yield item
            else:
                too_long += 1

    return list(islice(short(), limit)), too_long
