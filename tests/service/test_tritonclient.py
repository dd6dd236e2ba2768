"""An unmodified `tritonclient[http]` against a service in a process of its own."""

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from contract.client import Client
from tests.service.conftest import Store
from tests.service.running import await_ready, serving_process


@pytest.fixture
def url(store: Store, stocked_url, tmp_path) -> Iterator[str]:
    """Where a service with the newest version listens."""
    patient = {"history_timeout_ms": 5000, "max_item_lag_ms": 60_000, "max_queue_ms": 60_000, "gate_max_psi": 100}
    with serving_process(tmp_path / "log", store=store.folder, redis_url=stocked_url, **patient) as process:
        yield await_ready(process)


@pytest.fixture
def client(url: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(url.removeprefix("http://")) as client:
        yield client


def inputs_of(user: list[int], candidates: list[list[int]], *, binary: bool) -> list[triton.InferInput]:
    """The inputs that are always needed."""
    inputs = []
    for name, values in (("USER_ID", user), ("CANDIDATES", candidates)):
        array = np.array(values, dtype=np.int64)
        inputs.append(triton.InferInput(name, list(array.shape), "INT64"))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    return inputs


def test_it_sees_a_server_and_its_model(client, store: Store):
    """Health, metadata, configuration and statistics are what it expects them to be."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("qin")
    assert client.is_model_ready("qin", store.new.name)
    assert not client.is_model_ready("qin", store.old.name)
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("qin")["versions"] == [store.new.name]
    assert client.get_model_config("qin")["output"][0]["name"] == "SCORES"
    client.infer("qin", inputs_of([1], [[9, 2]], binary=True))
    (stats,) = client.get_inference_statistics("qin")["model_stats"]
    assert stats["inference_count"] == 1
    assert client.get_inference_statistics()["model_stats"][0]["name"] == "qin"


@pytest.mark.parametrize("binary", [True, False])
def test_it_infers_what_v1_ranks(client, url, binary):
    """Inputs and outputs in bytes or JSON give the scores of /v1/rank, bit for bit."""
    with Client(url) as v1:
        wanted = np.float32(v1.rank(1, [9, 2, 70]).scores)
    outputs = [triton.InferRequestedOutput("SCORES", binary_data=binary)]
    result = client.infer("qin", inputs_of([1], [[9, 2, 70]], binary=binary), outputs=outputs, request_id="seven")
    np.testing.assert_array_equal(result.as_numpy("SCORES"), [wanted])
    assert result.get_response()["id"] == "seven"
    assert result.as_numpy("UNKNOWN") is None


def test_it_gets_all_outputs_without_asking(client, store: Store):
    """By default it has everything sent as bytes; texts and truth values arrive whole."""
    result = client.infer("qin", inputs_of([1, 2], [[9, 5000], [4, -1]], binary=True))
    assert result.as_numpy("SCORES").shape == (2, 2)
    assert result.as_numpy("UNKNOWN").tolist() == [[False, True], [False, False]]
    assert result.as_numpy("VERSION").tolist() == [store.new.name.encode()] * 2
    assert result.get_response()["model_version"] == store.new.name


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_it_may_compress(client, algorithm):
    """Compressed requests are answered as plain ones."""
    inputs = inputs_of([1], [[9, 2]], binary=True)
    plain = client.infer("qin", inputs).as_numpy("SCORES")
    result = client.infer(
        "qin", inputs, request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    )
    np.testing.assert_array_equal(result.as_numpy("SCORES"), plain)


def test_it_may_set_a_deadline(client):
    """Its `timeout`, in microseconds, and a parameter of our own are kept."""
    inputs = inputs_of([1], [[9, 2]], binary=True)
    client.infer("qin", inputs, timeout=60_000_000, parameters={"deadline_ms": 60_000}, priority=1, sequence_id=3)
    with pytest.raises(InferenceServerException, match="deadline") as failed:
        client.infer("qin", inputs, timeout=1)
    assert failed.value.status() == "504"


def test_it_manages_the_repository(client, store: Store):
    """Index, load and unload: a version is named the way Triton names one, what serves is not unloaded."""
    index = {entry["version"]: entry["state"] for entry in client.get_model_repository_index()}
    assert index == {store.new.name: "READY", store.old.name: "UNAVAILABLE"}
    policy = f'{{"version_policy": {{"specific": {{"versions": ["{store.old.name}"]}}}}}}'
    client.load_model("qin", config=policy)
    assert client.is_model_ready("qin", store.old.name)
    assert not client.is_model_ready("qin", store.new.name)
    client.load_model("qin")
    assert client.is_model_ready("qin", store.new.name)
    with pytest.raises(InferenceServerException, match="load another") as refused:
        client.unload_model("qin")
    assert refused.value.status() == "409"


def test_it_reads_errors(client, store: Store):
    """Whatever goes wrong reaches its user in our words."""
    inputs = inputs_of([1], [[9, 2]], binary=True)
    with pytest.raises(InferenceServerException, match=f"loaded: {store.new.name}"):
        client.infer("qin", inputs, model_version=store.old.name)
    with pytest.raises(InferenceServerException, match="there is no model 'other'"):
        client.get_model_metadata("other")
    with pytest.raises(InferenceServerException, match="CANDIDATES: is needed"):
        client.infer("qin", inputs[:1])
    with pytest.raises(InferenceServerException, match="there is no output 'CLASS'"):
        client.infer("qin", inputs, outputs=[triton.InferRequestedOutput("CLASS")])
