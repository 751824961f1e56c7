"""Which services a dialogue is shown, which of them training may not see, and how those are told apart."""

import json
from collections import Counter
from pathlib import Path

import pytest
from proactor_lib import agent, datasets
from proactor_lib.datasets import Corpus, jsonl, services, sgd_x
from proactor_lib.errors import UserError
from proactor_lib.evaluate import evaluate_run, load_or_score
from proactor_lib.evaluate.by_service import by_service
from proactor_lib.files import write_jsonl
from proactor_lib.params import load_params
from proactor_lib.report import comparison
from proactor_lib.report import run as report
from proactor_lib.run import Run, annotate_run, prepare_data
from proactor_lib.schema import Action, Case, Catalog, Dialogue, ObservedAction, Turn

SGD = Path(__file__).parents[2] / "shared" / "data" / "sgd"
NAMES = "Bank Bus Film Hotel Music".split()  # noqa: SIM905
CATALOG = Catalog(domain="x", actions=tuple(Action(name=f"{s}.{w}", group=s) for s in NAMES for w in ("find", "buy")))


def about(id, *names, turns=("Hello.",)):
    actions = tuple(f"{s}.{w}" for s in names for w in ("find", "buy"))
    spoken = tuple(Turn(speaker="user", text=text) for text in turns)
    return Dialogue(id=id, domain="x", turns=spoken, services=names, actions=actions)


def shown(dialogue, scope="distractors", count=2, seed=0, tokens=10_000):
    """The services whose actions the dialogue is shown after all."""
    (found,) = services.widened(Corpus(CATALOG, (dialogue,)), scope, count, seed, tokens).dialogues
    names = Counter(name.split(".")[0] for name in found.actions)
    assert set(names.values()) <= {2}  # a service is shown whole
    return set(names)


def test_a_dialogue_is_shown_its_own_services_and_others_by_lot():
    film = about("d", "Film")
    assert shown(film, "dialogue") == {"Film"} and shown(film, count=0) == {"Film"}
    assert shown(film, "all") == shown(film, count=9) == set(NAMES)
    drawn = [shown(about(f"d{i}", "Film", "Bus")) for i in range(40)]
    assert all(len(s) == 4 and {"Film", "Bus"} < s for s in drawn)
    assert {frozenset(s) for s in drawn} == {frozenset(NAMES) - {left_out} for left_out in ("Bank", "Hotel", "Music")}


def test_the_lot_is_the_seeds_and_the_dialogues_alone():
    many = [about(f"d{i}", "Film") for i in range(20)]
    first, other = ([shown(d, seed=s) for d in many] for s in (0, 1))
    assert first == [shown(d) for d in reversed(many)][::-1] and first != other


def test_a_dialogue_that_names_services_and_no_actions_is_shown_those_services_too():
    own = about("d", "Film").model_copy(update={"actions": ()})
    assert shown(own, count=0) == {"Film"} and shown(own, "all") == set(NAMES)
    assert "Film" in shown(own) and len(shown(own)) == 3


def test_a_dialogue_that_names_no_services_is_shown_what_its_corpus_says():
    own = about("d", "Film").model_copy(update={"services": ()})
    assert shown(own) == {"Film"} == shown(own, "all")


