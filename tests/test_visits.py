"""Which turns a training step visits."""

import pytest
from proactor_lib.artf.training.episodes import DialogueSampler
from proactor_lib.schema import Case, Catalog

from support.metric_cases import dialogue, reference


def visits(turns_per_dialogue, seed=0, **kwargs):
    case = Case(dialogue(), (reference(window=(3, 4, 5)),), Catalog(domain="made up", actions=()))
    return DialogueSampler([case], turns_per_dialogue, seed, **kwargs)


def test_a_visit_follows_from_the_seed_and_its_number():
    first, again, other = visits(4), visits(4), visits(4, seed=1)
    assert [first[n].turns for n in range(9)] == [again[n].turns for n in range(9)]
    assert [first[n].turns for n in range(9)] != [other[n].turns for n in range(9)]


def test_visits_go_on_where_another_training_ended():
    assert [visits(4, first=5)[n] for n in range(9)] == [visits(4)[n] for n in range(5, 14)]


def test_half_of_a_sample_has_an_open_reference_where_there_are_as_many():
    for number in range(20):
        turns = visits(4)[number].turns
        assert len(set(turns)) == 4 and list(turns) == sorted(turns)
        assert len({3, 4, 5} & set(turns)) == 2
        assert {3, 4, 5} <= set(visits(8)[number].turns)  # four are asked for, three there are


def test_the_share_of_open_turns_is_what_was_asked_for():
    for number in range(20):
        assert {3, 4, 5} <= set(visits(4, open_share=0.75)[number].turns)
        assert not {3, 4, 5} & set(visits(4, open_share=0.0)[number].turns)
        assert len({3, 4, 5} & set(visits(None, open_share=0.75)[number].turns)) == 3


@pytest.mark.parametrize("turns, share", [(1, 0.5), (3, 0.5), (3, 0.3), (5, 0.4)])
def test_small_samples_have_their_share_too(turns, share):
    """Whole turns are drawn: 0 or 1 of one turn, by the seed; of 300 samples the mean is within 4 standard errors."""
    sampler = visits(turns, open_share=share)
    counts = [len({3, 4, 5} & set(sampler[n].turns)) for n in range(300)]
    assert {int(turns * share), -int(-turns * share // 1)} >= set(counts)
    assert abs(sum(counts) / 300 - turns * share) < 4 * 0.5 / 300**0.5
    assert sampler[7].turns == visits(turns, open_share=share)[7].turns


def test_all_turns():
    assert visits(0)[0].turns == tuple(range(1, 11)) == visits(99)[0].turns


def test_all_open_turns_and_as_many_silent_ones():
    for number in range(20):
        turns = visits(None)[number].turns
        assert len(set(turns)) == 6 and {3, 4, 5} <= set(turns)
