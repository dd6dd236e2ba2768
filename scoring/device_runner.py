"""Scoring on a device, in shapes that were made ready before: rows in, one launch, scores out.

Shapes: U users, N candidates of each, H history length.
"""

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from scoring.accelerator import Accelerator, Stream
from scoring.bucket_memory import BucketMemory, Layout
from scoring.buckets import Buckets, Shape
from scoring.budget import Reservation
from scoring.device_tables import DeviceTables, Run
from scoring.errors import DeviceError, GraphError
from scoring.runner import INPUTS
from scoring.tables import Tables
from scoring.turns import Turns

_MOST_DIFFERENCE = 1e-5
"""How far a replay may be from a run, as a score: the same kernels on the same rows."""


class DeviceRunner:
    """Runs a ranker on a device.

    Inputs of all buckets share one stretch of page-locked memory and one of the device's, scores another two. A run
    fills the first, and then everything is one launch: the copy in, the kernels, the copy out. So only one run is
    under way at a time, whatever thread it is of, in the order in which they were asked for.

    Once the device has failed, every later run fails too, without trying: an error in a kernel leaves the process's
    part of a GPU unusable, and scoring elsewhere instead would hide it. With tables that are not ready yet nobody is
    answered: a run of theirs that fails counts against the ranker, unless the device does nothing any more.

    Parameters
    ----------
    session
        Of the ranker, on `stream`.
    accelerator, stream
        The device, and the queue of this runner alone.
    history_length
        H.
    buckets
        The shapes.
    graphs
        Capture runs, so that each is one launch; otherwise the session enqueues its kernels every time.
    reservation
        The memory that all this takes.

    Attributes
    ----------
    failure
        Why nothing runs any more, or None.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        accelerator: Accelerator,
        stream: Stream,
        history_length: int,
        buckets: Buckets,
        graphs: bool,
        reservation: Reservation,
    ) -> None:
        self.session, self._reservation = session, reservation
        self.failure: str | None = None
        self._kind, self._stream, self._buckets, self._graphs = accelerator.kind, stream, buckets, graphs
        layouts = {shape: Layout(*shape, history_length) for shape in buckets.shapes}
        inputs = accelerator.page_locked(max(layout.num_bytes for layout in layouts.values()))
        scores = accelerator.page_locked(4 * max(layout.num_scores for layout in layouts.values()))
        self._device_inputs, self._device_scores = (accelerator.allocate(len(host)) for host in (inputs, scores))
        self._buffers = {shape: BucketMemory(layout, inputs, scores) for shape, layout in layouts.items()}
        self._options = _run_options()
        self._turn = Turns()

    def run(
        self,
        tables: Tables,
        candidate_rows: NDArray[np.int64],
        history_rows: NDArray[np.int64],
        levels: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return (U, N) scores; see `Runner`. What no bucket holds is scored in pieces.

        Raises
        ------
        GraphError
            The run failed, of tables that are not ready yet.
        DeviceError
            The device failed, now or before.
        """
        assert isinstance(tables, DeviceTables)
        num_users, num_candidates = candidate_rows.shape
        shape = self._buckets.smallest(num_users, num_candidates)
        if shape is not None:
            return self._run(tables, shape, candidate_rows, history_rows, levels)
        scores = np.empty((num_users, num_candidates), dtype=np.float32)
        for users, candidates in self._buckets.pieces(num_users, num_candidates):
            part = candidate_rows[users, candidates]
            shape = self._buckets.smallest(*part.shape)
            assert shape is not None
            scores[users, candidates] = self._run(tables, shape, part, history_rows[users], levels[users, candidates])
        return scores

    def make_ready(self, tables: DeviceTables) -> None:
        """Make every bucket ready for these tables, the largest first, and see that each computes what a run does.

        Others may score meanwhile, with other tables: each bucket takes its turn.

        Raises
        ------
        GraphError
            A run fails, cannot be captured, or what was captured does not compute what was run.
        DeviceError
            The device failed.
        """
        for shape in self._buckets.shapes:
            with self._turn:
                tables.runs[shape] = self._ready(tables, shape)
        tables.is_ready = True

    def _run(
        self,
        tables: DeviceTables,
        shape: Shape,
        candidate_rows: NDArray[np.int64],
        history_rows: NDArray[np.int64],
        levels: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        buffers = self._buffers[shape]
        with self._turn:
            if self.failure is not None:
                raise DeviceError(self.failure)
            buffers.fill(candidate_rows, history_rows, levels)
            try:
                run = tables.runs.get(shape)
                if run is None:
                    run = tables.runs[shape] = self._waiting(self._work(tables, buffers))
                run()
            except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
                raise (self._failed(error) if tables.is_ready else self._refused(error, shape)) from error
            return buffers.read(*candidate_rows.shape)

    def _ready(self, tables: DeviceTables, shape: Shape) -> Run:
        buffers = self._buffers[shape]
        work = self._work(tables, buffers)
        plain = self._waiting(work)
        try:
            buffers.draw(1, tables.capacity)
            plain()
            expected = buffers.read(*shape)
            buffers.draw(2, tables.capacity)
            plain()  # by now whatever a run allocates is there, and the device holds other rows than are captured
            return self._captured(work, buffers, tables.capacity, expected) if self._graphs else plain
        except GraphError:
            raise
        except Exception as error:  # as above
            raise self._refused(error, shape) from error

    def _captured(
        self, work: Callable[[], None], buffers: BucketMemory, num_rows: int, expected: NDArray[np.float32]
    ) -> Run:
        replay = self._stream.capture(work)
        buffers.draw(1, num_rows)
        buffers.scores[:] = np.nan
        replay()
        if not np.allclose(buffers.scores, expected, rtol=0, atol=_MOST_DIFFERENCE, equal_nan=True):
            raise GraphError(f"a captured run of {expected.shape} candidates gives other scores than a run")
        return replay

    def _work(self, tables: DeviceTables, buffers: BucketMemory) -> Callable[[], None]:
        """Return what enqueues a run. It holds addresses alone: neither the tables nor this runner."""
        session, stream, options, layout = self.session, self._stream, self._options, buffers.layout
        inputs, scores = self._device_inputs, self._device_scores
        binding = session.io_binding()
        tables.bind(binding)
        for name, offset, shape in zip(INPUTS, layout.offsets, layout.shapes, strict=True):
            binding.bind_input(name, self._kind, 0, np.int64, shape, inputs.address + offset)
        binding.bind_output("scores", self._kind, 0, np.float32, [layout.users, layout.candidates], scores.address)

        def work() -> None:
            stream.copy_in(inputs.address, buffers.inputs_address, layout.num_bytes)
            session.run_with_iobinding(binding, options)
            stream.copy_out(buffers.scores_address, scores.address, 4 * layout.num_scores)

        return work

    def _waiting(self, work: Callable[[], None]) -> Run:
        stream = self._stream

        def run() -> None:
            work()
            stream.wait()

        return run

    def _refused(self, error: Exception, shape: Shape) -> GraphError | DeviceError:
        """Return whose fault an error is: the ranker's, or the device's where that does nothing any more."""
        if isinstance(error, DeviceError) and error.lasting:
            return self._failed(error)
        try:
            self._stream.wait()
        except Exception:
            return self._failed(error)
        return GraphError(f"runs of {shape[0]} x {shape[1]} candidates fail: {error}")

    def _failed(self, error: Exception) -> DeviceError:
        self.failure = str(error) if isinstance(error, DeviceError) else f"the GPU failed: {error}"
        return DeviceError(self.failure)


def _run_options() -> ort.RunOptions:
    """Return options for runs that wait for nothing: whoever enqueued them does."""
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", "-1")  # captured here, if at all, and not by ONNX Runtime
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options
