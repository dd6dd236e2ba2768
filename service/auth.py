"""Who may write: whoever holds the admin key; without a key, whoever is on this machine."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import Request

from service.errors import ForbiddenError, UnauthorizedError


@dataclass(frozen=True, slots=True)
class AdminGate:
    """Guards the routes that write.

    Parameters
    ----------
    key
        The admin key, None where none is set.
    on_loopback
        Whether only this machine can reach the service; then no key is needed where none is set.
    """

    key: bytes | None = field(repr=False)
    on_loopback: bool

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise UnauthorizedError or ForbiddenError unless a request's headers (in lower case) allow writing."""
        if self.key is None:
            self._check_keyless(headers)
            return
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not sent:
            raise UnauthorizedError("send the admin key: Authorization: Bearer <key>")
        if not hmac.compare_digest(sent.strip().encode("latin-1"), self.key):
            raise ForbiddenError("the admin key is wrong")

    def _check_keyless(self, headers: Mapping[str, str]) -> None:
        if not self.on_loopback:
            raise ForbiddenError("writing needs an admin key and none is set (QIN_ADMIN_KEY)")
        # A browser on this machine sends what any page tells it to, and names the page's origin.
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
            raise ForbiddenError("writing from a page of another origin needs an admin key (QIN_ADMIN_KEY)")


async def require_admin(request: Request) -> None:
    """Let a request pass only if it may write; a dependency of routes."""
    gate: AdminGate = request.app.state.replica.gate
    gate.check(request.headers)
