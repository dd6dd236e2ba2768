import subprocess
import sys
from pathlib import Path


def loaded_by(module: str) -> set[str]:
    """Names of the packages that a fresh process has loaded after importing a module."""
    script = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_imports_point_one_way() -> None:
    """The layers that pyproject.toml draws hold."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_scoring_loads_no_torch() -> None:
    """Scoring a bundle needs ONNX Runtime alone."""
    assert not loaded_by("scoring.evaluate") & {"torch", "onnx", "sklearn", "training", "export"}
    assert "onnxruntime" in loaded_by("scoring.evaluate")


def test_the_command_line_loads_no_room_before_it_is_asked() -> None:
    """`qin --help` is quick: nothing heavy is imported."""
    assert not loaded_by("qin") & {"torch", "onnx", "onnxruntime", "fastapi", "redis", "pyarrow", "numpy"}
