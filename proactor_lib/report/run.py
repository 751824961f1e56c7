"""The report of one run."""

import json
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from proactor_lib import events, plots, provenance
from proactor_lib.artf.training import inputs
from proactor_lib.artf.training.training_log import WARM_START, read_steps
from proactor_lib.evaluate.by_service import by_service
from proactor_lib.evaluate.results import EvalResults, focus, load_or_score
from proactor_lib.evaluate.stale import stale
from proactor_lib.files import read_text, write_json
from proactor_lib.metrics import glossary, utility
from proactor_lib.metrics.published import published
from proactor_lib.params import Params, hide_keys
from proactor_lib.plots import summary
from proactor_lib.report import performance, render, text, timeline, training
from proactor_lib.run_folder import RunFolder

ENDS = ("", "_low", "_high")
FEW_DIFFER = 0.05  # of a training's groups; from SFT that had its calls by heart it was 3 and 4% [ours]
SHARES = [
    "utility", "execution_precision", "execution_recall", "ac", "max_ac", "pt", "rar", "ftr", "opportunity_timing",
    "missed", "late", "premature",
]  # fmt: skip


def build(folder: Path) -> Path:
    """Write the run's report.html and summary.json from its files; the report's path."""
    run = RunFolder.read(folder)
    steps = read_steps(run)
    scored = load_or_score(run)
    record = read_record(run)
    summary = summarise(run, steps, scored, record)
    render.write(run.report_file, "run.html.j2", **content(run, steps, scored, record, summary))
    write_json(run.summary, summary)
    events.emit(events.Reported(run.out, run.report_file))
    return run.report_file


def frame(folder: Path) -> pd.DataFrame:
    """The main table: one row per policy, its metrics with intervals; empty without predictions."""
    scored = load_or_score(RunFolder.read(folder))
    return pd.DataFrame(
        [
            {"policy": policy} | {m + end: v for m, vs in metrics.items() for end, v in zip(ENDS, vs, strict=True)}
            for policy, metrics in (scored.as_json() if scored else {}).items()
        ]
    )


def read_record(run: RunFolder) -> dict:
    """What `proactor run` wrote down, else a sweep of its cell; where notebooks were run by hand, only where the run

    was begun, if that is known. `provenance` None: it is not. The machine and the code of whoever reports may be others
    than the run's.
    """
    if (path := run.out / "run.json").exists():
        return json.loads(read_text(path))
    cell = json.loads(read_text(path)) if (path := run.out / "cell.json").exists() else {}
    seconds = {"cell": cell["seconds"]} if cell.get("seconds") else {}
    return {
        "stage_seconds": seconds, "peak_memory_gb": cell.get("peak_memory_gb"), "stages": {}, "provenance": _begun(run),
    }  # fmt: skip


def _begun(run: RunFolder) -> dict | None:
    """Where and by which code the run was begun, if that is known."""
    return json.loads(read_text(run.origin_file)) if run.origin_file.exists() else None


def summarise(run: RunFolder, steps: pd.DataFrame, scored: EvalResults | None, record: dict) -> dict:
    """The figures that the report shows, as `summary.json` holds them."""
    return {
        "name": run.params.name,
        "question": run.params.question,
        "reward": training.gain(steps, run.params.credit),
        "mismatch": training.mismatch(steps),
        "peak_memory_gb": record["peak_memory_gb"],
        "stage_seconds": record["stage_seconds"],
        "primary": scored.primary() if scored else None,
        "held_out": scored.as_json() if scored else {},
        "ranked_against": scored.ranked_against if scored else [],
        "dialogues": scored.dialogues if scored else 0,
        "services": by_service(run, scored) if scored else {},
        "steps": len(steps),
        "warnings": warnings(run, steps, scored, record),
    }


