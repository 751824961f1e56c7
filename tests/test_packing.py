"""Dialogue rows: what they hold, and that packing changes neither log-probabilities nor gradients."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from proactor_lib.artf.training import parts
from proactor_lib.bench.packing import tiny_float32
from proactor_lib.errors import UserError
from safetensors import SafetensorError

from support.late import Late

head, rows, sft, tree_attention, trainer = (
    Late(f"proactor_lib.artf.training.{name}") for name in ("head", "rows", "sft", "tree_attention", "trainer")
)
transformers = Late("transformers")

TRUNK = list(range(100, 112))
OUTPUTS = {3: ([7, 2], [7, 8, 2], [7, 2]), 8: ([9, 2], [5, 6, 2]), 12: ([5, 2], [5, 9, 9, 2])}
CUE = [50, 51]


def sample(turn_end: int, output: list[int], advantage: float = 1.0, dialogue: str = "d") -> dict:
    prompt = TRUNK[:turn_end] + CUE
    return {
        "input_ids": np.array(prompt + output),
        "completion_mask": np.array([0] * len(prompt) + [1] * len(output)),
        "old_log_probs": np.full(len(prompt) + len(output), -1.0, dtype=np.float32),
        "advantage": advantage,
        "group_id": turn_end,
        "dialogue": dialogue,
        "metrics": {},
    }


def samples() -> list[dict]:
    return [sample(end, output, 0.5 + n) for end, outputs in OUTPUTS.items() for n, output in enumerate(outputs)]


def row_of(some: list[dict]):
    row = rows.DialogueRow()
    for s in some:
        row.add(s)
    return row


def tree_of(packed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: packed[k] for k in ("tree_kv_index", "tree_cu_seqlens_q", "tree_cu_seqlens_k")}


def saver(folder):
    """A trainer that can do nothing but write its checkpoint of step 2 into the folder."""
    made = object.__new__(trainer.DialogueTrainer)
    made.args, made.state = SimpleNamespace(output_dir=str(folder)), SimpleNamespace(global_step=2)
    made.accelerator = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)
    return made


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("[enforce fail at inline_container.cc:672] unexpected pos"),
     SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")],
)  # fmt: skip
def test_a_disk_that_is_full_costs_a_checkpoint(tmp_path, monkeypatch, caplog, error):
    def save(self, model, trial):
        raise error

    monkeypatch.setattr(trainer.AsyncGRPOTrainer, "_save_checkpoint", save)
    saver(tmp_path)._save_checkpoint(None, None)
    assert "checkpoint checkpoint-2 was not written" in caplog.text


@pytest.mark.parametrize(
    "error", [KeyError("step"), FileNotFoundError(2, "No such file or directory"), RuntimeError("x")]
)
def test_a_mistake_in_a_checkpoint_ends_the_run(tmp_path, monkeypatch, error):
    def save(self, model, trial):
        raise error

    monkeypatch.setattr(trainer.AsyncGRPOTrainer, "_save_checkpoint", save)
    with pytest.raises(type(error)):
        saver(tmp_path)._save_checkpoint(None, None)


@pytest.fixture(scope="module")
def model():
    return tiny_float32()


def loss_and_gradients(model, some: list) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    total = 0.0
    for row in some:
        packed = row.pack()
        loss = -(head.row_log_probs(model, packed) * packed["advantages"]).sum()
        loss.backward()
        total += loss.item()
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_a_row_holds_each_shared_token_once_and_the_trunk_first():
    packed = row_of(samples()).pack()
    # A branch starts one token early (its last shared token predicts another one); identical outputs are one.
    assert packed["input_ids"][:12].tolist() == TRUNK
    assert packed["position_ids"][:12].tolist() == list(range(12))
    assert len(packed["input_ids"]) == 37  # of 81
    assert len(packed["token_index"]) == sum(int(s["completion_mask"].sum()) for s in samples())
    assert packed["tree_cu_seqlens_q"][0] == 0 and packed["tree_cu_seqlens_q"][-1] == len(packed["input_ids"])
    assert len(packed["tree_cu_seqlens_q"]) > 3


def test_every_token_sees_its_own_path_only():
    """The mask of a row, token by token, against the prefixes of the samples that it came from."""
    row = row_of(samples())
    packed = row.pack()
    n = len(packed["input_ids"])
    seen = torch.zeros(n, n, dtype=torch.bool)
    blocks = tree_attention._blocks(
        packed["tree_kv_index"], packed["tree_cu_seqlens_q"], packed["tree_cu_seqlens_k"], torch.float32
    )
    for start, stop, trunk, mask in blocks:
        seen[start:stop, :trunk] = True
        seen[start:stop, start:stop] = torch.ones(n, n).tril().bool()[:stop, :stop] if mask is None else mask == 0
    paths = {tuple(s["input_ids"][: d + 1].tolist()) for s in samples() for d in range(len(s["input_ids"]))}
    for q in range(n):
        path = tuple(packed["input_ids"][seen[q]].tolist())
        assert path in paths and len(path) == packed["position_ids"][q] + 1


def test_packing_changes_no_loss_and_no_gradient(model):
    loss, gradients = loss_and_gradients(model, [row_of(samples())])
    alone, expected = loss_and_gradients(model, [row_of([s]) for s in samples()])
    assert loss == pytest.approx(alone, rel=1e-5)
    assert len(gradients) == 2 * 7 * 2
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() <= 1e-4 * expected[name].norm(), name


def test_gradients_agree_with_plain_attention():
    """Runs of queries, differentiated by hand, against torch's own differentiation of one call per block."""
    packed = row_of([*samples(), sample(8, [5, 1, 1, 1, 1, 1, 2])]).pack()
    tree = tree_of(packed)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, h, len(packed["input_ids"]), 16, requires_grad=True) for h in (4, 2, 2))
    weights, results = torch.randn(1, len(packed["input_ids"]), 4, 16), []
    for kernel in (None, "sdpa"):
        out = tree_attention.tree_attention(None, q, k, v, None, **tree, kernel=kernel)[0]
        results.append((out, *torch.autograd.grad((out * weights).sum(), (q, k, v))))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_gradients_in_bfloat16_keep_their_digits():
    """The backward's products take log-sum-exps along: held in one number of 8 bits each the error would be 0.03."""
    packed = row_of(samples()).pack()
    torch.manual_seed(0)
    q, k, v, weights = (3 * torch.randn(1, h, len(packed["input_ids"]), 32).bfloat16() for h in (4, 2, 2, 4))
    found = []
    for dtype, kernel in ((torch.bfloat16, None), (torch.float32, "sdpa")):
        operands = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        out = tree_attention.tree_attention(None, *operands, None, **tree_of(packed), kernel=kernel)[0].transpose(1, 2)
        gradients = torch.autograd.grad((out.float() * weights).sum(), operands)
        found.append(torch.cat([x.float().flatten() for x in gradients]))
    assert (found[0] - found[1]).norm() < 0.02 * found[1].norm()


