"""A run's policy in forms that others load, read back by transformers and run by llama.cpp."""

import errno
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import xllamacpp
from huggingface_hub import HfApi
from proactor_lib import agent
from proactor_lib.artf.serving.policy_sync import MergedSync
from proactor_lib.artf.training.chat_template import frame
from proactor_lib.errors import UserError
from proactor_lib.evaluate import evaluate_run
from proactor_lib.files import write_json
from proactor_lib.interop import export as exporting
from proactor_lib.interop import gguf_file
from proactor_lib.interop.export import Request, export
from proactor_lib.models import load_tokenizer, matched_export
from proactor_lib.service.source import find

from support.late import Late
from support.runs import opened
from support.small_models import write_adapter, write_adapter_of_more, write_model

transformers = Late("transformers")
CARD = (
    "This policy, `trained`, is not the one", "1.000 [1.000 to 1.000]", "notebooks were not run by", "Commit `",
    "`system.txt` (the instructions, with", "greedily (temperature 0) for at most 8 tokens.",
    "2 dialogues to be held out; licence: apache-2.0", "by the evidence annotator", "`adaptive_metric`",
)  # fmt: skip
PROMPTS = [f"[{n}] customer: I would like {n} loans, of $12,50{n}.\n" for n in range(5)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="module")
def run(tmp_path_factory, base):
    """A run with an adapter, and a policy evaluated."""
    out = tmp_path_factory.mktemp("exported") / "run"
    made = opened(out, policies=["sft", "trained", "oracle"], evaluation_turns=0, model=str(base))
    write_adapter(made.training / "adapter")
    evaluated = made.params.model_copy(update={"policies": ("oracle",)})
    evaluate_run(type(made)(evaluated, out))
    return made


@pytest.fixture(scope="module")
def merged(run, tmp_path_factory):
    return export(run, tmp_path_factory.mktemp("merged") / "out", Request("merged"))


def tokens(tokenizer):
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROMPTS]


def logits(model, prompts):
    with torch.no_grad():
        return torch.cat([model(torch.tensor([ids])).logits[0] for ids in prompts])


def loaded(folder, dtype=torch.bfloat16, **more):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **more)


def difference(one, other, prompts):
    return (logits(one, prompts) - logits(other, prompts)).abs().max()


def read_back(folder):
    (file,) = folder.glob("*.gguf")
    plain = transformers.GgufConfig(dequantize=True)
    return loaded(folder, torch.float32, gguf_file=file.name, quantization_config=plain), str(file)


def test_merged_weights_are_those_that_servers_hold(run, base, merged, tmp_path):
    sync = MergedSync([], str(base), tmp_path / "served")
    sync.publish(0, run.training / "adapter")
    prompts = tokens(load_tokenizer(str(merged)))
    assert difference(loaded(merged), loaded(tmp_path / "served"), prompts) == 0
    assert difference(loaded(merged), loaded(base), prompts) > 0.1  # the adapter does something
    assert {oct(f.stat().st_mode & 0o777) for f in merged.iterdir()} == {oct(0o666 & ~exporting._umask())}


def test_merged_weights_bring_neither_the_bases_penalties_nor_its_temperature(run, base, merged, tmp_path, monkeypatch):
    said = {"eos_token_id": [2, 0], "repetition_penalty": 1.05, "temperature": 0.7, "do_sample": True}
    write_json(tmp_path / "generation_config.json", said)
    exporting._ask_greedily(tmp_path / "generation_config.json")
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"eos_token_id": [2, 0], "do_sample": False}
    assert json.loads((merged / "generation_config.json").read_text())["do_sample"] is False


def test_an_adapter_with_weights_of_its_own_is_not_merged_without_them(base, tmp_path):
    adapter = write_adapter_of_more(tmp_path / "adapter", "base_model.model.lm_head.weight")
    with pytest.raises(ValueError, match="an adapter with base_model.model.lm_head.weight: it cannot be merged"):
        exporting.merge_into(tmp_path, base, adapter)


def test_a_run_whose_servers_hold_4_bits_is_merged_into_the_same_weights_dequantised(base, tmp_path, monkeypatch):
    monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path / "cache"))
    held = {"device": "auto", "quantization": "nf4", "serve_weights": "nf4"}
    quantised = opened(tmp_path / "run", policies=["trained"], model=str(base), **held)
    adapter = write_adapter(quantised.training / "adapter")
    sync = MergedSync([], matched_export(str(base), "nf4"), tmp_path / "served")
    sync.publish(0, adapter)
    out = export(quantised, tmp_path / "out", Request("merged"))
    assert difference(loaded(out), loaded(tmp_path / "served"), tokens(load_tokenizer(str(out)))) == 0


