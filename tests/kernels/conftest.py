"""The kernel library that this machine built, with each of the instruction sets that it can run.

$QIN_TEST_KERNEL_LIBRARY names another one to test, such as one that is built with a sanitizer.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernels.library import KernelLibrary, find_library
from tests.kernels.sanitize import LIBRARY_VARIABLE


def _tested_library() -> Path | None:
    given = os.environ.get(LIBRARY_VARIABLE)
    return Path(given) if given else find_library()


@pytest.fixture(scope="session")
def kernel_library() -> KernelLibrary:
    """The built library; tests of kernels have nothing to test where no compiler was found."""
    path = _tested_library()
    if path is None:
        pytest.skip("no kernel library was built")
    return KernelLibrary(path)


@pytest.fixture(scope="session")
def library(kernel_library: KernelLibrary) -> Path:
    """Where the library lies."""
    return kernel_library.path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for an instruction set with each that this machine can run."""
    if "instruction_set" in metafunc.fixturenames:
        path = _tested_library()
        names = KernelLibrary(path).instruction_sets if path is not None else ("none",)
        metafunc.parametrize("instruction_set", names, indirect=True)


@pytest.fixture(scope="module")
def instruction_set(request: pytest.FixtureRequest, kernel_library: KernelLibrary) -> Iterator[str]:
    """One instruction set, in use for as long as the test runs."""
    kernel_library.use(request.param)
    yield request.param
    kernel_library.use("auto")
