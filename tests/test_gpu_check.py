"""`gpu-check` on a CPU, tiny: what its parts compare, that they notice faults, and what is said without a GPU."""

import ast
import os
import sys
from pathlib import Path

import pytest
import torch
from proactor_lib.bench import gpu_check, gpu_serving
from proactor_lib.bench.bound import Bound
from proactor_lib.bench.fake_server import FakeServer
from proactor_lib.errors import UserError

from support.late import Late
from support.waiting import wait_until

gpu_parts, gpu_train = Late("proactor_lib.bench.gpu_parts"), Late("proactor_lib.bench.gpu_train")
tree_attention, trl_async = (Late(f"proactor_lib.artf.training.{name}") for name in ("tree_attention", "trl_async"))

PACKAGE = Path(__file__).parents[1] / "proactor_lib"


def short(figures):
    return [f.name for f in figures if not f.holds]


def test_a_bound_holds_on_both_sides():
    assert Bound("x", 3, most=3, least=3).holds and Bound("x", 3).holds
    assert not Bound("x", 3, most=2).holds and not Bound("x", 3, least=4).holds
    assert str(Bound("s", 3.14159, most=2)) == "SHORT s: 3.142 (at most 2)" and str(Bound("s", 3)) == "ok    s: 3"


def test_rows_are_compared_with_plain_attention_and_a_wrong_mask_is_noticed(monkeypatch):
    figures = list(gpu_parts.attention(dry=True))
    assert len(figures) == 5 and short(figures) == []
    real = tree_attention.tree_attention

    def off_by_one(*given, tree_cu_seqlens_k, **more):  # each output sees one token less of the dialogue
        return real(*given, tree_cu_seqlens_k=(tree_cu_seqlens_k - 1).clamp(min=1), **more)

    monkeypatch.setattr("proactor_lib.artf.training.tree_attention.tree_attention", off_by_one)
    assert len(short(gpu_parts.attention(dry=True))) == 4


def test_4_bit_gradients_are_those_of_the_dequantised_weights_and_other_weights_are_noticed(monkeypatch):
    import bitsandbytes as bnb

    figures = list(gpu_parts.nf4(dry=True))
    assert len(figures) == 2 and short(figures) == []
    model = gpu_train.random_model(gpu_train.MODELS["dry"], torch.device("cpu"))
    assert gpu_parts._dequantise(model) == 2 * 7 and gpu_parts._dequantise(model) == 0
    real = bnb.functional.dequantize_4bit
    monkeypatch.setattr(bnb.functional, "dequantize_4bit", lambda *given, **more: real(*given, **more) * 1.1)
    assert short(gpu_parts.nf4(dry=True)) == ["gradients of 4 bits against dequantised, relative"]


def test_a_step_is_timed_beside_the_devices_own_peak():
    figures = {f.name: f.value for f in gpu_parts.step(dry=True)}
    assert figures["tokens of the row"] == 157
    assert figures["seconds of an optimiser step"] > 0 and figures["share of the bfloat16 peak"] > 0
    seconds, rate = figures["seconds of an optimiser step"], figures["tokens forwarded per second"]
    assert rate * seconds == pytest.approx(157, rel=0.02)


def test_adapters_are_published_while_the_base_is_asked():
    figures = {f.name: f for f in gpu_serving.adapters(True, lambda log: FakeServer(log_path=log, lora_rank=8))}
    assert short(figures.values()) == []
    assert figures["adapters that the server holds"].value == figures["adapters that answer"].value == 3
    assert figures["requests meanwhile"].value >= 4


def test_a_request_that_fails_meanwhile_is_counted(tmp_path):
    with FakeServer(log_path=tmp_path / "log") as server:
        server.wait_ready(60)
        with gpu_serving.Asking(server) as asking:
            asking.wait(1)
            server.process.kill()
            wait_until(lambda: asking.failed)
    assert asking.answered >= 1


# the command


CHILD = """#!{python}
import sys, time
part = sys.argv[sys.argv.index("--one") + 1]
print('{{"name": "tokens", "value": 7, "most": null, "least": 5}}', flush=True)
if part == "nf4": sys.exit("ValueError: no such layer")
if part == "step": time.sleep(10_000)
"""


def test_each_part_has_its_figures_its_problem_and_its_time(monkeypatch, tmp_path):
    (tmp_path / "python").write_text(CHILD.format(python=sys.executable))
    os.chmod(tmp_path / "python", 0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None if name == "vllm" else name)
    fine, broken, left = gpu_check.check(("attention", "nf4", "adapters"), dry=True)
    assert fine.holds and fine.figures == (Bound("tokens", 7, least=5),)
    assert str(fine).splitlines()[1] == "  ok    tokens: 7 (at least 5)"
    assert not broken.holds and broken.problem == "ValueError: no such layer" and len(broken.figures) == 1
    assert left.holds and left.left_out == "left out: vllm is not installed"
    late, never = gpu_check.check(("step", "attention"), dry=True, limit=0.5)
    assert late.problem == "not ended after 0 s" or late.problem == "not ended after 1 s"
    assert never.left_out == "left out: no time was left"


def test_without_a_gpu_it_says_so(cli):
    done = cli("bench", "gpu-check")
    assert done.returncode == 2 and "sees no GPU here, so nothing was measured" in done.stderr
    with pytest.raises(UserError, match="there is no part 'all'; accepted: attention, nf4, step, adapters, run"):
        list(gpu_check.check(("all",)))


def imported_at_once(module):
    """Packages that importing a module of ours brings along."""
    found, todo = set(), [module]
    while todo:
        path = PACKAGE.joinpath(*todo.pop().split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                inner = [f"{node.module}.{a.name}" for a in node.names]
                names = [
                    n if PACKAGE.parent.joinpath(*n.split(".")).with_suffix(".py").exists() else node.module
                    for n in inner
                ]
            for name in names:
                ours = name.removeprefix("proactor_lib.")
                if ours != name and name not in found:
                    todo.append(ours)
                found.add(name)
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"proactor_lib"}


def test_the_first_parts_need_few_packages():
    """Those that a machine lent for an hour has: torch with transformers, peft, bitsandbytes, and what they bring."""
    brought = {"torch", "transformers", "numpy", "psutil"}
    assert imported_at_once("bench.gpu_parts") | imported_at_once("bench.gpu_check") <= brought
    assert tree_attention.TREE_ATTENTION == trl_async.TREE_ATTENTION  # TRL's name
