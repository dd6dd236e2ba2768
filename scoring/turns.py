"""A lock for threads of which one asks for it again and again."""

import threading
from collections import deque


class Turns:
    """A lock that threads get in the order in which they asked for it.

    Whoever gives a `threading.Lock` back and asks at once has it again before a thread that waits has woken. This one
    is handed to the thread that waits longest.
    """

    def __init__(self) -> None:
        self._inner = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._inner:
            if not self._is_taken:
                self._is_taken = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        turn.acquire()

    def __exit__(self, *_: object) -> None:
        with self._inner:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False
