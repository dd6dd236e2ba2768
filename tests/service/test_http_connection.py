"""Connections as clients of all kinds make them, byte by byte."""

import socket
from urllib.parse import urlsplit

import pytest

from service.http_connection import MOST_HEAD_BYTES
from tests.service.running import Running

BODY = b'{"user_id": 1, "candidates": [1, 2, 3]}'
RANK = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(BODY)
JAVA = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA\r\n"
LAST = b"Connection: close\r\n"


def connect(service: Running) -> socket.socket:
    address = urlsplit(service.url)
    return socket.create_connection((address.hostname, address.port), timeout=30)


def said(service: Running, *parts: bytes) -> bytes:
    """All that the service says to these bytes until it closes the connection."""
    with connect(service) as connection:
        for part in parts:
            connection.sendall(part)
        answers = b""
        while piece := connection.recv(65536):
            answers += piece
    return answers


def test_an_offer_to_upgrade_is_passed_over(service: Running):
    """A request with a body that offers HTTP/2, as Java's client does, is answered; so is what follows it."""
    offering = RANK + JAVA + b"\r\n" + BODY
    plain = RANK + LAST + b"\r\n" + BODY
    for answers in (
        said(service, offering, plain),
        said(service, offering + offering + plain),
        said(service, *(offering[i : i + 7] for i in range(0, len(offering), 7)), plain),
    ):
        assert answers.count(b"HTTP/1.1 200 OK") == answers.count(b"HTTP/1.1") == answers.count(b'"scores"') > 1


def test_an_offer_on_the_last_request_of_a_connection_is_passed_over(service: Running):
    """Whoever says that it will close keeps its word to the service, and has its answer."""
    answers = said(service, RANK + b"Connection: close, Upgrade\r\nUpgrade: websocket\r\n\r\n" + BODY)
    assert answers.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in answers


def test_a_connection_through_the_service_is_refused(service: Running):
    """It is no proxy."""
    assert said(service, b"CONNECT /v1/rank HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "before",
    [
        b"POST /",
        b"POST /v1/rank HTTP/1.1\r\nX: ",
        b"POST /nowhere HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: ",
        b"POST /v1/rank HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: ",
    ],
)
def test_headers_without_end_are_not_kept(service: Running, before):
    """Of a request line, headers or trailers no more is taken than a bound; then the connection ends."""
    with connect(service) as connection:
        connection.sendall(before)
        with pytest.raises(ConnectionError):
            connection.sendall(b"a" * (1024 * MOST_HEAD_BYTES))  # more than any socket's buffers hold
    assert service.client.rank(1, [1]).scores


def test_headers_that_are_too_long_are_told_so(service: Running):
    """The answer is 431."""
    answers = said(service, b"GET /v1/models HTTP/1.1\r\nX: " + b"a" * (MOST_HEAD_BYTES - 20))
    assert answers.startswith(b"HTTP/1.1 431 ")


def test_long_headers_and_long_bodies_pass(service: Running):
    """What is within the limits is answered, however it is cut into pieces."""
    padding = b"X: " + b"a" * (MOST_HEAD_BYTES - 1000) + b"\r\n"
    body = BODY + b" " * (4 * MOST_HEAD_BYTES)
    head = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(body) + padding + LAST + b"\r\n"
    assert said(service, head[:30000], head[30000:], body[:100], body[100:]).startswith(b"HTTP/1.1 200 OK")
