"""Quality of annotations, against numbers worked out by hand; the filter; the overlay of corrections."""

import json

import numpy as np
import pytest
from proactor_lib.annotate import agreement, corrections, filter
from proactor_lib.errors import UserError
from proactor_lib.files import write_jsonl
from proactor_lib.schema import (
    Dialogue,
    DialogueReferences,
    ObservedAction,
    ReferenceAction,
    ReferenceParam,
    Turn,
    Window,
)


def ref(id, name, open, ready, close, **params):
    return ReferenceAction(
        id=id,
        name=name,
        params={k: ReferenceParam(value=v, turn=open) for k, v in params.items()},
        window=Window(open=open, ready=ready, close=close),
    )


def line(*references, id="d"):
    return DialogueReferences(dialogue_id=id, references=references)


def dialogue(*observed, id="d", turns=10, log=True):
    return Dialogue(
        id=id,
        domain="x",
        turns=tuple(Turn(speaker="u", text="t") for _ in range(turns)),
        observed=observed if log else None,
    )


def figures(table):
    return {row.metric: None if np.isnan(row.value) else row.value for row in table.itertuples()}


def seen(turn, name, **params):
    return ObservedAction(turn=turn, name=name, params=params)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [((1, 4), (1, 4), 1.0), ((1, 4), (3, 6), 2 / 6), ((1, 4), (5, 6), 0.0), ((2, 2), (1, 4), 1 / 4)],
)
def test_iou(a, b, expected):
    windows = [Window(open=o, ready=o, close=c) for o, c in (a, b)]
    assert agreement.iou(*windows) == agreement.iou(*reversed(windows)) == pytest.approx(expected)


def test_pairs_are_one_to_one_and_best_in_all():
    """Two bookings follow each other: values tell them apart although the windows overlap."""
    a = line(ref("a1", "book", 1, 2, 5, to="Rome"), ref("a2", "book", 4, 5, 8, to="Oslo"), ref("a3", "hold", 1, 1, 1))
    b = line(ref("b1", "book", 4, 4, 8, to="oslo"), ref("b2", "book", 2, 3, 5, to="rome"), ref("b3", "pay", 1, 1, 1))
    rows = agreement.pairs([a], [b]).set_index("a").to_dict("index")
    assert (rows["a1"]["b"], rows["a2"]["b"]) == ("b2", "b1") and len(rows) == 4
    assert rows["a1"]["iou"] == pytest.approx(4 / 5) and rows["a1"]["param_f1"] == 1
    assert [rows["a2"][k] for k in ("open", "ready", "close", "iou")] == [0, 1, 0, 1]
    assert rows["a3"]["iou"] == 0 and np.isnan(rows["a3"]["ready"])


def test_against_triggers():
    logged = dialogue(seen(5, "book", to="Rome", day="Monday"), seen(9, "pay"), seen(3, "find"))
    found = line(ref("r1", "book", 2, 3, 6, to="rome"), ref("r2", "pay", 4, 4, 8), ref("r3", "hold", 1, 1, 2))
    unlogged = line(ref("r1", "book", 1, 1, 1), id="e")
    got = figures(agreement.against_triggers([logged, dialogue(id="e", log=False)], [found, unlogged]))
    # book: F1 2/3, lead 2, covered; pay: F1 1 (both empty), lead 5, not covered; find: no reference; hold: no trigger
    assert got == pytest.approx(
        {"found": 2 / 3, "coverage": 1 / 3, "unlogged": 1 / 3, "lead": 3.5, "param_agreement": (2 / 3 + 1) / 2}
    )


def test_observed_turns_are_filled_in():
    logged = dialogue(seen(5, "book", to="Rome"), seen(8, "book", to="Oslo"))
    found = line(ref("r1", "book", 6, 7, 8, to="Oslo"), ref("r2", "book", 2, 3, 5, to="Rome"))
    got = agreement.with_observed(found, logged)
    assert [r.observed_turn for r in got.references] == [8, 5]
    assert agreement.with_observed(line(), dialogue(log=False)) == line()


