"""Where the service listens."""

import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from loadtest.errors import LoadTestError, WrongCallError


@dataclass(frozen=True, slots=True)
class Target:
    """A resolved address: names are looked up once, before the run.

    Attributes
    ----------
    host
        As the URL has it, for the Host header and certificates.
    family, address
        For `socket`.
    """

    host: str
    name: str
    tls: bool
    family: int
    address: tuple[str, int]

    def context(self) -> ssl.SSLContext | None:
        """Return what TLS needs; None for plain HTTP."""
        return ssl.create_default_context() if self.tls else None


def resolve(url: str) -> Target:
    """Look up where a URL leads.

    Raises
    ------
    WrongCallError
        It is no `http://` or `https://` URL, or has a path.
    LoadTestError
        Its host is not known.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise WrongCallError(f"{url}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.username:
        raise WrongCallError(f"{url!r} is not a URL such as http://127.0.0.1:8000")
    tls = parts.scheme == "https"
    try:
        found = socket.getaddrinfo(parts.hostname, port or (443 if tls else 80), type=socket.SOCK_STREAM)
    except OSError as error:
        raise LoadTestError(f"{parts.hostname} cannot be looked up: {error}") from error
    family, _, _, _, address = found[0]
    return Target(parts.netloc, parts.hostname, tls, family, (str(address[0]), int(address[1])))
