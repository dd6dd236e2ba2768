"""Inference by the Open Inference Protocol, beside `/v1/rank` on the same service."""

import gzip
import time
import zlib

import httpx
import numpy as np
import pytest

from contract.wire import RankRequest
from service.tensors import header_length
from tests.service.catalogue import NUM_ITEMS
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running
from tests.service.tensors import binary_body, outputs_of, tensor, users_and_candidates

INFER = "/v2/models/qin/infer"


@pytest.fixture(scope="module")
def shared(tmp_path_factory, store: Store, valkey):
    """One service over an empty catalogue for tests that change nothing."""
    # A database of its own: it follows what is active, and would tell other tests' services what it knows.
    url = f"unix://{valkey.unix_socket_path}?db=1"
    with running(make_settings(store.folder, url, max_body_bytes=8192, max_candidates=100, max_users=5)) as started:
        yield started


def error(response: httpx.Response, status: int) -> str:
    """Check that an answer is an error of this protocol, and return what it says."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (said,) = response.json().values()
    assert list(response.json()) == ["error"]
    assert "Traceback" not in said
    return str(said)


def test_scores_are_those_of_v1_bit_for_bit(service: Running, store: Store):
    """JSON or binary, in and out: the same history and candidates get the very scores that /v1/rank gives."""
    service.client.put_history(1, [3, 5, 8])
    candidates = [9, 2, 70, NUM_ITEMS + 3, 0, 9]
    ranking = service.client.rank(1, candidates)
    body, headers = binary_body([("USER_ID", np.array([1])), ("CANDIDATES", np.array([candidates]))])
    asked = {"inputs": users_and_candidates(1, candidates), "parameters": {"binary_data_output": True}}
    for response in (
        service.http.post(INFER, json={"inputs": users_and_candidates(1, candidates)}),
        service.http.post(INFER, json=asked),
        service.http.post(INFER, content=body, headers=headers),
    ):
        outputs = outputs_of(response)
        assert outputs["SCORES"].dtype == np.float32
        np.testing.assert_array_equal(outputs["SCORES"], [np.float32(ranking.scores)])
        np.testing.assert_array_equal(np.flatnonzero(outputs["UNKNOWN"]), ranking.unknown_items)
        assert outputs["VERSION"].tolist() == [store.new.name]


def test_several_users_of_different_lengths_are_padded(service: Running):
    """-1 ends a row: a user gets what the same candidates get in /v1/rank, and padding gets 0."""
    service.client.put_history(1, [3, 5, 8])
    service.client.put_history(2, [60, 61])
    rows = [[9, 2, 70], [4, -1, -1], [11, 12, -1]]
    response = service.http.post(INFER, json={"inputs": users_and_candidates([1, 2, 3], rows)})
    scores = outputs_of(response)["SCORES"]
    wanted = service.client.rank_many([RankRequest(1, [9, 2, 70]), RankRequest(2, [4]), RankRequest(3, [11, 12])])
    for user, ranking in enumerate(wanted):
        length = len(ranking.scores)
        np.testing.assert_array_equal(scores[user, :length], np.float32(ranking.scores))
        assert not scores[user, length:].any()
    assert outputs_of(response)["VERSION"].shape == (3,)


def test_history_and_levels_stand_before_the_stored_ones(service: Running):
    """HISTORY, LIKES_LEVEL and VIEWS_LEVEL do what the fields of those names do in /v1/rank, -1 ending a history."""
    service.client.put_history(1, [60])
    levels = {"likes_level": [10, 0], "views_level": [1, 7]}
    ranking = service.client.rank(1, [9, 2], history=[3, 0, 5], **levels)
    inputs = users_and_candidates()
    inputs += [tensor("HISTORY", [[3, 0, 5, -1]]), tensor("LIKES_LEVEL", [[10, 0]]), tensor("VIEWS_LEVEL", [[1, 7]])]
    scores = outputs_of(service.http.post(INFER, json={"inputs": inputs}))["SCORES"]
    np.testing.assert_array_equal(scores, [np.float32(ranking.scores)])
    empty = [*users_and_candidates(), tensor("HISTORY", [[-1]])]
    scores = outputs_of(service.http.post(INFER, json={"inputs": empty}))["SCORES"]
    np.testing.assert_array_equal(scores, [np.float32(service.client.rank(1, [9, 2], history=[]).scores)])


@pytest.mark.parametrize("user", [[1], [[1]]])
@pytest.mark.parametrize("candidates", [[9, 2, 4], [[9, 2, 4]]])
def test_one_user_may_come_without_a_dimension_for_users(shared: Running, user, candidates):
    """(1,) or (1, 1) and (N,) or (1, N): the scores have the candidates' shape."""
    inputs = [tensor("USER_ID", user), tensor("CANDIDATES", candidates)]
    outputs = outputs_of(shared.http.post(INFER, json={"inputs": inputs}))
    assert outputs["SCORES"].shape == outputs["UNKNOWN"].shape == np.array(candidates).shape


