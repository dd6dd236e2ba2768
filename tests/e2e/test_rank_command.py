"""`qin rank` as people use it, against a service that runs."""

import json

from tests.e2e.test_command_line import call

USER, CANDIDATES = 7, ",".join(map(str, range(1, 41)))


def rank(url: str, *options: object) -> str:
    done = call("rank", "--user", USER, "--candidates", CANDIDATES, "--url", url, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_explained_rank_shows_which_items_count(served: str):
    """The table has each candidate with its score and the shares of what was picked for it, as the JSON has them."""
    answer = json.loads(rank(served, "--top-k", 5, "--explain", "--json"))
    shown = rank(served, "--top-k", 5, "--explain")
    assert answer["version"] in shown
    assert any(answer["explanation"])
    for item, score, picked in zip(answer["items"], answer["scores"], answer["explanation"], strict=True):
        assert f" {item} │ {score:.4f} " in " ".join(shown.split())
        assert not picked or f" {picked[0][0]} " in shown
    assert "%" in shown


def test_a_history_and_a_deadline_are_passed_on(served: str):
    """A history on the command line stands before the stored one, an empty one too; a deadline is kept."""
    stored, none, own = (
        rank(served, "--json", *options) for options in ((), ("--history", ""), ("--history", "3,5,8"))
    )
    assert len({tuple(json.loads(text)["scores"]) for text in (stored, none, own)}) == 3
    late = call("rank", "--user", USER, "--candidates", CANDIDATES, "--url", served, "--deadline-ms", 0.0001)
    assert late.returncode == 1
    assert "deadline" in late.stderr
    assert "Traceback" not in late.stderr


def test_unknown_candidates_are_named(served: str):
    """What the catalogue lacks is said in words."""
    done = call("rank", "--user", USER, "--candidates", "1,123456", "--url", served)
    assert "the catalogue lacks 123456" in done.stdout
    assert "123456 (unknown)" in done.stdout
