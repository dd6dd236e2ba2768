"""What a bundle says of itself: the manifest, validated on every read."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from contract.schema import Schema

FORMAT: Literal[1] = 1

Precision = Literal["float32", "bfloat16", "int8"]
"""What the matrices of the quadratic layers are stored in and multiplied as."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableSpec(_Frozen):
    """One of the tables that the ranker gathers from: a row per item, `width` numbers each."""

    name: str
    width: int = Field(ge=1)
    dtype: Literal["float32", "int64"] = "float32"


class Provenance(_Frozen):
    """Where the weights come from and how good they were on validation rows."""

    recipe: str
    data_fingerprint: str | None = None
    auc: float | None = None
    log_loss: float | None = None


class Tolerance(_Frozen):
    """How far a run may be from the golden outputs: scores absolutely, weights relative to the largest."""

    scores: float = Field(gt=0)
    weights: float = Field(gt=0)


class Measured(_Frozen):
    """What a bundle was seen to do on validation rows and golden rows before it was published."""

    num_rows: int = Field(ge=1)
    """Validation rows."""
    auc: float = Field(ge=0, le=1)
    """Of the bundle on these rows."""
    auc_float32: float = Field(ge=0, le=1)
    """Of the same network on the same rows with float32 matrices; the same number where it has such."""
    max_score_error: float = Field(ge=0)
    """The largest distance of a golden row's score from the one that the trained model gave it in float64."""


class Manifest(_Frozen):
    """What a bundle is; validated on every read."""

    format: Literal[1] = FORMAT
    model: str
    version: str
    created: datetime
    features: Schema
    features_sha256: str
    files: dict[str, str]
    tables: tuple[TableSpec, ...]
    folded: bool
    opset: int
    qin_ops: dict[str, int]
    precision: Precision = "float32"
    provenance: Provenance
    tolerance: Tolerance
    measured: Measured | None = None
