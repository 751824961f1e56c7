"""Rollouts against a server that speaks completions as vLLM does: what is asked, of which version, when; the scores."""

import asyncio
import itertools
import threading
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from proactor_lib.artf.serving import completions
from proactor_lib.artf.serving.completions import CompletionClient, WrongModel
from proactor_lib.artf.training import train
from proactor_lib.artf.training.credit import trajectory_scores
from proactor_lib.artf.training.episodes import DialogueSampler
from proactor_lib.artf.training.rollouts import Crediting, RolloutWorker, scored
from proactor_lib.artf.training.tokens import DialogueTokens
from proactor_lib.artf.training.training_log import step_line
from proactor_lib.bench import false_alarms
from proactor_lib.bench.false_alarms import Shuffled
from proactor_lib.connection import session_id
from proactor_lib.datasets import load
from proactor_lib.errors import ProcessError, UserError
from proactor_lib.metrics import TURN_KINDS
from proactor_lib.params import Params, load_params
from proactor_lib.rewards import Score, make_reward
from proactor_lib.schema import cases

from support.fake_vllm import Completions, drawn
from support.waiting import wait_until

TRAINED = {"tokens_packed": 1, "kl": 0.0, "clipped_share": 0.0, "entropy": 1.0, "rollout_wait_s": 0.0,
           "train_s": 0.0, "sync_s": 0.0, "elapsed_s": 0.0}  # fmt: skip


def trunk(visit):
    """One token per turn, another for each dialogue: no tokenizer is needed to see what is asked."""
    number = sum(map(ord, visit.dialogue.id))
    return DialogueTokens(
        [number, *range(100, 100 + len(visit.dialogue.turns))], list(range(2, 2 + len(visit.dialogue.turns))), [7]
    )


@pytest.fixture(scope="module")
def corpus():
    return load("homeloan", None, "train", 4)


@pytest.fixture
def server():
    with Completions() as made:
        made.state.adapters = {f"v{n}": "" for n in range(10)}
        yield made


@pytest.fixture
def work(corpus, server):
    """Starts a worker; all are stopped at the end. `version`: the first that is served."""
    workers = []

    def start(reward=None, version=0, patience=60.0, **settings):
        settings = {"k": 4, "visits_per_step": 2, "max_steps": 4, "max_staleness": 0} | settings
        turns = settings.pop("turns", 3)
        visits = DialogueSampler(cases(corpus.dialogues, corpus.truth, corpus.catalog), turns, seed=0)
        reward = reward or make_reward(load_params())
        worker = RolloutWorker(
            visits, trunk, CompletionClient(server.url, 8, patience=patience), reward, lambda v: f"v{v}", **settings
        )
        worker.update_model_version(version)
        worker.start()
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.stop()
        assert not asyncio.all_tasks(worker._loop)


def held(server):
    """(the first completion has been asked for, all may be answered): two events."""
    arrived, go = threading.Event(), threading.Event()

    def on(path, body):
        if path == "/v1/completions":
            arrived.set()
            assert go.wait(100)

    server.on = on
    return arrived, go


def still(count, seconds=0.3):
    """What `count()` is once it has stopped growing."""
    last = -1
    while last != (last := count()):
        time.sleep(seconds)
    return last


def test_no_request_carries_a_seed_or_anything_else_that_bends_the_policy(work, server):
    work().next_step()
    for body in server.completions:
        assert set(body) == {
            "model", "prompt", "n", "max_tokens", "temperature", "top_p", "logprobs", "return_token_ids",
        }  # fmt: skip
        assert (body["temperature"], body["top_p"]) == (1.0, 1.0)
    assert {body["n"] for body in server.completions} == {1, 4}  # the prompt alone, then K outputs a turn


def test_all_turns_of_a_visit_are_asked_of_one_version_under_one_session(work, server):
    """A new version comes while the visits of a step are under way: they go on with the one that they lease."""
    arrived, go = threading.Event(), threading.Event()

    def on(path, body):
        if path == "/v1/completions" and body["n"] == 1:
            arrived.set()
            go.wait(100)

    server.on = on
    worker = work(max_staleness=1)
    assert arrived.wait(100)
    worker.update_model_version(1)
    go.set()
    batches = [worker.next_step() for _ in range(2)]
    wait_until(lambda: "v1" in {model for _, model in server.sessions})
    asked = {}
    for session, model in server.sessions:
        asked.setdefault(session, set()).add(model)
    assert all(len(models) == 1 for models in asked.values())
    for batch in batches:
        assert {asked[session_id(g.visit.session)].copy().pop() for g in batch.groups} == {f"v{batch.version}"}
    assert batches[0].version == 0
    sessions = {g.visit.session for b in batches for g in b.groups}
    assert sessions == {f"{g.visit.dialogue.id}-{g.visit.number}" for b in batches for g in b.groups}
    assert len(sessions) == 4  # two visits a step


