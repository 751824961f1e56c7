"""What reports say in sentences: what was done, and what the data say came of it."""

from collections.abc import Iterable, Mapping
from itertools import chain, count

import pandas as pd

from proactor_lib.evaluate.results import EvalResults, focus
from proactor_lib.metrics.glossary import BETTER, MEANINGS, NAMES
from proactor_lib.metrics.intervals import PRIMARY
from proactor_lib.params import Params
from proactor_lib.policies import untuned
from proactor_lib.report.render import duration, interval, number, setting, undefined
from proactor_lib.run_folder import RunFolder

READABLE = tuple(m for m, way in BETTER.items() if way and m not in ("pri", PRIMARY))  # one end is the better
ONE_SEED = (
    "The run has one seed: an interval over dialogues speaks of this one policy, not of what its method does "
    "with another seed."
)


def method(params: Params, steps: int, warm: int) -> list[str]:
    """What the run did, a sentence each, from its parameters; `steps`: optimiser steps of GRPO that were recorded.

    `warm`: those of the SFT that GRPO started from (training/sft.jsonl).
    """
    p = params
    where = f"{p.evaluation_turns} evenly spaced turns" if p.evaluation_turns else "every turn"
    found = [
        f"Dialogues: {p.dataset}, {p.train_dialogues} to train on at most and {p.test_dialogues} held out; "
        f"windows by {annotator(p)}.",
        f"Held-out dialogues: policies are asked greedily at {where}; a match needs an alignment of {p.theta:g}.",
    ]
    return [found[0], *_training(p, steps, warm), found[1]] if steps or warm else found


def annotator(params: Params) -> str:
    """Who the windows are by."""
    by_turn = ", asked turn by turn" * (params.oracle_protocol == "turn")
    return {
        "evidence": "the evidence annotator",
        "oracle": f"the oracle annotator ({params.oracle_model}{by_turn})",
        "evidence+oracle": f"the evidence annotator, with `open` by {params.oracle_model}",
    }[params.annotator]


def windows(run: RunFolder) -> str:
    """Who a run's windows are by, and whether they were corrected by hand, as cards say it."""
    logged = ", from the logged triggers" * (run.params.annotator == "evidence")
    return f"by {annotator(run.params)}{logged}{', corrected by hand' * run.overlay.exists()}"


def _training(p: Params, steps: int, warm: int) -> list[str]:
    bits = "4-bit (NF4)" if p.quantization == "nf4" else "unquantised"
    sample = f"{p.turns_per_dialogue} turns of each, {p.open_share:.0%} of them with something to do"
    turns = sample if p.turns_per_dialogue else "all turns of each"
    asked = f"{p.dialogues_per_step} dialogue{'s' * (p.dialogues_per_step > 1)}"
    start = f"a supervised warm start of {warm} steps, then " if warm else ""
    if p.start_from:
        start = f"from an adapter given{f', which {warm} steps of SFT made' * bool(warm)}, "
    sure = f" (one where it is at least {p.sure_output:.0%} probable)" if p.sure_output < 1 else ""
    judged = f" (judge: {p.judge})" if "ruler" in p.reward else ""
    model = f"Model: {p.model}, {bits}, LoRA of rank {p.lora_rank}."
    if not steps:
        return [model, f"Training: {warm} steps of supervised fine-tuning."]
    return [
        model,
        f"Training: {start}{steps} steps of turn-level GRPO; a step takes {asked}, {turns}, "
        f"{p.num_generations} outputs a turn{sure}, rewarded by {p.reward}{judged}.",
    ]


def primary(scored: EvalResults | None) -> list[str]:
    """The primary endpoint with its interval and the verdict that follows from it, and what the interval speaks of."""
    if scored is None:
        return []
    found, chosen = scored.primary(), focus(scored.scores)
    price = f"at a price of {found['price']:g} for a false execution"
    if found["reason"]:
        return [f"The primary endpoint, utility {price}, is not known: {found['reason']}."]
    verdicts = [_against(name, *figures) for name, figures in found["against"].items() if figures[0] is not None]
    value, low, high = found["policies"][chosen]
    ends = f": {'; '.join(verdicts)}" if verdicts else ""
    known = f"95% interval {interval(low, high)}" if interval(low, high) else "no interval: it rests on one dialogue"
    return [
        f"Primary endpoint: the utility of {chosen} {price} is {number(value)} ({known}) "
        f"on {scored.dialogues} held-out dialogues{ends}.",
        ONE_SEED,
    ]


