"""What the Open Inference Protocol says of models, and its repository."""

import json
import shutil
from pathlib import Path

import httpx
import pytest

from contract.client import Client
from service.active import ActiveVersion
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running, wait_until
from tests.service.tensors import users_and_candidates

LOAD, UNLOAD = "/v2/repository/models/qin/load", "/v2/repository/models/qin/unload"


def config_for(*versions: str, **others: object) -> dict[str, object]:
    """The parameters of a load that names versions as Triton does."""
    policy = {"version_policy": {"specific": {"versions": versions}}, **others}
    return {"parameters": {"config": json.dumps(policy)}}


def states(response: httpx.Response) -> dict[str, tuple[str, str]]:
    """State and reason of each version in an index."""
    assert {entry["name"] for entry in response.json()} == {"qin"}
    return {entry["version"]: (entry["state"], entry["reason"]) for entry in response.json()}


def test_metadata_says_what_can_be_asked(service: Running, store: Store):
    """Server and model name themselves, the extensions, the tensors, and the versions that answer by their name."""
    server = service.http.get("/v2").json()
    assert server["name"] == "qin"
    assert {"binary_tensor_data", "model_repository", "statistics", "model_configuration"} == set(
        server["extensions"]
    )
    model = service.http.get("/v2/models/qin").json()
    assert (model["name"], model["versions"]) == ("qin", [store.new.name])
    assert model["inputs"][:2] == [
        {"name": "USER_ID", "datatype": "INT64", "shape": [-1]},
        {"name": "CANDIDATES", "datatype": "INT64", "shape": [-1, -1]},
    ]
    assert model["outputs"][0] == {"name": "SCORES", "datatype": "FP32", "shape": [-1, -1]}
    assert service.http.get(f"/v2/models/qin/versions/{store.new.name}").json() == model
    service.client.promote(store.old.name, shadow=True)
    assert service.http.get("/v2/models/qin").json()["versions"] == [store.new.name, store.old.name]


def test_readiness_of_a_model_follows_that_of_the_replica(service: Running, store: Store):
    """Ready while serving, by name and by version; not ready once stopping."""
    for path in ("/v2/models/qin/ready", f"/v2/models/qin/versions/{store.new.name}/ready"):
        assert service.http.get(path).json() == {"name": "qin", "ready": True}
    service.replica.stopping = True
    response = service.http.get("/v2/models/qin/ready")
    assert (response.status_code, response.json()) == (503, {"name": "qin", "ready": False})


def test_the_configuration_is_tritons(service: Running, store: Store):
    """Optional inputs, types and limits stand where Triton's clients look for them."""
    config = service.http.get("/v2/models/qin/config").json()
    assert config["name"] == "qin"
    assert config["version_policy"] == {"specific": {"versions": [store.new.name]}}
    assert [tensor["name"] for tensor in config["input"] if not tensor["optional"]] == ["USER_ID", "CANDIDATES"]
    assert config["output"][0] == {"name": "SCORES", "data_type": "TYPE_FP32", "dims": [-1, -1]}
    assert config["parameters"]["history_length"] == {"string_value": "8"}
    assert service.http.get(f"/v2/models/qin/versions/{store.new.name}/config").json() == config


def test_the_index_lists_every_version(service: Running, store: Store):
    """Versions that rank are READY, others are not and say why; `ready` leaves those out."""
    both = {store.new.name: ("READY", ""), store.old.name: ("UNAVAILABLE", "not loaded")}
    for content in (b"", b"{}", b'{"ready": false}'):
        assert states(service.http.post("/v2/repository/index", content=content)) == both
    ready = states(service.http.post("/v2/repository/index", json={"ready": True}))
    assert ready == {store.new.name: ("READY", "")}


