"""Readiness: thresholds tuned on dev, and a row of ready turns as confidence."""

from itertools import chain, repeat

import pytest
from proactor_lib.errors import UserError
from proactor_lib.evaluate import evaluate_run, load_or_score, predictions, readiness
from proactor_lib.files import write_jsonl
from proactor_lib.metrics.thresholds import fired_from, persistence
from proactor_lib.policies import POLICIES
from proactor_lib.schema import PredictedAction, TurnPrediction

from support.runs import opened


def test_a_threshold_is_tuned_on_dev(tmp_path):
    run = opened(tmp_path, policies=["oracle_early"], evaluation_turns=0)
    evaluate_run(run, dev=True)
    found = readiness.tune_run(run, "oracle_early", prices=(0.0, 1.0))
    assert list(found.table.price) == [0.0, 1.0] and set(found.curve.threshold) >= {0.0, 1.0}
    assert found.table.utility[0] >= found.table.utility[1] and found.chosen in set(found.curve.threshold)


def test_a_tuned_policy_fires_from_the_threshold_that_is_best_on_dev(tmp_path):
    run = opened(tmp_path, policies=["random", "random_tuned"], evaluation_turns=0, execution_price=1.0)
    evaluate_run(run)
    found, threshold = load_or_score(run), readiness.tune_run(run, "random").chosen
    own, tuned = (found.predictions[name] for name in ("random", "random_tuned"))
    assert tuned == fired_from(persistence(own), threshold) and tuned != own
    primary = found.primary()
    assert primary["dev"]["random_tuned"] > primary["dev"]["random"]
    assert list(primary["policies"]) == ["random", "random_tuned"]
    with pytest.raises(UserError, match="unknown policy 'orcale_tuned'"):
        evaluate_run(opened(tmp_path / "b", policies=["orcale_tuned"]))


def sure_oracle(run, sure, split):
    """The oracle's predictions as those of a policy `mine` with confidences: `sure(action)`."""
    said = [p for c in run.split(split) for p in POLICIES["oracle"](c, 0)]
    for line in said:
        actions = tuple(a.model_copy(update={"confidence": sure(a)}) for a in line.actions)
        yield line.model_copy(update={"actions": actions})


def mine(tmp_path, sure):
    run = opened(tmp_path, policies=["oracle"], evaluation_turns=0)
    for split in ("dev", "test"):
        write_jsonl(predictions.folder(run, split) / "mine.jsonl", sure_oracle(run, sure, split))
    return run


def test_a_confidence_just_below_one_passes_the_threshold_made_of_it(tmp_path):
    run = mine(tmp_path, lambda a: 0.99998 if a.status == "ready" else 0.99997)
    threshold = readiness.tuned_threshold(run, "mine")
    said = predictions.read(run, "mine", "dev")
    assert threshold == 0.99998 and fired_from(said, threshold) == said


def test_the_policys_own_statuses_are_among_the_thresholds(tmp_path):
    """No quantile parts the trigger that is least sure, one of many, from the candidates below it."""
    sure = chain([0.5], repeat(0.9))
    run = mine(tmp_path, lambda a: next(sure) if a.status == "ready" else 0.4)
    assert set(readiness.tune_run(run, "mine").curve.threshold) == {0.0, 0.4, 0.5, 0.9, 1.0}


def test_a_row_of_ready_turns_goes_over_turns_that_were_not_asked():
    said = [TurnPrediction(dialogue_id="d", turn=t, actions=(PredictedAction(name="a"),)) for t in (2, 6, 9)]
    sure = [[a.confidence for a in x.actions] for x in persistence(said, 5, evaluated_turns={"d": (2, 6, 9)})]
    assert sure == [[0.2], [0.4], [0.6]]
    assert [x.actions[0].confidence for x in persistence(said, 5)] == [0.2, 0.2, 0.2]
    assert [x.actions[0].confidence for x in persistence(said[::2], 5, evaluated_turns={"d": (2, 6, 9)})] == [0.2, 0.2]