def warnings(run: RunFolder, steps: pd.DataFrame, scored: EvalResults | None, record: dict) -> list[str]:
    """What a reader must know before believing the rest, a sentence each."""
    found = []
    stages, origin = record["stages"], record["provenance"]
    if not record["stage_seconds"]:
        found.append("The notebooks were not run by `proactor run`: times and memory are not known.")
    if origin is None:
        found.append("Nothing says by which code and on which machine this run was made.")
    found += [f"Stage {n} is not done ({s['state']}): {s['problem'] or 'it was stopped'}." for n, s in stages.items()
              if s["state"] != "done"]  # fmt: skip
    began = _begun(run)
    if len({s["code"] for s in [*stages.values(), *([began] if began and stages else [])]}) > 1:
        found.append("The stages ran on different versions of the code; a new folder makes them agree.")
    if others := inputs.changed(run):
        found.append(
            f"Policies were trained before a change of {text.listed(others)}: they learnt from what was there."
        )
    if _corrected_since(run):
        found.append("Windows were corrected by hand after training: its policies learnt from those before.")
    if origin and origin["dirty"]:
        found.append("The code had uncommitted changes: the commit alone does not tell what ran.")
    return found + _training_warnings(run, steps) + _evaluation_warnings(run, scored)


def _corrected_since(run: RunFolder) -> bool:
    """Whether corrections were written after the policy that GRPO, or else SFT, left."""
    weights = (run.training / name / "adapter_config.json" for name in ("adapter", "sft"))
    last = next((path for path in weights if path.exists()), None)
    return last is not None and run.overlay.exists() and run.overlay.stat().st_mtime > last.stat().st_mtime


def _training_warnings(run: RunFolder, steps: pd.DataFrame) -> list[str]:
    found, p = [], run.params
    if p.model == "tiny":
        found.append("The model is `tiny`, random weights: this run shows that the parts work, and nothing else.")
    if p.judge == "rubric" and "ruler" in p.reward:
        found.append("The judge is `rubric`, a programmatic stand-in computed from the windows, not a language model.")
    if steps.empty:
        return [*found, "No training steps were recorded: there is no reward curve."]
    if (left_out := int(steps.get("prompts_too_long", pd.Series([0])).sum())) > 0:
        found.append(f"{left_out} turns were left out of training, for their prompts were too long (max_context).")
    found += _alarms(steps)
    groups, alike = (int(steps.get(name, pd.Series([0])).sum()) for name in ("groups", "groups_skipped"))
    if 0 < groups - alike < FEW_DIFFER * groups:
        found.append(
            f"In {groups - alike} of {groups} groups outputs earned differently, and the others taught nothing: "
            "the start may know these dialogues by heart."
        )
    gain = training.gain(steps, p.credit)
    if gain["gain"] is None:
        found.append(f"{len(steps)} training steps are too few to compare the first fifth with the last (10 or more).")
    elif gain["gain_high"] < 0:
        ends = render.interval(gain["gain_low"], gain["gain_high"])
        found.append(
            f"The {training.GAINED[gain['of']]} fell in training: a gain of {render.number(gain['gain'])} ({ends})."
        )
    elif gain["gain_low"] <= 0:
        found.append(f"The {_gained(gain)} over training is not told apart from 0: its 95% interval reaches it.")
    apart = training.mismatch(steps)
    if p.max_staleness == 0 and ((apart["kl_mean"] or 0) > 0.01 or (apart["clipped_share"] or 0) > 0.05):
        found.append("Trainer and server are apart (KL above 0.01 or more than 5% clipped) though no sample was stale.")
    return found


def _alarms(steps: pd.DataFrame) -> list[str]:
    """What was wrong while it trained, and at how many steps."""
    held = performance.alarms(steps).alarms.str.split(", ").explode().value_counts()
    said = {
        "drift": "the servers held other weights than the trainer",
        "collapse": "no group had variance, so that nothing was learnt",
        "unscored": "most outputs had no score",
    }
    return [f"At {n} of {len(steps)} training steps {said[name]} (alarm `{name}`)." for name, n in held.items()]


