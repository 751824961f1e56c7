"""The policies of a run on its held-out dialogues: predictions, then tables. A killed evaluation goes on."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from proactor_lib import agent, policies, progress, provenance
from proactor_lib.annotate.bulk import cache_dir, in_order
from proactor_lib.endpoint import Endpoint, in_a_loop_of_its_own
from proactor_lib.errors import BadInput
from proactor_lib.evaluate import agents
from proactor_lib.evaluate.agents import Agent, Case, Fixed, Prompted, Unanswered
from proactor_lib.evaluate.kept import Kept
from proactor_lib.evaluate.tables import write_tables
from proactor_lib.run import Run

BASE, SFT, TRAINED = "base", "sft", "trained"
Log = Callable[[str], None]


def evaluate_run(run: Run, split: str = "test", log: Log = lambda text: None) -> list[str]:
    """Predictions of every policy in `params.policies` on a split, and (for test) their tables in metrics/.

    Returns the policies that were evaluated: one whose adapter is not there is left out, with a line to `log`.
    Predictions lie in predictions/ (dev's in predictions/dev/). What an earlier call made is not asked again. Raises
    BadInput for a policy that nobody knows and an endpoint that does not answer, ServerDied if ours does not start.
    """
    plan = Plan(run, split)
    names = plan.present(log)
    with ExitStack() as stack:
        for name in names:
            evaluate_policy(plan, name, stack)
    if split == "test":
        write_tables(run)
    return names


class Plan:
    """What an evaluation works with."""

    def __init__(self, run: Run, split: str = "test"):
        self.run, self.split = run, split
        known = [BASE, SFT, TRAINED, *run.params.adapters, *agents.PROMPTS, *policies.POLICIES]
        if unknown := [p for p in run.params.policies if p not in known]:
            raise BadInput(f"unknown policy {unknown[0]!r}; accepted: {', '.join(known)}")

    @property
    def folder(self) -> Path:
        """Where the split's predictions lie: a subfolder but for test."""
        return self.run.predictions if self.split == "test" else self.run.predictions / self.split

    @cached_property
    def cases(self) -> list[Case]:
        """The split's dialogues with the turns that are asked."""
        needs = {line.dialogue_id: line.references for line in self.run.references(self.split)}
        count = self.run.params.evaluation_turns
        return [
            Case(d, needs.get(d.id, ()), self.run.catalog, spread(len(d.turns), count))
            for d in self.run.dialogues(self.split)
        ]

    def adapter(self, name: str) -> Path | None:
        """The folder of a policy's adapter; None for the base."""
        own = {BASE: None, SFT: self.run.training / "sft", TRAINED: self.run.training / "adapter"}
        return {**own, **self.run.params.adapters}[name]

    def is_ours(self, name: str) -> bool:
        """Whether our server is asked, by tokens."""
        return name in (BASE, SFT, TRAINED, *self.run.params.adapters)

    def present(self, log: Log) -> list[str]:
        """The policies that can be evaluated. BadInput where a named adapter is not there."""
        found = []
        for name in self.run.params.policies:
            folder = self.adapter(name) if self.is_ours(name) else None
            if folder is None or folder.exists():
                found.append(name)
            elif name in self.run.params.adapters:
                raise BadInput(f"the adapter of policy {name!r} is not there: {folder}")
            else:
                log(f"{name} is left out: this run has no {folder}")
        return found

    def made_from(self, name: str) -> dict:
        """What the policy's predictions hang on: where any of it changes, they are made anew."""
        run, p = self.run, self.run.params
        common = {
            "dialogues": provenance.fingerprint(run.data / f"{self.split}.jsonl"),
            "catalog": run.catalog.digest,
            "turns": p.evaluation_turns,
        }
        if name in policies.POLICIES:
            return common | {"references": [c.model_dump() for c in run.references(self.split)], "seed": p.seed}
        model = {"model": p.model, "quantization": p.quantization, "max_context": p.max_context}
        if self.is_ours(name):
            folder = self.adapter(name)
            return common | model | {
                "prompt": self._prompt("agent.system.j2"),
                "adapter": folder and provenance.fingerprint(folder / "adapter_model.safetensors"),
                "max_tokens": p.max_completion_tokens,
            }  # fmt: skip
        there = {"url": p.policy_url, "model": p.policy_model} if p.policy_url else model
        return common | there | {"prompt": self._prompt(agents.PROMPTS[name]), "max_tokens": self.max_tokens(name)}

    def max_tokens(self, name: str) -> int:
        """An output's limit of a prompted policy."""
        p = self.run.params
        return p.max_completion_tokens if name == "non_reasoning" else p.reasoning_tokens

    def _prompt(self, template: str) -> str:
        return hashlib.sha256(agent.system_text(self.run.catalog, template).encode()).hexdigest()[:12]

    @cached_property
    def host(self):
        """Our server's host; it starts nothing before it is asked."""
        from proactor_lib.evaluate.host import Host

        tell = lambda text: progress.report(self.run.out, "evaluate", 0, 1, text)  # noqa: E731
        return Host(self.run, self.run.out / "logs" / "evaluation-server.log", tell)

    def agent(self, name: str, stack: ExitStack) -> Agent:
        """The policy, ready to be asked; `stack` ends a server that it needs."""
        if name in policies.POLICIES:
            return Fixed(name, self.run.params.seed)
        if not self.is_ours(name) and self.run.params.policy_url:
            p = self.run.params
            return Prompted(name, Endpoint(p.policy_url, p.policy_model, timeout=300.0, cache=cache_dir()),
                            self.max_tokens(name))  # fmt: skip
        if "host" not in self.__dict__:
            stack.enter_context(self.host)
        if self.is_ours(name):
            return self.host.agent(self.adapter(name))
        model = self.host.serve(None)
        endpoint = Endpoint(f"{self.host.server.url}/v1", model, timeout=600.0,
                            concurrency=self.run.params.max_num_seqs)  # fmt: skip
        return Prompted(name, endpoint, self.max_tokens(name))


def spread(turns: int, count: int) -> tuple[int, ...]:
    """`count` evenly spaced turns of 1 to `turns`, the middles of equal parts; all for 0 or where there are no more."""
    if count == 0 or count >= turns:
        return tuple(range(1, turns + 1))
    return tuple(int((i + 0.5) * turns / count) + 1 for i in range(count))


def evaluate_policy(plan: Plan, name: str, stack: ExitStack) -> None:
    """Make and keep the predictions that the policy lacks. Raises as `evaluate_run`."""
    kept = Kept(plan.folder, name, plan.made_from(name))
    if kept.complete:
        return
    total = sum(len(c.turns) for c in plan.cases)

    def tell() -> None:
        progress.report(plan.run.out, "evaluate", len(kept), total, name)

    tell()
    try:
        in_a_loop_of_its_own(predict(plan.agent(name, stack), plan.cases, kept, tell))
    except Unanswered as error:
        raise BadInput(f"policy {name!r}: {error}; what was answered is kept, the same command goes on") from None
    kept.finish()


async def predict(who: Agent, cases: Sequence[Case], kept: Kept, tell: Callable[[], None]) -> None:
    """Have the agent follow the cases, `who.at_once` at a time; each prediction is kept at once."""

    def say(line) -> None:
        kept.add(line)
        tell()

    async def follow(case: Case) -> None:
        await who.follow(case, kept.of(case.dialogue.id), say)

    try:
        async for _ in in_order(cases, follow, who.at_once):
            pass
    finally:
        await who.close()