def test_others_are_fewer_where_the_prompt_could_be_beyond_the_context():
    """Three bytes a token: a prompt of n bytes has at most n / 3 tokens, rounded up."""
    film = about("d", "Film", turns=("Hello." * 50,))
    size = {n: len(agent.prompt(Case(film, (), CATALOG.subset(names_of(n))), 1).encode()) for n in (1, 2, 5)}
    room = lambda n: -(-size[n] // 3)  # noqa: E731
    assert len(shown(film, "all", tokens=room(5))) == 5 and len(shown(film, "all", tokens=room(5) - 4)) == 4
    assert len(shown(film, "all", tokens=room(1) + 2)) == 1
    assert shown(film, "all", tokens=1) == {"Film"}  # its own are never left out


def names_of(count):
    """The actions of Film and of others of names about as long."""
    some = ["Film", *(s for s in NAMES if s != "Film")][:count]
    return tuple(a.name for a in CATALOG.actions if a.group in some)


def test_services_of_test_alone_are_hidden_from_training_and_else_a_fifth_by_lot():
    part = lambda *names: CATALOG.subset(tuple(a.name for a in CATALOG.actions if a.group in names))  # noqa: E731
    assert services.unseen(part("Bank", "Bus"), part("Bus", "Film", "Music"), seed=0) == {"Film", "Music"}
    drawn = {services.unseen(CATALOG, CATALOG, seed) for seed in range(40)}
    assert drawn == {frozenset({name}) for name in NAMES}  # a fifth of five
    with pytest.raises(UserError, match="split_by: 'service' needs two services or more; the catalog has \\['Bank'\\]"):
        services.unseen(part("Bank"), part("Bank"), seed=0)


def test_a_dialogue_of_both_kinds_of_services_is_in_no_split():
    hidden = frozenset({"Film", "Music"})
    for names, train, test in (
        (("Bank",), True, False),
        (("Film", "Music"), False, True),
        (("Bank", "Film"), False, False),
    ):
        found = [services.belongs(about("d", *names), hidden, held_out) for held_out in (False, True)]
        assert found == [train, test]
    with pytest.raises(UserError, match="needs dialogues that name their services; 'd' names none"):
        services.belongs(about("d"), hidden, held_out=True)


def test_a_dialogue_is_unseen_if_any_of_its_services_is():
    test = [about("a", "Bank"), about("b", "Bank", "Film"), about("c", "Film"), about("d")]
    assert services.kinds(test, [about("t", "Bank", "Bus")]) == {"a": "seen", "b": "unseen", "c": "unseen"}


@pytest.fixture
def prepared(tmp_path):
    """A run on an own domain whose dialogues are about one service each, 12 of each, in one file."""
    call = lambda s: (ObservedAction(turn=1, name=f"{s}.buy"),)  # noqa: E731
    dialogues = [about(f"{s}{i}", s).model_copy(update={"observed": call(s)}) for i in range(12) for s in NAMES]
    jsonl.write(tmp_path / "own", "dialogues", CATALOG, dialogues)
    sizes = {"train_dialogues": 20, "dev_dialogues": 4, "test_dialogues": 6, "dataset": "jsonl"}

    def make(**settings):
        params = load_params(None, sizes | {"data_dir": str(tmp_path / "own")} | settings)
        run = Run.open(params, tmp_path / "-".join(["run", *map(str, settings.values())]))
        prepare_data(run)
        return run

    return make


def test_a_split_by_service_keeps_the_hidden_ones_out_of_what_training_is_shown(prepared):
    run = prepared(split_by="service", catalog_scope="all")
    of = {s: {name for d in run.dialogues(s) for name in d.services} for s in ("train", "dev", "test")}
    (hidden,) = of["test"]
    assert hidden not in of["train"] | of["dev"] and of["train"] == set(NAMES) - {hidden}
    seen = {a.split(".")[0] for s in ("train", "dev") for d in run.dialogues(s) for a in d.actions}
    assert seen == set(NAMES) - {hidden}
    assert all(len(d.actions) == 10 for d in run.dialogues("test"))  # test is shown all


def test_what_is_shown_stands_in_the_data_that_predictions_are_made_from(prepared):
    runs = [prepared(catalog_scope=scope) for scope in ("dialogue", "distractors", "all")]
    assert [len(run.dialogues("test")[0].actions) for run in runs] == [2, 8, 10]
    assert len({(run.data / "test.jsonl").read_bytes() for run in runs}) == 3
    ids = [[d.id for d in run.dialogues("test")] for run in runs]
    assert ids[0] == ids[1] == ids[2]


def test_unseen_services_are_reported_apart(prepared):
    """Test is about one hidden service; a training dialogue about it makes those dialogues seen ones."""
    run = prepared(split_by="service", policies=("oracle", "silent"), bootstrap=20, max_steps=1)
    annotate_run(run)
    evaluate_run(run)
    page = report.build(run.out).read_text()
    (kind,) = json.loads(run.summary.read_text())["services"].items()
    assert kind[0] == "unseen" and kind[1]["dialogues"] == 6 and "Services that training saw" in page
    test, train = run.dialogues("test"), run.dialogues("train")
    write_jsonl(run.data / "train.jsonl", [*train, test[0].model_copy(update={"id": "t"})])
    assert by_service(run, load_or_score(run)) == {}  # nothing is unseen: no need to tell apart
    mixed = test[0].model_copy(update={"services": train[0].services})
    write_jsonl(run.data / "test.jsonl", [mixed, *test[1:]])
    write_jsonl(run.data / "train.jsonl", train)
    evaluate_run(run)
    found = by_service(run, load_or_score(run))
    assert {k: part["dialogues"] for k, part in found.items()} == {"seen": 1, "unseen": 5}
    timing = {k: part["policies"]["oracle"]["opportunity_timing"][0] for k, part in found.items()}
    assert timing == {"seen": 1.0, "unseen": 1.0} and list(found["seen"]["policies"]) == ["oracle", "silent"]


def test_without_services_there_is_nothing_to_split_by(tmp_path):
    run = Run.open(load_params(None, {"split_by": "service", "train_dialogues": 2}), tmp_path)
    with pytest.raises(UserError, match="split_by: 'service' needs"):
        prepare_data(run)


@pytest.fixture
def sgd(tmp_path):
    """A few files of SGD, and its variants beside them."""
    if not SGD.exists():
        pytest.skip("no shared data")
    for split, files in (("train", ("101", "120")), ("dev", ("001", "002"))):
        (tmp_path / "data" / "sgd" / split).mkdir(parents=True)
        for name in ("schema.json.gz", *(f"dialogues_{n}.json.gz" for n in files)):
            (tmp_path / "data" / "sgd" / split / name).symlink_to((SGD / split / name).resolve())
    (tmp_path / "data" / "sgd_x").symlink_to((SGD.parent / "sgd_x").resolve())
    return tmp_path / "data" / "sgd"


def test_sgd_shows_services_that_the_dialogue_does_not_use_and_holds_unseen_ones_out(sgd, tmp_path):
    settings = {"dataset": "sgd", "data_dir": str(sgd), "test_split": "dev", "split_by": "service"}
    sizes = {f"{s}_dialogues": 12 for s in ("train", "dev", "test")}
    run = Run.open(load_params(None, settings | sizes), tmp_path / "run")
    prepare_data(run)
    annotate_run(run)
    known = services.groups(datasets.read_catalog("sgd", sgd, "train"))
    for split in ("train", "dev", "test"):
        for case in run.split(split):
            own, seen = set(case.dialogue.services), services.groups(case.catalog)
            assert own <= seen and len(seen) == len(own) + 3
            assert {r.name.split(".")[0] for r in case.references} <= own
            assert (own & known == set()) if split == "test" else (own <= known)
            text = agent.prompt(case, 1)
            assert all(f"{service}." in text for service in seen)


def test_a_variant_of_the_schema_changes_the_catalogs_words_and_nothing_else(sgd, tmp_path):
    """SGD-X: the same dialogues, windows, values and distractors, under other names, in test alone."""
    settings = {"dataset": "sgd", "data_dir": str(sgd), "train_split": "dev", "test_split": "dev", "bootstrap": 50}
    settings |= {f"{s}_dialogues": 6 for s in ("train", "dev", "test")} | {"policies": ["oracle"]}
    runs = []
    for variant in (None, "v5"):
        runs.append(Run.open(load_params(None, settings | {"schema_variant": variant}), tmp_path / str(variant)))
        prepare_data(runs[-1])
        annotate_run(runs[-1])
        evaluate_run(runs[-1])
    plain, other = (run.split("test") for run in runs)
    for a, b in zip(plain, other, strict=True):
        assert a.dialogue.turns == b.dialogue.turns and len(a.references) == len(b.references)
        assert [(r.window, list(r.values().values())) for r in a.references] == [
            (r.window, list(r.values().values())) for r in b.references
        ]
        assert {f"{s}5" for s in services.groups(a.catalog)} == services.groups(b.catalog)
        assert all(r.name in b.catalog.by_name and r.params.keys() <= known(b, r) for r in b.references)
        assert not {r.name for r in a.references} & {r.name for r in b.references}
    assert runs[0].dialogues("train") == runs[1].dialogues("train")
    assert by_service(runs[1], load_or_score(runs[1])).keys() == by_service(runs[0], load_or_score(runs[0])).keys()
    page = comparison.compare(*(run.out for run in runs)).read_text()
    assert "untested" not in page and "opportunity timing" in page


def known(case, reference):
    return {p.name for p in case.catalog.by_name[reference.name].params}


def test_a_variant_is_looked_for_beside_the_corpus_and_only_sgd_has_them(tmp_path):
    corpus = Corpus(CATALOG, (about("d", "Film"),))
    with pytest.raises(
        UserError, match=r"schema_variant 'v2': no schema.json\(.gz\) of SGD-X in any of: .*sgd_x/v2/dev"
    ):
        sgd_x.reworded(corpus, tmp_path, "dev", "v2")
    with pytest.raises(UserError, match="schema_variant: SGD-X rewords dataset 'sgd' alone, not 'homeloan'"):
        load_params(None, {"schema_variant": "v1"})
    one = {"service_name": "Film_1", "intents": [{"name": "Find"}], "slots": [{"name": "title"}]}
    two = {"service_name": "Film_12", "intents": [{"name": "Seek"}], "slots": [{"name": "name"}]}
    words = sgd_x.wording([one], [two])
    assert (words.actions, words.params) == ({"Film_1.Find": "Film_12.Seek"}, {"Film_1": {"title": "name"}})
    assert sgd_x.original("Film_12", "v2") == "Film_1"
    with pytest.raises(UserError, match="is no variant of SGD's schema: it has 0 for 1 there"):
        sgd_x.wording([one], [two | {"slots": []}])
