"""Who may write and who may read.

Whoever holds the admin key writes; without a key, whoever is on this machine. Everybody reads, or whoever holds one
of the keys where a read key is set.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import Request

from service.errors import ForbiddenError, UnauthorizedError
from service.settings import Settings, read_admin_key, read_read_key


@dataclass(frozen=True, slots=True)
class AccessGate:
    """Guards the routes.

    Parameters
    ----------
    key
        The admin key, None where none is set.
    on_loopback
        Whether only this machine can reach the service; then no key is needed where none is set.
    read_key
        The key for ranking and reading, None where everybody may.
    """

    key: bytes | None = field(repr=False)
    on_loopback: bool
    read_key: bytes | None = field(default=None, repr=False)

    @classmethod
    def of(cls, settings: Settings) -> "AccessGate":
        """Return the gate that the settings ask for; raises SettingsError."""
        return cls(read_admin_key(settings), settings.on_loopback, read_read_key(settings))

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise UnauthorizedError or ForbiddenError unless a request's headers (in lower case) allow writing."""
        if self.key is None:
            self._check_keyless(headers)
            return
        if not hmac.compare_digest(_sent(headers, "admin key"), self.key):
            raise ForbiddenError("the admin key is wrong")

    def check_read(self, headers: Mapping[str, str]) -> None:
        """Raise UnauthorizedError or ForbiddenError unless a request's headers allow ranking and reading."""
        if self.read_key is None:
            return
        sent = _sent(headers, "read key")
        # Both are compared in any case, so that the time tells nothing.
        reads = hmac.compare_digest(sent, self.read_key)
        writes = self.key is not None and hmac.compare_digest(sent, self.key)
        if not (reads or writes):
            raise ForbiddenError("the read key is wrong")

    def _check_keyless(self, headers: Mapping[str, str]) -> None:
        if not self.on_loopback:
            raise ForbiddenError("writing needs an admin key and none is set (QIN_ADMIN_KEY)")
        # A browser on this machine sends what any page tells it to, and names the page's origin.
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
            raise ForbiddenError("writing from a page of another origin needs an admin key (QIN_ADMIN_KEY)")


def _sent(headers: Mapping[str, str], name: str) -> bytes:
    scheme, _, sent = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not sent:
        raise UnauthorizedError(f"send the {name}: Authorization: Bearer <key>")
    # No other blanks: two that Latin-1 knows are bytes that end letters in UTF-8.
    return sent.strip(" \t").encode("latin-1")


async def require_admin(request: Request) -> None:
    """Let a request pass only if it may write; a dependency of routes."""
    gate: AccessGate = request.app.state.replica.gate
    gate.check(request.headers)


async def require_read(request: Request) -> None:
    """Let a request pass only if it may read; a dependency of routes."""
    gate: AccessGate = request.app.state.replica.gate
    gate.check_read(request.headers)
