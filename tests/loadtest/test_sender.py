import asyncio
import json
import ssl
from pathlib import Path

import numpy as np
import pytest

from loadtest.errors import WrongCallError
from loadtest.messages import make_messages
from loadtest.samples import LOST, MALFORMED, NO_CONNECTION, TIMED_OUT
from loadtest.target import resolve
from tests.loadtest.jobs import sent
from tests.loadtest.servers import BODY, after, answer, scripted
from tests.service.certificates import make_certificates


def test_requests_are_what_the_service_reads() -> None:
    """Each has its user and its candidates, as JSON of the length that it says."""
    with scripted() as server:
        samples = sent(server.url, [0, 0.01, 0.02])
    bodies = [json.loads(body) for body in server.bodies]
    assert bodies == [
        {"user_id": 100, "candidates": [1, 2, 3]},
        {"user_id": 101, "candidates": [4, 5]},
        {"user_id": 102, "candidates": [1, 2, 3]},
    ]
    assert samples.status.tolist() == [200] * 3
    assert samples.user_id.tolist() == [100, 101, 102]
    assert samples.num_candidates.tolist() == [3, 2, 3]


def test_the_largest_user_id_fits() -> None:
    """The body is as long as it says for any id."""
    made = make_messages("host", {"Authorization": "Bearer secret"}, [np.array([7])])
    for user in (0, 2**63 - 1):
        head, _, body = made.message(0, user).partition(b"\r\n\r\n")
        assert json.loads(body) == {"user_id": user, "candidates": [7]}
        assert f"Content-Length: {len(body)}".encode() in head
        assert b"Authorization: Bearer secret" in head


def test_requests_are_never_sent_early() -> None:
    """Each is taken up at its moment or after it."""
    with scripted() as server:
        samples = sent(server.url, np.linspace(0.05, 0.5, 60).tolist())
    assert (samples.picked_s >= samples.intended_s).all()
    assert (samples.sent_s >= samples.picked_s).all()
    assert (samples.done_s > samples.sent_s).all()


def test_a_generator_that_is_late_says_so_and_its_lateness_counts() -> None:
    """Requests whose moment has passed when it starts are late by that, and as slow."""
    with scripted() as server:
        samples = sent(server.url, [0, 0, 0], late_s=0.4)
    assert (samples.picked_s - samples.intended_s >= 0.4).all()
    assert (samples.latency_ms >= 400).all()


def test_waiting_for_a_connection_counts_as_latency_and_not_as_lateness() -> None:
    """Of five requests at once over one connection, the last waits for the four before it."""
    with scripted(after(0.1)) as server:
        samples = sent(server.url, [0.0] * 5, num_connections=1)
    assert samples.latency_ms.max() >= 500
    assert (samples.sent_s - samples.picked_s).max() >= 0.4
    assert (samples.latency_ms > (samples.done_s - samples.sent_s) * 1e3 + 99).sum() == 4
    assert server.num_connections == 1


def test_requests_do_not_wait_for_those_before_them() -> None:
    """Twenty requests at once are all on their way before the first is answered."""
    with scripted(after(1.5)) as server:
        samples = sent(server.url, [0.0] * 20, num_connections=20)
    assert samples.sent_s.max() < samples.done_s.min()
    assert server.num_connections == 20


def test_a_time_out_is_a_failure_at_its_full_time() -> None:
    """Requests that are never answered, those that found no connection among them, wait for all of it."""
    with scripted(after(60)) as server:
        samples = sent(server.url, [0.0, 0.1, 0.2], num_connections=2, timeout_s=0.5)
    assert samples.status.tolist() == [TIMED_OUT] * 3
    assert (samples.latency_ms >= 500).all()
    assert samples.timed.all()
    assert samples.failed.all()


def test_after_a_time_out_others_are_answered() -> None:
    """The connection of a request that timed out is not used again, and its place is."""

    async def first_never(number: int, writer: asyncio.StreamWriter) -> None:
        if number:
            writer.write(answer())
        else:
            await asyncio.sleep(60)

    with scripted(first_never) as server:
        samples = sent(server.url, [0.0, 2.5], num_connections=1, timeout_s=2)
    assert samples.status.tolist() == [TIMED_OUT, 200]


def test_nobody_listening_is_a_failure_of_every_request() -> None:
    """Each request fails at once, by the name of what happened."""
    with scripted() as server:
        pass
    samples = sent(server.url, [0.0, 0.01])
    assert samples.status.tolist() == [NO_CONNECTION] * 2
    assert not samples.timed.any()


