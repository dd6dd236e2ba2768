"""What a bundle says of itself: the manifest, validated on every read.

The manifest hashes every other file, and itself: `manifest_sha256` is over its own JSON without that field, by value
rather than by spelling. So nothing that counts can change unnoticed, a tolerance or an AUC included.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from contract.bundle_errors import BundleCorruptError
from contract.schema import Schema

FORMAT: Literal[1] = 1

Precision = Literal["float32", "bfloat16", "int8"]
"""What the matrices of the quadratic layers are stored in and multiplied as."""


MOST_BYTES = 2**20
"""Of a manifest; written ones have a few thousand."""
_SEAL = "manifest_sha256"


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


Quality = Annotated[float | None, AfterValidator(_finite)]
"""A figure that may be missing; one that is not finite is as good as missing."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableSpec(_Frozen):
    """One of the tables that the ranker gathers from: a row per item, `width` numbers each."""

    name: str
    width: int = Field(ge=1, le=2**20)
    dtype: Literal["float32", "int64"] = "float32"


class Provenance(_Frozen):
    """Where the weights come from and how good they were on validation rows."""

    recipe: str
    data_fingerprint: str | None = None
    auc: Quality = None
    log_loss: Quality = None


class Tolerance(_Frozen):
    """How far a run may be from the golden outputs: scores absolutely, weights relative to the largest."""

    scores: float = Field(gt=0, allow_inf_nan=False)
    weights: float = Field(gt=0, allow_inf_nan=False)


class Measured(_Frozen):
    """What a bundle was seen to do on validation rows and golden rows before it was published."""

    num_rows: int = Field(ge=1)
    """Validation rows."""
    auc: float = Field(ge=0, le=1)
    """Of the bundle on these rows."""
    auc_float32: float = Field(ge=0, le=1)
    """Of the same network on the same rows with float32 matrices; the same number where it has such."""
    max_score_error: float = Field(ge=0, allow_inf_nan=False)
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
    manifest_sha256: str | None = None
    """None in bundles from before manifests were hashed."""

    def to_bytes(self) -> bytes:
        """Return the manifest as it is written: as JSON, with its hash."""
        content = self.model_dump(mode="json", exclude={_SEAL})
        return json.dumps(content | {_SEAL: seal(content)}, indent=2).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "Manifest":
        """Read a manifest; raises BundleCorruptError where it is not one, or not the one that was written."""
        try:
            manifest = cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])[:200] or "top level"
            raise BundleCorruptError(f"{where} is not valid: {field}: {first['msg']}") from error
        if manifest.features.digest() != manifest.features_sha256:
            raise BundleCorruptError(f"{where}: the schema is not the one that was published")
        if manifest.manifest_sha256 is not None and manifest.manifest_sha256 != seal(json.loads(data)):
            raise BundleCorruptError(f"{where} is not the one that was published")
        return manifest


def seal(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest, read as JSON, without the hash that it may hold."""
    rest = {name: value for name, value in content.items() if name != _SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
