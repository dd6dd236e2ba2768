"""Redis breaks while the service is under requests: a short run of each failure, with every answer checked."""

from pathlib import Path

import pytest

from tests.chaos.run import run
from tests.chaos.scenarios import SCENARIOS, Scenario
from tests.chaos.world import CHANGING, DELETED, NUM_VARIANTS, World
from tests.fakes import make_bundle


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A catalogue whose scores are known."""
    return World(make_bundle(tmp_path_factory.mktemp("store"), seed=1))


def _marked(scenario: Scenario) -> object:
    marks = [] if scenario.quick else [pytest.mark.slow]
    return pytest.param(scenario, id=scenario.name, marks=marks)


@pytest.mark.parametrize("scenario", [_marked(scenario) for scenario in SCENARIOS])
def test_nothing_is_wrong_lost_or_stale(scenario: Scenario, world: World, tmp_path: Path) -> None:
    """Whatever happens to Redis, no answer is wrong without saying so, and in the end the mirror equals Redis."""
    outcome = run(scenario, world, tmp_path, length_s=1.2)
    assert outcome.good, f"{outcome.tally.notes}\n{outcome}"
    assert outcome.tally.written > 0
    assert outcome.tally.appended > 0


def test_an_answer_that_is_none_of_its_item_s_variants_is_noticed(world: World) -> None:
    """The check can fail: a score that is off by a hundred-thousandth is no variant's, and variants differ."""
    scores = world.scores(())
    candidates = list(CHANGING)
    for variant in range(NUM_VARIANTS):
        seen = world.variants_seen(candidates, scores[:, variant].tolist(), ())
        assert all(variant in variants for variants in seen)
    moved = world.variants_seen(candidates, (scores[:, 1] + 1e-5).tolist(), ())
    assert sum(1 in variants for variants in moved) == 0
    deleted = world.variants_seen(candidates, scores[:, DELETED].tolist(), ())
    assert sum(len(variants) == 1 for variants in deleted) > len(CHANGING) / 2
