"""The CUDA kernels inside ONNX Runtime, on a GPU, against their functions' bodies on the CPU: `pytest -m gpu`."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.manifest import Precision
from kernels.cuda_library import CudaKernelLibrary, find_cuda_library
from tests.kernels.cuda.gpu import why_no_gpu
from tests.kernels.operations import NUM_ROWS, Operation, Size, attention_operands, tower_operands

REASON = why_no_gpu()

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=REASON or "")]

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
TOLERANCE: dict[Precision, float] = {"float32": 8e-6, "bfloat16": 2e-3, "int8": 2e-2}
"""Of scores. Kernel and body add in another order; where that moves a number across the middle between two of its
rounded values, they differ by one such step."""
TF32_TOLERANCE = 2e-3

sizes = st.builds(
    Size,
    num_users=st.sampled_from([1, 3]),
    num_candidates=st.sampled_from([1, 7, 33, 64, 200]),
    history_length=st.sampled_from([1, 5, 64, 200]),
    embedding_dim=st.integers(1, 17),
    item_width=st.integers(1, 150),
    num_layers=st.integers(1, 4),
    split=st.booleans(),
)
everything = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

PAPER = {"embedding_dim": 128, "item_width": 384, "num_layers": 4}


@pytest.fixture(scope="module")
def cuda_library() -> Path:
    """Where the library lies."""
    ort.preload_dlls()
    path = find_cuda_library()
    assert path is not None
    return path


def on_gpu(
    operation: Operation, operands: Mapping[str, np.ndarray], library: Path, tf32: bool = False
) -> list[np.ndarray]:
    """The outputs by the kernels on the GPU."""
    return operation.cuda_session(library, tf32).run(None, operation.feed(operands))


def assert_close(got: list[np.ndarray], wanted: list[np.ndarray], relative: float, num_terms: int = 1) -> None:
    """Equal but for rounding, NaN included; sums of many terms may be smaller than what was added."""
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        scale = float(np.abs(other[np.isfinite(other)]).max(initial=num_terms**0.5))
        np.testing.assert_allclose(one, other, rtol=0, atol=relative * scale)


@everything
@given(size=sizes, seed=st.integers(0, 2**32 - 1))
def test_attention_gives_what_its_body_gives(cuda_library: Path, size: Size, seed: int):
    """Pooled items and layer 1's part are the body's at any shape."""
    operands = attention_operands(size, seed)
    operation = Operation(operands, size)
    assert_close(on_gpu(operation, operands, cuda_library), operation.run(operands), 4e-6, size.history_length)


@everything
@given(size=sizes, seed=st.integers(0, 2**32 - 1), precision=st.sampled_from(PRECISIONS))
def test_the_tower_gives_what_its_body_gives(cuda_library: Path, size: Size, seed: int, precision: Precision):
    """Scores are the body's at any shape and depth, in each precision."""
    operands = tower_operands(size, seed)
    operation = Operation(operands, size, precision)
    assert_close(on_gpu(operation, operands, cuda_library), operation.run(operands), TOLERANCE[precision])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("num_candidates", [1, 16, 100, 1000, 4096])
def test_at_the_papers_size_scores_are_the_bodys(cuda_library: Path, num_candidates: int, precision: Precision):
    """Whatever share of the work the blocks take."""
    size = Size(1, num_candidates, 64, **PAPER)
    operands = tower_operands(size, num_candidates)
    operation = Operation(operands, size, precision)
    assert_close(on_gpu(operation, operands, cuda_library), operation.run(operands), TOLERANCE[precision])


@pytest.mark.parametrize("num_candidates", [1, 100, 1000, 4096])
def test_at_the_papers_size_attention_is_the_bodys(cuda_library: Path, num_candidates: int):
    """For one user and for several."""
    for num_users in (1, 3):
        size = Size(num_users, num_candidates, 64, **PAPER)
        operands = attention_operands(size, num_candidates)
        operation = Operation(operands, size)
        assert_close(on_gpu(operation, operands, cuda_library), operation.run(operands), 4e-6, size.history_length)