def test_data_may_be_nested_like_the_shape(shared: Running):
    """Nested lists mean what flat ones mean."""
    flat = users_and_candidates([1, 2], [[9, 2], [4, 5]])
    nested = [{**flat[0], "data": [1, 2]}, {**flat[1], "data": [[9, 2], [4, 5]]}]
    scores = [outputs_of(shared.http.post(INFER, json={"inputs": inputs}))["SCORES"] for inputs in (flat, nested)]
    np.testing.assert_array_equal(*scores)


def test_outputs_come_as_they_are_asked_for(shared: Running):
    """Only those that are named, in that order, each binary or not; a request's id comes back."""
    asked = [{"name": "VERSION"}, {"name": "SCORES", "parameters": {"binary_data": True}}]
    said = {"id": "page-17 é", "inputs": users_and_candidates(), "outputs": asked}
    response = shared.http.post(INFER, json=said)
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["Inference-Header-Content-Length"])
    header = httpx.Response(200, content=response.content[:length]).json()
    assert header["id"] == "page-17 é"
    assert [output["name"] for output in header["outputs"]] == ["VERSION", "SCORES"]
    assert [("data" in output) for output in header["outputs"]] == [True, False]
    assert len(response.content) == length + 2 * 4
    asked[1]["parameters"] = {"binary_data": False}
    everything = {**said, "parameters": {"binary_data_output": True}}
    response = shared.http.post(INFER, json=everything)
    length = int(response.headers["Inference-Header-Content-Length"])
    header = httpx.Response(200, content=response.content[:length]).json()
    assert [("data" in output) for output in header["outputs"]] == [False, True]


def test_plain_answers_are_json_without_the_header(shared: Running):
    """Where nothing is binary the answer is one JSON object and nothing else."""
    response = shared.http.post(INFER, json={"inputs": users_and_candidates()})
    assert response.headers["content-type"] == "application/json"
    assert "Inference-Header-Content-Length" not in response.headers
    assert response.json()["model_name"] == "qin"
    assert "id" not in response.json()


@pytest.mark.parametrize("padding", range(8))
def test_binary_inputs_may_begin_anywhere(shared: Running, padding):
    """The JSON object's length, whatever it is, does not matter to what follows it."""
    inputs = [("USER_ID", np.array([1])), ("CANDIDATES", np.arange(20)[None])]
    body, headers = binary_body(inputs, padding)
    plain = outputs_of(shared.http.post(INFER, json={"inputs": users_and_candidates(1, range(20))}))
    outputs = outputs_of(shared.http.post(INFER, content=body, headers=headers))
    np.testing.assert_array_equal(outputs["SCORES"], plain["SCORES"])


def test_a_version_may_be_named(service: Running, store: Store):
    """The version that serves answers by its name; one that is only stored is 404 and told what is loaded."""
    said = {"inputs": users_and_candidates()}
    answered = service.http.post(f"/v2/models/qin/versions/{store.new.name}/infer", json=said)
    assert answered.json()["model_version"] == store.new.name
    refused = error(service.http.post(f"/v2/models/qin/versions/{store.old.name}/infer", json=said), 404)
    assert store.old.name in refused
    assert f"loaded: {store.new.name}" in refused
    assert "'qin'" in error(service.http.post("/v2/models/other/infer", json=said), 404)
    service.client.promote(store.old.name)
    assert service.http.post(INFER, json=said).json()["model_version"] == store.old.name


