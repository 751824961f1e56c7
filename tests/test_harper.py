"""Harper Valley's raw form: calls of that form made by hand, with what they log, when, and in whose words."""

import json

import pytest
from proactor_lib import datasets
from proactor_lib.annotate import evidence
from proactor_lib.cli import app
from proactor_lib.datasets import harper
from proactor_lib.errors import UserError
from proactor_lib.params import load_params
from proactor_lib.run import Run, annotate_run, prepare_data
from typer.testing import CliRunner

from support.shared import SHARED, needs_shared

START = 1_591_056_783_191  # milliseconds since 1970
TRANSFER = {
    "task_type": "transfer money", "transfer source account": "savings",
    "transfer destination account": "checking", "transfer amount": "$135.00",
}  # fmt: skip


def segment(at, role, human, recognised=None, lasts=1000):
    return {
        "index": at, "speaker_role": role, "start_timestamp_ms": START + at, "duration_ms": lasts,
        "human_transcript": human, "transcript": human if recognised is None else recognised,
    }  # fmt: skip


def write_call(folder, id, segments, *responses):
    for name in ("metadata", "transcript"):
        (folder / "data" / name).mkdir(parents=True, exist_ok=True)
    submitted = [{"submit_time_ms": START + at, **({"data": data} if data else {})} for at, data in responses]
    raw = {"sid": id, "start_time_ms": START, "agent": {"responses": submitted}, "tasks": [{"task_type": "pay bill"}]}
    (folder / "data" / "metadata" / f"{id}.json").write_text(json.dumps(raw))
    if segments is not None:
        (folder / "data" / "transcript" / f"{id}.json").write_text(json.dumps(segments))


@pytest.fixture
def calls(tmp_path):
    """Five calls, all of train: a transfer (its segments out of order, a noise among them), a card and a password in
    one, one in which nobody speaks, one without a transcript, and one whose agent submits what no task is."""
    ids = [i for i in map(str, range(100)) if harper.tenth(i) in harper.SPLITS["train"]][:5]
    transfer = [
        segment(9000, "caller", "to my checking", "to my chicken", 1500),
        segment(1000, "agent", "how can i help", lasts=2000),
        segment(4000, "caller", "[noise] move one hundred thirty five dollars from savings"),
        segment(12000, "caller", "[noise] <unk>"),
        segment(13000, "agent", "it is done"),
    ]
    write_call(tmp_path, ids[0], transfer, (11250, TRANSFER | {"note": ""}), (11300, None))
    both = [segment(0, "caller", "i lost my debit card and my password"), segment(5000, "caller", "call 715 139 0787")]
    card = {"task_type": "replace card", "replacement card type": "debit"}
    write_call(tmp_path, ids[1], both, (2000, card), (7000, {"task_type": "reset password", "phone": "715-139-0787"}))
    write_call(tmp_path, ids[2], [segment(0, "caller", "[noise]")])
    write_call(tmp_path, ids[3], None)
    write_call(tmp_path, ids[4], [segment(500, "agent", "a safe")], (100, {"task_type": "rent a safe", "size": "big"}))
    return tmp_path


def test_turns_and_triggers_at_their_true_moment(calls):
    transfer, both, safe = datasets.load("harper", calls, "train").dialogues
    assert [(t.speaker, t.text, t.start, t.end) for t in transfer.turns] == [
        ("agent", "how can i help", 1.0, 3.0),
        ("caller", "move one hundred thirty five dollars from savings", 4.0, 5.0),
        ("caller", "to my checking", 9.0, 10.5),
        ("agent", "it is done", 13.0, 14.0),
    ]
    (sent,) = transfer.observed
    assert (sent.turn, sent.time, sent.name) == (3, 11.25, "transfer_money")
    assert sent.params == {
        "transfer_source_account": "savings", "transfer_destination_account": "checking", "transfer_amount": "$135.00",
    }  # fmt: skip
    assert [(o.turn, o.time, o.name) for o in both.observed] == [(1, 2.0, "replace_card"), (2, 7.0, "reset_password")]
    assert [(o.turn, o.time, o.name) for o in safe.observed] == [(1, 0.1, "rent_a_safe")]


