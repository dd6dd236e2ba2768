from itertools import pairwise

import numpy as np
import pytest

from contract.wire import RankRequest
from service.batch import plan_runs
from tests.service.catalogue import NUM_ITEMS, Expected
from tests.service.conftest import Store
from tests.service.running import Running


@pytest.fixture(scope="module")
def expected(store: Store) -> Expected:
    return Expected(store.new)


def test_scores_are_the_scorers_in_the_candidates_order(service: Running, expected: Expected, store: Store):
    """A rank answers with what the bundle's scorer gives for the stored history, and names the version."""
    service.client.put_history(1, [3, 5, 8])
    ranking = service.client.rank(1, [9, 2, 70])
    np.testing.assert_array_equal(np.float32(ranking.scores), expected.scores([9, 2, 70], [3, 5, 8]))
    assert (ranking.model, ranking.version) == ("qin", store.new.name)
    assert (ranking.unknown_items, ranking.degraded, ranking.items) == ([], [], None)


def test_history_matters(service: Running):
    """Two users with different histories get different scores for the same candidates."""
    service.client.put_history(1, [3, 5, 8])
    service.client.put_history(2, [60, 61])
    assert service.client.rank(1, [9, 2]).scores != service.client.rank(2, [9, 2]).scores


def test_unknown_user_has_an_empty_history(service: Running, expected: Expected):
    """A user nobody has heard of is ranked without a history, which is not degraded."""
    ranking = service.client.rank(777, [9, 2])
    np.testing.assert_array_equal(np.float32(ranking.scores), expected.scores([9, 2]))
    assert ranking.degraded == []


def test_history_in_the_request_stands_before_the_stored_one(service: Running, expected: Expected):
    """A history in the request is used instead of the stored one, an empty one included."""
    service.client.put_history(1, [3, 5, 8])
    given = service.client.rank(1, [9, 2], history=[60, 61])
    np.testing.assert_array_equal(np.float32(given.scores), expected.scores([9, 2], [60, 61]))
    none = service.client.rank(1, [9, 2], history=[])
    np.testing.assert_array_equal(np.float32(none.scores), expected.scores([9, 2]))


def test_history_is_cut_to_its_last_items_before_it_is_looked_up(service: Running, expected: Expected):
    """Of a long history the last 8 ids count, unknown ones and padding among them."""
    recent = [3, 0, 999, 5, 8, 0, 11, 12]
    ranking = service.client.rank(1, [9, 2], history=[60, 61, 62, *recent])
    np.testing.assert_array_equal(np.float32(ranking.scores), expected.scores([9, 2], recent))
    np.testing.assert_array_equal(np.float32(ranking.scores), expected.scores([9, 2], [3, 5, 8, 11, 12]))


def test_levels_in_the_request_stand_before_the_stored_ones(service: Running, expected: Expected):
    """Either list of levels replaces its own column and leaves the other as it is stored."""
    likes = service.client.rank(1, [9, 2], likes_level=[10, 0])
    np.testing.assert_array_equal(np.float32(likes.scores), expected.scores([9, 2], likes_level=[10, 0]))
    both = service.client.rank(1, [9, 2], likes_level=[10, 0], views_level=[1, 7])
    wanted = expected.scores([9, 2], likes_level=[10, 0], views_level=[1, 7])
    np.testing.assert_array_equal(np.float32(both.scores), wanted)


def test_unknown_candidates_are_scored_and_listed(service: Running, expected: Expected):
    """A candidate that the catalogue lacks is scored from the zero row and listed by its position."""
    ranking = service.client.rank(1, [9, NUM_ITEMS + 5, 2, 10**15])
    assert ranking.unknown_items == [1, 3]
    wanted = expected.scores([9, NUM_ITEMS + 5, 2, 10**15])
    np.testing.assert_array_equal(np.float32(ranking.scores), wanted)