def test_the_mask_for_gpus_is_the_same_attention():
    """FlexAttention, run eagerly, against the slices: another statement of who sees whom."""
    packed = row_of(samples()).pack()
    tree = tree_of(packed)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, h, len(packed["input_ids"]), 16) for h in (4, 2, 2))
    plain, flex, sdpa = (
        tree_attention.tree_attention(None, q, k, v, None, **tree, kernel=kernel)[0]
        for kernel in (None, "flex", "sdpa")
    )
    torch.testing.assert_close(flex, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sdpa, plain, rtol=1e-4, atol=1e-5)


def test_the_head_gives_log_probabilities_entropies_and_gradients(monkeypatch):
    monkeypatch.setattr("proactor_lib.artf.training.head.ROWS", 3)
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 8, requires_grad=True), torch.randn(20, 8)
    labels = torch.randint(20, (7,))
    ours, entropy = head.FrozenHead.apply(hidden, weight, labels, 0.7)
    plain = torch.log_softmax(hidden @ weight.T / 0.7, dim=-1)
    torch.testing.assert_close(ours, plain.gather(1, labels[:, None])[:, 0])
    torch.testing.assert_close(entropy, -(plain.exp() * plain).sum(-1))
    scale = torch.randn(7)
    (expected,) = torch.autograd.grad((plain.gather(1, labels[:, None])[:, 0] * scale).sum(), hidden)
    (found,) = torch.autograd.grad((ours * scale).sum(), hidden)
    torch.testing.assert_close(found, expected)


def test_the_heads_gradient_of_a_nearly_certain_token_has_digits_in_bfloat16():
    """W[y] less the mean of W is far smaller than either: rounded before the difference, nothing of it was left."""
    torch.manual_seed(0)
    weight, label = torch.randn(500, 64).bfloat16(), torch.tensor([7])
    hidden = (weight[7].float() * 0.17).bfloat16()[None].requires_grad_()
    exact = hidden.detach().float().requires_grad_()
    log_prob = torch.log_softmax(exact @ weight.float().T, dim=-1)[0, 7]
    assert log_prob.exp() > 0.99
    (expected,) = torch.autograd.grad(log_prob, exact)
    (found,) = torch.autograd.grad(head.FrozenHead.apply(hidden, weight, label, 1.0)[0].sum(), hidden)
    assert torch.linalg.norm(found.float() - expected) < 0.05 * torch.linalg.norm(expected)