def test_by_action():
    lines = [line(ref("a", "pay", 1, 2, 6), ref("b", "book", 3, 3, 3), ref("c", "pay", 2, 5, 5))]
    got = agreement.by_action(lines)
    assert list(got.index) == ["pay", "book"] and got.loc["pay"].to_dict() == {
        "references": 2, "to_ready": 2.0, "to_close": 2.0
    }  # fmt: skip
    assert agreement.by_action([]).empty


def test_against_truth():
    truth = [line(ref("t1", "book", 2, 4, 6), ref("t2", "pay", 1, 1, 3)), line(ref("t1", "find", 1, 2, 3), id="e")]
    found = [line(ref("r1", "book", 2, 4, 6), ref("r2", "pay", 2, 3, 3), ref("r3", "hold", 1, 1, 1)), line(id="e")]
    got = figures(agreement.against_truth(found, truth))
    assert got == pytest.approx(
        {"found": 2 / 3, "extra": 1 / 3, "open_exact": 0.5, "ready_exact": 0.5, "close_exact": 1.0, "window_exact": 0.5,
         "ready_error": 1.0, "param_agreement": 1.0}
    )  # fmt: skip


def test_agreement_of_an_annotator_with_itself_is_full():
    lines = [line(ref("r1", "book", 2, 4, 6, to="x"), ref("r2", "pay", 1, 1, 3))]
    got = figures(agreement.agreement([dialogue()], lines, lines))
    assert got == {"paired": 1, "iou": 1, "ready_within_one": 1, "param_agreement": 1, "alpha": 1}


def test_krippendorffs_alpha_worked_out_by_hand():
    """4 turns, 1 action: a says 0 1 2 2, b says 0 1 1 2.

    Coincidences: (0,0) 2, (1,1) 2, (1,2) 1, (2,1) 1, (2,2) 2: n 8, n_v 2 3 3. Observed disagreement 2 / 8, expected
    (64 - 4 - 9 - 9) / (8 * 7) = 42 / 56: alpha = 1 - (2 / 8) / (42 / 56) = 2 / 3.
    """
    a, b = [line(ref("r", "book", 2, 3, 4))], [line(ref("r", "book", 2, 4, 4))]
    got = agreement.alpha([dialogue(turns=4)], [a, b])
    assert got.value[0] == pytest.approx(2 / 3)
    three = agreement.alpha([dialogue(turns=4)], [a, b, a])
    # per unit the ordered pairs over 2: (0,0) 3, (1,1) 3, unit three (1,2) 1 (2,1) 1 (2,2) 1, (2,2) 3; n_v 3 4 5
    assert three.value[0] == pytest.approx(1 - (2 / 12) / ((144 - 9 - 16 - 25) / (12 * 11)))


def test_figures_without_data_are_null():
    assert set(figures(agreement.against_truth([], [])).values()) == {None}
    got = figures(agreement.against_triggers([dialogue()], [line(ref("r", "book", 1, 1, 1))]))
    assert got["coverage"] is None and got["lead"] is None and got["unlogged"] == 1
    assert figures(agreement.alpha([dialogue()], [[], []])) == {"alpha": None}


def test_intervals_come_from_a_bootstrap_over_dialogues():
    truth = [line(ref("t", "book", 2, 4, 6), id=str(i)) for i in range(40)]
    found = [line(ref("r", "book", 2, 4 + i % 2, 6), id=str(i)) for i in range(40)]
    row = agreement.against_truth(found, truth).set_index("metric").loc["ready_exact"]
    assert row.value == 0.5 and 0.3 < row.low < 0.42 and 0.58 < row.high < 0.7


