"""The simulator: step times worked out by hand, service times fitted to a run's lines, splits, and the command."""

import json

import numpy as np
import pytest
from proactor_lib.artf.capacity import fit, splits
from proactor_lib.artf.capacity.simulate import Plan, simulate
from proactor_lib.artf.capacity.workload import ServiceTimes, Workload, estimate, judged
from proactor_lib.errors import UserError
from proactor_lib.files import write_json

from support.records import write_records
from support.runs import opened

# A dialogue of one turn and one output of 10 tokens after a prompt of 100: the prompt alone takes 100 * 0.01 + 0.1 s,
# the output 5 * 0.01 + 10 * 0.1, its score 0.5: rollouts 2.65 s. It trains 100 + 5 + 10 tokens in 1.15 s.
ONE = Workload(dialogues=1, turns=1, k=1, head_tokens=50, prompt_tokens=100, output_tokens=10, max_output=10)
TIMES = ServiceTimes(name="t", source="measured", prefill_s=0.01, decode_step_s=0.08, decode_s=0.02, score_s=0.5,
                     train_s=0.01, sync_s=0.2)  # fmt: skip
ROLLOUT, TRAIN, SYNC = 2.65, 1.15, 0.2


def seconds(plan, steps=4, times=TIMES, work=ONE):
    return simulate(times, work, plan, steps).seconds


def test_without_stale_samples_everything_waits_for_everything():
    found = simulate(TIMES, ONE, Plan(1, 1), 4)
    assert found.seconds == pytest.approx(SYNC + 4 * (ROLLOUT + TRAIN + SYNC))
    assert (found.rollout_s, found.rollout_wait_s) == pytest.approx((ROLLOUT, ROLLOUT))
    assert found.server_busy == pytest.approx(4 * (ROLLOUT - 0.5) / found.seconds)  # nobody is busy while it is scored
    assert found.trainer_busy == pytest.approx(4 * TRAIN / found.seconds)
    assert found.trained_tokens_per_s == pytest.approx(4 * 115 / found.seconds)


def test_a_staleness_of_one_hides_training_behind_rollouts():
    """Adapters, and a trainer that needs longer than the servers: it never waits again after the first step."""
    slow = TIMES.model_copy(update={"in_place": False, "train_s": 0.04})  # 4.6 s
    found = simulate(slow, ONE, Plan(1, 1, 1), 40)
    assert found.seconds == pytest.approx(SYNC + ROLLOUT + 40 * (4.6 + SYNC), rel=0.01)
    assert seconds(Plan(1, 1), 40, slow) == pytest.approx(SYNC + 40 * (ROLLOUT + 4.6 + SYNC))


def test_a_sync_in_place_waits_for_leases_and_what_comes_after_waits_for_it():
    in_place, adapters = (simulate(TIMES.model_copy(update={"in_place": x}), ONE, Plan(1, 1, 1), 40) for x in (1, 0))
    assert in_place.step_s > adapters.step_s and in_place.sync_s > SYNC + 0.5 > adapters.sync_s


def test_requests_wait_where_slots_are_few():
    """Four outputs on two slots take two rounds, and each of two alone is slower than one of two at once."""
    work = ONE.model_copy(update={"k": 4})
    few = simulate(TIMES.model_copy(update={"slots": 2}), work, Plan(1, 1), 1)
    many = simulate(TIMES.model_copy(update={"slots": 4}), work, Plan(1, 1), 1)
    assert few.rollout_s == pytest.approx(1.1 + 0.05 + 2 * 10 * (0.08 + 2 * 0.02) + 0.5)
    assert many.rollout_s == pytest.approx(1.1 + 0.05 + 10 * (0.08 + 4 * 0.02) + 0.5)
    two = work.model_copy(update={"dialogues": 2, "k": 1})
    one_slot = simulate(TIMES.model_copy(update={"slots": 1}), two, Plan(1, 1), 1)
    assert one_slot.wait_p95_s > 1.0 and one_slot.waiting > 0.2
    assert simulate(TIMES, two, Plan(2, 1), 1).wait_s == 0.0  # one dialogue per server


def test_a_judges_server_reads_and_answers_each_turn():
    """It reads 20 tokens in 0.2 s and writes 5 in 5 x 0.1 s, after the outputs; two of them take it in turns."""
    work = ONE.model_copy(update={"question_tokens": 20, "answer_tokens": 5})
    plan = Plan(1, 1, judges=1)
    assert plan.gpus == 3
    found = simulate(TIMES, work, plan, 1)
    assert found.rollout_s == pytest.approx(ROLLOUT + 0.7)
    assert (found.waiting, found.server_busy) == (0, pytest.approx((ROLLOUT - 0.5) / found.seconds))
    two = work.model_copy(update={"dialogues": 2})
    assert simulate(TIMES, two, Plan(2, 1, judges=1), 1).rollout_s > ROLLOUT + 0.8
    assert simulate(TIMES, two, Plan(2, 1, judges=2), 1).rollout_s == pytest.approx(ROLLOUT + 0.7)
    one_call = two.model_copy(update={"judge_calls": 1})  # whoever asks waits for the call before
    assert simulate(TIMES, one_call, Plan(2, 1, judges=2), 1).rollout_s == pytest.approx(ROLLOUT + 1.4)


