"""Compiling the CUDA kernels: with NVIDIA's compiler where it is, and scripts that pretend where the choice is."""

from pathlib import Path

import onnxruntime as ort
import pytest

from kernels.build_cuda import Nvcc, build_cuda, find_nvcc, main
from kernels.compiler import KernelBuildError, NoCompilerError
from kernels.cuda_library import CudaKernelLibrary, find_cuda_library
from kernels.cuda_sources import ARCHITECTURES, architecture_names, code_flags, fingerprint
from kernels.library import KernelLibraryError
from tests.kernels.test_build import script

try:
    NVCC: Nvcc | None = find_nvcc()
except NoCompilerError:
    NVCC = None

needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc is here; the extra cuda-build brings one")

KNOWS = 'case "$1" in --version) echo "tools, release {0}, V1";; --list-gpu-code) echo sm_80; echo sm_90;; esac'


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library for one architecture."""
    return build_cuda(tmp_path_factory.mktemp("cuda") / "lib" / "libqin_cuda.so", architectures=["90"]).path


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without NVIDIA's packages."""
    monkeypatch.setattr("kernels.build_cuda.find_spec", lambda _: None)


def pretended(home: Path, release: str) -> Path:
    """A folder that $CUDA_HOME may name, whose compiler says its release and does nothing."""
    (home / "bin").mkdir(parents=True)
    script(home / "bin" / "nvcc", KNOWS.format(release))
    return home


def test_compilers_are_tried_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """$CUDA_HOME comes before the path, and that before Python's packages, the newest of them first."""

    class Packages:
        submodule_search_locations = (str(tmp_path / "nvidia"),)

    monkeypatch.setattr("kernels.build_cuda.find_spec", lambda _: Packages)
    for name in ("cu12", "cu13"):
        pretended(tmp_path / "nvidia" / name, name[2:] + ".1")
    home, path = pretended(tmp_path / "home", "11.1"), pretended(tmp_path / "path", "11.2") / "bin"
    assert find_nvcc({"CUDA_HOME": str(home), "PATH": str(path)}).version == "nvcc 11.1"
    assert find_nvcc({"PATH": str(path)}).version == "nvcc 11.2"
    assert find_nvcc({"PATH": "", "CUDA_HOME": " "}) == Nvcc(
        tmp_path / "nvidia" / "cu13" / "bin" / "nvcc", "nvcc 13.1", ("80", "90")
    )


def test_a_compiler_that_does_not_work_is_passed_over(tmp_path: Path, no_packages: None):
    """One that is no program, says nothing or knows no GPU leaves the turn to the next."""
    path = pretended(tmp_path / "path", "13.0") / "bin"
    for number, text in enumerate(("exit 1", "echo release 12.0", "echo sm_90")):
        home = tmp_path / f"home{number}"
        (home / "bin").mkdir(parents=True)
        script(home / "bin" / "nvcc", text)
        assert find_nvcc({"CUDA_HOME": str(home), "PATH": str(path)}).version == "nvcc 13.0"
    (home / "bin" / "nvcc").write_text("not a program")
    assert find_nvcc({"CUDA_HOME": str(home), "PATH": str(path)}).version == "nvcc 13.0"


def test_without_a_compiler_the_error_says_what_was_tried(
    tmp_path: Path, no_packages: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """It is an error of its own, and a status of its own for the Makefile."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    with pytest.raises(NoCompilerError, match=r"\$CUDA_HOME/bin, on the path, .* 'qin-ranker\[cuda-build\]'"):
        build_cuda(tmp_path / "lib.so")
    assert main(["--output", str(tmp_path / "lib.so")]) == 3
    assert "no nvcc works" in capsys.readouterr().err


def test_what_does_not_compile_is_told_in_the_compilers_words_and_replaces_nothing(tmp_path: Path, no_packages: None):
    """The library that was there stays."""
    home = pretended(tmp_path / "home", "13.0")
    script(home / "bin" / "nvcc", KNOWS.format("13.0") + '; case "$1" in -*st*) echo no colour >&2; exit 2;; esac')
    nvcc = find_nvcc({"CUDA_HOME": str(home), "PATH": ""})
    output = tmp_path / "lib.so"
    output.write_text("before")
    with pytest.raises(KernelBuildError, match=r"\.cu does not compile with nvcc 13\.0:\nno colour"):
        build_cuda(output, compiler=nvcc)
    assert output.read_text() == "before"


def test_a_compiler_that_knows_none_of_the_architectures_is_refused(tmp_path: Path):
    """The message names them."""
    with pytest.raises(KernelBuildError, match="nvcc 9 knows none of sm_75, sm_80"):
        build_cuda(tmp_path / "lib.so", compiler=Nvcc(Path("nvcc"), "nvcc 9", ("60",)))


def test_newer_gpus_get_code_to_compile_for_themselves():
    """Machine code for each architecture, and PTX of the newest."""
    assert code_flags(["80", "90"]) == (
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    )
    assert architecture_names(["80", "90"]) == ("sm_80", "sm_90", "compute_90")


@needs_nvcc
def test_the_library_tells_what_it_holds(built: Path):
    """It loads where no GPU is."""
    library = CudaKernelLibrary(built)
    assert library.architectures == ("sm_90", "compute_90")
    assert library.domain_version == 2
    assert library.created("QuadraticTower") == library.created("Softmax") == 0
    assert library.sources == fingerprint()
    assert not library.is_stale


@needs_nvcc
def test_architectures_that_the_compiler_does_not_know_are_left_out(tmp_path: Path):
    """And the report says so."""
    result = build_cuda(tmp_path / "lib.so", architectures=["40", "90"])
    assert result.left_out == ("sm_40",)
    assert CudaKernelLibrary(result.path).architectures == result.architectures == ("sm_90", "compute_90")


@needs_nvcc
@pytest.mark.parametrize(("value", "accepted"), [("0", True), ("1", True), ("2", False), ("yes, please", False)])
def test_tf32_is_on_or_off(built: Path, value: str, accepted: bool):
    """Anything else is an error when the library is registered."""
    options = ort.SessionOptions()
    options.add_session_config_entry("qin.tf32", value)
    if accepted:
        options.register_custom_ops_library(str(built))
    else:
        with pytest.raises(Exception, match=r"qin\.tf32 must be 0 or 1"):
            options.register_custom_ops_library(str(built))


@needs_nvcc
def test_a_library_whose_end_is_missing_is_refused(built: Path, tmp_path: Path):
    """Loading it would kill the process."""
    cut = tmp_path / "cut.so"
    cut.write_bytes(built.read_bytes()[:-10000])
    with pytest.raises(KernelLibraryError, match="its end is missing"):
        CudaKernelLibrary(cut)


def test_the_cpus_library_is_none_for_cuda(library: Path):
    """It lacks the functions of one."""
    with pytest.raises(KernelLibraryError, match="qin_architectures"):
        CudaKernelLibrary(library)


def test_where_the_library_was_made_it_was_made_of_the_sources_that_are_here():
    """One of older sources would be tested in place of these."""
    path = find_cuda_library()
    if path is None:
        pytest.skip("no CUDA kernel library was built; make kernels-cuda does it")
    assert CudaKernelLibrary(path).sources == fingerprint()
    assert set(CudaKernelLibrary(path).architectures) <= set(architecture_names(ARCHITECTURES))
