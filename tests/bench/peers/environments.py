"""An environment for each peer, made once and kept: the newest release that was tried, and what it brings along."""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort

from tests.bench.peers.errors import PeerError

_COMMON = (f"onnxruntime=={ort.__version__}", "numpy>=2.1", "redis[hiredis]>=8.1", "httptools>=0.6")
REQUIREMENTS = {
    "fastapi": ("fastapi==0.165.0", "uvicorn==0.54.0", "orjson>=3.10", "uvloop>=0.21", *_COMMON),
    "litserve": ("litserve==0.2.19", "uvloop>=0.21", *_COMMON),
    "bentoml": ("bentoml==1.4.40", "uvloop>=0.21", *_COMMON),
    # From 0.22 on uvloop makes no event loop unasked, which this release of MLServer counts on.
    "mlserver": ("mlserver==1.7.1", "uvloop>=0.21,<0.22", *_COMMON),
}
"""ONNX Runtime is of the version that this repository runs on: servers are compared, not releases of it."""

_SHOWN = ("onnxruntime", "numpy", "redis", "uvicorn", "fastapi", "starlette")
_INSTALLED = "installed.json"
_INSTALL_S = 1800


def default_folder() -> Path:
    """Return where environments are kept: in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qin" / "peers"


def ensure(name: str, folder: Path) -> Path:
    """Return the Python of a peer's environment, which is made or made anew where it is not what is asked for.

    Raises
    ------
    PeerError
        The packages cannot be installed; the message ends as pip's does.
    """
    home, wanted = folder / name, json.dumps(REQUIREMENTS[name])
    python, marker = home / "bin" / "python", home / _INSTALLED
    if python.exists() and marker.exists() and marker.read_text() == wanted:
        return python
    _run([sys.executable, "-m", "venv", "--clear", str(home)], name)
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS[name]], name)
    marker.write_text(wanted)
    return python


def versions(name: str, python: Path) -> str:
    """Return what is installed there, the peer itself first."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "there = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps({n: there[n] for n in sys.argv[1:] if n in there}))"
    )
    shown = dict.fromkeys((name, *_SHOWN))
    found = json.loads(_run([str(python), "-c", code, *shown], name))
    return ", ".join(f"{package} {version}" for package, version in found.items())


def _run(command: list[str], name: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"{name}: {command[1:4]} took longer than {_INSTALL_S} s") from error
    if done.returncode:
        raise PeerError(f"{name} cannot be installed: {done.stderr.strip()[-500:]}")
    return done.stdout
