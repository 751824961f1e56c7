"""Who can be evaluated in a run, what each policy's outputs depend on, and how each is asked."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from proactor_lib import agent, models, progress, provenance
from proactor_lib.annotate.oracle_run import cache_dir
from proactor_lib.endpoint import Endpoint
from proactor_lib.errors import UserError
from proactor_lib.evaluate import few_shot
from proactor_lib.evaluate.agents import Agent, Fixed, Prompted
from proactor_lib.policies import FIXED_POLICIES, TUNED, untuned
from proactor_lib.run_folder import RunFolder

if TYPE_CHECKING:
    from proactor_lib.artf.serving.server import Server
    from proactor_lib.evaluate.policy_server import PolicyServer

BASE, SFT, SFT_EQUAL_TIME, TRAINED = "base", "sft", "sft_equal_time", "trained"
TIMEOUT = 600.0  # seconds a request


class PolicySet:
    """The policies of a run. Use it as a context manager: servers that it starts end with the block.

    clustered: our own servers are as many as the parameters allow and the load needs; else one. server: one of the
    run's that is up already, and stays. examples: the run whose dialogues few_shot shows, where it is another one.
    """

    def __init__(self, run: RunFolder, clustered: bool = False, server: "Server | None" = None,
                 examples: RunFolder | None = None):  # fmt: skip
        self._examples = examples or run
        self._run, self._clustered, self._server, self._stack, self._host = run, clustered, server, ExitStack(), None
        folders = {SFT: "sft", SFT_EQUAL_TIME: "sft_equal_time", TRAINED: "adapter"}
        own = {BASE: None, **{name: run.training / folder for name, folder in folders.items()}}
        self.adapters: dict[str, Path | None] = {**own, **run.params.adapters}

    def __enter__(self) -> "PolicySet":
        return self

    def __exit__(self, *problem) -> None:
        self._stack.__exit__(*problem)

    @property
    def known(self) -> list[str]:
        """Every policy's name, but for tuned ones; the run need not have trained them."""
        return [*self.adapters, *agent.PROMPTS, *FIXED_POLICIES]

    def present(self, names: Sequence[str], log: Callable[[str], None]) -> list[str]:
        """Those that can be evaluated; a policy that the run did not train is left out, with a line to `log`.

        UserError for a name that nobody has, and for a named adapter or a model's folder that is not there.
        """
        if unknown := [name for name in names if (untuned(name) or name) not in self.known]:
            accepted = f"{', '.join(self.known)}, or one of these with {TUNED}"
            raise UserError(f"unknown policy {unknown[0]!r}; accepted: {accepted}")
        adapters = {name: self.adapters.get(untuned(name) or name) for name in names}
        missing = {n: a for n, a in adapters.items() if a and not (a / "adapter_config.json").exists()}
        for name, folder in missing.items():
            if name in self._run.params.adapters:
                raise UserError(f"the adapter of policy {name!r} is not there: {folder}")
            log(f"{name} is left out: this run has no {folder}")
        present = [name for name in names if name not in missing]
        if any(self.is_ours(name) for name in present):
            models.refuse_missing(self._run.params.model)  # else what it predicted would count as another's
        return present

    def is_ours(self, name: str) -> bool:
        """Whether our own server answers for the policy."""
        name = untuned(name) or name
        return name in self.adapters or (name in agent.PROMPTS and self._run.params.policy_url is None)

    def made_from(self, name: str) -> dict:
        """What the policy's outputs depend on, the dialogues apart: JSON values."""
        p = self._run.params
        if name in FIXED_POLICIES:
            return {"seed": p.seed}
        ours = {"model": p.model, "quantization": p.quantization, "max_context": p.max_context}
        weights = models.folder_fingerprint(p.model)
        ours |= {"weights": weights} if weights else {}
        ours |= {"chat_template_args": p.chat_template_args} if p.chat_template_args else {}
        if name in self.adapters:
            return ours | {
                "prompt": self._prompt("agent.system.j2"),
                "adapter": _weights(self.adapters[name]),
                "max_tokens": p.max_completion_tokens,
            }
        there = {"url": p.policy_url, "model": p.policy_model} if p.policy_url else ours
        return there | {
            "prompt": self._prompt(agent.PROMPTS[name]),
            "max_tokens": self._max_tokens(name),
            **({"shots": self._shots(name)} if name == "few_shot" else {}),
        }

    def agent(self, name: str) -> Agent:
        """The policy, ready to be asked. ServerDied if our server does not start."""
        p = self._run.params
        if name in FIXED_POLICIES:
            return Fixed(name, p.seed)
        if name in self.adapters:
            return self._served().agent(self.adapters[name])
        sampling = {}
        if p.policy_url:
            endpoint = Endpoint(
                p.policy_url, p.policy_model, timeout=TIMEOUT, cache=_answers_of(p.policy_url),
                headers=p.policy_headers, key_variable=p.policy_key_variable,
            )  # fmt: skip
        else:
            base, server = self._served().serve(None), self._served().server
            url, many = f"{server.url}/v1", p.max_num_seqs
            endpoint = Endpoint(url, base, timeout=TIMEOUT, concurrency=many, key=server.key)
            sampling = {"chat_template_kwargs": p.chat_template_args} if p.chat_template_args else {}
        constrained = name == "few_shot" and p.policy_url is None
        return Prompted(name, endpoint, self._max_tokens(name), sampling, self._shots(name), constrained)

    def _shots(self, name: str) -> list[dict[str, str]]:
        return few_shot.shots(self._examples.split("train")) if name == "few_shot" else []

    def _max_tokens(self, name: str) -> int:
        p = self._run.params
        return p.reasoning_tokens if name.startswith("reasoning") else p.max_completion_tokens

    def _prompt(self, template: str) -> str:
        return hashlib.sha256(agent.system_text(self._run.catalog, template).encode()).hexdigest()[:12]

    def _served(self) -> "PolicyServer":
        """Our server's host, the same for all policies."""
        if self._host is None:
            from proactor_lib.evaluate.policy_server import PolicyServer

            def on_progress(text: str) -> None:
                progress.report(self._run.out, "evaluate", 0, 1, text)

            log_path = self._run.out / "logs" / "evaluation-server.log"
            host = PolicyServer(self._run, log_path, on_progress, self._clustered, self._server)
            self._host = self._stack.enter_context(host)
        return self._host


def _answers_of(url: str) -> Path:
    """The folder of one address's answers: models of one name may differ from address to address.

    (Oracle and judge share theirs between addresses, for our own server's port is another one each time.)
    """
    return cache_dir() / "policies" / hashlib.sha256(url.encode()).hexdigest()[:16]


def _weights(adapter: Path | None) -> str | None:
    return adapter and provenance.fingerprint(adapter / "adapter_model.safetensors")
