"""What a replica or a worker is called among all that work for the same model."""

import os
import secrets
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime


def _new_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


@dataclass(frozen=True, slots=True)
class Identity:
    """Host, process, and what tells it from an earlier process of that number; and since when it is there."""

    name: str = field(default_factory=_new_name)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
