"""The CUDA kernels' own sources where there is no GPU: every thread of a block run in turn, tensor cores played.

What is played follows the tables of PTX's manual, not the kernels' idea of them. What only blocks that run at once
could show, and how fast anything is, takes a GPU.
"""

import re
import shutil
from pathlib import Path

import pytest

from kernels.cuda_sources import CUDA_SOURCES, SHARED
from tests.kernels.cuda.emulated import ARCHITECTURES, Failed, run_emulated
from tests.kernels.test_build import COMPILER, needs_compiler

SPOILT = {
    "a product without its low half": ("fragments.cuh", "mma_tf32(step, rows.low, columns.high);", ""),
    "weights whose halves are exchanged": ("layout.h", "lane % 4, half, part", "lane % 4, 1 - half, part"),
    "a chunk that is not waited for": ("tower.cuh", "wait_for_groups<Share::kStages - 2>()", "(void)0"),
    "a stage that is written while it is read": (
        "tower.cuh",
        "    __syncthreads();  // the chunk is there",
        "    //",
    ),
    "sums that warps never hand over": ("tower.cuh", "add_word(sums[m][n][0], words.x), ", ""),
    "counters that are never cleared": ("tower.cuh", "a.counters[i] = 0", "(void)i"),
    "a step of int8 that is too large": ("tower.cuh", "magnitude / 127.0f : as", "magnitude / 126.0f : as"),
    "a place behind the table": (
        "attention.cuh",
        "place < end ? place : kUnknown",
        "place <= end ? place : kUnknown",
    ),
    "weights that others read too early": (
        "attention.cuh",
        "    __syncthreads();\n    sum_values<Share>",
        "    sum_values<Share>",
    ),
}
"""What is spoilt, by file, text and what takes its place."""


@needs_compiler
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_operations_give_what_the_plain_reference_gives(tmp_path: Path, architecture: str):
    """At any shape, in every precision, by every share of the work; rows in no table give NaN, and no others."""
    said = run_emulated(COMPILER, tmp_path, architecture)
    counts = [int(count) for count in re.findall(r" (\d+) (?:times|wide|middle|large)", said)]
    assert len(counts) == 5, "attention narrow and wide; the tower small, middle and large"
    assert all(counts), f"something was never run: {said}"


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_papers_size_gives_what_the_plain_reference_gives(tmp_path: Path, architecture: str):
    """So do wide rows, deep towers and long histories."""
    run_emulated(COMPILER, tmp_path, architecture, quick=False)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "undefined"])
def test_tools_that_watch_find_nothing(tmp_path: Path, sanitizer: str):
    """No access past an operand, scratch or shared memory, and no undefined behaviour."""
    run_emulated(COMPILER, tmp_path, "800", flags=(f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("what", SPOILT)
def test_a_kernel_that_is_spoilt_is_found(tmp_path: Path, what: str):
    """The emulation is no formality: what would be wrong on a GPU is wrong here."""
    sources = shutil.copytree(CUDA_SOURCES, tmp_path / "cuda")
    (tmp_path / "cpu").mkdir()
    for name in SHARED:
        shutil.copy(CUDA_SOURCES.parent / "cpu" / name, tmp_path / "cpu" / name)
    name, text, instead = SPOILT[what]
    before = (sources / name).read_text()
    assert text in before
    (sources / name).write_text(before.replace(text, instead))
    flags = ("-Wno-error", "-fsanitize=address")
    with pytest.raises(Failed, match="ended with status"):
        run_emulated(COMPILER, tmp_path, "800", sources=sources, flags=flags)
