"""Where a store is: a folder's path or a URL, and what of a URL may be said aloud."""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from contract.bundle_errors import StoreError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_SECRET = re.compile(r"pass|pwd|secret|token|key|cred|account|sas|user|login|auth", re.IGNORECASE)
_SHORTEST_SECRET = 4
"""What is shorter occurs in innocent words too."""


def is_url(location: str) -> bool:
    """Whether this is a URL rather than a folder's path."""
    return _URL.match(location) is not None


def check_url(url: str) -> str:
    """Return a URL below which models can lie, without the slash at its end.

    Raises
    ------
    StoreError
        It is not one; the message never quotes it, for it may hold a password.
    """
    if "?" in url or "#" in url:
        raise StoreError(
            "the store's URL has a part after ? or #: options of a file system go into fsspec's configuration, "
            "such as the environment variable FSSPEC_S3"
        )
    for part in url.split("::"):
        try:
            netloc, path = urlsplit(part)[1:3]
        except ValueError:
            raise StoreError("the store is not a URL such as s3://bucket/models") from None
        if set(path) & set("*["):
            raise StoreError("in the store's URL, a path cannot hold * or [")
        if "@" in path or netloc.count("@") > 1:
            raise StoreError("in the store's URL, user and password must be percent-encoded where they hold @ : or /")
    return url.rstrip("/") if not url.endswith("://") else url


def without_secrets(url: str) -> str:
    """Return a URL without user and password, fit for logs."""
    return "::".join(_plain(part) for part in url.split("::"))


def _plain(part: str) -> str:
    scheme, separator, rest = part.partition("://")
    netloc, slash, path = rest.partition("/")
    return f"{scheme}{separator}{netloc.rpartition('@')[2]}{slash}{path}"


def secrets_of(url: str, options: Mapping[str, Any]) -> set[str]:
    """Return what must not be said aloud: user and password of a URL, and of a file system's options."""
    found = set(_strings(value for name, value in options.items() if _SECRET.search(name)))
    for name, value in options.items():
        if isinstance(value, Mapping) and not _SECRET.search(name):
            found |= secrets_of("", value)
    for part in url.split("::"):
        login, separator, _ = part.partition("://")[2].partition("/")[0].rpartition("@")
        if separator:
            user, _, password = login.partition(":")
            found |= {login, user, password, unquote(user), unquote(password)}
    return {secret for secret in found if len(secret) >= _SHORTEST_SECRET}


def _strings(values: Iterable[Any]) -> Iterable[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from _strings(value.values())


def scrubbed(text: str, secrets: Iterable[str]) -> str:
    """Return a text on one line with every secret replaced, and not too long."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return " ".join(text.split())[:500]
