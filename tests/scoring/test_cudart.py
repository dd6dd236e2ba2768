"""The calls of the CUDA runtime, against one that lies in the host's memory: `cudart.cpp`."""

import ctypes
import functools
import gc
import threading
from pathlib import Path

import numpy as np
import pytest

from contract.bundle import read_bundle
from kernels.compiler import NoCompilerError, find_compiler
from scoring.accelerator import Provider
from scoring.budget import MemoryBudget
from scoring.cuda import CUDA, CudaAccelerator, CudaStream
from scoring.cudart import CudaRuntime
from scoring.errors import DeviceError, DeviceMemoryError, GraphError
from scoring.gpu import Gpu, open_gpu
from scoring.scorer import Scorer
from tests.fakes import make_bundle, make_items
from tests.scoring.memory_device import SMALL

SOURCE = Path(__file__).with_name("cudart.cpp")


@pytest.fixture(autouse=True)
def _nothing_of_others() -> None:
    """Free what errors of earlier tests hold: memory and streams are counted."""
    gc.collect()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The emulated runtime, compiled."""
    try:
        compiler = find_compiler()
    except NoCompilerError as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("cudart") / "libcudart.so"
    done = compiler.run("-std=c++17", "-shared", "-fPIC", "-Wl,-Bsymbolic", "-o", path, SOURCE)
    assert done.returncode == 0, done.stderr
    return str(path)


class OnCpu(CudaAccelerator):
    """The accelerator as it is, but for the provider: sessions run on the CPU, in the memory that is given."""

    kind = "cpu"

    def stream(self) -> CudaStream:
        """Return a stream that says so."""
        return _OnCpu(self.runtime, self._idle)


class _OnCpu(CudaStream):
    def provider(self, memory_limit: int, for_capture: bool) -> Provider:
        name, options = super().provider(memory_limit, for_capture)
        assert (name, options["user_compute_stream"]) == (CUDA, str(self.handle))
        assert all(isinstance(value, str) for value in options.values())
        return "CPUExecutionProvider", {}


@pytest.fixture
def device(library: str) -> OnCpu:
    """The device."""
    return OnCpu(CudaRuntime(library))


def emulated(library: str) -> ctypes.CDLL:
    """What the emulated runtime says of itself."""
    runtime = ctypes.CDLL(library)
    runtime.emulated_live.restype = runtime.emulated_streams.restype = ctypes.c_int64
    return runtime


@pytest.fixture
def failing(library: str):
    """Let a function fail from now on so often, or until the test ends."""
    told = []

    def fail(function: str, code: int = 700, times: int = -1) -> None:
        told.append(function)
        emulated(library).emulated_fail(function.encode(), code, times)

    yield fail
    for function in told:
        emulated(library).emulated_fail(function.encode(), 0, 0)


def test_memory_is_zero_and_copied_there_within_and_back(device: OnCpu) -> None:
    """By addresses, in the order in which it was said."""
    memory, host, queue = device.allocate(64), device.page_locked(32), device.copies()
    host[:] = np.arange(32)
    address = host.ctypes.data
    queue.copy_in(memory.address, address, 16)
    queue.copy_within(memory.address + 32, memory.address, 16)
    host[:] = 7
    queue.copy_out(address, memory.address + 28, 16)
    queue.wait()
    assert host.tolist() == [0, 0, 0, 0, *range(12), *[7] * 16]
    assert memory.address % 256 == 0
    assert device.free_bytes() == 2**33


def test_everything_is_given_back_with_its_last_reference_and_streams_are_used_again(library: str) -> None:
    """A view of page-locked memory keeps all of it; a stream waits for its next user."""
    told = emulated(library)
    live, streams = told.emulated_live(), told.emulated_streams()
    device = OnCpu(CudaRuntime(library))
    memory, part = device.allocate(64), device.page_locked(32)[5:7]
    stream = device.stream()
    graph = stream.capture(functools.partial(stream.copy_in, memory.address, part.ctypes.data, 2))
    assert told.emulated_live() == live + 3
    assert stream.span_us(graph) == 2500
    assert told.emulated_live() == live + 3
    handle = stream.handle
    del graph, memory, part, stream
    assert told.emulated_live() == live
    assert device.stream().handle == handle
    assert told.emulated_streams() == streams + 2


def test_what_is_captured_is_done_at_each_replay_and_not_before(device: OnCpu) -> None:
    """With what lies there by then, and from any thread."""
    memory, host, stream = device.allocate(8), device.page_locked(16), device.stream()

    def work() -> None:
        stream.copy_in(memory.address, host.ctypes.data, 8)
        stream.copy_out(host.ctypes.data + 8, memory.address, 8)

    replay = stream.capture(work)
    host[:8] = 1
    assert not (host[8:] == 1).any()
    replay()
    assert (host[8:] == 1).all()
    host[:8] = 2
    thread = threading.Thread(target=replay)
    thread.start()
    thread.join()
    assert (host[8:] == 2).all()
    assert replay.span_us(times=5) == 500


def test_a_capture_that_fails_leaves_the_stream_as_it_was(device: OnCpu, library: str) -> None:
    """It records no more, keeps nothing, and can be used."""
    stream, live = device.stream(), emulated(library).emulated_live()

    def fail() -> None:
        raise ValueError("no kernel")

    with pytest.raises(ValueError, match="no kernel"):
        stream.capture(fail)
    assert emulated(library).emulated_live() == live
    stream.wait()
    stream.capture(lambda: None)()


@pytest.mark.parametrize(
    "function",
    ["cudaStreamBeginCapture", "cudaMemcpyAsync", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags"],
)
def test_a_capture_that_another_thread_spoils_is_made_again(
    device: OnCpu, failing, library: str, function: str
) -> None:
    """Twice, for that may happen again; then it fails, and nothing of it stays."""
    memory, host, stream = device.allocate(8), device.page_locked(8), device.stream()
    work = functools.partial(stream.copy_in, memory.address, host.ctypes.data, 8)
    failing(function, 901, times=2)
    replay, live = stream.capture(work), emulated(library).emulated_live()
    replay()
    failing(function, 901, times=3)
    with pytest.raises(DeviceError, match=rf"{function}: other \(901\)"):
        stream.capture(work)
    assert emulated(library).emulated_live() == live
    stream.capture(work)()


def test_a_device_without_memory_has_not_failed(device: OnCpu, failing) -> None:
    """Whoever asks for more than there is hears what is there."""
    failing("cudaMalloc", 2)
    with pytest.raises(DeviceMemoryError, match="need 8 MiB of device memory; 8,192 is free on the device"):
        device.allocate(8 * 2**20)


@pytest.mark.parametrize(("code", "lasting"), [(1, False), (2, False), (901, False), (700, True), (719, True)])
def test_an_error_says_whether_the_device_goes_on(device: OnCpu, failing, code: int, lasting: bool) -> None:
    """After an error in a kernel every call fails."""
    failing("cudaMemsetAsync", code)
    with pytest.raises(DeviceError) as caught:
        device.allocate(8)
    assert caught.value.lasting == lasting


def test_what_failed_leaves_no_error_behind(device: OnCpu, failing, library: str) -> None:
    """The runtime keeps one for each thread, and ONNX Runtime takes it for that of the next kernel that it starts."""
    last = emulated(library).cudaGetLastError

    def fail() -> None:
        raise ValueError("no kernel")

    failing("cudaMemsetAsync", 1, times=1)
    with pytest.raises(DeviceError):
        device.allocate(8)
    assert last() == 0
    failing("cudaMalloc", 2, times=1)
    with pytest.raises(DeviceMemoryError):
        device.allocate(8)
    assert last() == 0
    failing("cudaStreamEndCapture", 901)
    with pytest.raises(ValueError, match="no kernel"):
        device.stream().capture(fail)
    assert last() == 0
    memory = device.allocate(8)
    failing("cudaFree", 1, times=1)
    del memory
    assert last() == 0


@pytest.mark.parametrize("function", ["cudaGraphLaunch", "cudaStreamSynchronize"])
def test_a_replay_that_fails_says_why(device: OnCpu, failing, function: str) -> None:
    """In the runtime's own words."""
    stream = device.stream()
    replay = stream.capture(lambda: None)
    failing(function)
    with pytest.raises(DeviceError, match=r"the GPU failed: .*an illegal memory access was encountered \(700\)"):
        replay()