def test_unknown_candidate_with_levels_is_scored_by_them(service: Running, expected: Expected):
    """Levels in the request count for candidates that the catalogue lacks."""
    ranking = service.client.rank(1, [5000, 5000], likes_level=[0, 10], views_level=[0, 10])
    assert ranking.scores[0] != ranking.scores[1]
    wanted = expected.scores([5000, 5000], likes_level=[0, 10], views_level=[0, 10])
    np.testing.assert_array_equal(np.float32(ranking.scores), wanted)


def test_duplicate_candidates_are_legal(service: Running):
    """The same candidate twice gets the same score twice."""
    scores = service.client.rank(1, [9, 2, 9]).scores
    assert len(scores) == 3
    assert scores[0] == scores[2]


def test_item_zero_is_a_candidate_like_any_other(service: Running, expected: Expected):
    """Id 0 pads histories, but as a candidate it is the item of that id."""
    ranking = service.client.rank(1, [0, 2])
    assert ranking.unknown_items == []
    np.testing.assert_array_equal(np.float32(ranking.scores), expected.scores([0, 2]))


def test_top_k_gives_the_best_first(service: Running):
    """`top_k` returns the ids and scores of the best, best first; unknown ones stay positions of candidates."""
    candidates = [*range(40, 60), 5000]
    plain = service.client.rank(1, candidates)
    best = service.client.rank(1, candidates, top_k=5)
    assert best.items == sorted(candidates, key=lambda i: -plain.scores[candidates.index(i)])[:5]
    assert best.scores == sorted(plain.scores, reverse=True)[:5]
    assert all(a >= b for a, b in pairwise(best.scores))
    assert best.unknown_items == [20]


def test_top_k_breaks_ties_by_position(service: Running):
    """Of equal scores the earlier candidate comes first, at the cut as well."""
    unknown = [7003, 7001, 7002, 7000]
    assert service.client.rank(1, unknown, top_k=2).items == unknown[:2]
    many, levels = list(range(7000, 8000)), [i % 11 for i in range(1000)]
    scores = service.client.rank(1, many, likes_level=levels).scores
    assert len(set(scores)) == 11
    best_first = sorted(range(1000), key=lambda i: -scores[i])
    assert service.client.rank(1, many, likes_level=levels, top_k=1000).items == [many[i] for i in best_first]


def test_top_k_above_the_number_of_candidates_returns_all(service: Running):
    """Asking for more than there are is no error."""
    assert len(service.client.rank(1, [9, 2], top_k=100).scores) == 2


def test_several_users_get_what_each_would_get_alone(service: Running):
    """Requests in one body, of different lengths and options, answer as they would one by one."""
    service.client.put_history(1, [3, 5, 8])
    service.client.put_history(2, [60, 61])
    requests = [
        RankRequest(1, [9, 2, 70, 5000]),
        RankRequest(2, [4], likes_level=[9]),
        RankRequest(3, [5, 6, 7], history=[1, 2]),
        RankRequest(1, [10, 11, 12, 13, 14], top_k=2),
    ]
    together = service.client.rank_many(requests)
    for request, one in zip(requests, together, strict=True):
        options = {"history": request.history, "likes_level": request.likes_level}
        alone = service.client.rank(request.user_id, request.candidates, top_k=request.top_k, **options)
        np.testing.assert_allclose(one.scores, alone.scores, rtol=0, atol=1e-6)
        assert (one.items, one.unknown_items, one.version) == (alone.items, alone.unknown_items, alone.version)


def test_users_of_very_different_lengths_are_not_padded_to_the_longest():
    """Requests share a run unless more than half of it would be padding; then like lengths run together."""
    assert plan_runs([5]) == [[0]]
    assert plan_runs([100, 60, 90]) == [[0, 1, 2]]
    assert plan_runs([1000, 1, 1, 900]) == [[0, 3], [1, 2]]


def test_very_different_lengths_answer_in_their_order(service: Running, expected: Expected):
    """Answers come in the requests' order however the runs were cut."""
    lengths = [1, 90, 1, 80]
    requests = [RankRequest(1, list(range(length))) for length in lengths]
    for length, ranking in zip(lengths, service.client.rank_many(requests), strict=True):
        np.testing.assert_allclose(ranking.scores, expected.scores(list(range(length))), rtol=0, atol=1e-6)
