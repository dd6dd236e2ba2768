"""How many threads a session's kernels take: `qin.num_threads`, which results alone cannot show."""

import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import pytest

from kernels.library import KernelLibrary
from tests.kernels.operations import Operation, Size, attention_operands, tower_operands

DEADLINE_S = 120.0
SIZES = {
    "attention": Size(num_candidates=2000, history_length=64, embedding_dim=8, item_width=56),
    "tower, by rows": Size(num_candidates=500, embedding_dim=32, item_width=96),
    "tower, by panels": Size(num_candidates=10, embedding_dim=64, item_width=192),
}


@pytest.fixture(params=SIZES)
def run_with(request: pytest.FixtureRequest, library: Path) -> Callable[[int], Callable[[], object]]:
    """Return what runs an operation by kernels told of some number of threads, in a session with two in its pool."""
    size = SIZES[request.param]
    operands = (attention_operands if request.param == "attention" else tower_operands)(size, 1)
    operation = Operation(operands, size)

    def start(num_threads: int) -> Callable[[], object]:
        session = operation.session(library, num_threads, pool_threads=2)
        return lambda: session.run(None, operation.feed(operands))

    return start


def seconds_of_others(run: Callable[[], object], at_least_s: float) -> tuple[float, float]:
    """CPU seconds of this thread and of all others of the process, while an operation runs for some time."""
    here, everywhere = time.thread_time(), time.process_time()
    while time.thread_time() - here < at_least_s:
        run()
    spent_here = time.thread_time() - here
    return spent_here, time.process_time() - everywhere - spent_here


def test_a_session_of_one_thread_keeps_to_it(run_with: Callable[[int], Callable[[], object]]) -> None:
    """The pool's other threads are left alone, whatever the machine has."""
    here, elsewhere = seconds_of_others(run_with(1), at_least_s=0.3)
    assert elsewhere < 0.2 * here


def test_a_session_of_two_threads_takes_both(run_with: Callable[[int], Callable[[], object]]) -> None:
    """The pool's other thread works too, as soon as it is given a processor."""
    run, deadline, elsewhere = run_with(2), time.monotonic() + DEADLINE_S, 0.0
    while elsewhere < 0.02 and time.monotonic() < deadline:
        elsewhere += seconds_of_others(run, at_least_s=0.05)[1]
    assert elsewhere >= 0.02


@pytest.mark.parametrize("number", ["", "two", "-1", "4097", "1.5"])
def test_a_number_of_threads_that_is_none_is_refused(kernel_library: KernelLibrary, number: str) -> None:
    """The session does not open, and the message says what would be right."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("qin.num_threads", number)
    with pytest.raises(Exception, match=r"qin\.num_threads must be a number from 0 to 4096"):
        options.register_custom_ops_library(str(kernel_library.path))
