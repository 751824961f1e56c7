"""`proactor bench packing` and `gpu-train`: that what they compare is comparable, and what they print."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from proactor_lib.artf.training import parts
from proactor_lib.bench import arithmetic, packing
from proactor_lib.bench.made_row import MadeRow, paper_row
from proactor_lib.bench.shapes import SHAPES, Shape, samples

from support.late import Late

gpu_train, layouts = Late("proactor_lib.bench.gpu_train"), Late("proactor_lib.bench.layouts")

SMALL = Shape(turns=4, k=2, output=3, catalog=10, turn=4, token_budget=44, model="tiny")


def test_made_up_dialogues_have_the_shape_that_was_asked_for():
    made = samples(SMALL, vocabulary=100)
    assert [len(s["input_ids"]) for s in made] == [17, 17, 21, 21, 25, 25, 29, 29]
    assert all(s["completion_mask"].sum() == 3 for s in made)
    assert (made[0]["input_ids"][:14] == made[7]["input_ids"][:14]).all()  # one trunk
    assert made[0]["input_ids"][14] != made[1]["input_ids"][14]  # no two outputs of a turn begin alike


@pytest.mark.parametrize("shape", ["paper", "laptop"])
def test_twenty_times_fewer_tokens_than_padded(shape):
    shape = SHAPES[shape]
    made = samples(shape, vocabulary=49152)
    rows = layouts.dialogue_rows(made, shape.token_budget)
    assert max(len(row.tokens) for row in rows) <= shape.token_budget
    assert sum(len(s["input_ids"]) for s in made) >= 20 * sum(len(row.tokens) for row in rows)


def test_every_layout_has_the_same_loss_and_gradients():
    model = packing.tiny_float32()
    layouts.register()
    made = samples(SMALL, vocabulary=1000)
    assert [len(parts.split(row.pack(), SMALL.token_budget)) for row in layouts.whole_rows(made, 0)] == [2]
    found = {}
    for name, layout in [*layouts.LAYOUTS.items(), ("padded by our own", layouts.LAYOUTS["padded"])]:
        model.set_attn_implementation(layout.attention if name in layouts.LAYOUTS else "proactor_sdpa")
        rows = layout.rows(made, SMALL.token_budget)
        assert sum(len(row.samples) for row in rows) == len(made) and (len(rows) > 1 or name == "ours")
        loss = sum(packing._backward(model, row.pack(), 1.0, SMALL.token_budget) for row in rows)
        found[name] = (loss, packing._take_gradients(model))
    loss, gradients = found.pop("ours")
    for name, (other, theirs) in found.items():
        assert other == pytest.approx(loss, rel=1e-4), name
        for weight, gradient in gradients.items():
            assert (theirs[weight] - gradient).norm() <= 1e-4 * gradient.norm(), (name, weight)


def test_arithmetic_is_seven_products_per_layer_and_forward_its_attention_and_one_head(monkeypatch):
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": 10,
             "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
    monkeypatch.setattr(arithmetic, "_timed", lambda run: (run(), (1.0, 2.0))[1])
    half = arithmetic.ATTENDED * (arithmetic.ATTENDED + 1) // 4  # as many pairs as half of the timed attention's
    wall, cpu = arithmetic.seconds(SimpleNamespace(**sizes), [3, 5], 4, half, torch.float32)
    assert (wall, cpu) == (2 * (7 + 7 + 0.5) + 1, 2 * (2 * (7 + 7 + 0.5) + 1))


def test_costs_change_one_thing_at_a_time(monkeypatch):
    asked = []

    def call(module, layout, shape):
        asked.append(json.loads(shape))
        return {"cpu_seconds": 3.0, "tokens": 1500}

    monkeypatch.setattr(packing.isolated, "call", call)
    rows = packing.costs("medium", [5, 12], [4, 8], [1, 2])
    assert [(r["turns"], r["k"], r["dialogues"]) for r in rows] == [(5, 8, 1), (12, 8, 1), (12, 4, 1), (12, 8, 2)]
    assert [r["cpu_ms_per_token"] for r in rows] == [2.0] * 4 and {s["model"] for s in asked} == {"smollm2-135m"}


def test_dialogues_of_a_step_are_rows_of_their_own():
    rows = layouts.whole_rows(samples(replace(SMALL, dialogues=2), vocabulary=1000), 0)
    assert [len(row.samples) for row in rows] == [8, 8]
    assert rows[0].tokens != rows[1].tokens


def test_trls_rows_are_its_own_batchers_and_hold_every_sample_once():
    rows = layouts.trl_rows(samples(SMALL, vocabulary=1000), SMALL.token_budget)
    assert {type(row) for row in rows} == {layouts.TreeRow}
    assert [len(row.samples) for row in rows] == [5, 3]


def test_the_command_prints_tokens_and_the_gradients_error(cli, monkeypatch):
    """In this process: test_bench_async.py measures in processes of their own."""
    monkeypatch.setattr(packing.isolated, "call", lambda module, *arguments: packing.main(*arguments))
    said = cli("bench", "packing", "--shape", "tiny", "--layouts", "ours", "--json")
    measured = json.loads(said.stdout)
    assert measured["padded_tokens"] > measured["library_tokens"] >= measured["packed_tokens"] > 0
    assert 0 < measured["gradient_error"] < 1e-4
    assert measured["ours_seconds"] > 0 and 0.1 < measured["ours_peak_gb"] < 4
    assert measured["ours_tokens"] == measured["packed_tokens"]
    assert measured["arithmetic_cpu_seconds"] > 0 and measured["over_arithmetic"] > 0 and measured["machine"]["cores"]


def test_a_shape_that_is_not_there_is_named(cli):
    said = cli("bench", "packing", "--shape", "huge")
    assert said.returncode == 2 and "shape 'huge'" in said.stderr and "laptop" in said.stderr


@pytest.mark.parametrize("given", [("costs", "--turns"), ("intervals", "--dialogues"), ("false-alarms", "--seeds")])
def test_a_list_of_numbers_that_is_none_is_said(cli, given):
    said = cli("bench", *given, "5,ten")
    assert said.returncode == 2 and said.stderr == "proactor: '5,ten' is not a list of whole numbers, comma separated\n"


# one device


def test_the_dry_run_trains_packed_and_padded_and_says_what_a_cpu_lacks():
    measured = gpu_train.benchmark("dry", 128, ("packed-sdpa", "packed-flex", "padded-sdpa"))
    packed, flex, padded = (measured["cases"][c] for c in ("packed-sdpa", "packed-flex", "padded-sdpa"))
    assert measured["tokens_per_s"] == packed["tokens_per_s"] > 0 and 0 < measured["mfu"] < 1
    assert measured["matmul_tflops"] > 0 and measured["peak_gb"] > 0
    assert packed["samples"] > 4 * padded["samples"] and max(packed["tokens"], padded["tokens"]) <= 128
    assert packed["mfu"] < packed["hfu"] and "error" in flex


def test_a_made_row_is_laid_out_as_trls_tree_would_be():
    shape = Shape(turns=3, k=2, output=3, catalog=4, turn=2, token_budget=99, model="tiny")
    made, real = MadeRow(shape, 100), layouts.dialogue_rows(samples(shape, 100))[0]
    packed, wanted = made.pack(), real.pack()
    assert packed.keys() == wanted.keys()
    for name in packed.keys() - {"input_ids", "shift_labels", "advantages"}:  # those are drawn
        assert packed[name].tolist() == wanted[name].tolist(), name
    assert ((packed["shift_labels"] == -100) == (wanted["shift_labels"] == -100)).all()
    counts = [(len(r.tokens), len(r.samples), r.trained, r.load) for r in (made, real)]
    assert counts[0] == counts[1] == (33, 6, 18, 273)


@pytest.mark.parametrize(("budget", "turns"), [(16384, 13), (9216, 6), (128, 1)])
def test_a_row_of_the_papers_proportions_is_full(budget, turns):
    row = paper_row(budget, 100)
    assert (
        row.shape.turns == turns and budget - (row.shape.turn + 8 * (row.shape.output + 1)) < len(row.tokens) <= budget
    )


def test_operations_are_counted_by_hand():
    """One layer, hidden 4, 2 heads, 1 of keys, intermediate 8, vocabulary 10; 3 tokens, 6 visible pairs, 1 trained."""
    sizes = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 10,
             "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
    model = type("M", (), {"config": type("C", (), sizes)})
    row = type("R", (), {"tokens": [0] * 3, "load": 6, "trained": 1})
    weights = 4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 8  # q, k and v, o, three of the MLP
    forward = 2 * weights * 3 + 4 * 6 * 4
    assert gpu_train._flops(model, row) == (2 * weights * 3 * 2 + 12 * 6 * 4 + 4 * 10 * 4, forward)
