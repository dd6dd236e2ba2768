"""Compiling, with real compilers where they are the point and scripts that pretend where their choice is."""

import logging
import os
import platform
from pathlib import Path

import pytest

from kernels.build import build, main
from kernels.compiler import Compiler, KernelBuildError, NoCompilerError, find_compiler
from kernels.library import KernelLibrary
from kernels.sources import PROBES, SOURCES, flags_of_sets

try:
    COMPILER: Compiler | None = find_compiler()
except NoCompilerError:
    COMPILER = None

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler works here")
on_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64")

HEADERS = ("/usr/include", "/usr/local/include", os.environ.get("QIN_ORT_HEADERS", ""))


@pytest.fixture
def no_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without the package `ziglang`."""
    monkeypatch.setattr("kernels.compiler.find_spec", lambda _: None)


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


MAKES = 'while [ $# -gt 1 ]; do test "$1" = -o && : > "$2"; shift; done'
"""Leaves an empty file where a compiler would its output."""


def pretended(folder: Path, name: str, does: str = MAKES) -> None:
    """A compiler that says its name, and does what it is said to do."""
    script(folder / name, f"echo {name} 1.0; {does}")


def real(folder: Path, name: str, before: str) -> Path:
    """The real compiler, behind some lines of shell that may refuse what it is asked for."""
    return script(folder / name, f'{before}\nexec {" ".join(COMPILER.command)} "$@"')


def small_sources(folder: Path) -> Path:
    """Sources of the real ones' names that have the library's C functions and nothing behind them."""
    folder.mkdir()
    for source in SOURCES.glob("*.cpp"):
        (folder / source.name).write_text(f"int {source.stem}_unit() {{ return 1; }}\n")
    (folder / "dispatch.cpp").write_text("""
        #define SHOWN extern "C" __attribute__((visibility("default")))
        SHOWN int qin_domain_version() { return 2; }
        SHOWN int qin_use_instruction_set(const char*) { return -1; }
        SHOWN unsigned long qin_kernels_created(const char*) { return 0; }
        SHOWN const char* qin_sources() { return QIN_SOURCES; }
        SHOWN const char* qin_instruction_set() { return "generic"; }
        SHOWN const char* qin_instruction_sets() {
        return
        #ifdef QIN_WITH_AVX512_BF16
          "avx512_bf16,"
        #endif
        #ifdef QIN_WITH_AVX2
          "avx2,"
        #endif
          "generic";
        }
    """)
    return folder


def test_compilers_are_tried_in_order(tmp_path: Path, no_zig: None):
    """$CXX comes first, then c++, g++ and clang++."""
    environment = {"PATH": str(tmp_path), "CXX": "mine --of-a-kind"}
    found = []
    for name in ("clang++", "g++", "c++", "mine"):
        pretended(tmp_path, name)
        compiler = find_compiler(environment)
        found.append((compiler.version, compiler.command[1:]))
    assert found == [("clang++ 1.0", ()), ("g++ 1.0", ()), ("c++ 1.0", ()), ("mine 1.0", ("--of-a-kind",))]


def test_a_compiler_that_does_not_work_is_passed_over(tmp_path: Path, no_zig: None):
    """One that is there but compiles nothing, for want of headers say, leaves the turn to the next."""
    pretended(tmp_path, "c++", "exit 1")
    pretended(tmp_path, "g++")
    assert find_compiler({"PATH": str(tmp_path)}).version == "g++ 1.0"


@needs_compiler
def test_a_compiler_that_cannot_link_is_passed_over(tmp_path: Path, no_zig: None):
    """It compiles every unit, and would fail at the end."""
    real(
        tmp_path, "c++", 'for word in "$@"; do test "$word" = -shared && { echo "cannot find ld" >&2; exit 1; }; done'
    )
    pretended(tmp_path, "g++")
    assert find_compiler({"PATH": f"{tmp_path}:{os.environ['PATH']}"}).version == "g++ 1.0"


@pytest.mark.parametrize("wanted", ["true", "absent --of-a-kind", "c++ 'of a kind", "text"])
def test_a_wanted_compiler_that_does_not_work_is_told_of(tmp_path: Path, no_zig: None, caplog, wanted: str):
    """$CXX that makes nothing, is not there, is no command or no program: one line, and the next one is taken."""
    script(tmp_path / "true", "exit 0")
    (tmp_path / "text").write_text("not a program")
    (tmp_path / "text").chmod(0o755)
    pretended(tmp_path, "c++")
    with caplog.at_level(logging.WARNING):
        assert find_compiler({"PATH": str(tmp_path), "CXX": wanted}).version == "c++ 1.0"
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("$CXX makes no shared library")
    assert warning.endswith(f"CXX={wanted}")


def test_no_wanted_compiler_is_nothing_to_tell_of(tmp_path: Path, no_zig: None, caplog):
    """Neither is an empty one."""
    pretended(tmp_path, "c++")
    for environment in ({}, {"CXX": ""}, {"CXX": " "}):
        find_compiler({"PATH": str(tmp_path)} | environment)
    assert not caplog.records


def test_the_compiler_of_the_package_ziglang_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a compiler on the path, Python's own package is asked."""
    monkeypatch.setattr("kernels.compiler.find_spec", lambda name: name)
    python = script(tmp_path / "python", f'test "$1 $2 $3" = "-m ziglang c++" && echo zig 1.0; {MAKES}')
    monkeypatch.setattr("sys.executable", str(python))
    assert find_compiler({"PATH": str(tmp_path)}) == Compiler((str(python), "-m", "ziglang", "c++"), "zig 1.0")