@pytest.mark.parametrize(("kind", "most"), [("f16", 1e-3), ("q8_0", 1.5)])
def test_a_gguf_is_read_back_by_transformers(run, merged, tmp_path, kind, most):
    model, file = read_back(export(run, tmp_path / "out", Request("gguf", kind=kind)))
    prompts = tokens(load_tokenizer(str(merged)))
    assert tokens(transformers.AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file=Path(file).name)) == prompts
    apart = difference(model, loaded(merged, torch.float32), prompts)
    print(apart)
    assert apart < most


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_llama_cpp_says_what_transformers_says(tmp_path, family):
    """Rotary halves in their order, biases, tied and own output weights, tokens of a text."""
    source = write_model(tmp_path / "model", family)
    gguf_file.write(source, tmp_path / "m.gguf", "f16", "m")
    tokenizer, ours = load_tokenizer(str(source)), loaded(source, torch.float32)
    assert difference(read_back(tmp_path)[0], ours, tokens(tokenizer)) < 1e-3
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.cpuparams.n_threads, params.warmup = str(tmp_path / "m.gguf"), 256, 1, False
    server = xllamacpp.Server(params)
    for text, ids in zip(PROMPTS, tokens(tokenizer), strict=True):
        said = server.handle_completions({"prompt": text, "n_predict": 8, "temperature": 0, "n_probs": 1})
        told = [token["id"] for token in said["choices"][0]["logprobs"]["content"]]
        assert len(told) > 1 and short_of_best(ours, ids, told).max() < 0.05  # its cache is in float16


def short_of_best(model, prompt, told):
    """By how much each token's logit is below the best one's: 0 for what greedy decoding says."""
    given = logits(model, [[*prompt, *told]])[len(prompt) - 1 : -1]
    return given.max(-1).values - given.gather(-1, torch.tensor(told)[:, None])[:, 0]


