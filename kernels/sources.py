"""What the library is compiled from: the C++ sources, and the flags of each."""

import hashlib
import platform
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "cpu"

BASE = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-Wall", "-Wextra"),
)
_AVX512 = ("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
_X86_64: dict[str, tuple[str, ...]] = {
    "avx2": ("-mavx2", "-mfma"),
    "avx512": _AVX512,
    "avx512_vnni": (*_AVX512, "-mavx512vnni"),
    "avx512_bf16": (*_AVX512, "-mavx512vnni", "-mavx512bf16"),
}
_AARCH64: dict[str, tuple[str, ...]] = {
    "neon_dot": ("-march=armv8.2-a+dotprod",),
    "neon_bf16": ("-march=armv8.6-a+bf16+dotprod",),
}
_FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": _X86_64,
    "amd64": _X86_64,
    "aarch64": _AARCH64,
    "arm64": _AARCH64,
}

_DEFINED = "-Wl,-z,defs"
LINKS: tuple[tuple[str, ...], ...] = (
    # The kernels use nothing of the C++ runtime, so they are tied to no version of it. Compilers that cannot leave it
    # out altogether (GCC before 13) put in what is used of it.
    ("-static-libgcc", "-nostdlib++", _DEFINED, "-Wl,--strip-debug"),
    ("-static-libgcc", "-static-libstdc++", _DEFINED, "-Wl,--exclude-libs,ALL"),
    (_DEFINED,),
)
"""Flags to link with, the best first; the first that the compiler can do is taken."""
if sys.platform == "darwin":
    LINKS = ((),)  # its linker knows none of these, and leaves nothing undefined anyway

_X86_64_PROBE = "#include <immintrin.h>\n"
_AARCH64_PROBE = "#include <arm_neon.h>\n"
PROBES = {
    "avx2": _X86_64_PROBE + "__m256 f(__m256 a) { return _mm256_fmadd_ps(a, a, a); }\n",
    "avx512": _X86_64_PROBE + "__m512i f(__m512i a) { return _mm512_madd_epi16(a, a); }\n",
    "avx512_vnni": _X86_64_PROBE + "__m512i f(__m512i a) { return _mm512_dpbusd_epi32(a, a, a); }\n",
    "avx512_bf16": _X86_64_PROBE + "__m512 f(__m512 a, __m512bh b) { return _mm512_dpbf16_ps(a, b, b); }\n",
    "neon_dot": _AARCH64_PROBE + "int32x4_t f(int32x4_t a, int8x16_t b) { return vdotq_s32(a, b, b); }\n",
    "neon_bf16": _AARCH64_PROBE + "float32x4_t f(float32x4_t a, bfloat16x8_t b) { return vbfdotq_f32(a, b, b); }\n",
}
"""Of each instruction set, a source that needs it: a compiler may know a flag, and its assembler no instruction."""


def flags_of_sets(machine: str | None = None) -> dict[str, tuple[str, ...]]:
    """Return a kind of machine's instruction sets past the plain one, with the flags that their units need.

    Parameters
    ----------
    machine
        As `platform.machine` says it; None is this one.
    """
    return _FLAGS.get((machine or platform.machine()).lower(), {})


def fingerprint(sources: Path = SOURCES) -> str:
    """Return the SHA-256, in hexadecimal, of all sources and of the flags for this kind of machine."""
    digest = hashlib.sha256(repr((BASE, flags_of_sets(), LINKS)).encode())
    for path in sorted(path for path in sources.iterdir() if path.suffix in (".h", ".cpp")):
        content = path.read_bytes()
        digest.update(f"\0{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