def test_a_judge_has_gpus_of_its_own_in_the_synchronous_loop_too():
    of = splits.GpuCluster(4, TIMES, judged(ONE, 3))
    assert (of.workload.judge_calls, of.workload.answer_tokens) == (3, 60)
    plans = [forecast.plan for forecast in splits.loops(of, 2)]
    assert [plan.gpus for plan in plans] == [4, 4] and all(plan.judges > 0 for plan in plans)


def test_more_trainers_share_the_rows_and_padding_costs_its_tokens():
    work = ONE.model_copy(update={"dialogues": 4})
    alone, two = (simulate(TIMES, work, Plan(1, n), 1).train_s for n in (1, 2))
    assert (alone, two) == pytest.approx((4 * TRAIN, 2 * TRAIN))
    many = ONE.model_copy(update={"turns": 2, "k": 3})
    assert many.rows() == [pytest.approx(100 + 2 * (5 + 3 * 10))]
    assert many.rows(packed=False) == pytest.approx(3 * [75 + 5 + 10] + 3 * [100 + 5 + 10])
    tight = many.model_copy(update={"token_budget": 140})  # one turn's outputs a row; the trunk up to it again
    assert tight.rows() == pytest.approx([75 + 35, 100 + 35])


def test_work_slows_down_where_the_two_sides_share_a_machine():
    shared = TIMES.model_copy(update={"overlap": 1.5, "in_place": False})
    assert seconds(Plan(1, 1, 1), 20, shared) > 1.1 * seconds(
        Plan(1, 1, 1), 20, TIMES.model_copy(update={"in_place": False})
    )
    assert seconds(Plan(1, 1), 20, shared) == pytest.approx(seconds(Plan(1, 1), 20))  # never both at once


def test_output_lengths_have_the_mean_and_the_spread():
    work = ONE.model_copy(update={"output_tokens": 60, "output_sd": 25, "max_output": 120})
    drawn = work.lengths(60, 20_000, np.random.default_rng(0))
    assert drawn.min() >= 1 and drawn.max() <= 120
    assert drawn.mean() == pytest.approx(60, abs=1) and drawn.std() == pytest.approx(25, abs=1)


# a run's lines


def test_service_times_come_back_from_the_lines_that_they_made(tmp_path):
    records = write_records(tmp_path)
    found = fit.measured(tmp_path)
    times, work = found.service, found.workload
    assert (times.source, times.sync_s, times.slots) == ("measured", pytest.approx(0.3), 8)
    assert times.decode_s == pytest.approx(0.02, rel=0.03) and times.train_s == pytest.approx(0.004, rel=0.01)
    assert (times.step_s, times.record_s) == (pytest.approx(0.1), pytest.approx(0.05))
    fixed = times.prefill_s * work.prompt_tokens + times.decode_step_s * 2 * work.max_output  # 16 outputs, 8 slots
    assert fixed == pytest.approx(2.0, rel=0.05) and times.row_s == pytest.approx(0.5, rel=0.01)
    records = records[1:]  # the first is sampled by a cold server
    assert [s.packed_tokens for s in work.seen] == [r["tokens_packed"] for r in records]
    assert (work.dialogues, work.turns, work.k, work.max_output) == (1, 2, 8, 8)
    assert work.output_tokens == pytest.approx(np.mean([r["output_tokens"] for r in records]) / 16)
    assert work.head_tokens < 900 < work.prompt_tokens


def test_where_a_runs_train_dialogues_came_from_does_not_matter(tmp_path):
    """data/train.jsonl is the run's own name for them, whatever the corpus calls its split."""
    write_records(tmp_path)
    known = fit.measured(tmp_path)
    settings = json.loads((tmp_path / "params.json").read_text())
    write_json(tmp_path / "params.json", settings | {"train_split": "part-one"})
    assert fit.measured(tmp_path).workload == known.workload


def test_what_half_a_run_tells_predicts_the_other_half(tmp_path):
    write_records(tmp_path)
    found = splits.check(tmp_path)
    assert found.steps == 6 and abs(found.error) < 0.05
    with pytest.raises(UserError, match="metrics.jsonl has 0 steps, at least 2 are needed: train first"):
        opened(tmp_path / "new")
        fit.measured(tmp_path / "new")


def test_three_steps_are_too_few_to_predict_from_half_of_them(tmp_path):
    write_records(tmp_path)
    path = tmp_path / "training" / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(UserError, match="has 3 steps, at least 4 are needed"):
        splits.check(tmp_path)