def test_a_version_on_trial_answers_by_its_name(service: Running, store: Store):
    """A canary can be asked for; without a name each user gets the one that is theirs, and VERSION says which."""
    service.client.promote(store.old.name, canary=0.5)
    inputs = users_and_candidates([*range(100, 164)], [[9]] * 64)
    named = service.http.post(f"/v2/models/qin/versions/{store.old.name}/infer", json={"inputs": inputs})
    assert set(outputs_of(named)["VERSION"]) == {store.old.name}
    mixed = service.http.post(INFER, json={"inputs": inputs})
    assert set(outputs_of(mixed)["VERSION"]) == {store.old.name, store.new.name}
    assert "model_version" not in mixed.json()


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_bodies_may_be_compressed(shared: Running, compress):
    """Gzip and deflate are inflated; binary inputs lie where they lay before."""
    body, headers = binary_body([("USER_ID", np.array([1])), ("CANDIDATES", np.array([[9, 2]]))])
    encoding = {"Content-Encoding": "gzip" if compress is gzip.compress else "deflate"}
    outputs = outputs_of(shared.http.post(INFER, content=compress(body), headers=headers | encoding))
    assert outputs["SCORES"].shape == (1, 2)


def test_compressed_bodies_are_bounded_by_the_limit_of_plain_ones(shared: Running):
    """What would inflate past the limit is 413; what is spoilt, cut or followed by more is 400; others are 415."""

    def sent(content: bytes, encoding: str) -> httpx.Response:
        return shared.http.post(INFER, content=content, headers={"Content-Encoding": encoding})

    bomb = gzip.compress(b" " * 5_000_000)
    assert len(bomb) < 8192
    assert "8192" in error(sent(bomb, "gzip"), 413)
    whole = gzip.compress(b"{}" * 50)
    for spoilt in (whole[:-3], whole + b"x", b"{}", b"", whole[:10]):
        error(sent(spoilt, "gzip"), 400)
    error(sent(whole, "br"), 415)
    error(sent(whole, "gzip, gzip"), 415)


def test_a_deadline_may_be_given_in_either_unit(shared: Running, monkeypatch):
    """`deadline_ms`, or `timeout` in microseconds: past it the answer is 504; a generous one changes nothing."""
    said = {"inputs": users_and_candidates()}
    for parameters in ({"deadline_ms": 60_000}, {"timeout": 60_000_000}, {"timeout": 0}, {"priority": 3}):
        assert shared.http.post(INFER, json={**said, "parameters": parameters}).status_code == 200
    for parameters in ({"deadline_ms": 0.0001}, {"timeout": 1, "deadline_ms": 60_000}):
        response = shared.http.post(INFER, json={**said, "parameters": parameters})
        assert "deadline" in error(response, 504)


def test_what_is_degraded_is_said(service: Running, monkeypatch):
    """What the scores lack stands in the answer's parameters."""
    assert "parameters" not in service.http.post(INFER, json={"inputs": users_and_candidates()}).json()
    monkeypatch.setattr(type(service.replica.mirror), "degraded", property(lambda _: True))
    answered = service.http.post(INFER, json={"inputs": users_and_candidates()}).json()
    assert answered["parameters"] == {"degraded": "items"}


