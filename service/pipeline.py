"""What every protocol does with its queries: limits, the bounded queue, the ranker."""

from collections.abc import Sequence

from service.call import Call
from service.errors import TooLargeError
from service.query import Query
from service.ranker import Ranking
from service.replica import Replica
from service.settings import Settings


async def ranked(replica: Replica, queries: Sequence[Query], call: Call) -> list[Ranking]:
    """Rank each query's candidates.

    Raises
    ------
    TooLargeError
        There are too many candidates, users or history items.
    InvalidError
        A level is none of the model that ranks.
    NotFoundError
        The version that was asked for is not loaded.
    ConflictError
        The version cannot explain.
    OverloadedError, DeadlineError
        It would take too long, or did.
    """
    num_candidates = sum(query.num_candidates for query in queries)
    check_numbers(len(queries), num_candidates, replica.settings)
    _check_histories(queries, replica.settings)
    call.limit(replica.settings.deadline_ms)
    with replica.admission.admit(num_candidates, call):
        rankings = await replica.ranker.rank(queries, call)
    replica.admission.costs.learn(num_candidates, call.cost_s)
    return rankings


def check_numbers(num_users: int, num_candidates: int, settings: Settings) -> None:
    """Raise TooLargeError where users or candidates of one body are over a limit."""
    if num_users > settings.max_users:
        raise TooLargeError(f"{num_users} requests where at most {settings.max_users} are allowed", "requests")
    if num_candidates > settings.max_candidates:
        raise TooLargeError(
            f"{num_candidates} candidates where at most {settings.max_candidates} are allowed", "candidates"
        )


def _check_histories(queries: Sequence[Query], settings: Settings) -> None:
    for query in queries:
        if query.history is not None and len(query.history) > settings.max_item_ids:
            raise TooLargeError(
                f"{len(query.history)} items where at most {settings.max_item_ids} are allowed",
                f"{query.where}history",
            )
