"""Which GPU does what, on machines that are only described."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from proactor_lib.artf.capacity import splits
from proactor_lib.artf.capacity.workload import judged
from proactor_lib.artf.serving import launch
from proactor_lib.artf.serving.launch import make_server, max_servers
from proactor_lib.artf.serving.own import own_server
from proactor_lib.artf.serving.placement import Slot, gpu_places, gpu_slots, run_places, visible_gpus
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


def test_a_judge_of_our_own_is_between_training_and_serving():
    places = gpu_places(4, 2, visible_gpus(8, None), 0.9, judges=2)
    assert (places.trainers, places.judges, places.servers) == ((0, 1, 2, 3), (4, 5), (6, 7))
    assert (places.idle, places.shared) == ((), ())
    assert str(places) == "training: 0, 1, 2, 3; judging: 4, 5; serving: 6, 7"
    places = gpu_places(1, 1, ["0", "1"], 0.45, judges=1)  # nothing is left between them
    assert (places.judges, places.servers, places.shared) == ((1,), (1,), (1,))
    with pytest.raises(UserError, match="1 trainers, 1 of the judge's servers and 1 .* at most 0.475, got 0.9"):
        gpu_places(1, 1, ["0", "1"], 0.9, judges=1)
    with pytest.raises(UserError, match="at most 0.25, got 0.4"):
        gpu_places(1, 1, ["0"], 0.4, judges=1)


def test_only_a_reward_that_asks_a_judge_has_places_for_its_servers():
    asked = {"judge": "tiny", "judge_url": "serve", "judge_servers": 2}
    for reward, judges in {"custom_ruler": (1, 2), "adaptive_ruler": (1, 2), "utility": ()}.items():
        params = load_params(None, asked | {"reward": reward})
        assert run_places(params, visible_gpus(4, None)).judges == judges
    on_ray = load_params(None, {"ray_address": "127.0.0.1:6379"})
    assert run_places(on_ray, visible_gpus(2, None)).servers == ()


@pytest.mark.parametrize(("device", "gpu", "cores"), [("cpu", None, "1"), ("cuda", "3", None)])
def test_a_single_server_has_a_place_of_this_machine_and_a_cluster_those_that_ray_gives(
    tmp_path, monkeypatch, device, gpu, cores
):
    asked = []
    monkeypatch.setattr(launch, "visible_names", lambda: ["2", "3"])
    monkeypatch.setattr(launch, "make_server", lambda *given: asked.append(given[4]) or SimpleNamespace(start=list))
    params = load_params(None, {"ray_address": "127.0.0.1:1", "device": device, "server_cores": "1", "servers": 2})
    launch.start_server(params, "weights", tmp_path / "server.log")
    assert (asked[0].gpu, asked[0].cores) == (gpu, cores)
    assert [(s.name, s.gpu) for s in launch.make_cluster(params, "weights", tmp_path)._slots] == [
        ("ray-0", gpu and "0"), ("ray-1", gpu and "0"),
    ]  # fmt: skip


def test_4_bit_servers_are_for_gpus(tmp_path):
    params = load_params(None, {"serve_weights": "nf4"})
    with pytest.raises(UserError, match="serve_weights: nf4 needs a GPU, and there is none"):
        make_server(params, "weights", tmp_path / "server.log", True, Slot("cpu-0"), "key")


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
    places = run_places(params, visible_gpus(gpus, None))
    assert places.idle == places.shared == ()
    of = splits.cluster(cluster)
    advised = splits.fastest(splits.splits(of._replace(workload=judged(of.workload)), params.max_staleness, 4)).plan
    asked = (len(places.trainers), len(places.judges), len(places.servers))
    assert asked == (advised.trainers, advised.judges, advised.servers)


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
        # sleeps while there is little to do
        ("h200x4-abcd", {"trainers": 1, "max_servers": 2, "judge": "rubric", "judge_url": None}, "2,5,7"),
        ("cpu-demo", {"device": "cuda"}, "GPU-5f1c"),  # one GPU for both
        ("smoke", {}, "MIG-a"),
        ("h200x4-abcd", {"serve_weights": "nf4"}, "0,1,2,3"),
    ],
)
def test_vllm_accepts_every_command_line_for_a_gpu(preset, settings, gpus, vllm_parser, tmp_path):
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args

    params = load_params(PARAMS / f"{preset}.yaml", settings)
    names = visible_gpus(8, gpus)
    places = run_places(params, names)
    assert [slot.gpu for slot in places.slots] == names[-max_servers(params) :]
    for slot in places.slots:
        server = make_server(params, "weights", tmp_path / "server.log", True, slot, "key")
        command = server._command()
        arguments = command[command.index("vllm.entrypoints.openai.api_server") + 1 :]
        parsed = vllm_parser.parse_args([str(a) for a in arguments])
        validate_parsed_serve_args(parsed)
        assert parsed.gpu_memory_utilization == params.gpu_memory_utilization
        assert (parsed.max_lora_rank, parsed.enable_lora) == (8, True)
        assert parsed.generation_config == "vllm"
        assert parsed.quantization == ("bitsandbytes" if params.serve_weights == "nf4" else None)
        assert server._environment()["CUDA_VISIBLE_DEVICES"] == slot.gpu
    for slot in gpu_slots(places.judges, names):
        server = own_server(params, params.judge, "weights", tmp_path, slot, "key")
        command = server._command()
        parsed = vllm_parser.parse_args(command[command.index("vllm.entrypoints.openai.api_server") + 1 :])
        validate_parsed_serve_args(parsed)
        assert (parsed.served_model_name, parsed.max_model_len, parsed.enable_lora) == ([params.judge], None, None)
        assert server._environment()["CUDA_VISIBLE_DEVICES"] == slot.gpu
