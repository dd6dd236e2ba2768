"""Names of models and versions: safe as the name of a folder, in whatever store."""

import re
from datetime import UTC, datetime

from contract.bundle_errors import BundleError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_name(name: str) -> bool:
    """Whether a model or version may be called so: a name that is safe as a folder's name."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str, what: str = "name") -> str:
    """Return a model or version name that is safe as a folder's name; raises BundleError otherwise."""
    if not is_name(name):
        raise BundleError(f"{what} {name!r} is not valid: 1 to 128 of A-Z a-z 0-9 . _ -, a letter or digit first")
    return name


def new_version(now: datetime, digest: str) -> str:
    """Return a version that sorts by time: UTC to the millisecond and the start of a content hash."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}Z-{digest[:8]}"
