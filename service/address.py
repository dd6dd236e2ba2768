"""Where Redis is: a URL of one server, of Sentinels or of a Cluster, taken apart and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from service.errors import SettingsError

Topology = Literal["standalone", "sentinel", "cluster"]

_SCHEMES: Mapping[str, tuple[Topology, bool]] = {
    "redis": ("standalone", False),
    "rediss": ("standalone", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_LOGIN = {"username", "password"}
_TLS_FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
_TLS = {*_TLS_FILES, "ssl_ca_path", "ssl_password", "ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers"}
_SENTINEL = {"sentinel_username", "sentinel_password"}
_YES_OR_NO = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL of Redis says.

    Attributes
    ----------
    hosts
        Name or number and port of each server that the URL names: the server itself, the Sentinels, or nodes of the
        Cluster; none for a Unix socket.
    path
        The Unix socket, or empty.
    service
        The name by which the Sentinels know the primary.
    tls
        Whether connections are encrypted.
    options
        What redis-py's connections are made with: user, password, database, certificates.
    sentinel_options
        The same for the Sentinels.
    """

    topology: Topology
    hosts: tuple[tuple[str, int], ...]
    path: str
    service: str
    tls: bool
    options: dict[str, Any]
    sentinel_options: dict[str, Any]


def parse(url: str) -> Address:
    """Take a URL apart.

    Raises
    ------
    SettingsError
        It is not one of Redis; the message never quotes it, for it may hold a password.
    """
    try:
        parts = urlsplit(url)
        if _has_stray_at(parts):
            raise _wrong("user name and password must be percent-encoded where they hold any of @ : / ? # [ ] %")
        return _unix(parts) if parts.scheme == "unix" else _tcp(parts)
    except ValueError:
        # Not with the error's own words: they quote the URL, and with it parts of the password.
        raise _wrong(
            "not a URL of Redis, such as redis://host:6379/0, unix:///path, redis+sentinel://host:26379,host/service "
            "or redis+cluster://host:6379,host; rediss for TLS"
        ) from None


def without_secrets(url: str) -> str:
    """Return the URL without user name, password and options, fit for logs.

    Of one with a stray `@`, whose password may reach anywhere, only the scheme is left.
    """
    parts = urlsplit(url)
    if _has_stray_at(parts):
        return f"{parts.scheme}://..."
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _has_stray_at(parts: SplitResult) -> bool:
    return "@" in parts.path + parts.query + parts.fragment or parts.netloc.count("@") > 1


def _wrong(reason: str) -> SettingsError:
    return SettingsError(f"setting redis_url: {reason}")


def _unix(parts: SplitResult) -> Address:
    if not parts.path:
        raise _wrong("unix:// needs the path of a socket, such as unix:///run/redis.sock")
    options = _login(parts) | _options(parts, _LOGIN | {"db"})
    return Address("standalone", (), unquote(parts.path), "", False, options, {})


def _tcp(parts: SplitResult) -> Address:
    if parts.scheme not in _SCHEMES:
        raise ValueError
    topology, tls = _SCHEMES[parts.scheme]
    hosts = tuple(_host(text, topology) for text in parts.netloc.rpartition("@")[2].split(","))
    known = _LOGIN | (_TLS if tls else set()) | (_SENTINEL if topology == "sentinel" else set())
    options = _login(parts) | _options(parts, known if topology == "cluster" else known | {"db"})
    service, database = "", parts.path.strip("/")
    if topology == "sentinel":
        service, _, database = database.partition("/")
        if not service:
            raise _wrong("a URL of Sentinels ends in the primary's name, as in redis+sentinel://host:26379/mymaster")
    elif len(hosts) > 1 and topology == "standalone":
        raise _wrong("several hosts need redis+sentinel:// or redis+cluster://")
    if topology == "cluster" and database:
        raise _wrong("a Cluster has no databases: nothing may follow the hosts")
    if database:
        options["db"] = _number(database)
    return Address(topology, hosts, "", unquote(service), tls, *_apart(options, tls))


def _host(text: str, topology: Topology) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname and topology != "standalone":
        raise ValueError
    return parts.hostname or "localhost", parts.port or (26379 if topology == "sentinel" else 6379)


def _login(parts: SplitResult) -> dict[str, Any]:
    given = {"username": parts.username, "password": parts.password}
    return {name: unquote(value) for name, value in given.items() if value}


def _options(parts: SplitResult, known: set[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            raise _wrong(f"an option after ? is not one of {', '.join(sorted(known))}")
        options[name] = _value(name, value)
    return options


def _value(name: str, value: str) -> Any:
    if name == "db":
        return _number(value)
    if name == "ssl_check_hostname":
        if value.lower() not in _YES_OR_NO:
            raise _wrong("ssl_check_hostname is yes or no")
        return _YES_OR_NO[value.lower()]
    if name == "ssl_cert_reqs" and value not in ("none", "optional", "required"):
        raise _wrong("ssl_cert_reqs is none, optional or required")
    return value


def _number(text: str) -> int:
    if not text.isdecimal():
        raise _wrong("the database must be a number")
    return int(text)


def _apart(options: dict[str, Any], tls: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of servers that hold data, and those of Sentinels: the same certificates, another login."""
    sentinel = {name.removeprefix("sentinel_"): options.pop(name) for name in _SENTINEL & options.keys()}
    return options, sentinel | ({name: value for name, value in options.items() if name in _TLS} if tls else {})