ONE = users_and_candidates()
USER, CANDIDATES = ONE
REFUSED = {
    "not json": (b"{", "", 400),
    "not an object": ([], "object", 400),
    "no inputs": ({"inputs": []}, "inputs", 400),
    "no user": ({"inputs": [CANDIDATES]}, "USER_ID: is needed", 400),
    "no candidates": ({"inputs": [USER]}, "CANDIDATES: is needed", 400),
    "unknown input": ({"inputs": [*ONE, tensor("AGE", [1])]}, "USER_ID, CANDIDATES, HISTORY", 400),
    "twice": ({"inputs": [*ONE, USER]}, "USER_ID: is there twice", 400),
    "other type": ({"inputs": [{**USER, "datatype": "INT32"}, CANDIDATES]}, "USER_ID: must be INT64", 400),
    "no data": ({"inputs": [{**USER, "data": None}, CANDIDATES]}, "USER_ID.data", 400),
    "data absent": ({"inputs": [{k: v for k, v in USER.items() if k != "data"}, CANDIDATES]}, "either data", 400),
    "fraction": ({"inputs": [{**USER, "data": [1.5]}, CANDIDATES]}, "USER_ID.data[0]", 400),
    "text": ({"inputs": [{**USER, "data": ["1"]}, CANDIDATES]}, "USER_ID.data[0]", 400),
    "too large": ({"inputs": [{**USER, "data": [2**63]}, CANDIDATES]}, "USER_ID.data[0]", 400),
    "negative user": ({"inputs": users_and_candidates(-1)}, "USER_ID: must not be negative", 400),
    "negative": ({"inputs": users_and_candidates(1, [9, -2])}, "CANDIDATES.data[1]", 400),
    "after padding": ({"inputs": users_and_candidates(1, [9, -1, 2])}, "CANDIDATES[0][2]: 2 comes after -1", 400),
    "only padding": ({"inputs": users_and_candidates(1, [-1, -1])}, "CANDIDATES: user 0 has none", 400),
    "none at all": ({"inputs": users_and_candidates(1, [])}, "CANDIDATES: user 0 has none", 400),
    "too few": ({"inputs": [USER, {**CANDIDATES, "shape": [1, 3]}]}, "2 values where the shape is [1, 3]", 400),
    "nested wrongly": ({"inputs": [USER, {**CANDIDATES, "data": [[9], [2]]}]}, "nested", 400),
    "nested ragged": ({"inputs": [USER, {**CANDIDATES, "data": [[9, 2], []]}]}, "nested", 400),
    "nested deep": ({"inputs": [USER, {**CANDIDATES, "data": [[[9, 2]]]}]}, "CANDIDATES.data", 400),
    "3 dimensions": ({"inputs": [USER, {**CANDIDATES, "shape": [1, 1, 2]}]}, "inputs[1].shape", 400),
    "no dimension": ({"inputs": [USER, {**CANDIDATES, "shape": []}]}, "inputs[1].shape", 400),
    "negative dimension": ({"inputs": [USER, {**CANDIDATES, "shape": [-1, 2]}]}, "inputs[1].shape", 400),
    "huge": ({"inputs": [{**USER, "shape": [2**31 - 1, 0], "data": []}, CANDIDATES]}, "USER_ID", 413),
    "other users": ({"inputs": users_and_candidates([1, 2], [[9]])}, "CANDIDATES: has shape [1, 1]", 400),
    "flat for two": ({"inputs": [tensor("USER_ID", [1, 2]), tensor("CANDIDATES", [9, 2])]}, "CANDIDATES", 400),
    "other levels": ({"inputs": [*ONE, tensor("LIKES_LEVEL", [[1]])]}, "LIKES_LEVEL: has another shape", 400),
    "high level": ({"inputs": [*ONE, tensor("VIEWS_LEVEL", [[1, 11]])]}, "views_level[1]", 400),
    "low level": ({"inputs": [*ONE, tensor("VIEWS_LEVEL", [[-1, 1]])]}, "views_level[0]", 400),
    "history's rows": ({"inputs": [*ONE, tensor("HISTORY", [[1], [2]])]}, "HISTORY", 400),
    "unknown output": ({"inputs": ONE, "outputs": [{"name": "CLASS"}]}, "SCORES, UNKNOWN, VERSION", 400),
    "output twice": ({"inputs": ONE, "outputs": [{"name": "SCORES"}] * 2}, "asked for twice", 400),
    "classes": ({"inputs": ONE, "outputs": [{"name": "SCORES", "parameters": {"classification": 2}}]}, "class", 400),
    "shared out": (
        {"inputs": ONE, "outputs": [{"name": "SCORES", "parameters": {"shared_memory_region": "a"}}]},
        "shared memory",
        400,
    ),
    "shared in": (
        {"inputs": [{**USER, "parameters": {"shared_memory_region": "a"}}, CANDIDATES]},
        "shared memory",
        400,
    ),
    "no bytes": ({"inputs": [{**USER, "parameters": {"binary_data_size": 8}}, CANDIDATES]}, "0 left", 400),
    "size": ({"inputs": [{**USER, "parameters": {"binary_data_size": 4}}, CANDIDATES]}, "takes 8", 400),
    "negative deadline": ({"inputs": ONE, "parameters": {"deadline_ms": -1}}, "parameters.deadline_ms", 400),
    "many candidates": ({"inputs": users_and_candidates(1, range(101))}, "101 candidates", 413),
    "many users": ({"inputs": users_and_candidates([*range(6)], [[1]] * 6)}, "6 users", 413),
    "long body": (b" " * 9000, "8192", 413),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_a_reason(shared: Running, case):
    """Whatever is wrong with a request is said, by the tensor that it is wrong with."""
    body, reason, status = REFUSED[case]
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    assert reason in error(shared.http.post(INFER, **sent), status)


@pytest.mark.parametrize(
    ("shape", "data", "status"), [([6, 1], [[1]] * 6, 413), ([5, 1], [[1]] * 6, 400), ([2], [[1]] * 2, 400)]
)
def test_rows_that_are_too_many_are_not_even_read(shared: Running, monkeypatch, shape, data, status):
    """Of lists with a number each a body holds hundreds of thousands: they are refused by their shape or number."""
    monkeypatch.setattr("service.tensors._NESTED_ROWS", None)
    many = {"name": "CANDIDATES", "datatype": "INT64", "shape": shape, "data": data}
    assert "CANDIDATES" in error(shared.http.post(INFER, json={"inputs": [many, USER]}), status)


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "99999", "9" * 5000, "\u0663".encode().decode("latin-1"), ""])
def test_a_wrong_length_of_the_json_object_is_refused(shared: Running, length):
    """Inference-Header-Content-Length is a plain number up to the length of the body."""
    response = shared.http.post(
        INFER, content=b"{}", headers={b"Inference-Header-Content-Length": length.encode("latin-1")}
    )
    assert "Inference-Header-Content-Length" in error(response, 400)
    assert header_length("2", b"{} ") == 2