def test_the_catalog_is_the_banks_whatever_was_submitted(calls):
    catalog = datasets.load("harper", calls, "train").catalog
    assert [a.name for a in catalog.actions] == [*(t.replace(" ", "_") for t in harper.TASKS), "rent_a_safe"]
    assert catalog.by_name["check_balance"].effect == "read" and catalog.by_name["pay_bill"].effect == "write"
    assert catalog.by_name["pay_bill"].comparisons == {"company_address": {"match": "text", "text_threshold": 0.6}}


def test_windows_in_the_words_of_either_transcript(calls):
    """The recogniser heard `chicken`: the account is found nowhere, so that the trigger's turn is its evidence."""
    tally = evidence.Tally()
    for transcript, ready in (("human", 3), ("recogniser", 3)):
        corpus = datasets.load("harper", calls, "train", transcript=transcript)
        (reference,) = evidence.annotate(corpus.dialogues[0], corpus.catalog, tally).references
        window = reference.window
        assert (window.open, window.ready, window.close, reference.observed_time) == (2, ready, 3, 11.25)
    assert (tally.values, tally.not_found) == (6, 1)
    assert corpus.dialogues[0].turns[2].text == "to my chicken"


def test_what_is_left_out_is_named(calls, caplog):
    assert len(datasets.load("harper", calls, "train").dialogues) == 3
    said = [r.getMessage() for r in caplog.records]
    assert sum("is left out" in text for text in said) == 3
    assert any("a response without a task_type" in t for t in said) and any("nobody speaks" in t for t in said)
    with pytest.raises(UserError, match="no split 'tset'; a call's id draws one of: train, dev, test"):
        datasets.load("harper", calls, "tset")
    with pytest.raises(UserError, match="not Harper Valley's folder"):
        datasets.load("harper", calls / "data" / "transcript", "train")
    with pytest.raises(UserError, match="unknown transcript 'robot'; accepted: human, recogniser"):
        datasets.load("harper", calls, "train", transcript="robot")
    path = next((calls / "data" / "metadata").glob("*.json"))
    path.write_text('{"agent": []}')
    with pytest.raises(UserError, match=f"{path.name} is not Harper Valley's metadata of a call: TypeError"):
        datasets.load("harper", calls, "train")


def test_a_run_takes_the_transcript_as_a_parameter(calls, tmp_path):
    params = load_params(None, {
        "dataset": "harper", "data_dir": str(calls), "transcript": "recogniser", "train_dialogues": 3,
    })  # fmt: skip
    run = Run.open(params, tmp_path / "run")
    prepare_data(run, splits=("train",))
    annotate_run(run, splits=("train",))
    cases = {c.dialogue.turns[-2 if len(c.dialogue.turns) > 1 else -1].text: c for c in run.split("train")}
    assert cases["to my chicken"].references[0].observed_time == 11.25
    assert len(cases["to my chicken"].catalog.actions) == 9


@needs_shared
def test_the_corpus_own_call():
    """`i lost my debit card` at turn 6 is the need and the value; the agent submits at 35.099 s, 85 ms into turn 13."""
    folder = SHARED / "data" / "harper"
    (id,) = (p.stem for p in (folder / "data" / "metadata").glob("*.json"))
    split = next(s for s, tenths in harper.SPLITS.items() if harper.tenth(id) in tenths)
    corpus = datasets.load("harper", folder, split)
    (dialogue,) = corpus.dialogues
    assert len(dialogue.turns) == 17 and dialogue.turns[5].start == 17.514  # the 18th segment is a noise
    (logged,) = dialogue.observed
    assert (logged.turn, logged.time, logged.params) == (13, 35.099, {"replacement_card_type": "debit"})
    (reference,) = evidence.annotate(dialogue, corpus.catalog).references
    assert (reference.window.open, reference.window.ready, reference.window.close) == (6, 6, 13)
    done = CliRunner().invoke(
        app, ["data", "stats", "--dataset", "harper", "--data-dir", str(folder), "--split", split]
    )
    assert done.exit_code == 0 and "logged actions" in done.output
