"""A Redis Cluster: each command goes to the node that holds its key, those of a pipeline to all nodes at once.

Not redis-py's own client of a Cluster: when a slot is half moved it says ASKING on one connection and the command on
another, and gives up; it reads the whole list of commands from a node whenever a connection breaks; its pipelines do
not look for a new primary; and it raises errors that are none of Redis. Nodes and pipelines are redis-py's.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio.client import CommandStackT
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

from service.address import Address
from service.timed import (
    REDIS_ERRORS,
    Pool,
    TimedPipeline,
    TimedRedis,
    connection_class,
    connection_options,
    first_of,
)

_MOST_TRIES = 8
_TRY_AGAIN_S = 0.02
_LOOK_AGAIN_S = 0.25
_KEY_AT = {"EVAL": 3, "EVALSHA": 3}

_log = structlog.get_logger(__name__)


class Node(TimedRedis):
    """The client of one node."""

    host: str
    name: str


@dataclass(slots=True)
class _Command:
    """A command on its way, and what was answered last."""

    args: tuple[Any, ...]
    options: Mapping[str, Any]
    slot: int
    answer: Any = None


class ClusterRedis(TimedRedis):
    """A client of a Cluster.

    A command that a node answers with MOVED, ASK or TRYAGAIN was not run there: it goes on to where it belongs,
    and still happens once. After any other error nothing is repeated, but the Cluster is asked who holds what now.
    """

    def __init__(self, address: Address, timeout_s: float, num_connections: int) -> None:
        self.timeout_s, self._address, self._num_connections = timeout_s, address, num_connections
        self._nodes: dict[str, Node] = {}
        seeds = [self._node(host, port) for host, port in address.hosts]
        super().__init__(connection_pool=seeds[0].connection_pool)
        self._owners: list[Node | None] = [None] * 16384
        self._looking: asyncio.Task[None] | None = None
        self._look_again_at = 0.0
        self._closed = False

    def place_of(self, key: str) -> str:
        """Return the name of the node that holds a key, empty while it is not known."""
        owner = self._owners[key_slot(key.encode())]
        return owner.name if owner else ""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command."""
        command = _Command(args, options, _slot_of(args))
        async with asyncio.timeout(self.timeout_s):
            try:
                owner = self._owners[command.slot] or await self._find(command.slot)
                return await owner.execute_command(*args, **options)
            except (AskError, TryAgainError) as error:
                command.answer = error
            except (ClusterDownError, RedisConnectionError, OSError, asyncio.CancelledError):
                self._look_again()
                raise
            await self._follow([command])
        if isinstance(command.answer, Exception):
            raise command.answer
        return command.answer

    def pipeline(self, transaction: bool = False, shard_hint: str | None = None) -> "ClusterPipeline":
        """Return a pipeline over all nodes; never a transaction."""
        assert not transaction
        pipeline = ClusterPipeline(self.connection_pool, self.response_callbacks, False, shard_hint)
        pipeline.timeout_s, pipeline.over_nodes_of = self.timeout_s, self
        return pipeline

    async def run(self, commands: CommandStackT) -> list[Any]:
        """Run commands, those of each node in one round trip and all nodes at once; errors are among the answers."""
        waiting = [_Command(args, options, _slot_of(args)) for args, options in commands]
        try:
            await self._send(waiting)
            await self._follow([command for command in waiting if _is_redirected(command)])
        except asyncio.CancelledError:
            self._look_again()
            raise
        return [command.answer for command in waiting]

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: ARG002
        """Close the connections to all nodes."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await asyncio.gather(*(node.aclose() for node in self._nodes.values()))

    async def _follow(self, commands: list[_Command]) -> None:
        """Send redirected commands on until they are run."""
        for number in range(_MOST_TRIES):
            if not commands:
                return
            if any(isinstance(command.answer, TryAgainError) for command in commands):
                # Of its keys some are moved and some are not; that lasts as long as the move of the slot.
                await asyncio.sleep(_TRY_AGAIN_S * 2**number)
            await self._send(commands)
            commands = [command for command in commands if _is_redirected(command)]

    async def _send(self, commands: Sequence[_Command]) -> None:
        groups: defaultdict[Node, list[_Command]] = defaultdict(list)
        for command in commands:
            groups[await self._next(command)].append(command)
        if len(groups) == 1:
            await self._send_to(*groups.popitem())
        else:
            await asyncio.gather(*(self._send_to(node, group) for node, group in groups.items()))

    async def _next(self, command: _Command) -> Node:
        """Return the node that a command goes to next."""
        answer = command.answer
        if not isinstance(answer, AskError):
            return self._owners[command.slot] or await self._find(command.slot)
        node = self._node(answer.host, answer.port)
        if isinstance(answer, MovedError):
            self._owners[command.slot] = node
            self._look_again()
        return node

    async def _send_to(self, node: Node, commands: Sequence[_Command]) -> None:
        pipeline = node.pipeline()
        for command in commands:
            if _is_asking(command):
                pipeline.execute_command("ASKING")
            pipeline.execute_command(*command.args, **command.options)
        try:
            answers = iter(await pipeline.execute(raise_on_error=False))
        except REDIS_ERRORS as error:
            self._look_again()
            for command in commands:
                command.answer = error
            return
        for command in commands:
            if _is_asking(command):
                next(answers)
            command.answer = _with_host(next(answers), node)
        if any(isinstance(command.answer, ClusterDownError) for command in commands):
            self._look_again()

    def _node(self, host: str, port: int) -> Node:
        name = f"{host}:{port}"
        if name not in self._nodes:
            options = connection_options(self.timeout_s, self._num_connections) | self._address.options
            pool = Pool(connection_class=connection_class(self._address.tls), host=host, port=port, **options)
            node = Node.over(pool, self.timeout_s)
            assert isinstance(node, Node)
            node.host, node.name = host, name
            self._nodes[name] = node
        return self._nodes[name]

    async def _find(self, slot: int) -> Node:
        """Ask the Cluster who holds a slot that nobody is known to hold."""
        if self._looking is None or self._looking.done():
            self._look()
        assert self._looking is not None
        await asyncio.shield(self._looking)
        owner = self._owners[slot]
        if owner is None:
            raise ClusterDownError(f"no node of the Cluster holds slot {slot}")
        return owner

    def _look_again(self) -> None:
        """Find out in the background who holds what, now and then."""
        now = asyncio.get_running_loop().time()
        if not self._closed and now >= self._look_again_at and (self._looking is None or self._looking.done()):
            self._look_again_at = now + _LOOK_AGAIN_S
            self._look()

    def _look(self) -> None:
        self._looking = asyncio.create_task(self._read_owners())
        self._looking.add_done_callback(lambda looking: looking.cancelled() or looking.exception())

    async def _read_owners(self) -> None:
        async def ask(node: Node) -> tuple[Node, Any]:
            return node, await node.execute_command("CLUSTER", "SLOTS")

        found = await first_of([ask(node) for node in self._nodes.values()])
        assert found is not None
        asked, ranges = found
        owners: list[Node | None] = [None] * len(self._owners)
        for first, last, (host, port, *_), *_ in ranges:
            owners[first : last + 1] = [self._node(_decoded(host) or asked.host, port)] * (last + 1 - first)
        if owners != self._owners:
            _log.info("slots of the Cluster read", nodes=sorted({node.name for node in owners if node}))
        self._owners = owners


class ClusterPipeline(TimedPipeline):
    """Commands that travel together to each node, and end within a time."""

    over_nodes_of: ClusterRedis

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run the commands."""
        commands, self.command_stack = self.command_stack, []
        async with asyncio.timeout(self.timeout_s):
            answers = await self.over_nodes_of.run(commands)
        failed = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if failed is not None and raise_on_error:
            raise failed
        return answers


def _slot_of(args: tuple[Any, ...]) -> int:
    """Return the slot of a command's first key."""
    at = args.index(b"STREAMS") + 1 if args[0] == "XREAD" else _KEY_AT.get(args[0], 1)
    key = args[at] if at < len(args) else b""
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


def _is_redirected(command: _Command) -> bool:
    return isinstance(command.answer, (AskError, TryAgainError))


def _is_asking(command: _Command) -> bool:
    return isinstance(command.answer, AskError) and not isinstance(command.answer, MovedError)


def _with_host(answer: Any, node: Node) -> Any:
    """Return an answer; a redirection that names no host means the one that gave it."""
    if isinstance(answer, AskError) and not answer.host:
        answer.host = node.host
    return answer


def _decoded(host: bytes | None) -> str:
    return host.decode() if host else ""