def test_zig_is_told_to_compile_for_every_machine_of_its_kind(tmp_path: Path):
    """Left alone it takes the very processor that it runs on; ARM's flags it knows by another name."""
    zig = script(tmp_path / "zig", 'echo "$@"')
    compiler = Compiler((str(zig), "c++"))
    assert compiler.run("-mavx2").stdout == "c++ -mcpu=baseline -mavx2\n"
    assert compiler.run("-march=armv8.2-a+dotprod").stdout == "c++ -mcpu=baseline -mcpu=generic+dotprod\n"


def test_without_a_compiler_the_error_says_what_was_tried(tmp_path: Path, no_zig: None, monkeypatch, capsys):
    """It is an error of its own, and a status of its own for the Makefile."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(NoCompilerError, match=r"c\+\+, g\+\+, clang\+\+ and the Python package ziglang"):
        build(tmp_path / "lib.so")
    assert main(["--output", str(tmp_path / "lib.so")]) == 3
    assert "no C++ compiler works" in capsys.readouterr().err


@needs_compiler
@on_x86_64
def test_an_instruction_set_that_the_compiler_does_not_know_is_left_out(tmp_path: Path):
    """An old compiler gives a library without the newest kernels, and the report says so."""
    old = real(
        tmp_path,
        "old",
        """for word in "$@"; do
             case $word in -mavx512bf16|-mavx512vnni) echo "unknown option $word" >&2; exit 1;; esac
           done""",
    )
    sources = small_sources(tmp_path / "sources")
    built = build(tmp_path / "lib.so", sources, compiler=Compiler((str(old),)))
    assert built.instruction_sets == ("avx512", "avx2", "generic")
    assert built.left_out == ("avx512_bf16", "avx512_vnni")
    assert KernelLibrary(built.path).instruction_sets == ("avx2", "generic")


@needs_compiler
@on_x86_64
def test_an_instruction_set_that_the_assembler_does_not_know_is_left_out(tmp_path: Path):
    """The compiler knows the flag, and what it writes nobody can assemble."""
    old = real(
        tmp_path,
        "old",
        """for word in "$@"; do
             case $word in *.cpp) if grep -q _dpbf16_ "$word"; then
               echo "no such instruction: vdpbf16ps" >&2; exit 1
             fi;; esac
           done""",
    )
    built = build(tmp_path / "lib.so", small_sources(tmp_path / "sources"), compiler=Compiler((str(old),)))
    assert built.left_out == ("avx512_bf16",)
    assert built.instruction_sets == ("avx512_vnni", "avx512", "avx2", "generic")


def test_every_instruction_set_has_a_probe():
    """On any kind of machine: a set without one could not be built."""
    assert {name for machine in ("x86_64", "aarch64") for name in flags_of_sets(machine)} == set(PROBES)


@needs_compiler
def test_what_cannot_be_written_is_told_in_one_line(tmp_path: Path, capsys):
    """A tree that is read only, say: no traceback, and status 1."""
    (tmp_path / "lib").write_text("not a folder")
    assert main(["--output", str(tmp_path / "lib" / "lib.so")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kernels.build: ")
    assert str(tmp_path / "lib") in line


@needs_compiler
def test_other_machines_get_the_plain_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A kind of machine without units of its own takes none."""
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    built = build(tmp_path / "lib" / "lib.so", small_sources(tmp_path / "sources"))
    assert KernelLibrary(built.path).instruction_sets == ("generic",)
    assert (built.instruction_sets, built.left_out) == (("generic",), ())


@needs_compiler
def test_what_does_not_compile_is_told_in_the_compilers_words_and_replaces_nothing(tmp_path: Path, monkeypatch):
    """The library that was there stays, and no half of another lies beside it."""
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    sources, output = small_sources(tmp_path / "sources"), tmp_path / "lib" / "lib.so"
    build(output, sources)
    before = output.read_bytes()
    (sources / "ops.cpp").write_text("int wrong() { return colour; }\n")
    with pytest.raises(KernelBuildError, match=r"ops\.cpp does not compile with .*(\n.*)*colour"):
        build(output, sources)
    (sources / "ops.cpp").write_text("int elsewhere(); int half() { return elsewhere(); }\n")
    with pytest.raises(KernelBuildError, match=r"do not link with .*(\n.*)*elsewhere"):
        build(output, sources)
    assert [entry.name for entry in output.parent.iterdir()] == ["lib.so"]
    assert output.read_bytes() == before


@needs_compiler
def test_our_own_positions_in_the_api_are_those_of_the_official_header(tmp_path: Path):
    """Every position, field and value that ort_api.h declares is proved by ONNX Runtime's header, where one is."""
    folders = [Path(base, "onnxruntime") for base in HEADERS[:2]] + [Path(HEADERS[2] or "/nonexistent")]
    folder = next((folder for folder in folders if (folder / "onnxruntime_c_api.h").is_file()), None)
    if folder is None:
        pytest.skip("no header of ONNX Runtime is here; QIN_ORT_HEADERS may name its folder")
    done = COMPILER.run(
        *("-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{folder}"),
        *("-c", SOURCES / "ort_api_check.cpp", "-o", tmp_path / "check.o"),
    )
    assert done.returncode == 0, done.stderr
