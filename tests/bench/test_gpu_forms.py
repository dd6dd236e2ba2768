"""How the benchmark of a GPU opens the forms that it times."""

from pathlib import Path

import pytest

import scoring.device
from contract.bundle import read_bundle
from scoring.errors import GraphError
from tests.bench.gpu_forms import FUSED, PUBLISHED, STANDARD, open_form
from tests.fakes import make_bundle
from tests.scoring.memory_device import SMALL, MemoryDevice


@pytest.mark.parametrize(("name", "refuses"), [(PUBLISHED, "0"), (STANDARD, "1"), (next(iter(FUSED)), "1")])
def test_only_the_form_as_published_may_compute_shapes_on_the_cpu(
    name: str, refuses: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """On CUDA ONNX Runtime puts them there on purpose; of the others nothing may run there."""
    found = []

    def look(*_: object) -> None:
        options = scoring.device._options(1, scoring.device.CUDA)
        found.append(options.get_session_config_entry("session.disable_cpu_ep_fallback"))
        raise GraphError("opened")

    monkeypatch.setattr("scoring.gpu.open_fused", look)
    form = open_form(name, read_bundle(make_bundle(tmp_path)), MemoryDevice(), SMALL, graphs=False)
    assert (form.refused, found) == ("opened", [refuses])