@pytest.mark.parametrize("staleness", [0, 2])
def test_no_step_is_admitted_whose_policy_would_be_too_old(work, server, staleness):
    worker = work(max_staleness=staleness, max_steps=6)
    for version in range(3):
        worker.update_model_version(version)
        admitted = 2 * (version + staleness + 1)  # visits: two per step
        wait_until(lambda n=admitted: len(begun(server)) >= n)
        still(lambda: len(server.completions))
        assert len(begun(server)) == admitted
    batches = [worker.next_step() for _ in range(3)]
    assert [b.step for b in batches] == [0, 1, 2]
    assert all(0 <= b.step - b.version <= staleness for b in batches)


def begun(server):
    """The sessions of the visits that were asked about."""
    return {session for session, _ in server.sessions}


def test_a_swap_in_place_waits_for_open_visits_and_lets_none_in_meanwhile(work, server):
    arrived, go = held(server)
    worker = work(max_staleness=1)
    assert arrived.wait(100)
    drained = threading.Thread(target=worker.drain)
    drained.start()
    time.sleep(0.3)
    assert drained.is_alive()
    go.set()
    drained.join(100)
    assert not drained.is_alive()
    before = still(lambda: len(server.completions))
    assert worker.idle and {model for _, model in server.sessions} == {"v0"}
    worker.update_model_version(1)
    worker.next_step(), worker.next_step()
    wait_until(lambda: len(server.completions) > before)


class Judge:
    """A reward that takes long for one turn, and raises for another."""

    name, counters = "judge", {}

    def __init__(self, slow, failing):
        self.slow, self.failing, self.answered = slow, failing, []

    async def score(self, group):
        await asyncio.sleep(1.5 if group.turn in self.slow else 0.05)
        self.answered.append(group.turn)
        if group.turn in self.failing:
            raise ConnectionError("the judge is gone")
        return [Score(float(n % 2)) for n in range(len(group.texts))]

    async def close(self):
        pass


def test_a_slow_and_a_failing_judge_call_stop_neither_the_others_nor_the_run(work, corpus, caplog):
    visits = DialogueSampler(cases(corpus.dialogues, corpus.truth, corpus.catalog), 3, seed=0)
    slow, failing = visits[0].turns[0], visits[1].turns[2]
    judge = Judge({slow}, {failing})
    worker = work(judge)
    batch = worker.next_step()
    assert len(judge.answered) == 6 and judge.answered[-1] == slow  # nobody waited for it
    lost = [g for g in batch.groups if g.mean_reward is None]
    assert [(g.visit.number, g.turn) for g in lost] == [(1, failing)]
    line = step_line(batch, TRAINED)
    assert (line["groups"], line["groups_skipped"], line["outputs_unscored"]) == (6, 1, 4)
    assert line["reward_mean"] == 0.5 and len(line["reward_groups"]) == 5  # what has no score is left out, not 0
    assert len(batch.samples) == 5 * 4
    assert f"turn {failing} has no score: reward judge failed" in caplog.text and "the judge is gone" in caplog.text
    worker.update_model_version(1)
    assert worker.next_step().step == 1


class Mistaken(Judge):
    """A reward with a bug."""

    async def score(self, group):
        return [Score({}["pt"]) for _ in group.texts]


def test_dialogues_are_named_in_any_script(server):
    """A header is ASCII: `Müller-1` and a file 电话.jsonl once ended the run, and each of its resumes."""
    client = CompletionClient(server.url, 8)

    async def asked():
        await asyncio.gather(*(client.sample("v0", [1], 2, name) for name in ("Müller-1-0", "电话-0")))
        await client.close()

    asyncio.run(asked())
    assert len(begun(server)) == 2


