"""The main job with the real notebooks on the smoke parameters: a real vLLM server, real training, the real report.

The dialogues are of a domain that nobody planned for (tests/own_domain.py): a catalog file and JSONL files, no code.
"""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest
from proactor_lib import pipeline

from support.zoo import write_zoo

pytestmark = pytest.mark.timeout(1200)  # a minute or five, and as long again on a busy machine
ROOT = Path(__file__).parents[1]
POLICIES = ["base", "few_shot", "sft", "sft_tuned", "sft_equal_time", "trained"]
LOSSES = [10.8475, 10.8711]  # of the warm start, as float32 has them (2026-11-28), nats per token
DEV_LOSSES = [10.8607, 10.8553]
STAGES = ["01_annotation", "02_reward_ablation", "03_artf_training", "04_evaluation"]


def arguments(out):
    params = ["--params", str(ROOT / "params" / "smoke.yaml"), "--out", str(out)]
    more = {"dataset": "jsonl", "data_dir": out.parent / "zoo", "policies": json.dumps(POLICIES)}
    more |= {"sft_check": 1, "sft_equal_time": "true"}
    return ["run", *params, *(text for k, v in more.items() for text in ("--set", f"{k}={v}"))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a whole run, and what the command said."""
    out = tmp_path_factory.mktemp("whole") / "run"
    write_zoo(out.parent / "zoo", train=4)
    command = [sys.executable, "-m", "proactor_lib", *arguments(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stderr
    return out, done


def test_every_stage_leaves_its_files(whole):
    out, done = whole
    assert done.stdout.strip() == str(out / "report.html")
    assert {a["name"] for a in json.loads((out / "data" / "catalog.json").read_text())["actions"]} == {
        "feed",
        "open_gate",
    }
    assert {n: s.state for n, s in pipeline.read_stages(out).items()} == dict.fromkeys(STAGES, "done")
    for name in ("sft", "sft_equal_time", "adapter"):
        assert (out / "training" / name / "adapter_model.safetensors").exists()
    warm, equal = (pd.read_json(out / "training" / f"{n}.jsonl", lines=True) for n in ("sft", "sft_equal_time"))
    assert list(warm) == ["step", "loss", "seconds", "tokens", "dev_loss", "dev_seconds"]
    assert len(equal) > len(warm) == 2
    assert list(warm.loss) == pytest.approx(LOSSES, abs=0.02)
    assert list(warm.dev_loss) == pytest.approx(DEV_LOSSES, abs=0.02)
    assert list(equal.loss[:2]) == pytest.approx(LOSSES, abs=0.02)  # the same dialogues
    steps = [json.loads(line) for line in (out / "training" / "metrics.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps] == [1, 2] and all(0 <= s["reward_mean"] <= 1 for s in steps)
    for policy in POLICIES:
        lines = [json.loads(line) for line in (out / "predictions" / f"{policy}.jsonl").read_text().splitlines()]
        assert len(lines) == 2 * 6 and all(line["prompt_tokens"] > 100 and line["latency_s"] > 0 for line in lines)
        readable = [not line["unreadable"] or line["output_tokens"] == 8 for line in lines]  # or cut off
        assert policy != "few_shot" or all(readable)  # a grammar holds random weights, too
    assert (out / "predictions" / "dev" / "trained.jsonl").exists()
    assert not (out / "logs" / "evaluation-server.log").exists()  # one server for all stages
    events = [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]
    scored = [e["text"] for e in events if e["stage"] == "score"]
    assert scored == POLICIES  # once, by whichever process came first


def test_the_summary_holds_what_the_report_shows(whole):
    out, _ = whole
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["reward"]) == {"first_fifth", "last_fifth", "gain", "gain_low", "gain_high", "of"}
    assert 0 <= summary["mismatch"]["kl_mean"] <= 0.01 and 0 <= summary["mismatch"]["clipped_share"] <= 0.05
    assert 0.5 < summary["peak_memory_gb"] < 12
    assert list(summary["stage_seconds"]) == STAGES and all(s > 0 for s in summary["stage_seconds"].values())
    assert list(summary["held_out"]) == POLICIES
    assert set(summary["held_out"]["base"]) >= {
        "utility",
        "ac",
        "max_ac",
        "pt",
        "ftr",
        "rar",
        "opportunity_timing",
        "pri",
    }
    primary = summary["primary"]
    assert list(primary["policies"]) == POLICIES and list(primary["against"]) == POLICIES[:-1]
    assert set(primary["dev"]) == set(POLICIES) - {"base", "few_shot"}
    assert primary["policies"]["base"] == summary["held_out"]["base"]["utility"] and primary["reason"] is None
    page = (out / "report.html").read_text()
    assert page.count("data:image/") >= 3 and "tiny" in page
    assert "http://" not in page and "https://" not in page  # it is complete in itself


def test_nothing_is_left_running_and_a_second_run_finds_all_done(whole, cli):
    out, _ = whole
    assert [p.pid for p in psutil.process_iter(["cmdline"]) if str(out) in " ".join(p.info["cmdline"] or ())] == []
    again = cli(*arguments(out))
    assert again.returncode == 0 and again.stderr.count("done before") == len(STAGES)
