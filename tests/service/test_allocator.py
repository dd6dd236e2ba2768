import subprocess
import sys
import threading

import pytest

from service import allocator

_GROWTH = """
import gc, threading
import numpy as np
from service.allocator import settle
{first}
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def work():
    for size in (8, 20, 30) * 5:
        kept = np.ones(2**17 * size), np.ones(1000)
        del kept
before = resident()
for _ in range(4):
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
gc.collect()
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is read as Linux tells it")
def test_what_is_freed_goes_back_to_the_system():
    """Large blocks that several threads had and freed are not kept by the process."""
    ran = subprocess.run(
        [sys.executable, "-c", _GROWTH.format(first="settle()")], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 16 * 2**20


def test_another_c_library_is_left_alone(monkeypatch):
    """Where there is nothing to set it is looked for, and nothing is set."""
    looked = []

    class Library:
        def __getattr__(self, name: str) -> None:
            looked.append(name)
            raise AttributeError(name)

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: Library())
    allocator.settle()
    allocator.give_back()
    assert looked == ["mallopt", "malloc_trim"]


_HOLES = """
from service.allocator import give_back, settle
settle()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
blocks = [bytearray(b"x" * 2**16) for _ in range(3000)]
del blocks[:-1]
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is read as Linux tells it")
def test_holes_go_back_to_the_system():
    """What is free below a block that is still in use, where the heap cannot shrink, is given back too."""
    ran = subprocess.run([sys.executable, "-c", _HOLES], capture_output=True, text=True, check=True)
    assert int(ran.stdout) > 100 * 2**20


def test_memory_goes_back_once_its_owner_is_freed(monkeypatch):
    """Not before: whoever still holds the owner, as a request in flight does, keeps its memory in use."""

    class Owner:
        pass

    given_back = threading.Event()
    monkeypatch.setattr(allocator, "_SOON_S", 0.001)
    monkeypatch.setattr(allocator, "give_back", given_back.set)
    owner = held = Owner()
    allocator.give_back_after(owner)
    del owner
    assert not given_back.wait(0.2)
    del held
    assert given_back.wait(10)