def test_the_filter_says_what_it_removed_and_why():
    dialogues = [dialogue(seen(5, "book", to="Rome"), seen(9, "pay")), dialogue(seen(9, "pay"), id="e")]
    good, wrong = ref("r1", "book", 2, 3, 6, to="Rome"), ref("r1", "book", 2, 3, 6, to="Oslo")
    early, idle = ref("r2", "pay", 1, 1, 9), ref("r3", "hold", 1, 1, 1)
    lines = [line(good, early, idle), line(ref("r", "pay", 1, 2, 8), id="e")]
    kept, removed = filter.filtered(dialogues, lines, filter.Thresholds())
    assert kept == lines and not removed

    def why(thresholds, lines=lines, **more):
        kept, removed = filter.filtered(dialogues, lines, thresholds, **more)
        return {(k.dialogue_id, r.id) for k in kept for r in k.references}, {
            (r.dialogue_id, r.reference_id): r.reason for r in removed
        }

    kept, removed = why(filter.Thresholds(coverage=0.5))
    assert kept == {("d", "r1"), ("d", "r2"), ("d", "r3")}
    assert removed == {("e", None): "windows hold 0.00 of its logged triggers, below 0.5"}
    kept, removed = why(filter.Thresholds(logged=True, lead=7))
    assert kept == {("d", "r1"), ("e", "r")}
    assert removed == {("d", "r3"): "no logged trigger", ("d", "r2"): "ready 8 turns before its trigger, above 7"}
    _, removed = why(filter.Thresholds(param_agreement=0.5), [line(wrong, early)])
    assert removed == {("d", "r1"): "parameters agree 0.00 with the trigger's, below 0.5"}
    _, removed = why(filter.Thresholds(iou=0.5), [line(good)], second=[line(ref("x", "book", 6, 6, 9))])
    assert removed == {("d", None): "mean window IoU 0.12 with the second annotator, below 0.5"}


# the overlay


WINDOW = {"open": 2, "ready": 3, "close": 4}


def corrected(tmp_path, *overlay, lines):
    path = tmp_path / "overlay.jsonl"
    path.write_text("".join(json.dumps(c) + "\n" for c in overlay))
    return corrections.apply(lines, path)


def test_a_correction_replaces_the_window_of_its_reference_only(tmp_path):
    lines = [line(ref("x", "book", 1, 1, 1), ref("y", "book", 5, 5, 5), ref("z", "pay", 1, 1, 1)), line(id="e")]
    got = corrected(tmp_path, {"dialogue_id": "d", "name": "book", "occurrence": 2, "window": WINDOW}, lines=lines)
    assert [r.window.open for r in got[0].references] == [1, 2, 1] and got[1] == lines[1]
    got = corrected(tmp_path, {"dialogue_id": "d", "reference_id": "z", "window": WINDOW}, lines=lines)
    assert [r.window.open for r in got[0].references] == [1, 5, 2]


def test_the_last_line_counts_and_null_withdraws(tmp_path):
    lines = [line(ref("x", "book", 1, 1, 1), ref("y", "pay", 1, 1, 1))]
    first = {"dialogue_id": "d", "name": "book", "window": WINDOW}
    got = corrected(tmp_path, first, first | {"window": None}, lines=lines)
    assert [r.name for r in got[0].references] == ["pay"]
    got = corrected(tmp_path, first | {"window": None}, first, lines=lines)
    assert got[0].references[0].window == Window(**WINDOW)
    by_id = {"dialogue_id": "d", "reference_id": "x", "window": None}  # the same reference by its other key
    assert [r.name for r in corrected(tmp_path, first, by_id, lines=lines)[0].references] == ["pay"]
    got = corrected(tmp_path, first, by_id, first, lines=lines)
    assert got[0].references[0].window == Window(**WINDOW)


def test_corrections_survive_a_re_annotation_with_other_ids_and_another_order(tmp_path):
    first = [line(ref("r1", "book", 1, 2, 3), ref("r2", "book", 5, 6, 7))]
    again = [line(ref("b", "book", 4, 6, 8), ref("a", "book", 1, 1, 2))]
    correction = {"dialogue_id": "d", "name": "book", "occurrence": 2, "window": WINDOW}
    for lines in (first, again):
        references = corrected(tmp_path, correction, lines=lines)[0].references
        changed = [r.id for r in references if r.window == Window(**WINDOW)]
        assert changed == (["r2"] if lines is first else ["b"])


