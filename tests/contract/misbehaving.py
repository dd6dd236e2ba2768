"""A server of plain sockets that does to each request what its script says."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0

    def to_bytes(self) -> bytes:
        """Return it as it goes over the wire."""
        headers = {"Content-Length": str(len(self.body)), **self.headers}
        lines = [f"HTTP/1.1 {self.status} X", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


CLOSE = object()
"""Close the connection without an answer."""
HANG = object()
"""Say nothing, for as long as the server lives."""


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    connection: int
    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Misbehaving:
    """Takes the script's next step for each request; past its end the last step, for ever."""

    def __init__(self, *script: object) -> None:
        self.script = list(script)
        self.received: list[Received] = []
        self.num_connections = self.most_at_once = self._at_once = 0
        self._lock, self._over = threading.Lock(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "Misbehaving":
        self._threads[0].start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        # A shut listener lets its accept return.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(30)

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.num_connections += 1
            thread = threading.Thread(target=self._serve, args=(connection, self.num_connections))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        connection.settimeout(0.05)  # so that the end of the server is noticed
        with connection, contextlib.suppress(OSError):
            for request in self._requests(connection, number):
                step = self._note(request)
                if step is HANG:
                    self._over.wait()
                if not isinstance(step, Answer):
                    return
                self._over.wait(step.delay_s)
                with self._lock:
                    self._at_once -= 1
                connection.sendall(step.to_bytes())

    def _note(self, request: Received) -> object:
        with self._lock:
            self.received.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    def _requests(self, connection: socket.socket, number: int) -> Iterator[Received]:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                if not (piece := self._receive(connection)):
                    return
                data += piece
            head, _, data = data.partition(b"\r\n\r\n")
            line, *rest = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (row.partition(": ") for row in rest)}
            length = int(headers.get("content-length", 0))
            while len(data) < length:
                data += self._receive(connection)
            yield Received(number, line, headers, data[:length])
            data = data[length:]

    def _receive(self, connection: socket.socket) -> bytes:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                return connection.recv(65536)
        return b""