def test_rollouts_that_take_next_to_no_time_are_simulated_too(tmp_path):
    """A fit may give all of it to the prompts, and none to the iterations."""
    write_records(tmp_path)
    found = changed(tmp_path, lambda r: {"rollout_s": 0.1 / r["output_tokens"]})
    assert (found.service.decode_step_s, found.service.decode_s) == (0, 0)
    assert splits.predict(found, 0) > 0


def changed(out, change):
    """What the run tells after `change` was made to each of its records."""
    path = out / "training" / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(r | change(r)) + "\n" for r in records))
    return fit.measured(out)


def test_a_cold_start_is_left_out(tmp_path):
    write_records(tmp_path)
    warm = fit.measured(tmp_path).service
    assert changed(tmp_path, lambda r: {"rollout_s": 30.0} if r["step"] == 1 else {}).service == warm
    assert abs(splits.check(tmp_path).error) < 0.05
    assert len(fit.measured(tmp_path, 0, 3).steps) == 3  # too few to leave one out


def test_a_sync_that_waits_for_rollouts_is_not_taken_for_a_long_one(tmp_path):
    write_records(tmp_path, staleness=1)
    waits = changed(tmp_path, lambda r: {"staleness": 1, "sync_s": 0.3 + 2.0 * (r["step"] % 2)})
    assert waits.service.sync_s == pytest.approx(0.3)
    alone = changed(tmp_path, lambda r: {"staleness": 0})
    assert alone.service.sync_s == pytest.approx(1.3)  # nothing to wait for: it is as long as it is


def test_short_dialogues_do_not_make_others_look_like_two_rounds(tmp_path):
    write_records(tmp_path)
    settings = json.loads((tmp_path / "params.json").read_text())
    write_json(tmp_path / "params.json", settings | {"turns_per_dialogue": 0})
    found = changed(tmp_path, lambda r: {"groups": {3: 4, 7: 16}.get(r["step"], 8)})
    assert found.workload.turns == 8 and [s.rounds for s in found.workload.seen].count(2) == 1


# clusters


def test_the_fastest_split_gives_gpus_to_the_side_that_needs_them():
    of = splits.CLUSTERS["8xH100"]()
    of = of._replace(workload=of.workload.model_copy(update={"dialogues": 8, "turns": 12}))
    slow_server = of._replace(service=of.service.model_copy(update={"decode_step_s": 0.02, "decode_s": 0.002}))
    slow_trainer = of._replace(service=of.service.model_copy(update={"train_s": 0.002}))
    serving, training = (splits.fastest(splits.splits(x, steps=3)).plan for x in (slow_server, slow_trainer))
    assert serving.servers > training.servers and serving.gpus == training.gpus == 8


def test_estimates_say_so_and_files_take_their_place(tmp_path):
    # 14.8e9 weights of 2 bytes at 60% of 4.8e12 bytes per second: a server holds the bfloat16 export
    assert estimate("H200").decode_step_s == pytest.approx(14.8e9 * 2 / (0.6 * 4.8e12))
    assert estimate("H200").source == "estimated" and estimate("H200").decode_step_s < estimate("H100").decode_step_s
    write_json(tmp_path / "times.json", TIMES.model_dump())
    write_json(tmp_path / "work.json", ONE.model_dump())
    of = splits.cluster("4xH200", tmp_path / "times.json", tmp_path / "work.json")
    assert (of.gpus, of.service, of.workload) == (4, TIMES, ONE)
    (tmp_path / "times.json").write_text('{"name": "x", "fast": true}')
    with pytest.raises(UserError, match="times.json: .*accepted keys: name, source, prefill_s"):
        splits.cluster("4xH200", tmp_path / "times.json")


def test_the_command_prints_one_object(cli, tmp_path):
    write_json(tmp_path / "work.json", ONE.model_dump())
    done = cli("simulate", "--cluster", "4xH200", "--workload", tmp_path / "work.json", "--staleness", 1, "--json")
    found = json.loads(done.stdout)
    assert (found["cluster"], found["gpus"], found["source"]) == ("4xH200", 4, "estimated")
    assert [p["name"] for p in found["plans"]] == ["synchronous, padded", "synchronous, packed", "ART-F, staleness 1"]
    assert found["plans"][0]["speedup"] == 1.0 and found["plans"][2]["servers"] + found["plans"][2]["trainers"] == 4
    write_records(tmp_path / "run")
    found = json.loads(cli("simulate", "--run", tmp_path / "run", "--json").stdout)
    assert abs(found["error"]) < 0.05 and set(found["step_s"]) == {"0", "1", "2"}
    other = cli("simulate", "--run", tmp_path / "run", "--staleness", 3, "--json")
    assert set(json.loads(other.stdout)["step_s"]) == {"3"}
    assert "predicted" in cli("simulate", "--run", tmp_path / "run").stdout
    assert "4 serve, 4 train in turn" in cli("simulate", "--workload", tmp_path / "work.json").stdout
    wrong = cli("simulate", "--cluster", "3xA100")
    assert wrong.returncode == 2 and "accepted: 4xH200, 8xH100, 64-nodes" in wrong.stderr