def test_a_correction_after_a_last_line_without_its_end_is_a_line_of_its_own(tmp_path):
    path = tmp_path / "overlay.jsonl"
    path.write_text('{"dialogue_id": "a", "name": "book", "window": null}')
    for id in ("b", "c"):
        corrections.append(path, corrections.Correction(dialogue_id=id, name="book", window=None))
    assert list(corrections.read(path)) == ["a", "b", "c"] and path.read_text().count("\n") == 3


def test_corrections_without_their_reference_are_named(tmp_path):
    path = tmp_path / "overlay.jsonl"
    there = corrections.Correction(dialogue_id="d", name="book", window=Window(**WINDOW))
    gone = corrections.Correction(dialogue_id="d", name="book", occurrence=2, window=None)
    corrections.append(path, there)
    corrections.append(path, gone)
    lines = [line(ref("x", "book", 1, 1, 1))]
    assert corrections.unmatched({"dev": lines}, path) == [gone]
    assert corrections.apply(lines, path)[0].references[0].window == Window(**WINDOW)


def test_a_correction_applies_in_its_own_split_and_an_older_line_in_each(tmp_path):
    path = tmp_path / "overlay.jsonl"
    older = corrections.Correction(dialogue_id="d", name="pay", window=Window(**WINDOW))
    in_dev = corrections.Correction(dialogue_id="d", split="dev", name="book", window=None)
    for correction in (older, in_dev):
        corrections.append(path, correction)
    lines = [line(ref("x", "book", 1, 1, 1), ref("y", "pay", 1, 1, 1))]
    opens = {
        s: [(r.id, r.window.open) for r in corrections.apply(lines, path, s)[0].references] for s in ("train", "dev")
    }
    assert opens == {"train": [("x", 1), ("y", 2)], "dev": [("y", 2)]}
    of_each = corrections.Correction(dialogue_id="d", name="book", window=Window(**WINDOW))
    corrections.append(path, of_each)  # the last line counts
    assert [r.window.open for r in corrections.apply(lines, path, "dev")[0].references] == [2, 2]


def test_a_correction_is_not_matched_by_another_splits_reference(tmp_path):
    """Train has the same dialogue and action; the older line, which names no split, is content with either."""
    path = tmp_path / "overlay.jsonl"
    older = corrections.Correction(dialogue_id="d", name="book", window=None)
    for correction in (older, older.model_copy(update={"split": "train"}), older.model_copy(update={"split": "dev"})):
        corrections.append(path, correction)
    annotated = {"train": [line(ref("x", "book", 1, 1, 1))], "dev": [line()]}
    assert [c.split for c in corrections.unmatched(annotated, path)] == ["dev"]


def test_what_is_appended_is_what_is_read_and_others_lines_stay(tmp_path):
    path = tmp_path / "new" / "overlay.jsonl"
    last = {d: corrections.Correction(dialogue_id=d, name="book", window=None) for d in "ab"}
    for d in "ab":
        corrections.append(path, corrections.Correction(dialogue_id=d, name="book", window=Window(**WINDOW)))
        corrections.append(path, last[d])
    assert len(path.read_text().splitlines()) == 4
    assert corrections.read(path) == {d: {("book", 1): last[d]} for d in "ab"}


@pytest.mark.parametrize(
    ("text", "says"),
    [('{"dialogue_id": "d", "window": null}', "either name"), ('{"dialogue_id": "d", "name": "x"}', "window"),
     ('{"dialogue_id": "d", "name": "x", "window": {"open": 3, "ready": 2, "close": 4}}', "open <= ready <= close"),
     ('{"dialogue_id": "d", "nam": "x", "window": null}', "nam"),
     ('{"dialogue_id": "d", "split": "devel", "name": "x", "window": null}', "split.*'dev'")],
)  # fmt: skip
def test_a_bad_line_of_an_overlay_is_named(tmp_path, text, says):
    path = tmp_path / "overlay.jsonl"
    write_jsonl(path, [corrections.Correction(dialogue_id="d", name="x", window=None)])
    path.write_text(path.read_text() + text + "\n")
    with pytest.raises(UserError, match=rf"overlay.jsonl, line 2.*{says}"):
        corrections.apply([], path)
