import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from uvicorn import Config

from contract.client import ONCE, Client, ClientError
from contract.course import POOL


def test_an_idle_connection_is_closed_before_the_service_closes_it():
    """The pool gives a connection up sooner than uvicorn does, so that no request meets its end."""
    assert POOL.idle_s < Config("any").timeout_keep_alive


@pytest.fixture
def stranger():
    """A server that is not ours: it answers whatever it is told to."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path == "/v1/models") * 200 or 502)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_arguments: object) -> None:
            """Keep quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_service_that_does_not_answer_is_told_by_its_url():
    """The error names the URL, and has no status."""
    with (
        Client("http://127.0.0.1:1") as client,
        pytest.raises(ClientError, match=r"127\.0\.0\.1:1 does not") as caught,
    ):
        client.models()
    assert caught.value.status is None


@pytest.mark.parametrize("url", ["nonsense", "", "localhost:8000", "ftp://localhost", "http://", "http://h:port"])
def test_a_url_that_is_none_is_told(url):
    """What is no URL is an error of the client, not a traceback."""
    with pytest.raises(ClientError, match=f"'{url}' is not a service's URL"):
        Client(url)


def test_answers_of_other_services_are_told(stranger):
    """Neither an error page nor a page of another kind is taken for an answer."""
    with Client(stranger, retry=ONCE) as client:
        with pytest.raises(ClientError, match="not one of this service"):
            client.models()
        with pytest.raises(ClientError, match="502") as caught:
            client.item(3)
    assert caught.value.status == 502
