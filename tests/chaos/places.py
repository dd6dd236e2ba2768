"""Where a service under chaos keeps its data: a Redis of each kind, looked at behind the service's back."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from contract.codec import bucket_of, history_key, items_key, unpack_history
from tests.service.servers import HOST, Cluster, Node, Replicated, cluster, primary_with_replica, standalone

DURABLE = ("appendonly yes", "appendfsync always")


@dataclass(frozen=True)
class Place:
    """A Redis and how to hurt it.

    Attributes
    ----------
    url
        For the service.
    node
        The server that is hurt: the only one, the primary, or one of a Cluster's masters.
    replicated
        The primary and its replica, where there is one.
    cluster
        All masters, where there are several.
    """

    url: str
    node: Node
    replicated: Replicated | None = None
    cluster: Cluster | None = None

    def items(self, item_ids: range) -> dict[int, bytes | None]:
        """Return what is stored of each item now."""
        with self._client() as client:
            return {item_id: client.hget(items_key(bucket_of(item_id)), str(item_id)) for item_id in item_ids}

    def history(self, user_id: int) -> list[int]:
        """Return a user's history as it is stored now."""
        with self._client() as client:
            return unpack_history(client.get(history_key(user_id)) or b"").tolist()

    def _client(self) -> Any:
        options: dict[str, Any] = {"protocol": 2, "socket_timeout": 30}
        if self.cluster is not None:
            return redis.RedisCluster(HOST, self.cluster.masters[0].port, **options)
        serving = self.node
        if self.replicated is not None and _role(self.replicated.replica) == "master":
            serving = self.replicated.replica
        return redis.Redis.from_url(serving.url, retry=Retry(NoBackoff(), 0), **options)


def _role(node: Node) -> str:
    return str(node.command("ROLE")[0].decode())


@contextlib.contextmanager
def durable(folder: Path) -> Iterator[Place]:
    """One server that has on disk whatever it has acknowledged."""
    with standalone(folder, *DURABLE) as node:
        yield Place(node.url, node)


@contextlib.contextmanager
def forgetful(folder: Path) -> Iterator[Place]:
    """One server that comes back empty."""
    with standalone(folder) as node:
        yield Place(node.url, node)


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[Place]:
    """A primary and a replica that three Sentinels promote when the primary is gone."""
    with primary_with_replica(folder, num_sentinels=3) as made:
        yield Place(made.url, made.primary, replicated=made)


@contextlib.contextmanager
def sharded(folder: Path) -> Iterator[Place]:
    """A Cluster of three masters that have on disk what they have acknowledged."""
    with cluster(folder) as made:
        yield Place(made.url, made.masters[1], cluster=made)
