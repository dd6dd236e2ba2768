"""Shapes of runs on a device."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring.buckets import Buckets

SMALL = Buckets(candidates=(1, 4, 16), users=(1, 2, 4), most_rows=32)


@pytest.mark.parametrize(
    ("asked", "bucket"),
    [((1, 1), (1, 1)), ((1, 2), (1, 4)), ((3, 4), (4, 4)), ((2, 16), (2, 16)), ((1, 17), None), ((5, 1), None)],
)
def test_a_request_takes_the_smallest_bucket_that_holds_it(asked, bucket):
    """Along either axis; past the last one there is none."""
    assert SMALL.smallest(*asked) == bucket


def test_no_bucket_has_more_rows_than_memory_is_kept_for():
    """Nor is a request given one."""
    assert (4, 16) not in SMALL.shapes
    assert SMALL.smallest(3, 16) is None
    assert len(SMALL.shapes) == 8


def test_the_largest_bucket_is_made_ready_first():
    """What it allocates serves the smaller ones."""
    rows = [users * candidates for users, candidates in Buckets().shapes]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] == Buckets().most_rows


@given(st.integers(1, 40), st.integers(1, 100))
def test_pieces_cover_every_candidate_once_and_fit(num_users: int, num_candidates: int):
    """However large a request is."""
    covered = np.zeros((num_users, num_candidates), dtype=int)
    for users, candidates in SMALL.pieces(num_users, num_candidates):
        covered[users, candidates] += 1
        assert SMALL.smallest(*covered[users, candidates].shape) is not None
    assert (covered == 1).all()