def test_bytes_that_are_no_inputs_are_refused(shared: Running):
    """Neither may binary data be left over nor lacking."""
    body, headers = binary_body([("USER_ID", np.array([1])), ("CANDIDATES", np.array([[9, 2]]))])
    assert "1 bytes follow" in error(shared.http.post(INFER, content=body + b"x", headers=headers), 400)
    assert "15 left" in error(shared.http.post(INFER, content=body[:-1], headers=headers), 400)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/qin/versions/other", 404),
        ("GET", "/v2/models/qin/versions/other/ready", 404),
        ("GET", "/v2/models/..%2f..%2fetc/ready", 404),
        ("GET", INFER, 405),
        ("DELETE", "/v2/models/qin", 405),
        ("GET", "/v2/repository/index", 405),
    ],
)
def test_wrong_paths_are_errors_of_this_protocol(shared: Running, method, path, status):
    """Under /v2 unknown paths, methods, models and versions answer as the protocol has it."""
    error(shared.http.request(method, path), status)


def test_the_read_key_guards_inference(store: Store, stocked_url):
    """With a read key 401 without it, 403 with another, before anything is read; either key opens."""
    said = {"inputs": users_and_candidates()}
    with running(make_settings(store.folder, stocked_url, read_key="r", admin_key="a")) as service:
        for path in (INFER, "/v2/models/other/infer"):
            assert error(service.http.post(path, json=said), 401)
            assert error(service.http.post(path, json=said, headers={"Authorization": "Bearer x"}), 403)
        for path in ("/v2", "/v2/models/qin", "/v2/models/qin/ready", "/v2/models/qin/stats"):
            error(service.http.get(path), 401)
        for key in ("r", "a"):
            headers = {"Authorization": f"Bearer {key}"}
            assert service.http.post(INFER, json=said, headers=headers).status_code == 200
            assert service.http.get("/v2/models/qin", headers=headers).status_code == 200
        assert service.http.get("/v2/health/ready").status_code == 200


def test_shed_requests_say_when_to_come_again(service: Running):
    """Past the queue's bound the answer is 503 with Retry-After, in this protocol's form."""
    service.replica.admission.num_candidates = 10**9
    refused = service.http.post(INFER, json={"inputs": users_and_candidates()})
    assert "try again" in error(refused, 503)
    assert int(refused.headers["Retry-After"]) > 0


def test_statistics_count_by_version(service: Running, store: Store):
    """Users, requests and their time are counted for the version that answered."""
    began_ms = time.time() * 1000 - 1
    service.http.post(INFER, json={"inputs": users_and_candidates([1, 2], [[9], [2]])})
    service.client.rank(1, [9])
    (stats,) = service.http.get("/v2/models/qin/stats").json()["model_stats"]
    assert (stats["name"], stats["version"]) == ("qin", store.new.name)
    assert (stats["inference_count"], stats["execution_count"]) == (3, 2)
    assert stats["last_inference"] >= began_ms
    assert stats["inference_stats"]["success"]["count"] == 2
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    total = sum(stats["inference_stats"][part]["ns"] for part in parts)
    assert total == pytest.approx(stats["inference_stats"]["success"]["ns"], abs=10)
    assert service.http.get("/v2/models/stats").json() == service.http.get("/v2/models/qin/stats").json()
