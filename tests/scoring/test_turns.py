"""A lock that is handed on in the order in which it was asked for."""

import threading
import time

import pytest

from scoring.turns import Turns


def test_whoever_asks_again_at_once_comes_after_those_who_wait():
    """However long these take to wake."""
    turns, order, threads = Turns(), [], []

    def take(name: str) -> None:
        with turns:
            order.append(name)

    with turns:
        for name in ("first", "second"):
            threads.append(threading.Thread(target=take, args=(name,)))
            threads[-1].start()
            while len(turns._waiting) < len(threads):
                time.sleep(0.001)
    take("again")
    for thread in threads:
        thread.join()
    assert order == ["first", "second", "again"]


def test_one_thread_has_it_at_a_time_and_gives_it_back_with_its_error_too():
    """As any lock."""
    turns, inside, most = Turns(), [], []

    def work() -> None:
        inside.append(None)
        time.sleep(0)
        most.append(len(inside))
        inside.pop()
        raise ValueError("over")

    def take() -> None:
        for _ in range(200):
            with pytest.raises(ValueError, match="over"), turns:
                work()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 800
