"""What all processes of one service are born with, and what the supervisor hears of them."""

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from service.board import Board
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Family:
    """Made by the supervisor before the first fork.

    Attributes
    ----------
    url
        Of Redis, the embedded one included.
    listener
        Where all workers accept connections.
    for_owner, for_workers
        The two ends of where workers leave a line to themselves for the owner. The supervisor holds both open, so
        that lines wait there while the owner is replaced.
    board
        Numbers that all see.
    counters
        The folder in which all count.
    """

    settings: Settings
    url: str
    listener: socket.socket
    for_owner: socket.socket
    for_workers: socket.socket
    board: Board
    counters: Path


class Report:
    """How a process tells the supervisor, once, that it is ready, or why it cannot be.

    Parameters
    ----------
    descriptor
        The writing end of a pipe, closed with the process.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def ready(self, line: str) -> None:
        """Say that the process does its work, and what that is."""
        self._write({"ready": line})

    def failed(self, reason: str) -> None:
        """Say why the process ends."""
        self._write({"failed": reason})

    def _write(self, content: dict[str, str]) -> None:
        os.write(self._descriptor, json.dumps(content).encode() + b"\n")