def test_what_cannot_become_a_gguf_is_said_before_anything_is_merged(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gemma"}')
    with pytest.raises(UserError, match="a GGUF of a 'gemma' model cannot be written here .* accepted: llama, qwen2"):
        gguf_file.check(tmp_path, "f16")
    with pytest.raises(UserError, match="GGUF kind 'q3'; accepted: f16, bf16, q8_0"):
        gguf_file.check(tmp_path, "q3")


LLAMA3 = {"rope_type": "llama3", "factor": 8.0}


@pytest.mark.parametrize(
    ("rope", "scaling"),
    [
        ({"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}, "llama3"),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, "llama3"),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
    ],
)
def test_a_scaled_rope_is_refused_in_the_hubs_newer_and_older_form(tmp_path, rope, scaling):
    write_json(tmp_path / "config.json", {"model_type": "llama", **rope})
    with pytest.raises(UserError, match=f"a model with rope_type '{scaling}' cannot be written here .*: default only"):
        gguf_file.check(tmp_path, "f16")


@pytest.mark.parametrize("rope", [{"rope_theta": 5e5, "rope_scaling": None}, {"rope_parameters": {"rope_theta": 5e5}}])
def test_a_rope_as_it_is_passes(tmp_path, rope):
    write_json(tmp_path / "config.json", {"model_type": "llama", **rope})
    config, _ = gguf_file.check(tmp_path, "f16")
    assert gguf_file._rope(config)["rope_theta"] == 5e5


def steps(*kinds):
    return {"type": "Sequence", "pretokenizers": list(kinds)}


BYTES = {"type": "ByteLevel", "use_regex": True}
QWEN2 = {"type": "Split", "pattern": {"Regex": gguf_file.QWEN2}}
DIGITS = {"type": "Digits", "individual_digits": True}


@pytest.mark.parametrize(
    ("pre", "name"),
    [(BYTES, "gpt-2"), (steps(DIGITS, BYTES), "smollm"), (steps(QWEN2, BYTES), "qwen2"), ({"type": "Metaspace"}, None)],
)
def test_how_text_is_cut_is_known_or_refused(pre, name):
    if name:
        assert gguf_file._cut(pre, Path("m")) == name
    else:
        with pytest.raises(UserError, match="cuts text in a way that is not known here .Metaspace."):
            gguf_file._cut(pre, Path("m"))
        with pytest.raises(UserError, match="not known here .not at all."):
            gguf_file._cut(None, Path("m"))


def test_the_modelfile_makes_the_prompt_of_training(run, base, tmp_path):
    out = export(run, tmp_path / "out", Request("gguf"))
    text = (out / "Modelfile").read_text()
    template, system = (text.partition(f'{key} """')[2].partition('"""')[0] for key in ("TEMPLATE", "SYSTEM"))
    before, after = frame(load_tokenizer(str(base)), agent.system_text(run.catalog), {})
    assert (
        template.replace("{{ .System }}", system).replace("{{ .Prompt }}", "[1] a: b\n") == f"{before}[1] a: b\n{after}"
    )
    assert "PARAMETER temperature 0\n" in text and "PARAMETER repeat_penalty 1\n" in text  # its own default: 1.1
    assert 'PARAMETER stop "<|im_end|>"' in text and f"FROM ./{next(out.glob('*.gguf')).name}" in text
    assert system in agent.system_text(run.catalog) and not (out / "merged").exists()


def test_an_adapter_is_served_again_as_its_run_asked_it_and_its_card_says_what_it_is(run, base, tmp_path):
    out = export(run, tmp_path / "out", Request("adapter"))
    found = find(str(out), None)
    p = found.params
    assert (p.model, p.quantization, p.max_completion_tokens, found.policy) == (str(base), "none", 8, "adapter")
    assert found.catalog == run.catalog and p.adapters["adapter"] == out
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert (out / "system.txt").read_text() == agent.system_text(run.catalog)  # what the card calls the prompt
    card = (out / "README.md").read_text()
    assert card.startswith(f"---\nlicense: other\nbase_model: {base}\nlibrary_name: peft\n")
    for part in CARD:
        assert part in card, part


def test_an_annotated_corpus_is_a_folder_that_datasets_reads(run, tmp_path):
    from datasets import load_dataset

    out = export(run, tmp_path / "out", Request("dataset"))
    read = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in read.items()} == {"train": 4, "dev": 2, "test": 2}
    case, row = run.split("test")[0], read["test"][0]
    assert [t["text"] for t in row["turns"]] == [t.text for t in case.dialogue.turns]
    window = case.references[0].window
    assert [row["references"][0][k] for k in ("open", "ready", "close")] == [window.open, window.ready, window.close]
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n") and "- test: 2 dialogues" in card


# what is refused


def test_a_base_that_is_nowhere_is_one_sentence(run, tmp_path, monkeypatch):
    def gone(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", gone)
    other = type(run)(run.params.model_copy(update={"model": "me/gone"}), run.out)
    with pytest.raises(UserError, match="model 'me/gone' is not on this machine, .* no connection"):
        export(other, tmp_path / "out", Request("merged"))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_half_written_when_the_disk_is_full(run, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporting.model_card, "write", full)
    with pytest.raises(UserError, match="the disk is full or broken .* nothing was written"):
        export(run, tmp_path / "out", Request())
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_sentence(run, tmp_path, cli):
    def told(*more, folder=run.out, out=tmp_path / "out"):
        done = cli("export", folder, "--out", out, *more)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "out").exists()
        return done.stderr

    assert "--form 'onnx'; accepted: adapter, merged, gguf, dataset" in told("--form", "onnx")
    assert "no adapter to export: sft is left out" in told("--form", "merged", "--policy", "sft")
    assert f"{tmp_path} is there already" in told("--form", "merged", out=tmp_path)
    none = opened(tmp_path / "none", policies=["oracle"])
    assert "has no adapter to export: none of its policies is trained" in told("--form", "merged", folder=none.out)
    (tmp_path / "none" / "params.json").write_text(
        none.params.model_copy(update={"dataset": "jsonl", "data_dir": tmp_path}).model_dump_json()
    )
    sentence = told("--form", "adapter", "--push", "me/agent", folder=none.out)
    assert "the licence of the data (jsonl) is not known; name it with --data-license" in sentence


def hub(monkeypatch, calls, private=True):
    """A hub that keeps what it is told, and whose repositories are private, or were there before and are not."""

    class Hub:
        def create_repo(self, name, **more):
            calls.append((name, more))

        def repo_info(self, name, repo_type):
            return SimpleNamespace(private=private)

        def upload_folder(self, folder_path, repo_id, repo_type):
            calls.append((repo_id, sorted(f.name for f in folder_path.iterdir())))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)


def test_nothing_is_pushed_to_a_repository_that_is_public(run, tmp_path, monkeypatch):
    hub(monkeypatch, calls := [], private=False)
    with pytest.raises(UserError, match="not uploaded: me/agent is there already, and public"):
        export(run, tmp_path / "out", Request(), push="me/agent")
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["me/agent", "no such name"])
def test_a_push_that_the_hub_does_not_take_is_one_sentence(run, tmp_path, monkeypatch, name):
    """Nobody listens at port 9; the other name is none."""
    monkeypatch.setattr("huggingface_hub.HfApi", partial(HfApi, endpoint="http://127.0.0.1:9", token="t"))
    with pytest.raises(UserError, match=f"is written, but not uploaded to {name}: "):
        export(run, tmp_path / "out", Request(), push=name)


def test_a_push_uploads_the_folder_privately(run, tmp_path, monkeypatch):
    hub(monkeypatch, calls := [])
    export(run, tmp_path / "out", Request(), push="me/agent")
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors", "catalog.json", "proactor.json",
             "system.txt"]  # fmt: skip
    assert calls == [("me/agent", {"repo_type": "model", "private": True, "exist_ok": True}), ("me/agent", files)]
