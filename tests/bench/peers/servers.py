"""The servers that are compared: what each is, and the command that starts it."""

import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bench.peers.protocol import RANK, V2, V2_BINARY, Protocol
from tests.bench.peers.world import World

APPS = Path(__file__).with_name("apps")
_NEVER_MS = "600000"


@dataclass(frozen=True, slots=True)
class Setup:
    """How the cores are shared out: so many processes that score, each with so many threads."""

    processes: int
    threads: int

    def __str__(self) -> str:
        return f"{self.processes} x {self.threads}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one start of a server happens.

    Attributes
    ----------
    folder
        Empty, for whatever it writes.
    python
        Of its environment.
    """

    world: World
    setup: Setup
    folder: Path
    python: Path
    port: int

    @property
    def loaded(self) -> Path:
        """A folder in which each process of a peer leaves a file once it has loaded the model."""
        return self.folder / "loaded"


@dataclass(frozen=True, slots=True)
class Launch:
    """A command, and what is added to its environment."""

    command: list[str]
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Server:
    """One that is compared.

    Attributes
    ----------
    environment
        One of `environments.REQUIREMENTS`; None is this repository's own.
    ready
        The path that answers 200 once it can rank.
    """

    name: str
    environment: str | None
    protocol: Protocol
    ready: str
    launch: Callable[[Place], Launch]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def setups(num_cores: int) -> list[Setup]:
    """Return the ways to use all cores: a process for each, or one with a thread for each."""
    return [Setup(num_cores, 1), *([Setup(1, num_cores)] if num_cores > 1 else [])]


def _qin(place: Place) -> Launch:
    world, setup = place.world, place.setup
    command = [sys.executable, "-c", "from qin import main; main()", "serve", "--store", str(world.store)]
    command += ["--redis", world.redis_url, "--port", str(place.port), "--workers", str(setup.processes)]
    command += ["--device", "cpu", "--require-kernels"]
    # The others let everything wait as long as it takes: so nothing is shed or degraded here either.
    patience = ("MAX_QUEUE_MS", "HISTORY_TIMEOUT_MS", "MAX_ITEM_LAG_MS")
    variables = {f"QIN_{name}": _NEVER_MS for name in patience}
    return Launch(command, variables | {"QIN_NUM_THREADS": str(setup.threads), "PYTHONPATH": str(Path.cwd())})


def _peer(place: Place, command: list[str], *, folded: bool = False, **variables: str) -> Launch:
    world = place.world
    place.loaded.mkdir()
    model = {
        "bundle": str(world.folded if folded else world.published),
        "catalogue": str(world.catalogue),
        "redis_url": world.redis_url,
        "num_threads": place.setup.threads,
        "kernels": str(world.kernels) if folded else None,
    }
    common = {
        "PEER_MODEL": json.dumps(model),
        "PEER_LOADED": str(place.loaded),
        "PEER_PORT": str(place.port),
        "PEER_PROCESSES": str(place.setup.processes),
        "PYTHONPATH": str(APPS),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": f"{place.python.parent}{os.pathsep}{os.environ['PATH']}",
    }
    return Launch([str(place.python), *command], common | variables)


def _plain(place: Place) -> Launch:
    return _peer(place, [str(APPS / "plain_app.py")])


def _plain_folded(place: Place) -> Launch:
    return _peer(place, [str(APPS / "plain_app.py")], folded=True)


def _litserve(place: Place) -> Launch:
    return _peer(place, [str(APPS / "litserve_app.py")])


def _bentoml(place: Place) -> Launch:
    command = ["-m", "bentoml", "serve", "bentoml_app:Ranker", "--host", "127.0.0.1", "--port", str(place.port)]
    command += ["--working-dir", str(APPS)]
    return _peer(place, command, BENTOML_HOME=str(place.folder), BENTOML_DO_NOT_TRACK="True")


def _mlserver(place: Place) -> Launch:
    settings = {
        "host": "127.0.0.1",
        "http_port": place.port,
        "grpc_port": free_port(),
        "metrics_endpoint": None,
        "parallel_workers": place.setup.processes,
        "debug": False,
        "gzip_enabled": False,
        "environments_dir": str(place.folder),
        "metrics_dir": str(place.folder),
    }
    (place.folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "qin", "implementation": "mlserver_app.Ranker"}
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    return _peer(place, [str(place.python.with_name("mlserver")), "start", str(place.folder)])


OURS = Server("qin serve", None, RANK, "/v2/health/ready", _qin)
SERVERS = (
    OURS,
    Server("qin serve, V2 in bytes", None, V2_BINARY, "/v2/health/ready", _qin),
    Server("folded, FastAPI", "fastapi", RANK, "/ready", _plain_folded),
    Server("as published, FastAPI", "fastapi", RANK, "/ready", _plain),
    Server("as published, LitServe", "litserve", RANK, "/ready", _litserve),
    Server("as published, BentoML", "bentoml", RANK, "/readyz", _bentoml),
    Server("as published, MLServer", "mlserver", V2, "/v2/health/ready", _mlserver),
)