def test_a_request_on_a_connection_that_is_being_closed_is_sent_again() -> None:
    """As other clients do, once, and the answer counts from the moment the request was due."""

    async def first_closes(number: int, writer: asyncio.StreamWriter) -> None:
        if number:
            writer.write(answer())
        else:
            writer.close()

    with scripted(first_closes) as server:
        samples = sent(server.url, [0.0])
    assert samples.status.tolist() == [200]
    assert samples.resent.tolist() == [True]
    assert len(server.bodies) == 2


def test_a_service_that_closes_again_and_again_fails_the_request() -> None:
    """After the second time the connection counts as lost."""

    async def close(_number: int, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with scripted(close) as server:
        samples = sent(server.url, [0.0])
    assert samples.status.tolist() == [LOST]
    assert len(server.bodies) == 2


def test_half_an_answer_is_a_lost_connection() -> None:
    """What was partly answered is not sent again."""

    async def half(_number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer()[:-5])
        await writer.drain()
        writer.close()

    with scripted(half) as server:
        samples = sent(server.url, [0.0])
    assert samples.status.tolist() == [LOST]
    assert len(server.bodies) == 1


def test_what_is_not_http_is_a_failure() -> None:
    """The connection is given up."""

    async def nonsense(_number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    with scripted(nonsense) as server:
        assert sent(server.url, [0.0]).status.tolist() == [MALFORMED]


def test_an_answer_that_comes_in_pieces_is_one() -> None:
    """Head and body may be split anywhere, the words that are looked for as well."""

    async def in_pieces(_number: int, writer: asyncio.StreamWriter) -> None:
        whole = answer()
        for start in range(0, len(whole), 3):
            writer.write(whole[start : start + 3])
            await writer.drain()
            await asyncio.sleep(0.001)

    with scripted(in_pieces) as server:
        samples = sent(server.url, [0.0, 0.2])
    assert samples.status.tolist() == [200, 200]
    assert not samples.degraded.any()


def test_a_connection_that_the_service_ends_after_an_answer_is_not_used_again() -> None:
    """`Connection: close` is heeded, and nothing fails for it."""

    async def last(_number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(headers="Connection: close\r\n"))

    with scripted(last) as server:
        samples = sent(server.url, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], num_connections=1)
    assert samples.status.tolist() == [200] * 6
    assert not samples.resent.any()
    assert server.num_connections == 6


def test_degraded_answers_are_counted() -> None:
    """An answer that lists what it lacks is told from one that lacks nothing, and from a refusal."""
    answers = (answer(), answer(b'{"scores":[0.5],"degraded":["history"]}'), answer(b"{}", "503 Service Unavailable"))

    async def in_turn(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answers[number])

    with scripted(in_turn) as server:
        samples = sent(server.url, [0.0, 0.3, 0.6])
    assert samples.status.tolist() == [200, 200, 503]
    assert samples.degraded.tolist() == [False, True, False]


def test_a_closed_loop_asks_again_as_soon_as_it_is_answered() -> None:
    """As many requests are on their way as there are connections, never more, until the time is up."""
    with scripted(after(0.05)) as server:
        samples = sent(server.url, None, num_connections=3, closed_s=3)
    assert server.num_connections == 3
    assert 6 <= len(samples) <= 183
    starts, ends = np.sort(samples.sent_s), np.sort(samples.done_s)
    assert all((starts <= moment).sum() - (ends <= moment).sum() <= 3 for moment in starts)


def test_tls_is_spoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests reach an `https` service whose certificate is trusted, and none whose is not."""
    certificates = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{certificates.server}.crt", f"{certificates.server}.key")

    async def large(_number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b" " * 200_000 + BODY))

    with scripted(large, context) as server:
        url = f"https://127.0.0.1:{server.port}"
        assert sent(url, [0.0]).status.tolist() == [NO_CONNECTION]
        monkeypatch.setenv("SSL_CERT_FILE", f"{certificates.authority}.crt")
        samples = sent(url, [0.0, 0.1, 0.2])
    assert samples.status.tolist() == [200] * 3
    assert not samples.degraded.any()


@pytest.mark.parametrize("url", ["ftp://host", "localhost:8000", "http://", "http://host/v1", "http://host:port"])
def test_a_url_that_leads_to_no_service_is_a_wrong_call(url: str) -> None:
    """The error has the URL."""
    with pytest.raises(WrongCallError):
        resolve(url)
