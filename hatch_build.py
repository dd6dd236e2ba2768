"""Compiles the fused kernels while the package is made, so that they need nothing but pip."""

import os
import platform
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

_ZIG_MACHINES = ("x86_64", "amd64", "aarch64", "arm64")


class KernelBuildHook(BuildHookInterface[Any]):
    """Puts the kernel library into the wheel. Where it does not compile, the package is made all the same, unfused.

    Where the system has no compiler that works, pip is asked to bring one: the package `ziglang`. Where pip cannot,
    offline say, it is pip that fails, before anything here could go on without. `QIN_BUILD_KERNELS=0` in the
    environment is for that: nothing is compiled or asked for, and the wheel fits every platform.
    """

    def dependencies(self) -> list[str]:
        """Ask for a compiler as a wheel where the system has none that works."""
        if not _wanted() or platform.machine().lower() not in _ZIG_MACHINES:
            return []
        build = self._build()
        try:
            build.find_compiler()
        except build.KernelBuildError:
            tested = Path(self.root, "constraints.txt").read_text().splitlines()
            return [line for line in tested if line.startswith("ziglang==")]
        return []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile; an editable install finds the library in the source tree."""
        if not _wanted():
            return
        build = self._build()
        try:
            built = build.build()
        except (build.KernelBuildError, OSError) as error:
            self.app.display_warning(f"the fused kernels are missing, everything runs without them: {error}")
            return
        self.app.display_info(f"fused kernels for {', '.join(built.instruction_sets)}, by {built.compiler.version}")
        build_data["artifacts"].append(f"/{built.path.relative_to(self.root).as_posix()}")
        build_data["pure_python"] = False
        # Nothing in the library depends on Python's version, but much on the system that it was built on.
        system = next(tag for tag in platform_tags() if not tag.startswith(("manylinux", "musllinux")))
        build_data["tag"] = f"py3-none-{system}"

    def _build(self) -> ModuleType:
        """Return `kernels.build`; a build backend does not find the project's own packages by itself."""
        if self.root not in sys.path:
            sys.path.insert(0, self.root)
        import kernels.build

        return kernels.build


def _wanted() -> bool:
    return os.environ.get("QIN_BUILD_KERNELS") != "0"
