from rich.console import Console

from contract.wire import Ranking
from service.ranking_table import ranking


def shown(answer: Ranking, candidates: list[int]) -> str:
    """Return what a terminal shows."""
    console = Console(width=100)
    with console.capture() as capture:
        console.print(ranking(answer, candidates))
    return capture.get()


def answer(explanation: list[list[tuple[int, float]]] | None = None, **others: object) -> Ranking:
    given: dict = {"scores": [0.75, 0.5], "unknown_items": [], "degraded": [], **others}
    return Ranking("qin", "v1", explanation=explanation, **given)


def test_candidates_have_their_scores():
    """Without `top_k` rows are in the candidates' order, with it they are the returned items."""
    assert " 7 │ 0.7500 " in " ".join(shown(answer(), [7, 9]).split())
    best = shown(answer(items=[12, 9], scores=[0.9, 0.8]), [9, 11, 12])
    assert " 12 │ 0.9000 │ │ 9 │ 0.8000 " in " ".join(best.split())


def test_what_was_picked_is_shown_by_its_share():
    """Shares of a candidate's weights, heaviest first; what the history holds several times is one line."""
    text = shown(answer([[(3, 2.0), (5, 1.0), (3, 1.0)], []]), [7, 9])
    lines = [line for line in text.splitlines() if "%" in line]
    assert ["3" in lines[0], "75%, 2 times" in lines[0], "5" in lines[1], "25%" in lines[1]] == [True] * 4
    assert lines[0].count("█") == 3 * lines[1].count("█") == 9
    assert "nothing" in text


def test_many_items_are_cut_and_the_rest_is_summed():
    """The five heaviest items are shown; of the others one line tells how many and how much."""
    text = shown(answer([[(item, 1.0) for item in range(100, 120)], []]), [7, 9])
    assert "and 15 more with 75%" in text
    assert "104" in text
    assert "105" not in text


def test_weights_that_overflowed_have_shares():
    """The largest float32 twice is half and half."""
    assert shown(answer([[(3, 3.4e38), (5, 3.4e38)], []]), [7, 9]).count("50%") == 2


def test_what_is_wrong_is_said_in_words():
    """Unknown candidates by their ids, and what the answer lacks."""
    text = " ".join(shown(answer(unknown_items=[1], degraded=["history", "items", "scores"]), [7, 9]).split())
    assert "9 (unknown)" in text
    assert "the catalogue lacks 9" in text
    assert "the user's history could not be read" in text
    assert "items may have changed since" in text
    assert "count as 0" in text
    assert "degraded" not in shown(answer(), [7, 9])
