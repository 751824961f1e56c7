"""Which GPU does what, on machines that are only described."""

from pathlib import Path

import pytest
from proactor_lib.artf.capacity import splits
from proactor_lib.artf.serving.launch import make_server, max_servers
from proactor_lib.artf.serving.placement import gpu_places, visible_gpus
from proactor_lib.errors import UserError
from proactor_lib.params import load_params

PARAMS = Path(__file__).parents[1] / "params"
UUIDS = ["GPU-5f1c", "GPU-77aa", "GPU-e0d2"]


def test_the_first_gpus_train_and_the_last_serve():
    places = gpu_places(1, 2, visible_gpus(4, None), 0.9)
    assert (places.trainers, places.servers, places.shared, places.idle) == ((0,), (2, 3), (), (1,))
    assert [(s.name, s.gpu) for s in places.slots] == [("gpu-2", "2"), ("gpu-3", "3")]
    assert str(places) == "training: 0; serving: 2, 3; idle: 1"


@pytest.mark.parametrize(
    ("variable", "count", "names"),
    [
        (None, 2, ["0", "1"]),
        ("2,5", 2, ["2", "5"]),  # a Slurm slice of a node
        ("7, 3,-1,4", 2, ["7", "3"]),  # CUDA stops at what is none
        (",".join(UUIDS), 3, UUIDS),
        ("MIG-a,MIG-b", 1, ["MIG-a", "MIG-b"]),
        ("", 0, []),
    ],
)
def test_gpus_have_the_names_that_the_environment_gives_them(variable, count, names):
    assert visible_gpus(count, variable) == names


def test_a_server_on_a_shared_node_takes_its_own_gpu():
    [slot] = gpu_places(1, 1, visible_gpus(2, "2,5"), 0.9).slots
    assert slot.gpu == "5"
    [slot] = gpu_places(1, 1, visible_gpus(3, ",".join(UUIDS)), 0.9).slots
    assert slot.gpu == "GPU-e0d2"
    [slot] = gpu_places(1, 1, visible_gpus(1, "MIG-a,MIG-b"), 0.9).slots
    assert slot.gpu == "MIG-b"


def test_one_gpu_is_shared_where_the_server_leaves_room():
    places = gpu_places(1, 1, ["0"], 0.4)
    assert places.shared == (0,) and str(places) == "training: 0; serving: 0; shared by both: 0"
    with pytest.raises(
        UserError, match="1 trainers and 1 servers share 1 of 1 GPUs, .* at most 0.5, got 0.9; or lower"
    ):
        gpu_places(1, 1, ["0"], 0.9)
    assert gpu_places(0, 1, ["0"], 0.9).shared == ()  # an evaluation trains nothing


def test_too_few_gpus_are_said():
    with pytest.raises(UserError, match="^4 servers need a GPU each, and there are 2: lower servers and max_servers$"):
        gpu_places(1, 4, ["0", "1"], 0.9)
    with pytest.raises(UserError, match="^3 trainers need a GPU each, and there are 2: lower trainers$"):
        gpu_places(3, 1, ["0", "1"], 0.9)
    with pytest.raises(UserError, match="2 processes cannot train together on MIG slices"):
        gpu_places(2, 1, ["MIG-a", "MIG-b", "MIG-c"], 0.9)


@pytest.mark.parametrize(
    ("preset", "cluster", "gpus"), [("h200x4-abcd", "4xH200", 4), ("h100x8-homeloan", "8xH100", 8)]
)
def test_presets_leave_no_gpu_idle_and_split_them_as_the_simulator_advises(preset, cluster, gpus):
    params = load_params(PARAMS / f"{preset}.yaml")
    names = visible_gpus(gpus, None)
    places = gpu_places(params.trainers, max_servers(params), names, params.gpu_memory_utilization)
    assert places.idle == places.shared == ()
    advised = splits.fastest(splits.splits(splits.cluster(cluster), params.max_staleness)).plan
    assert (len(places.trainers), len(places.servers)) == (advised.trainers, advised.servers)


@pytest.fixture(scope="module")
def vllm_parser():
    """vLLM's own parser of its server's arguments; it needs no device."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser())


@pytest.mark.parametrize(
    ("preset", "settings", "gpus"),
    [
        ("h200x4-abcd", {}, "0,1,2,3"),
        ("h100x8-homeloan", {}, "0,1,2,3,4,5,6,7"),
        ("h200x4-abcd", {"trainers": 1, "servers": 1, "max_servers": 2}, "2,5,7"),  # sleeps while there is little to do
        ("cpu-demo", {"device": "cuda"}, "GPU-5f1c"),  # one GPU for both
        ("smoke", {}, "MIG-a"),
    ],
)
def test_vllm_accepts_every_command_line_for_a_gpu(preset, settings, gpus, vllm_parser, tmp_path):
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args

    params = load_params(PARAMS / f"{preset}.yaml", settings)
    names = visible_gpus(8, gpus)
    places = gpu_places(params.trainers, max_servers(params), names, params.gpu_memory_utilization)
    assert [slot.gpu for slot in places.slots] == names[-max_servers(params) :]
    for slot in places.slots:
        server = make_server(params, "weights", tmp_path / "server.log", True, slot, "key")
        command = server._command()
        arguments = command[command.index("vllm.entrypoints.openai.api_server") + 1 :]
        parsed = vllm_parser.parse_args([str(a) for a in arguments])
        validate_parsed_serve_args(parsed)
        assert parsed.gpu_memory_utilization == params.gpu_memory_utilization
        assert (parsed.max_lora_rank, parsed.enable_lora) == (params.lora_rank, True)
        assert server._environment()["CUDA_VISIBLE_DEVICES"] == slot.gpu