def _evaluation_warnings(run: RunFolder, scored: EvalResults | None) -> list[str]:
    if scored is None:
        return ["No policy was evaluated: there is no held-out table."]
    found = []
    if old := [f"`{name}`" for name in stale(run)]:
        found.append(f"What {text.listed(old)} said is not of the dialogues, windows or weights that are there now: "
                     "`proactor evaluate` asks again.")  # fmt: skip
    if scored.dialogues < 30:
        found.append(f"Only {scored.dialogues} held-out dialogues: intervals are wide.")
    if run.params.evaluation_turns:
        found.append(f"Policies were asked at only {run.params.evaluation_turns} turns of each held-out dialogue.")
    statuses = {n: {a.status for line in lines for a in line.actions} for n, lines in scored.predictions.items()}
    if mute := [f"`{name}`" for name, said in statuses.items() if not said and name != "silent"]:
        found.append(f"{text.listed(mute)} predicted nothing at any turn: all they score is silence's.")
    if idle := [f"`{name}`" for name, said in statuses.items() if said == {"candidate"}]:
        found.append(f"{text.listed(idle)} prepared actions and triggered none: the utility is silence's.")
    for policy in scored.predictions:
        if (share := scored.unreadable(policy)) > 0.05:
            found.append(f"{share:.0%} of the outputs of `{policy}` could not be read in full; the rest is silence.")
        limit = "reasoning_tokens" if policy.startswith("reasoning") else "max_completion_tokens"
        if (share := scored.cut(policy, tokens := getattr(run.params, limit))) > 0.01:
            found.append(f"{share:.0%} of the outputs of `{policy}` are as long as one may be (`{limit}` {tokens}).")
    return found


def _names(held_out: dict) -> dict[str, str]:
    """The metrics' names; those in seconds only where a policy has them."""
    timed = {m for of_policy in held_out.values() for m in glossary.TIMED if of_policy[m][0] is not None}
    return {m: name for m, name in glossary.NAMES.items() if m not in glossary.TIMED or m in timed}


def content(run: RunFolder, steps: pd.DataFrame, scored: EvalResults | None, record: dict, summary: dict) -> dict:
    """All that the template shows."""
    default = Params()
    settings = hide_keys(run.params.model_dump(mode="json"))
    return {
        "title": run.params.name,
        "summary": summary,
        "glossary": glossary,
        "names": _names(summary["held_out"]),
        "scored": scored,
        "unseen": len(steps) and not (inputs.changed(run) or run.params.start_from or run.params.adapters),
        "compared": _comparisons(scored),
        "published": _published(run),
        "figures": _figures(run.params, steps, scored, summary["reward"]["of"]),
        "gained": training.GAINED[summary["reward"]["of"]],
        "timeline": _timeline(run, scored),
        "policies": (colours := plots.colours(scored.predictions) if scored else {}),
        "inks": {policy: plots.style.ink(colour) for policy, colour in colours.items()},
        "marks": text.initials(scored.predictions if scored else ()),
        "facts": _facts(scored, summary),
        "method": text.method(run.params, len(steps), len(read_steps(run, WARM_START))),
        "primary": text.primary(scored),
        "cost": text.cost(record["stage_seconds"], steps, scored),
        "findings": text.findings(scored),
        "asked": (scored and scored.evaluated_turns) or {},
        "changed": {k: v for k, v in settings.items() if v != default.model_dump(mode="json")[k]},
        "settings": settings,
        "stages": record["stages"],
        "origin": record["provenance"],
        "digests": _digests(run),
    }


