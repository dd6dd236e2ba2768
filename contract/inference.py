"""Requests and responses of the Open Inference Protocol (V2), with Triton's extensions for binary tensors and models.

Fields that this service makes no use of, such as `sequence_id`, are left out here and ignored where they are sent.
"""

from typing import Annotated, Literal

import msgspec

Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Dimension = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
PaddedId = Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]
"""An id, or -1: padding at the end of a row."""

PADDING = -1


class InputParameters(msgspec.Struct, frozen=True):
    """How an input is sent: within the JSON object, or as so many bytes after it."""

    binary_data_size: Size | None = None
    shared_memory_region: str | None = None


class InputTensor(msgspec.Struct, frozen=True):
    """An input; `data` is row by row, flat or nested, and absent where the input is binary."""

    name: str
    datatype: str
    shape: Annotated[list[Dimension], msgspec.Meta(min_length=1, max_length=2)]
    parameters: InputParameters | None = None
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class OutputParameters(msgspec.Struct, frozen=True):
    """How an output is wanted."""

    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


class RequestedOutput(msgspec.Struct, frozen=True):
    """An output that is wanted."""

    name: str
    parameters: OutputParameters | None = None


class InferParameters(msgspec.Struct, frozen=True):
    """What is wanted of the whole request: `timeout` is in microseconds, 0 is none."""

    deadline_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None
    timeout: Size | None = None
    binary_data_output: bool | None = None


class InferRequest(msgspec.Struct, frozen=True):
    """One inference; without `outputs` all are wanted."""

    inputs: Annotated[list[InputTensor], msgspec.Meta(min_length=1, max_length=16)]
    id: str | None = None
    outputs: Annotated[list[RequestedOutput], msgspec.Meta(max_length=16)] | None = None
    parameters: InferParameters | None = None


class ResponseParameters(msgspec.Struct, frozen=True, omit_defaults=True):
    """`degraded` names, separated by commas, what the scores of some user lack: "history", "items" or "scores"."""

    degraded: str | None = None


class BinarySize(msgspec.Struct, frozen=True):
    """How many bytes of the part after the JSON object are this output's."""

    binary_data_size: Size


class OutputTensor(msgspec.Struct, frozen=True, omit_defaults=True):
    """An output; `data` is flat, and absent where the output is binary."""

    name: str
    datatype: str
    shape: list[Size]
    parameters: BinarySize | None = None
    data: list[float | bool | str] | None = None


class InferResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer; `model_version` is absent where several versions took part, see the output VERSION."""

    model_name: str
    outputs: list[OutputTensor]
    model_version: str | None = None
    id: str | None = None
    parameters: ResponseParameters | None = None


class InferError(msgspec.Struct, frozen=True):
    """Any error of this protocol."""

    error: str


class Live(msgspec.Struct, frozen=True):
    """Whether the process answers."""

    live: bool


class Ready(msgspec.Struct, frozen=True):
    """Whether requests should be sent here."""

    ready: bool


class ModelReady(msgspec.Struct, frozen=True):
    """Whether a model, or one version of it, can rank."""

    name: str
    ready: bool


class ServerMetadata(msgspec.Struct, frozen=True):
    """What answers, and which extensions of the protocol it knows."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(msgspec.Struct, frozen=True):
    """A tensor of a model; -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct, frozen=True):
    """A model; `versions` are those that can be asked for by name."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class IndexRequest(msgspec.Struct, frozen=True):
    """What is wanted of the repository: all versions, or those that can rank."""

    ready: bool | None = None


class IndexEntry(msgspec.Struct, frozen=True):
    """A version in the repository, and why it is in its state."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class RepositoryParameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which version is meant: named here, or by a Triton `config` with a version policy of one specific version."""

    version: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    config: str | None = None
    unload_dependents: bool | None = None


class RepositoryRequest(msgspec.Struct, frozen=True):
    """A model to load or to unload."""

    parameters: RepositoryParameters | None = None


class SpecificVersions(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The one version that is meant; Triton's are numbers."""

    versions: Annotated[list[str | int], msgspec.Meta(min_length=1, max_length=1)]


class VersionPolicy(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which versions to load."""

    specific: SpecificVersions


class TritonConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """As much of a model configuration of Triton as can be followed here."""

    version_policy: VersionPolicy
    name: str | None = None


class DurationStatistic(msgspec.Struct, frozen=True):
    """How often something happened and how long it took altogether."""

    count: Size
    ns: Size


class InferStatistics(msgspec.Struct, frozen=True):
    """Where the time of requests went."""

    success: DurationStatistic
    fail: DurationStatistic
    queue: DurationStatistic
    compute_input: DurationStatistic
    compute_infer: DurationStatistic
    compute_output: DurationStatistic
    cache_hit: DurationStatistic
    cache_miss: DurationStatistic


class ModelStatistics(msgspec.Struct, frozen=True):
    """What one version has done since the process that answers started; times in milliseconds since 1970."""

    name: str
    version: str
    last_inference: Size
    inference_count: Size
    execution_count: Size
    inference_stats: InferStatistics
    batch_stats: list[InferStatistics]


class Statistics(msgspec.Struct, frozen=True):
    """What the versions of a model have done."""

    model_stats: list[ModelStatistics]