@pytest.mark.parametrize(
    "family, settings", [("Granite", {"logits_scaling": 8.0}), ("Gemma2", {"final_logit_softcapping": 3.0})]
)
def test_a_model_that_changes_its_logits_is_refused(family, settings):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 4}
    sizes |= {"num_key_value_heads": 1, "vocab_size": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    made, config = (getattr(transformers, f"{family}{what}") for what in ("ForCausalLM", "Config"))
    with pytest.raises(UserError, match=f"changes its logits .{next(iter(settings))}"):
        head.attach_head(made(config(**sizes | settings)))


@pytest.mark.parametrize("does", [{"softcap": 50.0}, {"sliding_window": 3}])
def test_a_model_that_attends_otherwise_is_refused(does):
    """A window of the whole row is none."""
    query, tree = (
        torch.randn(1, 2, 4, 8),
        {f"tree_{name}": None for name in ("kv_index", "cu_seqlens_q", "cu_seqlens_k")},
    )
    with pytest.raises(UserError, match="which training does not"):
        tree_attention.tree_attention(None, query, query, query, None, **tree, **does)


def test_a_window_must_reach_over_the_trunk_too(monkeypatch):
    """A part of 4 tokens behind a trunk of 4."""
    twice = SimpleNamespace(extend=lambda layer, key, value: (key.repeat(1, 1, 2, 1), value.repeat(1, 1, 2, 1)))
    monkeypatch.setattr(tree_attention.TrunkKeys, "current", twice)
    query = torch.randn(1, 2, 4, 8)
    tree = dict.fromkeys(("tree_kv_index", "tree_cu_seqlens_q", "tree_cu_seqlens_k"))
    with pytest.raises(UserError, match="sees 6 tokens of a row of 8"):
        tree_attention.tree_attention(SimpleNamespace(layer_idx=0), query, query, query, None, **tree, sliding_window=6)


def test_a_row_is_cut_into_its_trunk_and_parts_of_its_branches():
    packed = row_of(samples()).pack()
    sizes = packed["tree_cu_seqlens_q"].tolist()
    assert sizes == [0, 13, 21, 30, 37]  # the trunk ends before the last token that all outputs there follow
    assert parts.split(packed, 37) == [packed]
    trunk, *branches = parts.split(packed, 17)
    assert [len(p["input_ids"]) for p in (trunk, *branches)] == [13, 17, 7]
    assert [p["tree_cu_seqlens_q"].tolist() for p in (trunk, *branches)] == [[0, 13], [0, 0, 8, 17], [0, 0, 7]]
    assert torch.cat([p["input_ids"] for p in (trunk, *branches)]).equal(packed["input_ids"])
    assert torch.cat([p["advantages"] for p in branches]).equal(packed["advantages"]) and len(trunk["token_index"]) == 0
    last = branches[1]
    assert last["token_index"].equal(packed["token_index"][-len(last["token_index"]) :] - 30)
    assert [len(p["input_ids"]) for p in parts.split(packed, 5)] == [13, 8, 9, 7]  # at least one block each


@pytest.mark.parametrize("kernel", ["flex", "sdpa"])
def test_parts_see_what_the_whole_row_sees(kernel):
    """The attention of a row at once against that of its trunk, then of its branches behind the trunk's keys."""
    packed = row_of(samples()).pack()
    layer = type("Layer", (), {"layer_idx": 0})
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, h, len(packed["input_ids"]), 16) for h in (4, 2, 2))
    whole = tree_attention.tree_attention(layer, q, k, v, None, **tree_of(packed))[0]
    for chosen in (kernel, None):
        start, outputs, cut = 0, [], parts.split(packed, 17)
        with torch.no_grad(), parts.TrunkKeys() as keys:
            for part in cut:
                own = [x[:, :, start : start + len(part["input_ids"])] for x in (q, k, v)]
                outputs.append(tree_attention.tree_attention(layer, *own, None, **tree_of(part), kernel=chosen)[0])
                start += len(part["input_ids"])
                if part is cut[0]:
                    keys.cut()
        torch.testing.assert_close(torch.cat(outputs, dim=1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_parts_have_the_gradients_of_the_whole_row(model, checkpointing):
    packed = row_of(samples()).pack()
    loss, expected = loss_and_gradients(model, [row_of(samples())])
    model.zero_grad()
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        cut = parts.split(packed, 17)
        found = parts.backward(
            cut,
            lambda p: -(head.row_log_probs(model, p) * p["advantages"]).sum(),
            lambda p: head.row_log_probs(model, p),
        )
    finally:
        model.gradient_checkpointing_disable()
        model.disable_input_require_grads()
    assert len(cut) == 3 and float(found) == pytest.approx(loss, rel=1e-5)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert (weight.grad - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


def test_the_mean_loss_of_a_cut_row_is_that_of_the_whole_and_nothing_is_dropped_out(model):
    packed, drops = row_of(samples()).pack(), []
    layer = model.get_base_model().model.layers[0]
    hook = layer.register_forward_pre_hook(lambda module, _: drops.append(module.training))
    try:
        whole, cut = (sft.mean_loss(model.train(), [packed], budget) for budget in (37, 17))
    finally:
        hook.remove()
    plain = -head.row_log_probs(model, packed).mean()
    assert whole == pytest.approx(float(plain), rel=1e-5) and cut == pytest.approx(whole, rel=1e-5)
    assert drops == [False] * 4 and model.training  # the row, its trunk and two parts; the mode is as it was


def test_a_trunk_is_forwarded_twice_alike_and_takes_all_gradients_on():
    weight, drawn = torch.ones(1, 1, 1, 1, requires_grad=True), []

    def forward(part):
        drawn.append((float(torch.rand(1)), torch.is_grad_enabled()))
        parts.TrunkKeys.current.extend(0, weight * 2, weight * 3)

    def loss(part):
        key, value = parts.TrunkKeys.current.extend(0, torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
        return (key * value).sum() * part["advantage"]

    torch.manual_seed(0)
    total = parts.backward([{}, {"advantage": 1.0}, {"advantage": 10.0}], loss, forward)
    assert float(total) == 6 * 11  # 2 w x 3 w, each part
    assert float(weight.grad) == 12 * 11  # d 6 w^2 / d w
    assert [grad for _, grad in drawn] == [False, True] and drawn[0][0] == drawn[1][0]
    assert parts.TrunkKeys.current is None


def test_log_probabilities_are_those_of_the_plain_model(model):
    """Lean layers, the tree's attention and the frozen head against the library's own, sample by sample."""
    row = row_of(samples())
    packed = row.pack()
    ours = head.row_log_probs(model, packed).detach()
    plain = tiny_float32(lean=False)
    plain.set_attn_implementation("sdpa")
    for n, s in enumerate(row.samples):
        ids, trained = torch.tensor(s["input_ids"])[None], int(s["completion_mask"].sum())
        logits = plain(input_ids=ids, use_cache=False).logits[0, -trained - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, ids[0, -trained:, None])[:, 0].detach()
        torch.testing.assert_close(ours[packed["segment_id"] == n], expected, rtol=1e-6, atol=1e-6)


def test_rows_keep_dialogues_apart_and_obey_the_budget():
    some = [sample(3, [7, 2], dialogue="a"), sample(12, [9, 2], dialogue="a"), sample(3, [7, 2], dialogue="b")]
    assert [len(r.samples) for r in rows.dialogue_rows(some, token_budget=100)] == [2, 1]
    assert [len(r.samples) for r in rows.dialogue_rows(some, token_budget=16)] == [1, 1, 1]
    with pytest.raises(ValueError, match="16 tokens, token_budget is 15"):
        rows.dialogue_rows(some, token_budget=15)


def test_an_idle_rank_weighs_nothing_and_the_mean_is_over_the_step():
    apart = rows.dialogue_rows([sample(3, [7, 2], dialogue=d) for d in "abc"], token_budget=100)
    batches = trainer.micro_batches(apart, ranks=2, pad_token_id=0)
    assert [b["input_ids"].shape[0] for b in batches] == [2, 2]
    assert [b["real"].tolist() for b in batches] == [[1, 1], [1, 0]]
    assert all(b["step_size"].tolist() == [[6, 3, 0]] * 2 for b in batches)  # tokens, outputs, supervised tokens
    [wide, _] = trainer.micro_batches(apart, ranks=2, pad_token_id=0, alike=8)
    assert wide["step_size"].tolist() == [[6, 11, 0]] * 2