@pytest.mark.parametrize("num_candidates", [10, 100, 1000])
def test_tf32_is_near_float32(cuda_library: Path, num_candidates: int):
    """Only a session that asks for it is rounded."""
    size = Size(1, num_candidates, 64, **PAPER)
    operands = tower_operands(size, 1)
    operation = Operation(operands, size)
    body = operation.run(operands)
    assert_close(on_gpu(operation, operands, cuda_library, tf32=True), body, TF32_TOLERANCE)
    assert_close(on_gpu(operation, operands, cuda_library, tf32=False), body, TOLERANCE["float32"])


def test_kernels_are_counted(cuda_library: Path):
    """So a session knows that its operation runs by one and not by its body."""
    library, size = CudaKernelLibrary(cuda_library), Size()
    before = library.created("QuadraticTower")
    Operation(tower_operands(size, 2), size).cuda_session(cuda_library)
    assert library.created("QuadraticTower") == before + 1


def test_rows_in_no_table_give_nan(cuda_library: Path):
    """Nothing is read there, and no other candidate is touched."""
    size = Size(num_candidates=40)
    operands = tower_operands(size, 3)
    operation = Operation(operands, size)
    before = on_gpu(operation, operands, cuda_library)[0]
    operands["candidate_rows"][0, 5], operands["levels"][0, 9, 1] = NUM_ROWS, 1 << 40
    after = on_gpu(operation, operands, cuda_library)[0]
    unknown = np.isin(np.arange(40), (5, 9))
    assert np.isnan(after[:, unknown]).all()
    np.testing.assert_array_equal(after[:, ~unknown], before[:, ~unknown])


def test_weights_that_are_no_part_of_the_graph_are_refused(cuda_library: Path):
    """To pack them would mean to wait for the GPU in every run."""
    size = Size()
    operation = Operation(tower_operands(size, 4), size, weights_in_graph=False)
    with pytest.raises(Exception, match="the weights must be part of the graph"):
        operation.cuda_session(cuda_library)


def test_no_candidates_are_fine(cuda_library: Path):
    """Nothing to rank gives nothing."""
    size = Size(num_candidates=0)
    operands = tower_operands(size, 5)
    assert on_gpu(Operation(operands, size), operands, cuda_library)[0].shape == (1, 0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_captured_run_is_replayed_with_what_its_inputs_hold_then(cuda_library: Path, precision: Precision):
    """Inside a CUDA graph the same launches score whatever rows were copied into the bound inputs."""
    size = Size(1, 100, 64, embedding_dim=16, item_width=48)
    first, second = tower_operands(size, 6), tower_operands(size, 6)
    second["candidate_rows"] = second["candidate_rows"][:, ::-1].copy()
    second["levels"] = second["levels"][:, ::-1].copy()
    operation = Operation(first, size, precision)
    session = operation.cuda_session(cuda_library, provider_options={"enable_cuda_graph": "1"})
    bound = {
        name: ort.OrtValue.ortvalue_from_numpy(value, "cuda", 0) for name, value in operation.feed(first).items()
    }
    scores = ort.OrtValue.ortvalue_from_shape_and_type([1, 100], np.float32, "cuda", 0)
    binding = session.io_binding()
    for name, value in bound.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_ortvalue_output("scores", scores)
    for operands in (first, first, first, second, first):
        for name, value in operation.feed(operands).items():
            bound[name].update_inplace(value)
        session.run_with_iobinding(binding)
        assert_close([scores.numpy()], operation.run(operands), TOLERANCE[precision])


def test_several_threads_share_a_session(cuda_library: Path):
    """Runs at once, each with memory of its own, give what each gives alone."""
    size = Size(1, 300, 64, embedding_dim=16, item_width=48)
    cases = [tower_operands(size, 7) for _ in range(8)]
    for shift, operands in enumerate(cases):
        operands["candidate_rows"] = np.roll(operands["candidate_rows"], shift, axis=1)
    operation = Operation(cases[0], size)
    session = operation.cuda_session(cuda_library)
    wanted = [session.run(None, operation.feed(operands))[0] for operands in cases]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            got = pool.map(lambda operands: session.run(None, operation.feed(operands))[0], cases)
            for one, other in zip(got, wanted, strict=True):
                np.testing.assert_array_equal(one, other)
