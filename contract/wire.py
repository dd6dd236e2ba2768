"""Requests and responses of the HTTP interface, as msgspec decodes and describes them."""

from typing import Annotated

import msgspec

Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Level = Annotated[int, msgspec.Meta(ge=0, le=10)]
Tag = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class RankRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One user's candidates; scores come back in their order, or the best `top_k` first."""

    user_id: Id
    candidates: Annotated[list[Id], msgspec.Meta(min_length=1)]
    top_k: Annotated[int, msgspec.Meta(ge=1)] | None = None
    history: list[Id] | None = None
    likes_level: list[Level] | None = None
    views_level: list[Level] | None = None


class RankManyRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Several users' candidates, scored in one run."""

    requests: Annotated[list[RankRequest], msgspec.Meta(min_length=1)]


class ItemIds(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Events to append or a whole history: item ids, oldest first; 0 is padding and no item of a history."""

    item_ids: list[Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]]


class History(msgspec.Struct, frozen=True):
    """A stored history: item ids, oldest first; 0 where it was loaded with a hole."""

    item_ids: list[Id]


class Item(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An item of the catalogue."""

    embedding: list[float]
    item_id: Id | None = None
    tags: list[Tag] = []
    likes_level: Level = 0
    views_level: Level = 0


class Promotion(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The version to make active."""

    version: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Ranking(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to a RankRequest: scores in the candidates' order, or with `items` best first.

    `degraded` names what they lack: "history", "items" or "scores", which overflowed in the model and count as 0.
    """

    model: str
    version: str
    scores: list[float]
    unknown_items: list[int]
    degraded: list[str]
    items: list[int] | None = None


class Rankings(msgspec.Struct, frozen=True):
    """The answer to a RankManyRequest."""

    responses: list[Ranking]


class BulkError(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wrong with one line of items sent in bulk."""

    line: int
    detail: str
    field: str | None = None


class BulkResult(msgspec.Struct, frozen=True):
    """How many items were stored, and how many lines were wrong; the first of them are described."""

    written: int
    failed: int
    errors: list[BulkError]


class VersionInfo(msgspec.Struct, frozen=True):
    """A version in the store of the replica that answers."""

    version: str
    created: str
    auc: float | None
    log_loss: float | None
    precision: str


class ModelInfo(msgspec.Struct, frozen=True):
    """What one replica serves (`serving`), and what all were told to (`active`).

    `kernels` tells of each fused operation of the serving version which instruction set its kernel is made for, or
    "function body" where no kernel runs it.
    """

    name: str
    serving: str
    active: str | None
    previous: str | None
    provider: str
    kernels: dict[str, str]
    problem: str | None
    versions: list[VersionInfo]


class Models(msgspec.Struct, frozen=True):
    """The models of a service."""

    models: list[ModelInfo]


class Problem(msgspec.Struct, frozen=True):
    """An error (RFC 9457); `field` is the path of the value that is wrong."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None
