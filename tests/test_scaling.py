"""The rule that says how many servers there should be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proactor_lib.artf.serving.autoscaler import ScalingPolicy, ScalingState, desired_servers
from proactor_lib.artf.serving.server import Load, parse_load

RULE = ScalingPolicy(least=1, most=4, seqs=8, up_after=2, down_after=10, fill=0.75)


def counts(loads, rule=RULE, count=1, every=1.0):
    """The number of servers after each look, one a second; `loads` are (waiting, running)."""
    trend, found = ScalingState(), []
    for n, load in enumerate(loads):
        count, trend = desired_servers(rule, trend, n * every, count, Load(*load))
        found.append(count)
    return found


def test_a_queue_that_lasts_asks_for_what_its_load_needs_at_once():
    assert counts([(9, 8)] * 4) == [1, 1, 3, 3]  # 17 sequences on servers of 8


def test_a_queue_that_passes_asks_for_nothing():
    assert counts([(9, 8), (9, 8), (0, 8), (9, 8), (9, 8), (0, 8)]) == [1] * 6


def test_a_queue_beside_free_places_asks_for_nothing():
    assert counts([(3, 8)] * 5, count=2) == [2] * 5  # one server queues, for its sessions are its own: 11 fit in two


def test_never_more_than_most_nor_fewer_than_least():
    assert counts([(900, 8)] * 3)[-1] == 4
    assert counts([(0, 0)] * 12, count=4)[-1] == 1
    assert counts([(0, 0)] * 12, ScalingPolicy(2, 4, 8, down_after=10), count=4)[-1] == 2


def test_idle_servers_go_when_they_were_too_many_all_the_while():
    assert counts([(0, 5)] * 12, count=3) == [3] * 10 + [1, 1]


def test_it_keeps_as_many_as_the_busiest_moment_needed():
    assert counts([(0, 5), (0, 11), *[(0, 5)] * 10], count=3)[-2:] == [2, 2]  # 11 over 0.75 x 8 are two servers


def test_one_busy_look_begins_the_wait_anew():
    assert counts([*[(0, 5)] * 9, (0, 20), *[(0, 5)] * 9], count=3) == [3] * 19


def test_a_margin_keeps_a_server_whose_going_would_bring_a_queue():
    assert counts([(0, 7)] * 30, count=2) == [2] * 30  # 7 fit in one server of 8, but not at three quarters


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 32)), min_size=1, max_size=80), st.integers(1, 4))
def test_the_number_changes_no_faster_than_its_waits(loads, count):
    found = [count, *counts(loads, count=count)]
    assert all(RULE.least <= n <= RULE.most for n in found)
    last = 0  # a change begins both waits again
    for n, (before, after) in enumerate(zip(found, found[1:], strict=False)):
        if after != before:
            assert n - last >= (RULE.up_after if after > before else RULE.down_after)
            last = n + 1


@pytest.mark.parametrize(("waiting", "running"), [(0, 5), (8, 8), (0, 0), (3, 24), (40, 32)])
def test_a_steady_load_is_answered_with_a_steady_number(waiting, running):
    found = counts([(waiting, running)] * 60, count=2)
    assert len(set(found[15:])) == 1 and sum(a != b for a, b in zip(found, found[1:], strict=False)) <= 1


def test_the_load_is_read_from_the_metrics_of_all_engines():
    text = (
        '# HELP vllm:num_requests_waiting x\nvllm:num_requests_waiting{engine="0"} 2.0\n'
        'vllm:num_requests_waiting{engine="1"} 1.0\nvllm:num_requests_waiting_by_reason{reason="capacity"} 9.0\n'
        'vllm:num_requests_running{engine="0",model_name="a b"} 5.0\n'
    )
    assert parse_load(text) == Load(waiting=3, running=5)
