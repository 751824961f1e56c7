"""Watching an agent: in a terminal, and as a widget; `test_watch_browser.py` does it in a browser."""

import pytest
from proactor_lib.evaluate import evaluate_run
from proactor_lib.evaluate.agents import Agent, Fixed, Unanswered
from proactor_lib.evaluate.conversation import Background, Conversation, verdict
from proactor_lib.schema import Action, Catalog, Turn, TurnPrediction
from proactor_lib.widgets import Watch
from proactor_lib.widgets.watch import TYPED

from support.metric_cases import candidate, ready, reference
from support.runs import opened

R = [reference("book", (2, 4, 6), to="Rome"), reference("pay", (5, 5, 7))]


@pytest.mark.parametrize(
    ("action", "turn", "expected"),
    [
        (candidate("book", to="Rome"), 3, "in its window 2-6, ready from 4"),
        (ready("book", to="rome"), 6, "in its window 2-6, ready from 4"),
        (ready("pay"), 4, "early: its window is 5-7, ready from 5"),
        (ready("book", to="Rome"), 7, "late: its window was 2-6, ready from 4"),
        (ready("book", to="Oslo", day="3"), 5, "not the parameters that are needed (window 2-6, ready from 4)"),
        (ready("sell"), 5, "not needed"),
    ],
)
def test_verdicts(action, turn, expected):
    assert verdict(action, turn, R, 0.75) == expected


def talk(policy, references=R):
    catalog = Catalog(domain="x", actions=(Action(name="book"), Action(name="pay")))
    return Conversation(Fixed(policy, 0), catalog, Background(), references=references)


def test_a_conversation_grows_and_what_was_not_triggered_is_named():
    watched = talk("oracle_late")
    said = [watched.hear(Turn(speaker="u", text="hm")) for _ in range(5)]
    assert [[j.action.name for j in turn] for turn in said] == [[], [], ["book"], ["book"], ["book"]]
    assert [[r.name for r in watched.unsaid(t)] for t in (3, 4, 5)] == [[], ["book"], ["pay"]]
    unknown = talk("first_action", None)
    assert [j.verdict for j in unknown.hear(Turn(speaker="u", text="hm"))] == [""] and unknown.unsaid(1) == []


# in a terminal


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose fixed policies were evaluated at every turn."""
    made = opened(tmp_path_factory.mktemp("watched"), policies=["oracle", "oracle_late"], evaluation_turns=0)
    evaluate_run(made)
    return made


@pytest.fixture
def watch(cli):
    """`proactor watch` on a run."""
    return lambda run, *more, typed="": cli("watch", "--out", run.out, *more, typed=typed)


def test_a_replay_shows_actions_with_parameters_against_their_windows(run, watch):
    done = watch(run, "--policy", "kept:oracle")
    dialogue, needed = run.dialogues("test")[0], run.references("test")[0].references
    assert done.returncode == 0 and f"[{len(dialogue.turns)}]" in done.stdout
    first = next(r for r in needed if r.params)
    key, param = next(iter(first.params.items()))
    shown = " ".join(done.stdout.split())
    assert f"ready {first.name}(" in shown and f"{key}={param.value}" in shown
    w = first.window
    assert f"in its window {w.open}-{w.close}, ready from {w.ready}" in shown and "not triggered" not in shown
    assert "not triggered" in watch(run, "--policy", "oracle_late").stdout


def test_a_conversation_is_typed(run, watch):
    done = watch(run, "--policy", "first_action", "--type", typed="customer: Hello\nHi, who is it?\nclerk: me\n")
    spoken = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert spoken == ["[1] customer: Hello", "[2] agent: Hi, who is it?", "[3] clerk: me"]
    assert done.stdout.count(f"● ready {run.catalog.actions[0].name}()") == 3


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--policy", "clever"], "unknown policy 'clever'"),
        (["--policy", "trained"], "trained is left out: this run has no"),
        (["--policy", "oracle", "--dialogue", "x"], "no dialogue 'x' in test"),
        (["--policy", "kept:x"], "keeps no predictions of 'x' on test; kept there: "),
        (["--policy", "reasoning", "--url", "http://127.0.0.1:9/v1"], "policy_url and policy_model need each other"),
    ],
)
def test_mistakes_are_one_sentence(run, watch, more, sentence):
    done = watch(run, *more)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1


# as a widget


def test_the_widget_replays_to_the_end_and_starts_again(run):
    shown = Watch.of(run)
    assert shown.policy.value == "oracle" and shown.dialogue.value == run.dialogues("test")[0].id
    shown.step.click()
    assert len(shown.conversation.turns) == 1 and "[1]" in shown.now.value
    shown.rest.click()
    assert len(shown.conversation.turns) == len(run.dialogues("test")[0].turns) and shown.step.disabled
    assert "●" in shown._view.value
    shown.policy.value = "silent"
    assert shown.conversation.turns == [] and not shown.step.disabled
    shown.rest.click()
    assert "nothing" in shown.now.value


class Hesitant(Agent):
    """Is silent at the first turn, gives no answer at the second, and is not asked again."""

    async def follow(self, case, known, done):
        turn = len(case.dialogue.turns)
        if turn == 2:
            raise Unanswered("no answer")
        if turn == 1:
            done(TurnPrediction(dialogue_id=case.dialogue.id, turn=turn))


def test_a_turn_without_an_answer_stops_the_replay_and_one_that_nobody_asked_about_is_no_silence(run):
    shown = Watch({"hesitant": Hesitant()}, run.split("test"), run.catalog)
    shown.rest.click()
    assert len(shown.conversation.turns) == 2 and "no answer" in shown.now.value and not shown.rest.disabled
    shown.rest.click()
    turns = len(shown.conversation.turns)
    assert turns == len(run.dialogues("test")[0].turns) and shown.rest.disabled and "not asked" in shown.now.value
    assert not any(shown.conversation.unsaid(t) for t in range(2, turns + 1))


def test_the_widget_takes_a_typed_conversation_as_text(run):
    shown = Watch.of(run)
    shown.dialogue.value, shown.policy.value = TYPED, "first_action"
    assert shown.step.disabled and not shown.text.continuous_update  # else `say` overtakes what is typed
    shown.text.value = "<b>hello</b>"
    shown.add.click()
    assert "&lt;b&gt;hello" in shown.now.value and f"<b>{run.catalog.actions[0].name}()</b>" in shown.now.value
    assert shown.text.value == ""
