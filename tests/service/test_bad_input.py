import json

import httpx
import numpy as np
import pytest

from contract.client import ClientError
from contract.manifest import Provenance
from contract.schema import Schema
from contract.wire import Item, RankRequest
from export.exporter import TrainedModel, export_model
from tests.fakes import make_items, make_network
from tests.service.running import Running, make_settings, running


@pytest.fixture(scope="module")
def shared(tmp_path_factory, store, valkey):
    """One service for all of these tests: none of them changes anything."""
    # A database of its own: it follows what is active, and would tell other tests' services what it knows.
    url = f"unix://{valkey.unix_socket_path}?db=1"
    with running(make_settings(store.folder, url, max_body_bytes=4096, max_candidates=100, max_users=5)) as started:
        yield started


def problem(response: httpx.Response, status: int, field: str | None = None) -> dict:
    """Check that an answer is a whole problem document, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    content = response.json()
    assert content["status"] == status
    assert content["title"]
    assert content["detail"]
    assert "Traceback" not in response.text
    if field is not None:
        assert content["field"] == field
    return content


RANK_CASES = [
    ("", 400, None),
    ("{", 400, None),
    ('{"user_id": 1, "candidates": [1]} x', 400, None),
    ("\xff\xfe", 400, None),
    ("null", 422, None),
    ("[]", 422, None),
    ('{"user_id": 1}', 422, None),
    ('{"candidates": [1]}', 422, None),
    ('{"user_id": 1, "candidates": [1], "surprise": 1}', 422, None),
    ('{"user_id": 1, "candidates": [1], "deadline": 5}', 422, None),
    ('{"user_id": 1, "candidates": []}', 422, "candidates"),
    ('{"user_id": "1", "candidates": [1]}', 422, "user_id"),
    ('{"user_id": -1, "candidates": [1]}', 422, "user_id"),
    ('{"user_id": 9223372036854775808, "candidates": [1]}', 422, "user_id"),
    ('{"user_id": 1, "candidates": [1, -7]}', 422, "candidates[1]"),
    ('{"user_id": 1, "candidates": [1.5]}', 422, "candidates[0]"),
    ('{"user_id": 1, "candidates": [null]}', 422, "candidates[0]"),
    ('{"user_id": 1, "candidates": 1}', 422, "candidates"),
    ('{"user_id": 1, "candidates": [1], "history": [2, -2]}', 422, "history[1]"),
    ('{"user_id": 1, "candidates": [1], "top_k": 0}', 422, "top_k"),
    ('{"user_id": 1, "candidates": [1], "likes_level": [11]}', 422, "likes_level[0]"),
    ('{"user_id": 1, "candidates": [1, 2], "likes_level": [1]}', 422, "likes_level"),
    ('{"user_id": 1, "candidates": [1], "views_level": []}', 422, "views_level"),
    ('{"requests": []}', 422, "requests"),
    ('{"requests": [{"user_id": 1, "candidates": []}]}', 422, "requests[0].candidates"),
    ('{"requests": [{"user_id": 1, "candidates": [1], "views_level": [1, 2]}]}', 422, "requests[0].views_level"),
    ('{"requests": [{"user_id": 1, "candidates": [1]}], "model": "x"}', 422, None),
    ('{"user_id": 1, "candidates": [NaN]}', 422, None),
    ('{"user_id": 1, "candidates": %s}' % ("[" * 2000), 422, "candidates[0]"),
]


@pytest.mark.parametrize(("body", "status", "field"), RANK_CASES)
def test_wrong_rank_bodies_are_refused_with_the_field_that_is_wrong(shared: Running, body, status, field):
    """Malformed JSON is 400, anything else wrong is 422 and names the path of what is wrong."""
    problem(shared.http.post("/v1/rank", content=body.encode("latin-1")), status, field)


def test_too_many_candidates_are_refused(shared: Running):
    """One candidate over the limit is 413, in one request and summed over several; the limit itself is fine."""
    at_limit = {"user_id": 1, "candidates": list(range(100))}
    assert shared.http.post("/v1/rank", json=at_limit).status_code == 200
    problem(shared.http.post("/v1/rank", json={"user_id": 1, "candidates": list(range(101))}), 413, "candidates")
    half = {"user_id": 1, "candidates": list(range(51))}
    problem(shared.http.post("/v1/rank", json={"requests": [half, half]}), 413, "candidates")


def test_too_many_users_are_refused(shared: Running, monkeypatch):
    """More requests in one body than allowed are 413, before anything is made of them."""
    monkeypatch.setattr("service.rank_routes._query", None)
    one = {"user_id": 1, "candidates": [1]}
    problem(shared.http.post("/v1/rank", json={"requests": [one] * 6}), 413, "requests")


def test_a_body_over_the_limit_is_refused_and_the_next_request_is_answered(shared: Running):
    """A large body is 413 whether it announces its length or comes in chunks; the connection stays usable."""
    problem(shared.http.post("/v1/rank", content=b" " * 5000), 413)
    problem(shared.http.post("/v1/rank", content=(b" " * 1000 for _ in range(5))), 413)
    problem(shared.http.put("/v1/items/1", content=b" " * 5000), 413)
    assert shared.http.post("/v1/rank", json={"user_id": 1, "candidates": [1]}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/rank/", 404),
        ("GET", "/v1/rank", 405),
        ("PATCH", "/v1/items/1", 405),
        ("DELETE", "/v1/items", 405),
        ("GET", "/v1/items/seven", 422),
        ("GET", "/v1/items/-7", 422),
        ("GET", "/v1/items/9223372036854775808", 422),
        ("GET", "/v1/items/1.5", 422),
        ("GET", "/v1/items/1_0", 422),
        ("GET", "/v1/items/10.0", 422),
        ("GET", "/v1/items/+7", 422),
        ("GET", "/v1/items/007", 422),
        ("GET", "/v1/items/%207", 422),
        ("GET", "/v1/items/%EF%BC%97", 422),
        ("GET", f"/v1/items/{'7' * 5000}", 422),
        ("GET", "/v1/users/1_0/history", 422),
        ("GET", "/v1/users/10.0/history", 422),
        ("GET", "/v1/users/-1/history", 422),
        ("POST", "/v1/users/me/events", 422),
        ("GET", "/v1/items/12345", 404),
        ("GET", "/v1/items/%00", 422),
        ("POST", "/v1/models/other/promote", 404),
        ("POST", "/v1/models/..%2f..%2fetc/promote", 404),
        ("POST", "/v1/models/other/rollback", 404),
    ],
)
def test_wrong_paths_are_problems_too(shared: Running, method, path, status):
    """Unknown paths, methods and ids are problem documents like every other error."""
    problem(shared.http.request(method, path, content=b"{}"), status)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ("{", 400, None),
        ("{}", 422, None),
        ('{"item_ids": 3}', 422, "item_ids"),
        ('{"item_ids": [1, -3]}', 422, "item_ids[1]"),
        ('{"item_ids": [1, 2, 0]}', 422, "item_ids[2]"),
        ('{"item_ids": ["3"]}', 422, "item_ids[0]"),
        ('{"item_ids": [1], "ttl": 5}', 422, None),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/users/1/events"), ("PUT", "/v1/users/1/history")])
def test_wrong_histories_are_refused(shared: Running, method, path, body, status, field):
    """Events and histories are lists of non-negative ids and nothing else."""
    problem(shared.http.request(method, path, content=body), status, field)


def test_an_overlong_idempotency_key_is_refused(shared: Running):
    """A key of more than 255 characters is 422."""
    response = shared.http.post("/v1/users/1/events", json={"item_ids": [1]}, headers={"Idempotency-Key": "k" * 256})
    problem(response, 422, "Idempotency-Key")


GOOD = "0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ("{", 400, None),
        ("{}", 422, None),
        ('{"embedding": [1, 2]}', 422, "embedding"),
        (f'{{"embedding": [{GOOD}, NaN]}}', 422, None),
        (f'{{"embedding": [{GOOD}, -Infinity]}}', 422, None),
        (f'{{"embedding": [{GOOD}, 1e39]}}', 422, "embedding[7]"),
        (f'{{"embedding": [{GOOD}, 1e999]}}', 422, None),
        (f'{{"embedding": [{GOOD}, null]}}', 422, "embedding[7]"),
        (f'{{"embedding": [{GOOD}, "1"]}}', 422, "embedding[7]"),
        (f'{{"embedding": [{GOOD}, 1], "tags": [1, 2, 3, 4, 5, 6]}}', 422, "tags"),
        (f'{{"embedding": [{GOOD}, 1], "tags": [-1]}}', 422, "tags[0]"),
        (f'{{"embedding": [{GOOD}, 1], "tags": [2147483648]}}', 422, "tags[0]"),
        (f'{{"embedding": [{GOOD}, 1], "likes_level": 11}}', 422, "likes_level"),
        (f'{{"embedding": [{GOOD}, 1], "views_level": -1}}', 422, "views_level"),
        (f'{{"embedding": [{GOOD}, 1], "item_id": 8}}', 422, "item_id"),
        (f'{{"embedding": [{GOOD}, 1], "price": 8}}', 422, None),
    ],
)
def test_wrong_items_are_refused(shared: Running, body, status, field):
    """An item of another width, with numbers that are none, or out of range is 422 and is not stored."""
    problem(shared.http.put("/v1/items/70007", content=body), status, field)
    assert shared.http.get("/v1/items/70007").status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ("{}", 422),
        ('{"version": ""}', 422),
        ('{"version": 3}', 422),
        ('{"version": "v", "force": 1}', 422),
    ],
)
def test_wrong_promotions_are_refused(shared: Running, body, status):
    """A promotion names a version and nothing else."""
    problem(shared.http.post("/v1/models/qin/promote", content=body), status)


@pytest.fixture(scope="module")
def few_levels(tmp_path_factory, valkey):
    """A service whose model has likes levels 0 to 5 and views levels 0 to 7."""
    schema = Schema(
        num_items=200, num_tags=50, embedding_width=8, history_length=8, num_likes_levels=6, num_views_levels=8
    )
    trained = TrainedModel(make_network(schema), np.arange(200), Provenance(recipe="random"))
    folder = tmp_path_factory.mktemp("few")
    export_model(trained, make_items(), folder, "few")
    settings = make_settings(folder, f"unix://{valkey.unix_socket_path}", model="few")
    with running(settings) as started:
        yield started


def test_levels_that_the_model_lacks_are_refused_in_ranks(few_levels: Running):
    """A level above the model's highest is 422 and named; the highest itself is ranked."""
    rank = few_levels.client.rank
    assert len(rank(1, [1, 2], likes_level=[5, 0], views_level=[7, 7]).scores) == 2
    for levels in ({"likes_level": [5, 6]}, {"views_level": [0, 8]}):
        (name,) = levels
        problem(
            few_levels.http.post("/v1/rank", json={"user_id": 1, "candidates": [1, 2], **levels}), 422, f"{name}[1]"
        )
    with pytest.raises(ClientError, match="highest is 5") as caught:
        few_levels.client.rank_many([RankRequest(1, [1]), RankRequest(1, [1], likes_level=[9])])
    assert caught.value.field == "requests[1].likes_level[0]"


def test_levels_that_the_model_lacks_are_refused_in_items(few_levels: Running):
    """An item with such a level is 422, alone and as a line, and is not stored."""
    item = {"item_id": 70_008, "embedding": [0.5] * 8}
    problem(few_levels.http.put("/v1/items/70008", json=item | {"likes_level": 6}), 422, "likes_level")
    problem(few_levels.http.put("/v1/items/70008", json=item | {"views_level": 8}), 422, "views_level")
    result = few_levels.http.post("/v1/items", content=json.dumps(item | {"views_level": 8})).json()
    assert (result["written"], result["errors"][0]["field"]) == (0, "views_level")
    assert few_levels.http.get("/v1/items/70008").status_code == 404
    few_levels.client.put_item(70_008, Item([0.5] * 8, likes_level=5, views_level=7))
    few_levels.client.delete_item(70_008)
