"""The cluster's two measurements, with scripted servers: what the router costs, and what following the load saves."""

import json
import os
from contextlib import nullcontext

import pytest
from proactor_lib.artf.serving.process import free_port
from proactor_lib.bench import adaptivity, serving_load
from proactor_lib.bench.traffic import Done, bursts
from proactor_lib.errors import ProcessError


def test_the_router_keeps_dialogues_together_and_splits_the_load(cli):
    said = cli("bench", "router", "--servers", "scripted", "--rounds", "3", "--json")
    found = json.loads(said.stdout)
    assert found["affinity"] == 1.0 and all(0.45 <= share <= 0.55 for share in found["load_share"])
    assert found["direct_rps"] > 0 and found["routed_share"] > 0  # how much: LOG.md; tests share their cores
    assert cli("bench", "router", "--servers", "real").returncode == 2


def test_a_service_that_answers_nothing_is_said(tmp_path, monkeypatch):
    gone = (f"http://127.0.0.1:{free_port()}", "k", os.getpid())
    monkeypatch.setattr(serving_load, "_service", lambda *given: nullcontext(gone))
    with pytest.raises(ProcessError, match="the service answered no turn .*serve.log"):
        serving_load.benchmark(tmp_path, "tiny", None, conversations=1, seconds=0.1)


def test_a_reversal_is_a_change_of_direction():
    assert [adaptivity.reversals(c) for c in ([1], [1, 3, 4], [1, 4, 2, 1], [1, 4, 1, 4], [1, 2, 1, 2, 1])] == [
        0,
        0,
        1,
        2,
        3,
    ]


def test_a_trace_of_bursts_has_its_rates():
    talks = bursts(2, rate=400, trickle=40, burst=2, calm=8, turns=4, seed=1)
    busy = [t for t in talks if t.at % 10 >= 8]
    assert 320 < len(busy) < 480 and 110 < len(talks) - len(busy) < 210 and 19 < talks[-1].at < 20
    assert Done(2.0, [0.1, 0.3, 0.2, 0.9], 0).rps == 2 and Done(2.0, [0.1, 0.3, 0.2, 0.9], 0).latency(0.5) == 0.3
