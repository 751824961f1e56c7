"""Expected seconds of a training step on a machine, from the capacity simulator: estimates, nothing measured."""

from collections.abc import Iterator

from proactor_lib.artf.capacity.sizes import NF4_BITS, ModelSizes, model_sizes
from proactor_lib.artf.serving.placement import core_numbers
from proactor_lib.doctor.machine import Machine
from proactor_lib.doctor.roles import Roles, device
from proactor_lib.doctor.row import Row
from proactor_lib.params import Params

# A dialogue's turns, and tokens of a prompt's head and of a turn, as counted with our vocabulary [ours].
CORPORA = {"homeloan": (38, 300, 13), "sgd": (18, 490, 16), "abcd": (21, 2500, 45)}
OTHER = (20, 2500, 45)  # [ours] the paper's prompts


def expected(params: Params, machine: Machine, roles: Roles) -> Iterator[Row]:
    """One row: seconds per step, and of all steps; none where a GPU's data sheet or the model's sizes are not known."""
    from proactor_lib.artf.capacity.simulate import Plan, simulate

    model = model_sizes(params.model)
    service = model and service_times(params, machine, roles, model)
    if not (service and params.max_steps):
        return
    service = service.model_copy(update={"slots": min(service.slots, params.max_num_seqs)})
    plan = Plan(params.servers, params.trainers, params.max_staleness, judges=roles.judges)
    seconds = simulate(service, workload(params, bool(roles.judges)), plan, steps=4).step_s
    hours = seconds * params.max_steps / 3600
    yield Row("expected", f"{seconds:.0f} s per step, {params.max_steps} steps in {hours:.1f} hours ({service.name})")


def workload(params: Params, judged: bool):
    """A mean step of the run; outputs are taken to be half as long as they may be."""
    from proactor_lib.artf.capacity import workload

    turns, head, each = CORPORA.get(params.dataset, OTHER)
    prompt = min(params.max_context - params.max_completion_tokens, head + turns * each)
    output = params.max_completion_tokens / 2
    step = workload.Workload(
        dialogues=params.dialogues_per_step, turns=min(params.turns_per_dialogue or turns, params.max_turns),
        k=params.num_generations, head_tokens=min(head, prompt / 2), prompt_tokens=prompt, output_tokens=output,
        output_sd=output / 2, max_output=params.max_completion_tokens, token_budget=params.token_budget,
    )  # fmt: skip
    return workload.judged(step, params.judge_concurrency) if judged else step


def service_times(params: Params, machine: Machine, roles: Roles, model: ModelSizes):
    """Estimates for the machine's GPU, or for its cores; None for a GPU without a data sheet here."""
    from proactor_lib.artf.capacity.workload import estimate, estimate_cpu, gpu_named

    if not roles.gpu:
        cores = [
            len(core_numbers(text)) if text else machine.cores for text in (params.server_cores, params.trainer_cores)
        ]
        serving, training = (min(machine.cores, count) for count in cores)
        return estimate_cpu(serving / params.servers, training / params.trainers, model.parameters, machine.bfloat16)
    card = gpu_named(device(machine, 0).name)
    served = model.weights(NF4_BITS if params.serve_weights == "nf4" else 16)
    bits = served * 8 / model.parameters
    return card and estimate(card.name, workload(params, False), model.parameters, model.kv_bytes, bits)
