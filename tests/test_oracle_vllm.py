"""The oracle annotator against a real vLLM server with a tiny random model: form is all that one can ask of it."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import jsonschema
from proactor_lib import datasets
from proactor_lib.annotate import oracle, oracle_run
from proactor_lib.endpoint import Endpoint, Failed

from support.waiting import wait_until

SAMPLING = {"temperature": 1.0, "max_tokens": 2000}
RUN = """
import sys
from pathlib import Path
from proactor_lib.annotate import oracle_run
from test_oracle_vllm import SAMPLING, corpus
calls, oracle = corpus(8), {"sampling": SAMPLING, "attempts": 2}
settings = oracle_run.OracleSettings(sys.argv[1], "policy", cache=Path(sys.argv[3]), concurrency=2, oracle=oracle)
oracle_run.annotate_file(calls.dialogues, calls.catalog, Path(sys.argv[2]), settings)
"""


def corpus(limit):
    """Simulated calls, asked about five of the actions: a random model fills every list that there is room for."""
    calls = datasets.load("homeloan", None, "dev", limit=limit, seed=5, log=False)
    few = tuple(action.name for action in calls.catalog.actions[:5])
    return replace(calls, dialogues=[d.model_copy(update={"actions": few}) for d in calls.dialogues])


def test_every_answer_of_a_random_model_is_valid_by_the_schema(tiny_server, tmp_path):
    """Sampled at temperature 1, so that it says more than empty lists.

    One in a hundred has bytes that are no character: one of the 100 that the grammar grants a value, three in the text.
    """
    calls, texts, undecodable = corpus(8), [], []

    async def ask(endpoint, dialogue):
        actions = calls.catalog.subset(dialogue.actions).actions
        for part in oracle.parts(len(dialogue.turns), 25, 5):
            schema = oracle.answer_schema(actions, part, [])
            answer = await endpoint.complete_json(
                oracle.messages(dialogue, actions, part, []), schema, lambda value: value, attempts=1, **SAMPLING
            )
            if isinstance(answer, Failed):
                assert "\ufffd" in answer.reason, answer
                undecodable.append(answer)
            else:
                jsonschema.validate(answer.value, schema)
                texts.append(answer.text)

    async def every():
        async with Endpoint(f"{tiny_server.url}/v1", "policy", timeout=300, concurrency=8) as endpoint:
            await asyncio.gather(*(ask(endpoint, d) for d in calls.dialogues))
            return endpoint.counts

    counts = asyncio.run(every())
    assert counts.calls == len(texts) + len(undecodable) >= 16 and counts.invalid == len(undecodable) <= 4
    assert any('"value"' in text for text in texts)


def metric(server, name):
    """One of the server's own numbers, such as request_success_total: requests answered since it started."""
    text = httpx.get(f"{server.url}/metrics").text
    return sum(float(n) for n in re.findall(rf"^vllm:{name}\{{.*\}} (\S+)$", text, re.MULTILINE))


def test_a_killed_run_against_vllm_goes_on_without_repeating_a_call(tiny_server, tmp_path):
    out, cache, calls = tmp_path / "refs.jsonl", tmp_path / "cache", corpus(8)
    command = [sys.executable, "-c", RUN, f"{tiny_server.url}/v1", out, cache]
    child = subprocess.Popen(command, cwd=Path(__file__).parent)
    wait_until(lambda: len(list(cache.rglob("*.json"))) >= 3, process=child)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    kept = len(list(cache.rglob("*.json")))
    waiting = ("num_requests_running", "num_requests_waiting")  # what the killed client had in flight
    wait_until(lambda: not any(metric(tiny_server, name) for name in waiting))
    before = metric(tiny_server, "request_success_total")
    settings = oracle_run.OracleSettings(
        f"{tiny_server.url}/v1", "policy", cache=cache, oracle={"sampling": SAMPLING, "attempts": 2}
    )
    summary = oracle_run.annotate_file(calls.dialogues, calls.catalog, out, settings)
    assert not out.with_suffix(".part").exists() and summary.dialogues == 8
    assert summary.cached == kept >= 3 and metric(tiny_server, "request_success_total") - before == summary.calls
    # A second question, with the first answer in it, may not fit into this model's context.
    assert set(summary.failed) <= {"invalid", "rejected"} and summary.retries == 0
    again = oracle_run.annotate_file(calls.dialogues, calls.catalog, out, settings)
    assert again.calls == 0 and again.cached == summary.calls + summary.cached
    assert json.loads(json.dumps(again.failed)) == summary.failed and again.annotated == summary.annotated