def _facts(scored: EvalResults | None, summary: dict) -> list[tuple[str, str]]:
    """The figures at the top and what each is: those that this run has."""
    gain, kl, chosen = summary["reward"], summary["mismatch"]["kl_mean"], scored and focus(scored.scores)
    found = []
    if gain["gain"] is not None:
        spread = render.interval(gain["gain_low"], gain["gain_high"])
        told = f"{_gained(gain)}, last fifth of the steps against the first; {spread}"
        found.append((render.number(gain["gain"]), told))
    for metric in ("utility", "false_executions", "opportunity_timing") if scored else ():
        value, low, high = summary["held_out"][chosen][metric]
        ends = render.interval(low, high) or ("undefined" if value is None else "rests on one dialogue")
        found.append((render.number(value), f"{glossary.NAMES[metric]} of {chosen} on held-out dialogues; {ends}"))
    if kl is not None:
        found.append((render.number(kl, 4), "mean KL, trainer against server, nats a token"))
    if summary["stage_seconds"]:
        found.append((render.duration(sum(summary["stage_seconds"].values())), "all stages together"))
    if summary["peak_memory_gb"]:
        found.append(
            (f"{render.number(summary['peak_memory_gb'], 1)} GB", "memory at the peak, shared pages counted once")
        )
    return found


def _gained(gain: dict) -> str:
    return f"gain in {training.GAINED[gain['of']]}"


def _figures(params: Params, steps: pd.DataFrame, scored: EvalResults | None, gain: str) -> dict[str, Markup]:
    """The figures for which there is data, by name."""
    drawn = {}
    if len(steps):
        drawn["reward"] = render.image(summary.reward_curve(steps, gain), "Reward by optimiser step")
    if curves := plots.training_curves(steps, summary.MISMATCH, summary.LIMITS):
        drawn["mismatch"] = render.image(curves, "KL and clipped share by optimiser step")
    if scored:
        drawn["metrics"] = render.image(summary.metric_dots(scored.table, SHARES), "Metrics with intervals by policy")
        if not scored.primary()["reason"]:
            by_dialogue = {name: s.dialogues for name, s in scored.scores.items()}
            curve = utility.curve(by_dialogue, bootstrap=params.bootstrap, seed=params.seed)
            drawn["price"] = render.image(plots.utility_curve(curve), "Utility by the price of a false execution")
        references = {name: s.references for name, s in scored.scores.items()}
        if not any(f.empty for f in references.values()):
            drawn["triggers"] = render.image(plots.trigger_times(references), "First triggers against windows")
            drawn["survival"] = render.image(plots.survival(references), "Share of references not yet triggered")
    return drawn


def _comparisons(scored: EvalResults | None) -> dict[tuple[str, str], dict[str, dict]]:
    """The paired comparisons: pair -> metric -> row; empty with fewer than two policies."""
    found: dict = {}
    for row in [] if scored is None or scored.comparisons is None else scored.comparisons.to_dict("records"):
        found.setdefault((row["a"], row["b"]), {})[row["metric"]] = row
    return found


def _published(run: RunFolder) -> list[dict]:
    """The paper's rows [paper]: those of the corpus at hand, or of both where it is neither."""
    rows, corpus = published(), {"abcd": "ABCD+", "homeloan": "Home Loan"}.get(run.params.dataset)
    return rows[rows.corpus.eq(corpus) | (corpus is None)].to_dict("records")


def _timeline(run: RunFolder, scored: EvalResults | None) -> timeline.Timeline | None:
    """The median dialogue of the policy in focus, with the first triggers of all."""
    if scored is None or (watched := scored.scores[focus(scored.scores)]).references.empty:
        return None
    chosen = timeline.median_dialogue(watched.references)
    case = next(c for c in run.split("test") if c.dialogue.id == chosen)
    return timeline.draw(
        case.dialogue,
        case.references,
        {name: _triggers(s.references, chosen) for name, s in scored.scores.items()},
        {name: [p for p in lines if p.dialogue_id == chosen] for name, lines in scored.predictions.items()},
        run.params.theta,
    )


def _triggers(references: pd.DataFrame, dialogue_id: str) -> dict[str, int]:
    own = references[(references.dialogue_id == dialogue_id) & references.triggered.notna()]
    return dict(zip(own.id, own.triggered.astype(int), strict=True))


def _digests(run: RunFolder) -> dict[str, str | None]:
    files = [*sorted(run.data.glob("*.json*")), *sorted(run.annotations.glob("*.jsonl"))]
    return {str(p.relative_to(run.out)): provenance.fingerprint(p) for p in files}
