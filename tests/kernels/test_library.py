import shutil
from pathlib import Path

import pytest

from kernels.build import build
from kernels.library import DOMAIN_VERSION, KernelLibrary, KernelLibraryError, find_library
from kernels.sources import fingerprint
from tests.kernels.test_build import needs_compiler, small_sources


@needs_compiler
def test_where_a_compiler_works_the_kernels_are_built():
    """A library that is missing would let every test of kernels pass by being skipped; `make kernels` builds it."""
    assert find_library() is not None


@needs_compiler
def test_the_built_library_is_made_of_the_sources_that_are_here():
    """One of older sources would pass every test of kernels, and what was changed would be tested by none."""
    library = KernelLibrary(find_library())
    assert library.sources == fingerprint()
    assert not library.is_stale


@needs_compiler
def test_a_library_is_stale_where_the_sources_beside_it_are_others(tmp_path: Path):
    """A changed, a new and a removed source all show; without any beside it, a library is not said to be stale."""
    sources = small_sources(tmp_path / "cpu")
    library = KernelLibrary(build(tmp_path / "lib" / "lib.so", sources).path)
    assert not library.is_stale
    (sources / "notes.txt").write_text("not a source")
    assert not library.is_stale
    (sources / "new.h").write_text("")
    assert library.is_stale
    (sources / "new.h").unlink()
    before = (sources / "ops.cpp").read_text()
    (sources / "ops.cpp").write_text(before + "\n")
    assert library.is_stale
    (sources / "ops.cpp").write_text(before)
    assert not library.is_stale
    (sources / "isa_avx2.cpp").unlink()
    assert library.is_stale
    shutil.rmtree(sources)
    assert not library.is_stale


def test_other_flags_are_another_fingerprint(monkeypatch: pytest.MonkeyPatch):
    """The same sources compiled otherwise make another library."""
    before = fingerprint()
    monkeypatch.setattr("kernels.sources.BASE", ("-O2",))
    assert fingerprint() != before


def test_a_library_tells_what_it_can_run(kernel_library: KernelLibrary):
    """Instruction sets come best first, the plain one last, and the best is in use until another is chosen."""
    *_, last = kernel_library.instruction_sets
    assert last == "generic"
    assert kernel_library.instruction_set == kernel_library.instruction_sets[0]
    assert kernel_library.domain_version == DOMAIN_VERSION
    kernel_library.use("generic")
    assert kernel_library.instruction_set == "generic"
    kernel_library.use("auto")
    assert kernel_library.instruction_set == kernel_library.instruction_sets[0]


def test_an_instruction_set_that_this_machine_cannot_run_is_refused(kernel_library: KernelLibrary):
    """The message says which ones it can run, and nothing changes."""
    before = kernel_library.instruction_set
    with pytest.raises(ValueError, match=r"no instruction set 'sve9' here: auto, .*generic"):
        kernel_library.use("sve9")
    assert kernel_library.instruction_set == before


def test_an_operation_that_is_none_has_no_kernels(kernel_library: KernelLibrary):
    """Its count is 0 and stays so."""
    assert kernel_library.created("Softmax") == 0


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_library_whose_end_is_missing_is_refused(kernel_library: KernelLibrary, tmp_path: Path, part: float):
    """Loading it would kill the process."""
    whole, cut = kernel_library.path.read_bytes(), tmp_path / "cut.so"
    cut.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(KernelLibraryError, match=r"cut\.so cannot be loaded"):
        KernelLibrary(cut)


def test_a_file_that_is_no_library_is_refused(tmp_path: Path):
    """So are other bytes, and a file that is not there."""
    (tmp_path / "text.so").write_text("not a library" * 100)
    for name in ("text.so", "absent.so"):
        with pytest.raises(KernelLibraryError, match="cannot be loaded"):
            KernelLibrary(tmp_path / name)


@needs_compiler
def test_a_library_of_another_version_is_refused(tmp_path: Path):
    """Its operations would take other operands; so would those of a library that lacks the functions."""
    sources = small_sources(tmp_path / "sources")
    dispatch = sources / "dispatch.cpp"
    dispatch.write_text(dispatch.read_text().replace("return 2;", "return 1;"))
    with pytest.raises(KernelLibraryError, match="version 1 of the operations, not 2"):
        KernelLibrary(build(tmp_path / "old.so", sources).path)
    dispatch.write_text("int nothing() { return 0; }\n")
    with pytest.raises(KernelLibraryError, match="qin_instruction_sets"):
        KernelLibrary(build(tmp_path / "other.so", sources).path)
