"""Requests and responses of the HTTP interface, as msgspec decodes and describes them."""

from typing import Annotated

import msgspec

Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Level = Annotated[int, msgspec.Meta(ge=0, le=10)]
Tag = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class RankRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One user's candidates; scores come back in their order, or the best `top_k` first.

    An answer that would come later than `deadline_ms` after the request is of no use to whoever asks; of several
    requests in one body the shortest counts. `explain` asks which items of the history count.
    """

    user_id: Id
    candidates: Annotated[list[Id], msgspec.Meta(min_length=1)]
    top_k: Annotated[int, msgspec.Meta(ge=1)] | None = None
    history: list[Id] | None = None
    likes_level: list[Level] | None = None
    views_level: list[Level] | None = None
    deadline_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None
    explain: bool = False


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
    """The version to make active or, with `canary` or `shadow`, to put on trial.

    `canary` is the share of users that it answers, the same ones for as long as the trial lasts; with `shadow` it
    answers nobody and is compared. `force` promotes whatever the gate says.
    """

    version: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    canary: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    shadow: bool = False
    force: bool = False


class Ranking(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to a RankRequest: scores in the candidates' order, or with `items` best first.

    `degraded` names what they lack: "history", "items" or "scores", which overflowed in the model and count as 0.
    `explanation` has, for each score, the items of the history that attention picked for it and their weights,
    heaviest first and of equal ones the newest first; an item that the history holds twice may come twice.
    """

    model: str
    version: str
    scores: list[float]
    unknown_items: list[int]
    degraded: list[str]
    items: list[int] | None = None
    explanation: list[list[tuple[int, float]]] | None = None


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


class TrialInfo(msgspec.Struct, frozen=True):
    """A version on trial: the share of users that it answers, or that it is compared in the shadow."""

    version: str
    canary: float | None
    shadow: bool


class ReplicaInfo(msgspec.Struct, frozen=True):
    """What a replica said of itself `age_s` seconds ago.

    `state` is "serving", "loading" while it makes another version ready, or "failed" where it cannot serve what is
    active or on trial; `problem` says why. `trial` is the version on trial if it takes part.
    """

    id: str
    started: str
    version: str
    trial: str | None
    state: str
    problem: str | None
    age_s: float = 0.0


class ModelInfo(msgspec.Struct, frozen=True):
    """What one replica serves (`serving`), what all were told to (`active`, `trial`), and what each says of itself.

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
    trial: TrialInfo | None = None
    replicas: list[ReplicaInfo] = []


class GateResult(msgspec.Struct, frozen=True):
    """What was found before a promotion.

    `psi` is the population stability index of `num_scores` scores of `num_requests` recent requests. `reasons` say
    why the version does not pass, `passed_over` what could not be looked at.
    """

    passed: bool
    forced: bool
    auc: float | None
    serving_auc: float | None
    psi: float | None
    num_requests: int
    num_scores: int
    reasons: list[str]
    passed_over: list[str]


class Models(msgspec.Struct, frozen=True, omit_defaults=True):
    """The models of a service; after a promotion also what the gate found, where it was asked."""

    models: list[ModelInfo]
    gate: GateResult | None = None


class ScoreSummary(msgspec.Struct, frozen=True):
    """Scores of one version: their mean, and quantiles by per cent."""

    mean: float
    quantiles: dict[str, float]


class ShadowReport(msgspec.Struct, frozen=True):
    """How the version on trial scored a copy of the traffic, over all processes of all replicas.

    A request is one user's candidates. `dropped` ones came while there was too much to do, `failed` ones could not be
    scored. Differences are absolute, of scores of the same candidate. `same_top_1` is the share of requests in which
    both versions put the same candidate first, `top_10_overlap` the mean share of the first ten that both have.
    `serving_ms` and `trial_ms` are the mean time to look up and score a request on one core at low priority,
    `num_timed` of how many requests that is.
    """

    requests: int
    candidates: int
    dropped: int
    failed: int
    mean_difference: float
    max_difference: float
    correlation: float | None
    same_top_1: float
    top_10_overlap: float
    serving: ScoreSummary
    trial: ScoreSummary
    serving_ms: float | None
    trial_ms: float | None
    num_timed: int


class TrialReport(msgspec.Struct, frozen=True):
    """The trial of a model, the replicas that may take part, and what the shadow saw so far."""

    model: str
    active: str
    trial: TrialInfo
    replicas: list[ReplicaInfo]
    shadow: ShadowReport | None = None


class Problem(msgspec.Struct, frozen=True):
    """An error (RFC 9457); `field` is the path of the value that is wrong."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None
