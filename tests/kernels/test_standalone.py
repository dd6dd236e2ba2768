"""The kernels without ONNX Runtime: every instruction set against a plain reference, and the tools that watch it."""

import shutil
from pathlib import Path

import pytest

from kernels.build import SOURCES
from kernels.library import KernelLibrary
from tests.kernels.sanitize import CHECKS, Failed, Options, Skipped, check_plain
from tests.kernels.test_build import needs_compiler


@needs_compiler
def test_every_instruction_set_gives_what_the_plain_reference_gives(kernel_library: KernelLibrary):
    """Attention and towers of any shape, on any threads: exact-size operands, with no ONNX Runtime around them."""
    said = check_plain(Options())
    assert [line.partition(":")[0] for line in said.splitlines()] == list(kernel_library.instruction_sets)
    assert " 0 " not in said


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
