"""The kernels without ONNX Runtime: every instruction set against a plain reference, and the tools that watch it."""

import re
import shutil
from pathlib import Path

import pytest

from kernels.library import KernelLibrary
from kernels.sources import SOURCES
from tests.kernels.sanitize import CHECKS, Failed, Options, Skipped, check_plain
from tests.kernels.test_build import needs_compiler


@needs_compiler
def test_every_instruction_set_gives_what_the_plain_reference_gives(kernel_library: KernelLibrary):
    """Attention and towers of any shape, on any threads, shared in every way, with operands of exactly their size."""
    said = check_plain(Options(timeout_s=200))
    assert [line.partition(":")[0] for line in said.splitlines()] == list(kernel_library.instruction_sets)
    for line in said.splitlines():
        counts = [int(count) for count in re.findall(r" (\d+)\b", line)]
        assert len(counts) == 5, "cases of attention and tower; shared runs of attention, by rows and by panels"
        assert all(counts), f"something was never run, or never shared among threads: {line}"


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", ["address", "undefined", "thread", "valgrind", "aarch64"])
def test_tools_that_watch_find_nothing(name: str):
    """No read past an operand, no undefined behaviour, no race; on ARM's processors the results are the same."""
    try:
        CHECKS[name](Options())
    except Skipped as reason:
        pytest.skip(str(reason))


@needs_compiler
@pytest.mark.slow
def test_a_kernel_that_computes_something_else_is_found(tmp_path: Path):
    """The program says which case differs, and ends with an error."""
    sources = shutil.copytree(SOURCES, tmp_path / "cpu")
    tower = sources / "tower.h"
    tower.write_text(tower.read_text().replace("return x + (z < 0 ? z * slope : z);", "return x + z;"))
    with pytest.raises(
        Failed, match=r"ended with status 1\n.*: tower in float32, .*, 1 thread: scores\[0\] is .*, not"
    ):
        check_plain(Options(sources=sources))


@needs_compiler
@pytest.mark.slow
def test_threads_that_wait_for_ever_are_found(tmp_path: Path):
    """A program that does not end is killed, and counts as failed."""
    sources = shutil.copytree(SOURCES, tmp_path / "cpu")
    tower = sources / "tower.h"
    ready = "__atomic_store_n(&units_ready, done, __ATOMIC_RELEASE);"
    assert ready in tower.read_text()
    tower.write_text(tower.read_text().replace(ready, ""))
    with pytest.raises(Failed, match="did not end within 20 s"):
        check_plain(Options(sources=sources, timeout_s=20))
