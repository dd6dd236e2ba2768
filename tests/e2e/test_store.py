"""Exporter and service share a store at a URL, and nothing else."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract.pruning import versions_in_use
from contract.store import open_store
from demo.server import running
from tests.contract.stores import URL_KINDS, location
from tests.e2e.conftest import Product


def call(folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a process of its own, with a cache of its own."""
    command = [sys.executable, "-m", "qin", *map(str, arguments)]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


@contextmanager
def serving(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve from a store with a cache of the service's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "of the service"))
    with running(url, folder / "valkey", folder / "serve.log") as service:  # type: ignore[arg-type]
        yield service


@pytest.mark.parametrize("kind", [kind for kind in URL_KINDS if kind != "memory"])
def test_what_is_exported_to_a_url_is_served_from_it(
    product: Product, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export, serve, export again with pruning, promote, prune: old versions go, and never one in use."""
    exporter = tmp_path / "of the exporter"
    with location(kind, tmp_path) as url:
        export = (
            *("export", "--checkpoint", product.checkpoint, "--items", product.data.items),
            *("--store", url, "--keep", 1),
        )
        first = call(exporter, *export)
        assert first.returncode == 0, first.stderr
        with serving(url, tmp_path, monkeypatch) as service:
            second = call(exporter, *export, "--url", service)
            third = call(exporter, *export, "--url", service)
            assert second.returncode == third.returncode == 0, second.stderr + third.stderr
            assert f"deleted: {second.stdout.strip()}" in third.stderr
            names = [done.stdout.strip() for done in (first, third)]
            listed = json.loads(call(exporter, "models", "--url", service, "--json").stdout)
            assert listed["serving"] == names[0]
            assert [version["version"] for version in listed["versions"]] == names
            promoted = json.loads(call(exporter, "promote", names[1], "--url", service, "--json").stdout)
            assert promoted["models"][0]["serving"] == names[1]
            pruned = call(exporter, "prune", "--store", url, "--keep", 1, "--url", service)
            assert (pruned.returncode, pruned.stdout) == (0, ""), pruned.stderr
        # Without a service that says what it uses, age alone counts.
        unasked = call(exporter, "prune", "--store", url, "--keep", 1)
        assert unasked.stdout == f"deleted: {names[0]}\n"
        assert open_store(url, tmp_path / "another").versions("qin") == names[1:]


def test_nothing_is_deleted_when_the_service_cannot_be_asked(product: Product, tmp_path: Path) -> None:
    """A service that is named and does not answer may use anything."""
    with location("file", tmp_path) as url:
        for _ in range(2):
            done = call(
                tmp_path,
                *("export", "--checkpoint", product.checkpoint, "--items", product.data.items, "--store", url),
            )
            assert done.returncode == 0, done.stderr
        refused = call(tmp_path, "prune", "--store", url, "--keep", 1, "--url", "http://127.0.0.1:9")
        assert refused.returncode == 1
        assert "127.0.0.1:9" in refused.stderr
        assert len(open_store(url, tmp_path).versions("qin")) == 2


def test_a_store_that_cannot_be_is_one_readable_line(tmp_path: Path) -> None:
    """A wrong URL ends a command with its reason, which does not quote it."""
    done = call(tmp_path, "prune", "--store", "ftp://user:hu/sh@host/models", "--keep", 1)
    assert done.returncode == 1
    assert done.stderr.startswith("error: in the store's URL, user and password must be percent-encoded")
    serve = ("serve", "--store", "s3://bucket/models?key=hush", "--data-dir", tmp_path / "valkey", "--port", 0)
    served = call(tmp_path, *serve)
    assert served.returncode == 1
    assert "qin serve: setting store: the store's URL has a part after ? or #" in served.stderr
    assert "hush" not in served.stderr + served.stdout


def test_everything_that_a_service_uses_is_kept() -> None:
    """What serves, what is active, what was, what is on trial, and what each replica says of itself."""
    from contract.wire import ModelInfo, ReplicaInfo, TrialInfo

    replicas = [ReplicaInfo("a", "", "behind", "tried", "loading", None), ReplicaInfo("b", "", "new", None, "", None)]
    model = ModelInfo(
        name="qin",
        serving="new",
        active="newer",
        previous="old",
        provider="",
        kernels={},
        problem=None,
        versions=[],
        trial=TrialInfo("trial", 0.1, shadow=False),
        replicas=replicas,
    )
    assert versions_in_use(model) == {"new", "newer", "old", "trial", "behind", "tried"}