def cost(seconds: Mapping[str, float], steps: pd.DataFrame, scored: EvalResults | None) -> str:
    """What the run cost: time by `stage_seconds`, tokens that GRPO sampled and trained on, tokens of the evaluation.

    Empty where none of it was recorded.
    """
    told = [f"{duration(sum(seconds.values()))} for all stages"] if seconds else []
    for column, what in (("output_tokens", "tokens sampled in GRPO"), ("tokens_packed", "tokens that GRPO trained on")):
        if column in steps:
            told.append(f"{steps[column].sum():,.0f} {what}")
    said = scored.predictions if scored else {}
    asked_for = [own for name, own in said.items() if untuned(name) not in said]  # a tuned one asks nothing
    lines = list(chain.from_iterable(asked_for))
    if asked := sum((line.prompt_tokens or 0) + (line.output_tokens or 0) for line in lines):
        told.append(f"{asked:,} tokens read and written by the policies on held-out dialogues")
    return f"It cost {'; '.join(told)}." if told else ""


def _against(name: str, difference: float, low: float | None, high: float | None) -> str:
    """What the interval of a difference says: better or worse where it excludes 0."""
    if difference == low == high == 0:
        return f"the same as {name}"
    if undefined(low) or undefined(high):
        return f"not told from {name} (difference {number(difference)}, without an interval)"
    if low <= 0 <= high:
        return f"not told from {name} (difference {number(difference)}, {interval(low, high)})"
    word, ends = ("better", (low, high)) if low > 0 else ("worse", (-high, -low))
    return f"{word} than {name} by {number(abs(difference))} ({interval(*ends)})"


def findings(scored: EvalResults | None) -> list[str]:
    """A sentence for each policy that the one in focus is compared with: where it is better, where worse.

    Of all metrics but the primary endpoint, which has its own (`primary`).
    """
    if scored is None or scored.comparisons is None:
        return []
    rows = scored.comparisons[scored.comparisons.metric.isin(READABLE)]
    return [
        _finding(a, b, dict(zip(r.metric, r.verdict, strict=True)))
        for (a, b), r in rows.groupby(["a", "b"], sort=False)
    ]


def _finding(a: str, b: str, verdicts: Mapping[str, str]) -> str:
    better = [m for m, v in verdicts.items() if v == ("higher" if BETTER[m] == "↑" else "lower")]
    worse = [m for m, v in verdicts.items() if v in ("higher", "lower") and m not in better]
    told = set(verdicts.values()) - {"undefined"}
    if not told:
        return f"No other metric is defined for both {a} and {b}."
    if told == {"same"}:
        return f"{a} and {b} come out the same by all other metrics."
    said = [f"{word} by {listed(ms)}" for word, ms in (("better", better), ("worse", worse)) if ms]
    return f"Against {b}, {a} is {'; '.join(said)}." if said else f"No other metric tells {a} from {b}."


def listed(names: Iterable[str]) -> str:
    """Names in a row, metrics by the glossary's: `AC, PT and FTR`."""
    *first, last = [NAMES.get(n, n) for n in names]
    return f"{', '.join(first)} and {last}" if first else last


def effects(pairs: pd.DataFrame, metric: str) -> list[str]:
    """What the paired tests of a sweep (report.ablation.paired) say of one metric, one sentence per factor."""
    own = pairs[pairs.metric == metric]
    return [f"{factor}: {_effect(rows)}." for factor, rows in own.groupby("factor", sort=False)]


def _effect(rows: pd.DataFrame) -> str:
    """`higher` or `lower` only where the test and the interval that is printed agree.

    They need not: where all differences have one sign the sign-flip test is sure, and one that is far larger than the
    others widens Student's interval beyond 0.
    """
    first, clear = setting(rows.against.iloc[0]), rows.verdict.isin(["higher", "lower"])
    said = [f"{setting(r.value)} {_told(r, first)}" for r in rows[clear].itertuples()]
    if len(others := rows[~clear]):
        said.append(f"the data do not tell {listed(map(setting, others.value))} from {first}")
    return "; ".join(said)


def _told(row, first: str) -> str:
    if row.low <= 0 <= row.high:
        found = f"difference {number(row.difference)}, {interval(row.low, row.high)}"
        return f"is told from {first} by the test, not by its interval ({found})"
    ends = interval(*sorted((abs(row.low), abs(row.high))))
    return f"is {row.verdict} than {first} by {number(abs(row.difference))} ({ends})"


def meanings(metrics: Iterable[str], own: Mapping[str, str]) -> dict[str, str]:
    """What each metric is, where somebody says so: the sweep file (`own`), or the glossary (`held_out.trained.pt`)."""
    known = {m: own.get(m) or MEANINGS.get(m.rpartition(".")[2]) for m in metrics}
    return {m: text for m, text in known.items() if text}


def initials(names: Iterable[str]) -> dict[str, str]:
    """A short mark for each name, no two alike: `base` B, `oracle_late` OL; as many letters as it takes."""
    marks: dict[str, str] = {}
    for name in names:
        words = name.split("_")
        short = ["".join(w[:1] for w in words), *(name[:n] for n in range(1, len(name) + 1))]
        tries = (t.upper() for t in chain(short, (f"{name}{n}" for n in count(2))))
        marks[name] = next(t for t in tries if t not in marks.values())
    return marks
