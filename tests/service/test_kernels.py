"""Whether the fused kernels run, as an operator sees it: at the start, in the models' answer, in metrics and logs."""

import json
import logging
import signal
from pathlib import Path

import pytest
import structlog

from contract.client import ClientError
from export.exporter import export_model
from kernels.library import KernelLibrary, find_library
from scoring.device import BODY
from service.errors import NoVersionError
from service.server import runs_by, serve
from service.settings import read_settings
from tests.fakes import make_bundle, make_items, make_trained
from tests.service.conftest import Store
from tests.service.running import make_settings, running, serving_process

OPS = ("qin.SparseTargetAttention", "qin.QuadraticTower")


@pytest.fixture
def instruction_set() -> str:
    """What the built kernels run by on this machine."""
    path = find_library()
    if path is None:
        pytest.skip("no kernel library was built")
    return KernelLibrary(path).instruction_set


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no kernels were compiled."""
    monkeypatch.setattr("scoring.device.find_library", lambda: None)


def test_models_and_metrics_tell_which_kernels_run(store: Store, redis_url, instruction_set: str):
    """An instruction set for each operation, and the precision of every version."""
    with running(make_settings(store.folder, redis_url, require_kernels=True)) as service:
        model = service.client.model()
        assert model.kernels == dict.fromkeys(OPS, instruction_set)
        assert {version.precision for version in model.versions} == {"float32"}
        metrics = service.http.get("/metrics").text
        assert [line for line in metrics.splitlines() if line.startswith("qin_op{")] == [
            f'qin_op{{op="{op}",runs="{instruction_set}"}} 1.0' for op in OPS
        ]


def test_without_kernels_it_serves_and_says_so(store: Store, stocked_url, no_library: None):
    """The answers are there, and so is the reason why they take longer."""
    with running(make_settings(store.folder, stocked_url)) as service, structlog.testing.capture_logs() as logs:
        assert len(service.client.rank(1, [1, 2]).scores) == 2
        assert service.client.model().kernels == dict.fromkeys(OPS, BODY)
        metrics = service.http.get("/metrics").text
        assert all(f'qin_op{{op="{op}",runs="body"}} 1.0' in metrics for op in OPS)
        service.client.promote(store.old.name)
    (loaded,) = [line for line in logs if line["event"] == "version loaded"]
    assert loaded["version"] == store.old.name
    assert loaded["precision"] == "float32"
    assert loaded["kernels"] == dict.fromkeys(OPS, BODY)


def test_required_kernels_that_are_missing_keep_it_from_starting(store: Store, redis_url, no_library: None, capsys):
    """One line names the operations and tells what to do; the status is that of any start that fails."""
    assert serve(store=store.folder, redis_url=redis_url, port=0, device="cpu", require_kernels=True) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    said = captured.err.splitlines()[-1]
    assert said.startswith("qin serve: nothing to serve: ")
    assert "qin.SparseTargetAttention and qin.QuadraticTower would run unfused: no kernel library was built" in said


def test_required_kernels_pass_over_a_version_that_has_none(tmp_path: Path, redis_url, instruction_set: str):
    """At the start and at a promotion, a model that cannot run fused is refused like any that cannot be served."""
    old = make_bundle(tmp_path)
    unfused = export_model(make_trained(), make_items(), tmp_path, fold_weights=False)
    with running(make_settings(tmp_path, redis_url, require_kernels=True)) as service:
        model = service.client.model()
        assert model.serving == old.name
        assert "its ranker has no fused operations" in model.problem
        with pytest.raises(ClientError, match="its ranker has no fused operations") as caught:
            service.client.promote(unfused.name)
        assert caught.value.status == 422
        assert service.client.rank(1, [1]).version == old.name
    with running(make_settings(tmp_path, redis_url)) as service:
        assert service.client.promote(unfused.name).models[0].kernels == {}
        assert "qin_op{" not in service.http.get("/metrics").text


def test_a_damaged_library_is_warned_about_and_the_service_starts(
    store: Store, redis_url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """It ranks unfused, and would refuse to where kernels are required."""
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"\x7fELF")
    monkeypatch.setattr("scoring.device.find_library", lambda: damaged)
    with caplog.at_level(logging.WARNING), running(make_settings(store.folder, redis_url)) as service:
        assert service.client.model().kernels == dict.fromkeys(OPS, BODY)
    assert caplog.text.count("the fused kernels cannot be used") == 1
    settings = make_settings(store.folder, redis_url, require_kernels=True)
    with pytest.raises(NoVersionError, match=r"damaged\.so cannot be used"), running(settings):
        pass


def test_serve_says_which_kernels_run(store: Store, redis_url, tmp_path: Path, instruction_set: str):
    """The line that says it is ready tells it, and so does the log of the load."""
    with serving_process(tmp_path / "log", store=store.folder, redis_url=redis_url) as process:
        assert process.stdout.readline().endswith(f"; fused kernels: {instruction_set}\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    (loaded,) = [line for line in lines if line["event"] == "version loaded"]
    assert loaded["kernels"] == dict.fromkeys(OPS, instruction_set)


@pytest.mark.parametrize(
    ("kernels", "said"),
    [
        ({}, "no fused kernels"),
        ({"qin.A": BODY, "qin.B": BODY}, "no fused kernels"),
        ({"qin.A": "avx2", "qin.B": "avx2"}, "fused kernels: avx2"),
        ({"qin.A": "avx2", "qin.B": BODY}, "fused kernels: qin.A by avx2, qin.B by function body"),
    ],
)
def test_what_runs_is_said_in_few_words(kernels, said):
    """One name where all run by the same, and each operation's where they do not."""
    assert runs_by(kernels) == said


def test_kernels_can_be_required_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """QIN_REQUIRE_KERNELS is a setting like any other, off unless it is given."""
    assert not read_settings(store=tmp_path).require_kernels
    monkeypatch.setenv("QIN_REQUIRE_KERNELS", "1")
    assert read_settings(store=tmp_path).require_kernels
