"""Break Redis in every way under constant requests, and count what the service made of it: `python -m tests.chaos`.

Every answer is checked: each score must be that of an item as it was at that time, with the user's history, or the
answer must say what it lacks (`degraded`). At the end every item must be ranked as Redis holds it, and every
acknowledged event must be in the history, once. The exit status is 1 where anything was wrong, late, lost, stale or
failed.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from tests.chaos.run import Outcome, run
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.world import World
from tests.fakes import make_bundle

COLUMNS = (
    *("sent", "answered", "degraded", "shed", "failed", "asked again", "wrong", "late"),
    *("items written", "events", "refused writes", "events lost", "stale items", "caught up"),
)


def main() -> int:
    """Run the scenarios that were asked for and print a table; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--length-s", type=float, default=4, help="of each failure and of the time around it")
    parser.add_argument("--workers", type=int, default=1, help="worker processes of the service")
    parser.add_argument("--only", default="", help="scenarios whose names hold this")
    given = parser.parse_args()
    console, outcomes = Console(width=190), []
    with tempfile.TemporaryDirectory() as folder:
        world = World(make_bundle(Path(folder, "store"), seed=1))
        for number, scenario in enumerate(each for each in SCENARIOS if given.only in each.name):
            console.print(f"{scenario.name} ...", end="\n")
            place = Path(folder, str(number))
            place.mkdir()
            outcomes.append(run(scenario, world, place, given.length_s, given.workers))
            for note in outcomes[-1].tally.notes:
                console.print(f"  {note}", highlight=False, markup=False)
    console.print(_table(outcomes))
    return 0 if outcomes and all(outcome.good for outcome in outcomes) else 1


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(Column("failure", no_wrap=True), *COLUMNS)
    for outcome in outcomes:
        tally = outcome.tally
        counts = (
            *(tally.sent, tally.answered, tally.degraded, tally.shed, tally.failed),
            *(
                tally.repeated,
                tally.wrong,
                tally.late,
                tally.written,
                tally.appended,
                tally.refused,
                outcome.lost,
                outcome.stale,
            ),
        )
        table.add_row(outcome.name, *map(str, counts), f"{outcome.caught_up_s:.2f} s")
    return table


if __name__ == "__main__":
    sys.exit(main())