@pytest.mark.parametrize("form", [lambda name: {"parameters": {"version": name}}, config_for])
def test_load_promotes_a_version(service: Running, store: Store, form):
    """The version that is named becomes active, as by /v1/models; without a name it is the newest."""
    assert service.http.post(LOAD, json=form(store.old.name)).status_code == 200
    assert service.client.model().active == store.old.name
    assert states(service.http.post("/v2/repository/index"))[store.old.name] == ("READY", "")
    assert service.http.post(LOAD).status_code == 200
    assert service.client.model().active == store.new.name
    assert service.http.post(LOAD, json={}).status_code == 200
    assert service.client.model().active == store.new.name


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, ""),
        ({"parameters": {"version": ""}}, 400, "parameters.version"),
        ({"parameters": {"version": "nothing"}}, 404, "nothing"),
        ({"parameters": {"version": "../.."}}, 404, ""),
        ({"parameters": {"config": "{"}}, 400, ""),
        ({"parameters": {"config": "{}"}}, 400, "parameters.config"),
        ({"parameters": {"config": '{"max_batch_size": 8}'}}, 400, "max_batch_size"),
        (config_for("a", "b"), 400, "parameters.config.version_policy"),
        (config_for("nothing"), 404, "nothing"),
        ({"parameters": {"version": "a", **config_for("b")["parameters"]}}, 400, "b in the config"),  # type: ignore[dict-item]
        ({"parameters": {"file:1/ranker.onnx": "AAAA"}}, 400, "file:1/ranker.onnx"),
    ],
)
def test_loads_that_cannot_be_followed_are_refused(service: Running, store: Store, body, status, reason):
    """What a load asks for is done whole or refused with the reason; the version before goes on serving."""
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = service.http.post(LOAD, **sent)
    assert response.status_code == status, response.text
    assert reason in response.json()["error"]
    assert service.client.rank(1, [9]).version == store.new.name


def test_what_ranks_is_never_unloaded(service: Running, store: Store):
    """Unloading what serves or is on trial is a conflict that says what to do; of the others it is true already."""
    assert "load another" in service.http.post(UNLOAD).json()["error"]
    for content in ({}, {"parameters": {"unload_dependents": False}}, {"parameters": {"version": store.new.name}}):
        assert service.http.post(UNLOAD, json=content).status_code == 409
    assert service.http.post(UNLOAD, json={"parameters": {"version": store.old.name}}).status_code == 200
    assert service.http.post(UNLOAD, json={"parameters": {"version": "nothing"}}).status_code == 404
    service.client.promote(store.old.name, shadow=True)
    refused = service.http.post(UNLOAD, json={"parameters": {"version": store.old.name}})
    assert refused.status_code == 409
    assert "/v1/models/qin/rollback" in refused.json()["error"]
    assert service.http.post("/v2/models/qin/infer", json={"inputs": users_and_candidates()}).status_code == 200


def test_the_repository_needs_the_admin_key(store: Store, stocked_url):
    """401 without the key, 403 with another or from a page of another origin, and nothing is loaded."""
    with running(make_settings(store.folder, stocked_url, admin_key="a")) as service:
        for path in ("/v2/repository/index", LOAD, UNLOAD, "/v2/repository/models/other/load"):
            missing = service.http.post(path)
            assert (missing.status_code, missing.headers["www-authenticate"]) == (401, "Bearer")
            assert list(missing.json()) == ["error"]
            assert service.http.post(path, headers={"Authorization": "Bearer b"}).status_code == 403
        opened = service.http.post("/v2/repository/index", headers={"Authorization": "Bearer a"})
        assert len(opened.json()) == 2
    with running(make_settings(store.folder, stocked_url)) as service, Client(service.url) as client:
        foreign = service.http.post(LOAD, headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403
        assert client.rank(1, [9]).version == store.new.name


def test_a_version_that_is_active_and_cannot_be_loaded_says_why(store: Store, stocked_url, tmp_path: Path):
    """Loading a broken version is refused; where it is active all the same, the index has this replica's reason."""
    shutil.copytree(store.folder, tmp_path / "store")
    broken = tmp_path / "store" / "qin" / store.old.name
    (broken / "ranker.onnx").write_bytes(b"spoilt")
    with running(make_settings(tmp_path / "store", stocked_url, follow_interval_s=0.05)) as service:
        refused = service.http.post(LOAD, json={"parameters": {"version": store.old.name}})
        assert (refused.status_code, "ranker.onnx" in refused.json()["error"]) == (400, True)
        service.call(ActiveVersion(service.replica.items.redis, "qin").write(store.old.name, store.new.name))
        wait_until(lambda: states(service.http.post("/v2/repository/index"))[store.old.name][1] != "not loaded")
        wait_until(lambda: "ranker.onnx" in states(service.http.post("/v2/repository/index"))[store.old.name][1])
        assert service.client.rank(1, [9]).version == store.new.name
