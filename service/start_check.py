"""What Redis must be and allow, found out at start rather than by the first request that needs it."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, ReadOnlyError, ResponseError

from service.address import without_secrets
from service.cluster import ClusterRedis
from service.errors import RedisAbsentError
from service.timed import REDIS_ERRORS, TimedRedis

_OLDEST = (6, 2)
_LOADING_S = 300.0
_LOOK_S = 0.5
_PASSING = ("OOM", "MISCONF", "NOREPLICAS")
"""Why writes may be refused for a while."""

_TRIED: Mapping[str, Sequence[object]] = {
    "get": (),
    "set": ("", "XX"),
    "xrevrange": ("+", "-", "COUNT", 1),
    "xadd": ("NOMKSTREAM", "*", "field", ""),
    "xread": (b"STREAMS", "KEY", "0"),
    "eval": ("return 0", 1, "KEY"),
    "hset": ("field", ""),
    "hsetnx": ("field", ""),
    "hget": ("field",),
    "hmget": ("field",),
    "hlen": (),
    "hrandfield": (),
    "hscan": (0,),
    "hdel": ("other",),
    "del": (),
}
"""Every command that the service sends, or its scripts, with arguments that leave nothing behind, in this order."""

ACL_RULE = "~qin:* resetchannels -@all " + " ".join(f"+{name}" for name in _TRIED)
"""What a user of Redis must be allowed, and no more; in a Cluster `ACL_RULE_CLUSTER` too."""

ACL_RULE_CLUSTER = "+cluster|slots +asking"

ACL_RULE_EVICTION = "+config|get"
"""Allowed, this lets the service warn of a policy of eviction."""

_log = structlog.get_logger(__name__)


async def check(redis: TimedRedis, url: str, loading_s: float = _LOADING_S) -> None:
    """Make sure that Redis can be worked with; waits while it is loading its data.

    Parameters
    ----------
    redis, url
        The client, and the URL that it was made of.
    loading_s
        How long it may be loading.

    Raises
    ------
    RedisAbsentError
        It does not answer, is too old or a replica, does not know the user, or does not allow everything that
        the service does; the message says which.
    """
    try:
        await _check_server(redis)
        await _check_commands(redis, url, loading_s)
        await _check_eviction(redis, url)
    except AuthenticationError as error:
        # What Redis says where a password is lacking is about the command that asked, which is ours to choose.
        reason = "it wants a user and a password" if "HELLO" in str(error) else error
        raise _absent(url, f"does not let this user in: {reason}") from error
    except NoPermissionError as error:
        raise _absent(url, f"does not allow what is needed: {error}; that is: {_rule(redis)}") from error
    except ResponseError as error:
        raise _absent(url, f"cannot be used: {error}") from error
    except REDIS_ERRORS as error:
        raise _absent(url, f"does not answer: {error or type(error).__name__}") from error
    except RedisAbsentError as error:
        raise _absent(url, str(error)) from error.__cause__


def _absent(url: str, reason: str) -> RedisAbsentError:
    return RedisAbsentError(f"Redis at {without_secrets(url)} {reason}")


async def _check_server(redis: TimedRedis) -> None:
    try:
        answer = await redis.execute_command("HELLO", 2)
    except ResponseError as error:
        if "unknown command" in str(error).lower():
            raise RedisAbsentError("is older than 6.2") from error
        raise
    said = {str(key): value for key, value in _pairs(answer)}
    version = tuple(int(part) for part in said["version"].split(".")[:2])
    if said["server"] == "redis" and version < _OLDEST:
        raise RedisAbsentError(f"is of version {said['version']}, older than 6.2")
    if said["mode"] == "sentinel":
        raise RedisAbsentError("is a Sentinel: name it as redis+sentinel://host:port/name-of-the-primary")
    if (said["mode"] == "cluster") != isinstance(redis, ClusterRedis):
        raise RedisAbsentError(
            f"runs in mode {said['mode']}: redis+cluster:// is for a Cluster, and for nothing else"
        )
    if said["role"] != "master":
        raise RedisAbsentError("is a replica, which takes no writes")


def _pairs(answer: Any) -> list[tuple[str, str]]:
    parts = [part.decode() if isinstance(part, bytes) else str(part) for part in answer]
    return list(zip(parts[::2], parts[1::2], strict=True))


async def _check_commands(redis: TimedRedis, url: str, loading_s: float) -> None:
    """Try every command on a key of its own, so that the answers say which of them are not allowed."""
    refused = [
        (name, answer)
        for name, answer in zip(_names(redis), await _tried(redis, url, loading_s), strict=True)
        if isinstance(answer, ResponseError)
    ]
    not_allowed = [name for name, error in refused if isinstance(error, NoPermissionError)]
    if not_allowed:
        raise RedisAbsentError(
            f"does not allow this user {', '.join(not_allowed)} on qin:*; needed is: {_rule(redis)}"
        )
    for name, error in refused:
        if isinstance(error, ReadOnlyError):
            raise RedisAbsentError("is a replica, which takes no writes") from error
        if not str(error).startswith(_PASSING) and type(error) is ResponseError:
            raise RedisAbsentError(f"does not run {name}: {error}") from error
        _log.warning("Redis refuses writes at the moment", redis=without_secrets(url), reason=str(error))
        return


async def _tried(redis: TimedRedis, url: str, loading_s: float) -> list[Any]:
    key = f"qin:{{check}}:{secrets.token_hex(8)}"
    stop = asyncio.get_running_loop().time() + loading_s
    said = False
    while True:
        pipeline = redis.pipeline()
        for name, arguments in _TRIED.items():
            first = () if "KEY" in arguments else (key,)
            given = [key if argument == "KEY" else argument for argument in arguments]
            pipeline.execute_command(name.upper(), *first, *given)
        for name in _names(redis)[len(_TRIED) :]:
            pipeline.execute_command(name.upper())
        try:
            return await pipeline.execute(raise_on_error=False)
        except BusyLoadingError:
            if asyncio.get_running_loop().time() > stop:
                raise RedisAbsentError(f"has been loading its data for {loading_s:g} s") from None
            if not said:
                _log.info("Redis is loading its data, waiting", redis=without_secrets(url))
            said = True
        await asyncio.sleep(_LOOK_S)


def _names(redis: TimedRedis) -> list[str]:
    """Return the commands that are tried: in a Cluster also that by which a half moved slot is entered."""
    return [*_TRIED, "asking"] if isinstance(redis, ClusterRedis) else list(_TRIED)


def _rule(redis: TimedRedis) -> str:
    return f"{ACL_RULE} {ACL_RULE_CLUSTER}" if isinstance(redis, ClusterRedis) else ACL_RULE


async def _check_eviction(redis: TimedRedis, url: str) -> None:
    """Warn of a policy that would drop items and histories; who may not ask is not told."""
    try:
        answer = await redis.execute_command("CONFIG", "GET", "maxmemory-policy")
    except ResponseError:
        return
    policy = dict(_pairs(answer)).get("maxmemory-policy", "noeviction") if isinstance(answer, list) else ""
    if not policy.startswith(("noeviction", "volatile")):
        _log.warning(
            "Redis may evict items and histories when its memory is full: set maxmemory-policy noeviction",
            redis=without_secrets(url),
            policy=policy,
        )