def test_a_request_that_waited_for_long_is_asked_again(server, monkeypatch):
    """`patience` begins with the first failure, not with the request."""
    client, clock = CompletionClient(server.url, 8, patience=60.0), itertools.count(0, 50)
    monkeypatch.setattr(completions, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    server.misname = "base"

    async def asked():
        with pytest.raises(WrongModel):
            await client.sample("v0", [1], 2, "d-0")
        await client.close()

    asyncio.run(asked())
    assert client.counters == {"requests": 2, "retries": 1, "wrong_model": 2}


def test_a_mistake_in_a_reward_ends_the_run_with_its_traceback(work, caplog):
    with pytest.raises(RuntimeError, match="rollouts ended: 'pt'") as ended:
        work(Mistaken((), ())).next_step()
    assert isinstance(ended.value.__cause__, KeyError) and 'Score({}["pt"])' in caplog.text


def test_who_waits_for_a_worker_that_fails_is_told_what_has_failed(work, server, corpus):
    """Step 0 fails while step 1 still holds its lease, for which the trainer waits."""
    visits = DialogueSampler(cases(corpus.dialogues, corpus.truth, corpus.catalog), 3, seed=0)
    later, fail, end = trunk(visits[1]).prompt(1)[0], threading.Event(), threading.Event()
    server.misname = "base"
    server.on = lambda path, body: path == "/v1/completions" and (end if body["prompt"][0] == later else fail).wait(100)
    worker = work(max_staleness=1, patience=0.0, visits_per_step=1)
    wait_until(lambda: sum(worker._gate.leased.values()) == 2)
    threading.Thread(target=lambda: (wait_until(lambda: not worker._gate._open), fail.set())).start()
    with pytest.raises(WrongModel, match="v0 was asked, base answered"):
        worker.drain()
    end.set()


def test_crediting_by_another_rule_has_the_parameters(tmp_path):
    params = load_params(None, {"reward_price": 0.5, "reward_theta": 0.6, "scale_rewards": "batch"})
    assert train._crediting(params, Shuffled) == Shuffled("batch", "none", "turn", 0.6, 0.5)


@pytest.mark.parametrize(
    "error", [TimeoutError("late"), httpx.ReadError("gone"), OSError(28, "No space left on device")]
)
def test_what_a_judge_or_a_disk_does_leaves_a_group_without_a_score(error):
    class Failing(Judge):
        async def score(self, group):
            raise error

    case = SimpleNamespace(dialogue=SimpleNamespace(id="d"))
    group = SimpleNamespace(case=case, turn=3, outputs=(1, 2))
    assert asyncio.run(scored(Failing((), ()), group)) == [Score(None)] * 2


def test_an_answer_of_another_model_ends_the_run_with_a_sentence(work, server):
    server.misname = "base"
    with pytest.raises(WrongModel, match="v0 was asked, base answered") as ended:
        work(patience=0.0).next_step()
    assert isinstance(ended.value, ProcessError)


def test_groups_without_variance_are_skipped_and_counted(work, server, caplog):
    """First some groups vary, then none does: more visits are made, it is said, and the run goes on."""
    alike = lambda body: ["none"] * body["n"]  # noqa: E731
    server.texts = lambda body: drawn(body) if body["prompt"][-2] % 2 else alike(body)
    worker = work()
    batch = worker.next_step()
    line = step_line(batch, TRAINED)
    flat = [g for g in batch.groups if not g.trainable]
    assert 0 < len(flat) == line["groups_skipped"] < line["groups"]
    assert all(set(g.advantages) == {0.0} for g in flat) and batch.outputs_alike == 4 * len(flat)
    assert len(batch.samples) == 4 * (line["groups"] - line["groups_skipped"])
    server.texts = alike
    worker.update_model_version(1)
    batch = worker.next_step()
    assert len(batch.groups) == 3 * 6 and len({g.visit.number for g in batch.groups}) == 6
    assert {s["advantage"] for s in batch.samples} == {0.0}
    assert "step 1: none of 18 groups has any variance" in caplog.text
    worker.update_model_version(2)
    assert worker.next_step().step == 2


@pytest.mark.parametrize("log_prob, asked, sure", [(-0.001, {1}, True), (-1.0, {1, 3}, False)])
def test_an_output_that_is_nearly_certain_stands_for_all_of_its_turn(work, server, log_prob, asked, sure):
    """Of at most 7 tokens, so at least exp(-0.007) = 0.993 probable; a less probable one is the first of the K."""
    server.log_prob = log_prob
    line = step_line(batch := work(sure_output=0.97).next_step(), TRAINED)
    assert {body["n"] for body in server.completions if body["max_tokens"] > 1} == asked
    assert {len(g.outputs) for g in batch.groups} == {4} and line["outputs"] == 4 * line["groups"]
    assert line["groups_sure"] == (line["groups"] if sure else 0)
    tokens = [[len(o.tokens) for o in g.outputs] for g in batch.groups]
    assert line["output_tokens"] == sum(made[0] if sure else sum(made) for made in tokens)


def test_along_trajectories_with_the_references_beside_them(work, server, corpus):
    """All turns of a dialogue; the references' output is trained at each of them, at weight 1."""
    worker = work(
        turns=0, visits_per_step=1, crediting=Crediting(scale_rewards="none", credit="trajectory", price=0.12),
        reference_tokens=lambda visit, turn: [7, turn],
    )  # fmt: skip
    batch = worker.next_step()
    visit = batch.groups[0].visit
    assert [g.turn for g in batch.groups] == list(range(1, len(visit.dialogue.turns) + 1))
    along = trajectory_scores(visit.references, [(g.turn, g.parsed) for g in batch.groups], 0.75, 0.12)
    assert [g.scores for g in batch.groups] == along
    supervised = [s for s in batch.samples if np.isnan(s["old_log_probs"]).any()]
    assert [s["input_ids"].tolist()[-2:] for s in supervised] == [[7, g.turn] for g in batch.groups]
    assert all(s["advantage"] == 1 and np.isnan(s["old_log_probs"]).sum() == 2 for s in supervised)
    trained = [g for g in batch.groups if g.trainable]
    assert len(batch.samples) == 4 * len(trained) + len(batch.groups)
    line = step_line(batch, TRAINED)
    assert sum(line[f"turns_{kind}"] for kind in TURN_KINDS) == pytest.approx(1)
    ready = [any(a.status == "ready" for a in p.actions) for g in batch.groups if g.kind == "due" for p in g.parsed]
    assert line["ready_due"] == np.mean(ready)


def test_a_prompt_beyond_the_context_is_counted_and_ends_nothing(work, server):
    """A prompt has 2 tokens more than its turn's number here; the limit lets turns 1 to 6 in."""
    worker = work(turns=0, visits_per_step=1, longest_prompt=8)
    batch = worker.next_step()
    turns = len(batch.groups[0].visit.dialogue.turns)
    assert [g.turn for g in batch.groups] == [1, 2, 3, 4, 5, 6] and turns > 6
    assert step_line(batch, TRAINED)["prompts_too_long"] == turns - 6
    assert max(len(body["prompt"]) for body in server.completions) == 8


def test_a_step_in_which_no_prompt_fits_is_empty(work):
    batch = work(longest_prompt=2).next_step()
    line = step_line(batch, {"kl": None})
    assert (batch.groups, batch.samples, line["groups"], line["turns_due"]) == ([], [], 0, None)
    assert line["prompts_too_long"] == 3 * 2 * 3  # three rounds of two visits of three turns


def test_shuffled_rewards_are_the_rewards_of_other_outputs(work):
    """Of the same sizes in each group, and the same each time; not every group keeps its order."""
    batches = [work(crediting=made()).next_step() for made in (Crediting, Shuffled, Shuffled)]
    plain, dealt, again = ([[s.value for s in g.scores] for g in sorted(b.groups, key=place)] for b in batches)
    assert plain != dealt == again and list(map(sorted, plain)) == list(map(sorted, dealt))


@pytest.mark.parametrize(
    "settings, says", [({}, "needs max_steps, and a start"), ({"sft_steps": 1, "anchor": 0.5}, "anchor teaches")]
)
def test_a_training_that_cannot_teach_is_told_before_anything_is_written(tmp_path, settings, says):
    with pytest.raises(UserError, match=says):
        false_alarms.benchmark(None, [0], tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def place(group):
    return group.visit.session, group.turn


@pytest.mark.parametrize(
    "settings, longest", [({}, 880), ({"kl_beta": 0.1}, 580), ({"max_completion_tokens": 900}, 100)]
)
def test_a_prompt_may_fill_the_context_and_a_row_where_rows_are_cut(settings, longest):
    params = Params(**{"max_context": 1000, "token_budget": 700, "max_completion_tokens": 120} | settings)
    assert train.longest_prompt(params) == longest


def test_outputs_that_leave_no_room_for_a_prompt_are_refused():
    with pytest.raises(UserError, match="no prompt fits: max_completion_tokens is 120 of 120 tokens"):
        train.longest_prompt(Params(max_context=120, max_completion_tokens=120))
