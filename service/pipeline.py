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
    check_sizes(queries, replica.settings)
    call.limit(replica.settings.deadline_ms)
    num_candidates = sum(query.num_candidates for query in queries)
    with replica.admission.admit(num_candidates, call):
        rankings = await replica.ranker.rank(queries, call)
    replica.admission.costs.learn(num_candidates, call.cost_s)
    return rankings


def check_sizes(queries: Sequence[Query], settings: Settings) -> None:
    """Raise TooLargeError where queries are over a limit."""
    if len(queries) > settings.max_users:
        raise TooLargeError(f"{len(queries)} requests where at most {settings.max_users} are allowed", "requests")
    num_candidates = sum(query.num_candidates for query in queries)
    if num_candidates > settings.max_candidates:
        raise TooLargeError(
            f"{num_candidates} candidates where at most {settings.max_candidates} are allowed", "candidates"
        )
    for query in queries:
        if query.history is not None and len(query.history) > settings.max_item_ids:
            raise TooLargeError(
                f"{len(query.history)} items where at most {settings.max_item_ids} are allowed",
                f"{query.where}history",
            )
