"""A bundle on a device: items to table rows, and rows to scores.

Shapes: U users, N candidates of each, H history length, n items, T tag slots, F embedding width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contract.bundle import EXPLAIN, ITEM_ENCODER, RANKER, Bundle
from contract.ids import IdIndex
from contract.schema import Schema
from scoring.device import BODY, Device, open_fused, open_session, runs_on_cuda, why_unfused
from scoring.device_runner import DeviceRunner
from scoring.device_tables import DeviceTables
from scoring.errors import GraphError, KernelError, ParityError
from scoring.gpu import Gpu, GpuShare, shared_gpu
from scoring.memory import Zeros, empty_together, private_zeros
from scoring.runner import Runner, SessionRunner, run_into
from scoring.tables import Tables

_ENCODE_AT_ONCE = 1024

Encoded = Mapping[str, NDArray[Any]]


class Scorer:
    """Scores candidates with the graphs of one bundle; safe to call from several threads.

    Parameters
    ----------
    bundle
        A verified bundle.
    device
        Where the ranker runs. The item encoder runs once per item, on one CPU thread.
    num_threads
        Threads of one ranking; 0 takes one per physical core.
    require_kernels
        Refuse to run the ranker's fused operations by their bodies.
    encodes
        Open the item encoder; until it is, only `score`, `explain` and `verify` with given tables work.
    zeros
        Allocates the memory of tables, unless they lie on a GPU.
    gpu
        The GPU to run on, whatever `device` says; None: where `device` means one, that which all such scorers share.

    Raises
    ------
    DeviceError
        The device is not the one that runs.
    DeviceMemoryError
        The GPU has not enough memory left.
    KernelError
        Kernels are required, and an operation of the ranker would run without.
    GraphError
        A graph does not load or has other inputs than the manifest states.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device = "cpu",
        num_threads: int = 0,
        *,
        require_kernels: bool = False,
        encodes: bool = True,
        zeros: Zeros = private_zeros,
        gpu: Gpu | None = None,
    ) -> None:
        self.bundle, self.zeros = bundle, zeros
        self.features: Schema = bundle.manifest.features
        self._num_threads = num_threads
        if gpu is None and runs_on_cuda(device):
            gpu = shared_gpu()
        self._share = None if gpu is None else GpuShare(gpu, bundle.manifest.tables, self.features.history_length)
        self._ranker, self._kernels = self._open_ranker()
        if require_kernels and (not self._kernels or BODY in self._kernels.values()):
            unfused = [op for op, runs_by in self._kernels.items() if runs_by == BODY]
            raise KernelError(unfused, why_unfused(self.provider))
        self._encoder: ort.InferenceSession | None = None
        self._explainer: Runner | None = None
        self._vocabulary = IdIndex(bundle.vocabulary[1:], np.arange(1, len(bundle.vocabulary)))
        self._check_interface()
        if encodes:
            self.open_encoder()

    @property
    def num_threads(self) -> int:
        """Threads of one ranking; with 1 it runs in the thread that asks for it. 0: one per physical core."""
        return self._num_threads

    @property
    def provider(self) -> str:
        """The ONNX Runtime provider that runs the ranker."""
        return str(self._ranker.session.get_providers()[0])

    @property
    def kernels(self) -> Mapping[str, str]:
        """What each fused operation of the ranker runs by: its kernel's instruction set, or `scoring.device.BODY`."""
        return self._kernels

    @property
    def failure(self) -> str | None:
        """Why the device will never score again in this process, or None."""
        return self._ranker.failure

    def open_encoder(self) -> None:
        """Open the item encoder, whose runs take one thread; raises GraphError."""
        self._encoder = open_session(self.bundle.graph(ITEM_ENCODER), "cpu", 1, keeps_memory=False)

    def new_tables(self, capacity: int) -> Tables:
        """Return empty tables for `capacity` rows, row 0 included; raises DeviceMemoryError on a GPU that is full."""
        if self._share is not None:
            return self._share.new_tables(capacity)
        return Tables(self.bundle.manifest.tables, capacity, self.zeros)

    def grown(self, tables: Tables, capacity: int) -> Tables:
        """Return larger tables with the same rows, as ready to score with as these, which stay as they are."""
        larger = tables.grown(capacity)
        if isinstance(tables, DeviceTables) and tables.is_ready:
            self.warm_up(larger)
        return larger

    def encode(
        self,
        item_ids: NDArray[np.int64],
        tags: NDArray[np.integer],
        embedding: NDArray[np.float32],
        into: Encoded | None = None,
    ) -> tuple[Encoded, int]:
        """Return each item's row in every table, and how many tags the vocabulary does not hold.

        Parameters
        ----------
        item_ids
            (n,) ids; one that was not in training is cold and ranked by its tags and embedding.
        tags
            (n, T), 0 is no tag; unknown tags are dropped.
        embedding
            (n, F).
        into
            What to write to and return, (n, width) of each table; None: new arrays.
        """
        assert self._encoder is not None
        rows = self._vocabulary.rows(item_ids)
        unknown = (tags < 0) | (tags >= self.features.num_tags)
        known_tags = np.where(unknown, 0, tags).astype(np.int64)
        embedding = np.ascontiguousarray(embedding, dtype=np.float32)
        encoded = self._empty(len(rows)) if into is None else into
        for start in range(0, len(rows), _ENCODE_AT_ONCE):
            some = slice(start, start + _ENCODE_AT_ONCE)
            inputs: Encoded = {"vocabulary_row": rows[some], "tags": known_tags[some], "embedding": embedding[some]}
            run_into(self._encoder, inputs, {name: values[some] for name, values in encoded.items()})
        return encoded, int(unknown.sum())

    def score(
        self,
        tables: Tables,
        candidate_rows: NDArray[np.int64],
        history_rows: NDArray[np.int64],
        levels: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return (U, N) click probabilities.

        Parameters
        ----------
        tables
            Tables of this scorer.
        candidate_rows
            (U, N) table rows; row 0 pads and stands for unknown items.
        history_rows
            (U, H) table rows; row 0 contributes nothing.
        levels
            (U, N, 2) likes and views level of each candidate.
        """
        return self._ranker.run(tables, candidate_rows, history_rows, levels)

    def explain(
        self,
        tables: Tables,
        candidate_rows: NDArray[np.int64],
        history_rows: NDArray[np.int64],
        levels: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return (U, N, H) how much each history item counts for each candidate; see `score` for the inputs."""
        if self._explainer is None:
            self._explainer = self._open_explainer()
        return self._explainer.run(tables, candidate_rows, history_rows, levels)

    def golden_tables(self) -> Tables:
        """Return tables that hold the golden items, golden item g in row g + 1."""
        golden = self.bundle.golden
        tables = self.new_tables(len(golden.item_id) + 1)
        encoded, _ = self.encode(golden.item_id, golden.tags, golden.embedding)
        tables.write(np.arange(1, len(golden.item_id) + 1), encoded)
        return tables

    def verify(self, tables: Tables | None = None) -> None:
        """Run the golden rows and compare with what the trained model gave.

        Parameters
        ----------
        tables
            The golden items as another process encoded them; None: encode them here.

        Raises
        ------
        ParityError
            An output is off; the error says which one, by how much and where.
        GraphError, DeviceError
            On a GPU a run fails, by itself or with the device.
        """
        golden, tolerance = self.bundle.golden, self.bundle.manifest.tolerance
        inputs = (tables or self.golden_tables(), golden.candidate_rows, golden.history_rows, golden.levels)
        _compare("scores", self.score(*inputs), golden.scores, tolerance.scores)
        if EXPLAIN in self.bundle.manifest.files:
            largest = max(float(np.abs(golden.weights).max(initial=0)), 1e-30)
            _compare("weights", self.explain(*inputs), golden.weights, tolerance.weights * largest)

    def warm_up(self, tables: Tables, num_candidates: Sequence[int] = (1, 10, 100)) -> None:
        """Rank nothing at the usual sizes, so that the first real request finds memory and threads ready.

        On a GPU, make every bucket ready for these tables.
        """
        if isinstance(self._ranker, DeviceRunner):
            assert isinstance(tables, DeviceTables)
            self._ranker.make_ready(tables)
            return
        history = np.zeros((1, self.features.history_length), dtype=np.int64)
        for count in num_candidates:
            self.score(tables, np.zeros((1, count), np.int64), history, np.zeros((1, count, 2), np.int64))

    def _empty(self, count: int) -> Encoded:
        specs = self.bundle.manifest.tables
        arrays = empty_together([((count, spec.width), spec.dtype) for spec in specs])
        return {spec.name: values for spec, values in zip(specs, arrays, strict=True)}

    def _open_ranker(self) -> tuple[Runner, Mapping[str, str]]:
        graph, ops = self.bundle.graph(RANKER), self.bundle.manifest.qin_ops
        if self._share is not None:
            return self._share.open_ranker(graph, ops, self._num_threads)
        session, kernels = open_fused(graph, ops, "cpu", self._num_threads)
        return SessionRunner(session, "scores"), kernels

    def _open_explainer(self) -> Runner:
        graph = self.bundle.graph(EXPLAIN)
        if self._share is not None:
            return self._share.open_explainer(graph, "weights", self._num_threads)
        return SessionRunner(open_session(graph, "cpu", self._num_threads), "weights")

    def _check_interface(self) -> None:
        wanted = {spec.name for spec in self.bundle.manifest.tables} | {"candidate_rows", "history_rows", "levels"}
        has = {node.name for node in self._ranker.session.get_inputs()}
        if has != wanted:
            raise GraphError(f"{RANKER} takes {sorted(has)}, but the manifest's tables need {sorted(wanted)}")


def _compare(output: str, got: NDArray[np.float32], golden: NDArray[np.float64], tolerance: float) -> None:
    error = np.abs(got - golden)
    error[~np.isfinite(error)] = np.inf
    worst = np.unravel_index(int(error.argmax()), error.shape)
    if error[worst] > tolerance:
        raise ParityError(output, float(error[worst]), tolerance, tuple(int(axis) for axis in worst))
