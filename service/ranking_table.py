"""An answer to a rank as a terminal shows it: candidates and scores, and what made them."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from contract.wire import Ranking

_MOST_ITEMS = 5
_MOST_NAMED = 10
_BAR_WIDTH = 12
_BAR = "█▏▎▍▌▋▊▉"
"""A whole block, then its parts by eighths."""
_IN_WORDS = {
    "history": "the user's history could not be read in time: ranked as if it were empty",
    "items": "items may have changed since, were lost by Redis or could not be read: ranked as last seen or unknown",
    "scores": "some scores overflowed in the model and count as 0",
}


def ranking(answer: Ranking, candidates: Sequence[int]) -> RenderableType:
    """Return an answer as a table, and in words what is wrong with it.

    With an explanation each candidate has the items of the history that its attention picked. Their shares are of the
    candidate's own weights, so they tell what counts more, not how much all of them count.
    """
    explained = answer.explanation is not None
    table = Table("candidate", "score", title=f"{answer.model} {answer.version}", title_justify="left")
    table.columns[1].justify = "right"
    if explained:
        table.add_column("picked from the history")
    unknown = set(answer.unknown_items)
    unknown_items = {candidates[position] for position in unknown}
    for position, (item, score) in enumerate(zip(answer.items or candidates, answer.scores, strict=True)):
        name = f"{item} (unknown)" if item in unknown_items else str(item)
        picked = [_picked(answer.explanation[position])] if answer.explanation is not None else []
        table.add_row(name, f"{score:.4f}", *picked)
    return Group(table, *_remarks(answer, [candidates[position] for position in answer.unknown_items]))


def _picked(pairs: Sequence[tuple[int, float]]) -> str:
    """Return a line for each of the heaviest items; what stands in the history several times is summed."""
    weights: dict[int, float] = {}
    for item, weight in pairs:
        weights[item] = weights.get(item, 0.0) + weight
    if not weights:
        return "nothing"
    shares = _shares(sorted(weights.items(), key=lambda pair: -pair[1]))
    width = max(len(str(item)) for item, _ in shares)
    times = [item for item, _ in pairs]
    lines = [
        f"{item:>{width}} {_bar(share)} {share:4.0%}{_several(times.count(item))}"
        for item, share in shares[:_MOST_ITEMS]
    ]
    left = shares[_MOST_ITEMS:]
    if left:
        lines.append(f"and {len(left)} more with {sum(share for _, share in left):.0%}")
    return "\n".join(lines)


def _shares(weights: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    # By the largest first, for the sum of large ones may be infinite.
    largest = max(weight for _, weight in weights)
    total = sum(weight / largest for _, weight in weights)
    return [(item, weight / largest / total) for item, weight in weights]


def _bar(share: float) -> str:
    eighths = round(share * _BAR_WIDTH * 8)
    whole, part = divmod(eighths, 8)
    return (_BAR[0] * whole + (_BAR[part] if part else "")).ljust(_BAR_WIDTH)


def _several(times: int) -> str:
    return f", {times} times" if times > 1 else ""


def _remarks(answer: Ranking, unknown: Sequence[int]) -> Iterator[str]:
    if unknown:
        named = ", ".join(map(str, unknown[:_MOST_NAMED]))
        more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
        yield f"[yellow]unknown:[/] the catalogue lacks {named}{more}: ranked by their levels alone"
    for what in answer.degraded:
        yield f"[yellow]degraded:[/] {_IN_WORDS.get(what, what)}"
