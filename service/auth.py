"""Who may write: whoever holds the admin key; without a key, whoever is on this machine."""

import hmac
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

    def check(self, authorization: str | None) -> None:
        """Raise UnauthorizedError or ForbiddenError unless the header's value allows writing."""
        if self.key is None:
            if not self.on_loopback:
                raise ForbiddenError("writing needs an admin key and none is set (QIN_ADMIN_KEY)")
            return
        scheme, _, sent = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not sent:
            raise UnauthorizedError("send the admin key: Authorization: Bearer <key>")
        if not hmac.compare_digest(sent.strip().encode("latin-1"), self.key):
            raise ForbiddenError("the admin key is wrong")


async def require_admin(request: Request) -> None:
    """Let a request pass only if it may write; a dependency of routes."""
    gate: AdminGate = request.app.state.replica.gate
    gate.check(request.headers.get("authorization"))
