"""The service beside others that would serve the same model, alternating in one run on the same cores.

    python -m tests.bench.peers [--candidates 100] [--rounds 3] [--window 10] [--items 91718] [--only LitServe]
    python -m tests.bench.peers --quick

Every server gets the same weights at the paper's size, the same items, the same requests in the same order by the
same open-loop generator, and reads the user's history of 64 items from the same Valkey for each of them. It runs
alone, in the better one of two ways to use all cores. Its scores must be the model's before anything is timed. Peers
are installed from the package index, each into an environment of its own that is kept in `--dir`.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from service.cores import num_physical_cores
from tests.bench.peers import environments
from tests.bench.peers.check import check_server
from tests.bench.peers.errors import PeerError
from tests.bench.peers.report import Results, settings_lines, tables
from tests.bench.peers.running import running
from tests.bench.peers.servers import OURS, SERVERS, Place, Server, Setup, free_port, setups
from tests.bench.peers.turn import Asker, Load, Turn
from tests.bench.peers.world import World, expected, made

_NUM_CHECKED = 8
_EQUAL_SHARE = 0.25
"""All are asked at this share of what the slowest can do."""
_SHARE_OF_A_TRY = 0.4
"""How long a way to use the cores is tried, of a window."""

console = Console(width=200)


@dataclass(slots=True)
class Bench:
    """Measures servers at one number of candidates; a peer that fails is left out from then on."""

    world: World
    pythons: Mapping[str, Path]
    load: Load
    failed: dict[str, str]
    chosen: dict[str, Setup] = field(default_factory=dict)
    tried: dict[str, dict[Setup, float]] = field(default_factory=dict)
    distances: dict[str, float] = field(default_factory=dict)

    def results(self, servers: list[Server], num_rounds: int) -> Results:
        """Check all servers, choose how each uses the cores, then let them take turns.

        The first goes last in every second round: whatever drifts strikes all alike.
        """
        for server in servers:
            self._leave_out_if_it_fails(server, self._prepare)
        equal_rate = _EQUAL_SHARE * min(
            max(rates.values()) for name, rates in self.tried.items() if name in self.chosen
        )
        turns: dict[str, list[Turn]] = {server.name: [] for server in servers}

        def take_turn(server: Server) -> None:
            turns[server.name].append(self._turn(server, equal_rate))

        for number in range(num_rounds):
            for server in servers[:: -1 if number % 2 else 1]:
                self._leave_out_if_it_fails(server, take_turn)
        whole = {name: of_one for name, of_one in turns.items() if name not in self.failed}
        num_candidates = len(self.load.lists[0])
        return Results(num_candidates, equal_rate, whole, self.chosen, self.tried, self.distances, self.failed)

    def _leave_out_if_it_fails(self, server: Server, step: Callable[[Server], None]) -> None:
        if server.name in self.failed:
            return
        try:
            with console.status(f"{len(self.load.lists[0])} candidates, {server.name} ..."):
                step(server)
        except PeerError as error:
            if server.environment is None:
                raise
            self.failed[server.name] = str(error)
            self.chosen.pop(server.name, None)
            console.print(f"left out: {error}", markup=False)

    def _prepare(self, server: Server) -> None:
        users = list(range(self.load.users[0], self.load.users[0] + _NUM_CHECKED))
        lists = self.load.lists[:_NUM_CHECKED]
        right, rates = expected(self.world, users, lists), dict[Setup, float]()
        for setup in setups(num_physical_cores()):
            with tempfile.TemporaryDirectory() as folder, running(server, self._place(server, setup, folder)) as up:
                distance = check_server(up, users, lists, right)
                rates[setup] = Asker(up, self.load).most(_SHARE_OF_A_TRY * self.load.window_s).per_s
            self.distances[server.name] = max(distance, self.distances.get(server.name, 0))
        self.tried[server.name], self.chosen[server.name] = rates, max(rates, key=lambda setup: rates[setup])

    def _turn(self, server: Server, equal_rate: float) -> Turn:
        setup = self.chosen[server.name]
        with tempfile.TemporaryDirectory() as folder, running(server, self._place(server, setup, folder)) as up:
            return Asker(up, self.load).turn(equal_rate, self.tried[server.name][setup])

    def _place(self, server: Server, setup: Setup, folder: str) -> Place:
        python = self.pythons.get(server.environment or "", Path())
        return Place(self.world, setup, Path(folder), python, free_port())


def main() -> None:
    """Install the peers, make the model, measure and print."""
    arguments = _arguments()
    servers = [server for server in SERVERS if server is OURS or _is_wanted(server, arguments.only)]
    pythons, failed = dict[str, Path](), dict[str, str]()
    for server in servers:
        if server.environment is not None:
            try:
                with console.status(f"environment of {server.environment} in {arguments.dir} ..."):
                    pythons[server.environment] = environments.ensure(server.environment, arguments.dir)
            except PeerError as error:
                failed[server.name] = str(error)
    shown = {name: environments.versions(name, python) for name, python in pythons.items()}
    for line in settings_lines(shown):
        console.print(line, highlight=False)
    with tempfile.TemporaryDirectory() as folder, made(Path(folder), arguments.items) as world:
        for num_candidates in arguments.candidates:
            load = Load(world.candidate_lists(num_candidates), world.users, arguments.window, arguments.warmup)
            bench = Bench(world, pythons, load, dict(failed))
            for part in tables(bench.results(servers, arguments.rounds)):
                console.print(part)


def _is_wanted(server: Server, only: list[str]) -> bool:
    return not only or any(word.lower() in server.name.lower() for word in only)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, nargs="+", default=[100])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window", type=float, default=10, help="seconds of each load")
    parser.add_argument("--warmup", type=float, default=2, help="seconds before each load")
    parser.add_argument("--items", type=int, default=91_718)
    parser.add_argument("--only", nargs="+", default=[], help="words of servers' names")
    parser.add_argument("--dir", type=Path, default=environments.default_folder(), help="of the peers' environments")
    parser.add_argument(
        "--quick", action="store_true", help="one round of short loads over few items: it works or not"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.window, arguments.warmup, arguments.items = 1, 3, 1, 5000
    return arguments


if __name__ == "__main__":
    main()