def test_a_gpu_that_cannot_be_opened_is_no_gpu(library: str, failing, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that is too old, say; and a library that is not there."""
    monkeypatch.setattr("scoring.cudart._library_of_onnxruntime", lambda: library)
    assert open_gpu(memory_mb=10).budget.num_bytes == 10 * 2**20
    assert open_gpu().budget.num_bytes == int(0.9 * 2**33)
    failing("cudaStreamCreateWithFlags")
    with pytest.raises(DeviceError, match="CUDA does not run here: the GPU failed: cudaStreamCreateWithFlags"):
        open_gpu()
    monkeypatch.setattr("scoring.cudart._library_of_onnxruntime", lambda: "libcudart.so.0")
    with pytest.raises(DeviceError, match=r"CUDA does not run here: libcudart\.so\.0: .*qin-ranker\[cuda\]"):
        open_gpu()


def test_a_scorer_runs_in_this_memory(library: str, tmp_path: Path) -> None:
    """Scores are those of the CPU, and all memory comes back; a capture without the session's run is refused."""
    told, bundle = emulated(library), read_bundle(make_bundle(tmp_path))
    live = told.emulated_live()
    device = OnCpu(CudaRuntime(library))
    reference, budget = Scorer(bundle, "cpu", 1), MemoryBudget(2**30, device.free_bytes)
    scorers = [Scorer(bundle, num_threads=1, gpu=Gpu(device, budget, SMALL, graphs)) for graphs in (False, True)]
    items, generator = make_items(), np.random.default_rng(1)
    tables = [scorer.new_tables(201) for scorer in (*scorers, reference)]
    encoded, _ = reference.encode(items.item_id, items.tags, items.embedding)
    for each in tables:
        each.write(np.arange(1, 201), encoded)
    rows = (
        generator.integers(0, 201, (3, 20)),
        generator.integers(0, 201, (3, 8)),
        generator.integers(0, 11, (3, 20, 2)),
    )
    scorers[0].warm_up(tables[0])
    np.testing.assert_allclose(scorers[0].score(tables[0], *rows), reference.score(tables[2], *rows), atol=1e-6)
    with pytest.raises(GraphError, match="gives other scores than a run"):
        scorers[1].warm_up(tables[1])
    del scorers, tables, each
    gc.collect()
    assert told.emulated_live() == live
    assert budget.reserved_bytes == 0


@pytest.fixture
def scorer(device: OnCpu, tmp_path: Path) -> Scorer:
    """A version that is being loaded, on the device."""
    gpu = Gpu(device, MemoryBudget(2**30, device.free_bytes), SMALL)
    return Scorer(read_bundle(make_bundle(tmp_path)), num_threads=1, gpu=gpu)


def test_a_version_whose_runs_fail_is_refused_and_the_device_is_not(scorer: Scorer, failing) -> None:
    """Before its tables are ready, and where the device goes on; one that cannot be captured too."""
    tables = scorer.golden_tables()
    failing("cudaStreamSynchronize", 1, times=1)
    with pytest.raises(GraphError, match=r"candidates fail: the GPU failed: cudaStreamSynchronize: other \(1\)"):
        scorer.verify(tables)
    for function in ("cudaStreamBeginCapture", "cudaStreamEndCapture"):
        failing(function, 901, times=3)
        with pytest.raises(GraphError, match=rf"candidates fail: the GPU failed: {function}: other \(901\)"):
            scorer.warm_up(tables)
    assert scorer.failure is None
    scorer.verify(tables)


@pytest.mark.parametrize(("code", "times"), [(700, 1), (719, 1), (1, -1)])
def test_a_device_that_fails_while_a_version_is_loaded_has_failed(
    scorer: Scorer, failing, code: int, times: int
) -> None:
    """By its own word, or where nothing can be waited for any more."""
    tables = scorer.golden_tables()
    failing("cudaStreamSynchronize", code, times)
    with pytest.raises(DeviceError, match="the GPU failed: cudaStreamSynchronize"):
        scorer.verify(tables)
    assert scorer.failure is not None
